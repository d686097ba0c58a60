"""Every byte of a run, read and held to what was recorded of it. Nothing is written, and no model is asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from ip2pbatch.disk.buckets.locations import is_object
from ip2pbatch.errors import DamagedError
from ip2pbatch.run.directory.gaps import gaps
from ip2pbatch.run.directory.kept import Kept, digest_of
from ip2pbatch.run.directory.lines import Delivery, Record
from ip2pbatch.run.directory.standing_files import Look, digest_now, look_at
from ip2pbatch.run.directory.superseded import places
from ip2pbatch.run.directory.view import RunView

Kind = Literal["picture", "latent", "source", "mask", "file", "line", "journal"]


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that is not as it was written: `path` below the output folder, why in a plain phrase, and the key of
    the Edit that it belongs to, "" where it is no one's.
    """

    kind: Kind
    path: str
    why: str
    edit: str = ""


@dataclass(frozen=True, slots=True)
class Seen:
    """What came of reading one file: a Fault, or a digest that was recorded nowhere, or that somebody `changed` a
    delivered file; `bytes` were read, none of what was only `listed` in a bucket, with the version that was put.
    """

    path: str
    kind: Kind
    edit: str = ""
    bytes: int = 0
    fault: Fault | None = None
    digest: str = ""
    changed: bool = False
    listed: bool = False


Reading = Callable[[], Seen]
"""Reads one file."""


def readings(view: RunView) -> list[Reading]:
    """What there is to read in a run: kept pictures, their latents, the sources, and delivered files."""
    found: list[Reading] = []
    for record in view.records.values():
        if record.status == "done":
            found.append(partial(_kept, view, "picture", view.layout.picture(record.edit), record.digest, record.edit))
            latent = view.layout.latent(record.edit)
            if record.latent or latent.is_file():
                found.append(partial(_kept, view, "latent", latent, record.latent, record.edit))
    found += [partial(_kept, view, "source", path, "", "") for path in sorted(view.layout.sources.glob("??/*.png"))]
    found += [partial(_kept, view, "mask", path, "", "") for path in sorted(view.layout.masks.glob("??/*.png"))]
    asked = [place for strip in view.strips for place in places(strip)]
    wanted = {view.deliveries[place].path for place in asked if place in view.deliveries}
    for file in view.deliveries.files():
        found.append(partial(_delivered, view, file, file.path in wanted))
    return found


def losses(view: RunView) -> Iterator[Fault]:
    """Pictures that were made and are gone or cut, lines of journals that cannot be read, lost journals."""
    for record in view.lost:
        yield _lost(view, record)
    for complaint in view.complaints:
        yield Fault("line", view.layout.folder.name, complaint)
    for name, why in gaps(view):
        yield Fault("journal", _below(view, view.layout.folder / name), why)


def _lost(view: RunView, record: Record) -> Fault:
    path = view.layout.picture(record.edit)
    try:
        why = f"the kept picture has {path.stat().st_size:,} bytes and was written with {record.bytes:,}"
    except OSError:
        why = "the kept picture is gone"
    return Fault("picture", _below(view, path), why, record.edit)


def _kept(
    view: RunView, kind: Literal["picture", "latent", "source", "mask"], path: Path, digest: str, edit: str
) -> Seen:
    name = _below(view, path)
    kept = Kept(path, digest, kind)
    try:
        data = kept.read()
        if kind == "latent" and not digest:
            kept.latent(data)
    except DamagedError as error:
        return Seen(name, kind, edit, fault=Fault(kind, name, str(error), edit))
    return Seen(name, kind, edit, len(data), digest="" if digest or kind in ("source", "mask") else digest_of(data))


def _delivered(view: RunView, file: Delivery, wanted: bool) -> Seen:
    """A file that nobody asks for any more, or not under this name, may be gone; one with another time is somebody's
    work.
    """
    look = look_at(view.files, file)
    size, sha256 = _bytes_of(view.files, file), digest_now(view.files, file)
    if sha256 is None:
        fault = Fault("file", file.path, "it is gone" if look is Look.GONE else "it cannot be read", file.edit)
        return Seen(file.path, "file", file.edit, fault=fault if wanted else None)
    if sha256 == file.sha256:
        listed = bool(file.etag) and look is Look.SAME
        return Seen(file.path, "file", file.edit, 0 if listed else size, listed=listed)
    if (file.time or file.etag) and look is not Look.SAME:
        return Seen(file.path, "file", file.edit, size, changed=True)
    why = "its bytes are not as they were delivered" + (", though its size and time are" if file.time else "")
    return Seen(file.path, "file", file.edit, size, Fault("file", file.path, why, file.edit))


def _bytes_of(files: Path, file: Delivery) -> int:
    """0 where it is gone: somebody may take a delivered file at any moment. In a bucket, as many as were put."""
    try:
        return file.bytes if is_object(files) else (files / file.path).stat().st_size
    except OSError:
        return 0


def _below(view: RunView, path: Path) -> str:
    return path.relative_to(view.root).as_posix()
