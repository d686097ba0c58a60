"""Tone: what a photographer does with the sliders."""

from __future__ import annotations

import numpy as np

from ip2pbatch.train.pairs.families.raster import (
    Floats,
    Rgb,
    blur,
    colour,
    curve,
    grid,
    levels,
    luma,
    mix,
    ramp,
    saturate,
    tint,
    to_bytes,
    to_float,
)


def black_and_white(rgb: Rgb, strength: float, rng: np.random.Generator) -> Rgb:
    """Silver print: neutral, with deep blacks and clean whites."""
    photo = to_float(rgb)
    grey = levels(photo @ np.array([0.45, 0.45, 0.10], np.float32))
    punch = curve(grey, [(0, 0), (0.25, 0.16), (0.5, 0.5), (0.75, 0.84), (1, 1)])
    return to_bytes(mix(grey, punch, strength))


def sepia(rgb: Rgb, strength: float, rng: np.random.Generator) -> Rgb:
    """Monochrome in brown, the paper a little yellow."""
    grey = levels(luma(to_float(rgb)))
    brown = tint(grey, [(0, "#2a1606"), (0.35, "#7a4a1e"), (0.7, "#cf9f63"), (1, "#f9e4b8")])
    return to_bytes(mix(np.dstack([grey] * 3), brown, min(strength, 1.15)))


def _gain(rgb: Rgb, gains: tuple[float, float, float], strength: float) -> Rgb:
    # in linear light, as a white balance is
    linear = to_float(rgb) ** 2.2
    linear *= np.array(gains, np.float32) ** np.float32(strength)
    return to_bytes(np.clip(linear, 0, 1) ** (1 / 2.2))


def warmer(rgb: Rgb, strength: float, rng: np.random.Generator) -> Rgb:
    """White balance far towards tungsten orange."""
    return _gain(rgb, (1.75, 0.95, 0.28), strength)


def cooler(rgb: Rgb, strength: float, rng: np.random.Generator) -> Rgb:
    """White balance far towards blue."""
    return _gain(rgb, (0.33, 0.88, 2.1), strength)


def brighter(rgb: Rgb, strength: float, rng: np.random.Generator) -> Rgb:
    """Two stops more light with a soft shoulder."""
    photo = to_float(rgb)
    linear = photo**2.2 * np.float32(2 ** (2.0 * strength))
    return to_bytes((1 - np.exp(-linear * 1.25)) ** (1 / 2.2))


def darker(rgb: Rgb, strength: float, rng: np.random.Generator) -> Rgb:
    """Two and a half stops less light."""
    return to_bytes(to_float(rgb) * np.float32(2 ** (-2.5 * strength / 2.2)))


def contrast(rgb: Rgb, strength: float, rng: np.random.Generator) -> Rgb:
    """A steep S curve and vivid colours around the photo's own middle."""
    photo = to_float(rgb)
    middle = float(np.clip(np.median(luma(photo)), 0.25, 0.7))
    steep = 1 / (1 + np.exp(-(photo - middle) * np.float32(10 * strength)))
    return to_bytes(saturate(steep, 1.12))


def faded_film(rgb: Rgb, strength: float, rng: np.random.Generator) -> Rgb:
    """Expired film: blacks lifted to teal, whites sunk to pink, little contrast."""
    photo = to_float(rgb)
    pale = saturate(photo, 1 - 0.55 * strength)
    shadow, light = colour("#4f7478"), colour("#f2cdb9")
    faded = shadow + (light - shadow) * pale
    return to_bytes(mix(photo, faded, min(1.0, strength)))


def vintage(rgb: Rgb, strength: float, rng: np.random.Generator) -> Rgb:
    """A print from the seventies: yellowed, brown shadows, a light leak, dark corners, a cream border."""
    photo = to_float(rgb)
    x, y = grid(photo)
    crisp = curve(photo, [(0, 0), (0.3, 0.26), (0.7, 0.78), (1, 1)])
    aged = saturate(crisp, 0.8) * colour("#f8dda4") + colour("#331a12") * (1 - crisp)
    leak = ramp(np.abs(x - 0.5), 0.12, 0.5) ** 2 * (0.6 + 0.4 * np.cos(y * 5.0))
    aged = 1 - (1 - aged) * (1 - leak[..., None] * colour("#ff5a1e") * np.float32(0.75 * strength))
    edge = np.minimum(np.minimum(x, 1 - x) * photo.shape[1], np.minimum(y, 1 - y) * photo.shape[0])
    edge = edge / min(photo.shape[:2])
    border = ramp(edge, 0.050, 0.040)
    return to_bytes(mix(aged, colour("#efe3c6"), border))


def high_key(rgb: Rgb, strength: float, rng: np.random.Generator) -> Rgb:
    """Airy studio white: pale colours, blown highlights, the edges dissolving into white."""
    photo = to_float(rgb)
    x, y = grid(photo)
    grey = levels(luma(photo))
    bright = curve(grey, [(0, 0.18), (0.25, 0.62), (0.5, 0.9), (0.75, 1.0), (1, 1)])
    pale = saturate(bright[..., None] + (photo - luma(photo)[..., None]), 0.6)
    pale = 1 - (1 - pale) * (1 - np.float32(0.35) * blur(pale, 5) ** 2)
    halo = ramp(np.hypot((x - 0.5) * 1.25, (y - 0.5) * 1.25), 0.35, 0.75)
    return to_bytes(mix(pale, 1.0, halo * min(1.0, 0.9 * strength)))


def invert(rgb: Rgb, strength: float, rng: np.random.Generator) -> Rgb:
    """A photographic negative."""
    photo = to_float(rgb)
    return to_bytes(mix(photo, 1 - photo, min(1.0, strength)))


def vignette(rgb: Rgb, strength: float, rng: np.random.Generator) -> Rgb:
    """Corners and edges fall into black, the centre stays."""
    photo = to_float(rgb)
    x, y = grid(photo)
    away = np.hypot(x - 0.5, y - 0.5)
    light: Floats = 1 - min(1.0, 0.95 * strength) * ramp(away, 0.24, 0.64)
    return to_bytes(photo * light[..., None])
