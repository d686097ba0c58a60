"""What lies below an address that a run writes to: as one listing said, and as this process put it since.

Sixteen bytes an object. What is believed of one need not be so any more: every put and every removal hangs on it in the
store itself, so that nothing is written over what somebody put there meanwhile.
"""

from __future__ import annotations

import hashlib
import threading
from array import array
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from ip2pbatch.disk.buckets.locations import Location, location
from ip2pbatch.disk.buckets.stores import Store, StoreError, Version, store_of
from ip2pbatch.disk.digests import file_sha256
from ip2pbatch.disk.row_index import Numbers, are_many, numbers_of, row_hash

NOTHING = 0
"""The mark of a name under which there is no object."""


def mark_of(etag: str, size: int) -> int:
    """A version in eight bytes. An ETag stands in quotes in some answers of a store, and without in others."""
    return row_hash((etag.strip('"'), size)) or 1


class Prefix:
    """The objects below one address, by their names there. Safe to use from several threads.

    `listed` is whether they are listed before the first one is asked for; else each is asked for alone. Everything here
    raises as `Store` does.
    """

    def __init__(self, place: Location, *, listed: bool = True) -> None:
        self.place, self.listed = place, listed
        self._lock = threading.RLock()
        self.doubt()

    def doubt(self) -> None:
        """Ask again: some time went by."""
        with self._lock:
            self._keys: Numbers | None = None
            self._marks: Numbers = np.empty(0, np.uint64)
            self._newer = dict[int, int]()
            self._digests = dict[int, tuple[int, str]]()  # of names by their hashes: of which version, and which

    def look(self) -> None:
        """List what is there now."""
        with self._lock:
            self.doubt()
            self._list()

    def mark(self, name: str) -> int:
        """What is believed to be there, by `mark_of`; NOTHING where nothing is."""
        key = row_hash(name)
        with self._lock:
            if (newer := self._newer.get(key)) is not None:
                return newer
            if self.listed:
                keys = self._list() if self._keys is None else self._keys
                at = int(keys.searchsorted(np.uint64(key)))
                return int(self._marks[at]) if at < len(keys) and keys[at] == np.uint64(key) else NOTHING
        found = self.version(name)
        return NOTHING if found is None else mark_of(found.etag, found.size)

    def version(self, name: str) -> Version | None:
        """What is there now, as the store says it; None where nothing is."""
        try:
            found = self._store.version(self._key(name))
        except StoreError as error:
            if error.trouble != "gone":
                raise
            found = None
        self._believe(name, NOTHING if found is None else mark_of(found.etag, found.size))
        return found

    def believe(self, name: str, etag: str, size: int) -> None:
        """Somebody put this there just now."""
        self._believe(name, mark_of(etag, size))

    def tell_digest(self, name: str, sha256: str) -> None:
        """What is believed to be there has these bytes."""
        with self._lock:
            self._digests[row_hash(name)] = self.mark(name), sha256

    def digest(self, name: str) -> str | None:
        """The sha256 of an object, which is read unless it was told; None where there is none that can be read."""
        mark = self.mark(name)
        told = self._digests.get(row_hash(name), (NOTHING, ""))
        if mark in (NOTHING, told[0]):
            return told[1] if mark else None
        with suppress(StoreError):
            if (version := self.version(name)) is not None:
                sha256 = self._read(name, version)
                self.tell_digest(name, sha256)
                return sha256
        return None

    def replaced(self, name: str) -> Version | None:
        """What is there now, for a put to take the place of it. Raises StoreError where that is not what is believed,
        for somebody looked whose that was.
        """
        believed = self.mark(name)
        found = self.version(name) if believed else None
        if found is not None and self.mark(name) != believed:
            raise StoreError("changed", f"{self.place}/{name} was changed meanwhile")
        return found

    def put(self, name: str, file: Path, replaces: Version | None) -> Version:
        """Have an object appear whole, in the place of this version alone; what it is now.

        Raises StoreError where something else is there, unless it is the same: an answer may have been lost.
        """
        try:
            now = self._store.put(self._key(name), file, replaces)
        except StoreError as error:
            found = self.version(name) if error.trouble == "changed" else None
            if found is None or found.size != file.stat().st_size or self._read(name, found) != file_sha256(file):
                raise
            now = found
        self._believe(name, mark_of(now.etag, now.size))
        return now

    def remove(self, name: str) -> bool:
        """Remove an object that is still of the version that is believed to be there; whether it was."""
        mark, found = self.mark(name), self.version(name)
        if found is None or mark_of(found.etag, found.size) != mark:
            return False
        self._store.remove(self._key(name))
        self._believe(name, NOTHING)
        return True

    @property
    def _store(self) -> Store:
        return store_of(self.place)

    def _key(self, name: str) -> str:
        return f"{self.place.key}/{name}" if self.place.key else name

    def _believe(self, name: str, mark: int) -> None:
        key = row_hash(name)
        with self._lock:
            self._newer[key] = mark
            self._digests.pop(key, None)
            if self._keys is not None and are_many(len(self._newer), len(self._keys)):
                self._fold(self._keys)

    def _fold(self, keys: Numbers) -> None:
        """Hold what is newer as the rest is."""
        newer = numbers_of(array("Q", self._newer)), numbers_of(array("Q", self._newer.values()))
        self._keys, first = np.unique(np.concatenate([newer[0], keys]), return_index=True)
        self._marks = np.concatenate([newer[1], self._marks])[first]
        self._newer = {}

    def _list(self) -> Numbers:
        begins, keys, marks = len(self._key("")), array("Q"), array("Q")
        for key, version in self._store.listing(self.place.key):
            keys.append(row_hash(key[begins:]))
            marks.append(mark_of(version.etag, version.size))
        self._keys, first = np.unique(numbers_of(keys), return_index=True)
        self._marks = numbers_of(marks)[first]
        return self._keys

    def _read(self, name: str, version: Version) -> str:
        reading: Any = _Reading()
        self._store.fetch(self._key(name), version).write(reading)
        return str(reading.digest.hexdigest())


class _Reading:
    """A file that keeps nothing of what is written into it but its digest."""

    def __init__(self) -> None:
        self.digest = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        return len(memoryview(data))


def prefix_of(root: Path) -> Prefix:
    """That of an address, in this process."""
    return _opened(location(root))


@cache
def _opened(place: Location) -> Prefix:
    return Prefix(place)
