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

Pixels = NDArray[np.uint8]
AnyPixels = NDArray[np.uint8] | NDArray[np.uint16]
Floats = NDArray[np.float32]

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
_ROWS = 64


class Lifted(NamedTuple):
    """`pixels` [H, W, 3] at the photo's size and depth; `gate` is the mean of k over the photo's detail, 0 to 1."""

    pixels: AnyPixels
    gate: float


@dataclass(frozen=True, slots=True)
class _Transfer:
    """At model size, in planes: the edit with its finest detail put right, and the gains of the residual."""

    edit: Floats  # [3, h, w]
    gain: Floats  # [3, h, w], the gate included
    chroma: Floats  # [1, h, w]: how much of the detail's colour survives
    open: Floats  # [1, h, w]: k
    gate: float


def lift(edited: Pixels, source_small: Pixels, source: AnyPixels, *, rows: int = _ROWS) -> Lifted:
    """`edited` and `source_small` (exactly what the model saw), uint8 [h, w, 3], and the photo [H, W, 3].

    The photo is uint8 or uint16, and so is the result: its own 16 bits come back where its detail does. All three in
    one colour space. Works in strips of `rows` rows, which change nothing in the result: beside the result
    itself memory holds ten float32 planes of h × W and one strip. Raises ValueError on shapes that do not fit.
    """
    if edited.shape != source_small.shape or edited.shape[-1:] != (3,) or source.shape[-1:] != (3,):
        raise ValueError(f"shapes do not fit: {edited.shape}, {source_small.shape}, {source.shape}")
    edit, curves = _planes(edited), _tone_curves(edited, source_small)
    seen = _planes(source_small, curves)
    transfer = _estimate(edit, seen)
    height, width = source.shape[:2]
    planes = np.concatenate([transfer.edit, seen, transfer.gain, transfer.chroma])
    planes = _resized(planes, (width, planes.shape[1]))
    taps, weights = _taps(planes.shape[1], height)
    out: AnyPixels = np.empty(source.shape, source.dtype)
    for top in range(0, height, rows):
        part = slice(top, min(top + rows, height))
        strip = _interpolated(planes, taps[part], weights[part])
        levels = _composed(strip, _planes(source[part], curves)).transpose(1, 2, 0)
        levels *= np.float32(_white(out) / 255)
        out[part] = np.clip(np.rint(levels, out=levels), 0, _white(out), out=levels)
    return Lifted(out, transfer.gate)


def gate(edited: Pixels, source_small: Pixels) -> Floats:
    """k [h, w] at model size: 1 where the edit kept the photo's structure, 0 where it put something new."""
    edit, seen = _planes(edited), _planes(source_small, _tone_curves(edited, source_small))
    k: Floats = _estimate(edit, seen).open[0]
    return k


def _white(pixels: AnyPixels) -> int:
    return int(np.iinfo(pixels.dtype).max)


def _composed(planes: Floats, source: Floats) -> Floats:
    edit, seen, gain, chroma = np.split(planes, (3, 6, 9))
    detail = _recoloured(source - seen, chroma)
    detail *= gain
    detail += edit
    return detail


def _estimate(edit: Floats, seen: Floats) -> _Transfer:
    """Gains by local regression of the edit's detail on the photo's, and a gate by how much that explains."""
    soft_edit, soft_seen = _gauss(edit, _TOP), _gauss(seen, _TOP)
    top_edit, top_seen = edit - soft_edit, seen - soft_seen
    # Gains are read off the band that an autoencoder keeps, below the octave that it blurs and fills with noise.
    band_edit, band_seen = soft_edit - _gauss(soft_edit, _DETAIL), soft_seen - _gauss(soft_seen, _DETAIL)
    chroma = _chroma_kept(band_edit, band_seen)
    gain = _gain(band_edit, _recoloured(band_seen, chroma))
    gate = _gate(top_edit + band_edit, _recoloured(top_seen + band_seen, chroma))
    same = _untouched(edit, seen)
    gate, gain, chroma = gate + (1 - gate) * same, gain + (1 - gain) * same, chroma + (1 - chroma) * same
    kept = gate * np.minimum(1, 4 * gain)  # where there is hardly any gain, what the edit shows is its own
    share = float((kept * np.abs(band_seen)).sum() / (np.abs(band_seen).sum() + 1e-9))
    # That octave the photo knows better than the edit does.
    mended = edit + kept * (gain * _recoloured(top_seen, chroma) - top_edit)
    return _Transfer(mended, gate * gain, chroma, gate, share)


def _gain(edit: Floats, model: Floats) -> Floats:
    """[3, h, w]: by how much the edit scaled each channel's detail; where there is none, as it did further around."""
    near = _gauss(np.concatenate([edit * model, model * model]), _WINDOW)
    wide = _gauss(near, _WIDE)
    weak = _WEAK**2
    prior = (wide[:3] + 1e-3) / (wide[3:] + 1e-3)
    gain: Floats = np.clip((near[:3] + weak * prior) / (near[3:] + weak), 0, _MAX_GAIN)
    return gain * _smoothstep((gain - _FAINT) / (3 * _FAINT))  # a trace of the old object is no gain


def _gate(edit: Floats, model: Floats) -> Floats:
    """k [1, h, w]: open where the photo's detail explains the edit's, but for what an autoencoder adds on its own."""
    cross, power, total = np.split(_gauss(np.concatenate([edit * model, model * model, edit * edit]), _WINDOW), 3)
    explained = (np.maximum(cross, 0) ** 2 / (power + 1e-3)).sum(axis=0, keepdims=True)
    unexplained = np.maximum(total.sum(axis=0, keepdims=True) - explained - 3 * _NOISE**2, 0)
    weak = _WEAK**2
    correlation = np.sqrt((explained + weak) / (explained + unexplained + weak))
    return _smoothstep((correlation - _CLOSED) / (_OPEN - _CLOSED))


