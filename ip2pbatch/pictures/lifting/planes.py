"""Planes of floats [c, h, w] from 0 to 255: blurred, resized, mixed row by row, with nothing but numpy and Pillow."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Floats = NDArray[np.float32]
_WIDE = 500  # columns from which a row is worth a turn of a loop


def luma(planes: Floats) -> Floats:
    """[1, h, w], Rec. 709."""
    weighted: Floats = 0.2126 * planes[:1] + 0.7152 * planes[1:2] + 0.0722 * planes[2:]
    return weighted


def smoothstep(x: Floats) -> Floats:
    x = np.clip(x, 0, 1)
    return x * x * (3 - 2 * x)


def gauss(planes: Floats, sigma: float) -> Floats:
    """Gaussian blur of [c, h, w], the border mirrored; a wide one at a smaller size, where it costs little."""
    height, width = planes.shape[1:]
    step = min(int(sigma / 1.5), height, width)
    if step > 1:
        small = resized(planes, (-(-width // step), -(-height // step)), Image.Resampling.BOX)
        # Bilinear: powers stay positive.
        return resized(gauss(small, sigma / step), (width, height), Image.Resampling.BILINEAR)
    radius = round(3 * sigma)
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1, dtype=np.float32) / np.float32(sigma)) ** 2)
    kernel /= kernel.sum()
    padded = np.pad(planes, ((0, 0), (radius, radius), (radius, radius)), mode="symmetric")
    rows = kernel[0] * padded[:, :height]
    for offset in range(1, len(kernel)):
        rows += kernel[offset] * padded[:, offset : offset + height]
    blurred: Floats = kernel[0] * rows[..., :width]
    for offset in range(1, len(kernel)):
        blurred += kernel[offset] * rows[..., offset : offset + width]
    return blurred


def resized(planes: Floats, size: tuple[int, int], kernel: Image.Resampling = Image.Resampling.BICUBIC) -> Floats:
    """[c, h, w] at (width, height) `size`, with the geometry of `images.resize`."""
    return np.stack([np.asarray(Image.fromarray(plane).resize(size, kernel)) for plane in planes])


def row_taps(small: int, large: int) -> tuple[NDArray[np.intp], Floats]:
    """For each of `large` rows which of `small` rows make it, and their weights: bicubic (a = −0.5), antialiased."""
    scale = small / large
    stretch = max(scale, 1.0)
    centres = (np.arange(large) + 0.5) * scale - 0.5
    reach = int(np.ceil(2 * stretch))
    taps = np.floor(centres).astype(int)[:, None] + np.arange(1 - reach, reach + 1)
    x = np.abs(taps - centres[:, None]) / stretch
    weights = np.where(x < 1, (1.5 * x - 2.5) * x * x + 1, np.where(x < 2, ((-0.5 * x + 2.5) * x - 4) * x + 2, 0))
    weights[(taps < 0) | (taps >= small)] = 0  # as Pillow does at the border
    weights /= weights.sum(axis=1, keepdims=True)
    return np.clip(taps, 0, small - 1), weights.astype(np.float32)


def interpolated(planes: Floats, taps: NDArray[np.intp], weights: Floats) -> Floats:
    """Rows of [c, h, W] mixed by their taps, one tap after the other: no row's sum knows its neighbours."""
    if planes.shape[2] >= _WIDE:
        return _by_rows(planes, taps, weights)
    mixed = planes[:, taps[:, 0]] * weights[:, 0, None]
    for tap in range(1, taps.shape[1]):
        mixed += planes[:, taps[:, tap]] * weights[:, tap, None]
    return mixed


def _by_rows(planes: Floats, taps: NDArray[np.intp], weights: Floats) -> Floats:
    """The same to the bit, a row at a time: what a processor is at stays in its cache."""
    mixed = np.empty((len(planes), len(taps), planes.shape[2]), np.float32)
    term = np.empty((len(planes), planes.shape[2]), np.float32)
    for row, (places, shares) in enumerate(zip(taps, weights, strict=True)):
        line = mixed[:, row]
        np.multiply(planes[:, places[0]], shares[0], out=line)
        for place, share in zip(places[1:], shares[1:], strict=True):
            np.multiply(planes[:, place], share, out=term)
            line += term
    return mixed
