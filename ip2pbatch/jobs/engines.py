"""From a model's name and a machine's flags to an EngineSpec and the EditEngine behind it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from ip2pbatch.jobs.backends import backend
from ip2pbatch.pictures.sizing import SIZING
from ip2pbatch.plan.edits import Edit, Plan
from ip2pbatch.plan.limits import Limits
from ip2pbatch.plan.schedule import padding
from ip2pbatch.run.directory.header import known_header
from ip2pbatch.run.directory.layout import Layout, run_folders
from ip2pbatch.run.directory.lines import EngineSpec
from ip2pbatch.run.engine import EditEngine, Pending
from ip2pbatch.run.machine import Machine


def choose(
    model: str, machine: Machine, *, safety: bool, edits: Sequence[Edit] = (), note: Callable[[str], None]
) -> tuple[EngineSpec, Callable[[], EditEngine]]:
    """The engine's identity in a new run, and what opens it. `edits` are what `auto` settings are decided by; `note`
    hears of that.

    Raises ModelError (6), MissingError (6), UsageError.
    """
    spec, open_engine = backend(machine.backend).choose(model, machine, safety=safety, edits=edits, note=note)
    spec = dataclasses.replace(spec, sizing=SIZING)

    def limited() -> EditEngine:
        engine = open_engine()
        if isinstance(machine.batch, int):
            engine.limits = dataclasses.replace(engine.limits, batch=machine.batch)
        return engine

    return spec, limited


def as_known_in(out: Path, model: str, machine: Machine, spec: EngineSpec) -> EngineSpec:
    """`spec` as the newest run in `out` knows its model: a safety checker that is loaded now and was not then, or was
    not looked at now, makes the same model another digest.
    """
    folders = run_folders(out)
    if not folders or not Layout(folders[-1]).header.exists():
        return spec
    known = known_header(Layout(folders[-1])).engine.model_digest
    if known == spec.model_digest or not backend(machine.backend).is_known_as(model, known):
        return spec
    return dataclasses.replace(spec, model_digest=known)


def describe(engine: EditEngine, machine: Machine, plan: Plan) -> dict[str, object]:
    """What a run writes down about the engine at work: Edits a call, row buckets, the share of rows that only fill
    calls of the whole plan, the device's name, the steps in.
    """
    sizes = sorted({edit.size for edit in plan.edits})
    rows = {f"{width}x{height}": engine.limits.row_bucket((width, height)) for width, height in sizes}
    share = round(padding(plan, engine.limits), 4)
    known = {"batch": engine.limits.batch, "rows": rows, "padding": share}
    return {**known, "device": device_name(machine), "steps": list(engine.steps)}


def device_name(machine: Machine) -> str:
    """The device behind a machine's flags as its maker calls it; of a CPU also what its bits hang on."""
    return backend(machine.backend).device_name(machine)


class Idle:
    """The engine of a run with nothing left to make: files may still be delivered, and no model is loaded for that."""

    limits = Limits()
    steps: tuple[str, ...] = ()

    def begin(self, edits: object, sources: object, hook: object = None) -> Pending:
        raise AssertionError("an idle engine was asked for a picture")

    def shrink(self) -> bool:
        return False

    def close(self) -> None:
        """Nothing is held."""
