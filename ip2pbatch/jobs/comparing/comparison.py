"""What a comparison of models is: its recipe, where it lies, and the ordinary recipe of each of its models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ip2pbatch.disk.buckets.locations import absolute
from ip2pbatch.errors import UsageError
from ip2pbatch.jobs.job import refuse_in_bucket
from ip2pbatch.plan.written.as_text import recipe_text
from ip2pbatch.plan.written.compared import Compared
from ip2pbatch.plan.written.edit_flags import compare_models
from ip2pbatch.plan.written.recipe import GuidanceSpec, Recipe, parse_recipe, read_recipe
from ip2pbatch.plan.written.yaml_source import read_text
from ip2pbatch.run.directory.layout import run_folders
from ip2pbatch.run.directory.left_recipe import FIRST
from ip2pbatch.run.directory.lines import RecordedRecipe
from ip2pbatch.run.directory.sessions import noted_comparison

if TYPE_CHECKING:
    from ip2pbatch.run.directory.view import RunView

MOST_TITLE = 200


@dataclass(frozen=True, slots=True)
class Comparison:
    """A recipe that compares, and the same as it was written; `before` counts the comparisons that were in its output
    folder till now.
    """

    recipe: Recipe
    recorded: RecordedRecipe
    before: int = 0

    @property
    def out(self) -> Path:
        """The folder that holds a folder a model."""
        return self.recipe.output.folder

    @property
    def folders(self) -> dict[str, Path]:
        """The output folder of each model's run, whether it was begun or not, by the model's name in their order."""
        return {one.name: self.out / one.name for one in self.recipe.compare}

    def recipes(self) -> dict[str, RecordedRecipe]:
        """The ordinary recipe of each model, as it lies in the model's folder."""
        return {one.name: self._recipe_of(one) for one in self.recipe.compare}

    def views(self) -> dict[str, RunView]:
        """The runs that were begun. Raises UsageError where one cannot be read."""
        from ip2pbatch.run.directory.view import read_run  # numpy need not come to validate and plan

        return {name: read_run(folder) for name, folder in self.folders.items() if run_folders(folder)}

    def _recipe_of(self, one: Compared) -> RecordedRecipe:
        whole, folder = self.recipe, self.out / one.name
        own = one.text is not None or one.image is not None
        scales = {"text": one.text, "image": one.image}
        given = {key: value for key, value in scales.items() if value != "default"}
        alone = whole.model_copy(
            update={
                "name": f"{whole.name}: {one.name}"[:MOST_TITLE], "model": one.model, "compare": (),
                "guidance": GuidanceSpec(**given, pair=whole.guidance.pair)
                if own else whole.guidance,
                "steps": one.steps or whole.steps, "sampler": one.sampler or whole.sampler,
                "size": one.size or whole.size,
                "output": whole.output.model_copy(update={"folder": folder}),
            }
        )  # fmt: skip
        head = [f"{one.name}, one of the models compared in the folder above; it runs as it stands."]
        return RecordedRecipe(recipe_text(alone, folder=".", head=head), str(folder / FIRST))


def comparison_of(what: Path, out: Path | None = None, models: Sequence[str] = ()) -> Comparison | None:
    """The comparison of a recipe, or that lies in a folder, with `models` besides; None where it is of one model.

    `out` is another folder than the recipe's. Raises RecipeError, UsageError.
    """
    if what.is_dir():
        noted = noted_comparison(what)
        if noted is None:
            return None
        recorded = noted.recipe
        recipe = parse_recipe(recorded.text, Path(recorded.file or what.absolute() / FIRST))
        out = out or what
    elif models or (what.is_file() and "compare" in read_text(what)):  # a pipe can be read once, by who runs it
        recipe, text = read_recipe(what)
        recorded = RecordedRecipe(text, str(what.absolute()))
    else:
        return None
    if out is not None:
        recipe = recipe.model_copy(update={"output": recipe.output.model_copy(update={"folder": absolute(out)})})
    if models:
        recipe = compare_models(_with_earlier(recipe), models)
        recorded = RecordedRecipe(recipe_text(recipe))
    if not recipe.compare:
        return None
    refuse_in_bucket(recipe.output.folder, "a comparison of models")
    return Comparison(recipe, recorded, _before(recipe.output.folder))


def _with_earlier(recipe: Recipe) -> Recipe:
    """The recipe, comparing also what the newest comparison in its output folder does: a flag adds, as `edit` does."""
    noted = noted_comparison(recipe.output.folder)
    if noted is None:
        return recipe
    earlier = parse_recipe(noted.recipe.text, Path(noted.recipe.file or recipe.output.folder / FIRST)).compare
    names = {one.name for one in recipe.compare}
    return recipe.model_copy(update={"compare": (*recipe.compare, *(one for one in earlier if one.name not in names))})


def _before(out: Path) -> int:
    """How many comparisons there were. Raises UsageError where something else lies in the folder."""
    if run_folders(out):
        hint = "compare models in a folder of their own: name another with -o"
        raise UsageError(f"{out} holds a run of its own, and a comparison has one a model", hint=hint)
    noted = noted_comparison(out)
    return 0 if noted is None else noted.turn


def found(what: Path, out: Path | None = None, models: Sequence[str] = ()) -> Comparison:
    """The same, where there has to be one. Raises UsageError."""
    comparison = comparison_of(what, out, models)
    if comparison is None:
        hint = "name the models: `--model A --model B`, or `compare: [A, B]` in the recipe"
        raise UsageError(f"{what} compares no models", hint=hint)
    return comparison
