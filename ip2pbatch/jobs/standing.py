"""How a run stands: found by its folder or its recipe, counted without a model."""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ip2pbatch.disk.files_at import look_again
from ip2pbatch.errors import RecipeError, UsageError
from ip2pbatch.plan.unedited import Passed
from ip2pbatch.plan.written.outputs import Sheet
from ip2pbatch.plan.written.recipe import load_recipe
from ip2pbatch.plan.written.yaml_source import parse_yaml
from ip2pbatch.run.directory.lines import Delivery, Record
from ip2pbatch.run.directory.renamed import leftovers
from ip2pbatch.run.directory.standing_files import Look, look_at
from ip2pbatch.run.directory.superseded import superseded
from ip2pbatch.run.directory.view import RunView, read_run
from ip2pbatch.run.lock import devices_of, events_of

if TYPE_CHECKING:
    from ip2pbatch.jobs.voice import Voice


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A picture that was tried and is not there."""

    photo: str
    instruction: str
    state: str
    reason: str


@dataclass(frozen=True, slots=True)
class DetailKept:
    """How much of the photos' own fine detail is in the delivered files, 0 to 1."""

    median: float
    least: float
    least_in: str


@dataclass(frozen=True, slots=True)
class Standing:
    """What of a run is done, failed or left. `edits` counts by state, `broken` are photos that cannot be read, with
    the reason, `passed` what else lay in their folders by kind, `unread` what of an instruction no picture heard of,
    `leftovers` files that an earlier delivery left under other names, `devices` what pictures were made on, as their
    makers call them.

    Of the `delivered` files some may be `deleted` or `changed` since, by their size, or `touched`, by their time alone;
    `superseded` ones are still there and show what the run is no longer asked for; `superseded_changed` ones were
    changed besides. `files` is the address that they were delivered to, "" where that is the run's folder.
    """

    run: str
    name: str
    model: str
    backend: str
    precision: str
    photos: int
    edits: Mapping[str, int]
    delivered: int
    deleted: tuple[str, ...]
    changed: tuple[str, ...]
    touched: tuple[str, ...]
    superseded: tuple[str, ...]
    superseded_changed: tuple[str, ...]
    detail_kept: DetailKept | None
    leftovers: tuple[str, ...]
    unfinished: tuple[Unfinished, ...]
    broken: Mapping[str, str]
    passed: tuple[Passed, ...]
    unread: Mapping[str, str]
    sessions: int
    devices: tuple[str, ...]
    last: str | None
    complaints: tuple[str, ...]
    files: str

    def as_json(self) -> dict[str, Any]:
        """All of it for `status --json`."""
        broken = [{"file": name, "reason": reason} for name, reason in self.broken.items()]
        return asdict(self) | {"broken": broken}


def find(run: Path, voice: Voice | None = None) -> RunView:
    """The run in an output folder, or of a recipe file; `voice` hears what of it cannot be read.

    Raises UsageError, RecipeError.
    """
    return find_with_sheet(run, voice)[0]


def find_with_sheet(run: Path, voice: Voice | None = None) -> tuple[RunView, Sheet]:
    """The same, and how its sheets should look: as the recipe says, of a folder the one that was run last."""
    if run.is_dir():
        view = look(run, voice)
        return view, _sheet_of(view)
    if run.is_file():
        recipe = load_recipe(run)
        return look(recipe.output.folder, voice), recipe.sheet
    raise UsageError(f"there is no run at {run}", hint="give the output folder of a run, or its recipe")


def _sheet_of(view: RunView) -> Sheet:
    """Of a recipe that an older version took and this one does not, the defaults."""
    try:
        data, _ = parse_yaml(view.sessions[-1].recipe if view.sessions else "", view.layout.folder)
        return Sheet.model_validate(data["sheet"]) if isinstance(data, dict) and "sheet" in data else Sheet()
    except (RecipeError, ValueError):
        return Sheet()


def look(root: Path, voice: Voice | None) -> RunView:
    """The run in an output folder, after telling what of it cannot be read. Raises UsageError."""
    view = read_run(root)
    look_again(view.files)
    if voice is not None:
        for text in view.complaints:
            voice.warn(text)
    return view


def standing(view: RunView) -> Standing:
    """How the run of `view` stands."""
    last = view.sessions[-1] if view.sessions else None
    seen, old = _Seen(view), superseded(view)
    return Standing(
        run=str(view.root), name=view.plan.name, model=view.spec.model, backend=view.spec.backend,
        precision=view.spec.precision, photos=len(view.photos), edits=view.counts(),
        delivered=seen.delivered, deleted=tuple(seen.files[Look.GONE]), changed=tuple(seen.files[Look.CHANGED]),
        touched=tuple(seen.files[Look.TOUCHED]),
        superseded=tuple(sorted(old[Look.SAME] + old[Look.TOUCHED])), superseded_changed=tuple(old[Look.CHANGED]),
        detail_kept=seen.detail_kept, leftovers=tuple(leftovers(view)), unfinished=tuple(seen.unfinished.values()),
        broken=view.broken, passed=view.passed, unread=seen.unread, sessions=len(view.sessions),
        devices=tuple(dict.fromkeys(name for event in events_of(view, "engine") for name in devices_of(event))),
        last=last.started if last else None,
        complaints=tuple(view.complaints), files=view.address,
    )  # fmt: skip


class _Seen:
    """What is seen in one walk through the strips of a run, which may be millions: what came of their Edits, and how
    many files are `delivered`, with the paths of those that are not as they were.
    """

    def __init__(self, view: RunView) -> None:
        self.unfinished: dict[str, Unfinished] = {}
        self.unread: dict[str, str] = {}
        self.delivered, self.files = 0, {look: list[str]() for look in Look if look is not Look.SAME}
        self._shares, self._least = array("d"), (math.inf, "")
        for strip in view.strips:
            for edit in strip.made:
                if (record := view.records.with_detail(edit.key)) is not None:
                    self._hear(strip.photo.name, edit.instruction, record)
            for _, edit in view.kept(strip):
                if (file := view.delivery(strip, edit)) is not None:
                    self._look(view.files, file)

    @property
    def detail_kept(self) -> DetailKept | None:
        """None where no file says it."""
        return DetailKept(round(float(np.median(self._shares)), 3), *self._least) if self._shares else None

    def _hear(self, photo: str, instruction: str, record: Record) -> None:
        if record.status != "done":
            self.unfinished[record.edit] = Unfinished(photo, instruction, record.status, record.detail)
        elif record.unread:
            self.unread[instruction] = record.unread

    def _look(self, root: Path, file: Delivery) -> None:
        self.delivered += 1
        if (how := look_at(root, file)) is not Look.SAME:
            self.files[how].append(file.path)
        if file.gate is not None:
            self._shares.append(file.gate)
            self._least = min(self._least, (file.gate, file.path))
