"""What became of every Edit, by its key: the places of the Records in the journals, and what this process added."""

from __future__ import annotations

import os
import threading
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set, ValuesView
from contextlib import suppress
from copy import copy
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ip2pbatch.disk.journal import Damage
from ip2pbatch.disk.row_index import Index, Numbers, Rows, among, are_many, numbers_of, row_hash, row_hashes
from ip2pbatch.run.directory.layout import Layout
from ip2pbatch.run.directory.lines import BRIEF, RECORD, Record, Status

S = TypeVar("S")
_STATUSES: tuple[Status, ...] = ("done", "failed", "nan", "flagged", "skipped", "unmatched")
_CODES: Mapping[str, int] = {status: code for code, status in enumerate(_STATUSES)}
_BY_CODE = (*_STATUSES, None)
# The number of done, of what was not tried, and all numbers' bits; what is added where a line has a detail.
_DONE, _UNTRIED, _STATUS, _DETAIL = 0, 6, 7, 8
_TOGETHER = 1 << 14  # keys that are looked up together
_MOST = 0xFFFF_FFFF  # bytes of a picture, above which its size is not told


class Records(Mapping[str, Record]):
    """The Record of every Edit that was tried: read from its journal when it is asked for, held where it is newer."""

    def __init__(self, rows: Rows, hashes: Numbers, places: Numbers, statuses: Numbers) -> None:
        self._rows, self._index, self._places, self._statuses = rows, Index(hashes), places, statuses
        self._newer: dict[str, Record] = {}
        self._more = self._joint = 0
        self._folding = threading.RLock()

    @classmethod
    def held(cls, records: Mapping[str, Record]) -> Records:
        """Few Records, of which another process read the lines."""
        held = cls(Rows(), *_NONE)
        held.update(records)
        return held

    def update(self, newer: Mapping[str, Record]) -> None:
        """These are what became of their Edits now."""
        self._more += sum(key not in self for key in newer)
        self._newer.update(newer)

    def plus(self, newer: Mapping[str, Record]) -> Records:
        """The same with these, and nothing of this changes."""
        other = copy(self)
        other._newer = dict(self._newer)
        other.update(newer)
        return other

    @property
    def newer(self) -> int:
        """How many are held that were added since; what several journals say together is held too."""
        return len(self._newer) - self._joint

    def fold_many(self, path: Path) -> None:
        """Fold those that are newer where they are many."""
        if are_many(self.newer, len(self._places)):
            self.fold(path)

    def fold(self, path: Path) -> None:
        """Hold those that are newer as the others are: by their lines, which stand in the journal `path` by now.

        Others may read meanwhile, and nobody may add.
        """
        hashes, places, statuses = array("Q"), array("Q"), array("B")
        for at, (edits, states, details, _) in self._rows.more_blocks(path, BRIEF):
            hashes.frombytes(row_hashes(edits).tobytes())
            places.frombytes(at.tobytes())
            statuses.frombytes(_codes(states, details))
        keys = np.concatenate([self._index.keys, numbers_of(hashes)])
        last = Index(keys).last()
        at = np.concatenate([self._places, numbers_of(places)])[last]
        codes = np.concatenate([self._statuses, numbers_of(statuses)])[last]
        index, read = Index(keys[last]), set(hashes)
        rest = {key: record for key, record in self._newer.items() if row_hash(key) not in read}
        with self._folding:
            self._places, self._statuses, self._index = at, codes, index
            self._newer, self._joint = rest, len(rest)
            self._more = sum(not len(index.of(row_hash(key))) for key in rest)

    def status(self, key: str) -> Status | None:
        """The status of a Record alone, which need not be read for it; None where there is none."""
        if (newer := self._newer.get(key)) is not None:
            return newer.status
        with self._folding:
            found = self._index.of(row_hash(key))
            if len(found):
                return _STATUSES[int(self._statuses[found[-1]]) & _STATUS]
        return newer.status if (newer := self._newer.get(key)) is not None else None

    def statuses(self, keys: Iterable[str]) -> Iterator[Status | None]:
        """The status of each of many Edits, in their order: `status` of all of them, looked up thousands at a time."""
        rest = iter(keys)
        while some := list(islice(rest, _TOGETHER)):
            hashes = np.fromiter(map(row_hash, some), np.uint64, len(some))
            with self._folding:
                newer, known = self._newer, self._known(self._index.last_of(hashes))
            if newer:
                yield from (newer[key].status if key in newer else one for key, one in zip(some, known, strict=True))
            else:
                yield from known

    def _known(self, numbers: Numbers) -> list[Status | None]:
        if not len(self._statuses):
            return [None] * len(numbers)
        codes = np.where(numbers >= 0, self._statuses[numbers] & _STATUS, _UNTRIED)
        return [_BY_CODE[code] for code in codes.tolist()]

    def each(self, keys: Iterable[str]) -> Iterator[Record | None]:
        """The Record of each of many Edits, in their order: `get` of all of them, looked up thousands at a time."""
        rest = iter(keys)
        while some := list(islice(rest, _TOGETHER)):
            hashes = np.fromiter(map(row_hash, some), np.uint64, len(some))
            with self._folding:
                numbers = self._index.last_of(hashes)
                places = np.where(numbers >= 0, self._places[numbers], 0) if len(self._places) else numbers
            for key, number, place in zip(some, numbers.tolist(), places.tolist(), strict=True):
                record = _record_at(self._rows, place) if number >= 0 and key not in self._newer else None
                yield record if record is not None and record.edit == key else self.get(key)

    def with_detail(self, key: str) -> Record | None:
        """The Record, where it says more than that the Edit is done; others need not be read for it."""
        if key not in self._newer:
            with self._folding:
                found = self._index.of(row_hash(key))
                if not len(found) or self._statuses[found[-1]] == _DONE:
                    return None
        record = self[key]
        return record if record.detail or record.status != "done" else None

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and self.status(key) is not None

    def __getitem__(self, key: str) -> Record:
        if (newer := self._newer.get(key)) is not None:
            return newer
        with self._folding:
            places = self._places[self._index.of(row_hash(key))]
        for record in (_record_at(self._rows, place) for place in places):
            if record.edit == key:
                return record
        if (newer := self._newer.get(key)) is not None:  # it was added since
            return newer
        raise KeyError(key)

    def __iter__(self) -> Iterator[str]:
        return (record.edit for record in self.values())

    def values(self) -> ValuesView[Record]:
        """As they stand in the journals; those that are newer last, if they are of other Edits."""
        return _Values(self)

    def in_order(self) -> Iterator[Record]:
        """The same, one by one."""
        older = set()
        for number in range(len(self._places)):
            record = self._read(number)
            if (newer := self._newer.get(record.edit)) is not None:
                older.add(record.edit)
            yield newer or record
        yield from (record for key, record in self._newer.items() if key not in older)

    def failed(self) -> Iterator[Record]:
        """Those that are not done; no other is read."""
        for number in np.flatnonzero(self._statuses & _STATUS != _DONE):
            record = self._read(number)
            if record.edit not in self._newer:
                yield record
        yield from (record for record in self._newer.values() if record.status != "done")

    def __len__(self) -> int:
        return len(self._places) + self._more

    def _read(self, number: int | np.integer[Any]) -> Record:
        return _record_at(self._rows, self._places[number])


