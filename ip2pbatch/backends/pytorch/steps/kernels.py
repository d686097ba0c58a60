"""What lies between a GPU's convolutions and products, in fewer walks over memory: Triton kernels over tensors whose
channels lie innermost.

torch's own group norm gives back channels outermost (pytorch #111824), so that in a network laid out for its
convolutions every norm is followed by a transposition; a convolution's bias, an activation, a sum are walks of their
own. Here a norm reads twice and writes once, whatever is added before it or done after it. These are functions of
tensors alone; which parts of a network use them is in fused.py.
"""

from __future__ import annotations

import torch
from torch import Tensor

try:
    import triton
    import triton.language as tl
except ImportError:  # a CPU build of torch comes without it, and there nothing here is asked for
    triton = tl = None

_CHANNELS = 64  # of a tile: 128 bytes a pixel in half precision
_TOGETHER = 2048  # sums of tiles and channels that are joined at once
_COLUMNS = 1024  # of a row of tokens, for one program


def group_norm(
    x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float, *, silu: bool = False,
    added: Tensor | None = None, modulation: tuple[Tensor, Tensor] | None = None,
) -> Tensor:  # fmt: skip
    """The group norm of x [n, c, h, w] + `added` [n, c], then SiLU where it is asked for; channels innermost.

    `modulation` (scale, shift) [n, c] makes it norm · (1 + scale) + shift before that. Sums are in float32 around each
    tile's own mean (Chan, Golub and LeVeque 1979), and nothing in between is rounded to the tensor's precision.
    """
    x = x.contiguous(memory_format=torch.channels_last)
    scale, shift = _coefficients(x, groups, weight, bias, eps, added)
    if modulation is not None:
        scale, shift = scale * (1 + modulation[0]), shift * (1 + modulation[0]) + modulation[1]
    _, c, h, w = x.shape
    y, tile = torch.empty_like(x, memory_format=torch.channels_last), _tile(h * w)
    _apply_tile[_grid(x)](x, scale, shift, y, h * w, c, silu, tile, _CHANNELS)
    return y


def add_into(x: Tensor, other: Tensor | None, bias: Tensor | None) -> Tensor:
    """x [n, c, h, w] with its channels innermost, plus `other` of that shape and `bias` [c], written into x."""
    if other is None and bias is None:
        return x
    _, c, h, w = x.shape
    other = None if other is None else other.contiguous(memory_format=torch.channels_last)
    has_other, has_bias = other is not None, bias is not None
    _add_tile[_grid(x)](
        x, other if has_other else x, bias if has_bias else x, h * w, c, has_other, has_bias, _tile(h * w), _CHANNELS
    )
    return x


