"""Lifts a model-size edit onto the full-size photo: the edit's colours and light, the photo's own detail.

The gated residual: full = up(edit) + k · gain · (photo − up(what the model saw)). Where the edit kept the photo's
structure (k → 1) the photo's fine detail comes back, as bright and as colourful as the edit made it; where the edit
put something new (k → 0) nothing of the old object shines through.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ip2pbatch.pictures.lifting import by_example, edge_directed
from ip2pbatch.pictures.lifting.planes import Floats, gauss, interpolated, luma, resized, row_taps, smoothstep
from ip2pbatch.pictures.sizing import LIFT

Pixels = NDArray[np.uint8]
AnyPixels = NDArray[np.uint8] | NDArray[np.uint16]

_DETAIL = 3.0  # σ in model pixels: what is finer than this is detail
_TOP = 1.0  # σ: what is finer than this an autoencoder loses
_WINDOW = 3.0  # σ of the window in which edit and photo are compared
_WIDE = 20.0  # σ of the window that speaks where the near one has no detail to compare
_NOISE = 5.0  # of 255: what an autoencoder adds on its own, forgiven when looking for new structure
_WEAK = 1.0  # of 255: detail weaker than this says little about gain
_CLOSED, _OPEN = 0.45, 0.85  # correlations between which the gate opens
_FAINT = 0.04
_TOLD = 0.1  # measured: tone curves leave at most 0.05 of what a straight line leaves, other edits 0.16 and more
_MAX_GAIN = 2.5
_SAME = 1.5  # of 255: an edit within this of the photo has not touched it
_KEPT = 0.98  # k: where it is nowhere lower the edit added nothing
_SEEN = 0.004  # of what was added: less shows nothing
_ROWS = 128


class Lifted(NamedTuple):
    """`pixels` [H, W, 3] at the photo's size and depth; `gate` is the mean of k over the photo's detail, 0 to 1."""

    pixels: AnyPixels
    gate: float


@dataclass(frozen=True, slots=True)
class _Transfer:
    """At model size, in planes: the edit with its finest detail put right, and the gains of the residual."""

    edit: Floats  # [3, h, w]
    gain: Floats  # [3, h, w]
    chroma: Floats  # [1, h, w]: how much of the detail's colour survives
    open: Floats  # [1, h, w]: k
    share: float  # of the photo's detail that comes back


def lift(edited: Pixels, source_small: Pixels, source: AnyPixels, *, rows: int = _ROWS, version: int = LIFT) -> Lifted:
    """`edited` and `source_small` (exactly what the model saw), uint8 [h, w, 3], and the photo [H, W, 3].

    The photo is uint8 or uint16, and so is the result: its own 16 bits come back where its detail does. All three in
    one colour space. Works in strips of `rows` rows, which change nothing in the result: beside the result
    itself memory holds eleven float32 planes of h × W, four of up to 4 · h × W, and one strip. Before `version` 2
    what an edit added was enlarged as it is. Raises ValueError on shapes that do not fit.
    """
    if edited.shape != source_small.shape or edited.shape[-1:] != (3,) or source.shape[-1:] != (3,):
        raise ValueError(f"shapes do not fit: {edited.shape}, {source_small.shape}, {source.shape}")
    edit, curves = _planes(edited), _tone_curves(edited, source_small)
    seen = _planes(source_small, curves)
    transfer = _estimate(edit, seen)
    added = None
    by = edge_directed.times(edited.shape[:2], source.shape[:2])
    if version > 1 and by > 1 and transfer.open.min() < _KEPT:
        added = _added(transfer, by)
    canvas = _Canvas.of(transfer, seen, added, source, curves)
    loans = None if added is None else canvas.loans(transfer)
    out: AnyPixels = np.empty(source.shape, source.dtype)
    for top in range(0, source.shape[0], rows):
        part = slice(top, min(top + rows, source.shape[0]))
        levels = canvas.composed(part, loans).transpose(1, 2, 0)
        levels *= np.float32(_white(out) / 255)
        out[part] = np.clip(np.rint(levels, out=levels), 0, _white(out), out=levels)
    return Lifted(out, transfer.share)


def _added(transfer: _Transfer, by: int) -> Floats:
    """What the edit added, on the way to the photo's size, [4, by · h, by · w]: what contours of its own make of it
    beside a plain enlargement, and where it is, 0 to 1.
    """
    directed = edge_directed.enlarged(transfer.edit, 1 - transfer.open, by)
    new = 1 - edge_directed.along_edges(transfer.open, transfer.edit, directed)
    new[new < _SEEN] = 0
    return np.concatenate([new * (directed - resized(transfer.edit, directed.shape[:0:-1])), new])


@dataclass(frozen=True, slots=True)
class _Wide:
    """Planes [c, h, W] of the photo's width, and the taps that make its rows of them."""

    planes: Floats
    taps: NDArray[np.intp]
    weights: Floats

    @classmethod
    def of(cls, small: Floats, height: int, width: int) -> _Wide:
        planes = np.empty((len(small), small.shape[1], width), np.float32)
        for wide, plane in zip(planes, small, strict=True):
            wide[:] = resized(plane[None], (width, small.shape[1]))[0]
        return cls(planes, *row_taps(small.shape[1], height))

    def columns(self, part: slice) -> slice | None:
        """Between which columns some rows hold anything, in the last plane; None for nowhere."""
        above, below = int(self.taps[part].min()), int(self.taps[part].max()) + 1
        found = np.flatnonzero((self.planes[-1, above:below] != 0).any(axis=0))
        return slice(int(found[0]), int(found[-1]) + 1) if len(found) else None

    def rows(self, part: slice, columns: slice = slice(None), planes: slice = slice(None)) -> Floats:
        """[c, rows, columns] at the photo's size."""
        return interpolated(self.planes[planes, :, columns], self.taps[part], self.weights[part])


