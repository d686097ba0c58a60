"""Enlarges what an edit added along its own contours: no steps of the model's pixels, and no blur where it was sharp.

Diffusion along contours, by the directions of the structure tensor, takes steps out of them; a shock filter (Osher and
Rudin 1990, with that diffusion as Alvarez and Mazorra 1994 have it) brings strong ones together again across. It is
done where it is asked for, in blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ip2pbatch.pictures.lifting.planes import Floats, gauss, luma, resized, smoothstep

Work = Callable[[Floats, Floats], Floats]

_MOST = 2_200_000  # pixels of an enlargement: what is beyond it is left to a plain one
_NEW = 0.02  # of what is asked for: below this nothing would show
_TENSOR = 1.5  # σ in model pixels of the window in which contours have one direction
_WEAK, _STRONG = 3.0, 9.0  # of 255 a model pixel: contours between which sharpening sets in; weaker ones are smoothed
_MOTTLE = 0.7  # of what is finer than a model pixel and no contour: a decoder left it
_ALONG, _ACROSS = 0.4, 0.35  # step sizes of diffusion and shock; both are stable up to 0.5
_HELD = 0.15  # diffusion along contours beside each step of the shock
_BLOCK, _MARGIN = 64, 16  # a block's side in model pixels, and what is worked on around it in its own


def times(small: tuple[int, int], large: tuple[int, int]) -> int:
    """How many times larger [h, w] `small` is made here on the way to [H, W] `large`: 4, 2, or 1 for not at all."""
    room = min(large[0] / small[0], large[1] / small[1])
    return next((n for n in (4, 2) if n <= room and n * n * small[0] * small[1] <= _MOST), 1)


def enlarged(edit: Floats, new: Floats, by: int) -> Floats:
    """`edit` [3, h, w] as [3, by · h, by · w], by contours where `new` [1, h, w] is above 0, plain elsewhere."""
    tensor = _tensor(edit)
    strong = smoothstep((np.sqrt(tensor[:1] + tensor[2:]) - _WEAK) / (_STRONG - _WEAK))
    larger: Floats = edit + (1 - strong) * _MOTTLE * (gauss(edit, 1.0) - edit)
    where = new[0] > _NEW
    larger = _drawn_out(larger, _directions(tensor), strong)
    for size, work in ((2, _first), (4, _second))[: by // 2]:
        shape = edit.shape[2] * size, edit.shape[1] * size
        larger = resized(larger, shape)
        guide = _directions(resized(tensor, shape, Image.Resampling.BILINEAR))
        guide = np.concatenate([guide, resized(strong, shape, Image.Resampling.BILINEAR)])
        larger = _in_blocks(larger, guide, where, size, work)
    return larger


def along_edges(k: Floats, edit: Floats, larger: Floats) -> Floats:
    """`k` [1, h, w] at the size of the enlarged edit: where it goes from 0 to 1 it does so at the edit's own edges.

    A guided filter (He, Sun and Tang 2010), whose means are taken at the small size (He and Sun 2015).
    """
    guide, size = luma(edit), larger.shape[:0:-1]
    means = gauss(np.concatenate([guide, k, guide * k, guide * guide]), 4.0)
    mean, mean_k, both, square = np.split(means, 4)
    steep = (both - mean * mean_k) / (square - mean * mean + 15.0**2)
    linear = gauss(np.concatenate([steep, mean_k - steep * mean]), 4.0)
    slope, offset = np.split(resized(linear, size, Image.Resampling.BILINEAR), 2)
    plain = np.clip(resized(k, size), 0, 1)
    guided = np.clip(slope * luma(larger) + offset, 0, 1)
    seam: Floats = plain + 4 * plain * (1 - plain) * (guided - plain)
    return seam


def _tensor(edit: Floats) -> Floats:
    """[3, h, w]: xx, xy and yy of the structure tensor, over all channels."""
    soft = np.pad(gauss(edit, 0.8), ((0, 0), (1, 1), (1, 1)), mode="edge")
    x, y = (soft[:, 1:-1, 2:] - soft[:, 1:-1, :-2]) / 2, (soft[:, 2:, 1:-1] - soft[:, :-2, 1:-1]) / 2
    return gauss(np.stack([(x * x).sum(axis=0), (x * y).sum(axis=0), (y * y).sum(axis=0)]), _TENSOR)


def _directions(tensor: Floats) -> Floats:
    """[2, h, w]: cosine and sine of twice the angle across the contour."""
    difference, mixed = tensor[:1] - tensor[2:], 2 * tensor[1:2]
    length = np.sqrt(difference**2 + mixed**2) + 1e-6
    return np.concatenate([difference / length, mixed / length])


def _in_blocks(planes: Floats, guide: Floats, where: NDArray[np.bool_], size: int, work: Work) -> Floats:
    """What `work` makes of the planes in the blocks that hold any of `where`; elsewhere they are as they were."""
    done = planes.copy()
    for rows, columns in _blocks(where):
        inner = [slice(part.start * size, part.stop * size) for part in (rows, columns)]
        outer = [slice(max(0, part.start - _MARGIN), part.stop + _MARGIN) for part in inner]
        made = work(planes[:, outer[0], outer[1]], guide[:, outer[0], outer[1]])
        top, left = (part.start - wide.start for part, wide in zip(inner, outer, strict=True))
        height, width = (part.stop - part.start for part in inner)
        done[:, inner[0], inner[1]] = made[:, top : top + height, left : left + width]
    return done


def _blocks(where: NDArray[np.bool_]) -> Iterator[tuple[slice, slice]]:
    height, width = where.shape
    for top, left in product(range(0, height, _BLOCK), range(0, width, _BLOCK)):
        block = slice(top, min(top + _BLOCK, height)), slice(left, min(left + _BLOCK, width))
        if where[block].any():
            yield block


def _drawn_out(planes: Floats, guide: Floats, strong: Floats) -> Floats:
    """Strong contours smoothed over the length of a flat line's steps: at model size, where that costs little."""
    for _ in range(8):
        planes = planes + _ALONG * strong * _bends(planes, guide)[0]
    return planes


