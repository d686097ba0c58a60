"""What was delivered as which file, all shards together: the places of the lines, and what this process added."""

from __future__ import annotations

import itertools
import threading
from array import array
from collections.abc import Iterable, Iterator, Mapping, ValuesView
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ip2pbatch.disk.journal import Damage
from ip2pbatch.disk.row_index import Index, Numbers, Rows, among, are_many, numbers_of, row_hash, row_hashes
from ip2pbatch.run.directory.layout import Layout
from ip2pbatch.run.directory.lines import DELIVERY, DELIVERY_BRIEF, Delivery

_TOGETHER = 1 << 10  # places that are looked up together
_LOOK = 1 << 14  # lines that are looked at together
_AT, _PLACE, _PATH, _TURN = range(4)  # of a line where it stands, hashes of its place and path, and its turn
_NO_LINES: Numbers = np.empty((4, 0), np.uint64)
Place = tuple[str, str]
"""A strip's key and an Edit's."""


@dataclass(frozen=True, slots=True)
class Books:
    """What was delivered, what was announced and never confirmed, for a process was killed there, and the last turn."""

    delivered: Delivered
    announced: dict[Place, Delivery]
    turn: int


def read_books(layout: Layout, damage: list[Damage] | None = None) -> Books:
    """What the journals say in the order of their turns: `turn` counts the openings of the run, and what a later one
    says counts, wherever its line stands.
    """
    noted = _Noted()
    for path in sorted(layout.folder.glob("deliveries*.jsonl")):
        noted.read(path, damage)
    announced = noted.announced()
    return Books(Delivered(noted.columns(), noted.folders), announced, noted.turn)


@dataclass(frozen=True, slots=True)
class _Columns:
    """Lines about files that were delivered, in their order: where they stand, hashes of place and path."""

    rows: Rows
    at: Numbers
    places: Numbers
    paths: Numbers


class _Noted:
    """What is noted of lines about files as they are read: of a delivery its columns, of an announcement where it
    stands, until its file is told of.
    """

    def __init__(self) -> None:
        self.rows, self.folders, self.turn = Rows(), set[str](), 0
        self._at, self._places, self._paths = array("Q"), array("Q"), array("Q")
        self._turns: list[tuple[int, int]] = []  # with the number of the first line that has it
        self._told, self._begun = [_NO_LINES], [_NO_LINES]  # what was not looked at yet, and announcements that count

    def read(self, path: Path, damage: list[Damage] | None) -> None:
        count, most = 0, _LOOK
        for at, (edits, strips, paths, turns, begun) in self.rows.blocks(path, DELIVERY_BRIEF, damage):
            self.folders.update({path.rpartition("/")[0] for path in paths})
            places, numbers = row_hashes(zip(strips, edits, strict=True)), np.fromiter(map(int, turns), np.uint64)
            lines = np.stack([at, places, row_hashes(paths), numbers])
            announced = np.fromiter(map(bool, begun), np.bool_)
            self._told.append(lines[:, ~announced])
            self._begun.append(lines[:, announced])
            count += len(at)
            if count > most:
                count, most = 0, _LOOK + self._look()
        self._look()

    def _look(self) -> int:
        """Note what was read, and forget the announcements of files that were delivered since; how many are left."""
        told, begun = np.concatenate(self._told, axis=1), np.concatenate(self._begun, axis=1)
        self.turn = max(self.turn, *(int(lines[_TURN].max(initial=0)) for lines in (told, begun)))
        before = self._turns[-1][0] if self._turns else -1
        changes = np.flatnonzero(np.diff(told[_TURN].astype(np.int64), prepend=before))
        self._turns += [(int(told[_TURN, number]), len(self._at) + int(number)) for number in changes]
        for column, values in zip((self._at, self._places, self._paths), told[:_TURN], strict=True):
            column.frombytes(values.tobytes())
        last = Index(told[_PLACE]).last_of(begun[_PLACE])
        known = np.flatnonzero(last >= 0)
        later = told[:, last[known]]
        over = known[(later[_AT] > begun[_AT, known]) & (later[_TURN] >= begun[_TURN, known])]
        self._told, self._begun = [_NO_LINES], [np.delete(begun, over, axis=1)]
        return len(self._begun[0][_AT])

    def columns(self) -> _Columns:
        """In the order of their turns."""
        found = [numbers_of(column) for column in (self._at, self._places, self._paths)]
        turns = [turn for turn, _ in self._turns]
        if turns != sorted(turns):
            counts = np.diff([first for _, first in self._turns], append=len(self._at))
            order = np.argsort(np.repeat(turns, counts), kind="stable")
            found = [column[order] for column in found]
        return _Columns(self.rows, *found)

    def announced(self) -> dict[Place, Delivery]:
        """What was announced last and not told of. Heard line by line with what else was delivered as those files."""
        begun = self._begun[0]
        if not len(begun[_AT]):
            return {}
        told, by_path = numbers_of(self._at), numbers_of(self._paths)
        own = among(numbers_of(self._places), begun[_PLACE])
        others = among(by_path, np.concatenate([by_path[own], begun[_PATH]]))
        rows = [(at, _row_at(self.rows, at)) for at in map(int, (*begun[_AT], *told[own | others]))]
        heard = _Heard()
        for _, row in sorted(rows, key=lambda pair: (pair[1].turn, pair[0])):
            heard.hear(row)
        return heard.announced