def geglu(x: Tensor) -> Tensor:
    """[..., 2d] → its first half times GELU of its second [..., d] (Shazeer 2020, "GLU Variants")."""
    width = x.shape[-1] // 2
    x = x.contiguous()
    y = torch.empty((*x.shape[:-1], width), device=x.device, dtype=x.dtype)
    _geglu_row[(y.numel() // width, triton.cdiv(width, _COLUMNS))](x, y, width, _COLUMNS)
    return y


def _tile(pixels: int) -> int:
    """Pixels of a tile: enough tiles to fill a GPU, few enough to be joined quickly."""
    return 64 if pixels <= 64 * 64 else 256


def _grid(x: Tensor) -> tuple[int, int, int]:
    n, c, h, w = x.shape
    return n, triton.cdiv(h * w, _tile(h * w)), triton.cdiv(c, _CHANNELS)


def _coefficients(
    x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float, added: Tensor | None
) -> tuple[Tensor, Tensor]:
    """What each row's channel is multiplied with, and what is added then: both [n, c] in float32."""
    n, c, h, w = x.shape
    tile, own = _tile(h * w), c // groups
    wide, tiles = triton.next_power_of_2(own), triton.cdiv(h * w, tile)
    means, squares = (torch.empty(n, tiles, c, device=x.device, dtype=torch.float32) for _ in range(2))
    _measure_tile[_grid(x)](x, means, squares, h * w, c, tile, _CHANNELS)
    scale, shift = (torch.empty(n, c, device=x.device, dtype=torch.float32) for _ in range(2))
    _measure_group[(n, groups)](
        means, squares, weight, bias, x if added is None else added.contiguous(), scale, shift,
        h * w, c, tiles, eps, added is not None, tile, max(1, _TOGETHER // wide), own, wide,
    )  # fmt: skip
    return scale, shift


if triton is not None:

    @triton.jit
    def _measure_tile(x, means, squares, pixels, channels, P: tl.constexpr, C: tl.constexpr):
        """Mean, and sum of squares about it, of each channel in a tile of one row."""
        row, tile = tl.program_id(0).to(tl.int64), tl.program_id(1)
        pixel, channel = tile * P + tl.arange(0, P), tl.program_id(2) * C + tl.arange(0, C)
        there = (pixel < pixels)[:, None] & (channel < channels)[None, :]
        at = row * pixels * channels + pixel[:, None] * channels + channel[None, :]
        value = tl.load(x + at, mask=there, other=0.0).to(tl.float32)
        count = tl.minimum(pixels - tile * P, P).to(tl.float32)
        mean = tl.sum(value, axis=0) / count
        away = tl.where(there, value - mean[None, :], 0.0)
        place = (row * tl.num_programs(1) + tile) * channels + channel
        tl.store(means + place, mean, mask=channel < channels)
        tl.store(squares + place, tl.sum(away * away, axis=0), mask=channel < channels)

    @triton.jit
    def _measure_group(
        means, squares, weight, bias, added, scale, shift, pixels, channels, tiles, eps,
        ADDED: tl.constexpr, P: tl.constexpr, T: tl.constexpr, OWN: tl.constexpr, C: tl.constexpr,
    ):  # fmt: skip
        """What the tiles of one row's group say together: its channels' factors and summands."""
        row, group = tl.program_id(0), tl.program_id(1)
        channel = group * OWN + tl.arange(0, C)
        mine = tl.arange(0, C) < OWN
        extra = tl.zeros([C], tl.float32)
        if ADDED:
            extra = tl.load(added + row * channels + channel, mask=mine, other=0.0).to(tl.float32)
        total = tl.zeros([T, C], tl.float32)
        for first in range(0, tiles, T):
            tile = first + tl.arange(0, T)
            count = tl.minimum(pixels - tile * P, P).to(tl.float32)[:, None]
            place = (row * tiles + tile)[:, None] * channels + channel[None, :]
            there = (tile < tiles)[:, None] & mine[None, :]
            mean = tl.load(means + place, mask=there, other=0.0) + extra[None, :]
            total += tl.where(there, mean * count, 0.0)
        whole = pixels * OWN * 1.0
        middle = tl.sum(tl.sum(total, axis=0), axis=0) / whole
        spread = tl.zeros([T, C], tl.float32)
        for first in range(0, tiles, T):
            tile = first + tl.arange(0, T)
            count = tl.minimum(pixels - tile * P, P).to(tl.float32)[:, None]
            place = (row * tiles + tile)[:, None] * channels + channel[None, :]
            there = (tile < tiles)[:, None] & mine[None, :]
            away = tl.load(means + place, mask=there, other=0.0) + extra[None, :] - middle
            spread += tl.where(there, tl.load(squares + place, mask=there, other=0.0) + away * away * count, 0.0)
        factor = 1 / tl.sqrt(tl.sum(tl.sum(spread, axis=0), axis=0) / whole + eps)
        factor = factor * tl.load(weight + channel, mask=mine, other=0.0).to(tl.float32)
        summand = tl.load(bias + channel, mask=mine, other=0.0).to(tl.float32) + (extra - middle) * factor
        tl.store(scale + row * channels + channel, factor, mask=mine)
        tl.store(shift + row * channels + channel, summand, mask=mine)

    @triton.jit
    def _apply_tile(x, scale, shift, y, pixels, channels, SILU: tl.constexpr, P: tl.constexpr, C: tl.constexpr):
        """The tile itself: times its channels' factors, plus their summands, through SiLU."""
        row = tl.program_id(0).to(tl.int64)
        pixel, channel = tl.program_id(1) * P + tl.arange(0, P), tl.program_id(2) * C + tl.arange(0, C)
        there = (pixel < pixels)[:, None] & (channel < channels)[None, :]
        at = row * pixels * channels + pixel[:, None] * channels + channel[None, :]
        value = tl.load(x + at, mask=there, other=0.0).to(tl.float32)
        factor = tl.load(scale + row * channels + channel, mask=channel < channels, other=0.0)
        summand = tl.load(shift + row * channels + channel, mask=channel < channels, other=0.0)
        value = value * factor[None, :] + summand[None, :]
        if SILU:
            value = value / (1 + tl.exp(-value))
        tl.store(y + at, value.to(y.dtype.element_ty), mask=there)

    @triton.jit
    def _add_tile(
        x, other, bias, pixels, channels,
        OTHER: tl.constexpr, BIAS: tl.constexpr, P: tl.constexpr, C: tl.constexpr,
    ):  # fmt: skip
        """A tile of x, plus the same of `other` and its channels' bias, in place."""
        row = tl.program_id(0).to(tl.int64)
        pixel, channel = tl.program_id(1) * P + tl.arange(0, P), tl.program_id(2) * C + tl.arange(0, C)
        there = (pixel < pixels)[:, None] & (channel < channels)[None, :]
        at = row * pixels * channels + pixel[:, None] * channels + channel[None, :]
        value = tl.load(x + at, mask=there, other=0.0).to(tl.float32)
        if BIAS:
            value += tl.load(bias + channel, mask=channel < channels, other=0.0).to(tl.float32)[None, :]
        if OTHER:
            value += tl.load(other + at, mask=there, other=0.0).to(tl.float32)
        tl.store(x + at, value.to(x.dtype.element_ty), mask=there)

    @triton.jit
    def _geglu_row(x, y, width, C: tl.constexpr):
        """A part of one row: the first half times GELU of the second."""
        row, column = tl.program_id(0).to(tl.int64), tl.program_id(1) * C + tl.arange(0, C)
        there = column < width
        value = tl.load(x + row * 2 * width + column, mask=there, other=0.0).to(tl.float32)
        gate = tl.load(x + row * 2 * width + width + column, mask=there, other=0.0).to(tl.float32)
        value = value * gate * 0.5 * (1 + tl.erf(gate * 0.7071067811865476))
        tl.store(y + row * width + column, value.to(y.dtype.element_ty), mask=there)
