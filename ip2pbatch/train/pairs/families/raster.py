"""The brushes that the edit families share: float pictures, blurs, ramps, edges, hue, smooth noise.

Pictures are float32 in 0..1, sRGB-encoded, [h, w, 3]; planes are [h, w]. Every length is given in pixels of a photo
whose short side is 256 and scaled to the photo at hand, so that a 192 px and a 512 px photo get the same look.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

Rgb = NDArray[np.uint8]
Floats = NDArray[np.float32]

REFERENCE_SIDE = 256
REC601 = np.array([0.299, 0.587, 0.114], np.float32)


def to_float(rgb: Rgb) -> Floats:
    """Bytes to 0..1."""
    return rgb.astype(np.float32) / np.float32(255)


def to_bytes(picture: NDArray[Any]) -> Rgb:
    """0..1 (clipped) to bytes; a plane becomes three equal channels."""
    if picture.ndim == 2:
        picture = np.repeat(picture[..., None], 3, axis=2)
    scaled: NDArray[Any] = np.clip(picture, 0, 1) * 255 + 0.5
    return scaled.astype(np.uint8)


def luma(picture: Floats) -> Floats:
    """Rec. 601 luma, the weights of JPEG."""
    return picture @ REC601


def pixels(picture: Floats, length: float) -> float:
    """`length`, given for a 256 px photo, in pixels of this picture."""
    side: int = min(picture.shape[:2])
    return length * side / REFERENCE_SIDE


def resize(plane: Floats, size: tuple[int, int], how: Image.Resampling = Image.Resampling.BICUBIC) -> Floats:
    """A plane or picture at another (height, width)."""
    if plane.ndim == 3:
        return np.stack([resize(plane[..., c], size, how) for c in range(plane.shape[2])], axis=2)
    return np.asarray(Image.fromarray(np.ascontiguousarray(plane, np.float32)).resize((size[1], size[0]), how))


def blur(picture: NDArray[Any], length: float) -> Floats:
    """Gaussian blur with a standard deviation of `length` (at 256 px); wide ones work on a reduced picture."""
    sigma = pixels(picture, length)
    factor = max(1, int(sigma / 2))
    height, width = picture.shape[:2]
    if factor > 1:
        small = resize(picture, (-(-height // factor), -(-width // factor)), Image.Resampling.BOX)
        return resize(_gaussian(small, sigma / factor), (height, width))
    return _gaussian(picture, sigma)


def _gaussian(picture: Floats, sigma: float) -> Floats:
    spread = (sigma, sigma, 0) if picture.ndim == 3 else sigma
    return ndimage.gaussian_filter(picture, spread, mode="nearest", truncate=3.0)


def ramp(plane: NDArray[Any], low: float, high: float) -> Floats:
    """Smoothstep from 0 at `low` to 1 at `high` (which may be the smaller one)."""
    t = np.clip((plane - low) / (high - low), 0, 1)
    return (t * t * (3 - 2 * t)).astype(np.float32)


def mix(a: NDArray[Any], b: NDArray[Any] | float, amount: NDArray[Any] | float) -> Floats:
    """`a` where `amount` is 0, `b` where it is 1; a plane of amounts spreads over the channels."""
    if isinstance(amount, np.ndarray) and amount.ndim == 2 and a.ndim == 3:
        amount = amount[..., None]
    return (a + (b - a) * amount).astype(np.float32)


def tint(plane: NDArray[Any], stops: Sequence[tuple[float, str]]) -> Floats:
    """A plane as colour: (position, "#rrggbb") stops, straight lines between them."""
    at = [position for position, _ in stops]
    colours = np.array([colour(name) for _, name in stops])
    return np.stack([np.interp(plane, at, colours[:, c]) for c in range(3)], axis=2).astype(np.float32)


def colour(name: str) -> Floats:
    """ "#rrggbb" as three floats."""
    return np.array([int(name[i : i + 2], 16) for i in (1, 3, 5)], np.float32) / np.float32(255)


def curve(plane: NDArray[Any], points: Sequence[tuple[float, float]]) -> Floats:
    """A tone curve through `points`, straight lines between them."""
    curved: NDArray[np.float64] = np.interp(plane, [x for x, _ in points], [y for _, y in points])
    return curved.astype(np.float32)


def saturate(picture: Floats, gain: float) -> Floats:
    """Distance from grey times `gain`: 0 is monochrome, above 1 is vivid."""
    grey = luma(picture)[..., None]
    vivid: Floats = grey + (picture - grey) * np.float32(gain)
    return vivid


def levels(plane: Floats, low: float = 1.0, high: float = 99.0) -> Floats:
    """Stretched so that the two percentiles land on 0 and 1; a flat plane is left alone."""
    bottom, top = np.percentile(plane[::2, ::2], (low, high))
    if top - bottom < 0.05:
        return plane
    stretched: NDArray[Any] = np.clip((plane - bottom) / (top - bottom), 0, 1)
    return stretched.astype(np.float32)


def slopes(plane: Floats, length: float) -> tuple[Floats, Floats]:
    """(d/dx, d/dy) of the plane blurred by `length`, per pixel of a 256 px photo."""
    smooth = blur(plane, length)
    scale = np.float32(pixels(plane, 1.0))
    along: list[Floats] = list(np.gradient(smooth))
    dy, dx = along
    return dx * scale, dy * scale


def edges(plane: Floats, length: float) -> Floats:
    """How steep the plane is at scale `length`, 0 in flat parts, about 1 on the photo's strong edges."""
    dx, dy = slopes(plane, length)
    steep = np.hypot(dx, dy)
    return (steep / max(float(np.percentile(steep[::2, ::2], 97)), 0.02)).astype(np.float32)


