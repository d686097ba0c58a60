"""The evaluate stage: does the model do what it is asked, on photos and wordings it has never seen?

Every figure is computed from pictures alone: the model comes in as a callable from photos and instructions to photos.
Distances are LPIPS (AlexNet) at 256 px to the procedural target at canonical strength. Frozen before the first long
training run; what changes here changes VERSION.
"""

from __future__ import annotations

import hashlib
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import fmean, median
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from tqdm import tqdm

from ip2pbatch.errors import NothingMatchedError
from ip2pbatch.measures import lpips
from ip2pbatch.measures.lpips import Lpips
from ip2pbatch.plan.written.yaml_source import Mistake
from ip2pbatch.train.data.crops import find_photos, held_out, load_rgb, split_photos
from ip2pbatch.train.estimates import Estimate
from ip2pbatch.train.judge.bootstrap import intervals, of_groups
from ip2pbatch.train.judge.scorecard import Evaluation, Figure, Outcome
from ip2pbatch.train.judge.trained import TrainedModel
from ip2pbatch.train.pairs.families import FAMILIES, target
from ip2pbatch.train.pairs.families.raster import luma, slopes, to_float
from ip2pbatch.train.pairs.families.separation import distances, embed
from ip2pbatch.train.pairs.families.wordings import Wordings, load
from ip2pbatch.train.stage import Stage, misfits

VERSION = 1

Rgb = NDArray[np.uint8]
# edit(photos, instructions, s_T, s_I, seeds): rgb uint8 pictures of one size to as many of the same size
Edit = Callable[[list[Rgb], list[str], list[float], list[float], list[int]], list[Rgb]]
Reconstruct = Callable[[list[Rgb]], list[Rgb]]

TEXT_SCALES = (1.0, 2.0, 4.0, 7.5)
IMAGE_SCALES = (1.0, 1.4, 1.8, 2.2)
FALLING_BACK = 0.05
# A family with nothing to do on a photo (no red in it, say) has a target this near the photo; it is not counted as
# "nearer to the target than the photo is", since nothing can be.
NOTHING_TO_DO = 0.02
ROUNDING = 1e-4  # of distances in float32: an untouched photo must not pass for a nearer one
# One family of each is drawn for a chain, in this order, as a person would: season, then tone, then medium.
CHAIN = (("light",), ("tone", "colour"), ("media", "material"))


class Config(BaseModel):
    """How much to measure. `photos` held-out photos are each edited by every family with either kind of wording."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    wordings: Path  # relative to the config that names it
    photos: int = Field(8, ge=1)
    guidance_photos: int = Field(12, ge=0)
    chain_photos: int = Field(12, ge=0)
    side: int = 256
    batch: int = Field(8, ge=1)
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    families: tuple[str, ...] = tuple(FAMILIES)


@dataclass(frozen=True, slots=True)
class Sample:
    """A held-out photo: its digest, which fixes every seed and choice made for it, and its pixels, [side, side, 3]."""

    digest: str
    photo: Rgb

    def draw(self, purpose: str) -> np.random.Generator:
        """Choices for one purpose, the same in every run."""
        return np.random.default_rng(list(hashlib.sha256(f"{self.digest} {purpose}".encode()).digest()[:16]))


@dataclass(frozen=True, slots=True)
class Request:
    """One edit to be made."""

    photo: Rgb
    instruction: str
    text: float
    image: float
    seed: int


@dataclass(frozen=True, slots=True)
class Judge:
    """What every measurement needs: the model with its default scales s_T and s_I, metric, wordings, settings."""

    edit: Edit
    text: float
    image: float
    metric: Lpips
    wordings: Wordings
    config: Config

    def ask(self, requests: Sequence[Request]) -> list[Rgb]:
        """The edits, in batches of pictures of one size."""
        done: list[Rgb] = []
        for i in range(0, len(requests), self.config.batch):
            part = requests[i : i + self.config.batch]
            columns = zip(*((r.photo, r.instruction, r.text, r.image, r.seed) for r in part), strict=True)
            done += self.edit(*(list(column) for column in columns))
        return done

    def request(self, sample: Sample, photo: Rgb, family: str, purpose: str, unseen: bool = False) -> Request:
        """The family's edit at the default scales, in a wording drawn for this photo and purpose."""
        rng = sample.draw(f"{purpose} {family} {unseen}")
        wordings = self.wordings.held_out(family) if unseen else self.wordings.trained(family)
        instruction = wordings[int(rng.integers(len(wordings)))]
        return Request(photo, instruction, self.text, self.image, int(rng.integers(2**31)))


