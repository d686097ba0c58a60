"""The rows of a stage that can be split: what the stage says of them, who keeps what comes of them, and the plain way
to make them, in one process or in shards. Dealt to the workers of a cluster they are by on_cluster.py.
"""

from __future__ import annotations

import hashlib
import time
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from ip2pbatch.disk.journal import Journal
from ip2pbatch.plan.shard import Shard, suffix


class Books(Protocol):
    """Who keeps what comes of rows. `quiet` says that nobody looks at a bar; `mark` is nobody else's, "" of one that is
    the only one in its folder.
    """

    quiet: bool
    mark: str

    def wait(self) -> None:
        """Returns as soon as what was made may be written; never where the rows are another's by now."""
        ...

    def settle(self, rows: Sequence[int], lines: Sequence[Mapping[str, Any]] = ()) -> None:
        """These rows have their result: `lines` of the stage's journal, which this writes, or files that are there."""
        ...


class Naming(Protocol):
    """What names broken samples (data/broken.py: LeftOut). `elsewhere`, where there is one, is told of them instead."""

    elsewhere: Callable[[str, str], None] | None

    def note(self, sample: str, said: str) -> None: ...


class RowWork:
    """The rows of a stage, each known by its number. What a row becomes hangs on nothing but the row.

    `journal` is the name of the file of lines, "" where the stage has none; `most` rows are dealt at once to a worker,
    who needs a GPU or none (None: where there are any). `left_out` names broken samples.
    """

    journal = ""
    most = 1
    gpu: bool | None = None
    left_out: Naming | None = None

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @abstractmethod
    def names(self) -> Iterable[str]:
        """What each row is, in the order of their numbers: who sees the same data has the same."""

    @abstractmethod
    def left(self) -> list[int]:
        """The numbers of the rows without a result so far, whoever was to make them."""

    def open(self) -> str:
        """Load what makes rows; a digest of it, "" where the stage's fingerprint says as much."""
        return ""

    def begin(self, digest: str) -> None:
        """What `open` says of who makes the rows. UsageError where others began them."""

    @abstractmethod
    def make(self, rows: Sequence[int], books: Books) -> float:
        """Make these rows; how much work it was, in the unit of the stage's rate."""

    @abstractmethod
    def finish(self, rate: float) -> dict[str, float]:
        """What is made of all rows together, and the metrics; `rate` is the work a second, 0 where there was none."""

    def digest(self) -> str:
        """Of the rows that there are."""
        return hashlib.sha256("\n".join(self.names()).encode("utf-8", "surrogatepass")).hexdigest()

    def file(self, shard: Shard | None = None) -> Path | None:
        """The journal, a shard's own where there is one."""
        return self.folder / f"{self.journal}{suffix(shard)}.jsonl" if self.journal else None


def there(folder: Path) -> set[str]:
    """The names in a folder, none where there is no such folder. It is listed, for a network disk remembers of a single
    name that it was not there, when another machine has long written it.
    """
    try:
        return {path.name for path in folder.iterdir()}
    except FileNotFoundError:
        return set()


class OwnBooks:
    """Those of this process alone: a journal of its own, and nobody to wait for."""

    quiet, mark = False, ""

    def __init__(self, path: Path | None) -> None:
        self._journal = Journal(path) if path else None

    def wait(self) -> None:
        """Nobody else is at it."""

    def settle(self, rows: Sequence[int], lines: Sequence[Mapping[str, Any]] = ()) -> None:
        if self._journal and lines:
            self._journal.append(*map(dict, lines))

    def close(self) -> None:
        """Let go of the journal."""
        if self._journal:
            self._journal.close()


def make_part(work: RowWork, shard: Shard | None) -> dict[str, float] | None:
    """Make what is missing of a shard's rows, of all where there is none; None while other shards' are missing."""
    todo = [row for row in work.left() if shard is None or shard.owns_row(row)]
    rate = 0.0
    if todo:
        work.begin(work.open())
        books, began = OwnBooks(work.file(shard)), time.monotonic()
        try:
            rate = work.make(todo, books) / max(1e-9, time.monotonic() - began)
        finally:
            books.close()
    return None if work.left() else work.finish(rate)
