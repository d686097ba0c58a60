"""How delivered files stand, by their size and time: gone, changed, touched, or showing an earlier picture."""

from __future__ import annotations

from enum import Enum
from pathlib import Path

from ip2pbatch.run.directory.lines import Delivery

_COARSE = 2.0  # seconds: FAT's clock


class Look(Enum):
    """What size and time of a delivered file say. TOUCHED has its size and another time, as after a copy."""

    SAME = "same"
    TOUCHED = "touched"
    CHANGED = "changed"
    GONE = "gone"


def look_at(root: Path, file: Delivery) -> Look:
    """The file as it is now, beside what was noted of it; one of which nothing was noted is the same if it is there."""
    try:
        found = (root / file.path).stat()
    except OSError:
        return Look.GONE
    if file.bytes and found.st_size != file.bytes:
        return Look.CHANGED
    return Look.TOUCHED if file.time and abs(found.st_mtime - file.time) > _COARSE else Look.SAME