def _codes(statuses: Iterable[str], details: Iterable[str]) -> bytes:
    told = np.fromiter(map(bool, details), np.uint8) * np.uint8(_DETAIL)
    return (np.fromiter(map(_CODES.__getitem__, statuses), np.uint8) | told).tobytes()


class _Values(ValuesView[Record]):
    def __init__(self, records: Records) -> None:
        super().__init__(records)
        self._records = records

    def __iter__(self) -> Iterator[Record]:
        return self._records.in_order()


class Done(Set[str]):
    """The keys of the Edits that are done."""

    def __init__(self, records: Records) -> None:
        self._records = records

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and self._records.status(key) == "done"

    def __iter__(self) -> Iterator[str]:
        return (record.edit for record in self._records.values() if record.status == "done")

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __bool__(self) -> bool:
        return any(True for _ in self)

    @classmethod
    def _from_iterable(cls, keys: Iterable[S]) -> Set[S]:
        return set(keys)


def read_records(layout: Layout, damage: list[Damage] | None = None, lost: list[Record] | None = None) -> Records:
    """The last Record of every Edit, all shards together; where two differ, the one that is done counts.
    Numbers of one picture are joined: they may be measured later than it is made, and by another process.

    A done Edit whose picture is gone, or is not as large as it was written, is as if it had never been made; it is
    added to `lost`.
    """
    rows, whole = Rows(), _Sizes(layout)
    parts = [_read(rows, path, whole, damage) for path in sorted(layout.folder.glob("results*.jsonl"))]
    if lost is not None:
        lost += [record for part in parts for record in part.gone(rows)]
    kept = [part.there() for part in parts]
    if len(kept) < 2:
        return Records(rows, *(kept[0] if kept else _NONE))
    return _joined(rows, kept)


_Columns = tuple[Numbers, Numbers, Numbers]
"""Hashes of keys, places of lines, numbers of statuses."""
_NONE: _Columns = np.empty(0, np.uint64), np.empty(0, np.uint64), np.empty(0, np.uint8)


@dataclass(frozen=True, slots=True)
class _Part:
    """What one journal says last of each Edit, and whether a picture that it calls done is there."""

    hashes: Numbers
    places: Numbers
    statuses: Numbers
    whole: Numbers

    def gone(self, rows: Rows) -> Iterator[Record]:
        for place in self.places[(self.statuses & _STATUS == _DONE) & ~self.whole]:
            yield _record_at(rows, place)

    def there(self) -> _Columns:
        kept = (self.statuses & _STATUS != _DONE) | self.whole
        if kept.all():
            return self.hashes, self.places, self.statuses
        return self.hashes[kept], self.places[kept], self.statuses[kept]


