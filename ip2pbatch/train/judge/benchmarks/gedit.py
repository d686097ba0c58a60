"""The evaluate stage, `maker: gedit`: GEdit-Bench (arXiv 2504.17761), judged as VIEScore (arXiv 2312.14867) does.

Layout, groups and figures follow GEdit-Bench/ in stepfun-ai/Step1X-Edit, prompts and scores TIGER-AI-Lab/VIEScore.

    TEST/data/*.parquet      a snapshot of stepfun-ai/GEdit-Bench: task_type, key, instruction, instruction_language,
                             input_image and Intersection_exist; input_image_raw is not read
    VIESCORE                 the file viescore/vie_prompts.py of either repository: its texts are read, it is never run
    GENERATED/fullset/<task_type>/<language>/<key>.png    the pictures after, where they were made elsewhere

Two questions an edit: semantic consistency (SC) with the instruction, both pictures shown, and perceptual quality (PQ)
with the picture after alone. An answer is JSON with two whole scores of 0 to 10, of which the lower one counts, and
O = sqrt(SC · PQ). The picture after is shown at the size of the one before. The published figure of a language is the
mean of the groups' means, of all edits and of those of the intersection (that other models did not refuse).

Unlike there, an answer that cannot be read is asked again and then left out with its reason; VIEScore guesses.
"""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from PIL import Image
from pydantic import Field

from ip2pbatch.errors import RecipeError
from ip2pbatch.train.captions.endpoint import refuse_away
from ip2pbatch.train.data.parquet import ParquetRows, parquet_below
from ip2pbatch.train.estimates import Estimate
from ip2pbatch.train.judge.benchmarks.answer_ledger import Ledger
from ip2pbatch.train.judge.benchmarks.asking import (
    Hearing,
    JudgeEndpoint,
    Question,
    Scores,
    Shown,
    UnusableError,
    Verdict,
)
from ip2pbatch.train.judge.benchmarks.benchmark_edits import (
    EditSettings,
    Made,
    Pictures,
    drawn,
    pictures_of,
)
from ip2pbatch.train.judge.benchmarks.benchmark_rows import RowItem, read_texts, refuse_columns, with_photos
from ip2pbatch.train.judge.benchmarks.benchmark_table import Scored, Table, table_of, write_results
from ip2pbatch.train.judge.benchmarks.benchmark_work import can_be_counted, check_source, rate, work_of_asking
from ip2pbatch.train.stage import Stage

VERSION = 1
GROUPS = (
    "background_change", "color_alter", "material_alter", "motion_change", "ps_human", "style_change", "subject-add",
    "subject-remove", "subject-replace", "text_change", "tone_transfer",
)  # fmt: skip
TEXTS, PICTURE = ("task_type", "key", "instruction", "instruction_language", "Intersection_exist"), "input_image"
PROMPTS_HINT = "give viescore/vie_prompts.py of VIEScore"
PLACE = "<instruction>"
# The parts of VIEScore's prompts for editing (`task="tie"`), which it joins with line ends.
SC_PARTS = ("_context_no_delimit", "_prompts_0shot_two_image_edit_rule", "_prompts_0shot_tie_rule_SC")
PQ_PARTS = ("_context_no_delimit", "_prompts_0shot_rule_PQ")
COLUMNS = ("SC", "PQ", "O")
BEST = 10
LANGUAGES = {"en": "English", "cn": "Chinese"}
_LIST = re.compile(r"\[([^\[\]]*)\]")


class Config(EditSettings):
    """What is edited, and who judges it."""

    maker: Literal["gedit"]
    test: Path  # the snapshot
    viescore: Path  # vie_prompts.py
    judge: JudgeEndpoint
    languages: tuple[Literal["en", "cn"], ...] = Field(("en", "cn"), min_length=1)


@dataclass(frozen=True, slots=True)
class GEditItem(RowItem):
    """One edit. `published` its file in the published layout, `common` whether it is
    of the intersection.
    """

    language: str
    common: bool
    published: str


def read_items(config: Config) -> tuple[ParquetRows, list[GEditItem]]:
    """The set and its edits in the languages that are asked for, by group. Their photos are not there yet."""
    rows = ParquetRows(parquet_below(config.test))
    refuse_columns(rows, (*TEXTS, PICTURE), config.test, "a snapshot of stepfun-ai/GEdit-Bench")
    items = []
    for number, (task, key, instruction, language, common) in enumerate(read_texts(rows, TEXTS)):
        if language in config.languages:
            name, place = f"{language}-{key}", f"fullset/{task}/{language}/{key}.png"
            items.append(GEditItem(name, task, instruction, Path(), number, language, bool(common), place))
    known = [*GROUPS, *sorted({one.group for one in items} - set(GROUPS))]
    return rows, sorted(items, key=lambda one: known.index(one.group))


