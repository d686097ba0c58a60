"""What photos' headers said before, so that a folder is hashed once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from ip2pbatch.disk.remembered import Remembered
from ip2pbatch.plan.photo_digests import DIGEST_VERSION, Look


class Memory:
    """What `look` found before, by path, size and modification time; in this user's cache or in the file `path`."""

    def __init__(self, path: Path | None = None) -> None:
        self._kept = Remembered(f"photos {DIGEST_VERSION}", path)

    def recall(self, files: Iterable[tuple[str, int, int]]) -> dict[str, Look]:
        """The Looks of those of `files` (path, bytes, mtime in ns) that have not changed since, by path."""
        stamps = {path: [size, changed] for path, size, changed in files}
        known = self._kept.recall(stamps)
        return {
            path: Look(row[2], (row[3], row[4])) for path, row in known.items()
            if isinstance(row, list) and len(row) == 5 and row[:2] == stamps[path]
        }  # fmt: skip

    def keep(self, looks: Mapping[tuple[str, int, int], Look]) -> None:
        """Remember `looks`, keyed as in `recall`."""
        self._kept.keep({path: [*stamp, found.digest, *found.size] for (path, *stamp), found in looks.items()})
