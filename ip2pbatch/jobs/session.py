"""One session of a recipe: plan it, open its run, make what is missing, draw the sheets, say how it ended."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import shlex
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ip2pbatch import __version__
from ip2pbatch.plan.edits import Plan, expand
from ip2pbatch.plan.photos import Scan, scan
from ip2pbatch.plan.recipe import Recipe, load_recipe

if TYPE_CHECKING:
    from ip2pbatch.cli.machines import Outlets
    from ip2pbatch.plan.names import Place
    from ip2pbatch.run.execute import EditEngine
    from ip2pbatch.run.ledger import EngineSpec, Invocation, Run, Status
    from ip2pbatch.run.machine import Machine

    Agree = Callable[[Mapping[str, object]], None]
    """Hears what an engine is, as the run notes it, and raises where it must not make this run's pictures."""

DISTRIBUTIONS = ("torch", "diffusers", "transformers", "pillow", "numpy")


@dataclass(frozen=True, slots=True)
class Selection:
    """The flags that say where, and which part: none of them changes a picture."""

    out: Path | None = None
    only: str | None = None
    limit: int | None = None
    shard: str | None = None

    @property
    def partial(self) -> bool:
        """Whether it cuts the recipe's photos down. A shard does not: the others make the rest of the same plan."""
        return bool(self.only or self.limit)


@dataclass(frozen=True, slots=True)
class Job:
    """A recipe with its photos and plan. `text` is the recipe as written, kept in the run.

    `whole` is of all photos, `asked` of those that --only and --limit leave, `plan` of those in this shard.
    """

    recipe: Recipe
    text: str
    scan: Scan
    whole: Plan
    asked: Plan
    plan: Plan
    selection: Selection

    @property
    def out(self) -> Path:
        """The output folder."""
        return self.recipe.output.folder


def read(path: Path, selection: Selection) -> Job:
    """The job of a recipe file. Raises RecipeError, PlanError, NothingMatchedError."""
    return make_job(load_recipe(path), path.read_text(encoding="utf-8-sig"), selection)


def make_job(recipe: Recipe, text: str, selection: Selection) -> Job:
    """Scan and expand a recipe, cut down to what `selection` asks for."""
    if selection.out is not None:
        output = recipe.output.model_copy(update={"folder": selection.out.absolute()})
        recipe = recipe.model_copy(update={"output": output})
    found = scan(recipe.photos, output=recipe.output.folder)
    whole = expand(recipe, found)
    if selection.only:
        found = found.only([selection.only])
    if selection.limit:
        found = found.limit(selection.limit)
    plan = asked = expand(recipe, found) if selection.partial else whole
    if selection.shard:
        from ip2pbatch.run.layout import Shard

        plan = Shard.parse(selection.shard).take(asked)
    return Job(recipe, text, found, whole, asked, plan, selection)


def file_names(job: Job, numbers: Mapping[str, int] | None = None) -> dict[Place, str]:
    """The name of every file of the job. Raises PlanError where two results would have one name."""
    from ip2pbatch.plan.names import Template, output_names

    output, dates = job.recipe.output, {}
    if "date" in Template.parse(output.name).fields:
        from ip2pbatch.pictures.metadata import capture_date

        dates = {photo.name: date for photo in job.whole.photos if (date := capture_date(photo.path))}
    return output_names(job.plan, output, dates, numbers)


def carry_out(
    job: Job, machine: Machine, outlets: Outlets, *, fresh: bool = False, redo: frozenset[Status] | None = None,
    agree: Agree | None = None,
) -> int:  # fmt: skip
    """Make every picture of the job that is missing, deliver it, draw sheets and report; the exit code."""
    from ip2pbatch.cli.console import busy, is_terminal, talk
    from ip2pbatch.cli.ending import finish
    from ip2pbatch.cli.progress import watch
    from ip2pbatch.jobs.engines import choose
    from ip2pbatch.jobs.files import options_of
    from ip2pbatch.run.execute import run_plan
    from ip2pbatch.run.layout import Shard
    from ip2pbatch.run.ledger import open_run

    outlets.check()
    with busy(f"loading {Path(job.recipe.model).name}"):
        spec, open_engine = choose(job.recipe.model, machine, safety=job.recipe.safety, edits=job.plan.edits)
    shard = Shard.parse(job.selection.shard) if job.selection.shard else None
    invocation = _invocation(job, spec)
    with open_run(job.out, spec, shard=shard, fresh=fresh) as run:
        run.begin_session(job.asked, invocation)
        for broken in job.scan.broken:
            run.note("broken", photo=broken.name, reason=broken.reason)
        options = options_of(job, run, redo)
        with busy(f"loading {Path(job.recipe.model).name}"):
            engine = _opened(open_engine, machine, job, run, agree)
        try:
            with watch(talk(), job.plan.strips, terminal=is_terminal()) as watcher:
                summary = run_plan(job.plan, run, engine, options, outlets.events(watcher, job.plan))
        finally:
            engine.close()
    return finish(job, summary, outlets)


