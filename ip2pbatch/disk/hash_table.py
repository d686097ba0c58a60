"""Numbers by a key that is not held: eight bytes a slot, some thirteen a number.

    table = HashTable()
    first = table.setdefault(hash(name), number, lambda other: names[other] == name)     # `number` where it is new

A hash only says where to look. Whether a number found there has the key is asked of the caller, who can tell.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable

_LOW = 0xFFFF_FFFF  # bits of a slot for the number, and as many above them for the hash
_SLOTS = 256


class HashTable:
    """Numbers below 2³² − 1 by the hashes of their keys. Open addressing: a slot that is taken sends on to the next."""

    def __init__(self) -> None:
        self._slots = array("Q", [0]) * _SLOTS
        self._held = 0

    def __len__(self) -> int:
        return self._held

    def get(self, hashed: int, has_key: Callable[[int], bool]) -> int | None:
        """The number with this hash that `has_key`; None where there is none."""
        slots, bits = self._slots, hashed & _LOW
        at = bits & (len(slots) - 1)
        while entry := slots[at]:
            if entry >> 32 == bits and has_key((entry & _LOW) - 1):
                return (entry & _LOW) - 1
            at = (at + 1) & (len(slots) - 1)
        return None

    def setdefault(self, hashed: int, number: int, has_key: Callable[[int], bool]) -> int:
        """The number that has the key already; else `number`, which has it from now on."""
        found = self.get(hashed, has_key)
        if found is not None:
            return found
        self.add(hashed, number)
        return number

    def add(self, hashed: int, number: int) -> None:
        """A number whose key no other has."""
        self._put((hashed & _LOW) << 32 | number + 1)
        self._held += 1
        if self._held * 4 > len(self._slots) * 3:
            self._grow()

    def _put(self, entry: int) -> None:
        slots = self._slots
        at = entry >> 32 & (len(slots) - 1)
        while slots[at]:
            at = (at + 1) & (len(slots) - 1)
        slots[at] = entry

    def _grow(self) -> None:
        before, self._slots = self._slots, array("Q", [0]) * (2 * len(self._slots))
        for entry in before:
            if entry:
                self._put(entry)
