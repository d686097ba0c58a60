"""The captions stage, `maker: generate`: a file of captions → instructions and edited captions, by a language model.

    captions.jsonl     {"input", "edit", "output", "url"}, a line an edit that was accepted, permuted by the seed
    rows-1of4.jsonl    a line a caption that was asked about, with what came of it, by shard

A row's randomness is its own (the seed and its number in the file), and rows are left out as duplicates by the file
alone, so that it does not matter which shard asks, in which batch, or how often it was stopped.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from tqdm import tqdm

from ip2pbatch.disk.atomic import write_whole
from ip2pbatch.disk.journal import Damage, parse_row, read_rows
from ip2pbatch.errors import RecipeError, UsageError
from ip2pbatch.plan.shard import Shard
from ip2pbatch.plan.written.yaml_source import Mistake
from ip2pbatch.train.captions.caption_files import Row, choose
from ip2pbatch.train.captions.completion import RejectedError, parse, prompt_text
from ip2pbatch.train.captions.endpoint import Endpoint, EndpointSource
from ip2pbatch.train.captions.finetune import MODEL
from ip2pbatch.train.captions.language_model import Completion, LanguageModel, Sampling, Source
from ip2pbatch.train.data.released import CAPTIONS, INPUT_KEYS, Prompt, read_prompts
from ip2pbatch.train.estimates import ACCEPTED, CAPTION, COMPLETION, RELEASED_PROMPTS, TOKENS, Estimate, count_rows
from ip2pbatch.train.model_names import ModelName
from ip2pbatch.train.row_work import Books, RowWork, make_part
from ip2pbatch.train.stage import Stage, misfits, one_source

VERSION = 2  # 2: permuted by the seed, not in the file's order
WINDOW = 8  # batches that are sorted by length together, so that little is padded
LONGEST = 1000  # characters of a caption
Flagged = Callable[[Sequence[str]], Sequence[bool]]


class Config(BaseModel):
    """What decides the captions; `batch` does not."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    maker: Literal["generate"]
    captions: Path  # JSONL, CSV or parquet, or a folder of them
    model: ModelName | None = None  # a folder or hub id, where no fine-tuned model is an input
    endpoint: Endpoint | None = None  # instead of a model
    limit: int | None = Field(None, ge=1)  # ask about so many captions, drawn by the seed
    sampling: Sampling = Sampling()
    examples: Path | None = None  # triplets shown in front of every caption, for a model that was not taught
    shots: int = Field(6, ge=1)  # how many of them
    moderation: str | None = None  # `endpoint`, or package.module:function of texts to which of them are refused
    precision: Literal["fp32", "fp16", "bf16"] = "bf16"
    compat: Literal["fixed", "original"] = "fixed"  # original: the first key is `caption`, as their pairs script reads
    seed: int = 0
    batch: int = Field(64, ge=1, exclude=True)

    @model_validator(mode="after")
    def _fits(self) -> Config:
        if self.model and self.endpoint:
            raise ValueError("give a model or an endpoint, not both")
        if self.moderation == "endpoint" and not self.endpoint:
            raise ValueError("moderation: endpoint needs an endpoint")
        return self


def source_of(config: Config, inputs: Mapping[str, Path]) -> Source:
    """What completes the prompts. UsageError where the config names nothing."""
    if config.endpoint:
        return EndpointSource(config.endpoint, config.sampling)
    model = config.model or (str(inputs["captions"] / MODEL) if "captions" in inputs else None)
    if model is None:
        hint = "name a fine-tuning as the input `captions`, or set `model` or `endpoint`"
        raise UsageError("there is no language model to generate captions with", hint=hint)
    return LanguageModel.load(model, config.precision, config.sampling)


def moderation_of(config: Config, source: Source) -> Flagged | None:
    """The function that refuses texts. UsageError where it cannot be imported."""
    if config.moderation is None:
        return None
    if config.moderation == "endpoint":
        return source.flagged
    module, _, name = config.moderation.partition(":")
    try:
        refuse: Flagged = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        hint = "write it as package.module:function; it takes a list of texts and returns a list of booleans"
        raise UsageError(f"moderation {config.moderation} cannot be imported ({error})", hint=hint) from error
    return refuse


