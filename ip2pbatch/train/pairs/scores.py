"""The scores stage: CLIP similarities of every pair that lies in files, once; thresholds then cost no GPU.

    scores-1of4.jsonl   {"folder": "0000012", "samples": [{"seed": 7, "clip_sim_0": 0.25, …}, …]}, a line a prompt

It is for pairs that were not judged while they were made, such as a released set, or by another CLIP than they were. A
prompt has its line when all of its pairs are scored, whichever shard did it.
"""

from __future__ import annotations

import io
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field
from tqdm import tqdm

from ip2pbatch.disk.journal import read_journal
from ip2pbatch.errors import RecipeError, UsageError
from ip2pbatch.measures.clip import VIT_L_14, Clip, Similarities
from ip2pbatch.plan.shard import Shard
from ip2pbatch.plan.written.yaml_source import Mistake
from ip2pbatch.train.data.broken import BrokenSampleError, LeftOut, flaw
from ip2pbatch.train.data.pair_sets import counted
from ip2pbatch.train.data.released import PromptFolder, dataset_of, prompt_folders, read_prompt_folder
from ip2pbatch.train.estimates import LINE, Estimate
from ip2pbatch.train.model_names import ModelName
from ip2pbatch.train.row_work import Books, RowWork, make_part
from ip2pbatch.train.stage import Stage, misfits, one_source

VERSION = 1
FILE, AT_ONCE = "scores", 64  # prompts that a worker is dealt at once
Scores = dict[str, dict[int, Similarities]]


class Config(BaseModel):
    """What decides the similarities; `batch` and `readers` do not."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: ModelName = ModelName(VIT_L_14)
    precision: Literal["fp32", "fp16", "bf16"] = "fp32"
    source: Path | None = None  # a released folder instead of an input
    batch: int = Field(64, ge=1, exclude=True)  # pairs a call
    broken: float = Field(0.001, ge=0, le=1, exclude=True)  # part of the pairs that may be left out as damaged
    readers: int = Field(8, ge=1, exclude=True)  # threads that open pictures


@dataclass(frozen=True)
class Loaded:
    """A prompt's pairs in memory: `before` and `after` are uint8 `[n, 3, h, w]`."""

    folder: PromptFolder
    seeds: list[int]
    before: torch.Tensor
    after: torch.Tensor


def load(path: Path, left_out: LeftOut | None = None) -> Loaded:
    """A prompt's pictures, without broken pairs where `left_out` counts them. BrokenSampleError where one is broken,
    RecipeError where the prompt has no captions to compare with."""
    folder = read_prompt_folder(path)
    if not all(folder.prompt.captions):
        hint = "CLIP compares pictures with captions: this set can be packed without a filter"
        raise RecipeError("has no captions", file=path / "prompt.json", hint=hint)
    pictures = {}
    for seed in sorted(folder.pictured):
        try:
            pictures[seed] = [open_picture(folder.picture(seed, side)) for side in (0, 1)]
        except BrokenSampleError as error:
            if left_out is None:
                raise
            left_out.add(error)
    seeds, sides = list(pictures), [[pair[side] for pair in pictures.values()] for side in (0, 1)]
    empty = torch.empty(0, 3, 1, 1, dtype=torch.uint8)
    stacked = (torch.from_numpy(np.stack(one)).permute(0, 3, 1, 2) if one else empty for one in sides)
    return Loaded(folder, seeds, *stacked)


def open_picture(path: Path) -> np.ndarray:
    """uint8 `[h, w, 3]`. BrokenSampleError where the file is no whole picture."""
    hint = "delete its prompt's folder and make it again, or fetch it again"
    try:
        data = path.read_bytes()
        with Image.open(io.BytesIO(data)) as opened:
            pixels = np.asarray(opened.convert("RGB"))
        wrong = flaw(data)
    except (OSError, ValueError, SyntaxError) as error:
        raise BrokenSampleError(f"is no whole picture ({error})", file=path, hint=hint) from error
    if wrong:
        raise BrokenSampleError(wrong, file=path, hint=hint)
    return pixels


