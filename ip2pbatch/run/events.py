"""What a run tells while it goes on, to whoever listens: a terminal, a notebook, a machine, nobody."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Protocol

from ip2pbatch.plan.edits import Edit
from ip2pbatch.plan.limits import Limits
from ip2pbatch.run.directory.lines import Delivery, Record
from ip2pbatch.run.pace import Ahead

if TYPE_CHECKING:
    from ip2pbatch.run.engine import Preview


class Events(Protocol):
    """What a run tells while it goes on. Called from several threads, one at a time; keep it short."""

    def started(self, left: int, done: int) -> None:
        """So many Edits are left to make, and so many were done before."""
        ...

    def finished(self, edit: Edit, record: Record) -> None:
        """An Edit is on the disk, or has failed."""
        ...

    def delivered(self, delivery: Delivery) -> None:
        """A file is in the photographer's folder."""
        ...

    def ahead(self, ahead: Ahead) -> None:
        """So much is left, told after each edit and each file."""
        ...

    def shrunk(self, limits: Limits) -> None:
        """Memory ran out and the engine now takes less at once."""
        ...

    def stepped(self, done: int, of: int, preview: Preview) -> None:
        """The network was asked for step `done` of `of` of a batch; `preview`, when called, shows it so far."""
        ...

    def note(self, text: str) -> None:
        """Something a person may want to know, in one plain sentence."""
        ...


class Quiet:
    """Events that nobody listens to."""

    def started(self, left: int, done: int) -> None: ...
    def finished(self, edit: Edit, record: Record) -> None: ...
    def delivered(self, delivery: Delivery) -> None: ...
    def ahead(self, ahead: Ahead) -> None: ...
    def shrunk(self, limits: Limits) -> None: ...
    def stepped(self, done: int, of: int, preview: Preview) -> None: ...
    def note(self, text: str) -> None: ...


Counting = Callable[[int], AbstractContextManager[Callable[[], None]]]
"""Around work on so many things; what it gives is called after each."""


@contextmanager
def uncounted(total: int) -> Iterator[Callable[[], None]]:
    """Work that nobody counts."""
    yield lambda: None


class OneAtATime:
    """Events that several threads tell and that hear one of them at a time."""

    def __init__(self, events: Events) -> None:
        self._events, self._lock = events, threading.Lock()

    def started(self, left: int, done: int) -> None:
        with self._lock:
            self._events.started(left, done)

    def finished(self, edit: Edit, record: Record) -> None:
        with self._lock:
            self._events.finished(edit, record)

    def delivered(self, delivery: Delivery) -> None:
        with self._lock:
            self._events.delivered(delivery)

    def ahead(self, ahead: Ahead) -> None:
        with self._lock:
            self._events.ahead(ahead)

    def shrunk(self, limits: Limits) -> None:
        with self._lock:
            self._events.shrunk(limits)

    def stepped(self, done: int, of: int, preview: Preview) -> None:
        with self._lock:
            self._events.stepped(done, of, preview)

    def note(self, text: str) -> None:
        with self._lock:
            self._events.note(text)
