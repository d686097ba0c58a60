"""Lays an edit on its photo again: models move and enlarge what they edit by a few pixels, which the lift would blur.

What both share is compared by orientation correlation (Fitch, Kadyrov, Christmas and Kittler, BMVC 2002): directions of
gradients, doubled, so that light and dark may change places, of the sum of all channels, in which their noise is least.
Each of many blocks says how far it has moved; what most of them agree on is one shift and one scale.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Directions = NDArray[np.complex64]

_LEAST = 0.25  # model pixels: what has moved by less is not resampled
_SEARCHED, _SETTLED = 256, 512  # long sides at which is searched and measured
_BLOCK, _STEP, _REACH = 48, 32, 8  # of the search, in its pixels
_NEAR = 40  # about the side of the blocks that are measured once more
_FAINT = 10.0  # squared levels of 255 a pixel: gradients below are mostly an autoencoder's noise
_STEEPEST = 0.025  # no model enlarges by more
_AGREE = 1.0  # model pixels between blocks that agree
_FEWEST, _SHARE = 10, 0.8  # blocks that must agree, and their share of the weight of all
_SURE = 0.13  # model pixels: the standard error that is allowed at a corner
_SPREAD = 0.75  # model pixels that single blocks may differ by there: more say something else than one motion
_CLEAR = 6.0  # times that error: what has moved by less may not have moved at all
_ROUNDS, _STILL = 5, 0.05  # model pixels: what is left after a round and asks for none more
_COARSE = 8  # model pixels: the grid on which a rim's tones are carried on
_MAX_GAIN = 2.5


class Motion(NamedTuple):
    """How an edit lies on its photo: `right` and `down` of it in model pixels at the middle, and by how much `larger`
    (0.01 is one per cent). `distance` is the root mean square over the picture, in model pixels.
    """

    right: float
    down: float
    larger: float
    distance: float

    @property
    def scaled(self) -> float:
        """By how much the edit is made larger to lie on its photo, in per cent."""
        return 100 / (1 + self.larger) - 100


class _Sightings(NamedTuple):
    """What n blocks say: their middles `at` [n, 2] and how far each has moved, `by` [n, 2], both (x, y) in model pixels
    from the picture's middle, and how sure each is of either, `weight` [n, 2]: along a straight edge it knows little.
    """

    at: Doubles
    by: Doubles
    weight: Doubles


class _Fit(NamedTuple):
    """`line` is (right, down, larger); `error` its standard errors; `agree` [n] says which blocks it explains."""

    line: Doubles
    error: Doubles
    agree: NDArray[np.bool_]


def register(edited: Pixels, seen: Pixels) -> tuple[Pixels, Motion | None]:
    """An edit, uint8 [h, w, 3], where the photo as the model saw it is, `seen` [h, w, 3], and how it had moved.

    The edit itself and None where it has hardly moved, or where too few blocks agree on how. What comes in over an
    edge is the photo's, in the edit's tones.
    """
    motion = estimate(edited, seen)
    return (edited, None) if motion is None else (_back(edited, seen, motion), motion)


def estimate(edited: Pixels, seen: Pixels) -> Motion | None:
    """How an edit has moved, to about 0.1 model pixel; None as for `register`."""
    size = (seen.shape[1], seen.shape[0])
    line = _search(edited, seen, size)
    line = None if line is None else _settled(edited, seen, line, size)
    if line is None or (distance := _distance(line, size)) < _LEAST:
        return None
    right, down, larger = map(float, line)
    return Motion(right, down, larger, distance)


def _settled(edited: Pixels, seen: Pixels, line: Doubles, size: tuple[int, int]) -> Doubles | None:
    """`line` to about 0.1 model pixel, or None where too few blocks agree on what is left of it, or not closely."""
    part = max(1, max(size) // _SETTLED)
    photo = _directions(seen, part)
    for _ in range(_ROUNDS):
        line = line if _distance(line, size) >= _LEAST / 2 else np.zeros(3)
        laid = _resampled(edited, line) if line.any() else edited
        near = _near(photo, _directions(laid, part), part, size)
        fit = _fitted(near, np.zeros(3))
        line = line + fit.line
        if _distance(fit.line, size) < _STILL:
            break
    share, error = near.weight[fit.agree].sum() / (near.weight.sum() + 1e-9), _at_a_corner(fit.error, size)
    count = fit.agree.sum()
    sure = count >= _FEWEST and share >= _SHARE and error <= min(_SURE, _SPREAD / np.sqrt(count))
    return line if sure and _distance(line, size) >= _CLEAR * error else None


def _distance(line: Doubles, size: tuple[int, int]) -> float:
    """Root mean square over the picture, in model pixels."""
    return float(np.sqrt(line[0] ** 2 + line[1] ** 2 + line[2] ** 2 * (size[0] ** 2 + size[1] ** 2) / 12))


def _at_a_corner(line: Doubles, size: tuple[int, int]) -> float:
    right, down, larger = np.abs(line)
    return float(np.hypot(right + larger * size[0] / 2, down + larger * size[1] / 2))


def _search(edited: Pixels, seen: Pixels, size: tuple[int, int]) -> Doubles | None:
    """(right, down, larger), to about half a pixel, or None where the picture is small or nothing agrees."""
    part = max(1, round(max(size) / _SEARCHED))
    found = _far(_directions(seen, part), _directions(edited, part), part, size)
    if found is None:
        return None
    line = _consensus(found, _AGREE * max(1.0, 0.75 * part))
    return None if line is None else _fitted(found, line).line


def _directions(pixels: Pixels, part: int) -> Directions:
    """[h, w] of a picture at 1/part of its size: its gradients' directions, doubled, as long as they are clear."""
    small = np.asarray(Image.fromarray(pixels).reduce(part)) if part > 1 else pixels
    total = small.sum(axis=2, dtype=np.float32) / np.sqrt(np.float32(3))
    soft = _smooth(_smooth(np.pad(total, 2, mode="symmetric"), 0), 1)
    down, right = _smooth(_slope(soft, 0), 1), _smooth(_slope(soft, 1), 0)
    doubled = np.empty(down.shape, np.complex64)
    doubled.real = right * right - down * down
    doubled.imag = 2 * (right * down)
    length = np.abs(doubled)
    doubled /= length + np.float32(max(_FAINT, np.median(length)))
    return doubled


