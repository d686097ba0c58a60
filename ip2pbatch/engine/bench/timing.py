"""Order and spread: how passes are interleaved so that a drifting machine favours nobody, and what is said of them."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Turn:
    """One place in the order: `pair` counts how often this contender has had its turn before it."""

    contender: str
    pair: int


def mirrored(contenders: Sequence[str], rounds: int) -> Iterator[Turn]:
    """ABBA for any number of contenders: each round goes through them forwards, then backwards.

    A machine that grows slower or faster at a steady pace adds the same to everybody's mean, and the n-th turns of
    two contenders lie as near to each other as they can.
    """
    for turn in range(rounds):
        for name in contenders:
            yield Turn(name, 2 * turn)
        for name in reversed(contenders):
            yield Turn(name, 2 * turn + 1)


@dataclass(frozen=True, slots=True)
class Spread:
    """Median, smallest and largest of `count` values."""

    median: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(statistics.median(values), min(values), max(values), len(values))

    def show(self, digits: int = 2) -> str:
        """`3.10 (2.95–3.20)`; the median alone where there is one value."""
        middle = f"{self.median:,.{digits}f}"
        return middle if self.count == 1 else f"{middle} ({self.low:,.{digits}f}–{self.high:,.{digits}f})"


def ratios(base: Sequence[float], other: Sequence[float]) -> Spread | None:
    """How many times faster `other` is than `base`, pair by pair of neighbouring turns; None where there is none."""
    pairs = [slow / fast for slow, fast in zip(base, other, strict=False)]
    return Spread.of(pairs) if pairs else None
