"""What photos' headers said before, so that a folder is hashed once; where machines share it, by one of them."""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from ip2pbatch.disk.remembered import Remembered
from ip2pbatch.disk.shared_findings import SharedFindings
from ip2pbatch.errors import ResourceError, UsageError
from ip2pbatch.plan.photo_digests import DIGEST_VERSION, Look
from ip2pbatch.plan.written.addresses import HINT, is_address

SHARED = "IP2PBATCH_SHARED_DIGESTS"
"""The environment variable with a folder in which machines let each other know what photos' headers said."""

_DIGEST = re.compile("[0-9a-f]{32}")
_AT_REST = 60  # seconds that a file was not touched before others hear of it

File = tuple[str, os.stat_result]
"""A file's path and its status."""


def stamp(status: os.stat_result) -> tuple[int, int, int]:
    """What moves when a file changes. Its last time is the system's own, which no program sets back as it may mtime."""
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


class Memory:
    """What `look` found before, by path and stamp; in this user's cache or in the file `path`.

    What is not known there is asked of a folder that is `shared` with other machines. There a file is known by its own
    name, its size, both times and its number on its disk (inode): all that is the same wherever one disk is mounted,
    and of no two files; a copy on another disk is read again. A disk whose clock ticks slowly shows two changes
    as one, so that others hear of a file only when it has been at rest by `clock`.
    """

    def __init__(
        self, path: Path | None = None, *, shared: Path | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        self._kept = Remembered(f"photos {DIGEST_VERSION}, by all times", path)
        self._shared = None if shared is None else SharedFindings(shared, "photo-digests")
        self._clock = clock
        self.trouble = ""  # why nothing could be let known

    @classmethod
    def of_this_user(cls) -> Memory:
        """With the shared folder that the environment names. Raises UsageError."""
        named = os.environ.get(SHARED, "")
        if is_address(named):
            raise UsageError(f"{SHARED}: {named} is an address and no path", hint=HINT)
        return cls(shared=Path(named).expanduser() if named else None)

    def recall(self, files: Iterable[File]) -> dict[str, Look]:
        """The Looks of those of `files` that have not changed since, by path."""
        statuses = dict(files)
        rows = self._kept.recall(statuses)
        known = {
            path: Look(row[3], (row[4], row[5])) for path, row in rows.items()
            if isinstance(row, list) and len(row) == 6 and tuple(row[:3]) == stamp(statuses[path])
        }  # fmt: skip
        if self._shared is None:
            return known
        # One that was forgotten has a row without anything: what others say of it is what turned out to be wrong.
        asked = {
            path: status for path, status in statuses.items()
            if path not in known and rows.get(path, 0) is not None and self._is_at_rest(status)
        }  # fmt: skip
        told = self._told(self._shared, asked)
        self._remember({(path, asked[path]): found for path, found in told.items()})
        return known | told

    def keep(self, looks: Mapping[File, Look]) -> None:
        """Remember `looks`, keyed as in `recall`."""
        self._remember(looks)
        if self._shared is None:
            return
        rows = {
            everywhere(path, status): [found.digest, *found.size] for (path, status), found in looks.items()
            if self._is_at_rest(status)
        }  # fmt: skip
        try:
            if rows:
                self._shared.keep(rows)
        except ResourceError as error:
            self.trouble = f"what photos' headers say is not shared: {error}"

    def forget(self, path: str) -> None:
        """Look at this file again: what was remembered of it turned out to be wrong."""
        self._kept.keep({path: None})

    def _is_at_rest(self, status: os.stat_result) -> bool:
        return max(status.st_mtime, status.st_ctime) < self._clock() - _AT_REST

    def _remember(self, looks: Mapping[File, Look]) -> None:
        rows = {path: [*stamp(status), found.digest, *found.size] for (path, status), found in looks.items()}
        if rows:
            self._kept.keep(rows)

    def _told(self, shared: SharedFindings, files: Mapping[str, os.stat_result]) -> dict[str, Look]:
        keys = {path: everywhere(path, status) for path, status in files.items()}
        found = shared.recall(keys.values()) if keys else {}
        looks = {path: _look_of(found[key]) for path, key in keys.items() if key in found}
        return {path: one for path, one in looks.items() if one is not None}


def everywhere(path: str, status: os.stat_result) -> str:
    """What a file is known by on every machine that sees its disk, wherever that is mounted."""
    name = os.path.basename(path)  # noqa: PTH119 (100,000 of them)
    said = f"{DIGEST_VERSION}\0{name}\0{stamp(status)}\0{status.st_ino}"
    return hashlib.sha256(said.encode("utf-8", "surrogateescape")).hexdigest()[:32]


def _look_of(row: object) -> Look | None:
    """A row of the shared folder, which anybody may have written."""
    match row:
        case [str(digest), int(width), int(height)] if _DIGEST.fullmatch(digest) and width > 0 < height:
            return Look(digest, (width, height))
    return None