@dataclass(slots=True)
class _Heard:
    """The books of few files, line by line."""

    delivered: dict[Place, Delivery] = field(default_factory=dict)
    announced: dict[Place, Delivery] = field(default_factory=dict)
    holders: dict[str, Place] = field(default_factory=dict)

    def hear(self, row: Delivery) -> None:
        place = row.strip, row.edit
        last = self.delivered.get(place)
        if row.begun:
            if last is None or (last.turn, last.path, last.sha256) != (row.turn, row.path, row.sha256):
                self.announced[place] = row
            return
        self.announced.pop(place, None)
        before = self.holders.get(row.path, place)
        if before != place and before in self.delivered and self.delivered[before].path == row.path:
            del self.delivered[before]
        self.holders[row.path] = place
        self.delivered[place] = row


class Delivered(Mapping[Place, Delivery]):
    """What was delivered last of every (strip key, edit key), as long as no other picture took its place.

    `folders` are those that files were ever delivered into, below the output folder.
    """

    def __init__(self, told: _Columns, folders: set[str]) -> None:
        self.folders = folders
        self._rows, self._at = told.rows, told.at
        self._by_place, self._by_path = Index(told.places), Index(told.paths)
        self._newer: dict[Place, Delivery | None] = {}
        self._earlier: Mapping[Place, dict[str, str]] = {}
        self._holders: dict[str, Place] = {}
        self._more = 0
        self._folding = threading.RLock()

    @classmethod
    def held(cls, files: Iterable[Delivery], earlier: Mapping[Place, Mapping[str, str]]) -> Delivered:
        """Few files, of which another process read the lines, and what their pictures had as `earlier` ones."""
        none = np.empty(0, np.uint64)
        delivered = cls(_Columns(Rows(), none, none, none), set())
        delivered._earlier = {place: dict(found) for place, found in earlier.items()}
        for file in files:
            delivered.add(file)
        return delivered

    def add(self, delivery: Delivery) -> None:
        """A file was delivered: what was under its path before is not there any more."""
        place = delivery.strip, delivery.edit
        before = self._holders.get(delivery.path)
        if before is None and (known := self._under(delivery.path)) is not None:
            before = known.strip, known.edit
        if before is not None and before != place and (last := self.get(before)) and last.path == delivery.path:
            self._newer[before] = None
            self._more -= 1
        self._more += place not in self
        self.folders.add(delivery.path.rpartition("/")[0])
        with self._folding:
            self._holders[delivery.path] = place
            self._newer[place] = delivery

    @property
    def newer(self) -> int:
        """How many are held."""
        return len(self._newer)

    def fold_many(self, path: Path) -> None:
        """Fold those that are newer where they are many."""
        if are_many(self.newer, len(self._at)):
            self.fold(path)

    def fold(self, path: Path) -> None:
        """Hold those that are newer as the others are: by their lines, which stand in the journal `path` by now.

        Others may read meanwhile, and nobody may add.
        """
        at, places, paths = array("Q"), array("Q"), array("Q")
        for found, (edits, strips, names, _, begun) in self._rows.more_blocks(path, DELIVERY_BRIEF):
            delivered = ~np.fromiter(map(bool, begun), np.bool_)
            at.frombytes(found[delivered].tobytes())
            places.frombytes(row_hashes(zip(strips, edits, strict=True))[delivered].tobytes())
            paths.frombytes(row_hashes(names)[delivered].tobytes())
        lines = np.concatenate([self._at, numbers_of(at)])
        by_place = Index(np.concatenate([self._by_place.keys, numbers_of(places)]))
        by_path = Index(np.concatenate([self._by_path.keys, numbers_of(paths)]))
        with self._folding:
            self._at, self._by_place, self._by_path = lines, by_place, by_path
            self._newer, self._holders, self._more = {}, {}, 0

    def __getitem__(self, place: Place) -> Delivery:
        with self._folding:
            if place in self._newer:
                newer = self._newer[place]
                if newer is None:
                    raise KeyError(place)
                return newer
            found = self._by_place.of(row_hash(place))
            if len(found):
                row = self._row(found[-1])
                if (row.strip, row.edit) == place and self._by_path.of(row_hash(row.path))[-1] == found[-1]:
                    return row
        raise KeyError(place)

    def each(self, places: Iterable[Place]) -> Iterator[Delivery | None]:
        """What was delivered of each of many places, in their order: `get` of all of them, looked up together.
        A file that is added meanwhile may not be among it.
        """
        rest = iter(places)
        while some := list(islice(rest, _TOGETHER)):
            hashes = np.fromiter(map(row_hash, some), np.uint64, len(some))
            with self._folding:
                newer, numbers = self._newer, self._by_place.last_of(hashes)
                rows = [self._row(number) if number >= 0 else None for number in numbers]
                paths = np.fromiter((row_hash(row.path) if row else 0 for row in rows), np.uint64, len(rows))
                standing = self._by_path.last_of(paths) == numbers
            for place, row, stands in zip(some, rows, standing, strict=True):
                if place in newer:
                    yield newer[place]
                else:
                    yield row if stands and row is not None and (row.strip, row.edit) == place else None

    def __iter__(self) -> Iterator[Place]:
        return ((row.strip, row.edit) for row in self.values())

    def values(self) -> ValuesView[Delivery]:
        """Oldest first, then those that are newer."""
        return _Values(self)

    def in_order(self) -> Iterator[Delivery]:
        """The same, one by one."""
        for number in np.flatnonzero(self._standing()):
            row = self._row(number)
            if (row.strip, row.edit) not in self._newer:
                yield row
        yield from filter(None, self._newer.values())

    def __len__(self) -> int:
        return int(self._standing().sum()) + self._more

    def _standing(self) -> NDArray[np.bool_]:
        return self._by_place.last() & self._by_path.last()

    def earlier(self, place: Place) -> dict[str, str]:
        """The sha256, by path, of the files that a picture had before it was delivered under another name, unless
        another picture took their place before that.
        """
        if place in self._earlier:
            return self._earlier[place]
        found = dict[str, str]()
        with self._folding:
            for number, later in itertools.pairwise(self._by_place.of(row_hash(place))):
                row = self._row(number)
                if self._row(later).path != row.path:
                    others = self._by_path.of(row_hash(row.path))
                    if not np.any((others > number) & (others < later)):
                        found[row.path] = row.sha256
        return found

    def under(self, path: str) -> Delivery | None:
        """What was delivered last as this file."""
        with self._folding:
            place = self._holders.get(path)
            return self._under(path) if place is None else self._newer[place]

    def _under(self, path: str) -> Delivery | None:
        found = self._by_path.of(row_hash(path))
        row = self._row(found[-1]) if len(found) else None
        return row if row is not None and row.path == path else None

    def files(self) -> Iterator[Delivery]:
        """What was delivered last under each path, whatever of, as the journals say it."""
        return map(self._row, np.flatnonzero(self._by_path.last()))

    def unasked(self, asked: Iterable[Place]) -> Iterator[Delivery]:
        """Those of them that are of none of the places that are `asked` for."""
        wanted = array("Q", map(row_hash, asked))
        others = self._by_path.last() & self._by_place.without(numbers_of(wanted))
        return map(self._row, np.flatnonzero(others))

    def left_behind(self) -> Iterator[Delivery]:
        """The lines about files whose pictures were delivered again elsewhere: the last one of each path."""
        others = self._by_path.last() & ~self._by_place.last()
        return (row for row in map(self._row, np.flatnonzero(others)) if (row.strip, row.edit) in self)

    def _row(self, number: int | np.integer[Any]) -> Delivery:
        return _row_at(self._rows, self._at[number])


def _row_at(rows: Rows, at: int | np.integer[Any]) -> Delivery:
    row = DELIVERY(rows.line(int(at)))
    assert row is not None, "it was read before"
    return row


class _Values(ValuesView[Delivery]):
    def __init__(self, delivered: Delivered) -> None:
        super().__init__(delivered)
        self._delivered = delivered

    def __iter__(self) -> Iterator[Delivery]:
        return self._delivered.in_order()
