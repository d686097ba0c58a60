"""Photos as training batches: read once, small, into memory; crops drawn by (seed, step), so that a resume is exact."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from ip2pbatch.disk.contents import sha256s
from ip2pbatch.errors import NothingMatchedError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp"})


@dataclass(frozen=True)
class TrainingPhoto:
    """One photo: `name` is its path below the folder, `digest` the sha256 of its bytes (decides who is held out)."""

    name: str
    path: Path
    digest: str


def find_photos(folder: Path) -> list[TrainingPhoto]:
    """Every photo below `folder`, in the order of the names."""
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)
    if not paths:
        raise NothingMatchedError(
            f"no photo below {folder}", hint="give a folder of JPEG, PNG or WebP files with --photos"
        )
    digests = zip(paths, sha256s(paths), strict=True)
    return [TrainingPhoto(path.relative_to(folder).as_posix(), path, digest) for path, digest in digests]


def held_out(digest: str) -> bool:
    """Whether the photo with this sha256 (hex) is kept out of training: 21 of 256 first bytes, about 8 %."""
    return int(digest[:2], 16) < 21


def split_photos(
    photos: Sequence[TrainingPhoto], kept_out: Callable[[str], bool]
) -> tuple[list[TrainingPhoto], list[TrainingPhoto]]:
    """`(train, held)` by the rule on the digest; no photo is in both."""
    return [p for p in photos if not kept_out(p.digest)], [p for p in photos if kept_out(p.digest)]


def training_photos(folder: Path) -> tuple[list[TrainingPhoto], list[TrainingPhoto]]:
    """`(train, held)` of the photos below `folder`; NothingMatchedError where either is empty."""
    train, held = split_photos(find_photos(folder), held_out)
    if not train or not held:
        raise NothingMatchedError(
            f"{folder} has {len(train)} photos to train on and {len(held)} that the rule keeps out",
            hint="about one photo in twelve is kept out to look at: give fifty photos or more",
        )
    return train, held


def load_rgb(path: Path, short_side: int | None = None) -> np.ndarray:
    """`[h, w, 3]` uint8, upright; resized with Lanczos to `short_side` where that is smaller than the photo's."""
    with Image.open(path) as opened:
        image = ImageOps.exif_transpose(opened).convert("RGB")
    if short_side is not None and short_side != min(image.size):
        scale = short_side / min(image.size)
        width, height = (max(short_side, round(side * scale)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.LANCZOS)
    return np.asarray(image)


def centre_square(pixels: np.ndarray, side: int) -> np.ndarray:
    """The middle `side` × `side` of `[h, w, 3]` pixels whose short side is at least `side`."""
    top, left = (pixels.shape[0] - side) // 2, (pixels.shape[1] - side) // 2
    return pixels[top : top + side, left : left + side]


def random_crop(pixels: np.ndarray, side: int, zoom: tuple[float, float], rng: np.random.Generator) -> np.ndarray:
    """A `side` × `side` crop of `[h, w, 3]`, from a window `zoom` times as wide, mirrored half the time."""
    height, width = pixels.shape[:2]
    window = int(min(side * rng.uniform(*zoom), height, width))
    top, left = rng.integers(0, height - window + 1), rng.integers(0, width - window + 1)
    crop = pixels[top : top + window, left : left + window]
    if window != side:
        crop = np.asarray(Image.fromarray(crop).resize((side, side), Image.Resampling.BOX, reducing_gap=None))
    return crop[:, ::-1] if rng.random() < 0.5 else crop


def to_tensor(crops: Sequence[np.ndarray] | np.ndarray) -> torch.Tensor:
    """uint8 `[h, w, 3]` pictures of one size → float32 `[n, 3, h, w]` in −1…1."""
    return torch.from_numpy(np.stack(list(crops))).permute(0, 3, 1, 2).float() / 127.5 - 1


def to_pixels(pictures: torch.Tensor) -> np.ndarray:
    """float `[n, 3, h, w]` in −1…1 → uint8 `[n, h, w, 3]`."""
    scaled = (pictures.detach().float().clamp(-1, 1) + 1) * 127.5
    return scaled.round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


def step_rng(seed: int, step: int, process: int = 0) -> np.random.Generator:
    """The randomness of one training step of one process: a function of its arguments, so nothing has to be saved."""
    return np.random.default_rng([seed, step, process])
