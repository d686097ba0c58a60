"""What a recipe asks of a distilled model that it was not taught, found before anything is scanned or loaded.

Beyond the scales that it was taught, its network would answer something, and nobody could say what.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from ip2pbatch.errors import PlanError
from ip2pbatch.plan.expand import cells_of, link_guidance

if TYPE_CHECKING:
    from ip2pbatch.plan.defaults import TaughtScales
    from ip2pbatch.plan.families import ModelDefaults
    from ip2pbatch.plan.written.recipe import EditSpec, Recipe


def refuse_untaught(
    recipe: Recipe, specs: Iterable[tuple[str, EditSpec]], taught: TaughtScales, defaults: ModelDefaults
) -> None:
    """Raises PlanError for the first negative, or scale that was not taught, of `specs`, each after its name."""
    for place, spec in specs:
        if spec.negative:
            why = f"{place}: negative: {recipe.model} is distilled, and has no row with a null text for it to replace"
            raise PlanError(why, hint="leave negative out, or use the model that it was made from")
        for name, scale in _scales(recipe, spec, defaults):
            low, high = getattr(taught, name)
            if not low <= scale <= high:
                why = f"{place}: {name} {scale:g}: {recipe.model} is distilled, and was taught {taught}"
                raise PlanError(why, hint=f"use {name} {low:g} to {high:g}, or the model that it was made from")


def _scales(recipe: Recipe, spec: EditSpec, defaults: ModelDefaults) -> Iterator[tuple[str, float]]:
    for cell in cells_of(recipe, spec, defaults):
        for link in spec.chain:
            one = link_guidance(link, cell)
            yield from (("text", one.text), ("image", one.image))