def square(picture: Image.Image, side: int) -> Rgb:
    """The middle square of an upright RGB picture at `side` px, Lanczos."""
    edge = min(picture.size)
    left, top = (picture.width - edge) // 2, (picture.height - edge) // 2
    box = (left, top, left + edge, top + edge)
    return np.array(picture.convert("RGB").resize((side, side), Image.Resampling.LANCZOS, box=box))


def evaluate(judge: Judge, samples: Sequence[Sample], reconstruct: Reconstruct | None = None) -> Evaluation:
    """Every figure on the first photos of `samples`; the autoencoder's where `reconstruct` is given."""
    config = judge.config
    edited = tqdm(samples[: config.photos], "edits", unit="photo")
    outcomes = tuple(o for sample in edited for o in judge_photo(judge, sample))
    figures = edit_figures(outcomes)
    if config.guidance_photos:
        figures.append(guidance_figure(judge, samples[: config.guidance_photos]))
    if config.chain_photos:
        figures.append(chain_figure(judge, samples[: config.chain_photos]))
    if reconstruct is not None:
        figures.insert(0, autoencoder_figure(reconstruct, [s.photo for s in samples]))
    return Evaluation(tuple(figures), outcomes)


def judge_photo(judge: Judge, sample: Sample) -> list[Outcome]:
    """One photo edited by every family, twice: in a wording of the training and in one never trained on."""
    families = judge.config.families
    asked = [(family, unseen) for family in families for unseen in (False, True)]
    requests = [judge.request(sample, sample.photo, family, "edit", unseen) for family, unseen in asked]
    outputs = judge.ask(requests)
    targets = embed([target(FAMILIES[f], sample.photo) for f in families], judge.metric)
    away = distances(embed(outputs, judge.metric), targets).numpy()
    start = distances(embed([sample.photo], judge.metric), targets).numpy()[0]
    found = []
    for row, ((family, unseen), request, output) in enumerate(zip(asked, requests, outputs, strict=True)):
        own = families.index(family)
        found.append(
            Outcome(
                photo=sample.digest,
                family=family,
                instruction=request.instruction,
                held_out_wording=unseen,
                nearest=families[nearest(away[row], own)],
                distance=float(away[row, own]),
                source=float(start[own]),
                structure=edge_correlation(sample.photo, output),
            )
        )
    return found


def nearest(away: NDArray[np.float32], own: int) -> int:
    """The index of the smallest distance; a tie goes against `own`, so that top-1 is strict."""
    others = np.where(np.arange(len(away)) == own, np.inf, away)
    best = int(np.argmin(others))
    return own if away[own] < others[best] else best


def edge_correlation(photo: Rgb, other: Rgb) -> float:
    """Pearson correlation of the luma gradients' magnitudes at a scale of 1.5 px of 256; 0 where one is flat."""
    steep = [np.hypot(*slopes(luma(to_float(p)), 1.5)).ravel() for p in (photo, other)]
    if min(float(s.std()) for s in steep) < 1e-6:
        return 0.0
    return float(np.corrcoef(steep[0], steep[1])[0, 1])


def edit_figures(outcomes: Sequence[Outcome]) -> list[Figure]:
    """The five figures that follow from judged edits, with intervals over the photos, whose edits belong together."""
    figures = figures_of(outcomes)
    photos: dict[str, list[Outcome]] = defaultdict(list)
    for one in outcomes:
        photos[one.photo].append(one)
    if len(photos) < 2:
        return figures
    found = of_groups(list(photos.values()), lambda drawn: [figure.value for figure in figures_of(drawn)])
    return [replace(figure, low=one.low, high=one.high) for figure, one in zip(figures, found, strict=True)]


def over_photos(figure: Figure, values: Sequence[float]) -> Figure:
    """A figure that is a mean of one value a photo, with its interval."""
    if len(values) < 2:
        return figure
    (found,) = intervals(np.array(values, np.float64)[:, None])
    return replace(figure, low=found.low, high=found.high)


