"""Focus: sharp, soft, and a subject that stands out of its background."""

from __future__ import annotations

import numpy as np
from skimage.graph import MCP_Geometric

from ip2pbatch.train.pairs.families.raster import (
    Floats,
    Rgb,
    blur,
    edges,
    grid,
    levels,
    luma,
    mix,
    ramp,
    resize,
    saturate,
    to_bytes,
    to_float,
)

SALIENCY_SIDE = 56


def subject(photo: Floats) -> Floats:
    """A soft mask, 1 on what stands out: geodesic distance from the border (Wei et al. 2012), sharpness, centre.

    The lower border is no background, since people and things stand on it.
    """
    height, width = photo.shape[:2]
    scale = SALIENCY_SIDE / min(height, width)
    size = (round(height * scale), round(width * scale))
    small = resize(blur(photo, 1.5), size)
    steps = np.sqrt(sum(np.square(d).sum(axis=2) for d in np.gradient(small, axis=(0, 1))))
    starts = [(0, c) for c in range(size[1])] + [(r, c) for r in range(int(size[0] * 0.7)) for c in (0, size[1] - 1)]
    far, _ = MCP_Geometric(steps + 0.004).find_costs(starts)
    far = levels(far.astype(np.float32) / (far.max() + 1e-6), 5, 95)
    sharp = levels(blur(resize(np.minimum(edges(luma(photo), 1.0), 1.5), size), 256 * 2.0 / SALIENCY_SIDE))
    x, y = grid(small)
    centre = np.exp(-(((x - 0.5) / 0.28) ** 2 + ((y - 0.55) / 0.32) ** 2))
    score = blur((0.55 * far + 0.3 * sharp + 0.15) * (0.25 + 0.75 * centre), 256 * 0.8 / SALIENCY_SIDE)
    cut = float(np.quantile(score, 0.68))
    soft = ramp(score, cut * 0.85, cut * 1.15)
    return np.clip(resize(soft, (height, width)), 0, 1)


def blur_background(rgb: Rgb, strength: float, rng: np.random.Generator) -> Rgb:
    """Portrait mode: the subject sharp, all else far out of focus."""
    photo = to_float(rgb)
    mask = subject(photo)
    # the background alone is blurred, so that the subject does not bleed into it
    weight = 1 - mask * 0.97
    length = 7.0 * strength
    behind = blur(photo * weight[..., None], length) / np.maximum(blur(weight, length), 1e-3)[..., None]
    return to_bytes(mix(behind, photo, mask))


def soft_focus(rgb: Rgb, strength: float, rng: np.random.Generator) -> Rgb:
    """A dreamy diffusion filter: highlights bloom over a softened picture."""
    photo = to_float(rgb)
    wide = blur(photo, 6.0)
    glow = 1 - (1 - wide) * (1 - 0.55 * photo)
    soft = mix(blur(photo, 1.4), glow, 0.55)
    return to_bytes(mix(photo, saturate(soft, 1.1), min(1.1, strength)))


def sharpen(rgb: Rgb, strength: float, rng: np.random.Generator) -> Rgb:
    """Unsharp mask at two radii, overdone enough to be seen."""
    photo = to_float(rgb)
    grey = luma(photo)
    detail = 2.2 * (grey - blur(grey, 1.2)) + 1.5 * (grey - blur(grey, 4.0))
    return to_bytes(photo + (strength * detail)[..., None])
