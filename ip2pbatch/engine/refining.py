"""Refines a picture at its photo's own size: tiles of it are edited again, each with its own pixels of the photo.

At ever higher scales, each beginning at part of the noise from what the picture has become so far (Meng et al. 2022,
"SDEdit"), with noise estimates that are joined over overlapping tiles at every step (Bar-Tal et al. 2023,
"MultiDiffusion"): one latent canvas a scale. A tile is of the size that the edit was made at.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ip2pbatch.backends.base import Backend
from ip2pbatch.engine.samplers import make_sampler
from ip2pbatch.engine.transfer import send
from ip2pbatch.pictures.areas.composing import composed
from ip2pbatch.pictures.images import resize
from ip2pbatch.pictures.lifting.damping import undamped
from ip2pbatch.pictures.lifting.planes import interpolated, resized, row_taps
from ip2pbatch.plan.edits import Edit
from ip2pbatch.plan.rows import RowPlan, plan_tiles
from ip2pbatch.plan.tiling import Box, Size, boxes, canvas, levels
from ip2pbatch.run.engine import FullSize, Hook, Result, Source, Stopped

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]
Levels = NDArray[np.uint8] | NDArray[np.float32]

_ROWS = 256  # pixels of a scale that are worked on at once: a multiple of what a Refinement keeps
_NONE = 1e-20  # a weight that no tile has, not in its corner either
_NEW = 0.01  # of a tile's pixels: less that is new is not worth a tile


class NotFiniteError(Exception):
    """A network gave numbers that are none."""


class Estimate(Protocol):
    """Guided noise of rows that are planned."""

    def __call__(self, plan: RowPlan, latents: Tensor, timestep: Tensor, images: Tensor) -> Tensor:
        """Latents and conditioning latents [n, c, h, w] → ê [n, c, h, w] in float32."""
        ...


@dataclass(frozen=True, slots=True)
class Networks:
    """What a picture is refined with. `at` gives an Edit as it is guided at a step (of all its steps); `tiles` are
    those of one call.
    """

    backend: Backend
    estimate: Estimate
    at: Callable[[Edit, int], Edit]
    tiles: int


def refine(networks: Networks, edit: Edit, source: Source, hook: Hook | None = None) -> Result:
    """The picture of `edit` at its photo's size, where it is refined (see Result). Raises OutOfMemory, Stopped."""
    how, full = edit.refine, source.full
    assert how is not None, "only what is refined comes here"
    assert full is not None, "its source is loaded at full size"
    sizes = levels(edit.size, how.full)
    planned = [_Level.of(size, edit.size, networks.backend.limits.multiple, full.share, how.fades) for size in sizes]
    steps = how.steps_of(edit.steps)
    progress = _Progress(hook, sum(len(level.taken) for level in planned) * steps, full.lifted, edit.size)
    try:
        shown, share = full.lifted, np.zeros(full.lifted.shape[:2], np.uint8)
        for number, level in enumerate(planned):
            begin = composed(resize(shown, level.size), resize(full.lifted, level.size), resize(share, level.size))
            share = level.share(full.share)
            pixels = (
                _Pass(networks, edit, level, seed_of(edit, number), progress).make(full, begin)
                if level.taken
                else begin
            )
            shown = composed(pixels, begin, share)
    except NotFiniteError as error:
        return Result(None, None, "nan", str(error))
    if networks.backend.flag([resize(composed(shown, full.lifted, share), edit.size)])[0]:
        return Result(None, None, "flagged", "the model's safety checker flagged the refined picture")
    patch = np.empty((*share.shape, 4), np.uint8)
    np.multiply(pixels, share[..., None] > 0, out=patch[..., :3])
    patch[..., 3] = share
    taken, of = sum(len(level.taken) for level in planned), sum(len(level.boxes) for level in planned)
    return Result(patch, None, "done", f"{taken:,} of {of:,} tiles refined")


def seed_of(edit: Edit, level: int) -> int:
    """A level's noise: it hangs on the Edit's seed alone, not on which tiles are taken, nor in which order."""
    return int.from_bytes(hashlib.sha256(f"{edit.seed} refine {level}".encode()).digest()[:4], "big")


class _Progress:
    """Tells a Hook of the tiles' steps."""

    def __init__(self, hook: Hook | None, of: int, picture: Pixels, size: Size) -> None:
        self._hook, self._of, self._done, self._picture, self._size = hook, of, 0, picture, size

    def add(self, tiles: int) -> None:
        """So many tiles went a step on. Raises Stopped."""
        self._done += tiles
        if self._hook and not self._hook.step(self._done, self._of, lambda: [resize(self._picture, self._size)]):
            raise Stopped(f"after {self._done} of {self._of} steps of tiles")


