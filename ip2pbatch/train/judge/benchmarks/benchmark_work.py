"""What the benchmarks' configs have in common before anything runs: whose pictures are judged, and what that takes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ip2pbatch.plan.written.yaml_source import Mistake
from ip2pbatch.train.estimates import EDIT_STEPS, work_of
from ip2pbatch.train.judge.benchmarks.benchmark_edits import EditSettings
from ip2pbatch.train.stage import unread

LETTERS = 4  # of a token of English, about


def check_source(settings: EditSettings, inputs: Mapping[str, str]) -> Iterator[Mistake]:
    """Either a model or pictures, and no input that is read by nothing."""
    yield from unread(inputs, [settings.model], "as `model`")
    if (settings.model is None) == (settings.generated is None):
        said = "or generated: one of them says whose pictures are judged, and only one"
        yield Mistake(said, hint="model: one of the inputs, a folder or a hub id; or generated: FOLDER", at=("model",))


def work_of_editing(settings: EditSettings, edits: int, then: str) -> dict[str, Any]:
    """The fields of an Estimate: edits where a model makes them, and what is done with the pictures."""
    made = edits if settings.generated is None else 0
    makes = f"{made:,} edits, {then}" if made else then
    return {"makes": makes, "work": made * work_of(settings.steps, settings.resolution), "unit": EDIT_STEPS}


def work_of_asking(settings: EditSettings, edits: int, questions: int, letters: int, judge: str) -> dict[str, Any]:
    """The same with questions of so many letters in all; what the judge takes for the pictures is its own affair."""
    tokens = letters / LETTERS
    then = f"{questions:,} questions to {judge}, at most: about {tokens:,.0f} tokens of text, and the pictures"
    return work_of_editing(settings, edits, then)


def can_be_counted(*paths: Path) -> bool:
    """Whether all that an estimate reads is there: data that were removed after a stage was done are no mistake."""
    return all(path.exists() for path in paths)


def rate(settings: EditSettings, metrics: Mapping[str, float]) -> tuple[str, float]:
    """Edits a second, as steps."""
    return EDIT_STEPS, metrics.get("edits/s", 0.0) * work_of(settings.steps, settings.resolution)
