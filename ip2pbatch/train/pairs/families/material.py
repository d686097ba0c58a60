"""Material: the scene carved in stone or wood, or cast in metal."""

from __future__ import annotations

import numpy as np

from ip2pbatch.train.pairs.families.raster import (
    Floats,
    Rgb,
    blur,
    colour,
    curve,
    flatten,
    grid,
    levels,
    luma,
    mix,
    ramp,
    slopes,
    smooth_noise,
    tint,
    to_bytes,
    to_float,
)


def _relief(grey: Floats, length: float, height: float) -> Floats:
    """Lambert shading of the luma as a height field, lit from the upper left; 0.5 is flat."""
    dx, dy = slopes(grey, length)
    shade: Floats = np.clip(0.5 + (dx + dy) * np.float32(height), 0, 1)
    return shade


def marble(rgb: Rgb, strength: float, rng: np.random.Generator) -> Rgb:
    """White stone with grey veins, the scene carved in soft relief."""
    photo = to_float(rgb)
    grey = levels(luma(flatten(photo, 5.0)))
    x, y = grid(photo)
    carved = 0.62 + 0.30 * (blur(grey, 1.2) - 0.5) + 0.65 * (_relief(grey, 1.5, 2.6 * strength) - 0.5)
    bend = smooth_noise(photo, 90.0, rng) + 0.3 * smooth_noise(photo, 30.0, rng) + 0.15 * blur(grey, 3.0)
    veins = 1 - np.abs(np.sin((1.3 * x + y) * 8.0 + bend * 4.0))
    stone = carved * (1 - 0.42 * ramp(veins, 0.86, 1.0)) + 0.12
    return to_bytes(tint(stone, [(0, "#3a3d42"), (0.5, "#a9adb1"), (0.8, "#e6e5e1"), (1, "#fffefa")]))


def wood(rgb: Rgb, strength: float, rng: np.random.Generator) -> Rgb:
    """Carved in oak: long grain that bends around the shapes."""
    photo = to_float(rgb)
    grey = levels(luma(flatten(photo, 5.0)))
    x, y = grid(photo)
    bend = smooth_noise(photo, 90.0, rng) * 1.2 + 0.35 * blur(grey, 4.0)
    grain = 0.5 + 0.5 * np.sin((y * 14.0 + bend * 4.0 + 0.4 * np.sin(x * 5)) * 2 * np.pi)
    carved = 0.52 + 0.42 * (blur(grey, 1.0) - 0.5) + 0.6 * (_relief(grey, 1.3, 2.6 * strength) - 0.5)
    return to_bytes(
        tint(carved + 0.20 * (grain - 0.5), [(0, "#2a1205"), (0.35, "#7a4217"), (0.65, "#b97a38"), (1, "#f0c98a")])
    )


def _polish(grey: Floats, strength: float) -> Floats:
    """The bands of light and dark that a polished body mirrors: a tone curve that rises, falls and rises again."""
    smooth = 0.6 * blur(grey, 2.2) + 0.4 * grey
    shine = curve(smooth, [(0, 0.02), (0.22, 0.34), (0.36, 0.16), (0.55, 0.62), (0.68, 0.40), (0.88, 0.98), (1, 0.86)])
    return mix(smooth, shine, min(1.1, strength))


def bronze(rgb: Rgb, strength: float, rng: np.random.Generator) -> Rgb:
    """A dark cast statue, brown on the heights and green with verdigris in the hollows."""
    photo = to_float(rgb)
    grey = levels(luma(flatten(photo, 4.0)))
    relief = _relief(grey, 1.2, 2.4)
    body = np.clip(0.75 * blur(grey, 1.0) ** 1.2 + 0.7 * (relief - 0.5), 0, 1)
    metal = tint(body, [(0, "#0d0805"), (0.3, "#3b2111"), (0.6, "#8a5526"), (0.85, "#d79a55"), (1, "#ffe2b0")])
    hollow = ramp(blur(grey, 12.0) - blur(grey, 1.5), -0.04, 0.2) * ramp(grey, 0.8, 0.3)
    patina = tint(body, [(0, "#12312b"), (0.25, "#356b5f"), (0.5, "#5ba08c"), (1, "#a8d8c0")])
    return to_bytes(mix(metal, patina, hollow * 0.85 * strength))


def gold(rgb: Rgb, strength: float, rng: np.random.Generator) -> Rgb:
    """Polished gold: bands of mirrored light from brown to pale yellow."""
    photo = to_float(rgb)
    grey = levels(luma(flatten(photo, 4.0)))
    shine = _polish(grey, strength) + 0.5 * (_relief(grey, 1.2, 2.2) - 0.5)
    metal = tint(shine, [(0, "#3b1f02"), (0.3, "#a86a08"), (0.6, "#f2b81c"), (0.82, "#ffe566"), (1, "#fffbe0")])
    return to_bytes(mix(metal, colour("#fff6c8"), ramp(shine, 0.95, 1.15)))
