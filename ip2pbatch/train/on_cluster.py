"""A stage's rows on the workers of a cluster: dealt, written down and made again as the photos of a run are."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from ip2pbatch.errors import RESOURCES, ResourceError, UsageError, WorkerError
from ip2pbatch.run.devices.crew import Crew
from ip2pbatch.run.devices.foreman import Foreman
from ip2pbatch.run.devices.portions import Portions
from ip2pbatch.run.devices.wire import Order, Told
from ip2pbatch.run.on_ray.actor import versions_of
from ip2pbatch.run.on_ray.capacity import Wanted, threads_asked_for
from ip2pbatch.run.on_ray.cluster import connected
from ip2pbatch.run.stop import Stop
from ip2pbatch.train.row_work import OwnBooks, RowWork
from ip2pbatch.train.row_worker import (
    RowDeal,
    RowEntry,
    RowGroup,
    RowIdentity,
    RowOpening,
    RowsLoaded,
    RowsOver,
    RowWorker,
)

if TYPE_CHECKING:
    from ip2pbatch.run.devices.links import Launcher

ALIKE = ("diffusers", "numpy", "pillow", "safetensors", "torch", "transformers")
"""What has the same version on all nodes: what comes of a row hangs on it."""

log = logging.getLogger("ip2pbatch.train")


@dataclass(frozen=True, slots=True)
class Cluster:
    """At least and at most as many workers (None: as there is room); `note` hears what is worth knowing."""

    workers: tuple[int, int] | None
    note: Callable[[str], None]


def make_rows(opening: RowOpening, cluster: Cluster) -> dict[str, float]:
    """The stage, its rows made by workers; the metrics. WorkerError where rows are left that no worker can make.

    Raises MissingError without Ray or a cluster, UsageError where what is there does not fit.
    """
    work, rate = opening.work(), 0.0
    if left := work.left():
        wanted = Wanted(cluster.workers, work.gpu, threads_asked_for())
        with connected(wanted, versions_of(ALIKE), RowWorker) as (launcher, room):
            rate = deal_out(work, left, opening, room.most, launcher, cluster.note)
    return work.finish(rate)


def deal_out(
    work: RowWork, rows: Sequence[int], opening: RowOpening, workers: int, launcher: Launcher,
    note: Callable[[str], None], watching: Callable[[Crew[Any, Any]], None] = lambda crew: None,
) -> float:  # fmt: skip
    """Have so many workers make these rows; the work a second of all of them. `watching` is shown the crew."""
    dealer = RowDealer(rows, work.most)
    with Crew[RowIdentity, RowsLoaded](("",) * workers, lambda device, of: opening, note, launcher) as crew:
        if why := crew.open().unlike(RowIdentity(work.digest())):
            raise UsageError(f"{crew.members[0].name} {why}", hint="data lie on a disk that all nodes see alike")
        work.begin(crew.load(Order(folder=work.folder)).digest)
        watching(crew)
        clerk, began = RowClerk(work, dealer, note), time.monotonic()
        made, lost = Foreman(crew, dealer, clerk).work(Stop())
    if lost:
        more = f", and {len(lost) - 1} more" if len(lost) > 1 else ""
        said = f"row {lost[0].row}: {lost[0].reason}{more}"
        raise WorkerError(said, RESOURCES, hint="what is made is kept; run again to try these again")
    return made / max(1e-9, time.monotonic() - began)


@dataclass(frozen=True, slots=True)
class LostRow:
    """A row that several workers have ended over, and why."""

    row: int
    reason: str


class RowDealer(Portions[int]):
    """Deals rows by their numbers, `most` at once."""

    def __init__(self, rows: Sequence[int], most: int) -> None:
        super().__init__(most, len(rows))
        self._left = set(rows)
        self._queue.extend(rows)

    def _weigh(self, row: int) -> int | None:
        return 1 if row in self._left else None

    @property
    def left(self) -> int:
        """How many have no result."""
        return len(self._left)

    def settle(self, rows: Sequence[int]) -> int:
        """These have their result; how many had none."""
        before = len(self._left)
        self._left.difference_update(rows)
        return before - len(self._left)

    def deal(self, workers: int) -> RowGroup | None:
        """The next rows for one of so many workers."""
        rows = self._draw(workers)
        return RowGroup(rows) if rows else None

    def deal_ahead(self, workers: int, beside: RowGroup) -> None:
        """None: a group takes long beside the word that brings the next."""

    def take_back(self, group: RowGroup, reason: str) -> list[LostRow]:
        """See Dealer: rows that are not dealt again."""
        left = [row for row in group.rows if row in self._left]
        found = ((row, self._return(row, 1, reason, "row")) for row in left)
        return [LostRow(row, said) for row, said in found if said]


class RowClerk:
    """Writes the stage's journal for its workers, and counts what they did. Used from one thread."""

    def __init__(self, work: RowWork, dealer: RowDealer, note: Callable[[str], None]) -> None:
        self._work, self._dealer, self._note = work, dealer, note
        self._books = OwnBooks(work.file())
        self._bar = tqdm(total=dealer.left, desc="rows", unit="row", mininterval=5, smoothing=0.05)
        self._made, self._lost = 0.0, list[LostRow]()

    def deal(self, epoch: int, group: RowGroup) -> RowDeal:
        return RowDeal(epoch, group)

    def write(self, words: Sequence[RowEntry]) -> ResourceError | None:
        """Write what workers said at the same time; why the disk did not take it, where it did not. RecipeError where
        more samples are broken than may be.
        """
        try:
            self._books.settle((), [line for word in words for line in word.lines])
        except ResourceError as error:
            return error
        for word in words:
            if word.broken and self._work.left_out is not None:
                self._work.left_out.note(*word.broken)
            self._bar.update(self._dealer.settle(word.rows))
        return None

    def over(self, word: RowsOver) -> None:
        self._made += word.work

    def give_up(self, victim: LostRow) -> None:
        self._lost.append(victim)

    def told(self, name: str, word: Told) -> None:
        """What a worker has to say."""
        log.info("%s: %s", name, word.detail)

    def remark(self, text: str) -> None:
        self._note(text)

    def is_name(self, name: str) -> bool:
        """Nobody asks: names belong to a plan of edits."""
        return False

    def tell_ahead(self, doing: Mapping[str, str]) -> None:
        """The bar has it."""

    def summary(self, stopped: int) -> tuple[float, list[LostRow]]:
        """How much was made, and which rows nobody can make."""
        return self._made, self._lost

    def end(self, error: str) -> None:
        self._bar.close()
        self._books.close()
