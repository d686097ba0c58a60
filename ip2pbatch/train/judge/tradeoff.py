"""The evaluate stage, `maker: tradeoff`: how much an edit follows its caption against how much of the photo it keeps.

For every curve and every value of its knob, the same test pairs are edited from the same noise. A point is the mean
over them of CLIP's direction similarity (does the change of the picture go the way of the change of the captions?) and
image similarity (is the photo still there?), as in arXiv 2211.09800, figures 8 and 10.

    samples.jsonl   key, instruction and captions of every sample, for methods that run elsewhere
    scores.jsonl    a line a picture: curve, value, key, the four similarities or why there is none; what resumes
    pictures/       the edits, where `keep_pictures` asks for them
    tradeoff.json, tradeoff.csv, tradeoff.md, tradeoff.png, tradeoff.pdf
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from tqdm import tqdm

from ip2pbatch.disk.atomic import write_whole
from ip2pbatch.disk.journal import Journal, read_journal
from ip2pbatch.engine.editor import to_uint8
from ip2pbatch.errors import NothingMatchedError, RecipeError
from ip2pbatch.measures.clip import VIT_L_14, Clip, Similarities, similarities
from ip2pbatch.plan.written.yaml_source import Mistake
from ip2pbatch.train.data.augment import centre
from ip2pbatch.train.data.broken import BrokenSampleError, LeftOut
from ip2pbatch.train.data.columns import ColumnsOrPreset, columns_of_data
from ip2pbatch.train.data.pair_sets import PairSet, Split, open_pairs
from ip2pbatch.train.estimates import EDIT_STEPS, Estimate, work_of
from ip2pbatch.train.judge.bootstrap import intervals
from ip2pbatch.train.judge.methods import Curve, Method, Sample, Setting, make_method
from ip2pbatch.train.judge.tradeoff_plot import CurvePoints, Point, draw, to_csv, to_markdown
from ip2pbatch.train.model_names import DataSource, ModelName
from ip2pbatch.train.stage import Stage, one_source, unread

VERSION = 1


class Config(BaseModel):
    """What is measured. The defaults are the paper's."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    maker: Literal["tradeoff"]
    data: DataSource | None = None  # pairs made elsewhere; else those of the input `data`
    columns: ColumnsOrPreset | None = Field(None, exclude_if=lambda value: value is None)  # how `data` is read
    split: Split = "test"
    samples: int = Field(5000, ge=1)
    side: int = Field(512, ge=8)
    steps: int = Field(100, ge=1)
    sampler: str = "euler_a"
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    batch: int = Field(4, ge=1, exclude=True)
    clip: ModelName = ModelName(VIT_L_14)
    # Which pair of a prompt is judged; random, by the seed: as the original does.
    pair: Literal["first", "random"] = Field("first", exclude_if=lambda value: value == "first")
    curves: tuple[Curve, ...] = Field(min_length=1)
    results: Path | None = None  # where the folders of `method: folder` are
    compat: Literal["fixed", "original"] = "fixed"
    seed: int = 0
    resamples: int = Field(1000, ge=1)
    broken: float = Field(0.001, ge=0, le=1, exclude=True)  # part of the samples that may be left out as damaged
    keep_pictures: bool = Field(False, exclude=True)


@dataclass(frozen=True)
class Score:
    """One picture's similarities; None and a reason where there is no picture."""

    curve: str
    value: float
    key: str
    similarities: Similarities | None
    reason: str = ""

    def row(self) -> dict[str, Any]:
        """Its line of scores.jsonl."""
        scores = asdict(self.similarities) if self.similarities else {"reason": self.reason}
        return {"curve": self.curve, "value": self.value, "key": self.key, **scores}

    @classmethod
    def of(cls, row: dict[str, Any]) -> Score:
        """The line again."""
        names = ("clip_sim_0", "clip_sim_1", "clip_sim_dir", "clip_sim_image")
        found = Similarities(*(row[name] for name in names)) if names[0] in row else None
        return cls(row["curve"], row["value"], row["key"], found, row.get("reason", ""))