def read_prompts(path: Path) -> tuple[str, str]:
    """The prompts for SC and PQ, of texts that vie_prompts.py gives names. RecipeError where one is missing."""
    try:
        tree = ast.parse(path.read_text("utf-8"))
    except (OSError, ValueError, SyntaxError) as error:
        raise RecipeError(f"cannot be read: {error}", file=path, hint="give viescore/vie_prompts.py") from error
    texts = {
        target.id: node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    for name in (*SC_PARTS, *PQ_PARTS):
        if name not in texts:
            raise RecipeError("is not in it", file=path, key=name, hint=PROMPTS_HINT)
    consistency, quality = ("\n".join(texts[name] for name in parts) for parts in (SC_PARTS, PQ_PARTS))
    if PLACE not in consistency:
        raise RecipeError(f"has no {PLACE}", file=path, key=SC_PARTS[-1], hint=PROMPTS_HINT)
    return consistency, quality


def parse(answer: str) -> Scores:
    """The lower one of the two scores, from JSON with `score`, or from a list alone. UnusableError where there are not
    two whole numbers of 0 to 10.
    """
    scores = scores_in(answer)
    if len(scores) != 2 or not all(isinstance(one, int | float) and not isinstance(one, bool) for one in scores):
        raise UnusableError(f"{len(scores)} scores instead of 2" if len(scores) != 2 else f"no numbers: {scores}")
    for one in scores:
        if not 0 <= one <= BEST or one != int(one):
            raise UnusableError(f"a score of {one:g}, which is no whole number from 0 to {BEST}")
    return (float(min(scores)),)


def scores_in(answer: str) -> list[Any]:
    """What stands as the scores in an answer. UnusableError where nothing does."""
    begin, end = answer.find("{"), answer.rfind("}")
    try:
        found = json.loads(answer[begin : end + 1].replace("\n", " ")) if 0 <= begin < end else None
        if isinstance(found, dict) and isinstance(found.get("score"), list):
            return list(found["score"])
    except (ValueError, RecursionError):
        pass  # reasoning with quotation marks in it: the list is there all the same
    tail = answer.partition("score")[2] if begin >= 0 else answer
    match = _LIST.search(tail)
    try:
        return list(json.loads(f"[{match[1]}]")) if match else []
    except ValueError:
        raise UnusableError(f"no list of scores in it: {match[0][:80] if match else ''}") from None


def questions_of(
    items: Sequence[GEditItem], made: Pictures, prompts: tuple[str, str]
) -> Iterator[Question]:  # fmt: skip
    """Two of every edit that has a picture."""
    for one in items:
        picture = made[one.key].path
        if picture is None:
            continue
        with Image.open(one.photo) as opened:
            after = Shown(picture, opened.size)
        yield Question(f"{one.key} SC", prompts[0].replace(PLACE, one.instruction), (Shown(one.photo), after))
        yield Question(f"{one.key} PQ", prompts[1], (after,))


def scored_of(one: GEditItem, made: Made, verdicts: Mapping[str, Verdict]) -> Scored:
    """SC, PQ and O of an edit, or why it has none."""
    found = [verdicts[f"{one.key} {name}"] for name in ("SC", "PQ")] if made.path else []
    said = tuple(verdict.text for verdict in found if verdict.text)
    scores = [score for verdict in found for score in verdict.scores or ()]
    if len(scores) == 2:
        values = (*scores, math.sqrt(scores[0] * scores[1]))
        return Scored(one.key, one.group, str(one.photo), one.instruction, values, said=said)
    reasons = [verdict.reason for verdict in found if verdict.scores is None]
    reason = reasons[0] if reasons else f"no picture: {made.reason}"
    return Scored(one.key, one.group, str(one.photo), one.instruction, None, reason, said)


def run(config: Config, inputs: dict[str, Path], folder: Path, photos: Path | None) -> dict[str, float]:
    """Edit what is missing, ask what was not answered, and write report.md, report.png and scores.jsonl."""
    prompts = read_prompts(config.viescore)
    rows, found = read_items(config)
    items = with_photos(rows, drawn(found, config), PICTURE, folder.parent / "edits" / "photos")
    published = {one.key: one.published for one in items}
    made = pictures_of(items, config, inputs, folder.parent, published, partial(refuse_away, config.judge))
    questions = list(questions_of(items, made, prompts))
    with Ledger(folder.parent / "answers") as ledger:
        hearing = Hearing(config.judge, ledger, parse)
        verdicts = hearing.ask(questions)
        tokens = hearing.tokens(questions)
    scored = {one.key: scored_of(one, made[one.key], verdicts) for one in items}
    tables = list(tables_of(items, scored, config))
    head = [f"Judged by {config.judge.model}, scores of 0 to 10 with 95 % intervals (bootstrap over the photos)."]
    figures = write_results(folder, tables, list(scored.values()), head)
    return figures | {"tokens": float(tokens), **made.figures}


def tables_of(items: Sequence[GEditItem], scored: Mapping[str, Scored], config: Config) -> Iterator[Table]:
    """A table a language of all its edits, and one of those of the intersection where that is a part of them."""
    for language in config.languages:
        own = [one for one in items if one.language == language]
        common = [one for one in own if one.common]
        for name, part in ((LANGUAGES[language], own), (f"{LANGUAGES[language]}, intersection", common)):
            if part and (part is own or len(part) < len(own)):
                yield table_of(name, COLUMNS, [scored[one.key] for one in part], BEST, config.resamples)


def estimate(settings: Config, counts: Estimate) -> Estimate:
    """An edit and two questions of each."""
    if not can_be_counted(settings.test, settings.viescore):
        return counts
    items = drawn(read_items(settings)[1], settings)
    prompts = read_prompts(settings.viescore)
    text = sum(len(prompts[0]) + len(prompts[1]) + len(one.instruction) for one in items)
    return replace(counts, **work_of_asking(settings, len(items), 2 * len(items), text, settings.judge.model))


STAGE = Stage(Config, run, VERSION, check=check_source, estimate=estimate, rate=rate)
