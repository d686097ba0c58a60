"""diffusers' residual block with fewer walks over its tensors: what a walk can do beside another one is done there.

On a CPU a small network's time beside its convolutions goes into such walks: activations, sums, a division by one.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn
from torch.nn import functional

from ip2pbatch.backends.pytorch.steps.convolutions import PackedConv
from ip2pbatch.backends.pytorch.steps.fused import FusedNorm, add, normalise, without_bias

_SMALL = 32 * 32
"""Pixels below which torch's group norm walks over innermost channels one by one, in bf16 for up to ten times as long
as over whole planes."""


class SmallNorm(nn.GroupNorm):
    """An nn.GroupNorm that takes a small picture in bf16 plane by plane; its output keeps the channels innermost."""

    def forward(self, x: Tensor) -> Tensor:
        """[n, c, h, w] → the same."""
        return _normed(self, x, self.weight, self.bias)


class LeanBlock(ResnetBlock2D):
    """A ResnetBlock2D whose activations are in place, whose scale and shift of a timestep are the norm's own weights,
    and whose sum is written by the last convolution where that can."""

    def forward(self, input_tensor: Tensor, temb: Tensor | None, *args: Any, **kwargs: Any) -> Tensor:
        """[n, c, h, w] → [n, out, h, w]."""
        return finish(self, input_tensor, begin(self, input_tensor), temb)


def begin(block: Any, x: Tensor) -> Tensor:
    """The first half, which knows nothing of the timestep: norm, activation, convolution."""
    if isinstance(block.norm1, FusedNorm):  # the bias is added where the second norm reads
        return without_bias(block.conv1, normalise(block.norm1, x, silu=True))
    hidden: Tensor = block.conv1(functional.silu(block.norm1(x), inplace=True))
    return hidden


def finish(block: Any, x: Tensor, hidden: Tensor, temb: Tensor | None) -> Tensor:
    """The rest of a block that was given x and whose first half gave `hidden`, which is written over."""
    if isinstance(block.norm2, FusedNorm):
        return _finish_fused(block, x, hidden, temb)
    hidden = block.dropout(_activated(block, hidden, temb))
    if block.conv_shortcut is not None:
        x = block.conv_shortcut(x)
    if isinstance(block.conv2, PackedConv) and not torch.compiler.is_compiling():
        return block.conv2.plus(hidden, x)
    whole: Tensor = block.conv2(hidden).add_(x)
    return whole


def make_lean(network: nn.Module) -> None:
    """Make every plain residual block of `network` a LeanBlock, in place."""
    for module in network.modules():
        if type(module) is ResnetBlock2D and is_plain(module):
            module.__class__ = LeanBlock


def norm_by_planes(network: nn.Module) -> None:
    """Make every group norm of `network` a SmallNorm, in place."""
    for module in network.modules():
        if type(module) is nn.GroupNorm:
            module.__class__ = SmallNorm


def is_plain(block: Any) -> bool:
    """Whether this residual block is of the kind that `begin` and `finish` know."""
    plain = block.upsample is None and block.downsample is None and block.output_scale_factor == 1
    norms = isinstance(block.norm1, nn.GroupNorm) and isinstance(block.norm2, nn.GroupNorm)
    timed = block.time_embedding_norm != "scale_shift" or block.time_emb_proj is not None
    return plain and norms and timed and isinstance(block.nonlinearity, nn.SiLU)


def _moment(block: Any, temb: Tensor | None) -> Tensor | None:
    """What the timestep's embedding is to this block [n, columns], None where it is nothing."""
    if block.time_emb_proj is None or temb is None:
        return None
    moment: Tensor = block.time_emb_proj(temb if block.skip_time_act else functional.silu(temb))
    return moment


def _finish_fused(block: Any, x: Tensor, hidden: Tensor, temb: Tensor | None) -> Tensor:
    """The same on a GPU: each bias is added where something is read anyway, the shortcut's with the sum."""
    moment, added = _moment(block, temb), block.conv1.bias
    modulation: tuple[Tensor, Tensor] | None = None
    if moment is not None and block.time_embedding_norm == "scale_shift":
        scale, shift = moment.chunk(2, dim=1)
        modulation = scale, shift
    elif moment is not None:
        added = moment if added is None else moment + added
    if added is not None and added.ndim == 1:
        added = added.expand(len(hidden), -1)
    hidden = normalise(block.norm2, hidden, silu=True, added=added, modulation=modulation)
    bias, shortcut = block.conv2.bias, block.conv_shortcut
    if shortcut is not None:
        x = without_bias(shortcut, x)
        bias = bias if shortcut.bias is None else shortcut.bias if bias is None else bias + shortcut.bias
    return add(without_bias(block.conv2, hidden), x, bias)


def _activated(block: Any, hidden: Tensor, temb: Tensor | None) -> Tensor:
    """The timestep's part, the second norm and the activation."""
    moment = _moment(block, temb)
    if moment is None:
        return functional.silu(block.norm2(hidden), inplace=True)
    if block.time_embedding_norm == "default":
        return functional.silu(block.norm2(hidden.add_(moment[:, :, None, None])), inplace=True)
    scales, shifts = moment.chunk(2, dim=1)
    norm = block.norm2
    if hidden.device.type != "cpu" or torch.compiler.is_compiling():
        normed = norm(hidden) * (1 + scales[:, :, None, None]) + shifts[:, :, None, None]
        return functional.silu(normed, inplace=True)
    weights = torch.addcmul(norm.weight, norm.weight, scales)
    biases = torch.addcmul(shifts, norm.bias, scales) + norm.bias
    for row, weight, bias in zip(hidden.split(1), weights, biases, strict=True):
        normed = _normed(norm, row, weight, bias)
        torch.ops.aten.silu.out(normed, out=row)
    return hidden


def _normed(norm: nn.GroupNorm, x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """`norm` of x with these weights."""
    cheap = x.dtype != torch.bfloat16 or x.device.type != "cpu" or x.ndim != 4 or x.shape[2:].numel() >= _SMALL
    if cheap or torch.compiler.is_compiling():
        return functional.group_norm(x, norm.num_groups, weight, bias, norm.eps)
    planes = functional.group_norm(x.contiguous(), norm.num_groups, weight, bias, norm.eps)
    return planes.contiguous(memory_format=torch.channels_last)
