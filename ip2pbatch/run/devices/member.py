"""A worker as its parent sees it: the process, its line, what it has, and when it was last heard of."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import Pipe
from typing import IO, Literal

from ip2pbatch.disk.atomic import disk_error
from ip2pbatch.run.devices.wire import Deal, Identity, Line

_START = "import sys; sys.path[:] = {path!r}; from ip2pbatch.run.devices.worker import main; main({end})"
_LAST = 4000  # bytes of a worker's last words that are looked at
_GRACE = 5.0  # seconds that a process may take to end once its line has ended

_PATIENCE = 30.0  # seconds that a message may take to be read, or to be told to its end
_STUCK = f"was stuck for {_PATIENCE:.0f} s in the middle of a message and was ended"

State = Literal["opening", "open", "loading", "idle", "busy", "gone"]


@dataclass(slots=True)
class Member:
    """`name` is how people know it, `device` what it works on. `deals` are by their epoch; `made` and `worked` are
    Edits and seconds of the groups that are done. It is the so-manieth of `starts` in the place of one that had worked.
    """

    name: str
    device: str
    line: Line
    process: subprocess.Popen[bytes]
    words: IO[bytes]
    heard: float
    state: State = "opening"
    identity: Identity | None = None
    ready: bool = False
    starts: int = 0
    deals: dict[int, Deal] = field(default_factory=dict)
    doing: str = "starting"
    silent: bool = False
    why: str = ""
    slow: bool = False
    made: int = 0
    worked: float = 0.0
    begun: float = field(default=0.0)

    @classmethod
    def start(cls, name: str, device: str, environment: Mapping[str, str], clock: Callable[[], float]) -> Member:
        """A new process, with this one's environment but for what `environment` says. Raises ResourceError.

        It runs none of the program that is running now: a script needs no guard, and a notebook none either.
        """
        ours, theirs = Pipe()
        code = _START.format(path=sys.path, end=theirs.fileno())
        words = tempfile.TemporaryFile()  # noqa: SIM115 (closed by `end`)
        try:
            process = subprocess.Popen(
                [sys.executable, "-P", "-c", code], stdin=subprocess.DEVNULL, stdout=words, stderr=words,
                pass_fds=(theirs.fileno(),), env={**os.environ, **environment},
            )  # fmt: skip
        except OSError as error:
            raise disk_error(error, f"the worker for {name}") from error
        finally:
            theirs.close()
        return cls(name, device, Line(ours, _PATIENCE), process, words, clock())

    def say(self, word: object) -> None:
        """One that is gone is told nothing: its line says so when it is read. One that does not listen is ended."""
        try:
            self.line.say(word)
        except BlockingIOError:
            self.why = self.why or _STUCK
            self.kill()
        except OSError:
            pass

    def hear(self) -> object:
        """What it says. Raises EOFError or OSError where it is gone, or will never end its word."""
        try:
            return self.line.hear()
        except BlockingIOError:
            self.why = self.why or _STUCK
            self.kill()
            raise

    def end(self) -> str:
        """The process has ended, or is made to: how, in words. Safe to call twice."""
        if self.state != "gone":
            self.line.close()
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(_GRACE)
            self.process.kill()
            self.process.wait()
            self.state, self.doing = "gone", ""
        words = self._last_words()
        return self.why or _how(self.process.returncode, words)

    def kill(self) -> None:
        """At once; a process that is stopped ends too."""
        self.process.kill()

    def _last_words(self) -> str:
        """The line in which a process that died said why, "" where it said nothing."""
        if self.words.closed:
            return ""
        size = self.words.seek(0, os.SEEK_END)
        self.words.seek(max(0, size - _LAST))
        lines = [line.strip() for line in self.words.read().decode("utf-8", "replace").splitlines() if line.strip()]
        self.words.close()
        fatal = [line for line in lines if line.startswith("Fatal Python error")]
        return (fatal or lines or [""])[-1]


def _how(code: int, words: str) -> str:
    said = f": {words}" if words else ""
    if code == -9:
        return f"was killed (signal 9, as the system does where memory runs out){said}"
    return f"was ended by signal {-code}{said}" if code < 0 else f"ended with code {code}{said}"
