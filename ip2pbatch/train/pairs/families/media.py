"""Media: drawn, painted and printed."""

from __future__ import annotations

import numpy as np
from PIL import Image
from scipy import ndimage

from ip2pbatch.train.pairs.families.raster import (
    Floats,
    Rgb,
    blur,
    colour,
    curve,
    edges,
    flatten,
    grid,
    levels,
    luma,
    mix,
    pixels,
    ramp,
    resize,
    saturate,
    slopes,
    smear,
    smooth_noise,
    tint,
    to_bytes,
    to_float,
)


def pencil_sketch(rgb: Rgb, strength: float, rng: np.random.Generator) -> Rgb:
    """Graphite lines on white paper by colour dodge, with a little hatching in the shadows."""
    grey = luma(to_float(rgb))
    dodge = np.clip(grey / np.maximum(blur(grey, 3.2), 0.02), 0, 1)
    lines = curve(dodge, [(0, 0.1), (0.7, 0.25), (0.92, 0.8), (1, 1)]) ** strength
    lines = np.minimum(lines, 1 - 0.55 * np.clip(edges(grey, 1.0) - 0.25, 0, 1))
    return to_bytes(0.06 + 0.92 * lines)


def charcoal(rgb: Rgb, strength: float, rng: np.random.Generator) -> Rgb:
    """Broad black strokes smudged into warm grey paper."""
    grey = levels(luma(to_float(rgb)))
    tone = curve(blur(grey, 2.0), [(0, 0.03), (0.3, 0.14), (0.5, 0.45), (0.75, 0.82), (1, 0.95)])
    line = np.clip(edges(grey, 1.8) * 1.1 - 0.15, 0, 1) * strength
    tooth = 0.86 + 0.28 * smooth_noise(grey, 4.0, rng)
    drawn = tone * (1 - 0.9 * np.clip(line, 0, 1)) * tooth
    return to_bytes(tint(drawn, [(0, "#0b0a09"), (0.5, "#7d756b"), (0.9, "#e4d9c6")]))


def watercolour(rgb: Rgb, strength: float, rng: np.random.Generator) -> Rgb:
    """Light washes that pool at their borders and leave the paper's edge white."""
    photo = to_float(rgb)
    wash = flatten(photo, 7.0, passes=2)
    bright = 1 - (1 - wash) * np.float32(0.72)
    bright = saturate(bright, 1.0 + 0.55 * strength)
    pool = np.clip(edges(luma(wash), 1.2), 0, 1.2)
    bleed = smooth_noise(photo, 22.0, rng)
    paint = bright * (1 - 0.24 * pool * strength)[..., None] * (0.93 + 0.12 * bleed)[..., None]
    x, y = grid(photo)
    rim = np.minimum(np.minimum(x, 1 - x), np.minimum(y, 1 - y)) + 0.07 * (bleed - 0.5)
    return to_bytes(mix(paint, colour("#fbf8f0"), ramp(rim, 0.085, 0.045)))


def oil_painting(rgb: Rgb, strength: float, rng: np.random.Generator) -> Rgb:
    """Thick strokes of rich colour along the contours, lit from the upper left."""
    photo = to_float(rgb)
    paint = flatten(photo, 6.5, passes=2)
    dx, dy = slopes(luma(paint), 3.0)
    # where nothing has a direction the strokes lie slightly aslant
    along_x, along_y = blur(-dy, 5.0) + np.float32(2e-3), blur(dx, 5.0) + np.float32(1e-3)
    norm = np.hypot(along_x, along_y) + np.float32(1e-6)
    bristle = smear(smooth_noise(photo, 3.5, rng), (along_x / norm, along_y / norm), 10.0)
    rx, ry = slopes(0.8 * luma(paint) + 0.9 * bristle, 1.0)
    light = np.clip((rx + ry) * np.float32(0.9 * strength), -0.16, 0.2)
    rich = saturate(curve(paint, [(0, 0.02), (0.25, 0.2), (0.75, 0.84), (1, 1)]), 1.55)
    return to_bytes(rich + light[..., None])