def figures_of(outcomes: Sequence[Outcome]) -> list[Figure]:
    """The same without intervals."""
    known, unseen = ([o for o in outcomes if o.held_out_wording is kind] for kind in (False, True))
    rates = {f: share([o for o in known if o.family == f]) for f in sorted({o.family for o in known})}
    worst = min(rates, key=lambda f: rates[f])
    countable = [o for o in outcomes if o.source >= NOTHING_TO_DO]
    kept = [o.structure for o in outcomes if FAMILIES[o.family].keeps_structure]
    idle = f"{len(outcomes) - len(countable)} pairs had nothing to do" if len(countable) < len(outcomes) else ""
    closer = fmean(o.distance < o.source - ROUNDING for o in countable) if countable else 0.0
    return [
        Figure("top-1 over all families", 100 * share(known), 85, "%", len(known)),
        Figure("top-1 of the worst family", 100 * rates[worst], 50, "%", len(rates), note=worst),
        Figure("top-1 with held-out wordings", 100 * share(unseen), 70, "%", len(unseen)),
        Figure("nearer to the target than the photo is", 100 * closer, 95, "%", len(countable), note=idle),
        Figure("structure kept", median(kept) if kept else 0.0, 0.8, "", len(kept)),
    ]


def share(outcomes: Sequence[Outcome]) -> float:
    """The part of the edits that are nearest to their own family."""
    return fmean(o.nearest == o.family for o in outcomes) if outcomes else 0.0


def guidance_figure(judge: Judge, samples: Sequence[Sample]) -> Figure:
    """Photos whose distance from the source rises with s_T and falls with s_I, one family a photo, one seed."""
    good = [follows_guidance(judge, sample) for sample in tqdm(samples, "guidance", unit="photo")]
    figure = Figure("guidance means something", 100 * fmean(good), 90, "%", len(good))
    return over_photos(figure, [100.0 * one for one in good])


def follows_guidance(judge: Judge, sample: Sample) -> bool:
    """Whether both series of distances from the unedited photo go the right way, for a family that changes it."""
    families = sample.draw("guidance").permutation(judge.config.families).tolist()
    source = embed([sample.photo], judge.metric)
    family = next((f for f in families if _changes(f, sample, source, judge.metric)), families[0])
    base = judge.request(sample, sample.photo, family, "guidance")
    by_text = [Request(base.photo, base.instruction, s, base.image, base.seed) for s in TEXT_SCALES]
    by_image = [Request(base.photo, base.instruction, base.text, s, base.seed) for s in IMAGE_SCALES]
    outputs = embed(judge.ask(by_text + by_image), judge.metric)
    away = distances(outputs, source).numpy()[:, 0].tolist()
    return rises(away[: len(TEXT_SCALES)]) and rises(away[: len(TEXT_SCALES) - 1 : -1])


def _changes(family: str, sample: Sample, source: Tensor, metric: Lpips) -> bool:
    goal = embed([target(FAMILIES[family], sample.photo)], metric)
    return float(distances(source, goal)) >= NOTHING_TO_DO


def rises(series: Sequence[float]) -> bool:
    """Up in the end, and no step falls back by more than 5 % of the range."""
    slack = FALLING_BACK * (max(series) - min(series))
    return series[-1] > series[0] and all(after >= before - slack for before, after in pairwise(series))


def chain_figure(judge: Judge, samples: Sequence[Sample]) -> Figure:
    """Three edits one after the other: is the last one still recognised, against the same chain made procedurally?"""
    good = [follows_chain(judge, sample) for sample in tqdm(samples, "chains", unit="photo")]
    figure = Figure("top-1 of the third edit in a chain", 100 * fmean(good), 70, "%", len(good))
    return over_photos(figure, [100.0 * one for one in good])


def follows_chain(judge: Judge, sample: Sample) -> bool:
    """One photo's chain: each family's edit of the procedural second step is a candidate for the third."""
    families = judge.config.families
    rng, photo, goal = sample.draw("chain"), sample.photo, sample.photo
    names = [str(rng.choice(fitting)) for groups in CHAIN if (fitting := in_groups(families, groups))]
    for step, name in enumerate(names):
        photo = judge.ask([judge.request(sample, photo, name, f"chain {step}")])[0]
        if step < len(names) - 1:
            goal = target(FAMILIES[name], goal)
    candidates = embed([target(FAMILIES[f], goal) for f in families], judge.metric)
    away = distances(embed([photo], judge.metric), candidates).numpy()[0]
    own = families.index(names[-1])
    return nearest(away, own) == own


def in_groups(families: Iterable[str], groups: Sequence[str]) -> list[str]:
    """The families of some groups."""
    return [f for f in families if FAMILIES[f].group in groups]


def autoencoder_figure(reconstruct: Reconstruct, photos: Sequence[Rgb]) -> Figure:
    """Mean PSNR over the photos."""
    values = [psnr(p, q) for p, q in zip(photos, reconstruct(list(photos)), strict=True)]
    return over_photos(Figure("autoencoder", fmean(values), 30, "dB", len(values)), values)


