"""The filter stage: which pairs of a prompt are kept, by CLIP similarities that are stored, so that it costs no GPU.

    kept.jsonl       {"folder": "0000012", "seed": 7, "clip_sim_dir": …}, a line a pair that is kept, in order
    dataset/         the kept pairs in the released layout; their pictures are links, so they take no space
    report.png       histograms of the similarities with the thresholds, and examples of what is kept and dropped
    judged-1of4.jsonl  a line a prompt that is done, by shard

The similarities are those that the pairs stage wrote while it made the pairs, or those of a `scores` stage.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from tqdm import tqdm

from ip2pbatch.disk.atomic import disk_error, write_whole
from ip2pbatch.disk.journal import read_journal
from ip2pbatch.errors import RecipeError, UsageError
from ip2pbatch.measures.clip import Clip, Similarities
from ip2pbatch.plan.shard import Shard
from ip2pbatch.plan.written.yaml_source import Mistake
from ip2pbatch.train.data.crops import to_pixels
from ip2pbatch.train.data.released import (
    AFTER,
    BEFORE,
    DATASET,
    METADATA,
    PROMPT,
    SCORES,
    Prompt,
    PromptFolder,
    Sample,
    dataset_of,
    jpeg,
    prompt_folders,
    prompt_of,
    read_prompt_folder,
    write_seeds,
)
from ip2pbatch.train.estimates import Estimate, kept_of
from ip2pbatch.train.pairs.filter_report import Judged, draw_report
from ip2pbatch.train.pairs.scores import Scores, read_scores
from ip2pbatch.train.row_work import Books, RowWork, make_part
from ip2pbatch.train.stage import Stage, misfits, one_source

VERSION = 1
DROPPED, EXAMPLES = "dropped", 4  # of the pairs stage's folder; as many of each threshold
AT_ONCE = 64  # prompts a line on the disk is waited for
MOST_IN_REPORT = 20_000  # prompts, spread evenly: reading all of half a million again takes minutes
log = logging.getLogger(__name__)


class Thresholds(BaseModel):
    """The least similarity of what is kept; the defaults are the released code's (the paper says 0.75 for `image`)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    caption: float = 0.2  # each picture with its own caption
    direction: float = 0.2  # the pictures' change with the captions'
    image: float = 0.7  # before with after
    keep: int = Field(4, ge=1)  # of a prompt's samples, those of the best direction

    def failed(self, found: Similarities) -> str:
        """The first of the similarities that is too small, by its released name; "" where the pair passes."""
        least = {
            "clip_sim_0": self.caption,
            "clip_sim_1": self.caption,
            "clip_sim_dir": self.direction,
            "clip_sim_image": self.image,
        }
        return next((name for name, value in least.items() if not getattr(found, name) >= value), "")


