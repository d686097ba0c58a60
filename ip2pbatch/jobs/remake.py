"""Making the pictures of a finished run again, in a temporary folder, with the engine that was recorded."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ip2pbatch.cli import console
from ip2pbatch.errors import StaleError, UsageError
from ip2pbatch.pictures.deliver import DeliverySettings
from ip2pbatch.plan.edits import Plan
from ip2pbatch.run.execute import EditEngine, Options, Summary
from ip2pbatch.run.ledger import EngineSpec, Run
from ip2pbatch.run.machine import BackendName, Compile, Determinism, Machine, Precision, Provider, interval_in
from ip2pbatch.run.view import RunView


@dataclass(frozen=True, slots=True)
class Recorded:
    """How pictures were made. `paths` are the delivered files by (photo, edit's id, link, key).

    `batch` and `rows` are the shape of calls, `steps` the speed-ups that were in (None where nobody wrote them down),
    `device` and `versions` what they were made on and with.
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


@contextmanager
def made_again(recorded: Recorded, part: Plan, *, deliver: bool) -> Iterator[tuple[RunView, Summary]]:
    """A run of `part` of the plan in a folder that is gone afterwards; files are delivered where `deliver` says so.

    Raises StaleError where the engine is not what it was.
    """
    from ip2pbatch.jobs.engines import choose
    from ip2pbatch.run.ledger import open_run
    from ip2pbatch.run.view import read_run

    spec, open_engine = choose(
        recorded.spec.model, _machine(recorded), safety=recorded.safety, edits=recorded.plan.edits
    )
    _refuse_another(recorded.spec, spec)
    with tempfile.TemporaryDirectory(prefix="ip2pbatch-verify-") as folder:
        with open_run(Path(folder), spec) as run:
            _begin(run, recorded.plan)
            engine = open_engine()
            engine.limits = dataclasses.replace(engine.limits, rows=_row_buckets(recorded))
            for text in _unlike(recorded, engine):
                console.warn(text)
            try:
                summary = _make(recorded, run, engine, part, deliver)
            finally:
                engine.close()
        yield read_run(Path(folder)), summary


def _make(recorded: Recorded, run: Run, engine: EditEngine, part: Plan, deliver: bool) -> Summary:
    from ip2pbatch.cli.console import is_terminal, talk
    from ip2pbatch.cli.progress import watch
    from ip2pbatch.run.deliveries import Deliverer
    from ip2pbatch.run.execute import run_plan

    deliverer = Deliverer(run, _targets(recorded, part), recorded.delivery, "unique") if deliver else None
    with watch(talk(), part.strips, terminal=is_terminal()) as events:
        return run_plan(part, run, engine, Options(deliver=deliverer), events)


def _targets(recorded: Recorded, part: Plan) -> dict[tuple[int, int], str]:
    """The names that the files had; one that was never delivered gets a name that no other has."""
    targets = {}
    for index, strip in enumerate(part.strips):
        for link in strip.keep:
            place = (strip.photo.name, strip.id, link, strip.edits[link - 1].key)
            targets[index, link] = recorded.paths.get(place, f"undelivered/{index}-{link}")
    return targets


def _begin(run: Run, plan: Plan) -> None:
    from ip2pbatch.run.clock import now
    from ip2pbatch.run.ledger import Invocation

    run.begin_session(plan, Invocation(now().isoformat(timespec="seconds"), "verify"))


def _row_buckets(recorded: Recorded) -> dict[tuple[int, int], int]:
    """The rows of a call by size, which `--batch auto` may have measured: they decide a picture's last bits."""
    sizes = ((name.partition("x"), rows) for name, rows in recorded.rows.items())
    return {(int(width), int(height)): rows for (width, _, height), rows in sizes}


def _unlike(recorded: Recorded, engine: EditEngine) -> Iterator[str]:
    """What is not as it was when the pictures were made, in plain sentences: first suspects where any differs."""
    from ip2pbatch.jobs.engines import device_name
    from ip2pbatch.jobs.session import versions

    device = device_name(_machine(recorded))
    if device != recorded.device:
        yield f"the pictures were made on {recorded.device} and are made again on {device}"
    now = versions(recorded.spec.backend)
    for name, version in recorded.versions.items():
        if now.get(name) != version:
            yield f"the pictures were made with {name} {version} and are made again with {now.get(name, 'none')}"
    steps = getattr(engine, "steps", ())
    if recorded.steps is not None and set(steps) != set(recorded.steps):
        without, more = (
            ", ".join(sorted(names)) for names in (set(recorded.steps) - {*steps}, set(steps) - {*recorded.steps})
        )
        changed = " and ".join([f"without {without}"] * bool(without) + [f"with {more}"] * bool(more))
        yield f"the pictures are made again {changed}, which was otherwise; see `ip2pbatch doctor`"


def _left_out(recorded: Recorded) -> tuple[str, ...]:
    """The speed-ups that were not in and would be."""
    from ip2pbatch.backends.pytorch import steps

    known = recorded.steps or ()
    return tuple(step.name for step in steps.STEPS if not step.asked_for and step.name not in known)


def _machine(recorded: Recorded) -> Machine:
    """The flags that make the pictures as they were made. Raises UsageError where there are none."""
    spec = recorded.spec
    try:
        backend = BackendName(spec.backend)
        precision = Precision.AUTO if backend is BackendName.FAKE else Precision(spec.precision)
        interval = interval_in(spec.approximations)
        # The onnx backend has providers where the others have devices.
        provider = Provider(spec.provider) if backend is BackendName.ONNX else None
        device = None if provider else spec.provider
        machine = Machine(
            backend, device, precision, Determinism(spec.determinism), recorded.batch, interval=interval,
            provider=provider,
        )  # fmt: skip
    except ValueError as error:
        raise UsageError(
            f"pictures made with {spec.backend} on {spec.provider} in {spec.precision} cannot be made again here",
            hint="make them elsewhere and compare with --against FOLDER",
        ) from error
    if backend is not BackendName.TORCH or recorded.steps is None:
        return machine
    compiled = Compile.ON if "compiled" in recorded.steps else Compile.OFF
    return dataclasses.replace(machine, compile=compiled, without=_left_out(recorded))


def _refuse_another(old: EngineSpec, new: EngineSpec) -> None:
    for name in (field.name for field in dataclasses.fields(EngineSpec)):
        if getattr(old, name) != getattr(new, name):
            raise StaleError(
                f"the {name.replace('_', ' ')} was {getattr(old, name)} and is {getattr(new, name)} now",
                hint="bring back what it was, or compare two finished runs with --against FOLDER",
            )
