"""How much of an edit is delivered: photo and edit mixed as light mixes.

    mixed = code((1 − s) · light(photo) + s · light(edit))

`light` and `code` are the curves of the colours that the file is delivered in, a channel each. What photo and edit have
alike stays itself, and no channel leaves the range between the two.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import cast

import numpy as np
from numpy.typing import NDArray

from ip2pbatch.pictures import grey

AnyPixels = NDArray[np.uint8] | NDArray[np.uint16]
Floats = NDArray[np.float32]

_ROWS = 64
_TAGS = (b"rTRC", b"gTRC", b"bTRC")
# Of the way back, over the root of light: light alone would give black's many levels a handful of steps.
_STEPS = 1 << 17


def mix(photo: AnyPixels, edited: AnyPixels, strength: float, icc: bytes | None) -> AnyPixels:
    """Both [h, w, 3] of one depth, in the colours of `icc` (sRGB where None) → the same; `strength` 0 is `photo`.

    A profile that is a table and has no curves is taken for one with sRGB's. Raises ValueError on shapes that do not
    fit.
    """
    if photo.shape != edited.shape or photo.dtype != edited.dtype:
        raise ValueError(f"shapes do not fit: {photo.shape} {photo.dtype}, {edited.shape} {edited.dtype}")
    if strength <= 0:
        return photo
    mixed: AnyPixels = np.empty_like(edited)
    for channel, light in enumerate(_lights(icc)):
        mixed[..., channel] = _mixed(photo[..., channel], edited[..., channel], strength, light)
    return mixed


def _mixed(photo: AnyPixels, edited: AnyPixels, strength: float, light: Floats) -> AnyPixels:
    """One channel [h, w]. Of eight bits there are 65,536 pairs, which a table holds."""
    back = _way_back(light)
    if photo.dtype == np.uint8:
        one, other = np.meshgrid(np.arange(256, dtype=np.uint8), np.arange(256, dtype=np.uint8), indexing="ij")
        table = _between(one, other, strength, light[::257], back)
        return table[photo, edited]
    mixed: AnyPixels = np.empty_like(edited)
    for top in range(0, len(photo), _ROWS):
        part = slice(top, top + _ROWS)
        mixed[part] = _between(photo[part], edited[part], strength, light, back)
    return mixed


def _between(photo: AnyPixels, edited: AnyPixels, strength: float, light: Floats, back: Floats) -> AnyPixels:
    share = np.float32(strength)
    at = np.sqrt((1 - share) * light[photo] + share * light[edited]) * np.float32(_STEPS)
    below = np.minimum(at.astype(np.int32), _STEPS - 1)
    at -= below
    levels = (1 - at) * back[below] + at * back[below + 1]
    levels *= np.float32(np.iinfo(photo.dtype).max)
    return cast(AnyPixels, np.clip(np.rint(levels).astype(photo.dtype), *_ends(photo, edited)))


def _ends(photo: AnyPixels, edited: AnyPixels) -> tuple[AnyPixels, AnyPixels]:
    return np.minimum(photo, edited), np.maximum(photo, edited)


@lru_cache(maxsize=4)
def _lights(icc: bytes | None) -> tuple[Floats, Floats, Floats]:
    """The light, 0 to 1, of 65,536 numbers of red, green and blue."""
    try:
        red, green, blue = (_light(grey.curve(icc, tag)) for tag in _TAGS) if icc else (_srgb(),) * 3
    except (struct.error, ValueError, IndexError):
        red = green = blue = _srgb()
    return red, green, blue


@lru_cache(maxsize=1)
def _srgb() -> Floats:
    return _light(grey.srgb_light(np.linspace(0, 1, 1 << 16)))


def _light(curve: NDArray[np.float64]) -> Floats:
    """A curve that never falls. Raises ValueError where it does not rise at all."""
    rising = np.maximum.accumulate(np.clip(curve, 0, 1))
    if not rising[-1] > rising[0]:
        raise ValueError("a curve that does not rise")
    return rising.astype(np.float32)


def _way_back(light: Floats) -> Floats:
    """The numbers, 0 to 1, of `_STEPS` + 1 roots of light."""
    roots = np.linspace(0, 1, _STEPS + 1)
    return np.interp(roots, np.sqrt(light.astype(np.float64)), np.linspace(0, 1, len(light))).astype(np.float32)
