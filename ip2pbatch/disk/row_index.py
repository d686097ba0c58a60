"""Where the rows of large journals stand, so that a row is read when it is asked for and not held: some 30 bytes each.

    rows, places, hashes = Rows(), array("Q"), array("Q")
    for place, row in rows.read(path, parse):     # once through, and what is wanted of each is noted
        places.append(place)
        hashes.append(row_hash(row.key))
    numbers = Index(numbers_of(hashes)).of(row_hash("a"))     # of the rows with that key, in their order
    line = rows.line(places[numbers[-1]])

Keys are known by 64 bits of Python's own hash, which is another one in every process: of ten million keys two share
theirs once in some hundred thousand runs. Whoever reads a row sees whose it is.
"""

from __future__ import annotations

import os
import threading
from array import array
from collections.abc import Callable, Hashable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
from numpy.typing import NDArray

from ip2pbatch.disk.atomic import unreadable
from ip2pbatch.disk.journal import Damage, Parse, rows_of

Row = TypeVar("Row")
Numbers = NDArray[Any]
At = TypeVar("At", int, NDArray[Any])
Columns = list[tuple[str, ...]]
Block = Callable[[bytes], tuple[Columns, list[int]]]
"""From some lines to the columns of what they say, and the numbers of those that cannot be read: a Usual."""

_FILE = 44  # bits of a place that say where in its file a line begins; those above them say in which file
_BLOCK = 1 << 14  # bytes that are read at once: what stands beside a row is mostly asked for next
_ADDED, _SHARE = 20_000, 16  # rows that may be held as they are, and of more than that the part of all
_STEP = 1 << 16  # numbers that are looked at together
_LINES = 1 << 16  # bytes whose lines are read together


