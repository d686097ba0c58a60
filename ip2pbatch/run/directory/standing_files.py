"""How delivered files stand, by their size and time, or by a bucket's version of them: gone, changed or touched."""

from __future__ import annotations

from enum import Enum
from pathlib import Path

from ip2pbatch.disk.buckets.locations import is_object
from ip2pbatch.disk.files_at import digest_at, prefix_at
from ip2pbatch.run.directory.lines import Delivery

_COARSE = 2.0  # seconds: FAT's clock


class Look(Enum):
    """What size and time of a delivered file say. TOUCHED has its size and another time or ETag, as after a copy."""

    SAME = "same"
    TOUCHED = "touched"
    CHANGED = "changed"
    GONE = "gone"


def look_at(root: Path, file: Delivery) -> Look:
    """The file as it is now, beside what was noted of it; one of which nothing was noted is the same if it is there."""
    if is_object(root):
        return _look_in_bucket(root, file)
    try:
        found = (root / file.path).stat()
    except OSError:
        return Look.GONE
    if file.bytes and found.st_size != file.bytes:
        return Look.CHANGED
    return Look.TOUCHED if file.time and abs(found.st_mtime - file.time) > _COARSE else Look.SAME


def _look_in_bucket(root: Path, file: Delivery) -> Look:
    """The same of an object: of its version is asked only where that is not the one that was put."""
    from ip2pbatch.disk.buckets.prefix import mark_of

    prefix = prefix_at(root)
    mark = prefix.mark(file.path)
    if mark == mark_of(file.etag, file.bytes):
        return Look.SAME
    found = prefix.version(file.path) if mark else None
    if found is None:
        return Look.GONE
    if file.bytes and found.size != file.bytes:
        return Look.CHANGED
    return (
        Look.TOUCHED if file.etag and mark_of(found.etag, found.size) != mark_of(file.etag, file.bytes) else Look.SAME
    )


def digest_now(root: Path, file: Delivery) -> str | None:
    """The sha256 of a delivered file as it is now, None where there is none that can be read. What a bucket has as the
    version that was put is not read.
    """
    if is_object(root) and file.etag and look_at(root, file) is Look.SAME:
        prefix_at(root).tell_digest(file.path, file.sha256)
        return file.sha256
    return digest_at(root, file.path)
