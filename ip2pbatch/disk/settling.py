"""Asking the disk for many files and lines at once: it takes a group in about the time of one.

    with closing(Settling([journal])) as settling:
        settling.files([picture])          # written whole, but the disk was not waited for
        journal.append(row, lasting=False)
        settling.written()                 # no kill takes it any more
        settling.settle()                  # nor does a power cut

What a process has written outlives the process. What the system has not given to the disk a power cut takes: at most
`most` lines and what they speak of, and, where the disk keeps up, nothing older than a second.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from ip2pbatch.disk.atomic import disk_error
from ip2pbatch.disk.journal import Journal

MOST = 64
"""Results that a power cut may take."""
_SECONDS = 0.5  # as long again for the disk makes one
_BESIDE = 8  # files that the disk is asked for at once: its own journal takes them in one go
_OPEN = os.O_RDWR | getattr(os, "O_BINARY", 0) if os.name == "nt" else os.O_RDONLY | os.O_NONBLOCK


class Settling:
    """Has the disk take what was written to `journals` and the files that their lines speak of, files first, by the
    clock and by the number. Safe to use from several threads; what the disk refuses is raised to all who go on.
    """

    def __init__(self, journals: Sequence[Journal], *, most: int = MOST, seconds: float = _SECONDS) -> None:
        self._journals, self._most, self._seconds = journals, most, seconds
        self._files: list[Path] = []
        self._written = self._taken = 0
        self._news, self._asking = threading.Condition(), threading.Lock()
        self._trouble: Exception | None = None
        self._told = self._closed = False
        self._thread: threading.Thread | None = None

    def files(self, paths: Iterable[Path]) -> None:
        """These were written whole, by `write_atomic` with `lasting=False`; the lines about them come after this."""
        with self._news:
            self._files.extend(paths)

    def written(self, lines: int = 1) -> None:
        """So many lines were written. Waits while `most` are not on the disk. Raises ResourceError."""
        with self._news:
            self._written += lines
            if self._thread is None:
                self._thread = threading.Thread(target=self._by_the_clock, name="settle", daemon=True)
                self._thread.start()
            self._news.notify_all()
            self._news.wait_for(lambda: self._left < self._most or self._trouble is not None)
        self._raise()

    def settle(self) -> None:
        """Return when all that was written before is on the disk. Raises ResourceError."""
        self._settle()
        self._raise()

    def close(self) -> None:
        """Settle for the last time; safe to call twice. Raises ResourceError where nobody heard of it yet."""
        with self._news:
            self._closed = True
            self._news.notify_all()
        if self._thread is not None:
            self._thread.join()
        self._settle()
        if not self._told:
            self._raise()

    @property
    def _left(self) -> int:
        return self._written - self._taken

    def _by_the_clock(self) -> None:
        while self._trouble is None:
            with self._news:
                self._news.wait_for(lambda: self._closed or self._left)
                self._news.wait_for(lambda: self._closed or self._left >= self._most // 2, self._seconds)
                if self._closed:
                    return
            self._settle()

    def _settle(self) -> None:
        """A group: what its lines speak of comes before them, so that a line is seldom on the disk without it."""
        with self._asking:
            with self._news:
                files, self._files, written = self._files, [], self._written
                if self._trouble is not None or not (files or written - self._taken):
                    return
            try:
                ask_for(files)
                ask_for_names(files)
                for journal in self._journals:
                    journal.sync()
            except Exception as error:
                self._trouble = error
            with self._news:
                self._taken = written
                self._news.notify_all()

    def _raise(self) -> None:
        if self._trouble is not None:
            self._told = True
            raise self._trouble


def ask_for(files: Collection[Path]) -> None:
    """Return when the disk has these files, or folders with the names in them. Raises ResourceError."""
    if len(files) < _BESIDE // 2:
        for path in files:
            _sync(path)
        return
    with ThreadPoolExecutor(_BESIDE) as pool:
        for _ in pool.map(_sync, files):
            pass


def ask_for_names(files: Iterable[Path]) -> None:
    """Return when the disk has the names of these files too. Raises ResourceError."""
    if os.name != "nt":
        ask_for({folder for path in files for folder in (path.parent, path.parent.parent)})


def _sync(path: Path) -> None:
    """One that is gone again needs nothing: it was replaced, set aside, or taken away by somebody."""
    try:
        with suppress(FileNotFoundError):
            descriptor = os.open(path, _OPEN)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
    except OSError as error:
        raise disk_error(error, path) from error
