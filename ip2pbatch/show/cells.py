"""What a run holds as cells: one picture each, or the reason why there is none. Sheets and report show the same."""

from __future__ import annotations

import bisect
import itertools
import time
from array import array
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar, overload

from ip2pbatch.pictures.areas.composing import Area, area_of
from ip2pbatch.pictures.likeness import verdict
from ip2pbatch.plan.defaults import family_for
from ip2pbatch.plan.edits import Carry, Edit, Guidance, Region, Strip
from ip2pbatch.plan.unedited import Passed
from ip2pbatch.plan.written.taught import Taught, taught_by
from ip2pbatch.run import clock
from ip2pbatch.run.chosen.stars import NOTHING, Choice, cell_id, read_choices
from ip2pbatch.run.directory.kept import Kept
from ip2pbatch.run.directory.layout import strip_key
from ip2pbatch.run.directory.lines import Delivery, Record
from ip2pbatch.run.directory.view import RunView
from ip2pbatch.run.masks import masks_in
from ip2pbatch.show.proof import Proof

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)
_FEW = 20_000  # cells that are held in memory
_TOGETHER = 1024  # strips of which it is looked up together what became of them
_MOVED = 1.0  # model pixels: an edit that was moved back by more says so
State = Literal["done", "failed", "nan", "flagged", "skipped", "unmatched", "damaged", "missing"]
STATES: tuple[State, ...] = ("done", "failed", "nan", "flagged", "skipped", "unmatched", "damaged", "missing")

SCALES = ("text", "image")

# What to try, by the verdict on a picture and the scales that its model has.
ADVICE = {
    "hardly changed": {"text": "raise text", "image": "lower image"},
    "lost the photo": {"text": "lower text", "image": "raise image"},
}


@dataclass(frozen=True, slots=True)
class Cell:
    """One link of one Strip as a person sees it.

    `number` counts the cells of a run from 1, `link` those of a strip from 1 to `links`; `kept` says whether the link
    is delivered. `picture` is the model-size picture, `source` the photo's at that size, `original` the photo itself
    and `delivered` the finished file: None where there is none. `mark` is a plain verdict on the picture with what to
    try; `strength` is how much of it is delivered, `area` where, None for everywhere, and `moved` whether it was laid
    on its photo again; `device` is what made it, where a run had several; `model` is the name of its model where
    several are compared, `scales` the names of those that it has. `choice` is what a person
    in the studio thinks of it.
    """

    key: str
    photo: str
    edit: str
    instruction: str
    guidance: Guidance
    seed: int
    steps: int
    sampler: str
    size: tuple[int, int]
    state: State
    number: int = 0
    link: int = 1
    links: int = 1
    kept: bool = True
    chain: tuple[str, ...] = ()
    carry: Carry | None = None
    region: Region | None = None
    feather: float = 0.0
    negative: str = ""
    digest: str = ""
    detail: str = ""
    picture: Kept | None = None
    source: Kept | None = None
    original: Path | None = None
    delivered: Path | None = None
    mark: str = ""
    strength: float = 1.0
    area: Area | None = None
    moved: bool = False
    seconds: float = 0.0
    device: str = ""
    model: str = ""
    scales: tuple[str, ...] = SCALES
    metrics: Mapping[str, float] = field(default_factory=dict)
    choice: Choice = NOTHING

    @property
    def told(self) -> str:
        """Its scales as a person reads them: "text 7.5, image 1.5"; of a model that has none nothing."""
        known = {"text": self.guidance.text, "image": self.guidance.image}
        return ", ".join(f"{name} {number(known[name])}" for name in self.scales)

    @property
    def proof(self) -> Proof | None:
        """The picture as its file shows it; None where there is none."""
        if self.picture is None:
            return None
        return Proof(self.picture, self.source, self.moved, self.area, self.strength)

    @property
    def unread(self) -> str:
        """Why there is no source to show, where there is none."""
        return "not read yet" if self.state == "missing" else "the photo could not be read"


class Outline(NamedTuple):
    """What totals, and whoever chooses among very many cells, know of a cell."""

    photo: str
    state: State
    steps: int
    sampler: str
    marked: bool


@dataclass(frozen=True, slots=True)
class Gallery:
    """Every cell of a run in the recipe's order, with the words that head a sheet and a report.

    `unreadable` are the photos that have no cell because their files are damaged, by name with the reason; `passed`
    is what else lay in their folders, by kind. `models` are those that are compared, by their names, `usual` the
    text and image scale that each has by default, and `absent` those that have no cell, with the reason.
    """

    name: str
    model: str
    backend: str
    cells: Sequence[Cell]
    unreadable: Mapping[str, str] = field(default_factory=dict)
    passed: tuple[Passed, ...] = ()
    models: tuple[str, ...] = ()
    usual: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    absent: Mapping[str, str] = field(default_factory=dict)