def pop_art(rgb: Rgb, strength: float, rng: np.random.Generator) -> Rgb:
    """A screen-printed poster: four flat inks by lightness."""
    grey = levels(blur(luma(to_float(rgb)), 1.0))
    grey = np.clip(0.5 + (grey - np.median(grey)) * np.float32(1.3 * strength), 0, 1)
    inks = [colour(name) for name in ("#1b1464", "#e6177f", "#ff8a00", "#ffee33")]
    out = np.broadcast_to(inks[0], (*grey.shape, 3)).copy()
    for cut, ink in zip((0.28, 0.5, 0.72), inks[1:], strict=True):
        out = mix(out, ink, ramp(grey, cut - 0.02, cut + 0.02))
    return to_bytes(out)


def comic_halftone(rgb: Rgb, strength: float, rng: np.random.Generator) -> Rgb:
    """Newsprint dots on a slanted screen under black contours."""
    photo = to_float(rgb)
    height, width = photo.shape[:2]
    flat = saturate(flatten(photo, 5.0), 1.7)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    pitch = pixels(photo, 8.0) * np.sqrt(2)
    u, v = (x + y) * (np.pi / pitch), (x - y) * (np.pi / pitch)
    screen = 0.5 + 0.25 * (np.cos(u) + np.cos(v))
    tone = levels(blur(luma(photo), 1.5))
    dots = ramp(screen - tone * 0.95, -0.06, 0.06)
    paper = np.clip(0.25 + 0.85 * flat, 0, 1)
    ink = mix(paper, paper * colour("#3a2a5a"), dots * min(1.0, 0.9 * strength))
    line = ramp(edges(luma(photo), 1.2), 0.55, 0.95)
    return to_bytes(mix(ink, 0.03, line))


def cartoon(rgb: Rgb, strength: float, rng: np.random.Generator) -> Rgb:
    """Flat vivid fills in few steps of light, with bold black outlines."""
    photo = to_float(rgb)
    flat = flatten(photo, 5.0, passes=2)
    grey = luma(flat)
    step = 4.0
    stairs = (np.floor(grey * step) + ramp(grey * step % 1, 0.4, 0.6)) / step
    fill = saturate(flat * ((0.16 + 0.95 * stairs) / np.maximum(grey, 0.03))[..., None], 1.0 + 0.7 * strength)
    line = ramp(edges(luma(photo), 1.4), 0.42, 0.75)
    return to_bytes(mix(fill, 0.02, line))


def _blocks(photo: Floats, length: float) -> tuple[int, int]:
    side = max(2.0, pixels(photo, length))
    return max(1, round(photo.shape[0] / side)), max(1, round(photo.shape[1] / side))


def _nearest(picture: Floats, height: int, width: int) -> Floats:
    rows = np.arange(height) * picture.shape[0] // height
    columns = np.arange(width) * picture.shape[1] // width
    blocks: Floats = picture[rows][:, columns]
    return blocks


def pixel_art(rgb: Rgb, strength: float, rng: np.random.Generator) -> Rgb:
    """Large square pixels in a small palette, as on an old console."""
    photo = to_float(rgb)
    small = resize(photo, _blocks(photo, 8.0), Image.Resampling.BOX)
    small = saturate(np.clip((small - 0.5) * 1.15 + 0.5, 0, 1), 1.0 + 0.35 * strength)
    few = np.round(np.clip(small, 0, 1) * 6) / np.float32(6)
    return to_bytes(_nearest(few, *photo.shape[:2]))


def mosaic(rgb: Rgb, strength: float, rng: np.random.Generator) -> Rgb:
    """Glazed square tiles in pale grout, each lit at its upper left edge."""
    photo = to_float(rgb)
    rows, columns = _blocks(photo, 16.0)
    tiles = saturate(resize(photo, (rows, columns), Image.Resampling.BOX), 1.35)
    x, y = grid(photo)
    u, v = x * columns % 1, y * rows % 1
    bevel = ramp(np.minimum(u, v), 0.3, 0.08) * 0.22 - ramp(np.maximum(u, v), 0.7, 0.92) * 0.22
    face = _nearest(tiles, *photo.shape[:2]) + (bevel * strength)[..., None]
    grout = ramp(np.minimum(np.minimum(u, 1 - u), np.minimum(v, 1 - v)), 0.12, 0.05)
    return to_bytes(mix(face, colour("#e9e4d8"), grout))