@dataclass(frozen=True, slots=True)
class _Canvas:
    """The photo, and beside it edit, seen, gain, chroma and the luma of seen, [11, h, W], and what was added."""

    source: AnyPixels
    curves: Floats
    kept: _Wide
    added: _Wide | None

    @classmethod
    def of(
        cls, transfer: _Transfer, seen: Floats, added: Floats | None, source: AnyPixels, curves: Floats
    ) -> _Canvas:  # fmt: skip
        size = source.shape[:2]
        gain = transfer.open * transfer.gain if added is None else transfer.gain
        planes = [transfer.edit, seen, gain, transfer.chroma]
        if added is None:
            return cls(source, curves, _Wide.of(np.concatenate(planes), *size), None)
        kept = _Wide.of(np.concatenate([*planes, luma(seen)]), *size)
        return cls(source, curves, kept, _Wide.of(added, *size))

    def composed(self, part: slice, loans: by_example.Loans | None) -> Floats:
        """[3, rows, W] from 0 to 255: some rows of the lifted edit."""
        strip = self.kept.rows(part, planes=slice(0, 10))
        edit, seen, gain, chroma = np.split(strip, (3, 6, 9))
        detail = _recoloured(_planes(self.source[part], self.curves) - seen, chroma)
        detail *= gain
        if self.added is not None and (columns := self.added.columns(part)) is not None:
            added = self.added.rows(part, columns)
            detail[:, :, columns] *= 1 - added[3:]
            edit[:, :, columns] += added[:3]
            if loans is not None:
                edit[:, :, columns] += added[3:] * loans.detail(part, columns, self.fine)
        detail += edit
        return detail

    def fine(self, rows: slice, columns: slice) -> Floats:
        """[1, rows, columns]: the luma of what the photo has and the model could not see."""
        light = luma(_planes(self.source[rows, columns], self.curves))
        light -= self.kept.rows(rows, columns, slice(10, 11))
        return light

    def loans(self, transfer: _Transfer) -> by_example.Loans | None:
        """What to borrow for what the edit added; how strong detail is, a row of each of the model's tells."""
        height, width = self.source.shape[:2]
        small = transfer.edit.shape[1:]
        strength = np.empty((1, *small), np.float32)
        for at in range(small[0]):
            row = int((at + 0.5) * height / small[0])
            level = np.abs(self.fine(slice(row, row + 1), slice(0, width)))
            strength[:, at : at + 1] = resized(level, (small[1], 1), Image.Resampling.BOX)
        gain = transfer.gain.mean(axis=0, keepdims=True)
        return by_example.borrow(transfer.edit, transfer.open, gain, strength, (width, height))


