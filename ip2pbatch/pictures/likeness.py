"""Numbers beside a cell: how far an edit went, and whether the photo is still in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ip2pbatch.plan.metrics import METRICS

Pixels = NDArray[np.uint8]
Plane = NDArray[np.float32]
Verdict = Literal["hardly changed", "lost the photo"]

_LUMA = np.array([0.2126, 0.7152, 0.0722], np.float32)  # Rec. 709
_EDGES = 2.0  # σ in pixels of a 512-pixel picture: contours, not texture or noise
_VISIBLE = 0.06  # a difference of 15 of 255 between small patches
_UNCHANGED = 0.01  # share of the picture; an autoencoder alone stays below 0.005
_TURNED = 0.7  # the same where SSIM is below zero: a negative is above 0.9, pictures burnt out by guidance below 0.5
_LOST = 0.2  # correlation of contours: another photo or noise is below 0.13, drawings and mosaics are above 0.25


def compare(source: Pixels, edited: Pixels) -> dict[str, float]:
    """What is measured of every cell, of two uint8 pictures [h, w, 3]: `l1`, `ssim`, `changed`, `structure`."""
    return {metric.key: metric.of(source, edited) for metric in METRICS.values() if metric.always}


def verdict(metrics: Mapping[str, float]) -> Verdict | None:
    """What a person should be told about a cell, or None.

    `hardly changed`: raise the text guidance or lower the image guidance. `lost the photo`: the reverse. Sepia, night
    or a pencil drawing keep the photo's contours and are neither. Where dark and light have changed places (an SSIM
    below zero), all contours must be there, as in a negative: a picture that guidance burnt out keeps its outline.
    """
    if metrics["changed"] < _UNCHANGED:
        return "hardly changed"
    least = _LOST if metrics.get("ssim", 1.0) >= 0 else _TURNED
    return "lost the photo" if metrics["structure"] < least else None


def l1(source: Pixels, edited: Pixels) -> float:
    """Mean absolute difference, from 0 to 1."""
    return float(np.abs(source.astype(np.float32) - edited).mean() / 255)


def changed(source: Pixels, edited: Pixels) -> float:
    """The share of the picture, 0 to 1, that visibly differs: a new hat counts, an autoencoder's noise does not."""
    sigma = max(1.0, 4.0 * max(source.shape[:2]) / 512)
    difference = edited.astype(np.float32) - source
    patches = [_blur(difference[..., c], sigma, round(3 * sigma)) for c in range(3)]
    return float((np.abs(patches).max(axis=0) > 255 * _VISIBLE).mean())


def ssim(source: Pixels, edited: Pixels) -> float:
    """Structural similarity of luma, 1 for equal pictures: Wang et al. 2004, Gaussian window σ = 1.5, 11 × 11."""
    x, y = _luma(source), _luma(edited)
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mx, my = _blur(x, 1.5, 5), _blur(y, 1.5, 5)
    vx, vy, vxy = (_blur(a * b, 1.5, 5) - ma * mb for a, b, ma, mb in ((x, x, mx, mx), (y, y, my, my), (x, y, mx, my)))
    index = (2 * mx * my + c1) * (2 * vxy + c2) / ((mx * mx + my * my + c1) * (vx + vy + c2))
    border = min(5, (min(index.shape) - 1) // 2)  # as the reference implementation: no window over the edge
    return float(index[border : index.shape[0] - border, border : index.shape[1] - border].mean())


def structure(source: Pixels, edited: Pixels) -> float:
    """Correlation of where the contours are, from −1 to 1, blind to light, colour, tone curve and inversion.

    Contours are gradient magnitudes of log luma, compressed and divided by their surroundings so that one bright
    window does not outvote a face.
    """
    a, b = _contours(source), _contours(edited)
    a, b = a - a.mean(), b - b.mean()
    return float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum() + 1e-12))


def _contours(pixels: Pixels) -> Plane:
    luma = _luma(pixels)
    sigma = max(0.8, _EDGES * max(luma.shape) / 512)
    smooth = _blur(luma, sigma, round(3 * sigma))
    down, across = np.gradient(smooth)
    strength = np.hypot(down, across)
    around = _blur(strength, 6 * sigma, round(12 * sigma))
    normalised: Plane = strength / (around + 0.5)
    return normalised


def _luma(pixels: Pixels) -> Plane:
    plane: Plane = pixels.astype(np.float32) @ _LUMA
    return plane


def _blur(plane: Plane, sigma: float, radius: int) -> Plane:
    """Gaussian blur of [h, w], the border mirrored."""
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    kernel = (kernel / kernel.sum()).astype(np.float32)
    padded = np.pad(plane, radius, mode="symmetric")
    rows = np.zeros((plane.shape[0], padded.shape[1]), np.float32)
    for offset, weight in enumerate(kernel):
        rows += weight * padded[offset : offset + plane.shape[0]]
    blurred = np.zeros(plane.shape, np.float32)
    for offset, weight in enumerate(kernel):
        blurred += weight * rows[:, offset : offset + plane.shape[1]]
    return blurred
