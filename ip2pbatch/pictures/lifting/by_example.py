"""Fine detail for what an edit added, borrowed from the same photo: grain and pores of places that look alike in it.

Patches are laid side by side and faded over into each other so that their power stays (Heitz and Neyret 2018, on
squares). A place never borrows from itself, so that nothing of what was there before comes back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ip2pbatch.pictures.lifting.planes import Floats, gauss, luma

Fine = Callable[[slice, slice], Floats]
"""The photo's own fine detail, luma [1, rows, columns], at rows and columns of the photo."""

_SIDE = 8.0  # model pixels from patch to patch
_LONGEST = 96  # the same in the photo's pixels, at most: a larger patch shows things, not texture
_ALIKE = 2.5  # σ in model pixels: the neighbourhood in which places are compared
_AROUND = 10.0  # σ: where detail's strength is taken from, as far as the photo was kept there
_CANDIDATES = 1500
_WORN = 0.5  # what each loan costs a place and those about it
_OWN = 0.98  # k: from here on a place has its own detail
_TALL = 2.5  # times the mean around: what stands out further is a thing's outline, and is bent down
_CALM = 0.25  # at least as much of a patch's strength, where the edit is calmer than the place it is borrowed from
_WEAKER, _STRONGER = 0.25, 2.0  # how far a patch's own strength is brought to that around


@dataclass(frozen=True, slots=True)
class Loans:
    """Patches [n] of one size: where each is laid, where it is borrowed (top, left, in the photo's pixels), how strong
    it is, and from which height on it is bent down.
    """

    laid: NDArray[np.intp]  # [n, 2]
    borrowed: NDArray[np.intp]  # [n, 2]
    strength: Floats
    height: Floats
    side: int
    overlap: int

    def detail(self, rows: slice, columns: slice, fine: Fine) -> Floats:
        """[1, rows, columns]: what they come to in a part of the photo; 0 where none lies."""
        found = np.zeros((1, rows.stop - rows.start, columns.stop - columns.start), np.float32)
        ramp = _window(self.side, self.overlap)
        ends = self.laid + len(ramp)
        begun = (self.laid < (rows.stop, columns.stop)).all(axis=1)
        for at in np.flatnonzero(begun & (ends > (rows.start, columns.start)).all(axis=1)):
            down, across = (
                _shared(one, part, len(ramp)) for one, part in zip(self.laid[at], (rows, columns), strict=True)
            )
            piece = fine(_moved(down, self.borrowed[at, 0]), _moved(across, self.borrowed[at, 1]))
            piece *= self.strength[at] / np.sqrt(1 + (piece / self.height[at]) ** 2)
            y, x = _moved(down, self.laid[at, 0] - rows.start), _moved(across, self.laid[at, 1] - columns.start)
            found[:, y, x] += piece * (ramp[down, None] * ramp[across])
        return found


def borrow(edit: Floats, k: Floats, gain: Floats, strength: Floats, size: tuple[int, int]) -> Loans | None:
    """What to borrow for a photo of (width, height) `size`, None where nothing can be.

    At model size: the edit [3, h, w], its gate [1, h, w], by how much it scaled the photo's detail [1, h, w], and the
    mean strength of the photo's fine detail in each pixel [1, h, w], of 255.
    """
    scale = size[1] / edit.shape[1], size[0] / edit.shape[2]
    side = round(min(_SIDE * min(scale), _LONGEST))
    overlap = side // 4
    places = _Places.of(edit, k, strength, scale, (size[1], size[0]), side + overlap)
    if places is None:
        return None
    scaled = (gauss((k + 1e-3) * gain, _AROUND) / gauss(k + 1e-3, _AROUND))[0]
    found = [
        (laid, corner, part * scaled[at], height)
        for laid, at in _targets(k[0], scale, size, side, overlap) for corner, part, height in places.best(at, laid)
    ]  # fmt: skip
    if not found:
        return None
    laid, borrowed, parts, heights = map(np.array, zip(*found, strict=True))
    return Loans(laid, borrowed, parts.astype(np.float32), heights.astype(np.float32), side, overlap)


