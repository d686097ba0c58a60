"""Making the pictures of a finished run again, in a temporary folder, with the engine that was recorded."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ip2pbatch.errors import StaleError, UsageError
from ip2pbatch.jobs import engines
from ip2pbatch.jobs.backends import backend
from ip2pbatch.jobs.finding import keep_masks
from ip2pbatch.jobs.job import versions
from ip2pbatch.pictures.deliver import DeliverySettings
from ip2pbatch.plan.edits import Plan
from ip2pbatch.run.clock import now
from ip2pbatch.run.deliveries import Deliverer
from ip2pbatch.run.directory.layout import Layout
from ip2pbatch.run.directory.ledger import Run, open_run
from ip2pbatch.run.directory.lines import EngineSpec, Invocation
from ip2pbatch.run.directory.view import RunView, read_run
from ip2pbatch.run.engine import EditEngine
from ip2pbatch.run.execute import Options, Summary, run_plan

if TYPE_CHECKING:
    from ip2pbatch.jobs.voice import Voice
    from ip2pbatch.run.machine import Machine


@dataclass(frozen=True, slots=True)
class Recorded:
    """How pictures were made. `paths` are the delivered files by (photo, edit's id, link, key).

    `batch` and `rows` are the shape of calls, `steps` the speed-ups that were in (None where nobody wrote them down),
    `device` and `versions` what they were made on and with; `masks` is the run that kept those of its photos.
    """

    spec: EngineSpec
    plan: Plan
    batch: int
    rows: Mapping[str, int]
    steps: tuple[str, ...] | None
    device: str
    versions: Mapping[str, str]
    safety: bool
    delivery: DeliverySettings
    paths: Mapping[tuple[str, str, int, str], str]
    masks: Layout | None = None


@contextmanager
def made_again(recorded: Recorded, part: Plan, voice: Voice, *, deliver: bool) -> Iterator[tuple[RunView, Summary]]:
    """A run of `part` of the plan in a folder that is gone afterwards; files are delivered where `deliver` says so.

    Raises StaleError where the engine is not what it was, UsageError where its kind is not here.
    """
    machine = _machine(recorded)
    spec, open_engine = engines.choose(
        recorded.spec.model, machine, safety=recorded.safety, edits=recorded.plan.edits, note=voice.note
    )
    spec = dataclasses.replace(spec, sizing=recorded.spec.sizing)
    if backend(spec.backend).is_known_as(recorded.spec.model, recorded.spec.model_digest):
        spec = dataclasses.replace(spec, model_digest=recorded.spec.model_digest)
    _refuse_another(recorded.spec, spec)
    with tempfile.TemporaryDirectory(prefix="ip2pbatch-verify-") as folder:
        with open_run(Path(folder), spec) as run:
            run.begin_session(recorded.plan, Invocation(now().isoformat(timespec="seconds"), "verify"))
            keep_masks(part, run, voice, kept=recorded.masks)
            engine = open_engine()
            engine.limits = dataclasses.replace(engine.limits, rows=_row_buckets(recorded))
            for text in _unlike(recorded, engine, machine):
                voice.warn(text)
            try:
                summary = _make(recorded, run, engine, part, voice, deliver)
            finally:
                engine.close()
        yield read_run(Path(folder)), summary


def _make(recorded: Recorded, run: Run, engine: EditEngine, part: Plan, voice: Voice, deliver: bool) -> Summary:
    deliverer = Deliverer(run, part, _targets(recorded, part), recorded.delivery, "unique") if deliver else None
    with voice.progress(part) as events, voice.stop() as stop:
        return run_plan(part, run, engine, Options(deliver=deliverer), events, stop=stop)


def _targets(recorded: Recorded, part: Plan) -> dict[tuple[int, int], str]:
    """The names that the files had; one that was never delivered gets a name that no other has."""
    targets = {}
    for index, strip in enumerate(part.strips):
        for link in strip.keep:
            place = (strip.photo.name, strip.id, link, strip.edits[link - 1].key)
            targets[index, link] = recorded.paths.get(place, f"undelivered/{index}-{link}")
    return targets


def _row_buckets(recorded: Recorded) -> dict[tuple[int, int], int]:
    """The rows of a call by size, which `--batch auto` may have measured: they decide a picture's last bits."""
    sizes = ((name.partition("x"), rows) for name, rows in recorded.rows.items())
    return {(int(width), int(height)): rows for (width, _, height), rows in sizes}


def _unlike(recorded: Recorded, engine: EditEngine, machine: Machine) -> Iterator[str]:
    """What is not as it was when the pictures were made, in plain sentences: first suspects where any differs."""
    device = engines.device_name(machine)
    if device != recorded.device:
        yield f"the pictures were made on {recorded.device} and are made again on {device}"
    here = versions(recorded.spec.backend)
    for name, version in recorded.versions.items():
        if here.get(name) != version:
            yield f"the pictures were made with {name} {version} and are made again with {here.get(name, 'none')}"
    if recorded.steps is not None and set(engine.steps) != set(recorded.steps):
        old, new = set(recorded.steps), set(engine.steps)
        without, more = ", ".join(sorted(old - new)), ", ".join(sorted(new - old))
        changed = " and ".join([f"without {without}"] * bool(without) + [f"with {more}"] * bool(more))
        yield f"the pictures are made again {changed}, which was otherwise; see `ip2pbatch doctor`"


def machine_of(view: RunView) -> Machine:
    """The flags with which a run's pictures are made, as far as they are part of what it is. Raises UsageError."""
    from ip2pbatch.run.machine import Machine

    spec = view.spec
    try:
        return dataclasses.replace(backend(spec.backend).as_made(spec, 1, None), batch=Machine().batch)
    except ValueError as error:
        raise UsageError(f"what made this run cannot be had here: {error}", hint="make it where it was made") from error


def _machine(recorded: Recorded) -> Machine:
    """The flags that make the pictures as they were made. Raises UsageError where there are none."""
    spec = recorded.spec
    try:
        return backend(spec.backend).as_made(spec, recorded.batch, recorded.steps)
    except (ValueError, UsageError) as error:
        raise UsageError(
            f"pictures made with {spec.backend} on {spec.provider} in {spec.precision} cannot be made again here",
            hint="make them elsewhere and compare with --against FOLDER",
        ) from error


def _refuse_another(old: EngineSpec, new: EngineSpec) -> None:
    for name in (field.name for field in dataclasses.fields(EngineSpec)):
        if getattr(old, name) != getattr(new, name):
            raise StaleError(
                f"the {name.replace('_', ' ')} was {getattr(old, name)} and is {getattr(new, name)} now",
                hint="bring back what it was, or compare two finished runs with --against FOLDER",
            )
