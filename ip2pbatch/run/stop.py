"""A clean stop: the first ^C, SIGTERM or SIGHUP (a closed terminal) finishes the batch at hand, a second ^C ends at
once. Before there is a batch, ^C is a KeyboardInterrupt, and SIGTERM a TerminatedError, that nothing can swallow.
"""

from __future__ import annotations

import os
import signal
import stat
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

from ip2pbatch.errors import HUNG_UP, INTERRUPTED, TERMINATED, TerminatedError

_HANGUP: signal.Signals | None = getattr(signal, "SIGHUP", None)  # Windows has none
_CODES: dict[int, int] = {int(signal.SIGTERM): TERMINATED, **({int(_HANGUP): HUNG_UP} if _HANGUP else {})}
_LOOK = 0.05  # seconds between two looks of one who waits


def terminated(number: int, frame: FrameType | None) -> NoReturn:
    """The program's answer to SIGTERM where nothing else answers: with Python's own it would end without a word."""
    raise TerminatedError


_USUAL = ((signal.SIGINT, (signal.default_int_handler,)), (signal.SIGTERM, (signal.SIG_DFL, terminated)))


class Flag:
    """What `threading.Event` is, without a lock: a signal handler may interrupt its own thread inside `wait` or `set`,
    where an Event's lock is held, and would wait for it for ever.
    """

    def __init__(self) -> None:
        self._set = False

    def is_set(self) -> bool:
        return self._set

    def set(self) -> None:
        self._set = True

    def wait(self, seconds: float) -> bool:
        """Until it is set, at most so many seconds; whether it is."""
        end = time.monotonic() + seconds
        while not self._set and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, _LOOK))
        return self._set


class Stop:
    """Whether the run was asked to stop, and by which signal; `exit_code` is the shell's for it.

    `asked` ends it after the batch at hand, `now` between two network steps, and what that batch was at is not made.
    """

    def __init__(self) -> None:
        self.signal = 0
        self.asked, self.now = Flag(), Flag()

    @property
    def exit_code(self) -> int:
        return _CODES.get(self.signal, INTERRUPTED) if self.signal else 0

    def ask(self, number: int = signal.SIGINT, *, now: bool = False) -> None:
        """Ask for a stop, as the signal `number` would."""
        self.signal = self.signal or number
        if now:
            self.now.set()
        self.asked.set()


def _errors() -> int:
    """The descriptor of `sys.stderr`; the command line leaves 2 to libraries."""
    try:
        return sys.stderr.fileno()
    except (AttributeError, OSError, ValueError):  # there may be none
        return 2


def _say(text: str) -> None:
    """A line on stderr from within a signal handler, where no lock may be taken; a progress bar is drawn anew below."""
    errors = _errors()
    clear = "\r\x1b[2K" if os.isatty(errors) else ""
    with suppress(OSError):
        os.write(errors, f"{clear}{text}\n".encode())


def _let_go_of_terminal() -> None:
    """A terminal that is closed refuses what is written to it, which is no reason to end."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in {0, 1, 2, _errors()}:
        with suppress(OSError):
            if stat.S_ISCHR(os.fstat(descriptor).st_mode):
                os.dup2(nowhere, descriptor)
    os.close(nowhere)


@contextmanager
def insisting() -> Iterator[None]:
    """^C ends the block with KeyboardInterrupt, SIGTERM with TerminatedError, whatever is made of it inside: importing
    a library may swallow it, and CPython 3.11 makes a RuntimeError of one that comes while a class is built.
    """
    asked: BaseException | None = None

    def answer(number: int, _: FrameType | None) -> None:
        nonlocal asked
        asked = TerminatedError() if number == signal.SIGTERM else KeyboardInterrupt()
        raise asked

    main = threading.current_thread() is threading.main_thread()
    mine = [number for number, usual in _USUAL if main and signal.getsignal(number) in usual]
    before = [(number, signal.signal(number, answer)) for number in mine]
    try:
        yield
    except Exception as error:
        if asked:
            raise asked from error
        raise
    finally:
        for number, usual in before:
            signal.signal(number, usual)
    if asked:
        raise asked


_outer: list[Stop] = []  # the Stop that is answering signals now; only the main thread puts one here


@contextmanager
def listening(until: str = "this batch is done and written") -> Iterator[Stop]:
    """Answer SIGINT, SIGTERM and SIGHUP (where `nohup` does not have it ignored) with a Stop while the block runs;
    outside the main thread nobody can, and none does. The person is told that it ends when `until`.

    Inside another such block it is the same Stop: a signal that comes as the inner block ends is not lost with it.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    if _outer:
        yield _outer[0]
        return

    def answer(number: int, _: FrameType | None) -> None:
        if stop.signal and number == signal.SIGINT:
            # Everything that is finished is on the disk already; waiting for threads is what the person is tired of.
            if os.isatty(errors := _errors()):
                os.write(errors, b"\x1b[?25h\n")  # a progress bar hides the cursor
            os._exit(INTERRUPTED)
        if number == _HANGUP:
            _let_go_of_terminal()
        first = not stop.signal
        stop.ask(number)
        if first:
            _say(f"stopping when {until}; ^C again stops at once")

    _outer.append(stop)
    heard = [signal.SIGINT, signal.SIGTERM]
    if _HANGUP and signal.getsignal(_HANGUP) is not signal.SIG_IGN:
        heard.append(_HANGUP)
    before = {number: signal.signal(number, answer) for number in heard}
    try:
        yield stop
    finally:
        _outer.clear()
        for number, handler in before.items():
            signal.signal(number, handler)
