"""Is what would be made still what was made? Writes the lock of a finished run, and compares one with its recipe."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ip2pbatch import errors
from ip2pbatch.errors import ModelError, StaleError
from ip2pbatch.jobs import engines
from ip2pbatch.jobs.backends import backend
from ip2pbatch.jobs.delivering import unsigned_settings
from ip2pbatch.jobs.job import Job, versions
from ip2pbatch.jobs.standing import look
from ip2pbatch.plan.unedited import Broken
from ip2pbatch.run.directory.view import RunView
from ip2pbatch.run.lock import Lock, Surroundings, caveats, lock_path, make_lock, read_lock, write_lock
from ip2pbatch.run.stale import Difference, other_engine, other_shape, stale, unknown

if TYPE_CHECKING:
    from ip2pbatch.jobs.voice import Voice
    from ip2pbatch.pictures.sizing import Sizing
    from ip2pbatch.plan.edits import Plan
    from ip2pbatch.run.directory.lines import EngineSpec
    from ip2pbatch.run.machine import Machine


@dataclass(frozen=True, slots=True)
class Locked:
    """A lock and its recipe: as it was written, or compared. `differences` are why it is stale; empty where it is not,
    and where it was only written. `broken` photos are not in it.
    """

    path: Path
    lock: Lock
    differences: tuple[Difference, ...] = ()
    broken: tuple[Broken, ...] = ()

    @property
    def counts(self) -> dict[str, int]:
        """What is in the lock."""
        return {"photos": len(self.lock.photos), "pictures": len(self.lock.edits), "files": len(self.lock.files)}

    @property
    def exit_code(self) -> int:
        """As the command ends with it."""
        return errors.DIFFERS if self.differences else errors.DONE


class StaleLockError(StaleError):
    """A lock, or a run, that is not what its recipe asks for: what differs is in `differences`."""

    def __init__(self, path: Path, differences: Sequence[Difference], hint: str, verdict: str) -> None:
        number = len(differences)
        reasons = f"{number:,} reason" if number == 1 else f"{number:,} reasons"
        super().__init__(f"{path} {verdict}: {reasons}", hint=hint)
        self.path, self.differences = path, tuple(differences)


def write(job: Job, recipe: Path, voice: Voice) -> Locked:
    """Write the lock of a job's finished run. Raises StaleError, UsageError, ModelError."""
    view = look(job.out, voice)
    _refuse_another_model(view, job)
    made = make_lock(view, job.whole, surroundings(job, view.spec.backend), recipe.name)
    for caveat in caveats(view):
        voice.warn(caveat)
    write_lock(made, lock_path(recipe))
    return Locked(lock_path(recipe), made, broken=job.scan.broken)


def check(job: Job, recipe: Path, voice: Voice) -> Locked:
    """Compare a job with its recipe's lock. Raises StaleError where there is none, or it cannot be read."""
    made = read_lock(lock_path(recipe))
    job = as_locked(job, made)
    found = differences(made, job.whole, surroundings(job, made.engine.backend), voice)
    return Locked(lock_path(recipe), made, tuple(found), job.scan.broken)


class AsLocked:
    """Holds a run to the lock in `path`. What of it is known before an engine is there has been compared already."""

    def __init__(self, path: Path, lock: Lock, voice: Voice) -> None:
        self._path, self._lock, self._voice = path, lock, voice
        self.sizing: Sizing = lock.engine.sizing
        self.registers, self.lift = _registers(lock), _lift(lock)

    def hold(self, spec: EngineSpec, device: str) -> None:
        """Raises StaleLockError where an engine of this identity, on this device, is not the lock's."""
        refuse(self._path, list(other_engine(self._lock, spec, device)), self._voice, _UNDO)

    def hold_opened(self, engine: Mapping[str, Any]) -> None:
        """The same of what `engines.describe` says of an opened engine: before that, rows that are measured and
        speed-ups that do not apply are not known.
        """
        found = other_shape(self._lock, engine["rows"], engine["steps"])
        refuse(self._path, list(found), self._voice, _UNDO)


_UNDO = "run without --locked, look, and lock again; or undo the change"


def refuse_stale(recipe: Path, job: Job, machine: Machine, voice: Voice) -> AsLocked:
    """For a run that has to be as locked: raises StaleLockError where anything differs from the lock, and gives back
    what holds the engine to it. The engine of workers is known to them alone.
    """
    path = lock_path(recipe)
    made = read_lock(path)
    job = as_locked(job, made)
    now = surroundings(job, machine.backend)
    if not machine.has_workers:
        spec, _ = engines.choose(job.recipe.model, machine, safety=job.recipe.safety, note=voice.note)
        now = replace(now, spec=spec, device=engines.device_name(machine))
    refuse(path, differences(made, job.whole, now, voice), voice, _UNDO)
    return AsLocked(path, made, voice)


def as_locked(job: Job, made: Lock) -> Job:
    """The job with what its run is to begin with, where that is not yet begun."""
    return job if job.registers is not None else replace(job, registers=_registers(made), lift=_lift(made))


def _registers(made: Lock) -> bool:
    return bool(made.output.get("register"))


def _lift(made: Lock) -> int:
    return int(made.output.get("lift", 0))


def differences(made: Lock, plan: Plan, now: Surroundings, voice: Voice) -> list[Difference]:
    """What is not as it was locked; says so where the model, or a library, is not here to be compared."""
    if now.weights is None:
        voice.warn(f"{plan.model} is not on this machine, so its files were not compared")
    if names := unknown(made, now):
        are, their = ("is", "its version was") if len(names) == 1 else ("are", "their versions were")
        voice.warn(f"{', '.join(names)} {are} not installed here, so {their} not compared")
    return stale(made, plan, now)


def refuse(path: Path, found: Sequence[Difference], voice: Voice, hint: str, verdict: str = "is stale") -> None:
    """Raises StaleLockError where anything was found, after naming it."""
    for difference in found:
        voice.warn(str(difference))
    if found:
        raise StaleLockError(path, found, hint, verdict)


def surroundings(job: Job, name: str) -> Surroundings:
    """What the job's pictures hang on here and now, if the backend `name` made them. Loads and fetches nothing."""
    output = {"name": job.recipe.output.name, **unsigned_settings(job.recipe, job.registers, job.lift).recorded}
    output |= {f"feather of {name}": said for name, said in _feathers(job.whole)}
    if job.recipe.output.sign is not None:
        output["sign"] = True  # whoever signs: it takes no certificate to compare a lock
    now = Surroundings(versions(name), job.recipe.safety, output)
    with suppress(ModelError):
        revision, weights = backend(name).files(job.recipe.model, safety=job.recipe.safety)
        return replace(now, revision=revision, weights=weights)
    return now


def _feathers(plan: Plan) -> Iterator[tuple[str, str]]:
    """How far each edit with regions fades out around them, by its name: it is no part of an Edit, for it is delivered
    without the model.
    """
    for name, feathers in {strip.id: strip.feathers for strip in plan.strips if strip.feathers}.items():
        yield name, ", ".join(f"{feather:g}" for feather in feathers)


def _refuse_another_model(view: RunView, job: Job) -> None:
    made_by = backend(view.spec.backend)
    if not made_by.is_known_as(job.recipe.model, view.spec.model_digest):
        made_by.files(job.recipe.model, safety=job.recipe.safety)  # a model that is not here at all is told as such
        raise StaleError(
            f"{job.recipe.model} is not the model that the run in {view.root} was made with",
            hint="make the pictures with it: run the recipe with --fresh",
        )