def _first(planes: Floats, guide: Floats) -> Floats:
    for _ in range(5):
        planes = planes + _ALONG * _bends(planes, guide)[0]
    return _sharpened(planes, guide, 2)


def _second(planes: Floats, guide: Floats) -> Floats:
    """Diffusion last: a shock filter alone leaves steps of its own pixels."""
    planes = _sharpened(planes, guide, 2)
    for _ in range(3):
        planes = planes + _ALONG * _bends(planes, guide)[0]
    return _binomial(planes)


def _bends(planes: Floats, guide: Floats) -> tuple[Floats, Floats]:
    """The second derivatives along contours and across them."""
    p: Floats = np.pad(planes, ((0, 0), (1, 1), (1, 1)), mode="edge")
    xx: Floats = p[:, 1:-1, 2:] + p[:, 1:-1, :-2] - 2 * planes
    yy: Floats = p[:, 2:, 1:-1] + p[:, :-2, 1:-1] - 2 * planes
    xy: Floats = np.float32(0.25) * (p[:, 2:, 2:] + p[:, :-2, :-2] - p[:, 2:, :-2] - p[:, :-2, 2:])
    half: Floats = np.float32(0.5) * (xx + yy)
    turned: Floats = np.float32(0.5) * (xx - yy) * guide[:1] + xy * guide[1:2]
    return half - turned, half + turned


def _sharpened(planes: Floats, guide: Floats, rounds: int) -> Floats:
    """The shock filter: what lies on the lower side of a contour goes down, what lies on the upper goes up."""
    for _ in range(rounds):
        along, across = _bends(planes, guide)
        side = _binomial(across)
        side /= np.abs(side) + 1
        p: Floats = np.pad(planes, ((0, 0), (1, 1), (1, 1)), mode="edge")
        x = _least(p[:, 1:-1, 2:] - planes, planes - p[:, 1:-1, :-2])
        y = _least(p[:, 2:, 1:-1] - planes, planes - p[:, :-2, 1:-1])
        planes = planes - _ACROSS * guide[2:3] * side * np.sqrt(x * x + y * y) + _HELD * along
    return planes


def _binomial(planes: Floats) -> Floats:
    p: Floats = np.pad(planes, ((0, 0), (1, 1), (1, 1)), mode="edge")
    rows = p[:, :-2] + 2 * p[:, 1:-1] + p[:, 2:]
    soft: Floats = (rows[..., :-2] + 2 * rows[..., 1:-1] + rows[..., 2:]) / 16
    return soft


def _least(a: Floats, b: Floats) -> Floats:
    """The smaller of two slopes where they go one way, else 0: no contour gets a halo."""
    least: Floats = np.maximum(np.minimum(a, b), 0) + np.minimum(np.maximum(a, b), 0)
    return least
