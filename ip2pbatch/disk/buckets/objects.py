"""Objects read as files: copies in this user's cache folder, known by key, ETag and size, and never more than a bound.

A copy is only ever what a store said under that ETag. Who opens an object is given what it is now: the store is asked
once a minute and object which version that is, and sends what is not here.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import IO

from ip2pbatch.disk.atomic import TEMPORARY, disk_error, replacing
from ip2pbatch.disk.buckets.locations import Location, location
from ip2pbatch.disk.buckets.stores import StoreError, Version, store_of
from ip2pbatch.disk.remembered import cache_folder

MOST_BYTES = 16 << 30
_FRESH = 60.0  # seconds for which what a store said of an object is believed
_MANY = 4096
_OLD = 86_400.0  # seconds after which a half-written copy is nobody's any more


class Objects:
    """Copies of objects in `folder`, at most `most_bytes` of them: those that were read last. Safe to use from several
    threads, and by several processes at a time.
    """

    def __init__(
        self, folder: Path | None = None, most_bytes: int = MOST_BYTES, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.folder = folder or cache_folder() / "objects"
        self._most, self._clock = most_bytes, clock
        self._lock = threading.Lock()
        self._told = dict[str, tuple[float, Version]]()  # what a store said of an object, and when
        self._many = _MANY
        self._sidecars = dict[str, frozenset[str]]()
        self._held: int | None = None  # bytes, once they were counted

    def open(self, path: Path | str) -> IO[bytes]:
        """An object as it is now, to read. Raises as `Store` does, and ResourceError."""
        place, version = location(path), self.version(path)
        return self._copy(place, version) or self._keep(place, version)

    def version(self, path: Path | str) -> Version:
        """What an object is now. Raises as `Store` does."""
        place = location(path)
        self._refuse_unlisted(place)
        with self._lock:
            when, version = self._told.get(str(place), (0.0, None))
        if version is None or self._clock() - when >= _FRESH:
            version = store_of(place).version(place.key)
            self.tell(path, version)
        return version

    def tell(self, path: Path | str, version: Version) -> None:
        """A store said this of an object just now."""
        now = self._clock()
        with self._lock:
            self._told[str(location(path))] = now, version
            if len(self._told) > self._many:  # what is believed no more need not be held
                self._told = {key: told for key, told in self._told.items() if now - told[0] < _FRESH}
                self._many = 2 * max(len(self._told), _MANY)

    def tell_sidecars(self, folder: Path | str, keys: frozenset[str]) -> None:
        """Of the sidecars below `folder` there are these alone: nobody need ask for others."""
        with self._lock:
            self._sidecars[f"{str(location(folder)).rstrip('/')}/"] = keys

    def doubt(self) -> None:
        """Ask again of every object: some time went by since it was listed."""
        with self._lock:
            self._told.clear()

    def _refuse_unlisted(self, place: Location) -> None:
        if not place.key.lower().endswith(".xmp"):
            return
        text = str(place)
        with self._lock:
            lacks = any(text.startswith(folder) and place.key not in keys for folder, keys in self._sidecars.items())
        if lacks:
            raise StoreError("gone", f"{place} is not there")

    def _keep(self, place: Location, version: Version) -> IO[bytes]:
        fetched, path = store_of(place).fetch(place.key, version), self._path(place, version)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as file:
                fetched.write(file)
            self._make_room(version.size, path)
            return path.open("rb")
        except StoreError:
            raise
        except OSError as error:
            raise disk_error(error, path) from error

    def _copy(self, place: Location, version: Version) -> IO[bytes] | None:
        path = self._path(place, version)
        try:
            file = path.open("rb")
        except OSError:
            return None
        if os.fstat(file.fileno()).st_size != version.size:  # somebody's doing: it is fetched again
            file.close()
            return None
        with suppress(OSError):
            os.utime(path)  # the longest unread goes first
        return file

    def _path(self, place: Location, version: Version) -> Path:
        name = hashlib.sha256(f"{place}\n{version.etag}\n{version.size}".encode()).hexdigest()[:40]
        return self.folder / name[:2] / name

    def _make_room(self, more: int, newest: Path) -> None:
        """Remove what was read longest ago, where `more` bytes are too many; others may remove the same."""
        with self._lock:
            held = self._held = self._count() if self._held is None else self._held + more
            most = min(self._most, held + shutil.disk_usage(self.folder).free // 2)
            if held <= most:
                return
            files = sorted(self._files(), key=lambda file: file[1])
            held = sum(size for _, _, size in files)
            for path, _, size in files:
                if held <= most * 0.8:
                    break
                if path != newest:
                    with suppress(OSError):
                        path.unlink()
                        held -= size
            self._held = held

    def _count(self) -> int:
        return sum(size for _, _, size in self._files())

    def _files(self) -> list[tuple[Path, float, int]]:
        """Every copy with when it was read last and its size. What a killed process left half-written goes."""
        files, now = [], time.time()
        for path in self.folder.glob("??/[0-9a-f]*"):
            with suppress(OSError):
                status = path.stat()
                files.append((path, status.st_mtime, status.st_size))
        for stray in self.folder.glob(f"??/{TEMPORARY}"):
            with suppress(OSError):
                if stray.stat().st_mtime < now - _OLD:
                    stray.unlink()
        return files


@cache
def objects() -> Objects:
    """Those of this process."""
    return Objects()


def status_of(version: Version) -> os.stat_result:
    """A version as the status of a file, for whoever knows files by size and times: the second time is the ETag's."""
    mark = int.from_bytes(hashlib.sha256(version.etag.encode()).digest()[:7], "big")
    modified = int(version.modified * 1_000_000) * 1000
    seconds = (int(version.modified), int(version.modified), 0)
    return os.stat_result(
        (0o100444, 0, 0, 1, 0, 0, version.size, *seconds), {"st_mtime_ns": modified, "st_ctime_ns": mark}
    )