def _smooth(planes: Floats, axis: int) -> Floats:
    """Of three neighbours along an axis, one to two to one; shorter by two."""
    before, middle, after = _three(planes, axis)
    return 0.25 * (before + after) + 0.5 * middle


def _slope(planes: Floats, axis: int) -> Floats:
    before, _, after = _three(planes, axis)
    return after - before


def _three(planes: Floats, axis: int) -> tuple[Floats, Floats, Floats]:
    along = np.moveaxis(planes, axis, 0)
    before, middle, after = (np.moveaxis(one, 0, axis) for one in (along[:-2], along[1:-1], along[2:]))
    return before, middle, after


def _far(photo: Directions, edit: Directions, part: int, size: tuple[int, int]) -> _Sightings | None:
    """Where each block of the photo is in the edit, as far as _REACH; None where there are not enough blocks."""
    height, width = photo.shape
    if min(height, width) < _BLOCK:
        return None
    tops, lefts = _starts(height), _starts(width)
    if len(tops) * len(lefts) < _FEWEST:
        return None
    likeness = _likenesses(_blocks(photo, tops, lefts), _blocks(edit, tops, lefts))
    n, side, _ = likeness.shape
    inner = likeness[:, 1:-1, 1:-1].reshape(n, -1)
    y, x = np.divmod(inner.argmax(axis=1), side - 2)
    offsets = np.arange(3)
    around = likeness[np.arange(n)[:, None, None], (y[:, None] + offsets)[:, :, None], (x[:, None] + offsets)[:, None]]
    within, like, _ = _peak(around)
    at_the_edge = (np.minimum(x, y) == 0) | (np.maximum(x, y) == side - 3)
    by = np.stack([x, y], axis=1) - _REACH + within
    across, down = np.meshgrid(lefts + _BLOCK / 2, tops + _BLOCK / 2)
    at = np.stack([across.ravel(), down.ravel()], axis=1) * part - np.array(size) / 2
    weight = np.where(at_the_edge, 0, like**2)
    return _Sightings(at, by * part, np.stack([weight, weight], axis=1))