@dataclass(frozen=True, slots=True)
class _Places:
    """Where patches may be borrowed, [n], and what of every place of the edit [h, w] is compared."""

    look: Floats  # [h, w, 5]: lightness, colour, and how lively the edit is
    around: Floats  # [h, w]: log of the strength of detail that belongs here
    at: NDArray[np.intp]  # [2, n]: middles, in model pixels
    corners: NDArray[np.intp]  # [2, n]: top and left, in the photo's
    looks: Floats  # [5, n]
    rough: Floats  # [n]: log of the strength of their detail
    cost: Floats  # [n], and what they were borrowed for already
    length: int
    side: float  # in model pixels

    @classmethod
    def of(
        cls, edit: Floats, k: Floats, strength: Floats, scale: tuple[float, float], full: tuple[int, int], length: int
    ) -> _Places | None:  # fmt: skip
        light = luma(edit)
        lively = np.log(gauss(np.abs(light - gauss(light, 2.0)), _ALIKE) + 1)
        look = np.concatenate([gauss(np.concatenate([light, edit - light]), _ALIKE) / 12, lively]).transpose(1, 2, 0)
        level = np.log(strength + 0.3)
        mean, square, kept = np.split(gauss(np.concatenate([level, level**2, k]), _ALIKE), 3)
        weight = k + 1e-3
        around = gauss(weight * level, _AROUND) / gauss(weight, _AROUND)
        at, corners = _grid(edit.shape[1:], scale, full, length)
        if not at.size:
            return None
        y, x = at
        uneven = np.sqrt(np.maximum(square - mean**2, 0))
        cost = 2 * (1 - kept[0, y, x]) + 2 * uneven[0, y, x]
        return cls(look, around[0], at, corners, look[y, x].T.copy(), mean[0, y, x], cost, length, length / min(scale))

    def best(self, at: tuple[int, int], laid: tuple[int, int]) -> Iterator[tuple[NDArray[np.intp], float, float]]:
        """For a place of the edit the corner of what to borrow, how much of it and how high it may be, or nothing."""
        away = np.abs(self.at - np.array(at)[:, None])
        price = self.cost + np.hypot(*away) / 30 + 1.5 * (self.rough - self.around[at]) ** 2
        for mine, theirs in zip(self.look[at], self.looks, strict=True):
            price += (theirs - mine) ** 2
        beside = np.abs(self.corners - np.array(laid)[:, None]) < self.length
        price[beside[0] & beside[1]] = np.inf
        chosen = int(np.argmin(price))
        if not np.isfinite(price[chosen]):
            return
        near = np.abs(self.at - self.at[:, chosen, None]) <= self.side / 2
        self.cost[near[0] & near[1]] += _WORN
        calm = max(np.exp(min(0.0, self.look[at][-1] - self.looks[-1, chosen])), _CALM)
        part = np.clip(np.exp(self.around[at] - self.rough[chosen]), _WEAKER, _STRONGER) * calm
        height = _TALL * max(float(np.exp(self.rough[chosen])), 0.8)
        yield self.corners[:, chosen], float(part), height


def _grid(
    small: tuple[int, ...], scale: tuple[float, float], full: tuple[int, int], length: int
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """[2, n]: middles in model pixels of some _CANDIDATES patches that lie wholly in the photo, and their corners."""
    step = max(2, int(np.ceil(np.sqrt(small[0] * small[1] / _CANDIDATES))))
    middles = np.stack(np.meshgrid(*(np.arange(0, side, step) for side in small), indexing="ij"), axis=-1).reshape(
        -1, 2
    )
    corners = np.rint((middles + 0.5) * scale - length / 2).astype(np.intp)
    inside = ((corners >= 0) & (corners + length <= full)).all(axis=1)
    return middles[inside].T.copy(), corners[inside].T.copy()


def _targets(
    k: Floats, scale: tuple[float, float], size: tuple[int, int], side: int, overlap: int
) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """Corners in the photo and middles in the edit of the patches that are needed."""
    for top in range(-(overlap // 2), size[1], side):
        for left in range(-(overlap // 2), size[0], side):
            ends = ((top, scale[0], k.shape[0]), (left, scale[1], k.shape[1]))
            y, x = (slice(int(max(one, 0) / by), int((one + side + overlap) / by) + 1) for one, by, _ in ends)
            if k[y, x].min() < _OWN:
                middle = [min(int((one + (side + overlap) / 2) / by), end - 1) for one, by, end in ends]
                yield (top, left), (middle[0], middle[1])


def _window(side: int, overlap: int) -> Floats:
    """[side + overlap]: rising, level, falling; the squares of two that overlap come to 1."""
    rise = np.sin((np.arange(overlap) + 0.5) / overlap * np.pi / 2)
    return np.concatenate([rise, np.ones(side - overlap), rise[::-1]]).astype(np.float32)


def _shared(begin: int, part: slice, length: int) -> slice:
    """What of a patch that begins somewhere lies in a part of the photo."""
    return slice(max(part.start - begin, 0), min(part.stop - begin, length))


def _moved(part: slice, by: int) -> slice:
    return slice(part.start + by, part.stop + by)
