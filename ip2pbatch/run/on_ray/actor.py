"""The far end: a worker in a process that Ray started on some node. What is said goes through a mailbox.

Ray carries words alone. Photos are read, and pictures written, on the disk that all nodes share.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import socket
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import ip2pbatch
from ip2pbatch.run.devices.far_end import FarEnd
from ip2pbatch.run.devices.wire import Beat, Entry

OWN = ("ip2pbatch", "python")
"""What has a version and is no distribution that one asks for by its name."""


_COMPANY = 0.05  # seconds that what nobody waits for stays until something else is said: a call costs the driver more


def _is_urgent(word: object) -> bool:
    return word.is_urgent if isinstance(word, Entry) else not isinstance(word, Beat)


class Mailbox:
    """The worker's end of the line: what it is told is put in by two threads, what it says is taken out by one."""

    def __init__(self, first: object) -> None:
        self._told: dict[int, object] = {}
        self._heard = 0
        self._said: list[object] = [first]
        self._news, self._over = threading.Condition(), False

    def say(self, message: object) -> None:
        """For the driver, who takes it when it asks for the next time. Of signs of life it gets the last alone."""
        with self._news:
            if isinstance(message, Beat) and self._said and isinstance(self._said[-1], Beat):
                self._said.pop()
            self._said.append(message)
            self._news.notify_all()

    def hear(self) -> Any:
        """What the driver told it next."""
        with self._news:
            self._news.wait_for(lambda: self._heard in self._told)
            self._heard += 1
            return self._told.pop(self._heard - 1)

    def put(self, messages: Sequence[object], before: int) -> None:
        """Tell it something, after the messages `before`, which may still be on their way."""
        with self._news:
            self._told.update(enumerate(messages, before))
            self._news.notify_all()

    def take(self) -> list[object]:
        """What it has said since; waits for something. Nothing says that it has ended."""
        with self._news:
            self._news.wait_for(lambda: self._said or self._over)
            self._news.wait_for(lambda: self._over or any(map(_is_urgent, self._said)), _COMPANY)
            said, self._said = self._said, []
            return said

    def close(self) -> None:
        """It says nothing any more."""
        with self._news:
            self._over = True
            self._news.notify_all()


class Actor:
    """One worker, which `worker` is by its name. `names` are the distributions whose versions it tells before anything
    else: a word between two versions of this package may mean two things.
    """

    def __init__(self, names: Sequence[str], worker: str) -> None:
        self._box, self._worker = Mailbox(greeting(names)), worker
        threading.Thread(target=self._serve, name="worker", daemon=True).start()

    def _serve(self) -> None:
        try:
            module, _, name = self._worker.partition(":")
            worker: type[FarEnd] = getattr(importlib.import_module(module), name)
            worker(self._box).serve()
        finally:
            self._box.close()

    def say(self, messages: Sequence[object], before: int) -> None:
        """See Mailbox.put."""
        self._box.put(messages, before)

    def words(self, messages: Sequence[object], before: int) -> list[object]:
        """Say the same, and hear what it says: see Mailbox.take."""
        self._box.put(messages, before)
        return self._box.take()


def greeting(names: Sequence[str]) -> Mapping[str, Any]:
    """Where a worker is, and the versions that it has; plain values, which any version reads."""
    return {"place": socket.gethostname(), "process": os.getpid(), "versions": versions_of(names)}


def versions_of(names: Sequence[str]) -> dict[str, str]:
    """Of this package and Python, and of what of `names` is installed."""
    found = {"ip2pbatch": ip2pbatch.__version__, "python": sys.version.split()[0]}
    for name in set(names) - set(OWN):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "none"
    return found
