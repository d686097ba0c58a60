"""A benchmark's pictures, edited through a recipe into a run directory like any other, or made elsewhere.

    edits/<engine>/recipe.yaml, instructions.csv   what is asked, as anybody would write it: `ip2pbatch plan` reads it
                   run/                            the run: `ip2pbatch status`, `report` and `sheet` look at it
          photos/                              pictures that the benchmark keeps in parquet files

All results of a stage share it, so that another judge has nothing edited again, and an interrupted run goes on.
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import json
import logging
import sys
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, Field
from tqdm import tqdm

from ip2pbatch import __version__
from ip2pbatch.disk.atomic import write_whole
from ip2pbatch.engine import on_torch
from ip2pbatch.errors import NothingMatchedError, StoppedError
from ip2pbatch.pictures.sizing import SIZING
from ip2pbatch.plan.defaults import model_defaults
from ip2pbatch.plan.edits import Edit, Plan
from ip2pbatch.plan.expand import expand
from ip2pbatch.plan.photos import Scan, scan
from ip2pbatch.plan.written.choices import Sampler
from ip2pbatch.plan.written.recipe import read_recipe
from ip2pbatch.run.clock import now
from ip2pbatch.run.directory.healing import heal
from ip2pbatch.run.directory.ledger import Run, open_run
from ip2pbatch.run.directory.lines import EngineSpec, Invocation, Record
from ip2pbatch.run.events import Quiet
from ip2pbatch.run.execute import run_plan
from ip2pbatch.run.machine import Machine, Precision
from ip2pbatch.run.states import already_done
from ip2pbatch.train.model_names import ModelName

log = logging.getLogger(__name__)


class EditSettings(BaseModel):
    """How a benchmark is edited: with `model`, unless its pictures were `generated` elsewhere in the same layout."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: ModelName | None = None  # one of the stage's inputs, a folder, or a model of the hub
    generated: Path | None = None
    text: float = 7.5
    image: float = 1.5
    steps: int = Field(100, ge=1, le=1000)
    sampler: Sampler = "euler_a"
    resolution: int = Field(512, ge=16, le=8192)  # of the long side
    seed: int = Field(0, ge=0)  # one for all pictures
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    batch: int | None = Field(None, ge=1, exclude=True)  # edits a call; what the model's size suggests where not given
    limit: int | None = Field(None, ge=1)  # so many edits, drawn by the seed: to try it
    resamples: int = Field(1000, ge=1)


@dataclass(frozen=True, slots=True)
class Item:
    """One edit that the benchmark asks for: its key in the published files, its kind, the picture before."""

    key: str
    group: str
    instruction: str
    photo: Path


AnyItem = TypeVar("AnyItem", bound=Item)


@dataclass(frozen=True, slots=True)
class Made:
    """The picture after, or why there is none."""

    path: Path | None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Pictures:
    """Those after, by the items' keys; `per_second` is how fast this session made some, 0 where it made none."""

    made: Mapping[str, Made]
    per_second: float = 0.0

    def __getitem__(self, key: str) -> Made:
        return self.made[key]

    @property
    def figures(self) -> dict[str, float]:
        """The stage's figures of them."""
        return {"edits/s": round(self.per_second, 4)} if self.per_second else {}


def drawn(items: Sequence[AnyItem], settings: EditSettings) -> list[AnyItem]:
    """Those of `limit`, in the published order. NothingMatchedError where there are none."""
    if not items:
        raise NothingMatchedError("the benchmark has no edit", hint="fetch it again, or look at what `test` names")
    chosen = np.random.default_rng(settings.seed).permutation(len(items))[: settings.limit]
    return [items[number] for number in sorted(chosen.tolist())]


def pictures_of(
    items: Sequence[Item], settings: EditSettings, inputs: Mapping[str, Path], shared: Path,
    published: Mapping[str, str], ready: Callable[[], None] = lambda: None,
) -> Pictures:  # fmt: skip
    """The picture after of each item by its key, made where it is missing. `published` is where each lies below
    `generated`; `ready` raises before time is spent where what comes after cannot be. StoppedError where a signal
    asked for an end.
    """
    if settings.generated is not None:
        found = {one.key: settings.generated / published[one.key] for one in items}
        return Pictures(
            {key: Made(path) if path.is_file() else Made(None, "its file is missing") for key, path in found.items()}
        )
    name = str(settings.model)
    return edited(items, settings, str(inputs[name] / "model") if name in inputs else name, shared, ready)


