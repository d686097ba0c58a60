"""The numbers of a run's photos, which readers and the writer look at alike."""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from ip2pbatch.disk.hash_table import HashTable
from ip2pbatch.disk.journal import Damage, state_of
from ip2pbatch.disk.row_index import Rows
from ip2pbatch.run.directory.layout import Layout
from ip2pbatch.run.directory.lines import NUMBERED, Numbered


class PhotoNumbers(Mapping[str, int]):
    """The `{n}` of each photo by its name, which is read where it stands. Two photos never share one: where a damaged
    line says so, the first has it. Iterates in the order in which they were given.
    """

    def __init__(self, path: Path, damage: list[Damage] | None = None) -> None:
        self._rows, self._places, self._numbers = Rows(), array("Q"), array("Q")
        self._by_name, self._by_number = HashTable(), HashTable()
        self._path, self.state, self._lines, self._dense = path, state_of(path), Rows(), 0
        self._rows.open(path)
        self._enter(self._lines.read(path, NUMBERED, damage))

    def _enter(self, rows: Iterable[tuple[int, Numbered]]) -> None:
        for place, row in rows:
            if self._find(row.photo) is None and not self.is_taken(row.n):
                self._places.append(place)
                self._numbers.append(row.n)
                self._by_name.add(hash(row.photo), len(self._by_name))
                self._by_number.add(hash(row.n), len(self._by_number))

    def goes_on(self) -> bool:
        """Read what was added to the file since; False where it is another one by now, or shorter."""
        now, then = state_of(self._path), self.state
        if now is None or then is None or now[0] != then[0] or now[1] < then[1]:
            return False
        if now != then:
            self._rows.read_anew()
            self._enter(self._lines.more(self._path, NUMBERED))
            self.state = now
        return True

    def __getitem__(self, photo: str) -> int:
        found = self._find(photo)
        if found is None:
            raise KeyError(photo)
        return self._numbers[found]

    def __iter__(self) -> Iterator[str]:
        return map(self._name, range(len(self._numbers)))

    def __len__(self) -> int:
        return len(self._numbers)

    def is_taken(self, number: int) -> bool:
        """Whether some photo has this number."""
        return self._by_number.get(hash(number), lambda at: self._numbers[at] == number) is not None

    def given(self, photos: Iterable[str]) -> Iterator[tuple[str, int]]:
        """Numbers for those of some different photos that have none yet: the lowest free ones, in order. Free below
        others are those alone whose lines were damaged: they are given to the same photos again.
        """
        while self.is_taken(self._dense + 1):  # a run that is asked for more and more does not count from 1 each time
            self._dense += 1
        free = (number for number in itertools.count(self._dense + 1) if not self.is_taken(number))
        return zip((name for name in photos if self._find(name) is None), free, strict=False)

    def _find(self, photo: str) -> int | None:
        return self._by_name.get(hash(photo), lambda at: self._name(at) == photo)

    def _name(self, at: int) -> str:
        row = NUMBERED(self._rows.line(self._places[at]))
        assert row is not None, "it was read before"
        return row.photo


def read_numbers(
    layout: Layout, damage: list[Damage] | None = None, earlier: PhotoNumbers | None = None
) -> PhotoNumbers:
    """The `{n}` of each photo; of what was read `earlier` only what was added to it since is read."""
    if earlier is not None and earlier.goes_on():
        return earlier
    return PhotoNumbers(layout.numbers, damage)
