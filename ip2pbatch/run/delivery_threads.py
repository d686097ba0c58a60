"""Threads that carry finished pictures to the photographer's folder while the engine goes on."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

from ip2pbatch.run.stop import Flag

Errand = TypeVar("Errand")


class Couriers(Generic[Errand]):
    """Runs errands in threads: those sent while the run goes on first, then the backlog, drawn one by one.

    An errand that raises stops all couriers; `trouble` is then the reason, and nothing further is begun.
    """

    def __init__(self, run: Callable[[Errand], None], backlog: Iterable[Errand] = (), *, threads: int) -> None:
        self._run = run
        self._sent: deque[Errand] = deque()
        self._backlog: Iterator[Errand] = iter(backlog)
        self._news = threading.Condition()
        self._over = False
        self.trouble: BaseException | None = None
        self._threads = [
            threading.Thread(target=self._work, name=f"deliver-{number}", daemon=True) for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

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
            self._backlog = iter(())
            self._over = True
            self._news.notify_all()

    def _next(self) -> Errand | None:
        with self._news:
            while True:
                if self._sent:
                    return self._sent.popleft()
                for errand in self._backlog:
                    return errand
                if self._over:
                    return None
                self._news.wait()

    def _work(self) -> None:
        try:
            while (errand := self._next()) is not None:
                self._run(errand)
        # Whatever it is, the main thread must hear of it: an exception in a thread is otherwise lost.
        except BaseException as error:
            self.trouble = self.trouble or error
            self.abandon()
