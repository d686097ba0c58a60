"""One writer a folder, or a part of its work. A lock dies with its process, so a killed run never leaves one behind."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from ip2pbatch.disk.atomic import disk_error
from ip2pbatch.disk.journal import parse_object
from ip2pbatch.errors import LockedError

_GATE_SECONDS = 120.0  # it is held for moments: to look at locks and headers, never to read what grows with a run


class WriterLock:
    """The lock of a folder, or of one part of its work: `part` is a shard's suffix, such as `-2of8`.

    A run has either one writer for everything or one a shard of one count: 2/8 and 1/3 overlap, and so do 2/8 and the
    whole. Whoever opens or closes the run passes a short-lived gate first, so that two cannot check at the same time.
    """

    def __init__(self, folder: Path, part: str = "") -> None:
        self._folder = folder
        self._sisters = "of" + part.rpartition("of")[2] if part else None
        self._path = folder / f"writer{part}.lock"
        self._holder = self._path.with_suffix(".json")
        self._lock = FileLock(self._path)

    @contextmanager
    def gate(self) -> Iterator[None]:
        """Alone in the run directory for a moment: to take a lock, to see who else writes, to give out numbers."""
        gate = FileLock(self._folder / "gate.lock", timeout=_GATE_SECONDS)
        try:
            gate.acquire()
        except Timeout as error:
            raise LockedError(
                "another process has been opening this run for two minutes",
                hint="wait until it is done, or end it where it hangs, and run again",
            ) from error
        except OSError as error:
            raise disk_error(error, self._folder) from error
        try:
            yield
        finally:
            gate.release()

    def acquire(self) -> None:
        """Take the lock. Call inside `gate`. Raises LockedError, also where a shard of another count is writing."""
        for path in self._others():
            if self._sisters is None or not path.stem.endswith(self._sisters):
                raise _locked(path.with_suffix(".json"))
        try:
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise _locked(self._holder) from error
        except OSError as error:
            raise disk_error(error, self._path) from error
        try:
            self._holder.write_text(json.dumps({"process": os.getpid(), "host": socket.gethostname()}), "utf-8")
        except OSError as error:
            self.release()
            raise disk_error(error, self._holder) from error

    def alone(self) -> bool:
        """Whether no other shard is writing. Call inside `gate`: outside, one may come at any moment."""
        return not self._others()

    def _others(self) -> list[Path]:
        return [path for path in self._folder.glob("writer*.lock") if path != self._path and _is_held(path)]

    def release(self) -> None:
        """Let go; safe to call twice."""
        self._lock.release()


def _is_held(path: Path) -> bool:
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    lock.release()
    return False


def _locked(holder: Path) -> LockedError:
    who = "another process"
    with suppress(OSError):
        row = parse_object(holder.read_bytes()) or {}
        if {"process", "host"} <= row.keys():
            who = f"process {row['process']} on {row['host']}"
    return LockedError(
        f"{who} is writing to this run", hint="wait until it is done, or stop it; `ip2pbatch status` may look meanwhile"
    )
