"""A recipe with its photos and plan, and the selection of them that a command is about."""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ip2pbatch import __version__
from ip2pbatch.disk.buckets.locations import absolute, is_object, shown
from ip2pbatch.errors import MissingError, UsageError
from ip2pbatch.jobs.advising import refuse_refining, refuse_unasked
from ip2pbatch.pictures.sizing import LIFT
from ip2pbatch.plan.defaults import model_defaults
from ip2pbatch.plan.edits import Plan
from ip2pbatch.plan.expand import cells_of, expand, link_guidance
from ip2pbatch.plan.families import ModelDefaults
from ip2pbatch.plan.photos import Scan, refuse_bucket, refuse_listed, scan
from ip2pbatch.plan.rows import asks_null
from ip2pbatch.plan.shard import Shard
from ip2pbatch.plan.tiling import levels
from ip2pbatch.plan.written.recipe import Recipe, read_recipe
from ip2pbatch.run.directory.kept_defaults import (
    differences,
    keeps_files,
    keeps_lift,
    keeps_registering,
    kept_defaults,
)
from ip2pbatch.run.directory.lines import RecordedRecipe
from ip2pbatch.run.directory.sessions import noted_comparison
from ip2pbatch.run.patience import Allowance

if TYPE_CHECKING:
    from ip2pbatch.plan.names import Place

EXAMPLE_OUT = "s3://bucket/out"
DISTRIBUTIONS = ("torch", "diffusers", "transformers", "pillow", "numpy")


@dataclass(frozen=True, slots=True)
class Selection:
    """The flags that say where, which part, and how many edits may fail: none of them changes a picture."""

    out: Path | None = None
    only: str | None = None
    limit: int | None = None
    shard: str | None = None
    allowed: Allowance | None = None
    state: Path | None = None

    @property
    def partial(self) -> bool:
        """Whether it cuts the recipe's photos down. A shard does not: the others make the rest of the same plan."""
        return bool(self.only or self.limit)


@dataclass(frozen=True, slots=True)
class Job:
    """A recipe with its photos and plan. `text` is the recipe as written, kept in the run.

    `whole` is of all photos, `asked` of those that --only and --limit leave, `plan` of those in this shard. Where the
    job adds to what `earlier` asked for, as a further `edit` does, `asked` is of both. `recipes` say all that the run
    is asked for then; where it `leaves` them as a recipe in the output folder, `elsewhere` is a file for it too.
    `defaults` fill in what the recipe leaves unsaid, and so do whether its run `registers` and its `lift`, which are
    None before it has begun; `notes` are what a person should know of the planning. `part_of` is the comparison whose
    models it makes the pictures of one of, and how many there were in its folder till then. `files` is the address
    below which its run delivers, "" where that is the output folder.
    """

    recipe: Recipe
    text: str
    scan: Scan
    whole: Plan
    asked: Plan
    plan: Plan
    selection: Selection
    defaults: ModelDefaults
    notes: tuple[str, ...] = ()
    earlier: Plan | None = None
    recipes: tuple[RecordedRecipe, ...] = ()
    leaves: bool = False
    elsewhere: Path | None = None
    registers: bool | None = None
    lift: int | None = None
    part_of: tuple[RecordedRecipe, int] | None = None
    files: str = ""

    @property
    def out(self) -> Path:
        """The output folder, or where the run is kept that delivers into a bucket."""
        return self.recipe.output.folder

    @property
    def shard(self) -> Shard | None:
        """The part of the work that this process does; None for all of it."""
        return Shard.parse(self.selection.shard) if self.selection.shard else None


def read(path: Path, selection: Selection, *, fresh: bool = False) -> Job:
    """The job of a recipe file, which is read once. Raises RecipeError, PlanError, NothingMatchedError."""
    recipe, text = read_recipe(path)
    return make_job(recipe, RecordedRecipe(text, str(path.absolute())), selection, fresh=fresh)


