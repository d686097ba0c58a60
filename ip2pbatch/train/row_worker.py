"""The far end of a stage whose rows are dealt: a worker on a node, and the words in which rows are spoken of."""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel

from ip2pbatch.run.devices.far_end import FarEnd
from ip2pbatch.run.devices.wire import Entry, Finished, Loaded, Order
from ip2pbatch.train.configs import stage_of
from ip2pbatch.train.row_work import RowWork


@dataclass(frozen=True, slots=True)
class RowIdentity:
    """What a worker sees: a digest of the stage's rows."""

    rows: str
    device: str = ""
    devices: tuple[str, ...] = ()

    @property
    def is_exact(self) -> bool:
        """What makes rows has the same weights everywhere."""
        return True

    def unlike(self, first: RowIdentity) -> str:
        """See Identity."""
        return "" if self.rows == first.rows else "sees other data: not the same rows in the same order"


@dataclass(frozen=True, slots=True)
class RowOpening:
    """What a worker begins with: the stage by its module's name, its settings, and folders that all nodes see. The
    settings are pickled apart: what a node lacks to read them is then told as any other trouble of its worker.
    """

    code: str
    settings: bytes
    inputs: Mapping[str, Path]
    folder: Path

    @classmethod
    def of(cls, code: str, settings: BaseModel, inputs: Mapping[str, Path], folder: Path) -> RowOpening:
        absolute = {name: path.absolute() for name, path in inputs.items()}
        return cls(code, pickle.dumps(settings), absolute, folder.absolute())

    def __call__(self, note: Callable[[str], None]) -> tuple[RowIdentity, RowWork]:
        work = self.work()
        return RowIdentity(work.digest()), work

    def work(self) -> RowWork:
        """The rows as this machine sees them."""
        rows = stage_of(self.code).rows
        assert rows is not None, "a stage that cannot be split is not dealt"
        return rows(pickle.loads(self.settings), self.inputs, self.folder)


@dataclass(frozen=True, slots=True)
class RowsLoaded(Loaded):
    """What makes the rows is loaded: `digest` is of its weights."""

    differs: ClassVar[str] = "has another model than the others"
    fit: ClassVar[str] = "give a model that is the same on all nodes: a folder on their disk, or owner/name@revision"

    digest: str


@dataclass(frozen=True, slots=True)
class RowGroup:
    """Rows that are dealt at once."""

    rows: tuple[int, ...]

    @property
    def name(self) -> str:
        """Its first row."""
        return f"row {self.rows[0]}"

    @property
    def size(self) -> int:
        """How many they are."""
        return len(self.rows)


@dataclass(frozen=True, slots=True)
class RowDeal:
    """Rows to make."""

    epoch: int
    group: RowGroup


@dataclass(frozen=True, slots=True)
class RowEntry(Entry):
    """Rows that have their result, and lines for the journal; or a broken sample, by its place and what was said of it.
    Without any of these it asks for leave to write files.
    """

    rows: tuple[int, ...] = ()
    lines: tuple[Mapping[str, Any], ...] = ()
    broken: tuple[str, str] | None = None

    @property
    def has_made(self) -> bool:
        return bool(self.rows)


@dataclass(frozen=True, slots=True)
class RowsOver(Finished):
    """A group is done with: how much work it was."""

    work: float


class RowWorker(FarEnd):
    """One that makes rows."""

    def _serve(self, opened: RowWork) -> None:
        order = self._next(Order)
        self._doing = "loading"
        order.refuse_unseen()
        self._line.say(RowsLoaded(opened.open()))
        self._doing = ""
        while (deal := self._next_deal(RowDeal)) is not None:
            self._doing = deal.group.name
            books, began = _DistantBooks(self._enter, deal.epoch), time.monotonic()
            if opened.left_out is not None:
                opened.left_out.elsewhere = books.name_broken
            work = opened.make(deal.group.rows, books)
            self._doing = ""
            self._line.say(RowsOver(deal.epoch, time.monotonic() - began, work))


class _DistantBooks:
    """The parent's: it answers whose group is still his, and nobody else."""

    quiet = True

    def __init__(self, enter: Callable[[Callable[[int], Entry]], Callable[[], None]], epoch: int) -> None:
        self._enter, self._epoch = enter, epoch
        self.mark = f".{epoch}"

    def wait(self) -> None:
        """See Books."""
        self._enter(lambda number: RowEntry(self._epoch, number))()

    def settle(self, rows: Sequence[int], lines: Sequence[Mapping[str, Any]] = ()) -> None:
        """See Books."""
        self._enter(lambda number: RowEntry(self._epoch, number, tuple(rows), tuple(lines)))()

    def name_broken(self, sample: str, said: str) -> None:
        """Have the parent name it, and count it with those of all workers."""
        self._enter(lambda number: RowEntry(self._epoch, number, broken=(sample, said)))()