def score(clip: Clip, loaded: Sequence[Loaded]) -> Iterator[dict[str, Any]]:
    """The lines of some prompts, their pairs judged together; pictures of another size are judged apart."""
    for sizes in dict.fromkeys(one.before.shape[2:] for one in loaded):
        group = [one for one in loaded if one.before.shape[2:] == sizes]
        captions = [one.folder.prompt.captions for one in group for _ in one.seeds]
        before, after = torch.cat([one.before for one in group]), torch.cat([one.after for one in group])
        found = iter(clip.score(before, after, captions) if captions else [])
        for one in group:
            samples = [{"seed": seed} | asdict(next(found)) for seed in one.seeds]
            yield {"folder": one.folder.path.name, "samples": samples}


def read_scores(folder: Path) -> Scores:
    """What every shard has scored so far: folder's name → seed → similarities."""
    found: Scores = {}
    for path in sorted(folder.glob(f"{FILE}*.jsonl")):
        for row in read_journal(path):
            found[row["folder"]] = {
                one["seed"]: Similarities(**{key: value for key, value in one.items() if key != "seed"})
                for one in row["samples"]
            }
    return found


def in_groups(folders: Sequence[Path], pairs: int) -> Iterator[list[Path]]:
    """Prompts' folders, a few at a time: so many that they have about `pairs` pairs together."""
    group: list[Path] = []
    size = 0
    for folder in folders:
        count = sum(1 for _ in folder.glob("*_1.jpg"))
        if group and size + count > pairs:
            yield group
            group, size = [], 0
        group.append(folder)
        size += count
    if group:
        yield group


class ScoreRows(RowWork):
    """The prompts' folders, in the order of their names."""

    journal, most = FILE, AT_ONCE

    def __init__(self, config: Config, inputs: Mapping[str, Path], folder: Path) -> None:
        super().__init__(folder)
        source = config.source or inputs.get("pairs")
        if source is None:
            raise UsageError("scores has no pairs", hint="name an input `pairs`, or a released folder as `source`")
        self.config, self.folders = config, prompt_folders(dataset_of(source))
        self.left_out: LeftOut = LeftOut(folder, 4 * len(self.folders), config.broken)

    def names(self) -> Iterator[str]:
        return (path.name for path in self.folders)

    def left(self) -> list[int]:
        known = read_scores(self.folder)
        return [number for number, path in enumerate(self.folders) if path.name not in known]

    def open(self) -> str:
        self.clip = Clip.load(self.config.model, precision=self.config.precision)
        return ""

    def make(self, rows: Sequence[int], books: Books) -> float:
        """Read the next prompts while the last are judged. In pairs."""
        config, began, pairs = self.config, time.monotonic(), 0
        index = {self.folders[number].name: number for number in rows}
        bar = tqdm(total=len(rows), desc="scores", mininterval=5, disable=books.quiet)
        with ThreadPoolExecutor(config.readers) as pool, bar:
            ahead: list[list[Future[Loaded]]] = []
            for group in [*in_groups([self.folders[number] for number in rows], config.batch), None]:
                ahead.append([pool.submit(load, one, self.left_out) for one in group] if group else [])
                if len(ahead) > 1:
                    lines = list(score(self.clip, [one.result() for one in ahead.pop(0)]))
                    books.settle([index[line["folder"]] for line in lines], lines)
                    pairs += sum(len(line["samples"]) for line in lines)
                    bar.update(len(lines))
                    bar.set_postfix_str(f"{pairs / (time.monotonic() - began):.1f} pairs/s")
        return pairs

    def finish(self, rate: float) -> dict[str, float]:
        found = read_scores(self.folder)
        pairs, broken = sum(len(samples) for samples in found.values()), float(self.left_out.found)
        return {"prompts": float(len(found)), "pairs": float(pairs), "broken": broken, "pairs/s": rate}


def run(
    config: Config, inputs: dict[str, Path], folder: Path, photos: Path | None, shard: Shard | None = None
) -> dict[str, float] | None:
    """Score what no shard has scored yet; metrics: prompts, pairs, pairs a second. None while parts are missing."""
    return make_part(ScoreRows(config, inputs, folder), shard)


def check(settings: Config, inputs: Mapping[str, str]) -> Iterator[Mistake]:
    """What does not fit together in a config."""
    yield from misfits(inputs, ("pairs",))
    yield from one_source("source", settings.source, inputs)


def estimate(settings: Config, counts: Estimate) -> Estimate:
    """A line a pair."""
    counts = counted(settings.source, counts)
    return replace(counts, makes=f"{counts.pairs:,.0f} pairs judged", bytes=counts.pairs * LINE)


STAGE = Stage(Config, run, VERSION, rows=ScoreRows, check=check, estimate=estimate)
