"""Some of a plan's Edits, by their numbers in it: held as a byte for each that the plan has."""

from __future__ import annotations

from collections.abc import Iterable, Iterator


class Marked:
    """Numbers below `most`: a byte for each that there might be, whether it is one of them or not."""

    def __init__(self, most: int, numbers: Iterable[int] = ()) -> None:
        self._flags, self._held = bytearray(most), 0
        for number in numbers:
            self.add(number)

    def __len__(self) -> int:
        return self._held

    def __contains__(self, number: int) -> bool:
        return bool(self._flags[number])

    def __iter__(self) -> Iterator[int]:
        number = self.after(0)
        while number is not None:
            yield number
            number = self.after(number + 1)

    def after(self, number: int) -> int | None:
        """The first one that is not before `number`."""
        found = self._flags.find(1, number)
        return None if found < 0 else found

    def add(self, number: int) -> None:
        self._held += not self._flags[number]
        self._flags[number] = 1

    def discard(self, number: int) -> None:
        self._held -= self._flags[number]
        self._flags[number] = 0
