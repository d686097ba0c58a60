"""Threads that carry finished pictures to the photographer's folder while the engine goes on."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from ip2pbatch.run.stop import Flag

_GROUP = 32  # files that one courier has appear together
_SECONDS = 0.5  # after which those that are ready wait for no others

Errand = TypeVar("Errand")
Ready = TypeVar("Ready")


class Couriers(Generic[Errand, Ready]):
    """Runs errands in threads: those sent while the run goes on first, then the backlog, drawn one by one. Each is
    prepared alone; what is ready, None where there is nothing, is placed with what waited behind it and became ready
    soon after.

    An errand that raises stops all couriers; `trouble` is then the reason, and nothing further is begun. `after` is
    called when an errand is done and no longer among those that are `left`.
    """

    def __init__(
        self, prepare: Callable[[Errand], Ready | None], place: Callable[[list[Ready]], None],
        backlog: Iterable[Errand] = (), *, threads: int, after: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        self._prepare, self._place, self._after = prepare, place, after
        self._sent: deque[Errand] = deque()
        self._backlog: deque[Errand] = deque()
        self._under_way = 0
        self._news = threading.Condition()
        self._over = self._abandoned = self._surveyed = False
        self.trouble: BaseException | None = None
        self._threads = [
            threading.Thread(target=self._work, args=(backlog if number == 0 else None,), name=f"deliver-{number}")
            for number in range(threads)
        ]

    def start(self) -> None:
        """Begin with the backlog."""
        for thread in self._threads:
            thread.daemon = True
            thread.start()

    @property
    def left(self) -> int | None:
        """Errands that wait or are under way; None as long as the backlog has not been looked through."""
        with self._news:
            return len(self._sent) + len(self._backlog) + self._under_way if self._surveyed else None

    def send(self, errands: Iterable[Errand]) -> None:
        """More to carry."""
        with self._news:
            self._sent.extend(errands)
            self._news.notify_all()

    def finish(self, stop: Flag) -> None:
        """Nothing more will be sent: wait until all is carried, or until `stop` is set and those under way are done."""
        with self._news:
            self._over = True
            self._news.notify_all()
        while any(thread.is_alive() for thread in self._threads):
            if stop.is_set():
                self.abandon()
            for thread in self._threads:
                thread.join(0.05)

    def abandon(self) -> None:
        """Begin nothing further; `finish` then waits only for what is under way."""
        with self._news:
            self._sent.clear()
            self._backlog.clear()
            self._over = self._abandoned = True
            self._news.notify_all()

    def _next(self, *, wait: bool = True) -> Errand | None:
        """None at the end, or where there is nothing and nobody would `wait` for it."""
        with self._news:
            while True:
                if waiting := self._sent or self._backlog:
                    self._under_way += 1
                    return waiting.popleft()
                if not wait or (self._over and self._surveyed):
                    return None
                self._news.wait()

    def _survey(self, backlog: Iterable[Errand]) -> None:
        """Look for what is due, which takes a look at the disk for each, while other threads carry it already."""
        for errand in backlog:
            with self._news:
                if self._abandoned:
                    break
                self._backlog.append(errand)
                self._news.notify()
        with self._news:
            self._surveyed = True
            self._news.notify_all()

    def _carry(self, first: Errand) -> None:
        """An errand, and those that wait behind it as long as what is ready need not wait for long."""
        ready: list[Ready] = []
        errand: Errand | None = first
        end = time.monotonic() + _SECONDS
        while errand is not None:
            one = self._prepare(errand)
            if one is None:
                self._ended(1)
            else:
                ready.append(one)
            full = len(ready) == _GROUP or time.monotonic() > end
            errand = None if full else self._next(wait=False)
        if ready:
            self._place(ready)
            self._ended(len(ready))

    def _ended(self, errands: int) -> None:
        for _ in range(errands):
            with self._news:
                self._under_way -= 1
            self._after()

    def _work(self, backlog: Iterable[Errand] | None) -> None:
        try:
            if backlog is not None:
                self._survey(backlog)
            while (errand := self._next()) is not None:
                self._carry(errand)
        # Whatever it is, the main thread must hear of it: an exception in a thread is otherwise lost.
        except BaseException as error:
            self.trouble = self.trouble or error
            self._surveyed = True
            self.abandon()
