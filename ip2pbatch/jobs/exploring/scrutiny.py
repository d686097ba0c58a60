"""What there is to say of a recipe before it runs: its mistakes, advice on its words, what it costs; and what it may
not say to a server.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from ip2pbatch.errors import Ip2pError, PlanError, RecipeError, UsageError
from ip2pbatch.jobs.adding import added
from ip2pbatch.jobs.advising import advice
from ip2pbatch.jobs.exploring.board import Board, Seen
from ip2pbatch.jobs.exploring.setting import Setting
from ip2pbatch.jobs.forecast import Forecast, forecast
from ip2pbatch.jobs.job import Job, Selection, make_job
from ip2pbatch.plan.written.as_text import flow, quoted
from ip2pbatch.plan.written.recipe import Recipe, parse_recipe
from ip2pbatch.plan.written.slug import free, name_of
from ip2pbatch.run.directory.lines import RecordedRecipe
from ip2pbatch.show.cells import Cell
from ip2pbatch.show.picks import Origin, pick_of


@dataclass(frozen=True, slots=True)
class Message:
    """What is wrong, or (a `warning`) worth a thought; `line` and `column` count from 1, 0 where there is none."""

    line: int
    column: int
    error: str
    hint: str | None = None
    warning: bool = False


@dataclass(frozen=True, slots=True)
class Scrutiny:
    """What was found, and what the recipe costs; None where it cannot be run. `seconds` are those of what is left, by
    what pictures took that this run has; None where there are none.
    """

    messages: tuple[Message, ...]
    cast: Forecast | None = None
    seconds: float | None = None


def job_of(text: str, setting: Setting) -> Job:
    """The job of a recipe's text, into the output folder of this studio. Raises RecipeError, PlanError, UsageError,
    NothingMatchedError.
    """
    recipe = parse_recipe(text, setting.recipe_place)
    refuse_beyond(recipe, setting)
    return make_job(recipe, RecordedRecipe(text, str(setting.file) if setting.file else ""), Selection())


def refuse_beyond(recipe: Recipe, setting: Setting) -> None:
    """Raises UsageError for a recipe that would read or write where the studio was not opened, or load a model."""
    ground = setting.ground
    if recipe.compare or recipe.model != ground.model:
        hint = f"write model: {ground.model}, or start `ip2pbatch studio` with --model"
        raise UsageError("this recipe is for another model than the studio has loaded", hint=hint)
    if recipe.output.folder.resolve() != ground.out.resolve():
        raise UsageError("this recipe writes elsewhere", hint=f"output: {{folder: {quoted(str(ground.out))}}}")
    if recipe.output.sign is not None:
        raise UsageError("files are signed on the command line", hint="run this recipe with `ip2pbatch run`")
    refuse_paths(recipe, setting)


def refuse_paths(part: BaseModel, setting: Setting) -> None:
    """Raises UsageError for a part of a recipe that names a place which the studio was not opened on."""
    roots = [root.resolve() for root in (*setting.roots, setting.uploads, setting.ground.out)]
    for path in _paths(part.model_dump()):
        if not any(path.resolve().is_relative_to(root) for root in roots):
            hint = "start the studio on that folder, or run the recipe with `ip2pbatch run`"
            raise UsageError(f"{path} is in none of the folders that this studio was opened on", hint=hint)


def _paths(value: Any) -> Iterator[Path]:
    if isinstance(value, Path):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _paths(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _paths(item)


def scrutinise(text: str, setting: Setting, board: Board) -> Scrutiny:
    """Check a recipe as `validate` does, and count what a run of it would make."""
    try:
        job = job_of(text, setting)
        said = [Message(0, 0, str(one), None, True) for one in dict.fromkeys(advice(job.recipe))]
        said += [Message(0, 0, note, None, True) for note in job.notes]
        cast = forecast(added(job))
    except RecipeError as error:
        return Scrutiny(tuple(_message(one) for one in (error, *error.more)))
    except Ip2pError as error:
        return Scrutiny((Message(0, 0, str(error), error.hint),))
    return Scrutiny(tuple(said), cast, _seconds(cast, board))


def _message(error: RecipeError) -> Message:
    """Without the file's name, which nobody gave."""
    words = re.sub(rf"^{re.escape(str(error.file))}(:\d+:\d+)?: ", "", str(error))
    return Message(error.line, error.column, words, error.hint)


def _seconds(cast: Forecast, board: Board) -> float | None:
    took = board.seconds_a_cell()
    return None if took is None else round(took * cast.edits_left, 1)


def recipe_from(cells: Sequence[Seen], setting: Setting) -> str:
    """A recipe that makes of every photo what these cells are of theirs. Raises PlanError where there are none."""
    if not cells:
        raise PlanError("no cell is chosen", hint="pick one first")
    out, photos = setting.ground.out, [flow(_plain(one)) for one in setting.photos] or [quoted(str(setting.uploads))]
    origin = Origin(setting.called or "explored", setting.ground.model, "", out)
    more = [f"{key}: {flow(value)}" for key, value in setting.ground.more.items() if key not in ("steps", "sampler")]
    lines = [
        f"name: {quoted(origin.name)}", f"model: {quoted(origin.model)}", *more,
        "photos:", *(f"  - {photo}" for photo in photos), "edits:", *(f"  - {edit}" for edit in _edits(cells, origin)),
        f"output: {{folder: {quoted(str(out))}}}",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _edits(cells: Sequence[Seen], origin: Origin) -> Iterator[str]:
    """An edit for each cell but its photo, in a recipe's words. Two of one instruction need names of their own."""
    said, names = set[str](), set[str]()
    for seen in cells:
        strength = "" if seen.strip.strength is None else f", strength: {seen.strip.strength!r}"
        edit = f"{pick_of(_chain(seen), origin)['recipe']}{strength}"
        if edit in said:
            continue
        said.add(edit)
        name = name_of([link.instruction for link in seen.strip.edits[: seen.link]])
        if name in names:
            edit = f"id: {quoted(name := free(name, names))}, {edit}"
        names.add(name)
        yield f"{{{edit}}}"


def _plain(photos: Any) -> Any:
    """A folder as a recipe says it: its path, where there is nothing else to say."""
    data = photos.model_dump(mode="json", exclude_defaults=True)
    return data["folder"] if list(data) == ["folder"] else data


def _chain(seen: Seen) -> list[Cell]:
    """The links of a cell up to it, as the report knows them."""
    strip = seen.strip
    return [
        Cell(
            key=edit.key, photo=strip.photo.name, edit=strip.id, instruction=edit.instruction, guidance=edit.guidance,
            seed=edit.seed, steps=edit.steps, sampler=edit.sampler, size=edit.size, state="done", link=link,
            links=len(strip.edits), carry=edit.carry, region=edit.region,
            feather=strip.feathers[link - 1] if strip.feathers else 0.0, negative=edit.negative,
            digest=strip.photo.digest, original=strip.photo.path,
        )
        for link, edit in enumerate(strip.edits[: seen.link], start=1)
    ]  # fmt: skip