def hue_saturation(picture: Floats) -> tuple[Floats, Floats, Floats]:
    """(hue in degrees, chroma 0..1, value 0..1), as in HSV but with max - min in place of the saturation."""
    red, green, blue = picture[..., 0], picture[..., 1], picture[..., 2]
    top, bottom = picture.max(axis=2), picture.min(axis=2)
    chroma = top - bottom
    safe = np.where(chroma > 1e-6, chroma, 1)
    hue = np.where(
        top == red, (green - blue) / safe % 6, np.where(top == green, (blue - red) / safe + 2, (red - green) / safe + 4)
    )
    return (hue * 60).astype(np.float32), chroma, top


def from_hue(hue: NDArray[Any], chroma: NDArray[Any], value: NDArray[Any]) -> Floats:
    """The inverse of `hue_saturation`."""
    channels = []
    for offset in (5.0, 3.0, 1.0):
        k = (offset + hue / 60) % 6
        channels.append(value - chroma * np.clip(np.minimum(k, 4 - k), 0, 1))
    return np.stack(channels, axis=2).astype(np.float32)


def near_hue(hue: Floats, centre: float, full: float, zero: float) -> Floats:
    """1 within `full` degrees of `centre`, 0 from `zero` degrees on."""
    away = np.abs((hue - centre + 180) % 360 - 180)
    return ramp(away, zero, full)


def grid(picture: Floats) -> tuple[Floats, Floats]:
    """(x, y) of every pixel in 0..1."""
    height, width = picture.shape[:2]
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    return (x + 0.5) / width, (y + 0.5) / height


def smooth_noise(picture: Floats, length: float, rng: np.random.Generator) -> Floats:
    """Value noise in 0..1 whose bumps are `length` wide (at 256 px)."""
    height, width = picture.shape[:2]
    step = max(2.0, pixels(picture, length))
    coarse = rng.random((int(height / step) + 3, int(width / step) + 3)).astype(np.float32)
    fine = resize(coarse, (int(coarse.shape[0] * step), int(coarse.shape[1] * step)))
    return np.clip(fine[:height, :width], 0, 1)


def flatten(picture: Floats, length: float, passes: int = 1) -> Floats:
    """Generalised Kuwahara filter: every pixel takes the mean of the calmest of eight neighbouring windows.

    Papari et al. 2007, with round-ish windows instead of sectors and weights 1 / variance^4. `length` is the window's
    width at 256 px.
    """
    for _ in range(passes):
        picture = _kuwahara(picture, pixels(picture, length))
    return picture


def _kuwahara(picture: Floats, width: float) -> Floats:
    size = max(3, round(width * 0.6))
    reach = max(1, round(width / 2))
    stack = np.dstack([picture, luma(picture) ** 2])
    for _ in range(2):  # a box over a box is nearly round; one alone leaves square patches
        stack = ndimage.uniform_filter(stack, (size, size, 0), mode="nearest")
    variance = np.maximum(stack[..., 3] - luma(stack[..., :3]) ** 2, 0)
    weight = 1 / (variance + np.float32(3e-4)) ** 4
    weighted = np.dstack([stack[..., :3] * weight[..., None], weight])
    weighted = np.pad(weighted, ((reach, reach), (reach, reach), (0, 0)), "edge")
    rows, columns = picture.shape[:2]
    total = np.zeros((rows, columns, 4), np.float32)
    for turn in range(8):
        top = reach + round(reach * np.sin(turn * np.pi / 4))
        left = reach + round(reach * np.cos(turn * np.pi / 4))
        total += weighted[top : top + rows, left : left + columns]
    return total[..., :3] / total[..., 3:]


def smear(plane: Floats, towards: tuple[Floats, Floats], length: float, steps: int = 5) -> Floats:
    """The plane averaged along a field of directions (x, y): what a brush drawn that way leaves of it.

    Line integral convolution (Cabral and Leedom 1993), straight over `length` pixels to both sides.
    """
    rows, columns = plane.shape
    y, x = np.mgrid[0:rows, 0:columns].astype(np.float32)
    reach = pixels(plane, length)
    total = plane.copy()
    for step in (np.arange(1, steps + 1) / steps * reach).astype(np.float32):
        for side in (step, -step):
            at_y = np.clip(y + towards[1] * side, 0, rows - 1).astype(np.intp)
            at_x = np.clip(x + towards[0] * side, 0, columns - 1).astype(np.intp)
            total += plane[at_y, at_x]
    return total / np.float32(2 * steps + 1)
