"""What a run is asked for: a further `edit` adds to what earlier ones asked for, and its folder goes on with all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ip2pbatch.disk.buckets.locations import absolute, is_object
from ip2pbatch.errors import Ip2pError, NothingMatchedError, PlanError, RecipeError, UsageError
from ip2pbatch.jobs.job import Job, Selection, file_names, lift_of, make_job, read
from ip2pbatch.plan.edits import Plan
from ip2pbatch.plan.expand import expand
from ip2pbatch.plan.names import Place
from ip2pbatch.plan.photos import scan
from ip2pbatch.plan.together import apart, beside
from ip2pbatch.plan.unedited import Broken
from ip2pbatch.plan.written.as_text import recipe_text
from ip2pbatch.plan.written.recipe import PhotoFolder, Recipe, parse_recipe
from ip2pbatch.plan.written.several import one_recipe
from ip2pbatch.plan.written.yaml_source import read_text
from ip2pbatch.run.directory.layout import RUN_FOLDER, run_folders
from ip2pbatch.run.directory.ledger import Run
from ip2pbatch.run.directory.left_recipe import FIRST, changed_recipe, digests_left, free_place, is_free, leave
from ip2pbatch.run.directory.lines import RecordedRecipe
from ip2pbatch.run.directory.sessions import noted_comparison
from ip2pbatch.run.directory.superseded import places
from ip2pbatch.run.directory.view import RunView, read_run

if TYPE_CHECKING:
    from ip2pbatch.jobs.voice import Voice

_EDIT = "`ip2pbatch edit`"


def added(job: Job) -> Job:
    """The job beside what the newest run in its output folder was asked for before."""
    if not run_folders(job.out):
        return job
    try:
        view = read_run(job.out)
    except UsageError:  # what is wrong with it is told when it is opened
        return job
    plan, earlier = apart(job.plan, view.plan), view.plan
    return replace(
        job, whole=apart(job.whole, earlier), asked=beside(plan, earlier), plan=plan, earlier=earlier,
        recipes=_with_earlier(job.recipes, view),
    )  # fmt: skip


def applied(out: Path, number: int, photos: Sequence[Path], selection: Selection) -> tuple[Job, RunView]:
    """The job of what cell `number` of the newest run in `out` has, for other photos: those given, else all that its
    own photo was listed with; and that run. Raises UsageError where there is no such cell, or none that was made.
    """
    from ip2pbatch.show.cells import gallery
    from ip2pbatch.show.picks import origin_of, recipe_of

    if not run_folders(out) and noted_comparison(out) is None:
        raise UsageError(f"{out} holds no run", hint="give the output folder of a run")
    view = read_run(out)
    cells = gallery(view).cells
    if not 1 <= number <= len(cells):
        raise UsageError(f"--cell: there is no cell {number} of {len(cells):,}", hint="the report says their numbers")
    cell = cells[number - 1]
    if cell.state != "done":
        why = f"--cell: cell {number} is {cell.state}: {cell.detail}".rstrip(": ")
        raise UsageError(why, hint="pick one that was made, or try this one again with `ip2pbatch retry`")
    own = recipe_of([cells[at] for at in range(number - cell.link, number)], origin_of(view, out))
    recipe = parse_recipe(own, out.absolute() / FIRST)
    folders = tuple(PhotoFolder(folder=absolute(path)) for path in photos) or _listed(view, recipe.photos[0].folder)
    output = recipe.output.model_copy(update={"folder": out.absolute()})
    recipe = recipe.model_copy(update={"name": view.plan.name, "photos": folders, "output": output})
    job = make_job(recipe, RecordedRecipe(recipe_text(recipe)), selection)
    return replace(added(job), leaves=True), view


def _listed(view: RunView, photo: Path) -> tuple[PhotoFolder, ...]:
    """What the run was asked for in which a photo is, without edits of single photos; else the photo's own folder."""
    for recorded in view.sessions[-1].recipes if view.sessions else ():
        for listed in _read_again(recorded, view.root).photos:
            if (is_object(listed.folder) or listed.folder.is_dir()) and photo.is_relative_to(listed.folder):
                return (listed.model_copy(update={"instructions": None}),)
    return (PhotoFolder(folder=photo.parent),)


def _with_earlier(own: tuple[RecordedRecipe, ...], view: RunView) -> tuple[RecordedRecipe, ...]:
    """What the run is asked for with `own` besides; () where what it was asked for before is not recorded."""
    if not view.sessions:
        return own
    before = view.sessions[-1].recipes
    return (*(one for one in before if one not in own), *own) if before else ()


def jobs_of(what: Path, selection: Selection, voice: Voice, *, fresh: bool = False) -> Iterator[Job]:
    """The job of a recipe; of an output folder, each of those that its run was last asked for, in their order, made
    when its turn comes. `fresh` says that the first one starts a new run.

    Raises RecipeError, PlanError, NothingMatchedError, and UsageError where the run does not say what it was asked for.
    """
    if not what.is_dir():
        yield read(what, selection, fresh=fresh)
        return
    view = _recorded(what)
    voice.note(_going_on(view))
    yield from _again(view, replace(selection, out=selection.out or view.root), voice, fresh=fresh)


