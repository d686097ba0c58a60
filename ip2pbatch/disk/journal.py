"""Append-only JSON lines with one writer, which survive being killed at any moment.

A line is on the disk or not there; half a last line, which a kill leaves behind, is recognised and removed.
"""

from __future__ import annotations

import errno
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ip2pbatch.disk.atomic import disk_error


class Journal:
    """One append-only file with one writer. `append` returns only when the line is on the disk (fsync).

    A line torn by a kill or a power cut was never acknowledged, so it is cut off when the file is opened again; a
    last line that is whole but for its newline is kept.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o644)
            self._end = self._mend()
        except OSError as error:
            raise disk_error(error, path) from error

    def _mend(self) -> int:
        """Bring the end of the file to a line's end; the size it then has."""
        with self.path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            start, tail = size, b""
            while start and b"\n" not in tail:
                step = min(start, 1 << 16)
                start -= step
                file.seek(start)
                tail = file.read(step) + tail
        torn = tail[tail.rfind(b"\n") + 1 :]
        if not torn:
            return size
        if _parse(torn) is not None:
            os.write(self._file, b"\n")
            return size + 1
        os.ftruncate(self._file, size - len(torn))
        return size - len(torn)

    def append(self, *rows: dict[str, Any]) -> None:
        """Add a line a row and wait until all are on the disk. Raises ResourceError, and then none of them is there."""
        lines = b"".join(_line(row) for row in rows)
        with self._lock:
            try:
                if os.write(self._file, lines) != len(lines):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(self._file)
            except OSError as error:
                self._take_back()
                raise disk_error(error, self.path) from error
            self._end += len(lines)

    def _take_back(self) -> None:
        try:
            os.ftruncate(self._file, self._end)
        except OSError:
            return  # the torn line is cut off when the file is opened again

    def close(self) -> None:
        """Let go of the file; safe to call twice."""
        with self._lock:
            if self._file >= 0:
                os.close(self._file)
                self._file = -1


def read_journal(path: Path, complaints: list[str] | None = None) -> Iterator[dict[str, Any]]:
    """The rows of a journal, oldest first; nothing where the file does not exist.

    A torn last line is being written, or was when the power went: it is passed over. Any other line that cannot be
    read is passed over too, and named in `complaints`.
    """
    if not path.exists():
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            row = _parse(line)
            if row is not None:
                yield row
            elif line.endswith(b"\n") and line.strip() and complaints is not None:
                complaints.append(f"{path.name} line {number} cannot be read and was passed over")


def _line(row: dict[str, Any]) -> bytes:
    return (json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n").encode("utf-8", "surrogatepass")


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line.decode("utf-8", "surrogatepass"))
    except ValueError:
        return None
    return row if isinstance(row, dict) else None