def stained_glass(rgb: Rgb, strength: float, rng: np.random.Generator) -> Rgb:
    """Pieces of glowing glass that follow the photo's shapes, held by black lead."""
    photo = to_float(rgb)
    label, count = _pieces(photo, 20.0, rng)
    area = np.maximum(np.bincount(label.ravel(), minlength=count), 1)
    mean = np.stack(
        [np.bincount(label.ravel(), photo[..., c].ravel(), minlength=count) / area for c in range(3)], axis=1
    ).astype(np.float32)
    glass = saturate(curve(mean, [(0, 0.05), (0.3, 0.32), (0.7, 0.85), (1, 1)])[None], 1.0 + 0.9 * strength)[0]
    pane = np.clip(glass, 0.02, 1)[label]
    border = (label != np.roll(label, 1, 0)) | (label != np.roll(label, 1, 1))
    border[0], border[:, 0] = True, True
    away = ndimage.distance_transform_edt(~border).astype(np.float32)
    lead = pixels(photo, 1.9)
    glow = 0.8 + 0.3 * ramp(away, lead, lead * 4)
    return to_bytes(mix(pane * glow[..., None], colour("#0a0a0c"), ramp(away, lead + 0.6, lead - 0.4)))


def _pieces(photo: Floats, length: float, rng: np.random.Generator) -> tuple[np.ndarray, int]:
    """One assignment step of SLIC (Achanta et al. 2012): every pixel goes to the seed near in place and colour."""
    height, width = photo.shape[:2]
    rows, columns = _blocks(photo, length)
    jitter = rng.random((rows, columns, 2)) * 0.5 - 0.25
    smooth = blur(photo, 1.5)
    seed_y = np.clip(((np.arange(rows)[:, None] + 0.5 + jitter[..., 0]) * height / rows), 0, height - 1)
    seed_x = np.clip(((np.arange(columns)[None] + 0.5 + jitter[..., 1]) * width / columns), 0, width - 1)
    seed_colour = blur(photo, 4.0)[seed_y.astype(int), seed_x.astype(int)]
    y, x = np.mgrid[0:height, 0:width]
    row, column = y * rows // height, x * columns // width
    best = np.full((height, width), np.inf, np.float32)
    label = np.zeros((height, width), np.int64)
    step = pixels(photo, length)
    for dr in (-1, 0, 1):
        for dc in (-1, 0, 1):
            r, c = np.clip(row + dr, 0, rows - 1), np.clip(column + dc, 0, columns - 1)
            place = ((y - seed_y[r, c]) ** 2 + (x - seed_x[r, c]) ** 2) / step**2
            shade = np.square(smooth - seed_colour[r, c]).sum(axis=2)
            cost = (place + 4.0 * shade).astype(np.float32)
            better = cost < best
            best = np.where(better, cost, best)
            label = np.where(better, r * columns + c, label)
    return label, rows * columns


def blueprint(rgb: Rgb, strength: float, rng: np.random.Generator) -> Rgb:
    """White construction lines on blue paper with a drafting grid."""
    photo = to_float(rgb)
    grey = luma(photo)
    line = np.clip(edges(grey, 0.9) * 1.1 - 0.18, 0, 1) * min(1.2, strength)
    rows, columns = _blocks(photo, 16.0)
    x, y = grid(photo)
    u, v = np.abs(x * columns % 1 - 0.5), np.abs(y * rows % 1 - 0.5)
    ruled = ramp(np.maximum(u, v), 0.44, 0.5) * 0.22
    paper = tint(grey, [(0, "#0b2f78"), (1, "#2258b4")])
    return to_bytes(mix(paper, colour("#f2f7ff"), np.clip(np.maximum(line, ruled), 0, 1)))


def emboss(rgb: Rgb, strength: float, rng: np.random.Generator) -> Rgb:
    """A grey relief pressed into sheet metal, lit from the upper left."""
    dx, dy = slopes(luma(to_float(rgb)), 1.0)
    return to_bytes(0.5 + np.clip((dx + dy) * np.float32(4.2 * strength), -0.48, 0.48))
