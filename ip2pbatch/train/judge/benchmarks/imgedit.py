"""The evaluate stage, `maker: imgedit`: ImgEdit-Bench's basic suite (arXiv 2505.20275), judged by a model that sees.

Layout, prompts and scores follow Benchmark/Basic in PKU-YuanGroup/ImgEdit: `test` is Benchmark/singleturn of its
Benchmark.tar, unpacked.

    TEST/singleturn.json      {"1082": {"id": "animal/000342021.jpg", "prompt": "…", "edit_type": "adjust"}}
    TEST/judge_prompt.json    {"adjust": "… <edit_prompt> …"}: what the judge is asked, by edit type
    TEST/animal/…             the pictures before
    GENERATED/1082.png        the pictures after, where they were made elsewhere

The judge sees the words, the picture before and the one after, and gives three whole scores of 1 to 5, each on a line
`Name: 4`; their names differ by type (the paper calls them instruction adherence, editing quality, detail
preservation). An edit's score is their mean, rounded to two digits as the published script does. Unlike there, an
answer without exactly three scores in that range is asked again and then left out, with its reason.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

from ip2pbatch.errors import RecipeError
from ip2pbatch.train.captions.endpoint import refuse_away
from ip2pbatch.train.estimates import Estimate
from ip2pbatch.train.judge.benchmarks.answer_ledger import Ledger
from ip2pbatch.train.judge.benchmarks.asking import Hearing, JudgeEndpoint, Question, Scores, Shown, UnusableError
from ip2pbatch.train.judge.benchmarks.benchmark_edits import EditSettings, Item, Pictures, drawn, pictures_of
from ip2pbatch.train.judge.benchmarks.benchmark_table import Scored, mean_of, table_of, write_results
from ip2pbatch.train.judge.benchmarks.benchmark_work import can_be_counted, check_source, rate, work_of_asking
from ip2pbatch.train.judge.magicbrush import read_object
from ip2pbatch.train.stage import Stage

VERSION = 1
EDITS, PROMPTS, PLACE = "singleturn.json", "judge_prompt.json", "<edit_prompt>"
HINT = "give the folder Benchmark/singleturn of the unpacked Benchmark.tar as `test`"
COLUMNS = ("adherence", "quality", "preservation", "score")
WORST, BEST = 1, 5
# "Prompt Compliance: 4", "**Visual Seamlessness:** 3/5"
_SCORE = re.compile(r"^[\s*#_\d.)-]*[A-Za-z][^:\n]*?[*_\s]*:[*_\s]*(\d+)(?:\s*/\s*5)?[*_\s.]*$", re.MULTILINE)


class Config(EditSettings):
    """What is edited, and who judges it."""

    maker: Literal["imgedit"]
    test: Path  # the unpacked benchmark
    judge: JudgeEndpoint


def read_items(test: Path) -> list[Item]:
    """The edits in the file's order. RecipeError names what is missing."""
    rows = read_object(test / EDITS, HINT)
    items = []
    for key, row in rows.items():
        wanted = ("id", "prompt", "edit_type")
        if not isinstance(row, dict) or not all(isinstance(row.get(name), str) for name in wanted):
            raise RecipeError("needs id, prompt and edit_type", file=test / EDITS, key=key, hint=HINT)
        items.append(Item(key, row["edit_type"], row["prompt"], test / row["id"]))
    return items


def read_prompts(test: Path, items: Sequence[Item]) -> dict[str, str]:
    """What the judge is asked by edit type. RecipeError where a type has no prompt, or one without a place for the
    instruction.
    """
    found = read_object(test / PROMPTS, HINT)
    for kind in dict.fromkeys(one.group for one in items):
        prompt = found.get(kind)
        if not isinstance(prompt, str) or PLACE not in prompt:
            said = f"has no {PLACE}" if isinstance(prompt, str) else f"is missing, and {EDITS} has edits of that type"
            raise RecipeError(said, file=test / PROMPTS, key=kind, hint="unpack Benchmark.tar again")
    return found


def parse(answer: str) -> Scores:
    """The three scores. UnusableError where there are fewer or more, or one is out of range."""
    scores = tuple(float(found) for found in _SCORE.findall(answer))
    if len(scores) != 3:
        raise UnusableError(f"{len(scores)} scores instead of 3")
    for one in scores:
        if not WORST <= one <= BEST:
            raise UnusableError(f"a score of {one:g}, which is not from {WORST} to {BEST}")
    return scores


def questions_of(items: Sequence[Item], made: Pictures, prompts: Mapping[str, str]) -> Iterator[Question]:
    """One of every edit that has a picture."""
    for one in items:
        picture = made[one.key].path
        if picture is not None:
            prompt = prompts[one.group].replace(PLACE, one.instruction)
            yield Question(one.key, prompt, (Shown(one.photo), Shown(picture)))


def run(config: Config, inputs: dict[str, Path], folder: Path, photos: Path | None) -> dict[str, float]:
    """Edit what is missing, ask what was not answered, and write report.md, report.png and scores.jsonl."""
    items = drawn(read_items(config.test), config)
    prompts = read_prompts(config.test, items)
    refuse_missing(items, config.test)
    published = {one.key: f"{one.key}.png" for one in items}
    made = pictures_of(items, config, inputs, folder.parent, published, partial(refuse_away, config.judge))
    questions = list(questions_of(items, made, prompts))
    with Ledger(folder.parent / "answers") as ledger:
        hearing = Hearing(config.judge, ledger, parse)
        verdicts = hearing.ask(questions)
        tokens = hearing.tokens(questions)
    scored = []
    for one in items:
        verdict = verdicts.get(one.key)
        scores = (*verdict.scores, mean_of(verdict.scores)) if verdict and verdict.scores else None
        reason = verdict.reason if verdict else f"no picture: {made[one.key].reason}"
        said = (verdict.text,) if verdict and verdict.text else ()
        scored.append(Scored(one.key, one.group, str(one.photo), one.instruction, scores, reason, said))
    table = table_of("ImgEdit-Bench", COLUMNS, scored, BEST, config.resamples)
    head = [f"Judged by {config.judge.model}, scores of 1 to 5 with 95 % intervals (bootstrap over the photos)."]
    return write_results(folder, [table], scored, head) | {"tokens": float(tokens), **made.figures}


def refuse_missing(items: Sequence[Item], test: Path) -> None:
    """RecipeError names a picture that is not there."""
    for one in items:
        if not one.photo.is_file():
            said = f"its picture {one.photo.relative_to(test)} is missing"
            raise RecipeError(said, file=test / EDITS, key=one.key, hint="unpack Benchmark.tar again")


def estimate(settings: Config, counts: Estimate) -> Estimate:
    """An edit and a question of each."""
    if not can_be_counted(settings.test):
        return counts
    items = drawn(read_items(settings.test), settings)
    prompts = read_prompts(settings.test, items)
    text = sum(len(prompts[one.group]) + len(one.instruction) for one in items)
    return replace(counts, **work_of_asking(settings, len(items), len(items), text, settings.judge.model))


STAGE = Stage(Config, run, VERSION, check=check_source, estimate=estimate, rate=rate)
