"""Colour: one hue changed or kept, or all of them swapped."""

from __future__ import annotations

import numpy as np

from ip2pbatch.train.pairs.families.raster import (
    Floats,
    Rgb,
    blur,
    from_hue,
    hue_saturation,
    luma,
    mix,
    near_hue,
    ramp,
    saturate,
    to_bytes,
    to_float,
)


def redness(photo: Floats) -> Floats:
    """1 on what a person calls red (from pink to orange-red), 0 on skin's paler tones, other hues and greys."""
    hue, chroma, value = hue_saturation(photo)
    strong = ramp(chroma / np.maximum(value, 0.08), 0.32, 0.52) * ramp(chroma, 0.08, 0.18)
    return blur(near_hue(hue, 356, 11, 20) * strong, 0.8)


def red_to_blue(rgb: Rgb, strength: float, rng: np.random.Generator) -> Rgb:
    """Red things turn a clear blue, everything else stays."""
    photo = to_float(rgb)
    hue, chroma, value = hue_saturation(photo)
    blue = from_hue(hue - 355 + 220, np.minimum(chroma * (1.0 + 0.1 * strength), value), value)
    return to_bytes(mix(photo, blue, redness(photo) * min(1.0, strength)))


def only_red(rgb: Rgb, strength: float, rng: np.random.Generator) -> Rgb:
    """Colour key: red stays and glows, the rest is a soft, dark grey."""
    photo = to_float(rgb)
    grey = luma(photo)
    quiet = np.dstack([0.08 + 0.62 * grey**1.25] * 3).astype(np.float32)
    vivid = saturate(photo, 1.35)
    rest = mix(photo, quiet, min(1.0, strength))
    return to_bytes(mix(rest, vivid, redness(photo)))


def swap_colours(rgb: Rgb, strength: float, rng: np.random.Generator) -> Rgb:
    """Every colour replaced by another of the same lightness: red to green, green to blue, blue to red."""
    photo = to_float(rgb)
    grey = luma(photo)[..., None]
    turned = photo[..., [2, 0, 1]]
    turned = turned + (grey - luma(turned)[..., None]) * np.float32(0.6)
    return to_bytes(mix(photo, saturate(turned, 1.6), min(1.0, strength)))
