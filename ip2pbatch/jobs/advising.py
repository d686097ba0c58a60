"""Before any time is spent: advice on a recipe's instructions, the words' and the text encoder's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from ip2pbatch.errors import ModelError, PlanError
from ip2pbatch.plan.defaults import family_for, model_defaults, model_folder, taught_scales
from ip2pbatch.plan.editors.composed import base_of
from ip2pbatch.plan.refusals.fitting import refuse_unfit
from ip2pbatch.plan.refusals.untaught import refuse_untaught
from ip2pbatch.plan.written.advice import Advice, advise, instructions, negatives, specs_of
from ip2pbatch.plan.written.recipe import Recipe

_USUAL = 77  # tokens that CLIP's text encoder reads, its own two marks among them
_MARKS = 2


def advice(recipe: Recipe) -> list[Advice]:
    """All that there is to say of a recipe's instructions. Raises RecipeError where a CSV cannot be read, PlanError
    for what the model's family has no place for, ModelError where what is laid over it does not fit.

    What a text encoder reads is only known where the model is on this machine; nothing is fetched for that.
    """
    refuse_unasked(recipe)
    refuse_refining(recipe)
    _refuse_laid(recipe)
    if family_for(recipe.model).call is not None:  # its weaknesses are others, and it reads hundreds of words
        return [one for one in advise(recipe) if one.topic == "syntax"]
    return [*advise(recipe), *_unread(recipe)]


def refuse_unasked(recipe: Recipe) -> None:
    """Raises PlanError where an edit asks for a scale, a sampler or a negative that its model's family has not, or that
    a distilled model was not taught. ModelError where the model's own file cannot be used.
    """
    family = family_for(recipe.model)
    lacks_something = family.call is not None or not family.null_text
    edits = specs_of(recipe) if lacks_something else ((spec.id, spec) for spec in recipe.edits)
    refuse_unfit(recipe, edits, family)
    if taught := taught_scales(recipe.model):
        refuse_untaught(recipe, specs_of(recipe), taught, model_defaults(recipe.model))


def scales_of(recipe: Recipe) -> str:
    """Which scales a distilled model was taught, in words; "" of any other."""
    taught = taught_scales(recipe.model)
    return f"{recipe.model} is distilled: one row a step, approximate, taught {taught}" if taught else ""


def refuse_refining(recipe: Recipe) -> None:
    """Raises PlanError where pictures are to be refined by a model whose family cannot."""
    family = family_for(recipe.model)
    if recipe.output.full_resolution == "refine" and not family.refines:
        why = f"full_resolution: refine: {recipe.model} is of {family.called}, which cannot refine pictures"
        raise PlanError(why, hint="use full_resolution: auto, or another model")


def _refuse_laid(recipe: Recipe) -> None:
    """Raises ModelError where a LoRA or an autoencoder is here and not made for the model."""
    if base_of(recipe.model) == recipe.model:
        return
    with suppress(ImportError):  # where no model can be opened
        from ip2pbatch.backends.weights import refuse_unfit as refuse_laid

        refuse_laid(recipe.model)


def _unread(recipe: Recipe) -> Iterator[Advice]:
    folder = model_folder(recipe.model)
    room = _room(folder)
    # No token is shorter than a letter, so that the tokenizer need not be loaded for what is short enough.
    said = (*instructions(recipe), *negatives(recipe))
    long = [(place, words) for place, words in said if len(words.encode()) > room]
    if not long or (folder := folder or _cached(recipe.model)) is None:
        return
    with suppress(ImportError, OSError, ValueError):  # the engine says what is wrong with a model
        from ip2pbatch.backends.tokens import load_tokenizer, words_read

        tokenizer = load_tokenizer(folder)
        for place, words in long:
            if rest := words[len(words_read(tokenizer, words)) :].strip():
                yield Advice(
                    place, words, "unread", rest, "more than the text encoder reads, so that this has no effect",
                    "say it in fewer words, or in several edits of a chain",
                )  # fmt: skip


def _room(folder: Path | None) -> int:
    try:
        config = json.loads((folder / "tokenizer" / "tokenizer_config.json").read_text("utf-8")) if folder else {}
        return int(config.get("model_max_length", _USUAL)) - _MARKS
    except (OSError, ValueError, AttributeError, TypeError):
        return _USUAL - _MARKS


def _cached(model: str) -> Path | None:
    from ip2pbatch.backends.weights import resolve

    try:
        return resolve(model, download=False).path
    except ModelError:
        return None