def _again(view: RunView, selection: Selection, voice: Voice, *, fresh: bool) -> Iterator[Job]:
    """A job for each of its recipes, but those whose photos are gone or are not selected."""
    recipes = view.sessions[-1].recipes
    asked = {one: _read_again(one, view.root) for one in recipes}
    gone = list(dict.fromkeys(folder for recipe in asked.values() for folder in _gone(recipe)))
    here = {one: recipe for one, recipe in asked.items() if not any(_gone(recipe))}
    if not here:
        raise _all_gone(gone[0], view)
    for folder in gone:
        voice.note(f"passed over, because it is gone: {folder}; what was made of it stays")
    missed = tuple(Broken(str(path), path, "gone before all of it was edited") for path in gone if _left_of(path, view))
    nothing = list[NothingMatchedError]()
    for one, recipe in here.items():
        try:
            job = make_job(recipe, one, selection, fresh=fresh)
        except NothingMatchedError as error:
            nothing.append(error)
            continue
        job = job if fresh or (one.file and len(recipes) == 1) else added(job)
        yield replace(job, scan=replace(job.scan, broken=(*missed, *job.scan.broken)), recipes=recipes)
        fresh, missed = False, ()
    if len(nothing) == len(here):
        raise nothing[0]
    for empty in nothing if not selection.partial else ():
        voice.note(f"{empty}: what was asked of it is passed over")


def _recorded(folder: Path) -> RunView:
    """The newest run in an output folder, which says what it was asked for. Raises UsageError."""
    root = folder.resolve().parent if folder.name.startswith(RUN_FOLDER) else folder
    if not run_folders(root) and noted_comparison(root) is None:
        raise UsageError(
            f"{folder} holds no run", hint=f"give a recipe, or the output folder of a run; {_EDIT} takes photos"
        )
    view = read_run(root)
    if not view.sessions or not view.sessions[-1].recipes:
        last = f"; its last command was: {view.sessions[-1].command}" if view.sessions else ""
        raise UsageError(
            f"the run in {root} does not say which recipe it was last asked for, as one of `watch` or of an earlier "
            "version",
            hint=f"give the recipe, and `-o {root}` where that names another folder{last}",
        )
    return view


def _going_on(view: RunView) -> str:
    """Which recipe is read, in one line, and what a person may have taken it for: one that was changed since."""
    last = view.sessions[-1]
    if len(last.recipes) == 1 and last.recipes[0].file:
        said = f"going on with {last.recipes[0].file}{_since(last.recipes[0])}"
    else:
        who = _EDIT if len(last.recipes) == 1 else f"{len(last.recipes)} commands"
        said = f"going on with what {who} asked for in {view.root}"
        if changed := changed_recipe(view.root):
            said += f"; {changed} was changed since: give the file to run it as it is now"
    return said + ("; of all photos, where the last command was for some only" if last.partial else "")


def _since(recipe: RecordedRecipe) -> str:
    """What became of its file: the run goes on with what it was asked for."""
    try:
        text = read_text(Path(recipe.file))
    except RecipeError:
        return " as it last ran here; it cannot be read any more"
    if text.splitlines() == recipe.text.splitlines():
        return ""
    return " as it last ran here; it was changed since: give the file to run it as it is now"


def _read_again(recorded: RecordedRecipe, root: Path) -> Recipe:
    return parse_recipe(recorded.text, Path(recorded.file or root / FIRST))


def _gone(recipe: Recipe) -> Iterator[Path]:
    """The photos and folders of photos that are not there any more."""
    places = (photos.manifest or photos.folder for photos in recipe.photos)
    return (place for place in places if not is_object(place) and not place.exists())


def _left_of(folder: Path, view: RunView) -> bool:
    """Whether anything of the photos in a folder was never made, as far as is known."""
    strips = [strip for strip in view.strips if strip.photo.path.is_relative_to(folder)]
    return not strips or not all(view.is_done(edit.key) for strip in strips for edit in strip.edits)


def _all_gone(first: Path, view: RunView) -> PlanError:
    file = view.sessions[-1].recipes[-1].file
    instead = f"run a recipe with where they are and `-o {view.root}`" if file else f"{_EDIT} them where they are"
    return PlanError(
        f"the photos that the run in {view.root} was asked for are gone: {first}",
        hint=f"bring them back, or {instead}; a photo that was only moved is not edited again",
    )


def refuse_theirs(file: Path, root: Path) -> None:
    """Raises UsageError where a recipe that is asked for as `file` cannot be written, or would be written over another
    one than a run in `root` left there.
    """
    if not file.absolute().parent.is_dir():
        raise UsageError(f"--recipe: {file.parent} is no folder", hint="create it, or name a file elsewhere")
    if not is_free(file, digests_left(root)):
        raise UsageError(f"--recipe: {file} is already there", hint="name another file, or remove it first")


