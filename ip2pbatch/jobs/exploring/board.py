"""The cells that a page shows: those of the run as it is on the disk, and over them what waits and what is at work."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path
from typing import Literal

from ip2pbatch.errors import UsageError
from ip2pbatch.pictures.areas.composing import Area, area_of
from ip2pbatch.plan.edits import Edit, Strip
from ip2pbatch.run.chosen.stars import NOTHING, Choice, cell_id
from ip2pbatch.run.directory.kept import Kept
from ip2pbatch.run.directory.layout import Layout
from ip2pbatch.run.directory.lines import Record
from ip2pbatch.run.masks import masks_in
from ip2pbatch.show.cells import mark_of
from ip2pbatch.show.proof import Proof

MOST = 100_000
"""Cells that a board holds, some hundred bytes each."""

State = Literal["waiting", "running", "done", "failed", "flagged", "left", "cancelled"]
Only = Literal["picked", "failed", "done", "running", "starred"]
_STATES: Mapping[str, State] = {"done": "done", "flagged": "flagged"}
_WHY = {"unmatched": "nothing of its region was found in the photo"}


@dataclass(frozen=True, slots=True)
class Standing:
    """What is not on the disk yet: a cell that waits, is at work, or could not be made for no fault of its own."""

    state: State
    job: str = ""
    client: str = ""
    reason: str = ""
    step: int = 0
    steps: int = 0
    preview: int = 0


@dataclass(frozen=True, slots=True)
class Seen:
    """A cell as it is now: link `link`, from 1, of `strip`; what became of it, and what a person thinks of it."""

    id: str
    strip: Strip
    link: int
    state: State
    reason: str
    record: Record | None
    live: Standing | None
    choice: Choice

    @property
    def edit(self) -> Edit:
        return self.strip.edits[self.link - 1]

    @property
    def mark(self) -> str:
        """A plain verdict on the picture, with what to try; "" where there is nothing to say."""
        return mark_of(self.record.metrics) if self.record is not None and self.state == "done" else ""


@dataclass(slots=True)
class Board:
    """All cells by their ids, in the order in which they were asked for. Safe to use from several threads.

    `changed` hears the id of each cell that is another one than it was. `is_cut` says that a run holds more than these.
    """

    changed: Callable[[str], None] = lambda cell: None
    layout: Layout | None = None
    is_cut: bool = False
    _places: dict[str, tuple[Strip, int]] = field(default_factory=dict)
    _of_edit: dict[str, list[str]] = field(default_factory=dict)
    _records: dict[str, Record] = field(default_factory=dict)
    _live: dict[str, Standing] = field(default_factory=dict)
    _choices: dict[str, Choice] = field(default_factory=dict)
    _previews: dict[str, bytes] = field(default_factory=dict)
    _of_photo: dict[str, dict[str, None]] = field(default_factory=dict)  # by path
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def __len__(self) -> int:
        return len(self._places)

    def add(self, strips: Iterable[Strip]) -> list[str]:
        """Show these strips too; the ids of their cells, in order. Raises UsageError where they are too many."""
        ids: dict[str, None] = {}
        with self._lock:
            for strip in strips:
                for link, edit in enumerate(strip.edits, start=1):
                    cell = cell_id(strip, edit)
                    ids[cell] = None
                    if cell not in self._places:
                        self._refuse()
                        self._of_edit.setdefault(edit.key, []).append(cell)
                        self._of_photo.setdefault(str(strip.photo.path), {})[cell] = None
                    self._places[cell] = strip, link
        return list(ids)

    def show(self, strips: Iterable[Strip]) -> None:
        """Show these and what is waited for, and nothing else; of more than a board holds the first ones."""
        shown: dict[str, tuple[Strip, int]] = {}
        for strip in strips:  # a large run expands them one by one, for which nobody waits
            shown |= {cell_id(strip, edit): (strip, link) for link, edit in enumerate(strip.edits, start=1)}
            if len(shown) > MOST:
                break
        with self._lock:
            self.is_cut, shown = len(shown) > MOST, dict(islice(shown.items(), MOST))
            shown |= {cell: place for cell, place in self._places.items() if cell in self._live and cell not in shown}
            known = {cell: shown[cell] for cell in self._places if cell in shown}
            self._places = known | shown  # in the order in which they came to be known
            self._index()

    def _index(self) -> None:
        """Which cells a photo and an Edit have, anew."""
        self._of_edit, self._of_photo = {}, {}
        for cell, (strip, link) in self._places.items():
            self._of_edit.setdefault(strip.edits[link - 1].key, []).append(cell)
            self._of_photo.setdefault(str(strip.photo.path), {})[cell] = None

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids of all cells, in order."""
        with self._lock:
            return tuple(self._places)

    def _refuse(self) -> None:
        if len(self._places) >= MOST:
            why = f"there are more than {MOST:,} cells, which is more than a studio shows"
            raise UsageError(why, hint="try in another output folder: --out names it")

    def remove(self, cells: Iterable[str]) -> None:
        """These are no longer asked for; whoever listens hears of each that it is cancelled."""
        for cell in cells:
            with self._lock:
                if cell not in self._places:
                    continue
                self._live[cell] = Standing("cancelled")
            self.changed(cell)
            with self._lock:
                strip, link = self._places.pop(cell)
                self._live.pop(cell, None)
                self._previews.pop(cell, None)
                self._of_edit[strip.edits[link - 1].key].remove(cell)
                del self._of_photo[str(strip.photo.path)][cell]

    def recorded(self, records: Iterable[Record]) -> None:
        """These became of Edits, as the disk says."""
        for record in records:
            with self._lock:
                old = self._records.get(record.edit)
                cells = list(self._of_edit.get(record.edit, ()))
                if cells or len(self._records) < MOST:
                    self._records[record.edit] = record
                for cell in cells:
                    if record.status == "done" or (cell in self._live and self._live[cell].state == "running"):
                        self._live.pop(cell, None)
                        self._previews.pop(cell, None)
            if old != record:
                for cell in cells:
                    self.changed(cell)

    def stand(self, cells: Iterable[str], state: State, *, job: str = "", client: str = "", reason: str = "") -> None:
        """These wait, are at work, or could not be made."""
        for cell in cells:
            with self._lock:
                old = self._live.get(cell, Standing(state))
                if state != "running":
                    self._previews.pop(cell, None)
                self._live[cell] = replace(
                    old, state=state, job=job or old.job, client=client or old.client, reason=reason, step=0, steps=0
                )
            self.changed(cell)

    def settle(self, cells: Iterable[str]) -> None:
        """These are as the disk says."""
        for cell in cells:
            with self._lock:
                known = self._live.pop(cell, None)
                self._previews.pop(cell, None)
            if known is not None:
                self.changed(cell)

    @property
    def at_work(self) -> list[str]:
        """The ids of the cells that stand as being made."""
        with self._lock:
            return [cell for cell, live in self._live.items() if live.state == "running"]

    def step(self, edits: Sequence[Edit], done: int, of: int, previews: Sequence[bytes] = ()) -> None:
        """These Edits are at step `done` of `of`; `previews` show each so far, where somebody made them."""
        for number, edit in enumerate(edits):
            for cell in self.cells_of(edit.key):
                with self._lock:
                    old = self._live.get(cell, Standing("running"))
                    fresh = number < len(previews)
                    if fresh:
                        self._previews[cell] = previews[number]
                    self._live[cell] = replace(old, state="running", step=done, steps=of, preview=old.preview + fresh)
                self.changed(cell)

    def cells_of(self, key: str) -> list[str]:
        """The cells of an Edit."""
        with self._lock:
            return list(self._of_edit.get(key, ()))

    def choose(self, choices: Mapping[str, Choice]) -> None:
        """What a person thinks of these cells."""
        with self._lock:
            self._choices.update(choices)
        for cell in choices:
            self.changed(cell)

    def choice(self, cell: str) -> Choice:
        return self._choices.get(cell, NOTHING)

    def preview(self, cell: str) -> bytes | None:
        """The picture as it grows, a JPEG; None where there is none."""
        return self._previews.get(cell)

    def get(self, cell: str) -> Seen | None:
        """The cell as it is now; None where there is no such cell."""
        with self._lock:
            place = self._places.get(cell)
            if place is None:
                return None
            strip, link = place
            record, live = self._records.get(strip.edits[link - 1].key), self._live.get(cell)
        state, reason = _said(record, live)
        return Seen(cell, strip, link, state, reason, record, live, self.choice(cell))

    def count(self, photo: Path) -> int:
        """How many cells a photo has."""
        return len(self._of_photo.get(str(photo), ()))

    def page(
        self, offset: int, limit: int, *, photos: Collection[str] | None = None, only: Only | None = None,
        search: str = "", newest: bool = False,
    ) -> tuple[int, list[Seen]]:  # fmt: skip
        """How many cells there are of what is asked for, and some of them; `photos` are paths."""
        with self._lock:
            ids = self._ids_of(photos, only)
            if only is not None or search:
                ids = [cell for cell in ids if self._is_wanted(cell, only, search.casefold())]
        if newest:
            ids.reverse()
        return len(ids), [seen for cell in ids[offset : offset + limit] if (seen := self.get(cell))]

    def _ids_of(self, photos: Collection[str] | None, only: Only | None) -> list[str]:
        """The ids of all cells of these photos, without those of which a look at what was chosen rules out that they
        are wanted: a board holds very many, and few of them are picked.
        """
        if photos is not None:
            return [cell for photo in photos for cell in self._of_photo.get(photo, ())]
        if only in ("picked", "starred"):
            return [cell for cell in self._places if cell in self._choices]
        return list(self._places)

    def _is_wanted(self, cell: str, only: Only | None, search: str) -> bool:
        strip, link = self._places[cell]
        edit, choice = strip.edits[link - 1], self.choice(cell)
        if search and search not in f"{strip.photo.name}\n{edit.instruction}".casefold():
            return False
        if only == "picked":
            return choice.picked
        if only == "starred":
            return choice.stars > 0
        state, _ = _said(self._records.get(edit.key), self._live.get(cell))
        also = {"failed": "flagged", "running": "waiting"}
        return only is None or state in (only, also.get(only))

    def seconds_a_cell(self) -> float | None:
        """What the last pictures took, in the middle; None where there are none."""
        with self._lock:
            took = [record.seconds for record in islice(reversed(self._records.values()), 50) if record.seconds > 0]
        return statistics.median(took) if took else None

    def proof(self, seen: Seen) -> Proof | None:
        """The cell's picture as its file shows it; None where there is none."""
        if self.layout is None or seen.record is None or seen.record.status != "done":
            return None
        kept = Kept(self.layout.picture(seen.edit.key), seen.record.digest)
        strength = 1.0 if seen.strip.strength is None else seen.strip.strength
        return Proof(kept, self.before(seen), area=self.area(seen), strength=strength)

    def before(self, seen: Seen) -> Kept | None:
        """The photo as the model saw it; None before it was first loaded."""
        if self.layout is None:
            return None
        path = self.layout.source(seen.strip.photo.digest, seen.strip.edits[0].size)
        return Kept(path, noun="source") if path.is_file() else None

    def area(self, seen: Seen) -> Area | None:
        """Where the cell shows its edit; None for everywhere."""
        regions = [edit.region for edit in seen.strip.edits[: seen.link]]
        masks = masks_in(self.layout) if self.layout else None
        return area_of(regions, seen.strip.feathers[: seen.link], masks) if masks else None

    def clear(self) -> None:
        """Forget what the disk said; what waits stays."""
        with self._lock:
            kept = {cell: self._places[cell] for cell in self._live if cell in self._places}
            self._places, self._records, self.is_cut = dict(kept), {}, False
            self._previews = {cell: one for cell, one in self._previews.items() if cell in kept}
            self._index()


def _said(record: Record | None, live: Standing | None) -> tuple[State, str]:
    if live is not None:
        return live.state, live.reason
    if record is None:
        return "left", "asked for and not made yet"
    state = _STATES.get(record.status, "failed")
    return state, "" if state == "done" else record.detail or _WHY.get(record.status, record.status)


class Previews:
    """Decides at which steps a preview is worth its time: together they take at most a fifth of it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._next = clock, 0.0

    def made(self, make: Callable[[], list[bytes]]) -> list[bytes]:
        """The previews, or none where it is not their time."""
        begun = self._clock()
        if begun < self._next:
            return []
        found = make()
        ended = self._clock()
        self._next = ended + 4 * (ended - begun)
        return found


def all_cells(strips: Iterable[Strip]) -> list[str]:
    """The ids of the cells of strips, each once."""
    return list(dict.fromkeys(chain.from_iterable((cell_id(s, e) for e in s.edits) for s in strips)))
