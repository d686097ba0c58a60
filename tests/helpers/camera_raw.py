"""DNGs as a camera writes them: a Bayer mosaic of a picture, its colours and its white balance."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import tifffile

# XYZ to linear sRGB (IEC 61966-2-1): a camera that sees as a screen shows.
_MATRIX = (3.2404542, -1.5371385, -0.4985314, -0.9692660, 1.8760108, 0.0415560, 0.0556434, -0.2040259, 1.0572252)
_WHITE = 60_000


def write_dng(path: Path, pixels: np.ndarray, orientation: int = 1, neutral: Sequence[float] = (1, 1, 1)) -> Path:
    """A DNG of sRGB `pixels` uint8 [h, w, 3], both sides even; `neutral` is what the camera took for white."""
    tags = [
        (254, "I", 1, 0, True), (271, "s", 0, "Maker", True), (272, "s", 0, "Model One", True),
        (274, "H", 1, orientation, True), (33421, "H", 2, (2, 2), True), (33422, "B", 4, bytes((0, 1, 1, 2)), True),
        (33432, "s", 0, "Copyright holder", True), (50706, "B", 4, bytes((1, 4, 0, 0)), True),
        (50707, "B", 4, bytes((1, 1, 0, 0)), True), (50708, "s", 0, "Maker Model One", True),
        (50714, "H", 1, 0, True), (50717, "H", 1, _WHITE, True), (50721, "2i", 9, _fractions(_MATRIX), True),
        (50728, "2I", 3, _fractions(neutral), True), (50778, "H", 1, 21, True),
    ]  # fmt: skip
    tifffile.imwrite(path, _mosaic(pixels, neutral), photometric=32803, extratags=tags, metadata=None, software=False)
    return path


def _fractions(values: Sequence[float]) -> list[int]:
    return [part for value in values for part in Fraction(value).limit_denominator(10_000).as_integer_ratio()]


def _mosaic(pixels: np.ndarray, neutral: Sequence[float]) -> np.ndarray:
    """One number a pixel: red and green, green and blue, in turns."""
    code = np.linspace(0, 1, 256)
    light = np.where(code <= 0.04045, code / 12.92, ((code + 0.055) / 1.055) ** 2.4) * _WHITE
    mosaic = np.empty(pixels.shape[:2], np.uint16)
    for row, column, channel in ((0, 0, 0), (0, 1, 1), (1, 0, 1), (1, 1, 2)):
        mosaic[row::2, column::2] = light[pixels[row::2, column::2, channel]] * neutral[channel]
    return mosaic
