"""The pairs stage, `maker: procedural`: every family's edit of a crop of every training photo, as files to look at.

    pairs/<first 16 of the digest>-<variant>/source.jpg, <family>.jpg …, pair.json

The crop and mirror come first and the edit after, because reliefs are lit from one side and frames belong to the frame.
A folder is written under another name and renamed when whole: what is there is finished, a second run adds the rest.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict
from tqdm import tqdm

from ip2pbatch.train.data.crops import TrainingPhoto, load_rgb, training_photos
from ip2pbatch.train.estimates import Estimate
from ip2pbatch.train.pairs.families import FAMILIES, target
from ip2pbatch.train.stage import Stage

VERSION = 1


class Config(BaseModel):
    """What decides the pairs. `window` is the crop's width as a part of the photo's short side."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    maker: Literal["procedural"]
    side: int = 256
    window: tuple[float, float] = (0.8, 1.0)
    variants: int = 1
    families: tuple[str, ...] | None = None  # all of them where none are named
    quality: int = 96
    seed: int = 0
    workers: int = 2
    limit: int | None = None  # only so many photos


def crop_of(pixels: np.ndarray, config: Config, rng: np.random.Generator) -> np.ndarray:
    """A square window of `[h, w, 3]` at `config.side`, mirrored half the time."""
    height, width = pixels.shape[:2]
    window = max(1, round(min(height, width) * rng.uniform(*config.window)))
    top, left = rng.integers(0, height - window + 1), rng.integers(0, width - window + 1)
    crop = Image.fromarray(pixels[top : top + window, left : left + window])
    square = np.asarray(crop.resize((config.side, config.side), Image.Resampling.LANCZOS))
    return np.ascontiguousarray(square[:, ::-1]) if rng.random() < 0.5 else square


def make_pairs(photo: TrainingPhoto, variant: int, config: Config, folder: Path) -> None:
    """One crop of one photo with every family's edit of it, each at its own strength; nothing where it exists."""
    final = folder / f"{photo.digest[:16]}-{variant}"
    if final.is_dir():
        return
    partial_folder = folder / f".{final.name}"
    shutil.rmtree(partial_folder, ignore_errors=True)
    partial_folder.mkdir(parents=True)
    rng = np.random.default_rng([config.seed, int(photo.digest[:12], 16), variant])
    source = crop_of(load_rgb(photo.path), config, rng)
    save(source, partial_folder / "source.jpg", config.quality)
    strengths = {}
    for name in config.families or FAMILIES:
        strengths[name] = float(rng.uniform(*FAMILIES[name].strengths))
        edited = target(FAMILIES[name], source, strengths[name], int(rng.integers(2**31)))
        save(edited, partial_folder / f"{name}.jpg", config.quality)
    note = {"photo": photo.name, "digest": photo.digest, "strengths": strengths}
    (partial_folder / "pair.json").write_text(json.dumps(note, indent=1))
    partial_folder.rename(final)


def save(pixels: np.ndarray, path: Path, quality: int) -> None:
    """A JPEG without chroma subsampling: pop art and halftones live in the colour."""
    Image.fromarray(pixels).save(path, quality=quality, subsampling=0)


def run(config: Config, inputs: dict[str, Path], folder: Path, photos: Path) -> dict[str, float]:
    """Make what is missing; metrics: crops, pairs and photos kept out."""
    training, held = training_photos(photos)
    training.sort(key=lambda photo: photo.digest)  # so that a part of them is a fair part
    jobs = [(photo, variant) for variant in range(config.variants) for photo in training[: config.limit]]
    work = partial(_job, config=config, folder=folder / "pairs")
    if config.workers <= 1:
        drain(map(work, jobs), len(jobs))
    else:
        with ProcessPoolExecutor(config.workers) as pool:
            drain(pool.map(work, jobs, chunksize=4), len(jobs))
    families = len(config.families or FAMILIES)
    return {"crops": float(len(jobs)), "pairs": float(len(jobs) * families), "photos_held_out": float(len(held))}


def _job(job: tuple[TrainingPhoto, int], config: Config, folder: Path) -> None:
    make_pairs(job[0], job[1], config, folder)


def drain(results: Iterable[None], total: int) -> None:
    """Wait for every result, with a bar."""
    for _ in tqdm(results, total=total, desc="pairs", mininterval=5):
        pass


def estimate(settings: Config, counts: Estimate) -> Estimate:
    """Every family's edit of each photo's crops."""
    return replace(counts, makes=f"{len(settings.families or FAMILIES)} edits of each crop")


STAGE = Stage(Config, run, VERSION, reads_photos=True, estimate=estimate)
