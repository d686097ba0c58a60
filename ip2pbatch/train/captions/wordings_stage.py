"""The captions stage, `maker: template`: the wordings file → instruction and before and after captions, one line each.

    captions.jsonl: {"family": "winter", "split": "train", "instruction": "make it winter", "before": …, "after": …}

Every wording is written with every filling of `{it}`; trained ones also as people type them: polite, emphatic, with an
article too many or too few. Held-out wordings are written as they are and never varied or trained on.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from ip2pbatch.train.estimates import Estimate
from ip2pbatch.train.pairs.families.wordings import Wordings, load
from ip2pbatch.train.stage import Stage

VERSION = 1
FILE = "captions.jsonl"
OPENINGS = ("please ", "can you ", "could you please ", "now ", "i want you to ", "try to ", "just ", "")
ENDINGS = (" please", " now", " for me", " a lot", " completely", "!", ".", "")
# Words without which an instruction still says the same.
FILLERS = frozenset({"a", "an", "the", "it", "this", "photo", "picture", "image", "some", "like", "of", "look"})


class Config(BaseModel):
    """What decides the captions."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    maker: Literal["template"]
    wordings: Path  # relative to the config that names it
    variations: int = 2  # of every trained wording
    seed: int = 0


@dataclass(frozen=True)
class Caption:
    """One line: what is asked, and what the photo shows before and after."""

    family: str
    split: Literal["train", "held_out"]
    instruction: str
    before: str
    after: str


def vary(instruction: str, rng: np.random.Generator) -> str:
    """The instruction as someone else would type it: words added around it, a filler lost, capitals."""
    words = instruction.split()
    kept = [word for word in words if word not in FILLERS or rng.random() > 0.35]
    words = kept if len(kept) >= min(2, len(words)) else words
    opening, ending = OPENINGS[rng.integers(len(OPENINGS))], ENDINGS[rng.integers(len(ENDINGS))]
    return opening + " ".join(words) + ending


def make_captions(wordings: Wordings, config: Config) -> list[Caption]:
    """Every family's captions, in the file's order."""
    rng = np.random.default_rng(config.seed)
    lines = [line for name in wordings.families for line in captions_of(name, wordings, config.variations, rng)]
    return without_leaks(lines)


def captions_of(name: str, wordings: Wordings, variations: int, rng: np.random.Generator) -> Iterator[Caption]:
    """One family's captions: trained wordings, each followed by its variations, then those that are held out."""
    pairs = wordings.captions(name)

    def caption(instruction: str, split: Literal["train", "held_out"]) -> Caption:
        return Caption(name, split, instruction, *pairs[rng.integers(len(pairs))])

    for wording in wordings.trained(name):
        yield caption(wording, "train")
        for _ in range(variations):
            yield caption(vary(wording, rng), "train")
    for wording in wordings.held_out(name):
        yield caption(wording, "held_out")


def without_leaks(lines: list[Caption]) -> list[Caption]:
    """Drop a trained line that a variation has made equal to a held-out one."""
    held = {line.instruction for line in lines if line.split == "held_out"}
    return [line for line in lines if line.split == "held_out" or line.instruction not in held]


def read_captions(folder: Path) -> list[Caption]:
    """What the stage wrote."""
    return [Caption(**json.loads(line)) for line in (folder / FILE).read_text("utf-8").splitlines()]


def run(config: Config, inputs: dict[str, Path], folder: Path, photos: Path) -> dict[str, float]:
    """Write the captions; metrics: families, and lines of either split."""
    lines = make_captions(load(config.wordings), config)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FILE).write_text("".join(json.dumps(asdict(line)) + "\n" for line in lines), "utf-8")
    trained = sum(line.split == "train" for line in lines)
    families = len({line.family for line in lines})
    return {"families": float(families), "train": float(trained), "held_out": float(len(lines) - trained)}


def estimate(settings: Config, counts: Estimate) -> Estimate:
    """A line a wording."""
    return replace(counts, makes="captions of every wording")


STAGE = Stage(Config, run, VERSION, estimate=estimate)
