"""What jobs say while they work for a page: the last sentences are kept, and what takes a moment is named."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from ip2pbatch.plan.edits import Plan
from ip2pbatch.run.events import Events, Quiet
from ip2pbatch.run.stop import Stop

log = logging.getLogger("ip2pbatch.jobs")


@dataclass(slots=True)
class Voiced:
    """A Voice: `changed` hears of each word; `events` and `asked` are the run's and what stops it."""

    changed: Callable[[], None]
    events: Events = field(default_factory=Quiet)
    asked: Stop = field(default_factory=Stop)
    said: deque[str] = field(default_factory=lambda: deque(maxlen=20))
    at: str = ""

    def note(self, text: str) -> None:
        log.info("%s", text)
        self._say(text)

    def warn(self, text: str) -> None:
        log.warning("%s", text)
        self._say(text)

    def _say(self, text: str) -> None:
        self.said.append(text)
        self.changed()

    @contextmanager
    def busy(self, text: str) -> Iterator[None]:
        self.at = text
        self.changed()
        try:
            yield
        finally:
            self.at = ""
            self.changed()

    @contextmanager
    def counting(self, text: str, total: int) -> Iterator[Callable[[], None]]:
        with self.busy(text):
            yield lambda: None

    @contextmanager
    def progress(self, plan: Plan) -> Iterator[Events]:
        yield self.events

    @contextmanager
    def stop(self) -> Iterator[Stop]:
        yield self.asked
