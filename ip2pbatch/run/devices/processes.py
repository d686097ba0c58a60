"""Workers that are processes of this machine, each at the end of a line."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import wait
from typing import IO, Any

from ip2pbatch.disk.atomic import disk_error
from ip2pbatch.run.devices.links import Link
from ip2pbatch.run.devices.wire import Line

_START = "import sys; sys.path[:] = {path!r}; from ip2pbatch.run.devices.worker import main; main({end})"
_LAST = 4000  # bytes of a worker's last words that are looked at
_GRACE = 5.0  # seconds that a process may take to end once its line has ended
PATIENCE = 30.0
"""Seconds that a message may take to be read, or to be told to its end."""

_SEEN_BY = {"cuda": "CUDA_VISIBLE_DEVICES", "xpu": "ZE_AFFINITY_MASK"}  # what says which GPUs a process sees


class Processes:
    """The Launcher of `--devices`."""

    apart: bool = False
    least: int | None = None

    def names(self, devices: Sequence[str]) -> list[str]:
        """By their device, numbered where several share it."""
        shared, seen = Counter(devices), Counter[str]()
        names = []
        for device in devices:
            seen[device] += 1
            names.append(f"{device}-{seen[device]}" if shared[device] > 1 else device)
        return names

    def start(self, name: str, device: str, workers: int) -> Process:
        """Raises ResourceError."""
        return Process(name, environment(device, workers))

    def heard(self, links: Sequence[Link], seconds: float) -> Sequence[Link]:
        """See Launcher."""
        lines = {link.line.connection: link for link in links if isinstance(link, Process)}
        return [lines[line] for line in wait(list(lines), seconds)]  # type: ignore[index]

    def beside(self, workers: int) -> int:
        """All of them."""
        return workers


class Process:
    """A new process, with this one's environment but for what `environment` says. Raises ResourceError.

    It runs none of the program that is running now: a script needs no guard, and a notebook none either.
    """

    place: str | None = ""

    def __init__(self, name: str, environment: Mapping[str, str]) -> None:
        ours, theirs = Pipe()
        code = _START.format(path=sys.path, end=theirs.fileno())
        self._words: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (closed by `end`)
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-c", code], stdin=subprocess.DEVNULL, stdout=self._words, stderr=self._words,
                pass_fds=(theirs.fileno(),), env={**os.environ, **environment},
            )  # fmt: skip
        except OSError as error:
            raise disk_error(error, f"the worker for {name}") from error
        finally:
            theirs.close()
        self.line, self._ended = Line(ours, PATIENCE), False

    def say(self, word: object) -> None:
        """See Link."""
        self.line.say(word)

    def hear(self) -> Any:
        """See Link."""
        return self.line.hear()

    def has_more(self) -> bool:
        """See Link."""
        return self.line.connection.poll()

    def kill(self) -> None:
        """See Link."""
        self.process.kill()

    def end(self) -> str:
        """See Link. Safe to call twice."""
        if not self._ended:
            self._ended = True
            self.line.close()
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(_GRACE)
            self.process.kill()
            self.process.wait()
        return _how(self.process.returncode, self._last_words())

    def _last_words(self) -> str:
        """The line in which a process that died said why, "" where it said nothing."""
        if self._words.closed:
            return ""
        size = self._words.seek(0, os.SEEK_END)
        self._words.seek(max(0, size - _LAST))
        lines = [line.strip() for line in self._words.read().decode("utf-8", "replace").splitlines() if line.strip()]
        self._words.close()
        fatal = [line for line in lines if line.startswith("Fatal Python error")]
        return (fatal or lines or [""])[-1]


def _how(code: int, words: str) -> str:
    said = f": {words}" if words else ""
    if code == -9:
        return f"was killed (signal 9, as the system does where memory runs out){said}"
    return f"was ended by signal {-code}{said}" if code < 0 else f"ended with code {code}{said}"


def environment(device: str, workers: int) -> dict[str, str]:
    """What a worker's process finds: its share of the cores, where nobody says how many threads there are to be, and
    of the GPUs its own alone.
    """
    found = {}
    if "OMP_NUM_THREADS" not in os.environ and workers > 1:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        found["OMP_NUM_THREADS"] = str(max(1, cores // workers))
    kind, _, number = device.partition(":")
    if variable := _SEEN_BY.get(kind):
        seen = [part for part in os.environ.get(variable, "").split(",") if part]
        at = int(number or 0)
        found[variable] = (seen[at] if at < len(seen) else "-1") if seen else str(at)
    return found