def gate(edited: Pixels, source_small: Pixels) -> Floats:
    """k [h, w] at model size: 1 where the edit kept the photo's structure, 0 where it put something new."""
    edit, seen = _planes(edited), _planes(source_small, _tone_curves(edited, source_small))
    k: Floats = _estimate(edit, seen).open[0]
    return k


def _white(pixels: AnyPixels) -> int:
    return int(np.iinfo(pixels.dtype).max)


def _estimate(edit: Floats, seen: Floats) -> _Transfer:
    """Gains by local regression of the edit's detail on the photo's, and a gate by how much that explains."""
    soft_edit, soft_seen = gauss(edit, _TOP), gauss(seen, _TOP)
    top_edit, top_seen = edit - soft_edit, seen - soft_seen
    # Gains are read off the band that an autoencoder keeps, below the octave that it blurs and fills with noise.
    band_edit, band_seen = soft_edit - gauss(soft_edit, _DETAIL), soft_seen - gauss(soft_seen, _DETAIL)
    chroma = _chroma_kept(band_edit, band_seen)
    gain = _gain(band_edit, _recoloured(band_seen, chroma))
    gate = _gate(top_edit + band_edit, _recoloured(top_seen + band_seen, chroma))
    same = _untouched(edit, seen)
    gate, gain, chroma = gate + (1 - gate) * same, gain + (1 - gain) * same, chroma + (1 - chroma) * same
    kept = gate * np.minimum(1, 4 * gain)  # where there is hardly any gain, what the edit shows is its own
    share = float((kept * np.abs(band_seen)).sum() / (np.abs(band_seen).sum() + 1e-9))
    # That octave the photo knows better than the edit does.
    mended = edit + kept * (gain * _recoloured(top_seen, chroma) - top_edit)
    return _Transfer(mended, gain, chroma, gate, share)


def _gain(edit: Floats, model: Floats) -> Floats:
    """[3, h, w]: by how much the edit scaled each channel's detail; where there is none, as it did further around."""
    near = gauss(np.concatenate([edit * model, model * model]), _WINDOW)
    wide = gauss(near, _WIDE)
    weak = _WEAK**2
    prior = (wide[:3] + 1e-3) / (wide[3:] + 1e-3)
    gain: Floats = np.clip((near[:3] + weak * prior) / (near[3:] + weak), 0, _MAX_GAIN)
    return gain * smoothstep((gain - _FAINT) / (3 * _FAINT))  # a trace of the old object is no gain


def _gate(edit: Floats, model: Floats) -> Floats:
    """k [1, h, w]: open where the photo's detail explains the edit's, but for what an autoencoder adds on its own."""
    cross, power, total = np.split(gauss(np.concatenate([edit * model, model * model, edit * edit]), _WINDOW), 3)
    explained = (np.maximum(cross, 0) ** 2 / (power + 1e-3)).sum(axis=0, keepdims=True)
    unexplained = np.maximum(total.sum(axis=0, keepdims=True) - explained - 3 * _NOISE**2, 0)
    weak = _WEAK**2
    correlation = np.sqrt((explained + weak) / (explained + unexplained + weak))
    return smoothstep((correlation - _CLOSED) / (_OPEN - _CLOSED))


