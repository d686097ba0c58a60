"""Append-only JSON lines with one writer, which survive being killed at any moment, and a disk that rots.

A line is on the disk or not there; half a last line, which a kill leaves behind, is recognised and removed. A sealed
line ends with a checksum of what stands before it, `,"crc":"1a2b3c4d"}`: a line that was damaged since is known by it.
"""

from __future__ import annotations

import errno
import json
import os
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from ip2pbatch.disk.atomic import disk_error, replacing, unreadable

Row = TypeVar("Row")
Parse = Callable[[bytes], Row | None]
"""From a line's bytes to what it says; None where it cannot be read."""

_SEAL, SEALED = b',"crc":"', len(b',"crc":"01234567"}')
_SHOWN = 5  # numbers of bad lines that are named before the rest is counted


class Journal:
    """One append-only file with one writer. `append` returns only when the line is on the disk (fsync), unless it is
    told that `sync` comes later: such a line outlives its process, and a power cut may take it.

    A line torn by a kill or a power cut was never acknowledged, so it is cut off when the file is opened again; a
    last line that is whole but for its newline is kept. `sealed` gives each line a checksum.
    """

    def __init__(self, path: Path, *, sealed: bool = False) -> None:
        self.path, self._sealed = path, sealed
        self._lock, self._syncing = threading.Lock(), threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o644)
            self._end = self._on_disk = self._mend()
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
        if parse_row(torn) is not None:
            os.write(self._file, b"\n")
            return size + 1
        os.ftruncate(self._file, size - len(torn))
        return size - len(torn)

    def append(self, *rows: dict[str, Any], lasting: bool = True) -> None:
        """Add a line a row and wait until all are on the disk, if they are to be `lasting` at once.

        Raises ResourceError, and then none of them is there.
        """
        self.write(b"".join(_line(row, sealed=self._sealed) for row in rows), lasting=lasting)

    def write(self, lines: bytes, *, lasting: bool = True) -> None:
        """The same with lines that were made before, by `sealed_lines`."""
        with self._lock:
            try:
                if os.write(self._file, lines) != len(lines):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                if lasting:
                    os.fsync(self._file)
            except OSError as error:
                self._take_back()
                raise disk_error(error, self.path) from error
            self._end += len(lines)
            self._on_disk = self._end if lasting else self._on_disk

    def sync(self) -> None:
        """Wait until every line that was added before is on the disk; threads that wait together share one fsync.

        Raises ResourceError; what a disk made of the lines is then known when they are read again.
        """
        with self._lock:
            wanted = self._end
        with self._syncing:
            if self._on_disk >= wanted:
                return
            with self._lock:
                wanted = self._end
            try:
                os.fsync(self._file)
            except OSError as error:
                raise disk_error(error, self.path) from error
            self._on_disk = max(self._on_disk, wanted)

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


@dataclass(frozen=True, slots=True)
class Damage:
    """The lines of a journal that cannot be read, by their numbers from 1. They count for nothing."""

    path: Path
    lines: tuple[int, ...]

    def __str__(self) -> str:
        which = ", ".join(f"{number:,}" for number in self.lines[:_SHOWN])
        if len(self.lines) == 1:
            return f"{self.path.name}: line {which} cannot be read and was passed over"
        more = f" and {len(self.lines) - _SHOWN:,} more" if len(self.lines) > _SHOWN else ""
        return f"{self.path.name}: lines {which}{more} cannot be read and were passed over"


def read_rows(path: Path, parse: Parse[Row], damage: list[Damage] | None = None) -> Iterator[Row]:
    """What the lines of a journal say, oldest first; nothing where the file does not exist.

    A torn last line is being written, or was when the power went: it is passed over. Any other line that `parse` cannot
    read is passed over too, and told in `damage` at the end. Raises ResourceError where the file itself cannot be read.
    """
    try:
        with path.open("rb") as file:
            for _, row in rows_of(file, path, parse, damage):
                yield row
    except FileNotFoundError:
        return
    except OSError as error:
        raise unreadable(error, path) from error


