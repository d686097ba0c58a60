"""What catches nan and black pictures lets real photos pass: crops and darkenings of the demo's photos, or of a folder.

IP2P_SOAK_PHOTOS=FOLDER make soak -k alarm     # any photos, night shots included; of each all crops and darkenings
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image
from runs import many
from sklearn.datasets import load_sample_image

from ip2pbatch.engine.editor import find_flaw, to_uint8
from ip2pbatch.plan.photos import SUFFIXES
from ip2pbatch.run.execute import judge
from ip2pbatch.run.seam import Result, Source

# An edit may take a photo down to a twentieth of its light: "make it night" at strong guidance. Below it is black.
LIGHT = (1.0, 0.5, 0.2, 0.1, 0.05)
SIDE = 256


@dataclass(frozen=True)
class Shot:
    """A part of a photo in some light, uint8 [h, w, 3]."""

    name: str
    pixels: np.ndarray


def photos() -> Iterator[Shot]:
    if folder := os.environ.get("IP2P_SOAK_PHOTOS"):
        for path in sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in SUFFIXES):
            with Image.open(path) as image:
                image.thumbnail((4 * SIDE, 4 * SIDE))
                yield Shot(path.name, np.asarray(image.convert("RGB")))
        return
    yield Shot("motorcycle", skimage.data.stereo_motorcycle()[0])
    for name in ("astronaut", "coffee", "chelsea", "rocket"):
        yield Shot(name, getattr(skimage.data, name)()[..., :3])
    for name in ("china.jpg", "flower.jpg"):
        yield Shot(name, load_sample_image(name))


def crops(photo: Shot) -> Iterator[Shot]:
    """The whole, halves and thirds of each side. (Smaller ones of an overcast sky are at a twentieth of its light one
    colour in eight bits, and are called so.)
    """
    height, width = photo.pixels.shape[:2]
    for parts in (1, 2, 3):
        for row, column in itertools.product(range(parts), repeat=2):
            down, across = height // parts, width // parts
            part = photo.pixels[row * down : (row + 1) * down, column * across : (column + 1) * across]
            small = Image.fromarray(part).resize((SIDE, SIDE * down // across // 8 * 8 or 8))
            yield Shot(f"{photo.name} {row},{column} of {parts} × {parts}", np.asarray(small))


def alarm(source: np.ndarray, picture: np.ndarray) -> str:
    """What is said of an edit of `source` that came out as `picture`, as decoded and as the run keeps it."""
    pixels = torch.from_numpy(picture.astype(np.float32) / 127.5 - 1).permute(2, 0, 1)[None]
    flaw = find_flaw(pixels, Source(pixels=source))
    return flaw or judge(Result(to_uint8(pixels), None, "done"))[1]


def test_no_crop_and_no_darkening_of_a_real_photo_is_an_alarm() -> None:
    seen, alarms = 0, []
    for shot in itertools.chain.from_iterable(map(crops, photos())):
        for light in LIGHT:
            dark = (shot.pixels * light).astype(np.uint8)
            for what, source in (("darkened", shot.pixels), ("dark before", dark)):
                seen += 1
                if why := alarm(source, dark):
                    alarms.append(f"{shot.name} at {light:g}, {what}: {why}")
    assert seen >= 7 * 14 * len(LIGHT) * 2 or os.environ.get("IP2P_SOAK_PHOTOS")
    assert alarms == [], f"{len(alarms)} of {seen}"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), -1.0, 1.0, 0.0, -40.0, 40.0])
def test_every_broken_picture_of_a_real_photo_is_caught(value: float) -> None:
    for shot in itertools.islice(itertools.chain.from_iterable(map(crops, photos())), 0, None, many(5, 1)):
        if shot.pixels.std() < 12:
            continue  # a part of sky may come out even
        whole = torch.full((1, 3, *shot.pixels.shape[:2]), value)
        assert find_flaw(whole, Source(pixels=shot.pixels)), shot.name
        spot = torch.from_numpy(shot.pixels.astype(np.float32) / 127.5 - 1).permute(2, 0, 1)[None].clone()
        spot[0, 1, -1, -1] = value
        assert bool(find_flaw(spot, Source(pixels=shot.pixels))) is not np.isfinite(value), shot.name