def gallery(view: RunView) -> Gallery:
    """The cells of a run, strips in the recipe's order and the links of each in theirs."""
    taught = taught_by(view.spec.model) if view.spec.backend != "fake" else None
    cells = _Cells(view, taught, family_for(view.spec.model).scales)
    few = tuple(cells) if len(view.strips) <= _FEW >= len(cells) else cells
    return Gallery(view.plan.name, view.spec.model, view.spec.backend, few, view.broken, view.passed)


class _Cells(Sequence[Cell]):
    """The cells of a run, each made when it is asked for: go through them once, in order."""

    def __init__(self, view: RunView, taught: Taught | None, scales: tuple[str, ...]) -> None:
        self._view, self._taught, self._scales = view, taught, scales
        self._choices = read_choices(view.layout)

    @cached_property
    def _starts(self) -> array[int]:
        links = (len(strip.edits) for strip in self._view.strips)
        return array("Q", itertools.accumulate(links, initial=0))

    def __len__(self) -> int:
        return self._starts[-1]

    @overload
    def __getitem__(self, at: int) -> Cell: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[Cell]: ...
    def __getitem__(self, at: int | slice) -> Cell | Sequence[Cell]:
        if isinstance(at, slice):
            return [self[one] for one in range(*at.indices(len(self)))]
        if not 0 <= at < len(self):
            raise IndexError(at)
        number = bisect.bisect_right(self._starts, at) - 1
        strip, link = self._view.strips[number], at - self._starts[number]
        return self._cell(strip, strip.edits[link], link + 1, at + 1)

    def of_strip(self, number: int, first: int) -> list[Cell]:
        """The cells of one strip, of which the first has the number `first` from 0."""
        strip = self._view.strips[number]
        return [self._cell(strip, edit, link, first + link) for link, edit in enumerate(strip.edits, start=1)]

    def _cell(self, strip: Strip, edit: Edit, link: int, number: int) -> Cell:
        choice = self._choices.get(cell_id(strip, edit), NOTHING) if self._choices else NOTHING
        found = _cell(self._view, strip, edit, link, self._taught, self._scales)
        return replace(found, number=number, choice=choice)

    def outlines(self) -> Iterator[list[Outline]]:
        """What is seen of the cells of each strip without a look at their files."""
        strips = iter(self._view.strips)
        while some := list(islice(strips, _TOGETHER)):
            keys = [(strip_key(strip), edit.key) for strip in some for edit in strip.edits]
            records = self._view.records.each(key for _, key in keys)
            deliveries = self._view.deliveries.each(keys)
            for strip in some:
                told = zip(
                    strip.edits, islice(records, len(strip.edits)), islice(deliveries, len(strip.edits)), strict=True
                )
                yield [self._outline(strip, edit, record, delivery) for edit, record, delivery in told]

    def _outline(self, strip: Strip, edit: Edit, record: Record | None, delivery: Delivery | None) -> Outline:
        state = _state(self._view, edit.key, record)
        marked = record is not None and state == "done" and any(_marks(record, edit, self._taught, delivery))
        return Outline(strip.photo.name, state, edit.steps, edit.sampler, marked)

    def __iter__(self) -> Iterator[Cell]:
        links = (
            (strip, edit, link) for strip in self._view.strips for link, edit in enumerate(strip.edits, start=1)
        )  # fmt: skip
        return (self._cell(*link, number) for number, link in enumerate(links, start=1))


def _cell(
    view: RunView, strip: Strip, edit: Edit, link: int, taught: Taught | None, scales: tuple[str, ...]
) -> Cell:  # fmt: skip
    record, picture, delivery = view.record(edit.key), view.picture(edit.key), view.delivery(strip, edit)
    detail = {} if delivery is None or delivery.gate is None else {"detail": delivery.gate}
    damaged, state = view.why_damaged(edit.key), _state(view, edit.key, record)
    return Cell(
        key=edit.key, photo=strip.photo.name, edit=strip.id, instruction=edit.instruction, guidance=edit.guidance,
        seed=edit.seed, steps=edit.steps, sampler=edit.sampler, size=edit.size, state=state, link=link,
        links=len(strip.edits), kept=link in strip.keep, chain=tuple(e.instruction for e in strip.edits),
        carry=edit.carry, region=edit.region, feather=strip.feathers[link - 1] if strip.feathers else 0.0,
        negative=edit.negative, digest=strip.photo.digest,
        detail=damaged or (record.detail if record else "not made yet"),
        mark="; ".join(_marks(record, edit, taught, delivery, scales)) if record and state == "done" else "",
        scales=scales,
        picture=picture, source=view.source(strip), original=strip.photo.path,
        delivered=view.delivered_path(strip, edit), strength=_strength(strip, delivery),
        area=area_of([one.region for one in strip.edits[:link]], strip.feathers[:link], masks_in(view.layout)),
        moved=delivery is not None and delivery.moved > 0,
        seconds=record.seconds if record else 0.0, device=record.device if record else "",
        metrics=record.metrics | detail if record and not damaged else {},
    )  # fmt: skip


