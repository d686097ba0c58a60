"""`lock` and `verify`: is what would be made still what was made, and does it come out the same?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ip2pbatch import errors
from ip2pbatch.cli import console
from ip2pbatch.errors import ModelError, StaleError, UsageError

if TYPE_CHECKING:
    from ip2pbatch.cli.machines import Outlets
    from ip2pbatch.jobs.session import Job
    from ip2pbatch.plan.edits import Plan
    from ip2pbatch.run.lock import Lock, Surroundings
    from ip2pbatch.run.machine import Machine
    from ip2pbatch.run.stale import Difference
    from ip2pbatch.run.view import RunView


def lock(
    recipe: Annotated[Path, typer.Argument(help="The recipe, a YAML file.", show_default=False)],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The run's output folder.")] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; say what is stale and exit 4 when anything is.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON lines on stdout, people's text on stderr.")] = False,
    junit: Annotated[Path | None, typer.Option(help="With --check: write a JUnit file, a test case a topic.")] = None,
) -> None:
    """Write RECIPE.lock.yaml from a finished run: versions, model, device, photos, and a digest of every picture."""
    from ip2pbatch.cli.machines import Outlets
    from ip2pbatch.jobs.session import Selection, read
    from ip2pbatch.run.lock import lock_path
    from ip2pbatch.show import ci

    job = read(recipe, Selection(out=out))
    path, outlets = lock_path(recipe), Outlets(as_json, junit)
    if check:
        raise typer.Exit(_check(job, path, outlets))
    if junit is not None:
        raise UsageError("--junit is for lock --check", hint="add --check, or leave it out")
    made = write(job, path, recipe.name)
    for broken in job.scan.broken:
        console.warn(f"not locked: {broken.name}: {broken.reason}")
    counts = {"photos": len(made.photos), "pictures": len(made.edits), "files": len(made.files)}
    words = f"locked {counts['pictures']} pictures and {counts['files']} files of {counts['photos']} photos in {path}"
    (console.talk() if as_json else console.out()).print(words, markup=False)
    outlets.compared([ci.verdict_line(str(path), counts, errors.DONE)], "", [])


def _check(job: Job, path: Path, outlets: Outlets) -> int:
    """Say what is stale, to people and machines; the exit code."""
    from ip2pbatch.run.lock import read_lock
    from ip2pbatch.show import ci

    outlets.check()
    made = read_lock(path)
    found = differences(made, job.whole, surroundings(job, made.engine.backend))
    out = console.talk() if outlets.json else console.out()
    for difference in found:
        out.print(console.plain(str(difference)), markup=False)
    out.print(
        f"stale: {console.count(len(found), 'reason')} in {path}" if found else f"up to date: {path}", markup=False
    )
    code = errors.DIFFERS if found else errors.DONE
    lines = [*map(ci.stale_line, found), ci.verdict_line(str(path), {"stale": len(found)}, code)]
    outlets.compared(lines, ci.junit_of_lock(str(path), found), ci.github_stale(found, str(path)))
    return code


def write(job: Job, path: Path, recipe: str) -> Lock:
    """Write the lock of a job's finished run. Raises StaleError, UsageError."""
    from ip2pbatch.run.lock import caveats, make_lock, write_lock
    from ip2pbatch.run.view import read_run

    view = read_run(job.out)
    now = surroundings(job, view.spec.backend)
    _refuse_another_model(view, job)
    made = make_lock(view, job.whole, now, recipe)
    for caveat in caveats(view):
        console.warn(caveat)
    write_lock(made, path)
    return made


def refuse_stale(recipe: Path, job: Job, machine: Machine, outlets: Outlets) -> Callable[[Mapping[str, Any]], None]:
    """For `run --locked`: raises StaleError where anything differs from the lock, after naming it.

    What comes back does the same with what `engines.describe` says of the opened engine: before that, rows that are
    measured and speed-ups that do not apply are not known.
    """
    from ip2pbatch.jobs.engines import choose, device_name
    from ip2pbatch.run.lock import lock_path, read_lock
    from ip2pbatch.run.stale import other_shape

    path = lock_path(recipe)
    made = read_lock(path)
    spec, _ = choose(job.recipe.model, machine, safety=job.recipe.safety)
    now = replace(surroundings(job, str(machine.backend)), spec=spec, device=device_name(machine))
    hint = "run without --locked, look, and lock again; or undo the change"
    refuse(path, differences(made, job.whole, now), outlets, hint)
    return lambda engine: refuse(path, list(other_shape(made, engine["rows"], engine["steps"])), outlets, hint)


def differences(made: Lock, plan: Plan, now: Surroundings) -> list[Difference]:
    """What is not as it was locked; says so where the model is not here to be compared."""
    from ip2pbatch.run.stale import stale

    if now.weights is None:
        console.warn(f"{plan.model} is not on this machine, so its files were not compared")
    return stale(made, plan, now)


def refuse(
    path: Path, found: Sequence[Difference], outlets: Outlets, hint: str, verdict: str = "is stale"
) -> None:  # fmt: skip
    """Raises StaleError where anything was found, after naming it to people and machines."""
    from ip2pbatch.show import ci

    for difference in found:
        console.warn(str(difference))
    if found:
        outlets.compared(
            map(ci.stale_line, found), ci.junit_of_lock(str(path), found), ci.github_stale(found, str(path))
        )
        raise StaleError(f"{path} {verdict}: {console.count(len(found), 'reason')}", hint=hint)


def surroundings(job: Job, backend: str) -> Surroundings:
    """What the job's pictures hang on here and now. Loads and fetches nothing."""
    from ip2pbatch.jobs.files import settings_of
    from ip2pbatch.jobs.session import versions
    from ip2pbatch.run.lock import Surroundings

    output = {"name": job.recipe.output.name, **asdict(settings_of(job.recipe))}
    now = Surroundings(versions(backend), job.recipe.safety, output, revision="", weights={})
    if backend == "fake":
        return now
    from ip2pbatch.backends.weights import file_digests, resolve

    with suppress(ModelError):
        folder = resolve(job.recipe.model, download=False)
        return replace(now, revision=folder.revision, weights=file_digests(folder.path))
    return replace(now, revision=None, weights=None)


def _refuse_another_model(view: RunView, job: Job) -> None:
    if view.spec.backend == "fake":
        return
    from ip2pbatch.backends.weights import resolve

    if resolve(job.recipe.model, download=False).digest != view.spec.model_digest:
        raise StaleError(
            f"{job.recipe.model} is not the model that the run in {view.root} was made with",
            hint="make the pictures with it: run the recipe with --fresh",
        )
