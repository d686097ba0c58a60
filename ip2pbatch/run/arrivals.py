"""Which files of a watched folder have stopped growing: the folder is the queue, and it is asked again and again.

arrivals = Arrivals(settle=2.0)
while True:
    with arrivals.poll() as ready:                       # at most `most` files, each handed out once
        found = scan([folder], wanted=ready)
        ...                                              # an exception here gives them back
    time.sleep(0.5)
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ip2pbatch.plan.memory import stamp

Mark = tuple[int, ...]  # inode, then the size and the times that move when a file changes


@dataclass(slots=True)
class _File:
    mark: Mark
    since: float
    seen: int
    handed: bool = False


class Arrivals:
    """Remembers a mark a file. One that is not changed for `settle` seconds is ready, and is handed out once a mark.

    `most` files are handed out a poll: what is more stays in the folder. `clock` counts seconds. `polls` are the looks
    so far.
    """

    def __init__(self, settle: float, *, most: int = 64, clock: Callable[[], float] = time.monotonic) -> None:
        self._settle, self._most, self._clock = settle, most, clock
        self._files: dict[str, _File] = {}
        self._batch: list[str] = []
        self.polls = 0
        self._last = clock()
        self.vanished: tuple[str, ...] = ()

    @contextmanager
    def poll(self) -> Iterator[Callable[[str, os.stat_result], bool]]:
        """One look at the folder: to be asked about every file in it, and answering whether it is ready.

        When the block ends in order, what was handed out counts as dealt with, and `vanished` are the files of
        earlier polls that were not asked about.
        """
        self.polls += 1
        self._batch = []
        yield self._ready
        for path in self._batch:
            self._files[path].handed = True
        if self._batch:
            self._last = self._clock()
        self.vanished = tuple(path for path, file in self._files.items() if file.seen != self.polls)
        for path in self.vanished:
            del self._files[path]

    def again(self, paths: Iterable[str]) -> None:
        """Hand these out once more: what kept them from being edited may be gone."""
        for path in paths:
            if file := self._files.get(path):
                file.handed = False

    @property
    def waiting(self) -> int:
        """Files that are there and not dealt with: still growing, or more than one poll takes."""
        return sum(not file.handed for file in self._files.values())

    @property
    def idle(self) -> float:
        """Seconds since a file came, changed or was dealt with."""
        return self._clock() - self._last

    def _ready(self, path: str, status: os.stat_result) -> bool:
        mark, now = (status.st_ino, *stamp(status)), self._clock()
        file = self._files.get(path)
        if file is None or file.mark != mark:
            self._files[path] = _File(mark, now, self.polls)
            self._last = now
            return False
        file.seen = self.polls
        if file.handed or now - file.since < self._settle or len(self._batch) >= self._most:
            return False
        self._batch.append(path)
        return True
