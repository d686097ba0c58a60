"""Guards the photos of every run that a test makes: the same bytes after it, however it ended."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ip2pbatch.disk.digests import file_digest
from ip2pbatch.plan.folder_walk import SUFFIXES


@contextmanager
def untouched(photos: Iterable[Path]) -> Iterator[None]:
    """Fails where one of `photos` is gone afterwards or has other bytes; not in a folder that runs deliver to."""
    before = {path: file_digest(path) for path in photos}
    yield
    changed = [path for path, digest in before.items() if file_digest(path) != digest]
    changed = [path for path in changed if not any(map(_is_output, path.parents))]
    assert not changed, f"originals were touched: {', '.join(map(str, changed))}"


def photos_below(folder: Path) -> list[Path]:
    """Every file that is named as a photo is, links left out."""
    files = (path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    return [path for path in files if path.is_file() and not path.is_symlink()]


def _is_output(folder: Path) -> bool:
    joined = folder.name == "sheets" and any(folder.parent.glob("*/.ip2pbatch*"))  # those of a comparison's runs
    return joined or any(folder.glob(".ip2pbatch*"))
