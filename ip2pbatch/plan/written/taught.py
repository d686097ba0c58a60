"""What a small model was taught, by its own words: an instruction with others is unlike everything it knows.

A model that was trained from nothing on a few families of edits reads no word that none of their wordings has: its text
encoder never saw it. So the words themselves tell, without a network; training writes them into the model's folder.
"""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ip2pbatch.plan.defaults import model_folder

TAUGHT_FILE = "taught.json"
KNOWS = "it only changes light, colour, weather, material and medium"

# Words that say nothing about what to change; any instruction may have them.
_EMPTY = frozenset(
    """a an the it this that these those its his her their our your my me us of in on at by with from into onto to for
    as is was were be been are am and or so if than then there here where what who how which please just very more most
    much some all every everything bit lot little slightly really completely totally quite rather too also only kind
    sort make turn let would could can you i want get give do does did has had have should like look looks seem now
    photo photograph picture image scene shot""".split()  # noqa: SIM905 (a list of 110 words)
)
_LIKE = 0.8  # of difflib: from here on a word is another one misspelt, where it has so many letters
_LONG = 5
_FEW = 5  # families that may share a word which tells them from the others
_MANY = 3  # words that tell a family make up for one that was never taught: "snow on the trees, in the cold winter"
# "make the dog bronze" is "make it bronze": what an edit is done to need not be known.
_TARGET = re.compile(r"\b(make|turn|change|transform|convert|paint|render)\s+(?:the|my|this|that|our|your)\s+[^\W_]+\b")


@dataclass(frozen=True, slots=True)
class Unlike:
    """Why an instruction is unlike what a model was taught: the words that it never saw, and the nearest family it
    knows, "" where nothing is near.
    """

    words: tuple[str, ...]
    nearest: str

    @property
    def why(self) -> str:
        """In one clause, after the instruction."""
        return f"{self._never} taught to the model: {KNOWS}"

    @property
    def mark(self) -> str:
        """As short as a cell needs it."""
        return f"{self._never} taught" + (f"; nearest: {self.nearest}" if self.nearest else "")

    @property
    def _never(self) -> str:
        first = " and ".join(f"“{word}”" for word in self.words[:2])
        return f"{first} {'was' if len(self.words) == 1 else 'were'} never"


@dataclass(frozen=True, slots=True)
class Taught:
    """The words of each family of edits, in their common form (see `words_of`)."""

    families: Mapping[str, frozenset[str]]

    def unlike(self, instruction: str) -> Unlike | None:
        """What of an instruction was never taught; None where all of it may have been."""
        text = _TARGET.sub(r"\1 it", instruction.lower())
        strange = [word for word in _split(text) if _stem(word) not in self._known and word not in _EMPTY]
        telling = sum(0 < self._spread(word) <= _FEW for word in words_of([text]))
        if not strange or telling >= _MANY * len(strange):
            return None
        return Unlike(tuple(dict.fromkeys(strange)), self._nearest(instruction))

    @property
    def _known(self) -> frozenset[str]:
        return frozenset().union(*self.families.values())

    def _nearest(self, instruction: str) -> str:
        """The family with the most in common, "" where there is none: a rare word counts for more."""
        said = {self._meant(word) for word in words_of([instruction])}
        odds = {word: math.log((1 + len(self.families)) / (1 + self._spread(word))) for word in said}
        scores = {
            name: sum(odds[word] for word in said & words) / math.sqrt(len(words))
            for name, words in self.families.items()
        }
        best = max(scores, key=lambda name: scores[name])
        return best.replace("_", " ") if scores[best] else ""

    def _spread(self, word: str) -> int:
        return sum(word in words for words in self.families.values())

    def _meant(self, word: str) -> str:
        near = difflib.get_close_matches(word, self._known, n=1, cutoff=_LIKE) if len(word) >= _LONG else []
        return near[0] if near else word


def words_of(instructions: Iterable[str]) -> set[str]:
    """The words of instructions in their common form: lower case, without endings, without those that say nothing."""
    return {_stem(word) for text in instructions for word in _split(text.lower()) if word not in _EMPTY}


def taught_text(wordings: Mapping[str, Iterable[str]]) -> str:
    """The file of a model that was taught `wordings`, by family."""
    families = {name: sorted(words_of(texts)) for name, texts in wordings.items()}
    return json.dumps({"families": families}, indent=1, ensure_ascii=False) + "\n"


def taught_by(model: str) -> Taught | None:
    """What `model` was taught, where its folder says so; None for a model of everything, or one that is not here."""
    folder = model_folder(model)
    return _read(folder / TAUGHT_FILE) if folder is not None else None


@cache
def _read(file: Path) -> Taught | None:
    try:
        families = json.loads(file.read_text("utf-8"))["families"]
        return Taught({str(name): frozenset(map(str, words)) for name, words in families.items()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # it only serves advice


def _split(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.replace("'", "").replace("’", ""))


def _stem(word: str) -> str:
    for ending, short in (("ies", "y"), ("ing", ""), ("ed", ""), ("es", "e"), ("s", "")):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word.removesuffix(ending) + short
    return word