def _chroma_kept(edit: Floats, seen: Floats) -> Floats:
    """[1, h, w]: how colourful the edit's detail is beside the photo's: 0 in black and white, 1 where light changed."""
    luma_edit, luma_seen = _luma(edit), _luma(seen)
    colour_edit, colour_seen = edit - luma_edit, seen - luma_seen
    products = [
        (colour_edit * colour_seen).sum(axis=0, keepdims=True), (colour_seen**2).sum(axis=0, keepdims=True),
        luma_edit * luma_seen, luma_seen**2,
    ]  # fmt: skip
    colours, colour_power, lights, light_power = np.split(_gauss(np.concatenate(products), 2 * _WINDOW), 4)
    weak = 0.25 * _WEAK**2
    ratio = ((colours + weak) / (colour_power + weak)) / np.maximum((lights + weak) / (light_power + weak), 0.05)
    kept: Floats = np.clip(ratio, 0, 1.5)
    return kept


def _recoloured(detail: Floats, chroma: Floats) -> Floats:
    luma = _luma(detail)
    return luma + chroma * (detail - luma)


def _untouched(edit: Floats, seen: Floats) -> Floats:
    """[1, h, w]: 1 where edit and photo are the same at a pixel and those beside it, 0 where they differ by more.

    A wider look (σ = 1) would soften two more pixels along every edge of what was replaced, by 10 to 20 dB.
    """
    difference = _gauss(np.abs(edit - seen).max(axis=0, keepdims=True), 0.6)
    return 1 - _smoothstep(difference / _SAME)


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
        soft = _gauss(np.stack([y, y - line[x], y - curve[x]]), 2.0)
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
    if pixels.dtype == np.uint8:
        return np.stack([curve[pixels[..., channel]] for channel, curve in enumerate(curves)])
    # A curve has a value at each of eight bits' levels; between them it is straight.
    levels = pixels.transpose(2, 0, 1) * np.float32(1 / 257)
    below = np.minimum(levels.astype(np.uint8), 254)
    between = levels - below
    low, high = (np.stack([curve[at] for curve, at in zip(curves, below + step, strict=True)]) for step in (0, 1))
    planes: Floats = low + between * (high - low)
    return planes


def _luma(planes: Floats) -> Floats:
    """[1, h, w], Rec. 709."""
    luma: Floats = 0.2126 * planes[:1] + 0.7152 * planes[1:2] + 0.0722 * planes[2:]
    return luma


def _smoothstep(x: Floats) -> Floats:
    x = np.clip(x, 0, 1)
    return x * x * (3 - 2 * x)


def _gauss(planes: Floats, sigma: float) -> Floats:
    """Gaussian blur of [c, h, w], the border mirrored; a wide one at a smaller size, where it costs little."""
    height, width = planes.shape[1:]
    step = min(int(sigma / 1.5), height, width)
    if step > 1:
        small = _resized(planes, (-(-width // step), -(-height // step)), Image.Resampling.BOX)
        # Bilinear: powers stay positive.
        return _resized(_gauss(small, sigma / step), (width, height), Image.Resampling.BILINEAR)
    radius = round(3 * sigma)
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1, dtype=np.float32) / np.float32(sigma)) ** 2)
    kernel /= kernel.sum()
    padded = np.pad(planes, ((0, 0), (radius, radius), (radius, radius)), mode="symmetric")
    rows = kernel[0] * padded[:, :height]
    for offset in range(1, len(kernel)):
        rows += kernel[offset] * padded[:, offset : offset + height]
    blurred: Floats = kernel[0] * rows[..., :width]
    for offset in range(1, len(kernel)):
        blurred += kernel[offset] * rows[..., offset : offset + width]
    return blurred


def _resized(planes: Floats, size: tuple[int, int], kernel: Image.Resampling = Image.Resampling.BICUBIC) -> Floats:
    """[c, h, w] at (width, height) `size`, with the geometry of `images.resize`."""
    return np.stack([np.asarray(Image.fromarray(plane).resize(size, kernel)) for plane in planes])


def _taps(small: int, large: int) -> tuple[NDArray[np.intp], Floats]:
    """For each of `large` rows which of `small` rows make it, and their weights: bicubic (a = −0.5), antialiased."""
    scale = small / large
    stretch = max(scale, 1.0)
    centres = (np.arange(large) + 0.5) * scale - 0.5
    reach = int(np.ceil(2 * stretch))
    taps = np.floor(centres).astype(int)[:, None] + np.arange(1 - reach, reach + 1)
    x = np.abs(taps - centres[:, None]) / stretch
    weights = np.where(x < 1, (1.5 * x - 2.5) * x * x + 1, np.where(x < 2, ((-0.5 * x + 2.5) * x - 4) * x + 2, 0))
    weights[(taps < 0) | (taps >= small)] = 0  # as Pillow does at the border
    weights /= weights.sum(axis=1, keepdims=True)
    return np.clip(taps, 0, small - 1), weights.astype(np.float32)


def _interpolated(planes: Floats, taps: NDArray[np.intp], weights: Floats) -> Floats:
    """Rows of [c, h, W] mixed by their taps, one tap after the other: no row's sum knows its neighbours."""
    mixed = planes[:, taps[:, 0]] * weights[:, 0, None]
    for tap in range(1, taps.shape[1]):
        mixed += planes[:, taps[:, tap]] * weights[:, tap, None]
    return mixed