def _opened(
    open_engine: Callable[[], EditEngine], machine: Machine, job: Job, run: Run, agree: Agree | None
) -> EditEngine:
    """The engine, written down in the run; one that makes nothing where nothing is left to make."""
    from ip2pbatch.jobs.engines import Idle, describe
    from ip2pbatch.run.execute import already_done

    if len(already_done(job.plan, run)) == len(job.plan.edits):
        return Idle()
    engine = open_engine()
    try:
        described = describe(engine, machine, job.plan)
        if agree is not None:
            agree(described)
        run.note("engine", **described, safety=job.recipe.safety)
    except BaseException:
        engine.close()
        raise
    return engine


def deliver_again(job: Job, output: Mapping[str, object], metadata: Mapping[str, object], *, tidy: bool) -> int:
    """Write the files of everything done, with those settings that are not None; the exit code. Loads no model.

    `tidy` removes the files that earlier deliveries left under other names.
    """
    from ip2pbatch.cli.console import count, is_terminal, note, out, talk
    from ip2pbatch.cli.ending import finish
    from ip2pbatch.cli.machines import Outlets
    from ip2pbatch.cli.progress import watch
    from ip2pbatch.jobs.engines import Idle
    from ip2pbatch.jobs.files import options_of
    from ip2pbatch.plan.flags import change_output
    from ip2pbatch.run.execute import run_plan
    from ip2pbatch.run.ledger import open_run
    from ip2pbatch.run.renamed import remove_leftovers
    from ip2pbatch.run.view import read_run

    job = dataclasses.replace(job, recipe=change_output(job.recipe, output, metadata))
    with open_run(job.out, read_run(job.out).spec) as run:
        run.begin_session(job.asked, _invocation(job, run.spec))
        made = dataclasses.replace(job.plan, edits=tuple(edit for edit in job.plan.edits if edit.key in run.done))
        with watch(talk(), made.strips, terminal=is_terminal()) as events:
            summary = run_plan(made, run, Idle(), options_of(job, run), events)
    if left := len(job.plan.edits) - len(made.edits):
        note(f"{count(left, 'edit')} of the recipe not made yet, so there is no file to write")
    if tidy:
        gone = remove_leftovers(read_run(job.out))
        out().print(f"removed {count(len(gone), 'file')} delivered before under other names")
    return finish(job, summary, Outlets())


def _invocation(job: Job, spec: EngineSpec) -> Invocation:
    from ip2pbatch.run.clock import now
    from ip2pbatch.run.ledger import Invocation

    return Invocation(
        started=now().isoformat(timespec="seconds"), command=shlex.join(sys.argv), recipe=job.text,
        versions=versions(spec.backend), device=spec.provider, partial=job.selection.partial,
    )  # fmt: skip


def versions(backend: str = "torch") -> dict[str, str]:
    """Of this package, Python, and every library that pictures of `backend` hang on."""
    own = {"ip2pbatch": __version__, "python": sys.version.split()[0]}
    if backend == "onnx":
        from ip2pbatch.backends.onnx.providers import onnxruntime

        own["onnxruntime"] = onnxruntime().__version__
    return own | {name: importlib.metadata.version(name) for name in DISTRIBUTIONS}


def recipe_text(recipe: Recipe) -> str:
    """A recipe that came from flags, as a file that asks for the same pictures."""
    import yaml

    return yaml.safe_dump(recipe.model_dump(mode="json", exclude_defaults=True), sort_keys=False, allow_unicode=True)
