"""What libraries write to the standard error by themselves (C code does: libtiff, onnxruntime, OpenMP) goes to a run's
log and not between our lines: descriptor 2 is theirs, a file without a name, and our talk has another.

A crash's last words are not lost with it. A second process, which does nothing else, waits for the end of this one, and
shows them where that end was none of ours.
"""

from __future__ import annotations

import faulthandler
import io
import logging
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO, NoReturn

from ip2pbatch.errors import BUG

log = logging.getLogger("ip2pbatch.libraries")
_ERRORS = 2  # the descriptor that C code knows
_MOST = 16 << 20  # bytes that the file may grow to
_LAST = 2000  # bytes of last words
_END = {signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)}
_ENDED = b"\0"  # what the second process hears where the first ended by itself


@contextmanager
def libraries_apart() -> Iterator[None]:
    """Keep descriptor 2 for libraries while the block runs, where it is what `sys.stderr` writes to."""
    talk = sys.stderr
    try:
        theirs = tempfile.TemporaryFile(buffering=0) if _is_errors(talk) else None  # noqa: SIM115 (entered below)
    except OSError:  # no room for a file: all goes to the terminal, as it would without us
        theirs = None
    if theirs is None:
        yield
        return
    ours = os.dup(_ERRORS)
    with theirs, _heir(ours, theirs.fileno()), _heard(theirs.fileno()) as heard:
        sys.stderr = os.fdopen(ours, "w", buffering=1, encoding=talk.encoding, errors=talk.errors)
        os.dup2(theirs.fileno(), _ERRORS)
        try:
            yield
        except SystemExit as end:
            if end.code == BUG:
                _write(ours, heard.rest()[-_LAST:])
            raise
        finally:
            os.dup2(sys.stderr.fileno(), _ERRORS)
            with suppress(OSError):  # its reader may be gone
                sys.stderr.close()
            sys.stderr = talk


def _is_errors(talk: IO[str] | None) -> bool:
    """Whether a stream is a program's plain standard error; tests and notebooks put others in its place."""
    try:
        return talk is not None and talk.fileno() == _ERRORS
    except (OSError, ValueError, io.UnsupportedOperation):
        return False


class _Heard(logging.Handler):
    """Before whatever the package logs: what libraries have written to the file at `descriptor` until then."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor, self._read = descriptor, 0

    def emit(self, record: logging.LogRecord) -> None:
        if record.name != log.name:
            self.flush()

    def flush(self) -> None:
        """Log it. Without a log that is open it waits for one."""
        if log.isEnabledFor(logging.INFO):
            for line in self.rest().decode(errors="replace").splitlines():
                log.info("%s", line)

    def rest(self) -> bytes:
        """What was written since the last look."""
        written = os.pread(self._descriptor, _MOST, self._read)
        self._read += len(written)
        if self._read >= _MOST:
            os.ftruncate(self._descriptor, 0)
            self._read = os.lseek(self._descriptor, 0, os.SEEK_SET)
        return written


@contextmanager
def _heard(descriptor: int) -> Iterator[_Heard]:
    logger, heard = logging.getLogger("ip2pbatch"), _Heard(descriptor)
    logger.addHandler(heard)
    try:
        yield heard
    finally:
        logger.removeHandler(heard)


@contextmanager
def _heir(ours: int, theirs: int) -> Iterator[None]:
    """The second process. It hears _ENDED where the block ends, and of a fatal signal before, what Python was at."""
    if not hasattr(os, "fork") or threading.active_count() > 1:
        yield
        return
    listening, speaking = os.pipe()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _END)  # none may come before the second process has its answers
    child = os.fork()
    if not child:
        os.close(speaking)
        _wait(listening, ours, theirs)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    os.close(listening)
    enabled = faulthandler.is_enabled()
    faulthandler.enable(speaking, all_threads=False)
    try:
        yield
    finally:
        faulthandler.disable()
        if enabled:
            faulthandler.enable(_ERRORS)
        _write(speaking, _ENDED)
        os.close(speaking)
        with suppress(ChildProcessError):  # where SIGCHLD is ignored, the system has waited
            os.waitpid(child, 0)


def _wait(listening: int, ours: int, theirs: int) -> NoReturn:
    """In the second process: wait until nobody can speak any more. Who asked for an end needs no words about it."""
    asked = []
    try:
        for number in _END:
            signal.signal(number, lambda *_: asked.append(True))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _END)
        said = b""
        while part := os.read(listening, 1 << 16):
            said = (said + part)[-(1 << 16) :]
        last = os.pread(theirs, _LAST, max(0, os.fstat(theirs).st_size - _LAST))
        if not said.endswith(_ENDED) and (said or (last and not asked)):
            how = b"crashed" if said else b"ended without a word of its own"
            _write(ours, b"\nip2pbatch " + how + b"; run again to go on. What libraries wrote last:\n" + last + said)
    finally:
        os._exit(0)


def _write(descriptor: int, text: bytes) -> None:
    with suppress(OSError):
        os.write(descriptor, text)