def leave_recipe(job: Job, voice: Voice, run: Run) -> None:
    """Write what the run is asked for as a recipe into the output folder, and to `job.elsewhere` too.

    One that a person changed there is left, and the new one gets a number. Raises ResourceError.
    """
    if job.part_of is not None:
        comparison, before = job.part_of
        run.note("comparison", text=comparison.text, file=comparison.file, turn=before + 1)
        leave(run, free_place(run.root, digests_left(run.root)), job.text)
        return
    recipe, why = _as_one(job)
    here, given = free_place(run.root, digests_left(run.root)), recipe.output.folder
    if here.name != FIRST:
        voice.warn(f"{run.root / FIRST} is not as it was left there and stays; what is asked now is in {here.name}")
    leave(run, here, recipe_text(recipe, folder=".", head=_head(job, "this folder", why)))
    if job.elsewhere is not None and job.elsewhere.resolve() != here.resolve():
        leave(run, job.elsewhere, recipe_text(recipe, head=_head(job, str(given), why)))
    if why:
        voice.note(f"{here} holds what is asked now alone: {why}")


def _head(job: Job, where: str, why: str) -> list[str]:
    several = len(job.recipes) > 1 and not why
    lines = [f"What {f'{len(job.recipes)} commands' if several else _EDIT} asked for in {where}; it runs as it stands."]
    if several:
        lines += ["The settings of delivered files are the last one's."]
    if why:
        lines += [f"What was asked for before is not in it: {why}. `ip2pbatch run` of that folder goes on with all."]
    return [*lines, "Change it as you like: a changed one is not written over."]


def joined_recipe(job: Job) -> RecordedRecipe | None:
    """One recipe that asks for what those of the job ask for; None where one cannot say it."""
    recipe, why = _as_one(job)
    return None if why else RecordedRecipe(recipe_text(recipe))


def _as_one(job: Job) -> tuple[Recipe, str]:
    """All that the run is asked for as one recipe; else what the job asks alone, and why."""
    earlier = [one for one in job.recipes if one.text != job.text]
    if not job.recipes:
        return job.recipe, "what was asked before is not recorded, as of `watch` or of an earlier version"
    if not earlier:
        return job.recipe, ""
    try:
        parts = [*(_read_again(one, job.out) for one in earlier), job.recipe]
        if gone := [folder for part in parts for folder in _gone(part)]:
            return job.recipe, f"{gone[0]} is gone"
        one = one_recipe(parts, job.defaults)
        if _pictures([parse_recipe(recipe_text(one), job.out / FIRST)], job) == _pictures(parts, job):
            return one, ""
    except Ip2pError as error:
        return job.recipe, str(error).rstrip(".")
    return job.recipe, "one recipe cannot say both"


def _pictures(recipes: Sequence[Recipe], job: Job) -> set[tuple[Path, tuple[str, ...], tuple[int, ...]]]:
    """What recipes ask for, whatever they call it: photo, keys of the links, links that are kept."""
    plans = (expand(recipe, scan(recipe.photos), job.defaults, job.registers, lift_of(job.lift)) for recipe in recipes)
    return {
        (strip.photo.path, tuple(edit.key for edit in strip.edits), strip.keep)
        for plan in plans for strip in plan.strips
    }  # fmt: skip


def names_beside(job: Job, targets: Mapping[Place, str], run: Run) -> Mapping[Place, str]:
    """The names of a job that adds: where an earlier picture has one, the axis in which they differ is appended, and a
    picture that was delivered with such a name keeps it.
    """
    if job.earlier is None:
        return targets
    own = {place for strip in job.plan.strips for place in places(strip)}
    before = (place for strip in job.asked.strips for place in places(strip) if place not in own)
    taken = {run.deliveries[place].path for place in before if place in run.deliveries}
    had = {place: run.deliveries[place].path for place in own if place in run.deliveries}
    if not taken.intersection(targets.values()) and set(had.values()) <= set(targets.values()):
        return targets
    longer: dict[tuple[str, str], str] = {}
    with suppress(PlanError):  # they differ in what no name says, as a chain's carry: then a number tells them apart
        numbers = run.number(job.asked.photos)
        found = file_names(replace(job, plan=job.asked, whole=job.asked), numbers)
        longer = {place: found[at] for at, place in _places(job.asked)}
    return {
        at: longer.get(place, targets[at]) if targets[at] in taken or had.get(place) == longer.get(place, "") else
        targets[at] for at, place in _places(job.plan)
    }  # fmt: skip


def _places(plan: Plan) -> Iterator[tuple[Place, tuple[str, str]]]:
    """Each kept link as names call it, and as deliveries do."""
    for index, strip in enumerate(plan.strips):
        yield from zip(((index, link) for link in strip.keep), places(strip), strict=True)
