"""What a recipe asks for that its model's family has not, found before anything is scanned or loaded.

A pipeline that has no place for a setting takes no notice of it, or fails in the middle of a run. Here it is refused by
the family's name, with what the family has.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from ip2pbatch.errors import PlanError
from ip2pbatch.plan.expand import cells_of, link_guidance
from ip2pbatch.plan.families import Family

if TYPE_CHECKING:
    from ip2pbatch.plan.edits import Guidance
    from ip2pbatch.plan.written.recipe import EditSpec, Recipe


def refuse_unfit(recipe: Recipe, specs: Iterable[tuple[str, EditSpec]], family: Family) -> None:
    """Raises PlanError for the first thing that one of `specs`, each after its name, or the recipe itself asks for and
    the family has not.
    """
    for found in _troubles(recipe, specs, family):
        raise found


def _troubles(recipe: Recipe, specs: Iterable[tuple[str, EditSpec]], family: Family) -> Iterator[PlanError]:
    yield from _of_sampler("", recipe.sampler, recipe.model, family)
    for place, spec in specs:
        if spec.negative and not family.null_text:
            yield _no_null(place, recipe.model, family)
        yield from _of_sampler(f"{place}: ", spec.sampler, recipe.model, family)
        if family.call is not None:
            yield from _of_scales(place, recipe, spec, family)
            if spec.carry == "latent":
                yield PlanError(
                    f"{place}: carry: latent: {family.called} hands on no latent, the next link has the picture",
                    hint="leave carry out, or write carry: pixels",
                )


def _no_null(place: str, model: str, family: Family) -> PlanError:
    why = f"{place}: negative: {model} is of {family.called}, which has no null text for it to replace"
    return PlanError(why, hint="leave negative out, or use another model")


def _of_sampler(place: str, sampler: str | None, model: str, family: Family) -> Iterator[PlanError]:
    own = family.defaults.sampler
    if sampler is None or (sampler == "model") == (own == "model"):
        return
    if own == "model":
        why = f"{place}sampler: {model} is of {family.called}, which brings its own and takes no {sampler}"
        yield PlanError(why, hint="leave sampler out, or write sampler: model")
    else:
        why = f"{place}sampler: model is for editors that bring their own, and {family.called} is sampled here"
        yield PlanError(why, hint=f"leave sampler out: it is {own} then")


def _of_scales(place: str, recipe: Recipe, spec: EditSpec, family: Family) -> Iterator[PlanError]:
    for cell in cells_of(recipe, spec, family.defaults):
        for link in spec.chain:
            yield from _of_pair(place, link_guidance(link, cell), family)


def _of_pair(place: str, guidance: Guidance, family: Family) -> Iterator[PlanError]:
    """A scale that there is none of may only be what stands in every Edit for none."""
    none = family.defaults
    for name, scale, without in (("text", guidance.text, none.text), ("image", guidance.image, none.image)):
        if name not in family.scales and scale != without:
            has = f"has the {family.scales[0]} scale alone" if family.scales else "has neither"
            yield PlanError(
                f"{place}: {name} {scale:g}: {family.called} has no {name} scale; it {has}",
                hint=f"leave {name} out",
            )
    call = family.call
    if call is None or not call.text or call.least is None:
        return
    if guidance.text < call.least:
        yield PlanError(
            f"{place}: text {guidance.text:g}: {family.called} is not guided at all by such a scale, whatever it says",
            hint=f"use a text scale from {call.least:g} on",
        )
