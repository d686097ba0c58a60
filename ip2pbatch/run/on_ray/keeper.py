"""Beside a cluster that a run started for itself: whatever becomes of the run, none of its processes is left.

Ray's own processes end with the one that started them, but for two that first report it, for a minute, to a server
that is gone. Started by cluster.py, which writes down those processes for it; what comes then is the end of its input.
Linux alone has what this reads; elsewhere Ray ends its processes by itself.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_GRACE = 5.0  # seconds that they may take to end by themselves
_LOOK = 0.1


class Keeper:
    """The one beside this process's cluster, whose files are in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._process = subprocess.Popen(
            [sys.executable, "-P", __file__, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip

    def note(self) -> None:
        """Have it know the processes that are there by now."""
        assert self._process.stdin is not None, "it was given one"
        for process in processes_of(self.folder, os.getpid()):
            if process != self._process.pid:
                self._process.stdin.write(f"{process} {began(process)}\n".encode())
        self._process.stdin.flush()

    def end(self) -> None:
        """None of them is left."""
        assert self._process.stdin is not None, "it was given one"
        with suppress(OSError):
            self._process.stdin.close()
        self._process.wait()


def processes_of(folder: Path, parent: int) -> Iterator[int]:
    """The children of `parent` that were told of `folder`, and all that these have started."""
    for child in children(parent):
        with suppress(OSError):
            if os.fsencode(folder) in Path(f"/proc/{child}/cmdline").read_bytes():
                yield from with_descendants(child)


def with_descendants(process: int) -> Iterator[int]:
    """A process, and all that it has started."""
    yield process
    for child in children(process):
        yield from with_descendants(child)


def children(process: int) -> list[int]:
    """What a process has started and has not ended; none where the system does not say."""
    found: list[int] = []
    for thread in Path(f"/proc/{process}/task").glob("*/children"):
        with suppress(OSError):
            found += map(int, thread.read_text().split())
    return found


def began(process: int) -> str:
    """When a process began, as its system counts: a number that is given again is another process. "" of none."""
    try:
        stat = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return ""
    state, *rest = stat.rpartition(")")[2].split()
    return "" if state == "Z" else rest[18]


def main(folder: str) -> None:
    """Until those who started this one are gone, and then until their cluster is."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    known = dict(line.split() for line in sys.stdin)
    until = time.monotonic() + _GRACE
    while left := [int(process) for process, time_of in known.items() if began(int(process)) == time_of]:
        for process in left if time.monotonic() > until else ():
            with suppress(OSError):
                os.kill(process, signal.SIGKILL)
        time.sleep(_LOOK)
    until = time.monotonic() + _GRACE
    while Path(folder).exists() and time.monotonic() < until:  # others may write a last word meanwhile
        shutil.rmtree(folder, ignore_errors=True)
        time.sleep(_LOOK)


if __name__ == "__main__":
    main(sys.argv[1])