@dataclass(frozen=True)
class Chosen:
    """The pairs that are judged by key: `samples` of the split in seeded order, one a prompt; pictures stay on disk."""

    pairs: PairSet
    config: Config
    prompts: dict[str, int]
    numbers: dict[str, int]  # of the pairs

    @classmethod
    def of(cls, pairs: PairSet, config: Config) -> Chosen:
        """NothingMatchedError where the split is empty."""
        numbers = np.random.default_rng(config.seed).permutation(len(pairs))[: config.samples].tolist()
        if not numbers:
            raise NothingMatchedError(f"the split {config.split} has no pair", hint="use a larger set, or `split: all`")
        chosen = {number: cls.pair_of(pairs, number, config) for number in numbers}
        keys = {number: pairs.store.key(pair) for number, pair in chosen.items()}
        return cls(pairs, config, {keys[one]: one for one in numbers}, {keys[one]: chosen[one] for one in numbers})

    @staticmethod
    def pair_of(pairs: PairSet, prompt: int, config: Config) -> int:
        """The pair of a prompt that is judged, the same for every curve and model."""
        choices = pairs.pairs(prompt)
        drawn = np.random.default_rng([config.seed, prompt]).integers(len(choices)) if config.pair == "random" else 0
        return int(choices[int(drawn)])

    def captions(self, key: str) -> tuple[str, str]:
        """Before and after. RecipeError where the set has none."""
        found = self.pairs.captions(self.prompts[key])
        if found is None:
            place = self.pairs.store.place(self.pairs.pairs(self.prompts[key])[0])
            raise RecipeError("has no captions to judge by", file=place, hint="evaluate on pairs that have them")
        return found

    def sample(self, key: str) -> Sample:
        """With its photo, as the middle square."""
        number, pairs = self.prompts[key], self.pairs
        photo = centre(pairs.pictures(self.numbers[key])[0], self.config.side)
        return Sample(key, photo, pairs.instruction(number), self.captions(key), self.config.seed + number)

    def line(self, key: str) -> bytes:
        """A line of samples.jsonl."""
        captions = self.captions(key)
        row = {"key": key, "edit": self.pairs.instruction(self.prompts[key]), "input": captions[0]}
        return (json.dumps(row | {"output": captions[1]}, ensure_ascii=False) + "\n").encode()


def seen(picture: Tensor, compat: str) -> Tensor:
    """A decoded picture as CLIP gets it: its bytes in 0…1. The published script hands on −1…1, not clamped."""
    if compat == "original":
        return picture
    return ((picture.clamp(-1, 1) + 1) * 127.5).round() / 255


class Scorer:
    """CLIP on a sample and its edits; what a sample's photo and captions give is kept for its next value."""

    def __init__(self, clip: Clip, compat: str) -> None:
        self.clip, self.compat = clip, compat
        self._known: dict[str, tuple[Tensor, Tensor]] = {}

    def score(self, samples: Sequence[Sample], pictures: Sequence[Tensor]) -> list[Similarities]:
        """Each sample's edited picture `[3, h, w]`, −1…1."""
        known = [self._of(sample) for sample in samples]
        before, text = torch.cat([one[0] for one in known]), torch.stack([one[1] for one in known])
        after = self.clip.images(torch.stack([seen(picture, self.compat) for picture in pictures]))
        return similarities(before, after, text[:, 0], text[:, 1])

    def _of(self, sample: Sample) -> tuple[Tensor, Tensor]:
        if sample.key not in self._known:
            photo = torch.from_numpy(np.array(sample.photo)).permute(2, 0, 1).float() / 127.5 - 1
            self._known[sample.key] = (
                self.clip.images(seen(photo, self.compat)[None]),
                self.clip.texts(sample.captions),
            )
        return self._known[sample.key]


