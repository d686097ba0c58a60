"""The calls to an engine: in parts that it takes, in smaller ones where memory runs out, one by one where it breaks."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ip2pbatch.errors import Ip2pError, ResourceError
from ip2pbatch.plan.edits import Edit
from ip2pbatch.run.directory.ledger import Run
from ip2pbatch.run.engine import EditEngine, OutOfMemory, Pending, Preview, Result, Source, Stopped
from ip2pbatch.run.events import Events
from ip2pbatch.run.stop import Stop
from ip2pbatch.run.utilisation import Busy

_BREAKS = 20  # calls that break one after another before the engine, and not the pictures, is to blame

Job = tuple[Edit, Source]
Made = tuple[Edit, Source, Result, float]
log = logging.getLogger("ip2pbatch.run")


@dataclass(frozen=True, slots=True)
class _UnderWay:
    """Jobs that an engine has begun, when, and what waits for their Results."""

    jobs: list[Job]
    pending: Pending
    at: float


class Calls:
    """Has `engine` make jobs, and is its Hook. `failed` hears of an Edit that the engine cannot make, and why.

    `shrunk` counts how often memory ran out.
    """

    def __init__(
        self, engine: EditEngine, run: Run, events: Events, stop: Stop, busy: Busy, clock: Callable[[], float],
        failed: Callable[[Edit, str], None],
    ) -> None:  # fmt: skip
        self.engine, self._run, self._events, self._stop = engine, run, events, stop
        self._busy, self._clock, self._failed = busy, clock, failed
        self.shrunk = self._breaks = 0
        self._parts: deque[list[Job]] = deque()
        self._under_way: _UnderWay | None = None
        self._read = clock()

    @property
    def waiting(self) -> bool:
        """Whether something is under way whose Results are still to be asked for."""
        return self._under_way is not None

    def make(self, jobs: list[Job]) -> Iterator[Made]:
        """Begin each job, and give what was begun before it; where the engine does not overlap, what is begun as well.

        Out of memory: smaller calls. A call that breaks: one by one.
        """
        if jobs:
            self._parts.append(jobs)
        while not self._stop.asked.is_set() and (self._parts or (self._under_way and not jobs)):
            begun = self._begin_next() if self._parts else None
            before, self._under_way = self._under_way, begun
            yield from self._results_of(before)
            if not self.engine.limits.overlaps:
                yield from self.collect()

    def collect(self) -> Iterator[Made]:
        """What is under way."""
        before, self._under_way = self._under_way, None
        yield from self._results_of(before)

    def step(self, done: int, of: int, preview: Preview) -> bool:
        """Hear of a network step, as the engine's Hook: whether to go on to the next one."""
        self._events.stepped(done, of, preview)
        return not self._stop.now.is_set()

    def _begin_next(self) -> _UnderWay | None:
        """Have the engine begin the first part; None where it has to be made in another way first."""
        part, limit = self._parts.popleft(), max(1, self.engine.limits.batch)
        self._parts.extendleft(part[start : start + limit] for start in reversed(range(limit, len(part), limit)))
        now, part, pending = self._clock(), part[:limit], None
        with self._answering(part), self._busy.at("model"):
            pending = self.engine.begin([edit for edit, _ in part], [source for _, source in part], self)
        return _UnderWay(part, pending, now) if pending is not None else None

    def _results_of(self, begun: _UnderWay | None) -> Iterator[Made]:
        """The Results of what was begun, and the seconds that each took."""
        results: list[Result] | None = None
        if begun is not None:
            with self._answering(begun.jobs), self._busy.at("model"):
                results = begun.pending()
        if begun is None or results is None:
            return
        self._breaks = 0
        now = self._clock()
        seconds = (now - max(begun.at, self._read)) / len(results)
        self._read = now
        for (edit, source), result in zip(begun.jobs, results, strict=True):
            yield edit, source, result, seconds

    @contextmanager
    def _answering(self, part: list[Job]) -> Iterator[None]:
        """Have a part that ran out of memory, or that broke, made again in another way: it comes first then."""
        try:
            yield
        except (OutOfMemory, MemoryError) as error:
            self._shrink(error)
            self._parts.appendleft(part)
        except Stopped:
            log.info("stopped between two steps of %d edits", len(part))
        except Ip2pError:
            raise
        except Exception as error:
            self._broken(part, error)
            self._parts.extendleft([job] for job in reversed(part) if len(part) > 1)

    def _broken(self, part: list[Job], error: Exception) -> None:
        """The engine broke on a call: alone, that is a failed row; too often in a row, it is the end of the run."""
        log.exception("editing %s", ", ".join(edit.key for edit, _ in part))
        self._breaks += 1
        if len(part) == 1:
            self._failed(part[0][0], f"the engine failed: {error or type(error).__name__}")
        if self._breaks >= _BREAKS:
            raise error

    def _shrink(self, error: BaseException) -> None:
        """Have the engine take less at once. Raises ResourceError where it cannot, or where that is not allowed."""
        if self._run.spec.determinism == "bitwise":
            raise ResourceError(
                "out of memory, and a smaller batch would change the pictures",
                hint="use a smaller --batch from the start, a smaller size, or --determinism stable",
            ) from error
        if not self.engine.shrink():
            raise ResourceError(
                "out of memory at the smallest batch", hint="choose a smaller size, or close other programs"
            ) from error
        self.shrunk += 1
        self._run.note("shrunk", batch=self.engine.limits.batch, rows=self.engine.limits.default_rows)
        log.warning("out of memory (%s): now %d edits a call", error, self.engine.limits.batch)
        self._events.shrunk(self.engine.limits)
