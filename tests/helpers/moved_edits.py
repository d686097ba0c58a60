"""Edits of real photos without a model, moved and enlarged by what is known; by hand the figures of BENCHMARKS.md.

python tests/helpers/moved_edits.py [FOLDER]     # of the photos below a folder, else of the test photos
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import skimage.data
from PIL import Image, ImageFilter
from sklearn.datasets import load_sample_image

from ip2pbatch.pictures import registration

Pixels = np.ndarray
LUMA = np.array([0.2126, 0.7152, 0.0722])
MARGIN = 0.06  # of each side: what a moved view may show beyond the one that is not


@dataclass(frozen=True)
class Moved:
    """A photo as a model saw it and an edit of it, uint8 [h, w, 3], which lies `right` and `down` of it in pixels of
    the model and is `larger` by that share.
    """

    seen: Pixels
    edited: Pixels
    right: float
    down: float
    larger: float


def distance(motion: registration.Motion, case: Moved) -> float:
    """By how much a registered edit is off its photo: root mean square over the picture, in pixels of the model."""
    height, width = case.seen.shape[:2]
    right, down, larger = motion.right - case.right, motion.down - case.down, motion.larger - case.larger
    return float(np.sqrt(right**2 + down**2 + larger**2 * (width**2 + height**2) / 12))


def photos() -> Iterator[tuple[str, Pixels]]:
    """Seven photos, their halves and quarters, and parts from the middle: 63."""
    whole = {name: getattr(skimage.data, name)()[..., :3] for name in ("astronaut", "coffee", "chelsea", "rocket")}
    whole |= {name: load_sample_image(name) for name in ("china.jpg", "flower.jpg")}
    whole["motorcycle"] = skimage.data.stereo_motorcycle()[0]
    parts = {"whole": (0, 1, 0, 1), "left": (0, 1, 0, 0.6), "right": (0, 1, 0.4, 1), "middle": (0.2, 0.8, 0.2, 0.8)}
    parts |= {"top": (0, 0.7, 0, 1)} | {
        f"{'tb'[row]}{'lr'[column]}": (row * 0.45, row * 0.45 + 0.55, column * 0.45, column * 0.45 + 0.55)
        for row in (0, 1) for column in (0, 1)
    }  # fmt: skip
    for part, (top, bottom, left, right) in parts.items():
        for name, photo in whole.items():
            height, width = photo.shape[:2]
            cut = photo[int(top * height) : int(bottom * height), int(left * width) : int(right * width)]
            yield f"{name} {part}", np.ascontiguousarray(cut)


def photos_in(folder: Path) -> Iterator[tuple[str, Pixels]]:
    for path in sorted(folder.rglob("*.jpg")):
        with Image.open(path) as image:
            yield path.name, np.asarray(image.convert("RGB"))


def moved_edits(
    kind: str, count: int, *, moved: bool, long_side: int, shots: Iterator[tuple[str, Pixels]] | None = None
) -> Iterator[tuple[str, Moved]]:
    """An edit of each of so many photos, moved by up to 6 pixels of the model along each side and 1.5 %, or not."""
    draw, other = np.random.default_rng(moved), skimage.data.coffee()
    for _, (name, photo) in zip(range(count), shots or photos(), strict=False):
        right, down = draw.uniform(-6, 6, 2) * moved
        larger = float(draw.uniform(-0.015, 0.015) * moved)
        scale = long_side / max(photo.shape[:2])
        size = (int(photo.shape[1] * scale) // 8 * 8, int(photo.shape[0] * scale) // 8 * 8)
        edited = EDITS[kind](_view(photo, size, right, down, larger), draw, other)
        yield name, Moved(_view(photo, size, 0, 0, 0), like_an_autoencoder(edited, draw), right, down, larger)
        other = photo


def _view(photo: Pixels, size: tuple[int, int], right: float, down: float, larger: float) -> Pixels:
    """The middle of a photo at (width, height) `size`: what moves in comes from beyond its border."""
    height, width = photo.shape[:2]
    scale = min(width / size[0], height / size[1]) * (1 - 2 * MARGIN)
    half_x, half_y = size[0] / 2 / (1 + larger), size[1] / 2 / (1 + larger)
    x, y = -right / (1 + larger), -down / (1 + larger)
    box = (
        width / 2 + (x - half_x) * scale, height / 2 + (y - half_y) * scale,
        width / 2 + (x + half_x) * scale, height / 2 + (y + half_y) * scale,
    )  # fmt: skip
    return np.asarray(Image.fromarray(photo).resize(size, Image.Resampling.LANCZOS, box=box))


def _pixels(values: Pixels) -> Pixels:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def like_an_autoencoder(edit: Pixels, draw: np.random.Generator) -> Pixels:
    """What a decoder does to an edit: its finest detail blurred (σ = 0.7), 2 % noise."""
    blurred = np.asarray(Image.fromarray(edit).filter(ImageFilter.GaussianBlur(0.7)))
    return _pixels(blurred + draw.normal(0, 5.1, edit.shape))


def recolour(x: Pixels, draw: np.random.Generator, other: Pixels) -> Pixels:
    """Channels mixed, and a tone curve."""
    mix = draw.uniform(-0.4, 0.4, (3, 3))
    mix = np.eye(3) * draw.uniform(0.6, 1.1) + mix - mix.mean(axis=1, keepdims=True) / 2
    return _pixels((x / 255) ** draw.uniform(0.7, 1.5) @ mix.T * 255 + draw.uniform(-15, 15, 3))


def night(x: Pixels, draw: np.random.Generator, other: Pixels) -> Pixels:
    """Darker, bluer, less colourful, with six lights."""
    height, width = x.shape[:2]
    light = np.linspace(*draw.uniform(0.5, 1.2, 2), width)[None, :, None]
    dark = (x * 0.35 + (x @ LUMA)[..., None] * 0.25) * np.array([0.45, 0.55, 0.85]) * light + 4
    for _ in range(6):
        y, across, radius = draw.uniform(0, height), draw.uniform(0, width), draw.uniform(5, 25)
        squared = (np.arange(height)[:, None] - y) ** 2 + (np.arange(width) - across) ** 2
        glow = np.exp(-squared / (2 * radius**2)) * draw.uniform(0.4, 1)
        dark = dark + glow[..., None] * np.array([200, 170, 90])
    return _pixels(dark)


def painting(x: Pixels, draw: np.random.Generator, other: Pixels) -> Pixels:
    """Few tones in patches, under strokes."""
    image = Image.fromarray(x)
    for _ in range(2):
        image = image.filter(ImageFilter.MedianFilter(5))
    patches = np.rint(np.asarray(image).astype(float) / 24) * 24
    strokes = Image.fromarray(_pixels(128 + draw.normal(0, 60, x.shape[:2]))).filter(ImageFilter.GaussianBlur(1.5))
    return _pixels(patches * 1.1 + (np.asarray(strokes).astype(float) - 128)[..., None] * draw.uniform(0.2, 1))


def replaced(x: Pixels, draw: np.random.Generator, other: Pixels) -> Pixels:
    """An ellipse of up to 45 % of the picture from another photo."""
    height, width = x.shape[:2]
    (y, across), (tall, wide) = draw.uniform(0.3, 0.7, 2), draw.uniform(0.2, 0.38, 2)
    rows, columns = np.mgrid[0:height, 0:width] + 0.5
    ellipse = ((rows / height - y) / tall) ** 2 + ((columns / width - across) / wide) ** 2 < 1
    soft = np.asarray(Image.fromarray(ellipse).convert("L").filter(ImageFilter.GaussianBlur(3)))[..., None] / 255
    put_in = np.asarray(Image.fromarray(other).resize((width, height)))
    return _pixels(x * (1 - soft) + put_in * soft)


EDITS: dict[str, Callable[[Pixels, np.random.Generator, Pixels], Pixels]] = {
    "recolour": recolour, "night": night, "painting": painting, "replaced": replaced,
}  # fmt: skip


def report(shots: list[tuple[str, Pixels]]) -> None:
    """A line for each kind of edit, moved and not."""
    for long_side in (512, 256):
        for kind in EDITS:
            for moved in (True, False):
                off, took, said = [], [], 0
                for _, case in moved_edits(kind, len(shots), moved=moved, long_side=long_side, shots=iter(shots)):
                    began = time.process_time()
                    motion = registration.estimate(case.edited, case.seen)
                    took.append(time.process_time() - began)
                    if motion is not None:
                        said += 1
                        off.append(distance(motion, case))
                worst = f", off by {np.median(off):.3f} (median), {max(off):.3f} at most" if off else ""
                print(
                    f"{long_side} {kind}{'' if moved else ', not moved'}: {said} of {len(shots)} moved back{worst}; "
                    f"{1000 * np.median(took):.0f} ms"
                )


if __name__ == "__main__":
    report(list(photos_in(Path(sys.argv[1])) if len(sys.argv) > 1 else photos()))
