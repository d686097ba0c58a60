"""A Recipe put together from the flags of `ip2pbatch edit`: the same recipe that a file would give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from ip2pbatch.errors import UsageError
from ip2pbatch.plan.defaults import DEFAULT_MODEL
from ip2pbatch.plan.written.compared import Compared, model_path, refuse_clashes
from ip2pbatch.plan.written.ranges import parse_numbers
from ip2pbatch.plan.written.recipe import Recipe
from ip2pbatch.plan.written.yaml_source import Mistake, reword


@dataclass(frozen=True, slots=True)
class Flags:
    """The flags of `edit`, as given: numbers are still texts such as `5,7.5` or `1..2 by 0.25`; None is the default."""

    photos: tuple[Path, ...]
    instructions: tuple[str, ...]
    out: Path
    text: str | None = None
    image: str | None = None
    seed: str | None = None
    steps: int | None = None
    sampler: str | None = None
    size: int | None = None
    model: str = DEFAULT_MODEL
    name: str | None = None
    format: str | None = None
    quality: int | None = None
    dates: str | None = None
    gps: str | None = None
    strength: float | None = None


_OUTPUT = ("name", "format", "quality", "dates", "strength")
# The flag that a part of the recipe came from, for messages.
_FLAGS = {
    "photos": "PHOTOS", "edits": "-i", "text": "--text", "image": "--image", "seeds": "--seed", "steps": "--steps",
    "sampler": "--sampler", "size": "--size", "output": "--out", "model": "--model", "name": "--name",
    "format": "--format", "quality": "--quality", "dates": "--dates", "gps": "--gps",
    "strength": "--strength",
}  # fmt: skip


def change_output(recipe: Recipe, output: Mapping[str, object], metadata: Mapping[str, object]) -> Recipe:
    """`recipe` with those settings of its files that are not None. Raises UsageError."""
    parts = {}
    for part, changes in (("output", output), ("metadata", metadata)):
        old: BaseModel = getattr(recipe, part)
        given = {key: value for key, value in changes.items() if value is not None}
        try:
            parts[part] = type(old).model_validate(old.model_dump() | given, context=Path.cwd())
        except ValidationError as error:
            why, hint, path = _said(error)
            flag = "--" + str(path[0]).replace("_", "-") if path else part
            raise UsageError(f"{flag}: {why}", hint=hint) from None
    return recipe.model_copy(update=parts)


def compare_models(recipe: Recipe, models: Sequence[str]) -> Recipe:
    """`recipe`, comparing `models` too, whose paths are relative to the working folder. Raises UsageError."""
    known = {known for one in recipe.compare for known in (one.model, one.name)}
    try:
        paths = [model_path(model, Path.cwd()) for model in models]
        more = [Compared.model_validate(path) for path in paths if path not in known]
        compared = refuse_clashes((*recipe.compare, *more))
    except ValidationError as error:
        why, hint, _ = _said(error)
        raise UsageError(f"--model: {why}", hint=hint) from None
    except Mistake as mistake:
        raise UsageError(f"--model: {mistake.why}", hint=mistake.hint) from None
    return recipe.model_copy(update={"model": DEFAULT_MODEL, "compare": compared})


def recipe_from_flags(flags: Flags) -> Recipe:
    """The recipe that `flags` stand for; paths are relative to the working folder. Raises UsageError naming the flag.

    `--seed` gives every photo exactly those seeds; without it each photo has its own, as in a recipe.
    """
    data: dict[str, Any] = {
        "name": (len(flags.instructions) == 1 and flags.instructions[0][:200]) or "edits",
        "model": flags.model,
        "photos": list(flags.photos),
        "edits": list(dict.fromkeys(flags.instructions)),
        "guidance": _given(flags, "text", "image"),
        "output": {"folder": flags.out, **_given(flags, *_OUTPUT)},
        "metadata": _given(flags, "gps"),
        "steps": flags.steps,
        "sampler": flags.sampler,
        "size": flags.size and {"long_side": flags.size},
    }
    if flags.seed is not None:
        data["seeds"] = {"fixed": _seeds(flags.seed)}
    try:
        return Recipe.model_validate(data, context=Path.cwd())
    except ValidationError as error:
        why, hint, path = _said(error)
        flag = next((_FLAGS[str(part)] for part in reversed(path) if part in _FLAGS), "")
        raise UsageError(f"{flag}: {why}" if flag else why, hint=hint) from None


def _said(error: ValidationError) -> tuple[str, str | None, tuple[int | str, ...]]:
    """Why, a hint, and where, of the first thing that is wrong."""
    one = error.errors(include_url=False)[0]
    cause = one.get("ctx", {}).get("error")
    if isinstance(cause, Mistake):
        return cause.why, cause.hint, one["loc"] + cause.at
    return *reword(dict(one)), one["loc"]


def _given(flags: Flags, *names: str) -> dict[str, Any]:
    """Those flags that are not left to their defaults."""
    return {name: value for name in names if (value := getattr(flags, name)) is not None}


def _seeds(text: str) -> list[int]:
    try:
        numbers = parse_numbers(text.replace(",", ", "))  # whole numbers have no decimal commas
    except Mistake as mistake:
        raise UsageError(f"--seed: {mistake.why}", hint="for example --seed 7 or --seed 1,2,3") from None
    if any(number != int(number) for number in numbers):
        raise UsageError(f"--seed: {text!r} is not of whole numbers", hint="for example --seed 7 or --seed 1,2,3")
    return [int(number) for number in numbers]
