"""What a studio is opened on: a folder of photos, a recipe, the output folder of a run, or nothing yet."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from ip2pbatch.disk.buckets.locations import is_object, shown
from ip2pbatch.errors import RecipeError, UsageError
from ip2pbatch.jobs.exploring.shelf import UPLOADS, Lister
from ip2pbatch.jobs.exploring.wanted import Ground
from ip2pbatch.jobs.job import refuse_comparison, refuse_in_bucket
from ip2pbatch.jobs.remake import machine_of
from ip2pbatch.plan.photos import named, refuse_output, scan
from ip2pbatch.plan.written.compared import model_path
from ip2pbatch.plan.written.recipe import PhotoFolder, Recipe, parse_recipe, read_recipe
from ip2pbatch.run.directory.layout import run_folders
from ip2pbatch.run.directory.left_recipe import FIRST
from ip2pbatch.run.directory.lines import RecordedRecipe
from ip2pbatch.run.directory.sessions import noted_comparison
from ip2pbatch.run.directory.view import RunView, read_run
from ip2pbatch.run.machine import Machine

MODEL = "timbrooks/instruct-pix2pix"
NOWHERE = "studio"
"""The output folder where nothing else names one, in the working folder."""


@dataclass(frozen=True, slots=True)
class Setting:
    """`photos` are the folders that recipes for the whole folder name, `lister` those shown; `roots` are the folders
    that a recipe may name. `text` is the recipe that it was opened with, at `file`.
    """

    ground: Ground
    machine: Machine
    lister: Lister
    photos: tuple[PhotoFolder, ...] = ()
    roots: tuple[Path, ...] = ()
    text: str = ""
    file: Path | None = None
    safety: bool = True
    watches: bool = False
    called: str = field(default="")

    @property
    def uploads(self) -> Path:
        """Where dropped photos are kept."""
        return self.ground.out / UPLOADS

    @property
    def recipe_place(self) -> Path:
        """Where the paths of a recipe count from."""
        return self.file or self.ground.out / FIRST


def setting_of(what: Path | None, out: Path | None, model: str | None, machine: Machine) -> Setting:
    """What `what` is; a recipe and a run have their own model. Raises UsageError, RecipeError, PlanError."""
    if machine.has_workers:
        hint = "--device names it; `ip2pbatch run` takes --devices and --on"
        raise UsageError("the studio works on one device", hint=hint)
    if what is None:
        return _guarded(Setting(Ground(model or MODEL, (out or Path(NOWHERE)).absolute()), machine, _nothing))
    if what.is_file():
        return _guarded(_own_model(_of_recipe(what, out, machine), what, model))
    if run_folders(what):
        if out is not None and out.resolve() != what.resolve():
            raise UsageError(f"{what} is a run, and goes on in its own folder", hint="leave --out out")
        return _guarded(_own_model(_of_run(what.absolute(), machine), what, model))
    if not what.is_dir():
        raise UsageError(f"there is no {what}", hint="give a folder of photos, a recipe, or the output folder of a run")
    folder = PhotoFolder(folder=what.absolute())
    place = (out or what.absolute().with_name(f"{what.absolute().name}-{NOWHERE}")).absolute()
    refuse_output(folder.folder, place)
    return _guarded(Setting(
        Ground(model or MODEL, place), machine, partial(named, [folder]), (folder,), (folder.folder,),
        called=what.absolute().name,
    ))  # fmt: skip


def _own_model(setting: Setting, what: Path, model: str | None) -> Setting:
    """Raises UsageError where --model asks for another one than a recipe or a run has."""
    own = setting.ground.model
    if model is not None and own not in (model, model_path(model, Path.cwd())):
        hint = "leave --model out, or open its photos and an output folder of their own"
        raise UsageError(f"{what} is for the model {own}, and --model says {model}", hint=hint)
    return setting


def _guarded(setting: Setting) -> Setting:
    """With the settings of the run that is in its output folder already. Raises UsageError where that is no place."""
    out = setting.ground.out
    refuse_in_bucket(out, "the studio")
    if noted_comparison(out) is not None:
        raise UsageError(f"{out} holds a comparison of models", hint="give the folder of one of them")
    if run_folders(out) and setting.machine == Machine() and not setting.watches:
        return replace(setting, machine=machine_of(read_run(out)))
    return setting


def _nothing() -> Iterable[tuple[str, Path]]:
    return ()


def _of_recipe(path: Path, out: Path | None, machine: Machine) -> Setting:
    recipe, text = read_recipe(path)
    if out is not None:
        recipe = recipe.model_copy(update={"output": recipe.output.model_copy(update={"folder": out.absolute()})})
    refuse_comparison(recipe)
    _refuse_buckets(one.folder for one in recipe.photos)
    return Setting(
        Ground(recipe.model, recipe.output.folder, _shared(recipe)), machine, _listed(recipe), recipe.photos,
        tuple(_root(one) for one in recipe.photos), text, path.absolute(), recipe.safety, called=recipe.name,
    )  # fmt: skip


def _shared(recipe: Recipe) -> dict[str, object]:
    """What a recipe says for all its edits, and tries have in common with it."""
    said = recipe.model_dump(mode="json", exclude_defaults=True)
    return {key: said[key] for key in ("size", "sampler", "steps", "metadata", "safety") if key in said}


def _refuse_buckets(photos: Iterable[Path]) -> None:
    """Raises UsageError: the page reads photos as often as somebody looks at them."""
    if there := next(filter(is_object, photos), None):
        raise UsageError(
            f"the studio shows no photos of a bucket, such as {shown(there)}", hint="copy some of them first"
        )


def _root(photos: PhotoFolder) -> Path:
    return photos.folder if photos.folder.is_dir() else photos.folder.parent


def _listed(recipe: Recipe) -> Lister:
    """By their names alone where they lie in folders: to read ten thousand photos before a page opens takes minutes."""
    if not any(folder.manifest for folder in recipe.photos):
        for folder in recipe.photos:
            refuse_output(folder.folder, recipe.output.folder)
        return partial(named, recipe.photos)

    def listed() -> Iterable[tuple[str, Path]]:
        found = scan(recipe.photos, output=recipe.output.folder)
        yield from ((photo.name, photo.path) for photo in found.photos)
        yield from ((broken.name, broken.path) for broken in found.broken)

    return listed


def _of_run(out: Path, machine: Machine) -> Setting:
    """A run as it is: its model, its photos, and the machine's settings that it was made with."""
    view = read_run(out)
    machine = machine_of(view) if machine == Machine() else machine

    def listed() -> Iterable[tuple[str, Path]]:
        return [(photo.name, photo.path) for photo in read_run(out).photos if photo.path.is_file()]

    _refuse_buckets(photo.path for photo in view.photos)
    recipe = view.sessions[-1].recipes[-1] if view.sessions and view.sessions[-1].recipes else None
    photos = _folders_of(view, recipe)
    return Setting(
        Ground(view.spec.model or view.plan.model, view.root.absolute()), machine, listed,
        photos, tuple(map(_root, photos)), recipe.text if recipe else "",
        Path(recipe.file) if recipe and recipe.file else None, watches=True, called=view.plan.name,
    )  # fmt: skip


def _folders_of(view: RunView, recipe: RecordedRecipe | None) -> tuple[PhotoFolder, ...]:
    """The folders that the last recipe of a run names; where it names photos one by one, or only an older version took
    it, those that its photos lie in.
    """
    named: list[PhotoFolder] = []
    if recipe is not None:
        with suppress(RecipeError):
            place = Path(recipe.file) if recipe.file else view.root.absolute() / FIRST
            named = [one for one in parse_recipe(recipe.text, place).photos if one.folder.is_dir()]
    folders = dict.fromkeys(photo.path.parent for photo in view.photos)
    return tuple(named or [PhotoFolder(folder=folder) for folder in folders])