def rows_of(
    file: BinaryIO, path: Path, parse: Parse[Row], damage: list[Damage] | None = None
) -> Iterator[tuple[int, Row]]:  # fmt: skip
    """The same of a file that is open, `path`: each row with the place in bytes at which its line begins."""
    bad: list[int] = []
    at = 0
    try:
        for number, line in enumerate(file, start=1):
            row = parse(line)
            if row is not None:
                yield at, row
            elif line.endswith(b"\n") and not line.isspace():
                bad.append(number)
            at += len(line)
    except OSError as error:
        raise unreadable(error, path) from error
    if bad and damage is not None:
        damage.append(Damage(path, tuple(bad)))


def last_rows(path: Path, parse: Parse[Row], most: int) -> list[Row]:
    """What the last `most` lines of a journal say, as far as they can be read, oldest first; the file's end alone is
    read for it. Raises ResourceError.
    """
    end = b""
    try:
        with path.open("rb") as file:
            start = file.seek(0, os.SEEK_END)
            while start and end.count(b"\n") <= most:
                start = max(0, start - (1 << 16))
                file.seek(start)
                end = file.read(os.fstat(file.fileno()).st_size - start)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise unreadable(error, path) from error
    lines = end.splitlines(keepends=True)[-most:]
    return [row for line in lines if (row := parse(line)) is not None]


def state_of(path: Path) -> tuple[int, int, int] | None:
    """What changes whenever a line is added to a journal or set aside from it; None where there is no such file."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def read_journal(path: Path, complaints: list[str] | None = None) -> Iterator[dict[str, Any]]:
    """The rows of a journal as they are, oldest first, and in `complaints` a sentence about lines that are not read."""
    damage: list[Damage] = []
    yield from read_rows(path, parse_row, damage)
    if complaints is not None:
        complaints.extend(map(str, damage))


def set_aside(damage: Damage) -> Path:
    """Move bad lines out of a journal into the file that comes back, beside it. Only for the journal's one writer.

    They are in that file before they leave the journal. Raises ResourceError.
    """
    aside, bad = damage.path.with_name(f"{damage.path.name}.bad"), frozenset(damage.lines)
    try:
        with damage.path.open("rb") as old, aside.open("ab") as out, replacing(damage.path) as new:
            for number, line in enumerate(old, start=1):
                (out if number in bad else new).write(line)
            out.flush()
            os.fsync(out.fileno())
    except OSError as error:
        raise disk_error(error, damage.path) from error
    return aside


def parse_row(line: bytes) -> dict[str, Any] | None:
    """The object in a line, without its checksum; None where it is none, or where the checksum is not its own."""
    opened = unseal(line)
    return None if opened is None else parse_object(opened[0])


def parse_object(data: bytes) -> dict[str, Any] | None:
    """A JSON object, however damaged the bytes may be; names of files need not be Unicode."""
    try:
        row = json.loads(data.decode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def seal(data: bytes) -> bytes:
    """A JSON object with the checksum of its bytes as the last field: the CRC-32 of all that stands before it."""
    head = data[:-1]
    return b'%b%b%08x"}' % (head, _SEAL, zlib.crc32(head))


def sealed_lines(rows: Iterable[dict[str, Any]]) -> bytes:
    """A sealed line a row, for Journal.write."""
    return b"".join(_line(row, sealed=True) for row in rows)


def unseal(line: bytes) -> tuple[bytes, bool] | None:
    """The JSON of a line without its checksum, and whether it had one; None where that is not the line's own."""
    line = line.removesuffix(b"\n")
    head = line[:-SEALED]
    if line[-SEALED : -SEALED + len(_SEAL)] != _SEAL:
        return line, False
    return (head + b"}", True) if line[-10:] == b'%08x"}' % zlib.crc32(head) else None


def _line(row: dict[str, Any], *, sealed: bool) -> bytes:
    data = json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
    return (seal(data) if sealed else data) + b"\n"