def edited(
    items: Sequence[Item], settings: EditSettings, model: str, shared: Path, ready: Callable[[], None]
) -> Pictures:  # fmt: skip
    """One run over all items, which goes on where an earlier one of this engine was."""
    machine = Machine(precision=Precision(settings.precision), batch=settings.batch)
    spec, open_engine = on_torch.choose(model, machine, safety=False, edits=(), note=log.info)
    spec = dataclasses.replace(spec, sizing=SIZING)
    home = shared / "edits" / name_of_engine(spec)
    write_recipe(items, settings, model, home)
    recipe, text = read_recipe(home / "recipe.yaml")
    found, defaults = scan(recipe.photos, output=recipe.output.folder), model_defaults(model)
    plan = expand(recipe, found, defaults)
    with open_run(recipe.output.folder, spec, defaults=defaults) as run:
        run.begin_session(plan, invocation_of(text, spec))
        heal(run, [edit.key for edit in plan.edits if edit.key in run.done])
        per_second = 0.0
        if left := len(plan.edits) - len(already_done(plan, run)):
            ready()
            engine = open_engine()
            if isinstance(machine.batch, int):
                engine.limits = dataclasses.replace(engine.limits, batch=machine.batch)
            try:
                with tqdm(total=left, desc="edits", mininterval=5) as bar:
                    summary = run_plan(plan, run, engine, events=_Bar(bar))
            finally:
                engine.close()
            if summary.stopped:
                raise StoppedError(f"{summary.states.get('left', 0):,} edits are left; run again", summary.stopped)
            per_second = summary.made / max(summary.seconds, 1e-9)
        return Pictures(outcome(items, plan, found, run), per_second)


def name_of_engine(spec: EngineSpec) -> str:
    """16 hex digits over what must be alike in all of a run: another device begins another one."""
    facts = dataclasses.asdict(spec) | {"model": "", "sizing": ""}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


class _Bar(Quiet):
    """Edits as they end."""

    def __init__(self, bar: tqdm[Any]) -> None:
        self._bar = bar

    def finished(self, edit: Edit, record: Record) -> None:
        self._bar.update()


def invocation_of(recipe: str, spec: EngineSpec) -> Invocation:
    """What the run's session says of itself."""
    versions = {"ip2pbatch": __version__, "python": sys.version.split()[0]}
    return Invocation(now().isoformat(timespec="seconds"), "train run", recipe, versions, spec.provider)


def write_recipe(items: Sequence[Item], settings: EditSettings, model: str, home: Path) -> None:
    """What is asked, as a recipe and its instructions."""
    photos = common_folder(items)
    rows = io.StringIO()
    writer = csv.writer(rows, lineterminator="\n")
    writer.writerow(["photo", "instruction", "id"])
    for one in items:
        writer.writerow([name_of(one, photos), one.instruction, one.key[-80:]])
    recipe = {
        "name": "benchmark",
        "model": model,
        "photos": {"folder": str(photos), "instructions": "instructions.csv", "follow_links": True},
        "guidance": {"text": settings.text, "image": settings.image},
        "seeds": [settings.seed],
        "steps": settings.steps,
        "sampler": settings.sampler,
        "size": {"long_side": settings.resolution},
        "output": {"folder": "run"},
        "safety": False,
    }
    write_whole(home / "instructions.csv", rows.getvalue().encode())
    write_whole(home / "recipe.yaml", yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True).encode())


def common_folder(items: Sequence[Item]) -> Path:
    """The lowest folder that all photos are below."""
    folders = [one.photo.parent for one in items]
    return next(
        folder for folder in (folders[0], *folders[0].parents) if all(f.is_relative_to(folder) for f in folders)
    )


def name_of(item: Item, photos: Path) -> str:
    """The photo's name in the recipe."""
    return unicodedata.normalize("NFC", item.photo.relative_to(photos).as_posix())


def outcome(items: Sequence[Item], plan: Plan, found: Scan, run: Run) -> dict[str, Made]:
    """What became of each item."""
    photos = common_folder(items)
    edits = {(strip.photo.name, strip.edits[0].instruction): strip.edits[0].key for strip in plan.strips}
    broken = {one.name: one.reason for one in found.broken}
    made = {}
    for one in items:
        name = name_of(one, photos)
        key = edits.get((name, one.instruction.strip()))
        if key is None:
            made[one.key] = Made(None, broken.get(name, "it has no instruction"))
        elif key in run.done:
            made[one.key] = Made(run.layout.picture(key))
        else:
            made[one.key] = Made(None, run.records[key].detail if key in run.records else "was not made")
    return made