class Config(BaseModel):
    """What decides which pairs are kept."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    thresholds: Thresholds = Thresholds()
    choose: Literal["best", "random"] = "best"  # random: no threshold counts, only `keep`
    seed: int = 0  # of the random choice
    source: Path | None = None  # a released folder instead of an input


def select(samples: Sequence[Sample], thresholds: Thresholds) -> list[int]:
    """The seeds that are kept, best direction first; of equal ones the larger seed, as the released code sorts."""
    judged = [(one.similarities.clip_sim_dir, one.seed, one.similarities) for one in samples if one.similarities]
    passed = sorted(((d, seed) for d, seed, found in judged if not thresholds.failed(found)), reverse=True)
    return [seed for _, seed in passed[: thresholds.keep]]


def select_at_random(samples: Sequence[Sample], name: str, config: Config) -> list[int]:
    """`keep` seeds of a prompt, as the released random-sample set has them; its own, whatever else is judged."""

    def place(seed: int) -> bytes:
        return hashlib.sha256(f"{config.seed} {name} {seed}".encode()).digest()

    return sorted((one.seed for one in samples), key=place)[: config.thresholds.keep]


class PairFilter:
    """Beside the pairs stage: judges pairs while they are on the GPU, so that the rejected are never written.

    But for the first few that each threshold drops, which go to the folder `dropped` for the filter's report.
    """

    def __init__(self, clip: Clip, thresholds: Thresholds, dropped: Path | None = None) -> None:
        self.clip, self.thresholds, self.dropped = clip, thresholds, dropped
        self._room: Counter[str] = Counter()
        if dropped is not None:
            names = (path.name.partition("-")[0] for path in dropped.glob("*.json"))
            self._room = Counter(dict.fromkeys(SCORES, EXAMPLES)) - Counter(names)

    def score(self, before: torch.Tensor, after: torch.Tensor, prompts: Sequence[Prompt]) -> list[Similarities]:
        """n pairs `[n, 3, h, w]` in 0…1, each with its prompt."""
        found = self.clip.score(before, after, [prompt.captions for prompt in prompts])
        for number, (one, prompt) in enumerate(zip(found, prompts, strict=True)):
            why = self.thresholds.failed(one)
            if self.dropped is not None and self._room[why] > 0:
                self._room[why] -= 1
                self._show(self.dropped, prompt, one, why, torch.stack([before[number], after[number]]))
        return found

    def _show(self, folder: Path, prompt: Prompt, found: Similarities, why: str, pictures: torch.Tensor) -> None:
        pixels = to_pixels(pictures * 2 - 1)
        digest = hashlib.sha256(pixels.tobytes()).hexdigest()[:8]
        path = folder / f"{why}-{prompt.folder}-{digest}"
        for side, one in zip((BEFORE, AFTER), pixels, strict=True):
            write_whole(path.with_name(path.name + side), jpeg(one))
        row = {"number": prompt.number} | prompt.row() | asdict(found)
        write_whole(path.with_name(path.name + ".json"), json.dumps(row).encode())

    def keep(self, samples: Sequence[Sample]) -> list[int]:
        """Seeds of one prompt's judged samples whose pictures are to be written. Calling it after every batch with all
        samples so far bounds the pictures in memory: what it leaves out never comes back."""
        return select(samples, self.thresholds)


@dataclass(frozen=True)
class Choice:
    """What is kept of one prompt: its folder with all similarities, the seeds in order, and how many of them passed
    but have no picture because they were dropped while they were made."""

    folder: PromptFolder
    kept: tuple[int, ...]
    lost: int


def judge(path: Path, scores: Scores, config: Config) -> Choice:
    """One prompt. RecipeError where a pair has no similarities and they are needed."""
    folder = read_prompt_folder(path)
    known = scores.get(path.name, {})
    samples = tuple(replace(one, similarities=known.get(one.seed, one.similarities)) for one in folder.samples)
    folder = replace(folder, samples=samples)
    if config.choose == "random":
        pictured = [one for one in samples if one.seed in folder.pictured]
        return Choice(folder, tuple(select_at_random(pictured, path.name, config)), 0)
    # What has neither similarities nor a picture came out broken, and is neither kept nor missed.
    unjudged = (one.seed for one in samples if one.similarities is None and one.seed in folder.pictured)
    unknown = None if path.name in scores else next(unjudged, None)  # a scores stage has left out what is broken
    if unknown is not None:
        hint = "name a config with `stage: scores` as the input `scores`: it judges pairs that were not judged"
        raise RecipeError(f"sample {unknown} has no similarities", file=path / METADATA, hint=hint)
    passed = select(samples, config.thresholds)
    kept = tuple(seed for seed in passed if seed in folder.pictured)
    return Choice(folder, kept, len(passed) - len(kept))


def link(choice: Choice, dataset: Path) -> None:
    """The kept pairs as a folder of the released layout, whole or not there. ResourceError where the disk is full."""
    name = choice.folder.path.name
    final, partial = dataset / name, dataset / f".{name}"
    if final.is_dir() or not choice.kept:
        return
    shutil.rmtree(partial, ignore_errors=True)
    by_seed = {one.seed: one for one in choice.folder.samples}
    try:
        partial.mkdir(parents=True)
        for file in (choice.folder.picture(seed, side) for seed in choice.kept for side in (0, 1)):
            link_or_copy(file, partial / file.name)
    except OSError as error:
        raise disk_error(error, partial) from error
    lines = "".join(json.dumps(by_seed[seed].row()) + "\n" for seed in choice.kept)
    write_whole(partial / METADATA, lines.encode())
    write_whole(partial / PROMPT, (choice.folder.path / PROMPT).read_bytes())
    partial.rename(final)


def link_or_copy(source: Path, target: Path) -> None:
    """A hard link where the file system has them and both are on it, else a copy."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def read_judged(folder: Path) -> dict[str, dict[str, Any]]:
    """The lines of every shard so far, by the prompt's folder."""
    found = {}
    for path in sorted(folder.glob("judged*.jsonl")):
        found.update({row["folder"]: row for row in read_journal(path)})
    return found


