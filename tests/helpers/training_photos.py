"""A small folder of photos to train on: crops of the photos that scikit-image ships, some held out by the rule."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from PIL import Image
from skimage import data

from ip2pbatch.train.data.crops import held_out


def make_photos(folder: Path, train: int = 12, held: int = 2, side: int = 64) -> Path:
    """At least `train` photos to train on and exactly `held` that the rule on the digest keeps out."""
    folder.mkdir(parents=True)
    pictures = [data.astronaut(), data.coffee(), data.chelsea()]
    rng = np.random.default_rng(0)
    counts = {True: 0, False: 0}
    for number in range(400):
        pixels = pictures[number % len(pictures)]
        top, left = (int(rng.integers(0, length - 2 * side)) for length in pixels.shape[:2])
        crop = Image.fromarray(pixels[top : top + 2 * side, left : left + 2 * side]).resize((side, side))
        path = folder / f"{number:03d}.png"
        crop.save(path)
        kept_out = held_out(hashlib.sha256(path.read_bytes()).hexdigest())
        counts[kept_out] += 1
        if counts[kept_out] > (held if kept_out else train):
            path.unlink()
        if counts[True] >= held and counts[False] >= train:
            return folder
    raise AssertionError("no photo is held out")