def _chroma_kept(edit: Floats, seen: Floats) -> Floats:
    """[1, h, w]: how colourful the edit's detail is beside the photo's: 0 in black and white, 1 where light changed."""
    luma_edit, luma_seen = luma(edit), luma(seen)
    colour_edit, colour_seen = edit - luma_edit, seen - luma_seen
    products = [
        (colour_edit * colour_seen).sum(axis=0, keepdims=True), (colour_seen**2).sum(axis=0, keepdims=True),
        luma_edit * luma_seen, luma_seen**2,
    ]  # fmt: skip
    colours, colour_power, lights, light_power = np.split(gauss(np.concatenate(products), 2 * _WINDOW), 4)
    weak = 0.25 * _WEAK**2
    ratio = ((colours + weak) / (colour_power + weak)) / np.maximum((lights + weak) / (light_power + weak), 0.05)
    kept: Floats = np.clip(ratio, 0, 1.5)
    return kept


def _recoloured(detail: Floats, chroma: Floats) -> Floats:
    light = luma(detail)
    return light + chroma * (detail - light)


def _untouched(edit: Floats, seen: Floats) -> Floats:
    """[1, h, w]: 1 where edit and photo are the same at a pixel and those beside it, 0 where they differ by more.

    A wider look (σ = 1) would soften two more pixels along every edge of what was replaced, by 10 to 20 dB.
    """
    difference = gauss(np.abs(edit - seen).max(axis=0, keepdims=True), 0.6)
    return 1 - smoothstep(difference / _SAME)


def _tone_curves(edited: Pixels, seen: Pixels) -> Floats:
    """[3, 256]: for each channel the curve that takes the photo's levels to the edit's, or the identity.

    A gain cannot follow a strong curve across an edge, a table can, and does so exactly. It is used only where the
    edit *is* a tone curve, an inversion or a solarisation: where almost nothing is left that the curve does not tell.
    """
    levels = np.arange(256, dtype=np.float32)
    curves = np.tile(levels, (3, 1))
    for channel in range(3):
        x, y = seen[..., channel], edited[..., channel].astype(np.float32)
        slope, offset = np.polyfit(x.ravel().astype(np.float64), y.ravel(), 1) if x.std() > 1 else (1.0, 0.0)
        line = (slope * levels + offset).astype(np.float32)
        curve = line + _smooth_excess(x.ravel(), (y - line[x]).ravel())
        # Blurred a little, so that an autoencoder's noise does not count as unexplained.
        soft = gauss(np.stack([y, y - line[x], y - curve[x]]), 2.0)
        whole, straight, bent = (float(np.var(plane)) for plane in soft)
        if bent < _TOLD * straight and straight > 4:
            curves[channel] = curve
        elif slope < 0 and straight < _TOLD * whole:
            curves[channel] = line
    return curves


def _smooth_excess(x: Pixels, excess: Floats) -> Floats:
    """[256]: the mean of `excess` at each level of `x`, smoothed over levels, nothing where there are no pixels."""
    kernel = np.exp(-0.5 * (np.arange(-9, 10) / 3.0) ** 2)
    total = np.convolve(np.bincount(x, weights=excess, minlength=256), kernel, "same")
    counts = np.convolve(np.bincount(x, minlength=256), kernel, "same")
    return (total / (counts + 1e-4 * x.size)).astype(np.float32)


def _planes(pixels: AnyPixels, curves: Floats | None = None) -> Floats:
    """Pixels [h, w, 3] as float32 planes [3, h, w] from 0 to 255, through the tone curves where there are any."""
    if curves is None:
        return np.ascontiguousarray(pixels.transpose(2, 0, 1)).astype(np.float32)
    if pixels.dtype == np.uint8 and (curves == np.arange(256)).all():
        return _planes(pixels)
    if pixels.dtype == np.uint8:
        return np.stack([curve[pixels[..., channel]] for channel, curve in enumerate(curves)])
    # A curve has a value at each of eight bits' levels; between them it is straight.
    levels = pixels.transpose(2, 0, 1) * np.float32(1 / 257)
    below = np.minimum(levels.astype(np.uint8), 254)
    between = levels - below
    low, high = (np.stack([curve[at] for curve, at in zip(curves, below + step, strict=True)]) for step in (0, 1))
    planes: Floats = low + between * (high - low)
    return planes