def _read(rows: Rows, path: Path, whole: _Sizes, damage: list[Damage] | None) -> _Part:
    """A later line counts more than an earlier one, unless that alone is of a picture that is there."""
    hashes, places, sizes, statuses = array("Q"), array("Q"), array("Q"), array("B")
    found = bytearray()
    for at, (edits, states, details, lengths) in rows.blocks(path, BRIEF, damage):
        hashes.frombytes(row_hashes(edits).tobytes())
        places.frombytes(at.tobytes())
        sizes.extend(map(int, lengths))
        statuses.frombytes(_codes(states, details))
        if len(sizes) > _TOGETHER:
            found += whole.are(numbers_of(hashes[-len(sizes) :]), numbers_of(sizes)).tobytes()
            sizes = array("Q")
    found += whole.are(numbers_of(hashes[len(found) :]), numbers_of(sizes)).tobytes()
    keys, codes = numbers_of(hashes), numbers_of(statuses)
    there = (codes & _STATUS == _DONE) & np.frombuffer(found, np.bool_)
    part = _Part(keys, numbers_of(places), codes, there)
    return part if Index(keys).is_unique else _last(part)


def _last(part: _Part) -> _Part:
    """Of several lines about an Edit the one that counts."""
    order = np.lexsort((part.whole, part.hashes))
    ends = np.ones(len(order), np.bool_)
    ends[:-1] = part.hashes[order][1:] != part.hashes[order][:-1]
    chosen = np.sort(order[ends])
    return _Part(part.hashes[chosen], part.places[chosen], part.statuses[chosen], part.whole[chosen])


class _Sizes:
    """The size in bytes of every lossless picture in a run: one pass over the folders, no file is opened."""

    def __init__(self, layout: Layout) -> None:
        hashes, sizes = array("Q"), array("I")
        for pictures in pictures_on_disk(layout):
            hashes.frombytes(row_hashes(pictures).tobytes())
            sizes.frombytes(np.minimum(np.fromiter(pictures.values(), np.int64), _MOST).astype(np.uint32).tobytes())
        self._index, self._sizes = Index(numbers_of(hashes)), numbers_of(sizes)

    def are(self, hashes: Numbers, sizes: Numbers) -> NDArray[np.bool_]:
        """Whether the pictures with these hashes are there in these sizes."""
        if not len(self._sizes):
            return np.zeros(len(hashes), np.bool_)
        at = self._index.last_of(hashes)
        there: NDArray[np.bool_] = (at >= 0) & (self._sizes[at] == np.minimum(sizes, np.uint64(_MOST)))
        return there


def _joined(rows: Rows, parts: Sequence[_Columns]) -> Records:
    """What several journals say. Where a second one speaks of an Edit, both lines are read."""
    hashes, found, statuses = (np.concatenate(column) for column in zip(*parts, strict=True))
    twice = np.unique(hashes[~Index(hashes).last()])
    several = among(hashes, twice)
    newer: dict[str, Record] = {}
    for place in found[several]:
        record = _record_at(rows, place)
        known = newer.get(record.edit)
        if known is not None and known.status == record.status == "done" and known.digest == record.digest:
            newer[record.edit] = replace(known, metrics=record.metrics | known.metrics)
        elif _says_more(record, known):
            newer[record.edit] = record
    records = Records(rows, hashes[~several], found[~several], statuses[~several])
    records.update(newer)
    records._joint = len(newer)
    return records


def _says_more(record: Record, other: Record | None) -> bool:
    """Whether a shard's last word on an Edit counts more than another shard's."""
    if other is None or other.status != "done":
        return True
    return record.status == "done" and bool(record.digest) and not other.digest


def _record_at(rows: Rows, place: int | np.integer[Any]) -> Record:
    record = RECORD(rows.line(int(place)))
    assert record is not None, "it was read before"
    return record


def pictures_on_disk(layout: Layout) -> Iterator[dict[str, int]]:
    """Size in bytes of every lossless picture in a run by its key, a folder after the other; no file is opened."""
    for folder in _listing(layout.edits):
        yield _pictures_in(folder.path)


def _pictures_in(folder: str) -> dict[str, int]:
    """Looked at through the open folder where the system can: a path is walked along for every file otherwise."""
    sizes = dict[str, int]()
    try:
        opened = os.open(folder, os.O_RDONLY) if os.scandir in os.supports_fd else None
        try:
            with os.scandir(folder if opened is None else opened) as entries:
                for entry in entries:
                    if entry.name.endswith(".png"):
                        with suppress(OSError):  # a link that leads nowhere is no picture
                            sizes[entry.name[:-4]] = entry.stat().st_size
        finally:
            if opened is not None:
                os.close(opened)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    return sizes


def _listing(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except (FileNotFoundError, NotADirectoryError):
        return []