@dataclass
class Progress:
    """What came of the rows so far, beside the bar."""

    bar: Any
    accepted: int = 0
    rejected: int = 0
    tokens: int = 0
    began: float = field(default_factory=time.monotonic)

    @property
    def rate(self) -> float:
        """Tokens a second."""
        return self.tokens / max(1e-9, time.monotonic() - self.began)

    def add(self, rows: Sequence[Mapping[str, Any]], tokens: int) -> None:
        """Count a batch."""
        refused = sum("rejected" in row for row in rows)
        self.tokens, self.rejected = self.tokens + tokens, self.rejected + refused
        self.accepted += len(rows) - refused
        self.bar.update(len(rows))
        self.bar.set_postfix_str(f"{self.accepted} accepted, {self.rejected} rejected, {self.rate:.0f} tokens/s")


@dataclass(frozen=True)
class Writer:
    """Asks about captions and judges the answers."""

    source: Source
    flagged: Flagged | None
    examples: Sequence[Prompt]
    seed: int

    def write(self, rows: Sequence[Row]) -> tuple[list[dict[str, Any]], int]:
        """A line of the journal for each row, and the tokens that were said."""
        refused = {row.number: why for row, why in zip(rows, self.refused(rows), strict=True) if why}
        asked = [row for row in rows if row.number not in refused]
        prompts = [prompt_text(row.caption, self.examples) for row in asked]
        found = self.source.complete(prompts, [seed_of(self.seed, row) for row in asked]) if asked else []
        lines = [judged(row, one) for row, one in zip(asked, found, strict=True)]
        self.moderate(lines)
        lines += [{"row": number, "rejected": why} for number, why in refused.items()]
        return sorted(lines, key=lambda line: line["row"]), sum(one.tokens for one in found)

    def refused(self, rows: Sequence[Row]) -> list[str]:
        """Why a caption is not asked about, or ""."""
        flags = self.flagged([row.caption for row in rows]) if self.flagged else [False] * len(rows)
        long = ["too long" if len(row.caption) > LONGEST else "" for row in rows]
        return ["moderated" if flag else why for flag, why in zip(flags, long, strict=True)]

    def moderate(self, lines: Sequence[dict[str, Any]]) -> None:
        """Turn the lines whose instruction or edited caption is refused into rejected ones."""
        accepted = [line for line in lines if "rejected" not in line]
        if not self.flagged or not accepted:
            return
        flags = self.flagged([text for line in accepted for text in (line["edit"], line["output"])])
        for line, first, second in zip(accepted, flags[::2], flags[1::2], strict=True):
            if first or second:
                number = line["row"]
                line.clear()
                line.update(row=number, rejected="moderated")


def seed_of(seed: int, row: Row) -> int:
    """31 bits of a row's own."""
    return int.from_bytes(hashlib.sha256(f"{seed} {row.number}".encode()).digest()[:4], "big") >> 1


def judged(row: Row, completion: Completion) -> dict[str, Any]:
    """A completion as a line of the journal: an edit, or why it is none."""
    try:
        if not completion.finished:
            raise RejectedError("unfinished")
        edit, output = parse(row.caption, completion.text)
    except RejectedError as error:
        return {"row": row.number, "rejected": str(error), "completion": completion.text}
    return {"row": row.number, **Prompt(row.number, row.caption, edit, output, row.url).row()}


def batches(rows: Sequence[Row], size: int) -> Iterator[list[Row]]:
    """Rows of about one length together, from windows of the file's order."""
    for begin in range(0, len(rows), WINDOW * size):
        window = sorted(rows[begin : begin + WINDOW * size], key=lambda row: len(row.caption))
        for first in range(0, len(window), size):
            yield window[first : first + size]


def read_lines(folder: Path) -> dict[int, dict[str, Any]]:
    """What came of every row so far, by its number. RecipeError where a line in the middle of a file is broken."""
    found = {}
    for path in sorted(folder.glob("rows*.jsonl")):
        damage: list[Damage] = []
        found.update({line["row"]: line for line in read_rows(path, parse_row, damage)})
        if damage:
            hint = "the row is asked about again when the line is removed"
            raise RecipeError("this line cannot be read", file=path, line=damage[0].lines[0], column=1, hint=hint)
    return found


