"""What photos' headers said before, so that a folder is hashed once."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from ip2pbatch.disk.remembered import Remembered
from ip2pbatch.plan.photo_digests import DIGEST_VERSION, Look

Stamp = tuple[str, int, int, int]
"""A file's path, its bytes, and when it was written and when it was last touched in any way, in ns."""


def stamp(status: os.stat_result) -> tuple[int, int, int]:
    """What moves when a file changes. Its last time is the system's own, which no program sets back as it may mtime."""
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


class Memory:
    """What `look` found before, by path and stamp; in this user's cache or in the file `path`."""

    def __init__(self, path: Path | None = None) -> None:
        self._kept = Remembered(f"photos {DIGEST_VERSION}, by all times", path)

    def recall(self, files: Iterable[Stamp]) -> dict[str, Look]:
        """The Looks of those of `files` that have not changed since, by path."""
        stamps = {path: [*stamp] for path, *stamp in files}
        known = self._kept.recall(stamps)
        return {
            path: Look(row[3], (row[4], row[5])) for path, row in known.items()
            if isinstance(row, list) and len(row) == 6 and row[:3] == stamps[path]
        }  # fmt: skip

    def keep(self, looks: Mapping[Stamp, Look]) -> None:
        """Remember `looks`, keyed as in `recall`."""
        self._kept.keep({path: [*stamp, found.digest, *found.size] for (path, *stamp), found in looks.items()})

    def forget(self, path: str) -> None:
        """Look at this file again: what was remembered of it turned out to be wrong."""
        self._kept.keep({path: None})
