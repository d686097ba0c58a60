"""Grey in, grey out: photos of one channel, what a model's picture of one must be to stay so, and grey's profiles."""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter, TiffImagePlugin

from ip2pbatch.pictures import colour

Pixels = NDArray[np.uint8]
AnyPixels = NDArray[np.uint8] | NDArray[np.uint16]
Floats = NDArray[np.float64]

# How far apart a pixel's channels may be, of 255, and on average. Measured on the embedded model's edits of grey
# photos: where none asks for colour (black and white, fog) at most 37 and 7.9, else (snow, sepia) at least 58 and 16.
_MOST, _MEAN = 40, 9
_BLUR = 1.5  # σ in model pixels: what is finer is noise
_LUMA = (13_933, 46_871, 4_732)  # Rec. 709 in 65,536ths
_LEVELS = 65_536
_UNEVEN = 1e-3  # what a formula in rounded numbers falls by where its parts meet
_PHOTOMETRIC, _WHITE_IS_ZERO = 0x0106, 0


def added_colour(edited: Pixels) -> float | None:
    """The most colour that a picture [h, w, 3] of a grey photo has, of 255, where an autoencoder added it; None of an
    edit that has colours of its own.
    """
    soft = np.asarray(Image.fromarray(edited).filter(ImageFilter.GaussianBlur(_BLUR)))
    apart = soft.max(axis=2) - soft.min(axis=2)
    return float(apart.max()) if apart.max() <= _MOST and apart.mean() <= _MEAN else None


def stored(image: Image.Image, raw: str) -> NDArray[np.uint16]:
    """The numbers [h, w] of an image of 16-bit grey, whose decoder was called `raw`: 12 bits stretched,
    and white above black. Pillow's decoders of more than eight bits do neither.
    """
    levels = np.asarray(image).astype(np.uint16)
    if raw.startswith("I;12"):
        levels = levels * np.uint16(16) + levels // np.uint16(256)
    tags = image.tag_v2 if isinstance(image, TiffImagePlugin.TiffImageFile) else {}
    return np.bitwise_not(levels) if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO else levels


def luma(pixels: AnyPixels) -> AnyPixels:
    """RGB [h, w, 3] → [h, w] of the same depth; of a pixel without colour the same number."""
    red, green, blue = (pixels[..., channel].astype(np.uint32) * weight for channel, weight in enumerate(_LUMA))
    red += green
    red += blue
    red += 1 << 15
    return cast("AnyPixels", (red >> 16).astype(pixels.dtype))


def to_srgb(levels: NDArray[np.uint16], icc: bytes) -> NDArray[np.uint16]:
    """Sixteen-bit numbers in a grey profile that is `followed` → those of sRGB."""
    return levels if is_srgb(icc) else _table(_code(_light(icc)), np.uint16)[levels]


def from_srgb(levels: AnyPixels, icc: bytes) -> AnyPixels:
    """Numbers of sRGB → those of a grey profile that is `followed`, in the same depth."""
    if is_srgb(icc):
        return levels
    size = int(np.iinfo(levels.dtype).max) + 1
    numbers = np.linspace(0, 1, _LEVELS)
    found = np.interp(srgb_light(np.linspace(0, 1, size)), _light(icc), numbers)
    return cast("AnyPixels", _table(found, levels.dtype)[levels])


def is_srgb(icc: bytes) -> bool:
    """Whether a profile that is `followed` has sRGB's curve, to half a step of eight bits."""
    numbers = np.linspace(0, 1, 256)
    return bool(np.abs(_code(_light(icc)[::257]) - numbers).max() < 0.5 / 255)


def followed(icc: bytes) -> bool:
    """Whether a profile is a grey curve that rises, so that there is a way back."""
    try:
        return colour.space(icc) == "GRAY" and bool(_light(icc)[-1] > _light(icc)[0])
    except (colour.ProfileError, struct.error, ValueError):
        return False


def _table(values: Floats, depth: Any) -> NDArray[Any]:
    """Numbers from 0 to 1 as those of a type."""
    return np.rint(np.clip(values, 0, 1) * np.iinfo(depth).max).astype(depth)


@lru_cache(maxsize=4)
def _light(icc: bytes) -> Floats:
    """The light, 0 to 1, of 65,536 numbers, which never falls. Raises ValueError or struct.error for other profiles."""
    light = curve(icc)
    rising = np.maximum.accumulate(light)
    if (rising - light).max() > _UNEVEN:
        raise ValueError("a curve that falls")
    return np.asarray(rising)


def curve(icc: bytes, tag: bytes = b"kTRC") -> Floats:
    """The light of 65,536 numbers by a profile's curve (ICC.1:2022, 10.6 and 10.18): grayTRC, or one of RGB.

    Raises ValueError or struct.error where there is none that is known.
    """
    count = struct.unpack_from(">I", icc, 128)[0]
    tags = (struct.unpack_from(">4sII", icc, 132 + 12 * number) for number in range(min(count, 100)))
    start = next((start for name, start, _ in tags if name == tag), None)
    if start is None:
        raise ValueError("no curve")
    numbers = np.linspace(0, 1, _LEVELS)
    if icc[start : start + 4] == b"para":
        return _formula(icc, start, numbers)
    if icc[start : start + 4] != b"curv":
        raise ValueError("no curve that is known")
    size = struct.unpack_from(">I", icc, start + 8)[0]
    if size == 0:
        return numbers
    steps = np.frombuffer(icc, ">u2", size, start + 12).astype(np.float64)
    return numbers ** (steps[0] / 256) if size == 1 else np.interp(numbers, np.linspace(0, 1, size), steps / 65_535)


_PARAMETERS = (1, 3, 4, 5, 7)


def _formula(icc: bytes, start: int, x: Floats) -> Floats:
    """A parametricCurveType: (ax + b)^g, and what it says of the numbers below some of them."""
    kind = struct.unpack_from(">H", icc, start + 8)[0]
    if kind >= len(_PARAMETERS):
        raise ValueError("no formula that is known")
    said = struct.unpack_from(f">{_PARAMETERS[kind]}i", icc, start + 12)
    gamma, a, b, c, d, e, f = ([one / 65_536 for one in said] + [0.0] * 7)[:7]
    if kind == 0:
        return np.asarray(x**gamma)
    power = np.maximum(a * x + b, 0) ** gamma
    if kind < 3:
        return np.asarray(power + (c if kind == 2 else 0))
    return np.asarray(np.where(x >= d, power + (e if kind == 4 else 0), c * x + (f if kind == 4 else 0)))


def srgb_light(code: Floats) -> Floats:
    """Numbers of sRGB from 0 to 1 → light (IEC 61966-2-1)."""
    return np.where(code <= 0.04045, code / 12.92, ((code + 0.055) / 1.055) ** 2.4)


def _code(light: Floats) -> Floats:
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * np.maximum(light, 0) ** (1 / 2.4) - 0.055)