def are_many(newer: int, held: int) -> bool:
    """Whether what was added to journals is so much that it is held by its lines too: the longer they are, the more it
    may be, so that the time for it grows with what is added.
    """
    return newer > max(_ADDED, held // _SHARE)


def row_hash(key: Hashable) -> int:
    """64 bits of a key."""
    return hash(key) & 0xFFFF_FFFF_FFFF_FFFF


def row_hashes(keys: Iterable[Hashable]) -> Numbers:
    """64 bits of each of some keys."""
    return np.fromiter(map(hash, keys), np.int64).view(np.uint64)


def numbers_of(values: array[int]) -> Numbers:
    """An array of the same numbers, which shares their memory."""
    return np.frombuffer(values, np.dtype(f"u{values.itemsize}")) if values else np.empty(0, f"u{values.itemsize}")


def among(hashes: Numbers, wanted: Numbers) -> NDArray[np.bool_]:
    """Whether each is one of those that are `wanted`. Looked up in steps, so that beside them only a bit each is held:
    numpy's own way sorts both together, and takes forty bytes a number for it.
    """
    ordered, found = np.unique(wanted), np.zeros(len(hashes), np.bool_)
    for start in range(0, len(hashes) if len(ordered) else 0, _STEP):
        some = hashes[start : start + _STEP]
        at = np.minimum(ordered.searchsorted(some), len(ordered) - 1)
        found[start : start + _STEP] = ordered[at] == some
    return found


class Rows:
    """The lines of some files, each by its place. Files stay open, so that a line is found where it was although
    another process puts a mended file in the place of its own. Safe to use from several threads.
    """

    def __init__(self) -> None:
        self._files: list[BinaryIO] = []
        self._read: dict[Path, tuple[int, int]] = {}  # the place of a file's first line, and the bytes that were read
        self._reading = threading.Lock()

    def read(self, path: Path, parse: Parse[Row], damage: list[Damage] | None = None) -> Iterator[tuple[int, Row]]:
        """What the lines of one more file say, as `read_rows` does, each with its place."""
        return self._first(path, lambda file: rows_of(file, path, parse, damage))

    def more(self, path: Path, parse: Parse[Row]) -> Iterator[tuple[int, Row]]:
        """What was added to a file since it was read, which may not have been there then."""
        return self._rest(path, lambda file: rows_of(file, path, parse))

    def blocks(self, path: Path, block: Block, damage: list[Damage] | None = None) -> Iterator[tuple[Numbers, Columns]]:
        """`read` of a file of very many lines, hundreds together: their places, and the columns of what they say."""
        return self._first(path, lambda file: _blocks_of(file, path, block, damage))

    def more_blocks(self, path: Path, block: Block) -> Iterator[tuple[Numbers, Columns]]:
        """`more` in the same way."""
        return self._rest(path, lambda file: _blocks_of(file, path, block))

    def _first(self, path: Path, said: Callable[[BinaryIO], Iterator[tuple[At, Row]]]) -> Iterator[tuple[At, Row]]:
        first = self.open(path)
        if first is not None:
            file = self._files[-1]
            for at, row in said(file):
                yield first + at, row
            self._read[path] = first, _whole(file)

    def _rest(self, path: Path, said: Callable[[BinaryIO], Iterator[tuple[At, Row]]]) -> Iterator[tuple[At, Row]]:
        if path not in self._read:
            yield from self._first(path, said)
            return
        first, start = self._read[path]
        with path.open("rb") as file:
            file.seek(start)
            for at, row in said(file):
                yield first + start + at, row
            self._read[path] = first, _whole(file)

    def places(self, path: Path) -> array[int]:
        """Where each line of one more file stands, whatever is in it; none where it does not exist."""
        first, places = self.open(path), array("Q")
        if first is not None:
            for line in self._files[-1]:
                places.append(first)
                first += len(line)
        return places

    def open(self, path: Path) -> int | None:
        """One more file; the place of its first line, None where it does not exist."""
        try:
            self._files.append(path.open("rb", buffering=_BLOCK))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise unreadable(error, path) from error
        return (len(self._files) - 1) << _FILE

    def line(self, place: int) -> bytes:
        """The line that begins there."""
        file = self._files[place >> _FILE]
        with self._reading:
            file.seek(place & ((1 << _FILE) - 1))
            return file.readline()

    def read_anew(self) -> None:
        """Forget what was read ahead: a torn end is cut off, and other lines come to stand in its place."""
        with self._reading:
            for file in self._files:
                file.seek(0, os.SEEK_END)

    def __del__(self) -> None:
        for file in self._files:
            file.close()


def _blocks_of(
    file: BinaryIO, path: Path, block: Block, damage: list[Damage] | None = None
) -> Iterator[tuple[Numbers, Columns]]:  # fmt: skip
    """`rows_of`, hundreds of lines together. What follows the last newline is torn, and the last that is read."""
    bad: list[int] = []
    at, number, data = 0, 1, b"\n"
    try:
        while data.endswith(b"\n") and (data := file.read(_LINES) + file.readline()):
            columns, unread = block(data)
            ends = np.flatnonzero(np.frombuffer(data, np.uint8) == ord("\n")) + 1
            starts = np.concatenate([[0], ends])[: len(ends) + (not data.endswith(b"\n"))]
            bad += [number + one for one in unread if one < len(ends) and not data[starts[one] : ends[one]].isspace()]
            places = at + starts.astype(np.uint64)
            yield np.delete(places, unread) if unread else places, columns
            at, number = at + len(data), number + len(starts)
    except OSError as error:
        raise unreadable(error, path) from error
    if bad and damage is not None:
        damage.append(Damage(path, tuple(bad)))


def _whole(file: BinaryIO) -> int:
    """The bytes of the whole lines of a file; what follows them is torn, and is cut off by who writes."""
    end = file.seek(0, os.SEEK_END)
    while end:
        start = max(0, end - _BLOCK)
        file.seek(start)
        if (newline := file.read(end - start).rfind(b"\n")) >= 0:
            return start + newline + 1
        end = start
    return 0


class Index:
    """The numbers of rows by the hash of a key of theirs: twelve bytes a row."""

    def __init__(self, hashes: Numbers) -> None:
        self._order = _ordered(hashes)
        self._hashes = hashes[self._order]

    @property
    def keys(self) -> Numbers:
        """The hashes in the order of the rows."""
        keys = np.empty_like(self._hashes)
        keys[self._order] = self._hashes
        return keys

    def of(self, value: int) -> Numbers:
        """The numbers of the rows with this hash, ascending."""
        wanted = np.uint64(value)
        first = int(self._hashes.searchsorted(wanted))
        end = first
        while end < len(self._hashes) and self._hashes[end] == wanted:
            end += 1
        return self._order[first:end]

    def last_of(self, values: Numbers) -> Numbers:
        """For each of some hashes the number of the last row that has it, −1 where none has."""
        found = np.full(len(values), -1, np.int64)
        if len(self._hashes):
            at = self._hashes.searchsorted(values, side="right") - 1
            known = (at >= 0) & (self._hashes[at] == values)
            found[known] = self._order[at[known]]
        return found

    @property
    def is_unique(self) -> bool:
        """Whether no two rows have one hash."""
        return not np.any(self._hashes[1:] == self._hashes[:-1])

    def last(self) -> NDArray[np.bool_]:
        """Whether each row is the last one with its hash."""
        ends = np.ones(len(self._hashes), np.bool_)
        ends[:-1] = self._hashes[1:] != self._hashes[:-1]
        found = np.empty(len(ends), np.bool_)
        found[self._order] = ends
        return found

    def without(self, values: Numbers) -> NDArray[np.bool_]:
        """Whether the hash of each row is none of these."""
        found = np.empty(len(self._hashes), np.bool_)
        found[self._order] = ~among(self._hashes, values)
        return found


def _ordered(hashes: Numbers) -> Numbers:
    """The numbers of the rows by their hashes, equal ones in their order, in four bytes each where that is enough."""
    order = np.argsort(hashes, kind="stable")
    return order.astype(np.uint32) if len(order) < 1 << 32 else order


def hashes_of(keys: Iterable[Hashable]) -> Iterator[Numbers]:
    """The hashes of many keys, some thousands at a time."""
    hashes = map(row_hash, keys)
    while some := array("Q", islice(hashes, _STEP)):
        yield numbers_of(some)