class FilterRows(RowWork):
    """The prompts' folders, in the order of their names."""

    journal, most, gpu = "judged", AT_ONCE, False

    def __init__(self, config: Config, inputs: Mapping[str, Path], folder: Path) -> None:
        super().__init__(folder)
        source = config.source or inputs.get("pairs")
        if source is None:
            raise UsageError("filter has no pairs", hint="name an input `pairs`, or a released folder as `source`")
        self.config, self.dataset = config, dataset_of(source)
        self.folders = prompt_folders(self.dataset)
        self.scores = read_scores(inputs["scores"]) if "scores" in inputs else {}

    def names(self) -> Iterator[str]:
        return (path.name for path in self.folders)

    def left(self) -> list[int]:
        known = read_judged(self.folder)
        return [number for number, path in enumerate(self.folders) if path.name not in known]

    def make(self, rows: Sequence[int], books: Books) -> float:
        """In prompts."""
        with tqdm(total=len(rows), desc="filter", mininterval=5, disable=books.quiet) as bar:
            for begin in range(0, len(rows), AT_ONCE):
                part = rows[begin : begin + AT_ONCE]
                choices = [judge(self.folders[number], self.scores, self.config) for number in part]
                books.wait()
                for choice in choices:
                    link(choice, self.folder / DATASET)
                books.settle(part, [*map(line_of, choices)])
                bar.update(len(part))
        return len(rows)

    def finish(self, rate: float) -> dict[str, float]:
        judged = read_judged(self.folder)
        finish(self.folder, judged)
        few = self.folders[:: max(1, -(-len(self.folders) // MOST_IN_REPORT))]
        shown = list(dropped_while_made(self.dataset.parent / DROPPED))
        seen = examined(few, self.scores, self.config)
        draw_report(self.folder / "report.png", seen, self.config.thresholds.model_dump(), shown)
        return totals(judged)


def run(
    config: Config, inputs: dict[str, Path], folder: Path, photos: Path | None, shard: Shard | None = None
) -> dict[str, float] | None:
    """Judge what no shard has judged yet; metrics: prompts, pairs, and which parts of them are kept. None while parts
    are missing."""
    return make_part(FilterRows(config, inputs, folder), shard)


def line_of(choice: Choice) -> dict[str, Any]:
    """A prompt's line of `judged.jsonl`."""
    by_seed = {one.seed: one for one in choice.folder.samples}
    kept = [by_seed[seed].row() for seed in choice.kept]
    return {"folder": choice.folder.path.name, "pairs": len(by_seed), "lost": choice.lost, "kept": kept}


def finish(folder: Path, judged: dict[str, dict[str, Any]]) -> None:
    """`kept.jsonl` and `seeds.json`, from every shard's lines."""
    rows = [{"folder": name, **pair} for name in sorted(judged) for pair in judged[name]["kept"]]
    write_whole(folder / "kept.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())
    write_seeds(folder / DATASET, {name: [pair["seed"] for pair in judged[name]["kept"]] for name in judged})
    lost = sum(row["lost"] for row in judged.values())
    if lost:
        log.warning(
            "%d pairs pass these thresholds and have no picture: they were dropped while they were made. "
            "To have them, run the pairs stage with these thresholds.",
            lost,
        )


def examined(folders: Sequence[Path], scores: Scores, config: Config) -> Iterator[Judged]:
    """Every judged pair of some prompts, for the report."""
    for path in folders:
        choice = judge(path, scores, config)
        for one in choice.folder.samples:
            if one.similarities:
                kept = one.seed in choice.kept
                why = "" if kept or config.choose == "random" else config.thresholds.failed(one.similarities)
                pictures = choice.folder.picture(one.seed, 0), choice.folder.picture(one.seed, 1)
                shown = pictures if one.seed in choice.folder.pictured else None
                yield Judged(choice.folder.prompt, asdict(one.similarities), kept, why or "surplus", shown)


def dropped_while_made(folder: Path) -> Iterator[Judged]:
    """The examples that the pairs stage left for the report."""
    for note in sorted(folder.glob("*.json")):
        row = json.loads(note.read_bytes())
        pictures = note.with_name(note.stem + BEFORE), note.with_name(note.stem + AFTER)
        found = {name: row[name] for name in SCORES}
        yield Judged(prompt_of(row, row["number"], note, 1), found, False, note.name.partition("-")[0], pictures)


def totals(judged: dict[str, dict[str, Any]]) -> dict[str, float]:
    """How much is left (`prompts`, `pairs`) of how much there was."""
    pairs = sum(row["pairs"] for row in judged.values())
    kept = sum(len(row["kept"]) for row in judged.values())
    prompts = sum(bool(row["kept"]) for row in judged.values())
    lost = sum(row["lost"] for row in judged.values())
    return {
        "prompts": float(prompts), "pairs": float(kept), "prompts_judged": float(len(judged)),
        "pairs_judged": float(pairs), "kept": kept / max(1, pairs), "without_picture": float(lost),
    }  # fmt: skip


def estimate(settings: Config, counts: Estimate) -> Estimate:
    """Hard links to what is kept: no bytes of their own."""
    keep = settings.thresholds.keep
    kept = min(counts.pairs, counts.prompts * (keep if settings.choose == "random" else kept_of(100, keep)))
    return replace(counts, pairs=kept, makes=f"{kept:,.0f} pairs kept")


def check(settings: Config, inputs: Mapping[str, str]) -> Iterator[Mistake]:
    """What does not fit together in a config."""
    yield from misfits(inputs, ("pairs", "scores"))
    yield from one_source("source", settings.source, [name for name in inputs if name == "pairs"])


STAGE = Stage(Config, run, VERSION, rows=FilterRows, estimate=estimate, check=check)