@dataclass(frozen=True)
class Evaluation:
    """One evaluation under way: where it writes, what is there already, and what judges."""

    config: Config
    folder: Path
    scorer: Scorer
    journal: Journal
    done: dict[tuple[str, float, str], Score]
    left_out: LeftOut

    def missing(self, curve: Curve, value: float, chosen: Chosen) -> list[str]:
        """The keys of one point that have not been looked at."""
        return [key for key in chosen.prompts if (curve.name, value, key) not in self.done]

    def drawn(self) -> int:
        """How many edits a model has made so far."""
        models = {curve.name for curve in self.config.curves if curve.method != "folder"}
        return sum(curve in models for curve, _, _ in self.done)

    def measure(self, curve: Curve, method: Method, value: float, chosen: Chosen) -> None:
        """Score what is missing of one point, a batch at a time; every batch is on the disk before the next."""
        missing, size = self.missing(curve, value, chosen), self.config.batch
        for begin in tqdm(range(0, len(missing), size), desc=f"{curve.name} {value:g}", mininterval=5):
            part, broken = self.whole(missing[begin : begin + size], chosen)
            pictures = method.edit(part, value) if part else []
            made = [(sample, picture) for sample, picture in zip(part, pictures, strict=True) if picture is not None]
            found = self.scorer.score(*zip(*made, strict=True)) if made else []
            good = {sample.key: score for (sample, _), score in zip(made, found, strict=True)}
            scores = [Score(curve.name, value, one.key, good.get(one.key), "" if one.key in good else "no picture")
                      for one in part]  # fmt: skip
            scores += [Score(curve.name, value, key, None, reason) for key, reason in broken.items()]
            if self.config.keep_pictures:
                for sample, picture in made:
                    self.keep(curve.name, value, sample.key, picture)
            self.journal.append(*(score.row() for score in scores))
            self.done.update({(score.curve, score.value, score.key): score for score in scores})

    def whole(self, keys: Sequence[str], chosen: Chosen) -> tuple[list[Sample], dict[str, str]]:
        """The samples whose photo is whole, and why the others are left out. RecipeError where those are too many."""
        found, broken = [], {}
        for key in keys:
            try:
                found.append(chosen.sample(key))
            except BrokenSampleError as error:
                self.left_out.add(error)
                broken[key] = str(error)
        return found, broken

    def keep(self, curve: str, value: float, key: str, picture: Tensor) -> None:
        """One edit as a PNG to look at."""
        path = self.folder / "pictures" / curve / f"{value:g}" / f"{key}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(to_uint8(picture[None])).save(path)


def points_of(curve: Curve, done: dict[tuple[str, float, str], Score], config: Config) -> CurvePoints:
    """A curve's points over the samples that have a picture at every value, so that like is compared with like."""
    values = curve.values or (0.0,)
    keys = [key for name, value, key in done if name == curve.name and value == values[0]]
    scores = {key: [done[curve.name, value, key].similarities for value in values] for key in keys}
    whole = {key: [one for one in found if one] for key, found in scores.items() if all(found)}
    points = []
    for place, value in enumerate(values if whole else ()):
        rows = [(found[place].clip_sim_dir, found[place].clip_sim_image) for found in whole.values()]
        direction, image = intervals(np.array(rows, dtype=np.float64), config.resamples, seed=config.seed)
        points.append(Point(value if curve.values else None, len(rows), direction, image))
    return CurvePoints(curve.name, curve.method, tuple(points), len(scores) - len(whole))