def make_job(recipe: Recipe, recorded: RecordedRecipe, selection: Selection, *, fresh: bool = False) -> Job:
    """Scan and expand a recipe, cut down to what `selection` asks for; `fresh` says that it starts a new run.

    `recorded` is the same as it was written.
    """
    recipe, files = _placed(recipe, selection)
    refuse_comparison(recipe)
    refuse_unasked(recipe)
    refuse_refining(recipe)
    refuse_bucket(recipe.photos, files)
    found = scan(recipe.photos, output=recipe.output.folder)
    if files and any(folder.manifest for folder in recipe.photos):
        refuse_listed(found.photos, files)
    defaults, notes = defaults_of(recipe, fresh=fresh)
    registers = None if fresh else keeps_registering(recipe.output.folder)
    lift = None if fresh else keeps_lift(recipe.output.folder)
    whole = expand(recipe, found, defaults, registers, lift_of(lift))
    if selection.only:
        found = found.only([selection.only])
    if selection.limit:
        found = found.limit(selection.limit)
    plan = asked = expand(recipe, found, defaults, registers, lift_of(lift)) if selection.partial else whole
    if selection.shard:
        plan = Shard.parse(selection.shard).take(asked)
    notes = (*found.notes, *notes, *_twins(plan), *_idle(recipe, found, defaults), *_small(plan, recipe))
    return Job(
        recipe, recorded.text, found, whole, asked, plan, selection, defaults, notes,
        recipes=(recorded,), registers=registers, lift=lift, files=files,
    )  # fmt: skip


def _placed(recipe: Recipe, selection: Selection) -> tuple[Recipe, str]:
    """The recipe with the folder of this machine where its run is kept, and the address below which that delivers, ""
    where it is that folder. A run that is there says it of itself. Raises UsageError.
    """
    folder = absolute(selection.out) if selection.out is not None else recipe.output.folder
    files = shown(folder) if is_object(folder) else ""
    if selection.state is not None:
        if not files:
            why = f"--state is for an output folder in a bucket, and {folder} is on this machine"
            raise UsageError(why, hint=f"-o {EXAMPLE_OUT} --state DIR; or leave --state out")
        folder = selection.state.absolute()
    if not is_object(folder):
        files = files or keeps_files(folder)
    if files and selection.shard:
        raise UsageError("--shard cannot deliver into a bucket yet", hint="--devices shares out one run")
    if files and recipe.output.dates == "source":
        raise UsageError(
            "output.dates: source is for a folder: a store gives objects their times",
            hint="leave it out; when a photo was taken stands in the file's EXIF all the same",
        )
    output = recipe.output.model_copy(update={"folder": folder})
    return recipe.model_copy(update={"output": output}), files


def refuse_in_bucket(folder: Path, what: str) -> None:
    """Raises UsageError where an output folder is in a bucket, or its run delivers into one, and `what` cannot."""
    if where := shown(folder) if is_object(folder) else keeps_files(folder):
        hint = "name an output folder of this machine; `ip2pbatch run` and `edit` deliver into a bucket"
        raise UsageError(f"{what} cannot deliver into a bucket yet, as into {where}", hint=hint)


def refuse_comparison(recipe: Recipe) -> None:
    """Raises UsageError where a recipe compares models, or would be run over what does."""
    if recipe.compare:
        names = ", ".join(one.name for one in recipe.compare)
        hint = f"`ip2pbatch compare` makes a run of each in {recipe.output.folder}: give the folder or recipe of one"
        raise UsageError(f"this recipe compares models ({names}), and this is for one of them", hint=hint)
    out = recipe.output.folder
    if noted_comparison(out) is not None:
        hint = f"name another output folder; `ip2pbatch run {out}` goes on with the comparison"
        raise UsageError(f"{out} holds a comparison of models, and no run of its own", hint=hint)