def psnr(a: Rgb, b: Rgb) -> float:
    """Peak signal to noise in dB; 99 for equal pictures."""
    error = float(np.square(a.astype(np.float64) - b).mean())
    return 99.0 if error == 0 else 10 * float(np.log10(255**2 / error))


def speed_figure(judge: Judge, photo: Rgb) -> Figure:
    """Seconds for one edit of one photo on this machine, the second of two so that loading is not counted."""
    begin = 0.0
    for seed in (0, 1):
        begin = time.perf_counter()
        judge.edit([photo], ["winter"], [judge.text], [judge.image], [seed])
    return Figure("seconds for one edit", time.perf_counter() - begin, 6, "s", 1, ceiling=True)


def size_figure(model: Path) -> Figure:
    """Megabytes (10^6 bytes) of a model's folder."""
    files = [f for f in model.rglob("*") if f.is_file()]
    return Figure("size on disk", sum(f.stat().st_size for f in files) / 1e6, 40, "MB", len(files), ceiling=True)


def remembered(edit: Edit, folder: Path) -> Edit:
    """The same model, whose edits are kept in `folder` as PNGs: an interrupted evaluation goes on where it stopped.

    The folder must belong to one model; a picture's name is a digest of photo, instruction, scales and seed.
    """
    folder.mkdir(parents=True, exist_ok=True)

    def kept(
        photos: list[Rgb], instructions: list[str], text: list[float], image: list[float], seeds: list[int]
    ) -> list[Rgb]:
        rows = list(zip(photos, instructions, text, image, seeds, strict=True))
        files = [folder / f"{_digest(row[0], row[1:])}.png" for row in rows]
        missing = [i for i, file in enumerate(files) if not file.exists()]
        if missing:
            columns = [[rows[i][c] for i in missing] for c in range(5)]
            for i, picture in zip(missing, edit(*columns), strict=True):  # type: ignore[arg-type]  # columns of rows
                partial = files[i].with_suffix(".partial")
                Image.fromarray(picture).save(partial, "PNG")
                partial.replace(files[i])
        return [np.array(Image.open(file).convert("RGB")) for file in files]

    return kept


def held_out_samples(photos: Path, side: int) -> list[Sample]:
    """The held-out photos of a folder as middle squares, by digest: an order that means nothing."""
    _, held = split_photos(find_photos(photos), held_out)
    if not held:
        raise NothingMatchedError(
            f"none of the photos in {photos} is held out", hint="about one in twelve is: give a larger folder"
        )
    return [
        Sample(p.digest, square(Image.fromarray(load_rgb(p.path)), side)) for p in sorted(held, key=lambda p: p.digest)
    ]


def run(config: Config, inputs: dict[str, Path], folder: Path, photos: Path) -> dict[str, float]:
    """Judge `inputs["finetune"]/model` and print the report; writes evaluation.json, report.md and every edit."""
    folder.mkdir(parents=True, exist_ok=True)
    samples = held_out_samples(photos, config.side)
    model = TrainedModel.load(inputs["finetune"] / "model", config.precision)
    edit = remembered(model.edit, folder / "edits" / model.digest)
    judge = Judge(edit, *model.scales, lpips.load(model.device), load(config.wordings), config)
    found = evaluate(judge, samples, model.reconstruct)
    timed = speed_figure(replace(judge, edit=model.edit), samples[0].photo)
    found = replace(found, figures=(*found.figures, timed, size_figure(model.folder)))
    (folder / "evaluation.json").write_text(found.to_json(), "utf-8")
    (folder / "report.md").write_text(found.to_markdown(), "utf-8")
    print(found.to_markdown())
    return found.metrics()


def _digest(photo: Rgb, rest: tuple[object, ...]) -> str:
    return hashlib.sha256(photo.tobytes() + repr((photo.shape, *rest)).encode()).hexdigest()[:32]


def judges(settings: Config) -> dict[str, Path]:
    """LPIPS's weights decide every figure, and no setting names them."""
    return {"lpips": lpips.weights_file()}


def check(settings: Config, inputs: Mapping[str, str]) -> Iterable[Mistake]:
    """What does not fit together in a config."""
    return misfits(inputs, ("finetune",), ("finetune",))


def estimate(settings: Config, counts: Estimate) -> Estimate:
    """Every family twice on each photo, in a wording of the training and in one of its own."""
    return replace(counts, makes=f"{2 * settings.photos * len(settings.families):,} edits")


STAGE = Stage(Config, run, VERSION, reads_photos=True, judges=judges, check=check, estimate=estimate)