def run(config: Config, inputs: dict[str, Path], folder: Path, photos: Path | None) -> dict[str, float]:
    """Measure every curve, then write the table and the plot; metrics: samples, failed pictures, each curve's best."""
    source = config.data or inputs.get("data")
    if source is None:
        raise RecipeError("has no pairs", file="evaluate", key="data", hint="give `data: FOLDER`, or an input `data`")
    folder.mkdir(parents=True, exist_ok=True)
    chosen = Chosen.of(open_pairs(source, config.columns).part(config.split), config)
    write_whole(folder / "samples.jsonl", b"".join(chosen.line(key) for key in chosen.prompts))
    setting = Setting(config.steps, config.sampler, config.precision, raw=config.compat == "original")
    scores = [Score.of(row) for row in read_journal(folder / "scores.jsonl")]
    journal = Journal(folder / "scores.jsonl")
    done = {(one.curve, one.value, one.key): one for one in scores}
    left_out = LeftOut(folder, len(chosen.prompts), config.broken)
    evaluation = Evaluation(config, folder, Scorer(Clip.load(config.clip), config.compat), journal, done, left_out)
    before, began = evaluation.drawn(), time.monotonic()
    for curve in config.curves:
        values = [value for value in curve.values or (0.0,) if evaluation.missing(curve, value, chosen)]
        if values:
            method = make_method(curve, inputs, config.results, setting)
        for value in values:
            evaluation.measure(curve, method, value, chosen)
    rate = (evaluation.drawn() - before) / (time.monotonic() - began)
    curves = [points_of(curve, evaluation.done, config) for curve in config.curves]
    write_results(curves, config, folder)
    return metrics_of(curves, len(chosen.prompts)) | {"edits/s": rate}


def write_results(curves: Sequence[CurvePoints], config: Config, folder: Path) -> None:
    """The points as JSON, CSV and Markdown, and the plot. NothingMatchedError where no curve has a point."""
    if not any(curve.points for curve in curves):
        raise NothingMatchedError("no sample has a picture at every value", hint="look into scores.jsonl for reasons")
    settings = config.model_dump(mode="json", exclude={"data", "results"})
    facts = {"settings": settings, "curves": [asdict(curve) for curve in curves]}
    write_whole(folder / "tradeoff.json", (json.dumps(facts, indent=1) + "\n").encode())
    write_whole(folder / "tradeoff.csv", to_csv(curves).encode())
    write_whole(folder / "tradeoff.md", to_markdown(curves).encode())
    for kind in ("png", "pdf"):
        draw(curves, folder / f"tradeoff.{kind}")


def metrics_of(curves: Sequence[CurvePoints], samples: int) -> dict[str, float]:
    """How much was measured, and the largest direction similarity of each curve with the image similarity there."""
    found = {"samples": float(samples), "left_out": float(sum(curve.left_out for curve in curves))}
    for curve in (curve for curve in curves if curve.points):
        best = max(curve.points, key=lambda point: point.direction.mean)
        found |= {f"{curve.name}: direction": best.direction.mean, f"{curve.name}: image": best.image.mean}
    return found


def estimate(settings: Config, counts: Estimate) -> Estimate:
    """The trade-off curve: every test pair at every point of every curve that a model draws."""
    points = sum(len(curve.values) for curve in settings.curves if curve.method != "folder")
    edits = points * settings.samples
    return replace(
        counts, makes=f"{edits:,} edits", work=edits * work_of(settings.steps, settings.side), unit=EDIT_STEPS
    )


def rate(settings: Config, metrics: Mapping[str, float]) -> tuple[str, float]:
    """Steps of edits at 512 pixels a second."""
    return EDIT_STEPS, metrics.get("edits/s", 0.0) * work_of(settings.steps, settings.side)


def check(settings: Config, inputs: Mapping[str, str]) -> Iterator[Mistake]:
    """What does not fit together in a config."""
    yield from one_source("data", settings.data, [name for name in inputs if name == "data"])
    yield from columns_of_data("data", settings.data, settings.columns)
    models = [curve.model for curve in settings.curves if curve.method != "folder"]
    yield from unread(inputs, ["data", *models], "as the `model` of a curve")
    if settings.results is None and any(curve.method == "folder" for curve in settings.curves):
        yield Mistake("is missing, and a curve reads a folder below it", hint="results: FOLDER", at=("results",))


STAGE = Stage(Config, run, VERSION, estimate=estimate, rate=rate, check=check)
