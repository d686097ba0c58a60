"""What machines found out and let each other know, in a folder that all of them see, such as one of a network disk.

    shared = SharedFindings(Path("/mnt/share/digests"), "photo-digests")
    known = shared.recall(keys)
    shared.keep(found)

Nothing is locked, which network disks do badly, and no file is written to twice: what a process found is a file of its
own, which appears whole. Where there are many small ones whoever comes next writes one of them, and removes them only
then. A line has a checksum: what is damaged counts for nothing. Where two lines say different things of one key,
neither is believed.
"""

from __future__ import annotations

import json
import secrets
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ip2pbatch.disk.atomic import disk_error, replacing
from ip2pbatch.disk.opening import open_file
from ip2pbatch.errors import ResourceError

_LINE = 1 << 12  # bytes at most
_FEW = 64  # small files that are left side by side
_SMALL = 4 << 20  # bytes
_LOOKS = 3  # at the folder, while others put files together in it


class SharedFindings:
    """Values by key: a key is of ASCII without spaces, a value whatever JSON holds. `topic` begins each file's name."""

    def __init__(self, folder: Path, topic: str) -> None:
        self._folder, self._topic = folder, topic

    def recall(self, keys: Iterable[str]) -> dict[str, Any]:
        """The values of those of `keys` that are known. A folder that is not there or cannot be read knows none."""
        wanted, found, doubtful = {key.encode() for key in keys}, dict[bytes, bytes](), set[bytes]()
        for line in self._lines():
            key, _, value = line.partition(b" ")
            if key in wanted and found.setdefault(key, value) != value:
                doubtful.add(key)
        with suppress(ValueError):  # somebody else's format: it is found out again
            return {key.decode(): json.loads(value) for key, value in found.items() if key not in doubtful}
        return {}

    def keep(self, found: Mapping[str, Any]) -> None:
        """Let the others know. Raises ResourceError where the folder cannot be written to."""
        self._write(f"{key} {json.dumps(value, separators=(',', ':'))}".encode() for key, value in found.items())
        self._join()

    def _lines(self) -> Iterator[bytes]:
        """What every whole line says. Files that others put together meanwhile are found again in the one they made."""
        seen = set[Path]()
        for _ in range(_LOOKS):
            fresh = set(self._files()) - seen
            if not fresh:
                return
            for path in sorted(fresh):
                with suppress(OSError):  # it is part of another one by now, or out of reach
                    yield from _whole_lines(path)
            seen |= fresh

    def _files(self) -> list[Path]:
        try:
            return [path for path in self._folder.iterdir() if path.match(f"{self._topic}-*.txt")]
        except OSError:
            return []

    def _write(self, lines: Iterable[bytes]) -> None:
        path = self._folder / f"{self._topic}-{secrets.token_hex(8)}.txt"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with replacing(path) as file:
                file.writelines(b"%08x %b\n" % (zlib.crc32(line), line) for line in lines)
        except OSError as error:
            raise disk_error(error, path) from error

    def _join(self) -> None:
        """Make one of the small files where they are many. Two processes that do so at once write the same twice."""
        small = list[Path]()
        for path in self._files():
            with suppress(OSError):
                small += [path] if path.stat().st_size < _SMALL else []
        if len(small) <= _FEW:
            return
        lines = dict[bytes, None]()
        for path in small:
            with suppress(OSError):
                lines |= dict.fromkeys(_whole_lines(path))
        with suppress(ResourceError):  # then they stay as they are
            self._write(lines)
            for path in small:
                with suppress(OSError):
                    path.unlink()


def _whole_lines(path: Path) -> Iterator[bytes]:
    """The lines of one file without their checksums, but for those that are damaged. Raises OSError."""
    with open_file(path) as file:
        while line := file.readline(_LINE):
            crc, _, said = line.rstrip(b"\n").partition(b" ")
            if crc == b"%08x" % zlib.crc32(said):
                yield said
