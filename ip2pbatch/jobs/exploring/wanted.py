"""What a page asks for, as the recipe that asks for the same: no picture is made that a recipe could not say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ip2pbatch.errors import Ip2pError
from ip2pbatch.plan.edits import Strip
from ip2pbatch.plan.globs import exactly
from ip2pbatch.plan.written.recipe import Recipe, Seeds
from ip2pbatch.plan.written.slug import free
from ip2pbatch.plan.written.yaml_source import Mistake, reword

EXPLORED = "explored"
"""The name of the recipes that pages ask with."""

MOST_CELLS = 2000
"""That one request may ask for."""


class AskedWrongError(Ip2pError):
    """A request that no recipe could say; `where` names the part of it, such as `edits.0.region`."""

    def __init__(self, message: str, *, where: str, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.where = where


@dataclass(frozen=True, slots=True)
class Wanted:
    """Photos, edits in a recipe's words, and the axes of a grid over all of them; an empty axis is the model's own."""

    photos: tuple[Path, ...]
    edits: tuple[Mapping[str, Any], ...]
    text: tuple[float, ...] = ()
    image: tuple[float, ...] = ()
    seeds: tuple[int, ...] = ()
    steps: int | None = None


@dataclass(frozen=True, slots=True)
class Ground:
    """What every recipe of a studio has in common: its model, its output folder, and further keys of a recipe."""

    model: str
    out: Path
    more: Mapping[str, Any] = field(default_factory=dict)


def recipe_for(wanted: Wanted, ground: Ground) -> Recipe:
    """The recipe that asks for it. Raises AskedWrongError."""
    data: dict[str, Any] = {
        **ground.more, "name": EXPLORED, "model": ground.model, "photos": _photos(wanted.photos),
        "edits": [dict(edit) for edit in wanted.edits], "output": {"folder": str(ground.out)},
        "guidance": {k: list(v) for k, v in (("text", wanted.text), ("image", wanted.image)) if v},
    }  # fmt: skip
    if wanted.seeds:
        data["seeds"] = {"fixed": list(wanted.seeds)}
    if wanted.steps is not None:
        data["steps"] = wanted.steps
    return checked(data, ground.out)


def checked(data: Mapping[str, Any], base: Path) -> Recipe:
    """The recipe of some data. Raises AskedWrongError for the first thing that is wrong with it."""
    try:
        return Recipe.model_validate(dict(data), context=base)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        cause = first.get("ctx", {}).get("error")
        why, hint = (cause.why, cause.hint) if isinstance(cause, Mistake) else reword(dict(first))
        at = (*first["loc"], *cause.at) if isinstance(cause, Mistake) else first["loc"]
        raise AskedWrongError(why, where=".".join(map(str, at)), hint=hint) from None


def _photos(paths: Sequence[Path]) -> list[Any]:
    """Photos one by one, as an `edit` of files asks for them; by their folders where two have one name."""
    names = {path.name.casefold() for path in paths}
    if len(names) == len(paths):
        return [str(path) for path in paths]
    folders: dict[Path, list[str]] = {}
    for path in paths:
        folders.setdefault(path.parent, []).append(exactly(path.name))
    return [{"folder": str(folder), "include": globs} for folder, globs in folders.items()]


def recipe_of(recipe: Recipe, strips: Sequence[Strip]) -> Recipe:
    """What asks for these strips of what a recipe asks for: an edit each, of its photo."""
    specs, names = {spec.id: spec for spec in recipe.edits}, set[str]()
    edits = []
    for strip in strips:
        spec, name = specs[strip.id], strip.id if strip.id not in names else free(strip.id, names)
        names.add(name)
        own: dict[str, Any] = {"id": name, "text": (strip.guidance.text,), "image": (strip.guidance.image,)}
        if (spec.seeds or recipe.seeds).fixed:
            own["seeds"] = Seeds(fixed=(strip.seed,))
        edits.append(spec.model_copy(update={**own, "photos": (exactly(strip.photo.name),)}))
    return recipe.model_copy(update={"edits": tuple(edits)})
