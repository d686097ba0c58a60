"""Many things as lines on the disk, each made when it is asked for: eight bytes of memory a thing.

photos = spooled(([photo.name, *photo.size] for photo in found), lambda row: Photo(*row))
photos[7]                               # reads its line again
"""

from __future__ import annotations

import json
import os
import tempfile
import threading
import weakref
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar, overload

from ip2pbatch.disk.atomic import disk_error

Thing = TypeVar("Thing")
_BLOCK = 1 << 14  # bytes that are read at once


class OnDemand(Sequence[Thing]):
    """What the lines at some places say; the last thing is kept, for many ask for it again. `line` gives the line at a
    place, `make` a thing of what its JSON says. As safe to use from several threads as `line` is.
    """

    def __init__(self, line: Callable[[int], bytes], places: array[int], make: Callable[[Any], Thing]) -> None:
        self._line, self._places, self._make = line, places, make
        self._last: tuple[int, Thing] | None = None

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, at: int) -> Thing: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[Thing]: ...
    def __getitem__(self, at: int | slice) -> Thing | Sequence[Thing]:
        if isinstance(at, slice):
            return OnDemand(self._line, self._places[at], self._make)
        place, last = self._places[at], self._last
        if last is None or last[0] != place:
            last = self._last = place, self._make(json.loads(self._line(place)))
        return last[1]

    def __iter__(self) -> Iterator[Thing]:
        return (self._make(json.loads(self._line(place))) for place in self._places)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or len(self) != len(other):
            return False
        return all(one == two for one, two in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]


def spooled(rows: Iterable[object], make: Callable[[Any], Thing]) -> OnDemand[Thing]:
    """Write `rows` into a temporary file, which is gone with this process, and have `make` make things of them.

    Raises ResourceError.
    """
    places, end = array("Q"), 0
    try:
        with tempfile.TemporaryFile() as file:
            for row in rows:
                line = json.dumps(row).encode() + b"\n"
                file.write(line)
                places.append(end)
                end += len(line)
            file.flush()
            return OnDemand(_Lines(os.dup(file.fileno())), places, make)
    except OSError as error:
        raise disk_error(error, tempfile.gettempdir()) from error


class _Lines:
    """The line of an open file that begins at a place. What stands beside it is mostly asked for next."""

    def __init__(self, file: int) -> None:
        self._file, self._reading = os.fdopen(file, "rb", _BLOCK), threading.Lock()
        weakref.finalize(self, self._file.close)

    def __call__(self, place: int) -> bytes:
        with self._reading:
            self._file.seek(place)
            return self._file.readline()