def lift_of(run: int | None) -> int:
    """The version of the lift in a run that has one, or (None) is yet to begin."""
    return LIFT if run is None else run


def write_photos(job: Job, manifest: Path) -> Job:
    """Write the job's photos as a manifest; the job, with a note of it. Raises UsageError, ResourceError."""
    from ip2pbatch.plan.listed.manifest import write_manifest

    count = write_manifest(manifest, job.scan.photos)
    said = f"{manifest} lists {count:,} photo{'' if count == 1 else 's'}: photos: {{manifest: {manifest}}}"
    if job.scan.broken:
        said += f"; {len(job.scan.broken):,} that cannot be read are not in it"
    return replace(job, notes=(*job.notes, said))


def _twins(plan: Plan) -> Iterator[str]:
    """Why there are more files than edits, where photos are the same picture."""
    twins = plan.twins
    if twins:
        later, earlier = next(iter(twins.items()))
        are = f"{later} is" if len(twins) == 1 else f"{len(twins):,} photos, such as {later}, are"
        as_what = earlier if len(twins) == 1 else f"another one, {earlier}"
        yield f"{are} the same picture as {as_what}: edited once, delivered under each name"


def _idle(recipe: Recipe, found: Scan, defaults: ModelDefaults) -> Iterator[str]:
    """Which edits' negatives do nothing."""
    specs = [spec for spec in (*recipe.edits, *(row.edit for row in found.instructions)) if spec.negative]
    scales = ((s.id, link_guidance(link, c)) for s in specs for c in cells_of(recipe, s, defaults) for link in s.chain)
    for name, one in {name: one for name, one in scales if not asks_null(one)}.items():
        at = f"text {one.text:g}, image {one.image:g}"
        yield f"{name}: negative does nothing at {at}, where no row of the network has the null text"


def _small(plan: Plan, recipe: Recipe) -> Iterator[str]:
    """Which photos are too small to be refined."""
    if recipe.output.full_resolution != "refine":
        return
    small = {s.photo.name: s for s in plan.strips if s.refined is None and not levels(s.edits[0].size, s.photo.size)}
    if small:
        are = (
            f"{next(iter(small))} is" if len(small) == 1 else f"{len(small):,} photos, such as {next(iter(small))}, are"
        )
        yield f"{are} hardly larger than what the model edits: there is nothing to refine"


def defaults_of(recipe: Recipe, *, fresh: bool = False) -> tuple[ModelDefaults, tuple[str, ...]]:
    """What counts where the recipe says nothing, and a note where that is not what its model says today: a run keeps
    the defaults that it was begun with. Raises ModelError.
    """
    today = model_defaults(recipe.model)
    if fresh or (kept := kept_defaults(recipe.output.folder, recipe.model)) in (None, today):
        return today, ()
    said = "; ".join(differences(kept, today))
    return kept, (f"the run keeps the defaults that it was begun with: {said}; --fresh begins one with today's",)


def file_names(job: Job, numbers: Mapping[str, int] | None = None) -> Mapping[Place, str]:
    """The name of every file of the job. Raises PlanError where two results would have one name."""
    from ip2pbatch.plan.names import output_names
    from ip2pbatch.plan.written.template import Template

    output, dates = job.recipe.output, {}
    if "date" in Template.parse(output.name).fields:
        from ip2pbatch.pictures.metadata import capture_date

        dates = {photo.name: date for photo in job.whole.photos if (date := capture_date(photo.path))}
    return output_names(job.plan, output, dates, numbers)


def versions(backend: str = "torch") -> dict[str, str]:
    """Of this package, Python, and every library that pictures of `backend` hang on, as far as they are installed."""
    from ip2pbatch.jobs import backends

    found = {"ip2pbatch": __version__, "python": sys.version.split()[0]}
    with suppress(MissingError):
        found |= backends.backend(backend).libraries()
    for name in DISTRIBUTIONS:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found
