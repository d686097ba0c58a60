"""Which files of a watched folder have stopped growing: the folder is the queue.

arrivals = Arrivals(settle=2.0)
while True:
    lookout.look()                                       # tells `arrivals` what it comes by
    with arrivals.poll() as whole:                       # at most `most` files, each handed out once
        ...                                              # an exception here gives them back
    time.sleep(0.5)
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ip2pbatch.plan.folder_walk import File, is_better, nfc, shot_of
from ip2pbatch.plan.memory import stamp
from ip2pbatch.plan.photos import one_name
from ip2pbatch.plan.unedited import Broken, Tally
from ip2pbatch.plan.written.recipe import Pairs
from ip2pbatch.run.incoming.sightings import Mark, Sightings

ROOM = 10_000  # files that wait to be handed out; what is more stays in the folder


@dataclass(slots=True)
class _Waiting:
    name: str
    mark: Mark
    there: int  # since when, in ns
    since: float
    broken: Broken | None


@dataclass(slots=True)
class Whole:
    """What is handed out: photos, and what cannot be one with the reason."""

    files: list[File] = field(default_factory=list)
    broken: list[Broken] = field(default_factory=list)


class Arrivals:
    """Remembers a mark a file. One that is not changed for `settle` seconds is whole, and is handed out once a mark.

    `most` files are handed out a poll. `clock` counts seconds. Of two files of one name the one that has been there
    longer is a photo and the other is broken, as long as the first is there; of a shot the file that `pairs` says.
    """

    def __init__(
        self, settle: float, *, most: int = 64, room: int = ROOM, pairs: Pairs = "jpeg",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._settle, self._most, self._room, self._pairs, self.clock = settle, most, room, pairs, clock
        self.rivals: Callable[[str, str], list[str]] = lambda name, path: []
        self.sightings = Sightings()
        self._waiting: dict[str, _Waiting] = {}  # those there for the longest first
        self.news = 0
        self._last = clock()

    def close(self) -> None:
        """Forget everything."""
        self.sightings.close()

    def see(self, name: str, path: str, status: os.stat_result, passed: Tally, broken: Broken | None = None) -> None:
        """A file is there, which is `broken` where it cannot be a photo; what of a shot is not edited is `passed`."""
        mark, known = _mark(status), self.sightings.get(path)
        if known is not None and known.mark == mark:
            if known.behind is None:
                return
            if os.path.lexists(known.behind):
                if _folded(known.behind) != _folded(path):
                    passed.add("twin", name)
                return
        self._wait(path, name, status, broken)

    def gone(self, path: str) -> list[str]:
        """A file is not there any more; those that were not edited because of it are to be looked at again."""
        if self._waiting.pop(path, None):
            self.sightings.forget(path)
        return self.sightings.hidden_by(path)

    @property
    def waiting(self) -> int:
        """Files that are there and not dealt with: still growing, or more than one poll takes."""
        return len(self._waiting)

    @property
    def has_room(self) -> bool:
        """Whether more files are to be looked for before some of these are dealt with."""
        return len(self._waiting) < self._room

    @property
    def idle(self) -> float:
        """Seconds since a file came, changed or was dealt with."""
        return self.clock() - self._last

    def _wait(self, path: str, name: str, status: os.stat_result, broken: Broken | None) -> None:
        mark = _mark(status)
        self.sightings.put(path, name, mark, status.st_ctime_ns)
        self._waiting.pop(path, None)
        self._waiting[path] = _Waiting(name, mark, status.st_ctime_ns, self.clock(), broken)
        self._tell()

    def _tell(self) -> None:
        self._last, self.news = self.clock(), self.news + 1

    @contextmanager
    def poll(self) -> Iterator[Whole]:
        """Those that are whole by now. When the block ends in order, they count as dealt with."""
        whole = Whole()
        taken = self._take(whole)
        yield whole
        for path in taken:
            del self._waiting[path]
        if whole.files or whole.broken:
            self._tell()

    def _take(self, whole: Whole) -> list[str]:
        """Until there are enough: those there for the longest come first, and the others need not be looked at."""
        taken: list[str] = []
        for path, waiting in list(self._waiting.items()):
            if len(taken) == self._most or waiting.since + self._settle > self.clock():
                break
            status = _status(path, waiting)
            if status is None:  # it went before it was whole
                self.gone(path)
            elif _mark(status) != waiting.mark:
                self._wait(path, waiting.name, status, waiting.broken)
            elif self._is_next(path, waiting, status, whole):
                taken.append(path)
            else:
                del self._waiting[path]
        return taken

    def _is_next(self, path: str, waiting: _Waiting, status: os.stat_result, whole: Whole) -> bool:
        """Whether it is handed out, as part of `whole`: not where another file of its shot is edited in its place."""
        if waiting.broken is not None:
            whole.broken.append(waiting.broken)
            return True
        if better := self._better(waiting.name, path):
            self.sightings.hide(path, better)
            return False
        if holder := self._holder(path, waiting):
            self.sightings.hide(path, holder)
            whole.broken.append(Broken(waiting.name, Path(path), one_name(holder, path)))
            return True
        whole.files.append((waiting.name, path, status))
        return True

    def _better(self, name: str, path: str) -> str | None:
        """The file of the same shot that is edited in the place of this one: one that was seen, or just came."""
        own = shot_of(name)
        if own is None:
            return None
        seen = ((shot_of(folded) or own, other) for folded, other in self.sightings.of_shot(name))
        better = (other for (stem, rank), other in seen if stem == own[0] and is_better(rank, own[1], self._pairs))
        return next((other for other in (*better, *self.rivals(name, path)) if os.path.lexists(other)), None)

    def _holder(self, path: str, waiting: _Waiting) -> str | None:
        """The file that has the name of this one: one that was dealt with, else the one that is there for longest."""
        others = [one for one in self.sightings.of_name(waiting.name) if one[1] != path and os.path.lexists(one[1])]
        dealt = [other for _, other in others if other not in self._waiting]
        if dealt:
            return dealt[0]
        first = min((*others, (waiting.there, path)))[1]
        return None if first == path else first


def _mark(status: os.stat_result) -> Mark:
    return status.st_ino, *stamp(status)


def _folded(path: str) -> str:
    return nfc(path).casefold()


def _status(path: str, waiting: _Waiting) -> os.stat_result | None:
    """As it is now, by its own name where it is broken; None where it went."""
    try:
        return os.lstat(path) if waiting.broken else os.stat(path)  # noqa: PTH116 (thousands of them)
    except OSError:
        return None