def _starts(length: int) -> NDArray[np.intp]:
    count = -(-(length - _BLOCK) // _STEP) + 1
    return np.rint(np.linspace(0, length - _BLOCK, count)).astype(np.intp)


def _blocks(field: Directions, tops: NDArray[np.intp], lefts: NDArray[np.intp]) -> Directions:
    views = np.lib.stride_tricks.sliding_window_view(field, (_BLOCK, _BLOCK))
    return np.asarray(views[np.ix_(tops, lefts)].reshape(-1, _BLOCK, _BLOCK))


def _likenesses(photo: Directions, edit: Directions) -> Floats:
    """[n, 2r + 3, 2r + 3]: the correlation of blocks [n, b, b] at each shift as far as r + 1; of equal ones 1."""
    curve = np.sin(np.pi * (np.arange(_BLOCK, dtype=np.float32) + 0.5) / _BLOCK) ** 2
    window = np.outer(curve, curve)
    photo, edit = photo * window, edit * window
    norms = np.sqrt(_energy(photo) * _energy(edit)) + 1e-6
    near = slice(_BLOCK // 2 - _REACH - 1, _BLOCK // 2 + _REACH + 2)
    product = np.fft.ifft2(np.conj(np.fft.fft2(photo)) * np.fft.fft2(edit)).real
    overlap = np.fft.ifft2(np.abs(np.fft.fft2(window)) ** 2).real / (window**2).sum()
    shifted, overlap = (np.fft.fftshift(one, axes=(-2, -1))[..., near, near] for one in (product, overlap))
    likeness: Floats = shifted / (norms[:, None, None] * overlap)
    return likeness


def _energy(blocks: Directions) -> Floats:
    energy: Floats = (blocks.real**2 + blocks.imag**2).sum(axis=(1, 2))
    return energy


def _peak(around: Floats) -> tuple[Doubles, Doubles, Doubles]:
    """The top of parabolas through 3 × 3 values [n, 3, 3], as (x, y) from their middles [n, 2], how high the middle is
    [n], 0 where it is no top, and how sharp the top is along x and y [n, 2].
    """
    middle = around[:, 1, 1].astype(np.float64)
    lines = np.stack([around[:, 1, ::2], around[:, ::2, 1]], axis=1).astype(np.float64)  # [n, x or y, before or after]
    bent = 2 * middle[:, None] - lines.sum(axis=2)
    top = 0.5 * (lines[..., 1] - lines[..., 0]) / np.maximum(bent, 1e-6)
    is_top = ((bent > 1e-6) & (np.abs(top) <= 1)).all(axis=1)
    return np.clip(top, -1, 1), np.where(is_top, np.clip(middle, 0, 1), 0), np.maximum(bent, 0)


def _near(photo: Directions, edit: Directions, part: int, size: tuple[int, int]) -> _Sightings:
    """How far each block has moved where none has moved by more than a pixel."""
    across, down = (max(1, round(length / _NEAR)) for length in photo.shape[::-1])
    side = (photo.shape[0] // down, photo.shape[1] // across)
    inner = photo[: side[0] * down, : side[1] * across]
    likeness = np.empty((down * across, 3, 3), np.float32)
    padded = np.pad(edit, 1, mode="edge")

    def sums(plane: Floats) -> Floats:
        return np.asarray(plane.reshape(down, side[0], across, side[1]).sum(axis=(1, 3)).ravel())

    own = sums(inner.real**2 + inner.imag**2)
    for y in range(3):
        for x in range(3):
            other = padded[y : y + inner.shape[0], x : x + inner.shape[1]]
            product = inner.real * other.real + inner.imag * other.imag
            likeness[:, y, x] = sums(product)
    norms = np.sqrt(own * sums((edit.real**2 + edit.imag**2)[: inner.shape[0], : inner.shape[1]])) + 1e-6
    by, like, sharp = _peak(likeness / norms[:, None, None])
    middles = np.meshgrid((np.arange(across) + 0.5) * side[1], (np.arange(down) + 0.5) * side[0])
    at = np.stack([one.ravel() for one in middles], axis=1) * part - np.array(size) / 2
    return _Sightings(at, by * part, sharp * (like * np.sqrt(norms))[:, None])


def _consensus(seen: _Sightings, tolerance: float) -> Doubles | None:
    """The shift and scale, of all that two blocks would say, on which the most blocks agree (MSAC: Torr and Zisserman,
    2000). All pairs are tried, and no chance is in it.
    """
    at, by, weight = seen.at, seen.by, seen.weight.mean(axis=1)
    one, two = np.triu_indices(len(at), 1)
    apart = at[two] - at[one]
    squared = (apart**2).sum(axis=1)
    larger = ((by[two] - by[one]) * apart).sum(axis=1) / squared
    far = squared >= (0.3 * np.hypot(*np.ptp(at, axis=0))) ** 2
    pairs = np.flatnonzero(far & (np.abs(larger) <= _STEEPEST) & (weight[one] * weight[two] > 0))
    if not len(pairs):
        return None
    one, two, larger = one[pairs], two[pairs], larger[pairs]
    shift = (by[one] + by[two] - larger[:, None] * (at[one] + at[two])) / 2
    squares = np.zeros((len(pairs), len(at)))
    for axis in range(2):
        squares += (by[:, axis] - shift[:, axis, None] - larger[:, None] * at[:, axis]) ** 2
    best = (np.maximum(0, 1 - squares / tolerance**2) @ weight).argmax()
    return np.array([*shift[best], larger[best]])


def _fitted(seen: _Sightings, line: Doubles) -> _Fit:
    """Least squares from `line` on, with Tukey's biweight, which what disagrees has no part in."""
    at, by, weight = seen
    design = np.zeros((len(at), 2, 3))
    design[:, 0, 0] = design[:, 1, 1] = 1
    design[:, :, 2] = at
    counts = weight / (weight.max(axis=1, keepdims=True) + 1e-12)  # an axis of which a block knows little says little
    reach, trust = 1.5 * _AGREE, weight
    for _ in range(6):
        squares = (counts * (by - design @ line) ** 2).sum(axis=1)
        trust = weight * (np.maximum(0, 1 - squares / reach**2) ** 2)[:, None]
        normal = np.einsum("nai,naj,na->ij", design, design, trust) + np.diag([1e-6, 1e-6, 1e-3])
        line = np.linalg.solve(normal, np.einsum("nai,na,na->i", design, by, trust))
        reach = max(0.6 * _AGREE, 0.75 * reach)
    off = (by - design @ line) ** 2
    total = trust.sum() + 1e-9
    spread, count = float((trust * off).sum()) / total, total**2 / (float((trust**2).sum()) + 1e-9)
    error = np.sqrt(np.diag(np.linalg.inv(normal * (count / total))) * spread)
    return _Fit(line, error, ((counts * off).sum(axis=1) < reach**2) & (weight.max(axis=1) > 0))


def _back(edited: Pixels, seen: Pixels, motion: Motion) -> Pixels:
    """The edit where its photo is."""
    line = np.array(motion[:3])
    there = _inside(line, edited.shape)
    laid = _resampled(edited, line)
    return np.where(there[..., None], laid, _carried_on(laid, seen, there))


def _resampled(edited: Pixels, line: Doubles) -> Pixels:
    """The edit moved back, its edges drawn out."""
    height, width = edited.shape[:2]
    border = int(_at_a_corner(line, (width, height))) + 4
    padded = np.pad(edited, ((border, border), (border, border), (0, 0)), mode="edge")
    (left, right), (top, bottom) = _span(line[0], line[2], width), _span(line[1], line[2], height)
    box = (left + border, top + border, right + border, bottom + border)
    return np.asarray(Image.fromarray(padded).resize((width, height), Image.Resampling.LANCZOS, box=box))


def _span(shift: float, larger: float, length: int) -> tuple[float, float]:
    """From where to where in the edit what is on the photo's side of that length is."""
    middle, half = length / 2 + shift, (1 + larger) * length / 2
    return middle - half, middle + half


def _inside(line: Doubles, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """[h, w]: of which of the photo's pixels the edit shows anything."""
    sides = []
    for shift, length in ((line[1], shape[0]), (line[0], shape[1])):
        start, end = _span(float(shift), float(line[2]), length)
        centres = start + (np.arange(length) + 0.5) * (end - start) / length
        sides.append((centres >= 0.5) & (centres <= length - 0.5))
    return np.asarray(np.logical_and.outer(*sides))


def _carried_on(edited: Pixels, seen: Pixels, there: NDArray[np.bool_]) -> Pixels:
    """The photo in the tones that the edit has beside where it shows nothing: local regression of one on the other."""
    edit, photo = (one.transpose(2, 0, 1).astype(np.float32) for one in (edited, seen))
    mask = there[None].astype(np.float32)
    around = _spread(np.concatenate([edit, photo, edit * photo, photo * photo]) * mask, mask)
    mean_edit, mean_photo, cross, power = np.split(around, 4)
    gain = np.clip((cross - mean_edit * mean_photo) / (power - mean_photo**2 + 1), 0, _MAX_GAIN)
    tones = mean_edit + gain * (photo - mean_photo)
    return np.asarray(np.clip(np.rint(tones), 0, 255).astype(np.uint8).transpose(1, 2, 0))


def _spread(planes: Floats, mask: Floats) -> Floats:
    """Means of [c, h, w] over some _COARSE pixels, of what the mask [1, h, w] has, carried into what it has not."""
    height, width = planes.shape[1:]
    small = (max(1, width // _COARSE), max(1, height // _COARSE))
    means = np.stack([_sized(plane, small, Image.Resampling.BOX) for plane in (*planes, *mask)])
    for _ in range(4):
        for axis in (1, 2):
            means = _smooth(np.pad(means, [(0, 0), *((int(axis == one),) * 2 for one in (1, 2))], mode="edge"), axis)
    means = means[:-1] / (means[-1:] + 1e-6)
    return np.stack([_sized(plane, (width, height), Image.Resampling.BILINEAR) for plane in means])


def _sized(plane: Floats, size: tuple[int, int], kernel: Image.Resampling) -> Floats:
    return np.asarray(Image.fromarray(plane).resize(size, kernel))
