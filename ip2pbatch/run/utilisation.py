"""What the thread that drives the model spends its time on, once the model is warm."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

Work = Literal["model", "photos", "disk"]


class Busy:
    """Shares of the time from the end of the model's first call to the end of its last: loading and warming up, and
    what is written after the last picture, are left out. For one thread.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._warm: float | None = None
        self._spent: dict[Work, float] = {"model": 0.0, "photos": 0.0, "disk": 0.0}
        self._pending: dict[Work, float] = {"photos": 0.0, "disk": 0.0}
        self._end = 0.0

    @contextmanager
    def at(self, work: Work) -> Iterator[None]:
        """The model works, or waits for photos to be loaded or for pictures to be written."""
        begun = self._clock()
        try:
            yield
        finally:
            self._count(work, begun, self._clock())

    def shares(self) -> dict[str, float]:
        """Share of the time for each kind of work, 0 to 1; empty where the model was called once at most."""
        time = self._end - (self._warm or 0.0)
        if self._warm is None or time <= 0:
            return {}
        return {work: round(min(1.0, seconds / time), 4) for work, seconds in self._spent.items()}

    def _count(self, work: Work, begun: float, ended: float) -> None:
        if work != "model":
            if self._warm is not None:
                self._pending[work] += ended - begun
            return
        if self._warm is None:
            self._warm = self._end = ended
            return
        self._end = ended
        self._spent["model"] += ended - begun
        for waited in self._pending:  # what is waited for after the last call counts for nothing
            self._spent[waited] += self._pending[waited]
            self._pending[waited] = 0.0
