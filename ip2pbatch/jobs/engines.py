"""From a model's name and a machine's flags to an EngineSpec and the EditEngine behind it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ip2pbatch.errors import MissingError, UsageError
from ip2pbatch.jobs.backends import backend
from ip2pbatch.jobs.job import versions
from ip2pbatch.pictures.sizing import SIZING
from ip2pbatch.plan.edits import Edit, Plan
from ip2pbatch.plan.limits import Limits
from ip2pbatch.plan.schedule import padding
from ip2pbatch.run.devices.wire import Identity
from ip2pbatch.run.directory.header import known_header
from ip2pbatch.run.directory.layout import Layout, run_folders
from ip2pbatch.run.directory.ledger import Run
from ip2pbatch.run.directory.lines import EngineSpec
from ip2pbatch.run.directory.sessions import read_sessions
from ip2pbatch.run.engine import EditEngine, Pending
from ip2pbatch.run.machine import Machine
from ip2pbatch.run.stale import other_bits

if TYPE_CHECKING:
    from ip2pbatch.jobs.job import Job
    from ip2pbatch.jobs.voice import Voice
    from ip2pbatch.pictures.sizing import Sizing
    from ip2pbatch.run.devices.crew import EditCrew
    from ip2pbatch.run.on_ray.capacity import Wanted

_TELLING = 20_000  # edits that a worker is told of when it opens its engine: `auto` settings are decided by as many
_ON_CPU = ("fake", "openvino")  # backends that use no GPU where none is named


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


def refuse_other_bits(run: Run, device: str) -> None:
    """Raises UsageError where a `bitwise` run has pictures that were made on another device than `device`, by another
    number of a CPU's threads, or with other libraries: theirs would be other bits.
    """
    if run.spec.determinism != "bitwise" or not run.done:
        return
    if found := list(other_bits(read_sessions(run.layout), device, versions(run.spec.backend))):
        said = "; ".join(one.text for one in found)
        raise UsageError(
            f"this run is bitwise, and bits hang on what is not as it was: {said}",
            hint="use the same settings, another --out, or --fresh to start a run beside it",
        )


def describe(engine: EditEngine, machine: Machine, plan: Plan) -> dict[str, object]:
    """What a run writes down about the engine at work: Edits a call, row buckets, the share of rows that only fill
    calls of the whole plan, the device's name, the steps in.
    """
    return described(engine.limits, engine.steps, device_name(machine), plan)


def described(limits: Limits, steps: Sequence[str], device: str, plan: Plan) -> dict[str, object]:
    """The same of an engine that may be in another process."""
    sizes = sorted({edit.size for edit in plan.edits})
    rows = {f"{width}x{height}": limits.row_bucket((width, height)) for width, height in sizes}
    known = {"batch": limits.batch, "rows": rows, "padding": round(padding(plan, limits), 4)}
    return {**known, "device": device, "steps": list(steps)}


def device_name(machine: Machine) -> str:
    """The device behind a machine's flags as its maker calls it; of a CPU also what its bits hang on."""
    return backend(machine.backend).device_name(machine)


@dataclass(frozen=True, slots=True)
class Opening:
    """What a worker process opens its engine with on `device`. `out` is the output folder of the run that it will be
    of, None where that is begun afresh.
    """

    device: str
    model: str
    machine: Machine
    safety: bool
    edits: tuple[Edit, ...]
    out: Path | None
    sizing: Sizing | None

    def __call__(self, note: Callable[[str], None]) -> tuple[Identity, Callable[[], EditEngine]]:
        devices = tuple(backend(self.machine.backend).devices())
        if self.device not in ("", "cpu") and devices == ("cpu",):
            raise MissingError(f"this machine has no {self.device}", hint="`ip2pbatch doctor` lists its GPUs")
        spec, open_engine = choose(self.model, self.machine, safety=self.safety, edits=self.edits, note=note)
        spec = dataclasses.replace(spec, sizing=self.sizing or spec.sizing)
        if self.out is not None:
            spec = as_known_in(self.out, self.model, self.machine, spec)
        return Identity(spec, device_name(self.machine), devices), open_engine


def openings(
    job: Job, machine: Machine, *, fresh: bool = False, sizing: Sizing | None = None
) -> Callable[[str, int], Opening]:
    """What each of so many workers opens its engine on a device with; `sizing` is a new run's where a lock says it."""

    def opening(device: str, workers: int) -> Opening:
        # a worker sees its own GPU alone, and has no other name for it
        own = dataclasses.replace(machine, devices=(), device=device.partition(":")[0] or None)
        edits = _telling(job.plan.edits, workers)
        return Opening(device, job.recipe.model, own, job.recipe.safety, edits, None if fresh else job.out, sizing)

    return opening


@contextmanager
def hired(job: Job, machine: Machine, voice: Voice, *, fresh: bool, sizing: Sizing | None) -> Iterator[EditCrew]:
    """The workers of a job, processes of this machine or actors on a cluster: a crew that is yet to open. Raises
    MissingError and UsageError where there is no cluster for it.
    """
    from ip2pbatch.run.devices.crew import EditCrew

    opening, devices = openings(job, machine, fresh=fresh, sizing=sizing), machine.devices
    with ExitStack() as held:
        launcher = None
        if machine.on is not None:
            from ip2pbatch.run.on_ray.cluster import connected

            with voice.busy(f"reaching {machine.on}"):
                launcher, room = held.enter_context(connected(wanted(machine), versions(machine.backend)))
            devices = (machine.device or ("" if room.gpus else "cpu"),) * room.most
        yield held.enter_context(EditCrew(devices, opening, voice.note, launcher))


def wanted(machine: Machine) -> Wanted:
    """What a machine's flags ask of a cluster."""
    from ip2pbatch.run.on_ray.capacity import Wanted, threads_asked_for

    return Wanted(machine.workers, _needs_gpu(machine), threads_asked_for())


def _needs_gpu(machine: Machine) -> bool | None:
    """Whether each worker needs one; None where that hangs on whether there are any."""
    if machine.device is not None:
        return machine.device != "cpu"
    on_cpu = machine.backend in _ON_CPU or machine.provider == "cpu"
    return False if on_cpu else None


def _telling(edits: Sequence[Edit], workers: int) -> tuple[Edit, ...]:
    """Those that a worker's engine is chosen by: one of each kind, and of all others its share."""
    kinds = {(edit.size, edit.steps, edit.sampler): edit for edit in edits}
    return (*kinds.values(), *edits[: _TELLING * workers : workers])


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