@dataclass(frozen=True, slots=True)
class _Level:
    """A scale: the photo's `size` there, that of the canvas it lies on, of its tiles, which of all are `taken`, and how
    tiles fade (see _ramp).
    """

    size: Size
    area: Size
    tile: Size
    boxes: tuple[Box, ...]
    taken: tuple[Box, ...]
    fades: int

    @classmethod
    def of(cls, size: Size, tile: Size, multiple: int, share: Pixels, fades: int) -> _Level:
        area = canvas(size, tile, multiple)
        every = boxes(area, tile, multiple)
        taken = tuple(box for box in every if _is_new(box, size, tile, share))
        return cls(size, area, tile, tuple(every), taken, fades)

    def share(self, wanted: Pixels) -> Pixels:
        """How much of each pixel [h, w] is refined: as is `wanted`, and nothing where no tile is."""
        found, wide, high = resize(wanted, self.size).copy(), *self.size
        taken, every = _Weights.of(self, self.taken), _Weights.of(self, self.boxes)
        for top in range(0, high, _ROWS):
            rows = slice(top, min(top + _ROWS, high))
            np.rint(found[rows] * (taken.rows(rows) / every.rows(rows))[:, :wide], out=found[rows], casting="unsafe")
        return found


def _is_new(box: Box, size: Size, tile: Size, share: Pixels) -> bool:
    """Whether enough of what a tile shows is to be refined."""
    high, wide = share.shape
    down, right = high / size[1], wide / size[0]
    part = share[
        int(box.top * down) : max(1, round((box.top + tile[1]) * down)),
        int(box.left * right) : max(1, round((box.left + tile[0]) * right)),
    ]
    return bool(part.size) and float((part > 127).mean()) > _NEW


@dataclass(frozen=True, slots=True)
class _Weights:
    """Sums of the weights of tiles over a level's canvas, for some rows at a time: the sums along rows [n, W] of tiles
    with one top, by their `tops`, and how they fall from their middle downwards.
    """

    tops: tuple[int, ...]
    across: Floats
    down: Floats

    @classmethod
    def of(cls, level: _Level, taken: Sequence[Box]) -> _Weights:
        tops = tuple(dict.fromkeys(box.top for box in taken))
        across, ramp = np.zeros((len(tops), level.area[0]), np.float32), _ramp(level.tile[0], level.fades).numpy()
        for box in taken:
            across[tops.index(box.top), box.left : box.left + level.tile[0]] += ramp
        return cls(tops, across, _ramp(level.tile[1], level.fades).numpy())

    def rows(self, rows: slice) -> Floats:
        """[rows, W]."""
        found = np.zeros((rows.stop - rows.start, self.across.shape[1]), np.float32)
        for top, across in zip(self.tops, self.across, strict=True):
            begin, end = max(rows.start, top), min(rows.stop, top + len(self.down))
            if begin < end:
                found[begin - rows.start : end - rows.start] += self.down[begin - top : end - top, None] * across
        return found