def _state(view: RunView, key: str, record: Record | None) -> State:
    return "damaged" if view.why_damaged(key) else "missing" if record is None else record.status


def outlines(cells: Sequence[Cell]) -> Iterator[list[Outline]]:
    """What is seen of the cells of each strip, of which there may be millions."""
    if isinstance(cells, _Cells):
        return cells.outlines()
    return ([Outline(c.photo, c.state, c.steps, c.sampler, bool(c.mark)) for c in strip] for strip in strips_of(cells))


def cells_of_strip(cells: Sequence[Cell], number: int, first: int, length: int) -> Sequence[Cell]:
    """The cells of one strip by its number, of which the first has the number `first` from 0."""
    return cells.of_strip(number, first) if isinstance(cells, _Cells) else cells[first : first + length]


def _strength(strip: Strip, delivery: Delivery | None) -> float:
    if delivery is not None:
        return delivery.strength
    return 1.0 if strip.strength is None else strip.strength


def _marks(
    record: Record, edit: Edit, taught: Taught | None, delivery: Delivery | None, scales: Collection[str] = SCALES
) -> Iterator[str]:
    """What a person should know of a picture before trusting it: what was not read, not taught, or went too far."""
    if record.unread:
        yield f"not read: “{record.unread}”"
    if taught is not None and (unlike := taught.unlike(edit.instruction)):
        yield unlike.mark
    if mark := mark_of(record.metrics, scales):
        yield mark
    if delivery is not None and delivery.moved > _MOVED:
        yield f"moved {delivery.moved:.1f} model pixels, {abs(delivery.scaled):.1f} %"


def mark_of(metrics: Mapping[str, float], scales: Collection[str] = SCALES) -> str:
    """ "hardly changed: raise text or lower image", the reverse, or nothing where a picture is neither; of a model that
    has not both `scales`, what it has.
    """
    found = verdict(metrics) if {"changed", "structure"} <= metrics.keys() else None
    if not found:
        return ""
    tries = " or ".join(what for name, what in ADVICE[found].items() if name in scales)
    return f"{found}: {tries}" if tries else found


def grouped(things: Iterable[T], key: Callable[[T], K]) -> dict[K, list[T]]:
    """The things by their key, keys in the order of their first thing."""
    groups: dict[K, list[T]] = {}
    for thing in things:
        groups.setdefault(key(thing), []).append(thing)
    return groups


def largest(cells: Sequence[Cell]) -> Cell:
    """The first of the cells whose photo its model saw the largest; where none saw it, the first."""
    return max(cells, key=lambda cell: cell.size[0] * cell.size[1] if cell.source is not None else 0)


def strips_of(cells: Iterable[Cell]) -> Iterator[list[Cell]]:
    """The cells of each strip, links in order. Links may differ in seed and guidance: only their order tells."""
    strip: list[Cell] = []
    for cell in cells:
        if cell.link == 1 and strip:
            yield strip
            strip = []
        strip.append(cell)
    if strip:
        yield strip


def totals(cells: Iterable[Cell]) -> str:
    """How many cells are in each state, in words: "18 done, 1 failed". An Edit that two strips share counts once."""
    counts = Counter({(cell.model, cell.key): cell.state for cell in cells}.values())
    return ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state]) or "none"


def today() -> str:
    """The date for a heading, as 2026-11-21: from SOURCE_DATE_EPOCH where it is set (UTC), else the local day.

    Raises UsageError.
    """
    pinned = clock.pinned()
    return f"{pinned:%Y-%m-%d}" if pinned else time.strftime("%Y-%m-%d")


def number(value: float) -> str:
    """A scale as a person writes it: 7.5, 1.25, 5."""
    return f"{value:.6g}"


def aligned(values: Iterable[float]) -> dict[float, str]:
    """The values of an axis with one number of decimals, so that they line up: 1.00, 1.25, 1.50."""
    unique = sorted(set(values))
    decimals = max((len(number(v).partition(".")[2]) for v in unique if "e" not in number(v)), default=0)
    return {v: number(v) if "e" in number(v) else f"{v:.{decimals}f}" for v in unique}
