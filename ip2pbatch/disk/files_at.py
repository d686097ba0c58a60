"""Files below a folder of this machine, or objects below an address: by their names there, with forward slashes."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ip2pbatch.disk.atomic import Anchor, Beside, write_beside
from ip2pbatch.disk.buckets.locations import is_object
from ip2pbatch.disk.digests import file_digest

if TYPE_CHECKING:
    from ip2pbatch.disk.buckets.outgoing import Outgoing
    from ip2pbatch.disk.buckets.prefix import Prefix


def prefix_at(root: Path) -> Prefix:
    """What lies below an address, as this process knows it."""
    from ip2pbatch.disk.buckets.prefix import prefix_of  # brings a store along

    return prefix_of(root)


def look_again(root: Path) -> None:
    """Learn what is below an address now; of a folder that is asked of the disk each time. Raises UnreachableError."""
    if is_object(root):
        prefix_at(root).look()


def is_taken(root: Path, name: str) -> bool:
    """Whether anything has this name, were it a folder or a link that leads nowhere."""
    return bool(prefix_at(root).mark(name)) if is_object(root) else os.path.lexists(root / name)


def is_there(root: Path, name: str) -> bool:
    """Whether a file has this name."""
    if is_object(root):
        return bool(prefix_at(root).mark(name))
    return os.path.isfile(f"{root}/{name}")  # noqa: PTH113  a run asks it of every file, and a Path takes longer


def is_plain(root: Path, name: str) -> bool:
    """Whether it is a file, and no link to one."""
    return is_there(root, name) and (is_object(root) or not (root / name).is_symlink())


def digest_at(root: Path, name: str) -> str | None:
    """The sha256 of a file, None where there is none that can be read. An object is read unless it is known."""
    return prefix_at(root).digest(name) if is_object(root) else file_digest(root / name)


def waiting_at(
    root: Path, name: str, data: bytes, *, outgoing: Path | None, anchor: Anchor | None, modified: int | None = None
) -> Beside | Outgoing:
    """A file that is written whole and is to appear below `root`, reached from `anchor` where that is given; for an
    address it waits in the folder `outgoing`, which `anchor` is of then. Raises ResourceError.
    """
    if not is_object(root):
        return write_beside(root / name, data, root=anchor or root, modified=modified)
    from ip2pbatch.disk.buckets.outgoing import outgoing as going_out

    assert outgoing is not None, "whoever writes to a bucket has a folder here"
    return going_out(root, name, data, outgoing, anchor)


def remove_at(root: Path, name: str) -> bool:
    """Remove a file that was looked at just now; whether it is gone. Through no link, and in a bucket no other version
    than the one that was looked at.
    """
    if is_object(root):
        return prefix_at(root).remove(name)
    path = root / name
    if path.parent.resolve() != root.resolve() / Path(name).parent:
        return False
    with suppress(OSError):
        path.unlink()
        return True
    return False
