"""Whose turn is next, whatever is dealt: groups that shrink towards the end, and what a worker ended over, alone."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter, defaultdict, deque
from typing import Generic, TypeVar

_SHARES = 2  # of what is left, a worker gets one part in this many a worker: it shrinks, and no one gets the long end
_DEATHS = 3  # workers that may end over one key

Key = TypeVar("Key")


class Portions(Generic[Key]):
    """Deals keys, of which each weighs something; together they weigh `weight`, and a group `most` at most.

    What comes back is dealt again after everything else, each key alone: what ended its worker is then known.
    """

    def __init__(self, most: int, weight: int) -> None:
        self._heaviest, self._weight = most, weight
        self._queue = deque[Key]()
        self._again = deque[Key]()
        self._deaths: Counter[Key] = Counter()
        self._reasons: dict[Key, list[str]] = defaultdict(list)

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits to be dealt."""
        return not self._queue and not self._again and not self.is_looking

    @property
    def is_looking(self) -> bool:
        """Whether there may be keys that do not stand in the queue yet."""
        return False

    @abstractmethod
    def _weigh(self, key: Key) -> int | None:
        """What is left to do of a key, None where nothing is, not even what weighs nothing."""

    def _fill(self) -> None:
        """Put the next keys into the queue where it is empty."""

    def _draw(self, workers: int) -> tuple[Key, ...]:
        """The next keys for one of so many workers."""
        most = self._most(workers)
        taken: list[Key] = []
        weight = 0
        while weight < most and len(taken) < self._heaviest and (key := self._head()) is not None:
            if self._deaths[key] and taken:
                break
            (self._queue or self._again).popleft()
            own = self._weigh(key)
            if own is not None:
                self._weight -= own
                weight += own
                taken.append(key)
            if self._deaths[key] and taken:
                break
        return tuple(taken)

    def _head(self) -> Key | None:
        """The next key: what comes back comes after all others."""
        self._fill()
        if not self._queue and self.is_looking:
            return None
        return next(iter(self._queue or self._again), None)

    def _most(self, workers: int) -> int:
        """What the next group weighs at most."""
        return max(1, min(self._heaviest, self._weight // (_SHARES * workers)))

    def _return(self, key: Key, weight: int, reason: str, what: str) -> str:
        """A worker that had a key is gone, and `reason` says how, where the key may be to blame for it ("" else). Why
        it does not come back, where too many have ended over it: `what` it is called.
        """
        if reason:
            self._deaths[key] += 1
            self._reasons[key].append(reason)
        if self._deaths[key] >= _DEATHS:
            return f"{_DEATHS} workers ended over this {what}: {'; '.join(self._reasons[key])}"
        self._again.append(key)
        self._weight += weight
        return ""
