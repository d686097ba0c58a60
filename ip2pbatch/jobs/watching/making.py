"""Who makes the pictures of a watch, batch after batch: an engine here, or a worker a device; loaded once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ip2pbatch.errors import UsageError
from ip2pbatch.jobs import engines
from ip2pbatch.jobs.delivering import untried_signer
from ip2pbatch.plan.editors.composed import base_of
from ip2pbatch.run.devices.crew import EditCrew
from ip2pbatch.run.devices.foreman import share_out
from ip2pbatch.run.devices.wire import Load
from ip2pbatch.run.directory.ledger import Run, open_run
from ip2pbatch.run.execute import run_plan

if TYPE_CHECKING:
    from ip2pbatch.jobs.job import Job
    from ip2pbatch.jobs.voice import Voice
    from ip2pbatch.plan.edits import Plan
    from ip2pbatch.run.devices.wire import Ready
    from ip2pbatch.run.engine import EditEngine
    from ip2pbatch.run.events import Events
    from ip2pbatch.run.execute import Options, Summary
    from ip2pbatch.run.machine import Machine
    from ip2pbatch.run.stop import Stop


class Maker(Protocol):
    """Makes plans one after another for one run."""

    def described(self, plan: Plan, options: Options) -> Mapping[str, Any]:
        """What the run notes down of the engine, which is loaded by now. Raises WorkerError."""
        ...

    def make(self, plan: Plan, options: Options, events: Events, stop: Stop) -> Summary:
        """See `run_plan`."""
        ...


@contextmanager
def made_ready(job: Job, machine: Machine, voice: Voice) -> Iterator[tuple[Run, Maker]]:
    """The run of `job`, locked, and what makes its pictures. Raises WorkerError, UsageError and what an engine raises
    that cannot be opened.
    """
    if machine.on is not None:
        raise UsageError("watch works on one machine", hint="--devices shares its work among this one's devices")
    with (_by_workers if machine.devices else _alone)(job, machine, voice) as ready:
        yield ready


@contextmanager
def _alone(job: Job, machine: Machine, voice: Voice) -> Iterator[tuple[Run, Maker]]:
    recipe = job.recipe
    with voice.busy(_loading(job)):
        spec, open_engine = engines.choose(recipe.model, machine, safety=recipe.safety, note=voice.note)
    spec = engines.as_known_in(job.out, recipe.model, machine, spec)
    with open_run(job.out, spec, defaults=job.defaults) as run:
        engines.refuse_other_bits(run, engines.device_name(machine))
        with voice.busy(_loading(job)):
            engine = open_engine()
        try:
            yield run, _Alone(engine, machine, run)
        finally:
            engine.close()


@contextmanager
def _by_workers(job: Job, machine: Machine, voice: Voice) -> Iterator[tuple[Run, Maker]]:
    with EditCrew(machine.devices, engines.openings(job, machine), voice.note) as crew:
        with voice.busy(_loading(job)):
            found = crew.open()
        with open_run(job.out, found.spec, defaults=job.defaults) as run:
            engines.refuse_other_bits(run, found.device)
            yield run, _Workers(crew, run, job, voice)


def _loading(job: Job) -> str:
    return f"loading {Path(base_of(job.recipe.model)).name}"


@dataclass(frozen=True, slots=True)
class _Alone:
    engine: EditEngine
    machine: Machine
    run: Run

    def described(self, plan: Plan, options: Options) -> Mapping[str, Any]:
        return engines.describe(self.engine, self.machine, plan)

    def make(self, plan: Plan, options: Options, events: Events, stop: Stop) -> Summary:
        return run_plan(plan, self.run, self.engine, options, events, stop=stop)


@dataclass(slots=True)
class _Workers:
    """They load at the first batch: what a worker is told of files belongs to a session, and there is none before."""

    crew: EditCrew
    run: Run
    job: Job
    voice: Voice
    ready: Ready | None = None

    def described(self, plan: Plan, options: Options) -> Mapping[str, Any]:
        if self.ready is None:
            with self.voice.busy(_loading(self.job)):
                order = Load.of(self.run, options, partial(untried_signer, self.job.recipe))
                self.ready = self.crew.load(order)
        own = engines.described(self.ready.limits, self.ready.steps, self.crew.identity.device, plan)
        return own | ({"devices": self.crew.mixed} if self.crew.mixed else {})

    def make(self, plan: Plan, options: Options, events: Events, stop: Stop) -> Summary:
        return share_out(plan, plan, self.run, self.crew, options, events, stop, stays=True)
