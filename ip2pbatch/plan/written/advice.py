"""What InstructPix2Pix is known to be bad at, found in the words of an instruction before any time is spent on it.

The weaknesses and the biases are those that its authors name (Brooks et al. 2023, section 5 and figures 13 and 14).
Patterns err towards silence: advice that fires on `make it winter` teaches people to ignore it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from textwrap import shorten
from typing import TYPE_CHECKING

from ip2pbatch.plan.written.taught import Taught, taught_by

if TYPE_CHECKING:
    from ip2pbatch.plan.written.recipe import EditSpec, Recipe

_SHOWN = 72  # characters of an instruction in a warning, which names its edit too


@dataclass(frozen=True, slots=True)
class Advice:
    """One warning: which edit, which instruction, the words that caused it, why they matter, what to try instead."""

    edit: str
    instruction: str
    topic: str
    words: str
    why: str
    instead: str

    def __str__(self) -> str:
        words = "" if self.words == self.instruction else f"{self.words!r}: "
        said = shorten(self.instruction, _SHOWN, placeholder=" …")
        return f"{self.edit}: {said!r}: {words}{self.why}; {self.instead}"


@dataclass(frozen=True, slots=True)
class _Topic:
    name: str
    pattern: re.Pattern[str]
    why: str
    instead: str


def _words(*patterns: str) -> re.Pattern[str]:
    """Any of `patterns`, at word boundaries, blind to case; a space stands for any white space."""
    return re.compile(rf"\b(?:{'|'.join(patterns)})\b".replace(" ", r"\s+"), re.IGNORECASE)


_NUMBER = r"(?:two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|[2-9]|[1-9]\d)"
_UNIT = r"(?:years?|months?|days?|hours?|minutes?|degrees?|stops?|percent|pixels?|times|tones?|colou?rs?|inch(?:es)?)"
_PLURAL = rf"(?!{_UNIT}\b)\w+(?:[^su\W]s|people|men|women|children|mice|geese|feet|teeth)"
_SIDE = r"(?:left|right)(?:[- ]hand)?"
_OF = r"(?:the|his|her|its|their|my|your)"
_PLACE = r"(?:next to|beside|in front of|between|above|below|beneath|underneath|on top of|closer to|away from)"
_SEEN = r"(?:seen|view\w*|shot|shown?|photograph\w*|pictured?|look\w*|filmed)"
_ANGLE = r"(?:above|below|behind|the side|the back|the front|afar|another angle|a different angle|a distance)"
_PERSON = r"(?:person|man|woman|boy|girl|child|kid|guy|lady|dog|cat|bird|horse|car|house|tree|flower|one)"
_GENDER = r"(?:man|men|woman|women|boys?|girls?|male|female|lady|ladies|gentlem[ae]n)"
_PROFESSIONS = (
    r"(?:doctor|nurse|surgeon|dentist|lawyer|attorney|flight attendant|stewardess|steward|pilot|ceo|boss|manager|"
    r"executive|engineer|scientist|professor|teacher|librarian|secretary|receptionist|programmer|firefighter|fireman|"
    r"police ?(?:officer|man|woman)|cop|soldier|chef|waiter|waitress|builder|construction worker|carpenter|plumber|"
    r"electrician|mechanic|hairdresser|janitor|cleaner|housekeeper|maid|nanny|farmer|butcher|baker|banker|"
    r"accountant|architect|politician|businessm[ae]n|businesswom[ae]n|model worker|criminal|gangster)s?"
)

# How other programs write weights, negative parts, networks to load and breaks (AUTOMATIC1111's wiki, "Attention").
_SYNTAX = re.compile(
    r"<(?:lora|lyco|hypernet):[^>]*>|\([^()]*:\s*[\d.]+\s*\)|\(\([^()]*\)\)|\[[^][]+\]|\bBREAK\b|\b\w{3,}\+\+"
    r"|\{[^{}]*\|[^{}]*\}"
)

_OTHERWISE = "for anything else use a model that was taught it, such as timbrooks/instruct-pix2pix"
_TOPICS = (
    _Topic(
        "syntax",
        _SYNTAX,
        "the syntax of another program, read here as plain words",
        "leave it out, and let text and image guidance say how strong an edit is",
    ),
    _Topic(
        "counting",
        _words(
            rf"{_NUMBER} (?:\w+ )?{_PLURAL}",
            rf"a dozen \w+|number of \w+s|(?:double|triple|halve) {_OF} number",
        ),
        "the model cannot count",
        "say what there should be more of, without a number",
    ),
    _Topic(
        "places",
        _words(
            rf"(?:to|on|in|at|from|into|towards?|onto) {_OF} (?:\w+ )?{_SIDE}",
            rf"{_SIDE} (?:side|half|corner|edge|eye|ear|arm|hand|leg|foot|cheek|shoulder|one|{_PERSON})",
            r"(?:left|right)most|(?:further|to) (?:left|right)|(?:upper|lower|top|bottom)[- ](?:left|right)",
            rf"(?:add|put|place|insert|move) .*\b{_PLACE}",
            rf"(?:move|shift|relocate|rotate|flip) (?:it|him|them|{_OF}|this|that)",
            r"mirror (?:it|the (?:image|photo|picture))",
        ),
        "the model does not know left from right and moves nothing",
        "name the thing itself instead of its place",
    ),
    _Topic(
        "swapping",
        _words(
            r"(?:swap|switch|exchange|trade)(?: \w+){0,2} (?:places?|positions?|seats|faces|heads)",
            r"(?:swap|exchange) (?:\w+ ){1,3}and \w+|(?:rearrange|reorder|reorgani[sz]e) \w+",
        ),
        "the model cannot swap or reorder what is in a photo",
        "replace one thing in one edit and the other in the next",
    ),
    _Topic(
        "viewpoint",
        _words(
            rf"{_SEEN} (?:\w+ ){{0,2}}from {_ANGLE}|from another angle|(?:different|another|new|camera) angle",
            r"(?:bird|worm)'?s?[- ]eye(?:[- ]view)?|(?:top|side|rear|back|aerial)[- ]view|top-down",
            r"zoom(?:ed)?[- ](?:in|out)|viewpoint|point of view|perspective from|(?:move|bring) the camera",
            r"turn (?:\w+ ){1,2}around|(?:face|look at|looking at|facing) the camera",
            r"look(?:ing)? (?:away|sideways|over \w+ shoulder)",
        ),
        "the model keeps the viewpoint of the photo",
        "leave the viewpoint to the photo",
    ),
    _Topic(
        "isolating",
        _words(
            rf"(?:only|just) (?:{_OF}|this|that|one)|one of {_OF}|(?:leave|keep) {_OF} (?:rest|others)",
            r"except|everything but|all but|but not|without changing",
            rf"{_OF} (?:second|third|fourth|middle|other|nearest|farthest|biggest|smallest|tallest) {_PERSON}",
            rf"{_OF} {_PERSON} (?:in|with|wearing|holding|who|that|standing|sitting) \w+",
        ),
        "the model changes all things of a kind, and often more",
        "crop to the thing, or raise the image scale",
    ),
    _Topic(
        "professions",
        _words(_PROFESSIONS),
        "its training pictures tie professions to a gender, a skin and an age",
        "look at every face before using it",
    ),
    _Topic(
        "gender",
        _words(
            rf"(?:turn|make|transform|change) .*\b(?:into|to|like|as|be) (?:an? )?(?:\w+ ){{0,2}}{_GENDER}",
            rf"(?:turn|make) (?:him|her|them|it) (?:an? )?(?:\w+ )?{_GENDER}",
            r"(?:more|less) (?:masculine|feminine|manly|girly)|gender",
        ),
        "its training pictures show gender in clichés",
        "look at every face before using it",
    ),
)


def advise(recipe: Recipe) -> list[Advice]:
    """Warnings for the instructions of a recipe and of its CSV files, and for what its model was never taught.

    Raises RecipeError where a CSV cannot be read.
    """
    taught = taught_by(recipe.model)
    return [advice for place, words in instructions(recipe) for advice in _about(place, words, taught)]


def _about(place: str, words: str, taught: Taught | None) -> Iterator[Advice]:
    for topic in _TOPICS:
        if found := [match[0] for match in topic.pattern.finditer(words)]:
            caused = " ".join(found) if topic.name == "syntax" else found[0]  # none of it does what it says
            yield Advice(place, words, topic.name, caused, topic.why, topic.instead)
    if taught is not None and (unlike := taught.unlike(words)):
        nearest = f"the nearest that it knows is {unlike.nearest}; " if unlike.nearest else ""
        yield Advice(place, words, "untaught", words, unlike.why, f"{nearest}{_OTHERWISE}")


def instructions(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """Every instruction of a recipe and of its CSV files, after the edit's id or the photo's name."""
    return ((place, link.instruction) for place, spec in specs_of(recipe) for link in spec.chain)


def negatives(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """Every negative of them, after the same."""
    return ((place, spec.negative) for place, spec in specs_of(recipe) if spec.negative)


def specs_of(recipe: Recipe) -> Iterator[tuple[str, EditSpec]]:
    """Every edit of a recipe and of its CSV files, after the same."""
    yield from ((spec.id, spec) for spec in recipe.edits)
    for folder in recipe.photos:
        if folder.instructions is not None:
            from ip2pbatch.plan.written.instructions import read_instructions

            yield from ((row.photo, row.edit) for row in read_instructions(folder.instructions))