class _Canvas:
    """Joins tiles [c, h, w] by weights that fall towards a tile's edge. `weight` [H, W] is their sum."""

    def __init__(self, level: _Level, scale: int, device: torch.device) -> None:
        self._tile, self._taken, self._scale, self._device = level.tile, level.taken, scale, device
        wide, high = (_ramp(side // scale, level.fades) for side in level.tile)
        self._window = (high[:, None] * wide[None, :]).to(device)
        self._shape = level.area[1] // scale, level.area[0] // scale
        self.weight = torch.zeros(self._shape, device=device)
        for box in level.taken:
            self.weight[self._at(box)] += self._window

    def _at(self, box: Box) -> tuple[slice, slice]:
        top, left = box.top // self._scale, box.left // self._scale
        return slice(top, top + self._tile[1] // self._scale), slice(left, left + self._tile[0] // self._scale)

    def crop(self, whole: Tensor, box: Box) -> Tensor:
        """A tile [c, h, w] of a canvas [c, H, W]."""
        return whole[(slice(None), *self._at(box))]

    def join(self, tiles: Iterable[Tensor]) -> Tensor:
        """Tiles in the order of their boxes → [c, H, W], 0 where there are none."""
        total: Tensor | None = None
        for box, tile in zip(self._taken, tiles, strict=True):
            if total is None:
                total = torch.zeros((len(tile), *self._shape), device=self._device)
            total[(slice(None), *self._at(box))] += tile.to(self._device) * self._window
        assert total is not None, "a level that is made has tiles"
        return total / self.weight.clamp(min=_NONE)


def _ramp(length: int, fades: int) -> Tensor:
    """[length]: highest in the middle, hardly anything at the ends. A tile has few latents: fading evenly (1), its last
    one still has some 8 % of the weight there, which shows as a step; faded by the square (2) it has less than 1 %.
    """
    at = torch.arange(length, dtype=torch.float32) + 0.5
    even = torch.minimum(at, length - at) / (length / 2)
    return even if fades == 1 else even**fades


class _Pass:
    """One scale of one picture."""

    def __init__(self, networks: Networks, edit: Edit, level: _Level, seed: int, progress: _Progress) -> None:
        self._networks, self._edit, self._level, self._seed, self._progress = networks, edit, level, seed, progress
        backend = networks.backend
        self._latents = _Canvas(level, backend.vae_scale, backend.device)

    def make(self, full: FullSize, begin: Pixels) -> Pixels:
        """Pixels [h, w, 3] at the level's size; `begin` is what they begin as, and stay where no tile is."""
        photo = resize(full.photo, self._level.size)
        images = torch.cat(self._encoded(photo))
        clean = self._latents.join(one[0].float() for one in self._encoded(begin))
        latents = self._denoised(clean * self._networks.backend.scaling_factor, images)
        how, mixed, (wide, high) = self._edit.refine, begin.copy(), self._level.size
        assert how is not None, "only what is refined has levels"
        every = _Weights.of(self._level, self._level.boxes)
        for rows, pixels, weight in self._joined(self._decoded(latents, photo, images)):
            shown = slice(rows.start, min(rows.stop, high))
            some = slice(0, shown.stop - shown.start)
            cover = (weight[some] / every.rows(shown))[:, :wide, None]
            own = pixels[some, :wide]
            mixed[shown] = np.rint(mixed[shown] + cover * (own - mixed[shown]))
        return as_bright(mixed, begin, how.keeps)

    def _joined(self, tiles: Iterable[Tensor]) -> Iterator[tuple[slice, Floats, Floats]]:
        """Decoded tiles → rows of the canvas as soon as no further tile has any of them: which, their levels from 0 to
        255 [rows, W, 3], and the weight of their tiles [rows, W]. A canvas of floats would take gigabytes.
        """
        level, high = self._level, self._level.tile[1]
        weights = _Weights.of(level, level.taken)
        total = np.zeros((high, level.area[0], 3), np.float32)
        window = (_ramp(high, level.fades)[:, None] * _ramp(level.tile[0], level.fades)).numpy()[..., None]
        tops = [box.top for box in level.taken]
        for number, (box, tile) in enumerate(zip(level.taken, tiles, strict=True)):
            total[:, box.left : box.left + level.tile[0]] += tile.permute(1, 2, 0).cpu().numpy() * window
            ready = min(tops[number + 1] if number + 1 < len(tops) else box.top + high, box.top + high) - box.top
            if ready:
                rows = slice(box.top, box.top + ready)
                weight = weights.rows(rows)
                pixels = total[:ready].copy()
                pixels /= np.maximum(weight, _NONE)[..., None]
                np.clip(pixels * 0.5 + 0.5, 0, 1, out=pixels)
                pixels *= 255
                yield rows, pixels, weight
                total = np.concatenate([total[ready:], np.zeros_like(total[:ready])])

    def _denoised(self, clean: Tensor, images: Tensor) -> Tensor:
        """x₀ of the canvas [c, H, W] to begin from, and the tiles' conditioning latents → x₀ in the end."""
        edit, backend = self._edit, self._networks.backend
        assert edit.refine is not None, "only what is refined has levels"
        sampler = make_sampler(edit.sampler, backend.scheduler_config, edit.steps, [self._seed], backend.device)
        sampler.draw((clean.shape[0], clean.shape[1], clean.shape[2]))
        first = len(sampler.timesteps) - edit.refine.steps_of(len(sampler.timesteps))
        latents = sampler.noised(clean[None], first)
        for step in range(first, len(sampler.timesteps)):
            timestep = sampler.timesteps[step]
            noise = self._latents.join(self._estimates(step, timestep, sampler.scale(latents, timestep)[0], images))
            latents = sampler.step(noise[None], timestep, latents)
        return latents[0]

    def _estimates(self, step: int, timestep: Tensor, seen: Tensor, images: Tensor) -> Iterable[Tensor]:
        """ê of each tile, some tiles at a time."""
        taken, most = self._level.taken, self._networks.tiles
        edit = self._networks.at(self._edit, step)
        for start in range(0, len(taken), most):
            some = taken[start : start + most]
            crops = torch.stack([self._latents.crop(seen, box) for box in some])
            yield from self._networks.estimate(
                plan_tiles(edit, len(some)), crops, timestep, images[start : start + most]
            )
            self._progress.add(len(some))

    def _encoded(self, pixels: Pixels) -> list[Tensor]:
        """The posterior's mode of each tile [1, c, h, w], unscaled."""
        return [self._encode(tile) for tile in self._cut(pixels)]

    def _cut(self, pixels: Pixels) -> Iterator[Pixels]:
        """Each tile of pixels [h, w, 3] at the level's size. What lies beyond them is their edge."""
        wide, high = self._level.tile
        for box in self._level.taken:
            tile = pixels[box.top : box.top + high, box.left : box.left + wide]
            yield np.pad(tile, ((0, high - tile.shape[0]), (0, wide - tile.shape[1]), (0, 0)), mode="edge")

    def _encode(self, pixels: Pixels) -> Tensor:
        backend = self._networks.backend
        picture = send(torch.tensor(pixels), backend.device).permute(2, 0, 1)[None].float() / 255 * 2 - 1
        return _finite(
            lambda upcast: backend.encode_image(picture, upcast=upcast), "the autoencoder's latent of a tile"
        )

    def _decoded(self, latents: Tensor, photo: Pixels, images: Tensor) -> Iterable[Tensor]:
        """Pixels [3, h, w] of each tile, as detailed as the decoder would have made the `photo` if it lost nothing."""
        backend, how = self._networks.backend, self._edit.refine
        assert how is not None, "only what is refined has levels"
        for box, own, image in zip(self._level.taken, self._cut(photo), images, strict=True):
            latent = self._latents.crop(latents, box)[None] / backend.scaling_factor
            if not latent.isfinite().all():
                raise NotFiniteError("the UNet's latent of a tile is not finite")
            made = self._decode(latent)[0].float()
            yield self._undamped(made, own, image) if how.undamped else made

    def _undamped(self, made: Tensor, own: Pixels, image: Tensor) -> Tensor:
        """A decoded tile with what the autoencoder takes of the photo's `own` [h, w, 3] made good."""
        back = np.clip(_levels(self._decode(image[None])[0]), 0, 255)
        found = undamped(_levels(made), own.transpose(2, 0, 1).astype(np.float32), back)
        return torch.from_numpy(found / np.float32(127.5) - 1)

    def _decode(self, latent: Tensor) -> Tensor:
        backend = self._networks.backend
        return _finite(lambda upcast: backend.decode(latent, upcast=upcast), "the autoencoder's picture of a tile")


def as_bright(pixels: Levels, begin: Pixels, keeps: int) -> Pixels:
    """Pixels [h, w, 3] as bright and as colourful as `begin` everywhere, with their own detail finer than about `keeps`
    pixels: what is refined is the edit, seen from further away.
    """
    high, wide = begin.shape[:2]
    size = max(1, round(wide / keeps)), max(1, round(high / keeps))
    missing = resized(_coarse(begin, size, keeps) - _coarse(pixels, size, keeps), (wide, size[1]))
    taps, weights = row_taps(size[1], high)
    out = np.empty_like(begin)
    for top in range(0, high, _ROWS):
        rows = slice(top, min(top + _ROWS, high))
        own = pixels[rows] + interpolated(missing, taps[rows], weights[rows]).transpose(1, 2, 0)
        out[rows] = np.clip(np.rint(own), 0, 255)
    return out


def _coarse(pixels: Levels, size: Size, keeps: int) -> Floats:
    """Means of pixels [h, w, 3] over areas, [3, h, w] at (width, height) `size`, some rows at a time."""
    found, step = np.empty((3, size[1], size[0]), np.float32), len(pixels) / size[1]
    for top in range(0, size[1], _ROWS // keeps):
        end = min(top + _ROWS // keeps, size[1])
        first, last = int(top * step), math.ceil(end * step)
        box = (0, top * step - first, pixels.shape[1], min(end * step - first, last - first))
        for channel in range(3):
            plane = Image.fromarray(pixels[first:last, :, channel].astype(np.float32))
            found[channel, top:end] = np.asarray(plane.resize((size[0], end - top), Image.Resampling.BOX, box=box))
    return found


def _levels(pixels: Tensor) -> Floats:
    """Pixels in [-1, 1] as levels from 0 to 255 on the host."""
    levels: Floats = (pixels.float() * 127.5 + 127.5).cpu().numpy()
    return levels


def _finite(made: Callable[[bool], Tensor], called: str) -> Tensor:
    """What an autoencoder makes, in float32 where it breaks at less. Raises NotFiniteError."""
    for upcast in (False, True):
        if (found := made(upcast)).isfinite().all():
            return found
    raise NotFiniteError(f"{called} is not finite")
