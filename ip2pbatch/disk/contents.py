"""What lies in a file or below a folder: names, sizes and digests, found out once and remembered by size and time.

A folder of millions of files is one manifest in this user's cache: who asks again walks over the folder, and reads only
what has another size or time than the manifest says. Who deletes the cache loses a second reading.
"""

from __future__ import annotations

import gzip
import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ip2pbatch.disk.atomic import write_whole
from ip2pbatch.disk.digests import digest_of, file_sha256
from ip2pbatch.disk.remembered import Remembered, cache_folder
from ip2pbatch.errors import ResourceError

_READERS = 8
_NAMED = 3  # files of a difference that are named


@dataclass(frozen=True, slots=True)
class Entry:
    """One file: its bytes, its modification time in nanoseconds, and its sha256 in hex."""

    size: int
    time: int
    sha256: str


@dataclass(frozen=True)
class Contents:
    """The files below a folder by name, in the order of the names; a single file is called ""."""

    files: Mapping[str, Entry]

    @cached_property
    def digest(self) -> str:
        """One sha256 over names and digests; of a single file its own."""
        if list(self.files) == [""]:
            return self.files[""].sha256
        return digest_of({name: entry.sha256 for name, entry in self.files.items()})

    def differences(self, older: Contents) -> list[str]:
        """In words: which files are new, gone or other than they were in `older`."""
        new = [name for name in self.files if name not in older.files]
        gone = [name for name in older.files if name not in self.files]
        both = self.files.keys() & older.files.keys()
        other = sorted(name for name in both if self.files[name].sha256 != older.files[name].sha256)
        kinds = (("changed", other), ("new", new), ("gone", gone))
        return [_counted(names, what) for what, names in kinds if names]

    def to_bytes(self) -> bytes:
        """A manifest: a line a file (sha256, bytes, time, name), compressed."""
        lines = (f"{one.sha256}\t{one.size}\t{one.time}\t{name}\n" for name, one in self.files.items())
        return gzip.compress("".join(lines).encode("utf-8", "surrogateescape"), compresslevel=1, mtime=0)

    @classmethod
    def of(cls, data: bytes) -> Contents:
        """A manifest read again. ValueError where it is none."""
        try:
            text = gzip.decompress(data).decode("utf-8", "surrogateescape")
        except (OSError, EOFError) as error:
            raise ValueError(f"is no manifest ({error})") from error
        files = {}
        for line in text.split("\n")[:-1]:
            sha256, size, time, name = line.split("\t", 3)
            files[name] = Entry(int(size), int(time), sha256)
        return cls(files)


def _counted(names: Sequence[str], what: str) -> str:
    shown = ", ".join(names[:_NAMED]) + (", …" if len(names) > _NAMED else "")
    many = "1 file is" if len(names) == 1 else f"{len(names):,} files are"
    return f"{many} {what}" + (f" ({shown})" if shown else "")


def contents(path: Path) -> Contents:
    """What is in a file or below a folder; hidden files do not count. Raises OSError where it cannot be read.

    The bytes of a file are believed to be what they were as long as its size and its time are.
    """
    if path.is_file():
        size, time = _stamp(path)
        return Contents({"": Entry(size, time, sha256s([path])[0])})
    listing = _listing(path)
    known = _known_manifest(path)
    missing = [name for name, stamp in listing.items() if name not in known or _stamped(known[name]) != stamp]
    if not missing and known.keys() == listing.keys():
        return Contents(known)
    with ThreadPoolExecutor(_READERS) as pool:
        found = dict(zip(missing, pool.map(lambda name: file_sha256(path / name), missing), strict=True))
    files = {
        name: Entry(*stamp, found[name]) if name in found else known[name] for name, stamp in listing.items()
    }  # fmt: skip
    result = Contents(files)
    with suppress(ResourceError):  # it is found out again next time
        write_whole(_manifest_path(path), result.to_bytes())
    return result


def digest_of_contents(path: Path) -> str:
    """The digest alone: without reading the manifest of a large folder where nothing has another size or time."""
    if path.is_file():
        return sha256s([path])[0]
    total = hashlib.sha256()
    for name, stamp in _listing(path).items():
        total.update(f"{stamp}\t{name}\n".encode("utf-8", "surrogateescape"))
    kept, key, listing = Remembered("contents"), str(path.resolve()), total.hexdigest()
    known = kept.get(key)
    if isinstance(known, list) and len(known) == 2 and known[0] == listing:
        return str(known[1])
    digest = contents(path).digest
    kept.keep({key: [listing, digest]})
    return digest


def sha256s(paths: Sequence[Path]) -> list[str]:
    """The sha256 of each file; of gigabytes once, as long as size and modification time stay. Raises OSError."""
    kept = Remembered("sha256")
    stamps = {str(real): list(_stamp(real)) for real in (path.resolve() for path in paths)}
    known = {
        path: row[2] for path, row in kept.recall(stamps).items()
        if isinstance(row, list) and len(row) == 3 and row[:2] == stamps[path]
    }  # fmt: skip
    missing = [path for path in stamps if path not in known]
    with ThreadPoolExecutor(max_workers=min(_READERS, os.cpu_count() or 1)) as pool:
        found = dict(zip(missing, pool.map(lambda path: file_sha256(Path(path)), missing), strict=True))
    if found:
        kept.keep({path: [*stamps[path], value] for path, value in found.items()})
    return [(known | found)[str(path.resolve())] for path in paths]


def _stamp(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns


def _stamped(entry: Entry) -> tuple[int, int]:
    return entry.size, entry.time


def _listing(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of each file by its name, in the order in which the digest takes them."""
    return dict(sorted(_below(folder), key=lambda one: one[0].split("/")))


def _below(folder: Path) -> Iterator[tuple[str, tuple[int, int]]]:
    """Every file below `folder` that is not hidden, with its size and time; links are followed, each folder once."""
    seen: set[tuple[int, int]] = set()
    waiting = [(folder, "")]
    while waiting:
        place, prefix = waiting.pop()
        found = place.stat()
        if (found.st_dev, found.st_ino) in seen:
            continue
        seen.add((found.st_dev, found.st_ino))
        for entry in _entries(place):
            if entry.is_dir():
                waiting.append((Path(entry.path), f"{prefix}{entry.name}/"))
            elif entry.is_file():
                stamp = entry.stat()
                yield f"{prefix}{entry.name}", (stamp.st_size, stamp.st_mtime_ns)


def _entries(place: Path) -> Iterable[os.DirEntry[str]]:
    with os.scandir(place) as entries:
        return [entry for entry in entries if not entry.name.startswith(".")]


def _manifest_path(folder: Path) -> Path:
    return cache_folder() / "manifests" / f"{hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:32]}.tsv.gz"


def _known_manifest(folder: Path) -> dict[str, Entry]:
    try:
        return dict(Contents.of(_manifest_path(folder).read_bytes()).files)
    except (OSError, ValueError):
        return {}
