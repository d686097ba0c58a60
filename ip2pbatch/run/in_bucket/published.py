"""Sheets and report of a run in its bucket: put there if they changed, known for ours by a journal, and else left."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import ClassVar

from filelock import FileLock, Timeout
from pydantic import ConfigDict

from ip2pbatch.disk.buckets.prefix import NOTHING, Prefix, mark_of, prefix_of
from ip2pbatch.disk.buckets.stores import StoreError
from ip2pbatch.disk.digests import file_sha256
from ip2pbatch.disk.journal import Journal, read_rows
from ip2pbatch.disk.shapes import STRICT, Shape
from ip2pbatch.errors import LockedError
from ip2pbatch.run.directory.lines import Below, Count, Etag, Hex
from ip2pbatch.run.directory.view import RunView

_WAIT = 60.0  # seconds for another command that publishes of the same run


@dataclass(frozen=True, slots=True)
class Piece:
    """One line of published.jsonl: what was put as the object `path` below the run's address. `begun` only announces
    it; one that is `gone` was removed.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    path: Below
    sha256: Hex
    bytes: Count
    etag: Etag = ""
    begun: bool = False
    gone: bool = False


PIECE = Shape(Piece)


def publish(view: RunView, files: Mapping[str, Path], within: tuple[str, ...]) -> dict[str, str]:
    """Put files of this machine under their names below the run's address, and remove what was put there earlier under
    other names that begin `within`; why some were left, by name, for somebody else's object has it.

    Raises UnreachableError, ResourceError, LockedError.
    """
    with _books(view) as books:
        left = {}
        for name, path in files.items():
            try:
                books.put(name, path)
            except StoreError as error:
                left[name] = error.why
        books.tidy(set(files), within)
    return left


@contextmanager
def _books(view: RunView) -> Iterator[_Books]:
    folder = view.layout.folder
    try:
        with (
            FileLock(folder / "published.lock", timeout=_WAIT),
            closing(Journal(view.layout.published, sealed=True)) as journal,
        ):
            yield _Books(prefix_of(view.files), journal)
    except Timeout:
        raise LockedError(
            "another command has been putting sheets or a report into the bucket for a minute",
            hint="wait until it is done, and draw them again",
        ) from None


class _Books:
    """What the journal says, and the object that each line is about."""

    def __init__(self, prefix: Prefix, journal: Journal) -> None:
        self._prefix, self._journal = prefix, journal
        self._put, self._begun = dict[str, Piece](), dict[str, Piece]()
        for piece in read_rows(journal.path, PIECE):
            self._hear(piece)

    def put(self, name: str, path: Path) -> None:
        """Put a file, unless it is there. Raises StoreError where somebody else's object is."""
        piece = Piece(name, file_sha256(path), path.stat().st_size, begun=True)
        last = self._put.get(name)
        if last is not None and last.sha256 == piece.sha256 and self._stands(last):
            return
        if not self._is_ours(name, piece.sha256):
            raise StoreError("changed", f"{self._prefix.place}/{name} is there, and not of this run")
        replaces = self._prefix.replaced(name)
        self._tell(piece)
        version = self._prefix.put(name, path, replaces)
        self._tell(replace(piece, etag=version.etag.strip('"'), begun=False))

    def tidy(self, names: set[str], within: tuple[str, ...]) -> None:
        """Remove what was put under other names that begin so, unless somebody changed it."""
        for name in [name for name in self._put if name.startswith(within) and name not in names]:
            if self._stands(self._put[name]) and self._prefix.remove(name):
                self._tell(replace(self._put[name], gone=True))

    def _is_ours(self, name: str, sha256: str) -> bool:
        """Whether nothing is there, or what was put last, was about to be as a process was killed, or is to be now."""
        if self._prefix.mark(name) == NOTHING or (name in self._put and self._stands(self._put[name])):
            return True
        begun = self._begun.get(name)
        return self._prefix.digest(name) in {sha256, *([begun.sha256] if begun else ())}

    def _stands(self, piece: Piece) -> bool:
        return self._prefix.mark(piece.path) == mark_of(piece.etag, piece.bytes)

    def _tell(self, piece: Piece) -> None:
        self._journal.append(asdict(piece))
        self._hear(piece)

    def _hear(self, piece: Piece) -> None:
        if piece.begun:
            self._begun[piece.path] = piece
            return
        self._begun.pop(piece.path, None)
        self._put.pop(piece.path, None)
        if not piece.gone:
            self._put[piece.path] = piece