class CaptionRows(RowWork):
    """The captions that are asked about, by their place in the order of asking."""

    journal = "rows"

    def __init__(self, config: Config, inputs: Mapping[str, Path], folder: Path) -> None:
        super().__init__(folder)
        self.config, self.inputs = config, inputs
        self.most = WINDOW * config.batch
        self.gpu = False if config.endpoint else None
        self.rows, self.doubles = choose(config.captions, config.limit, config.seed)

    def names(self) -> Iterator[str]:
        return (f"{row.number} {row.caption}" for row in self.rows)

    def left(self) -> list[int]:
        known = read_lines(self.folder)
        return [index for index, row in enumerate(self.rows) if row.number not in known]

    def open(self) -> str:
        config = self.config
        examples = read_prompts(config.examples)[: config.shots] if config.examples else []
        source = source_of(config, self.inputs)
        self.writer = Writer(source, moderation_of(config, source), examples, config.seed)
        return ""

    def make(self, rows: Sequence[int], books: Books) -> float:
        """In tokens."""
        index = {self.rows[number].number: number for number in rows}
        with tqdm(total=len(rows), desc="captions", mininterval=5, disable=books.quiet) as bar:
            progress = Progress(bar)
            for batch in batches([self.rows[number] for number in rows], self.config.batch):
                lines, tokens = self.writer.write(batch)
                books.settle([index[line["row"]] for line in lines], lines)
                progress.add(lines, tokens)
        return progress.tokens

    def finish(self, rate: float) -> dict[str, float]:
        lines = read_lines(self.folder)
        accepted = [lines[row.number] for row in self.rows if "rejected" not in lines[row.number]]
        key = INPUT_KEYS[self.config.compat == "original"]
        write_whole(self.folder / CAPTIONS, "".join(line_of(line, key) for line in accepted).encode())
        reasons = Counter(line["rejected"].replace(" ", "_") for line in lines.values() if "rejected" in line)
        counts = {"rows": len(self.rows), "prompts": len(accepted), **reasons, **self.doubles}
        return {name: float(count) for name, count in counts.items()} | {"tokens/s": rate}


def run(
    config: Config, inputs: dict[str, Path], folder: Path, photos: Path | None, shard: Shard | None = None
) -> dict[str, float] | None:
    """Ask about the captions that no shard has asked about yet; metrics: rows, prompts that came of them, rejected rows
    by reason, tokens a second. None while parts are missing."""
    return make_part(CaptionRows(config, inputs, folder), shard)


def line_of(line: Mapping[str, Any], key: str) -> str:
    """A line of `captions.jsonl`, the input caption under `key`."""
    texts = {"edit": line["edit"], "output": line["output"]} | ({"url": line["url"]} if "url" in line else {})
    return json.dumps({key: line["input"]} | texts, ensure_ascii=False) + "\n"


def estimate(settings: Config, counts: Estimate) -> Estimate:
    """A completion for each caption that is asked about, of which most become a prompt."""
    there = count_rows(settings.captions)
    asked = min(there or RELEASED_PROMPTS / ACCEPTED, settings.limit or RELEASED_PROMPTS / ACCEPTED)
    prompts = asked * ACCEPTED
    return replace(
        counts, prompts=prompts, makes=f"{asked:,.0f} captions asked about, {prompts:,.0f} prompts",
        bytes=asked * CAPTION * 2, work=asked * COMPLETION, unit=TOKENS,
    )  # fmt: skip


def rate(settings: Config, metrics: Mapping[str, float]) -> tuple[str, float]:
    """Tokens a second of a model that runs here."""
    return TOKENS, metrics.get("tokens/s", 0.0) if settings.endpoint is None else 0.0


def check(settings: Config, inputs: Mapping[str, str]) -> Iterator[Mistake]:
    """What does not fit together in a config."""
    yield from misfits(inputs, ("captions",))
    if not settings.endpoint:
        yield from one_source("model", settings.model, inputs)


STAGE = Stage(Config, run, VERSION, rows=CaptionRows, estimate=estimate, rate=rate, check=check)
