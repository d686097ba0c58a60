"""Light, weather and season."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage

from ip2pbatch.train.pairs.families.raster import (
    Floats,
    Rgb,
    blur,
    colour,
    curve,
    edges,
    from_hue,
    grid,
    hue_saturation,
    levels,
    luma,
    mix,
    near_hue,
    pixels,
    ramp,
    saturate,
    slopes,
    smooth_noise,
    tint,
    to_bytes,
    to_float,
)


def sky(photo: Floats) -> Floats:
    """Bright or blue, calm, and in the upper part: a soft guess at the sky."""
    hue, chroma, value = hue_saturation(photo)
    _, y = grid(photo)
    calm = ramp(blur(np.minimum(edges(luma(photo), 1.0), 1), 3.0), 0.40, 0.12)
    blue = near_hue(hue, 215, 35, 60) * ramp(chroma, 0.05, 0.15) * ramp(value, 0.25, 0.5)
    pale = ramp(value, 0.62, 0.82) * ramp(chroma, 0.25, 0.1)
    return blur(np.maximum(blue, pale) * calm * ramp(y, 0.75, 0.35), 1.5)


def foliage(photo: Floats) -> Floats:
    """Grass and leaves: hues from yellow to green with some colour in them."""
    hue, chroma, value = hue_saturation(photo)
    return near_hue(hue, 92, 48, 68) * ramp(chroma / np.maximum(value, 0.1), 0.10, 0.28)


def sun_side(photo: Floats) -> float:
    """Where the light comes from, x in 0.1..0.9: the centre of the highlights in the upper half, exaggerated."""
    grey = levels(luma(photo))[: photo.shape[0] // 2] ** 4
    x = (np.arange(photo.shape[1]) + 0.5) / photo.shape[1]
    centre = float((grey.sum(axis=0) * x).sum() / max(float(grey.sum()), 1e-6))
    return float(np.clip(0.5 + 4 * (centre - 0.5), 0.1, 0.9))


def scatter(photo: Floats, count: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """`count` places per 256 × 256, [n, 2] as (x, y) in 0..1: a jittered lattice, neither clumped nor in rows."""
    height, width = photo.shape[:2]
    number = max(1, round(count * height * width / pixels(photo, 256.0) ** 2))
    lattice = np.arange(1, number + 1)[:, None] * np.array([0.7548777, 0.5698403])
    places: NDArray[np.float64] = (lattice + rng.random(2) + rng.normal(0, 0.35 / number**0.5, (number, 2))) % 1
    return places


def discs(photo: Floats, count: int, radii: tuple[float, float], rng: np.random.Generator) -> Floats:
    """A plane with `count` soft discs (for 256 × 256), most of them small."""
    height, width = photo.shape[:2]
    places = scatter(photo, count, rng)
    sizes = radii[0] + (radii[1] - radii[0]) * rng.random(len(places)) ** 2
    canvas = Image.new("L", (width * 2, height * 2))
    draw = ImageDraw.Draw(canvas)
    for (x, y), size in zip(places * (width * 2, height * 2), sizes, strict=True):
        r = pixels(photo, size) * 2
        draw.ellipse((x - r, y - r, x + r, y + r), fill=255)
    return blur(_halved(canvas), 0.7)


def _halved(canvas: Image.Image) -> Floats:
    """A mask drawn at twice its size, made smooth."""
    return np.asarray(canvas.reduce(2), np.float32) / np.float32(255)


def winter(rgb: Rgb, strength: float, rng: np.random.Generator) -> Rgb:
    """Snow on the ground, on leaves and on whatever faces up; cold light; large flakes in the air."""
    photo = to_float(rgb)
    grey = luma(photo)
    _, y = grid(photo)
    cold = mix(photo, tint(grey, [(0, "#1a2433"), (0.5, "#7f95ad"), (1, "#f4f9ff")]), 0.75)
    dx, dy = slopes(grey, 1.3)
    ledge = np.roll(np.maximum(np.abs(dy) - 0.7 * np.abs(dx), 0), round(pixels(photo, 2)), axis=0)
    ledge = ramp(blur(ledge, 1.2), 0.008, 0.035)
    ground = ramp(y, 0.45, 0.95) * ramp(grey, 0.12, 0.35)
    cover = np.maximum(np.maximum(foliage(photo) * ramp(grey, 0.10, 0.30), 0.85 * ledge), 0.9 * ground)
    cover = np.clip(cover * min(1.15, strength), 0, 1) * (1 - sky(photo))
    snow = tint(levels(grey), [(0, "#8fa3bd"), (0.35, "#cfdcea"), (0.7, "#f2f7fc"), (1, "#ffffff")])
    white = mix(cold, snow, cover)
    return to_bytes(mix(white, 1.0, 0.92 * discs(photo, int(90 * strength), (1.4, 3.4), rng)))


def autumn(rgb: Rgb, strength: float, rng: np.random.Generator) -> Rgb:
    """Leaves turned orange and red, everything in low russet light, a few leaves in the air."""
    photo = to_float(rgb)
    _, chroma, value = hue_saturation(photo)
    glow = np.minimum(value * 1.12, 1)
    turned = from_hue(8 + 30 * ramp(value, 0.2, 0.8), np.minimum(chroma * 1.5 + 0.3 * value, glow), glow)
    russet = tint(luma(photo), [(0, "#1f0c12"), (0.3, "#74301a"), (0.65, "#d08a4a"), (1, "#fff0d0")])
    warm = mix(saturate(photo, 1.15), russet, 0.5 * strength)
    scene = mix(warm, turned, np.clip(foliage(photo) * strength, 0, 1))
    for ink in ("#d8481a", "#f2a01e", "#a3261b"):
        scene = mix(scene, colour(ink), _leaves(photo, 10, rng))
    return to_bytes(scene)


def _leaves(photo: Floats, count: int, rng: np.random.Generator) -> Floats:
    """Pointed ovals, each turned its own way."""
    height, width = photo.shape[:2]
    outline = np.linspace(-1, 1, 9)
    belly = 0.45 * (1 - outline**2)
    shape = np.concatenate([outline + 1j * belly, outline[::-1] - 1j * belly[::-1]])
    canvas = Image.new("L", (width * 2, height * 2))
    draw = ImageDraw.Draw(canvas)
    for x, y in scatter(photo, count, rng) * (width * 2, height * 2):
        turned = shape * np.exp(2j * np.pi * rng.random()) * pixels(photo, 5.5 + 4 * rng.random()) * 2
        draw.polygon([(x + z.real, y + z.imag) for z in turned], fill=255)
    return _halved(canvas)


def spring_green(rgb: Rgb, strength: float, rng: np.random.Generator) -> Rgb:
    """Fresh: browns and yellows turn to young green, the light is high and clear, everything a little green."""
    photo = to_float(rgb)
    hue, chroma, value = hue_saturation(photo)
    earth = near_hue(hue, 78, 44, 62) * ramp(chroma / np.maximum(value, 0.1), 0.10, 0.3)
    lift = curve(value, [(0, 0), (0.3, 0.42), (0.7, 0.84), (1, 1)])
    fresh = from_hue(102 - 22 * ramp(value, 0.4, 0.9), np.minimum(chroma * 1.2 + 0.16 * value, 0.8 * lift), lift)
    mint = tint(luma(photo), [(0, "#0d2a12"), (0.4, "#5fa04a"), (0.75, "#c3e58a"), (1, "#fdffe8")])
    light = mix(saturate(photo, 1.1), mint, 0.5 * strength)
    return to_bytes(mix(light, fresh, np.clip(earth * strength, 0, 1)))


def rain(rgb: Rgb, strength: float, rng: np.random.Generator) -> Rgb:
    """A downpour: dim blue-grey light, long streaks, the ground a wet mirror."""
    photo = to_float(rgb)
    height = photo.shape[0]
    _, y = grid(photo)
    dim = mix(photo, tint(luma(photo), [(0, "#0c1218"), (0.5, "#59656f"), (1, "#b4bfc8")]), 0.72)
    line = int(height * 0.7)
    mirror = blur(dim[line - np.arange(height - line) - 1], 4.0) * np.float32(0.8) + np.float32(0.1)
    dim[line:] = mix(dim[line:], mirror, ramp(y[line:], 0.69, 0.82) * 0.55)
    return to_bytes(mix(dim, colour("#dfe8ef"), _streaks(photo, rng) * min(0.75, 0.6 * strength)))


def _streaks(photo: Floats, rng: np.random.Generator) -> Floats:
    height, width = photo.shape[:2]
    places = scatter(photo, 150, rng) * (width * 2, height * 2)
    canvas = Image.new("L", (width * 2, height * 2))
    draw = ImageDraw.Draw(canvas)
    thick = max(1, round(pixels(photo, 3.0)))
    for (x, y), size in zip(places, rng.random(len(places)), strict=True):
        length = pixels(photo, 32 + 36 * size)
        draw.line((x, y, x - 0.12 * length, y + length), fill=255, width=thick)
    return blur(_halved(canvas), 0.5)


def fog(rgb: Rgb, strength: float, rng: np.random.Generator) -> Rgb:
    """Thick mist: grey-white, thinner at the bottom where the ground is near, dark shapes showing through."""
    photo = to_float(rgb)
    _, y = grid(photo)
    soft = saturate(mix(photo, blur(photo, 2.5), ramp(y, 0.9, 0.3)), 0.35)
    veil = 0.85 - 0.42 * ramp(y, 0.3, 1.0) - 0.16 * ramp(levels(luma(soft)), 0.5, 0.0)
    return to_bytes(mix(soft, colour("#ccd2d6"), np.clip(veil * strength, 0, 0.97)))


def night(rgb: Rgb, strength: float, rng: np.random.Generator) -> Rgb:
    """Moonlit and deep blue, with small bright spots lit up as lamps."""
    photo = to_float(rgb)
    grey = levels(luma(photo))
    blue = tint(grey, [(0, "#01030c"), (0.4, "#0b1c40"), (0.8, "#29508a"), (1, "#4a76b8")])
    dark = mix(blue, photo * colour("#22304f"), 0.35) * np.float32(1.15 - 0.15 * strength)
    dark = mix(dark, dark * np.float32(0.35), sky(photo))
    # a lamp is bright, small, and not just the light side of an edge
    side = max(2, round(pixels(photo, 3.0)))
    core = ndimage.grey_erosion(grey, size=(side, side))
    lamps = ramp(core, 0.72, 0.95) * ramp(core - blur(grey, 14.0), 0.15, 0.4) * (1 - sky(photo))
    glow = np.clip(1.3 * blur(lamps, 6.0) + 0.9 * blur(lamps, 1.2), 0, 1)[..., None] * colour("#ffb648")
    return to_bytes(1 - (1 - dark) * (1 - glow * np.float32(0.92)))


def sunset(rgb: Rgb, strength: float, rng: np.random.Generator) -> Rgb:
    """The sky from violet to burning orange, the land nearly a silhouette."""
    photo = to_float(rgb)
    _, y = grid(photo)
    grey = levels(luma(photo))
    heaven = tint(y, [(0, "#3d1f6b"), (0.3, "#a8327a"), (0.55, "#ff6a2a"), (0.72, "#ffc04a"), (1, "#a83a18")])
    lit = heaven * (0.25 + 0.95 * grey[..., None])
    dark = tint(grey, [(0, "#07030d"), (0.5, "#4a1a2e"), (1, "#e8793a")])
    land = ramp(y, 0.55, 0.95) * 0.75
    return to_bytes(mix(photo, mix(lit, dark, land), min(1.0, 0.88 * strength)))


def golden_hour(rgb: Rgb, strength: float, rng: np.random.Generator) -> Rgb:
    """A low sun just out of the frame on the brighter side: haze and long golden light over soft brown shadows."""
    photo = to_float(rgb)
    x, y = grid(photo)
    gold = tint(luma(photo), [(0, "#3a1d10"), (0.4, "#b9752c"), (0.8, "#ffd27a"), (1, "#fff3c9")])
    lit = mix(photo, gold, 0.5)
    away = np.hypot((x - sun_side(photo)) * photo.shape[1], (y + 0.03) * photo.shape[0]) / min(photo.shape[:2])
    flare = np.clip(1.05 * np.exp(-away / 0.42) * strength, 0, 1)[..., None] * colour("#ffd98a")
    return to_bytes(1 - (1 - lit) * (1 - flare))


def overcast(rgb: Rgb, strength: float, rng: np.random.Generator) -> Rgb:
    """A flat grey day: no sun, no shadows, a lid of cloud."""
    photo = to_float(rgb)
    _, y = grid(photo)
    grey = luma(photo)
    wide = blur(grey, 18.0)
    flat = 0.53 + 0.5 * (grey - wide) + 0.2 * (wide - 0.5)
    pale = flat[..., None] + (photo - grey[..., None]) * np.float32(0.25)
    cloud = 0.66 + 0.22 * (smooth_noise(photo, 60.0, rng) - 0.5) + 0.12 * (smooth_noise(photo, 24.0, rng) - 0.5)
    heavy = mix(pale, cloud[..., None] * colour("#eef2f6"), np.clip(sky(photo) * 0.9, 0, 1))
    heavy = heavy * (1 - 0.22 * ramp(y, 0.45, 0.0))[..., None] * colour("#f2f7ff")
    return to_bytes(mix(photo, heavy, min(1.0, strength)))


def underwater(rgb: Rgb, strength: float, rng: np.random.Generator) -> Rgb:
    """Red swallowed, turquoise above and deep blue below, a net of sunlight over everything."""
    photo = to_float(rgb)
    x, y = grid(photo)
    grey = luma(photo)
    deep = tint(y, [(0, "#45d2cf"), (0.5, "#0f8fae"), (1, "#053b66")])
    sea = blur(photo, 1.0) * colour("#4fd0d8")
    sea = mix(sea, deep * (0.30 + 0.95 * grey[..., None]), min(0.9, 0.72 * strength))
    shafts = ramp(np.sin((x + 0.25 * y) * 16.0) + np.sin((x + 0.22 * y) * 27.0), 0.4, 1.9) * ramp(y, 0.8, 0.0)
    light = np.clip(0.55 * _caustics(photo) * ramp(y, 1.1, 0.0) + 0.35 * shafts, 0, 1)
    return to_bytes(1 - (1 - sea) * (1 - light[..., None] * colour("#d8fff4")))


def _caustics(photo: Floats) -> Floats:
    """The net that waves throw on the ground: a sine warped by itself (Hoskins' "tileable water caustic")."""
    height, width = photo.shape[:2]
    cell = pixels(photo, 74.0)
    v, u = (np.mgrid[0:height, 0:width] * (2 * np.pi / cell) % (2 * np.pi) - 250).astype(np.float32)
    a, b = u, v
    total = np.ones_like(u)
    for turn in range(5):
        phase = np.float32(23.3 * (1 - 3.5 / (turn + 1)))
        a, b = u + np.cos(phase - a) + np.sin(phase + b), v + np.sin(phase - b) + np.cos(phase + a)
        near_x, near_y = np.sin(a + phase) + np.float32(1e-5), np.cos(b + phase) + np.float32(1e-5)
        total += 1 / (0.005 * np.hypot(u / near_x, v / near_y))
    net: Floats = np.clip(np.abs(1.17 - (total / 5) ** 1.4) ** 8, 0, 1)
    return net
