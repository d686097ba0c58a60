"""Which parts of a network use the kernels of kernels.py: norms, biases, sums and gates between its large products.

While torch.compile traces, all of it is what diffusers' own modules are: the compiler joins walks itself. The kernels
are imported where they are called: Triton takes a tenth of a second, which a start on a CPU is better without.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.activations import GEGLU
from torch import Tensor, nn
from torch.nn import functional

from ip2pbatch.backends.installed import is_installed
from ip2pbatch.backends.pytorch import accelerators


class FusedNorm(nn.GroupNorm):
    """An nn.GroupNorm whose output keeps its channels innermost."""

    def forward(self, input: Tensor) -> Tensor:
        """[n, c, h, w] → the same shape."""
        return normalise(self, input)


class FusedNormSilu(FusedNorm):
    """The same with SiLU after it."""

    def forward(self, input: Tensor) -> Tensor:
        """[n, c, h, w] → the same shape."""
        return normalise(self, input, silu=True)


class FusedConv(nn.Conv2d):
    """An nn.Conv2d whose bias is added in one quick walk: torch's own walk after cuDNN takes three times as long."""

    def forward(self, input: Tensor) -> Tensor:
        """[n, in, h, w] → [n, out, h', w']."""
        return add(without_bias(self, input), None, self.bias)


class FusedGeglu(GEGLU):
    """diffusers' GEGLU with its gate in one walk."""

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """[..., in] → [..., out]."""
        if torch.compiler.is_compiling():
            gated: Tensor = super().forward(hidden_states, *args, **kwargs)
            return gated
        from ip2pbatch.backends.pytorch.steps import kernels

        return kernels.geglu(self.proj(hidden_states))


def normalise(
    norm: Any, x: Tensor, *, silu: bool = False, added: Tensor | None = None,
    modulation: tuple[Tensor, Tensor] | None = None,
) -> Tensor:  # fmt: skip
    """`norm` of x + `added`, modulated, through SiLU: see kernels.group_norm."""
    if not torch.compiler.is_compiling() and x.ndim == 4:
        from ip2pbatch.backends.pytorch.steps import kernels

        return kernels.group_norm(
            x, norm.num_groups, norm.weight, norm.bias, norm.eps, silu=silu, added=added, modulation=modulation
        )
    x = x if added is None else x + added[:, :, None, None]
    normed = functional.group_norm(x, norm.num_groups, norm.weight, norm.bias, norm.eps)
    if modulation is not None:
        normed = normed * (1 + modulation[0][:, :, None, None]) + modulation[1][:, :, None, None]
    return functional.silu(normed) if silu else normed


def add(x: Tensor, other: Tensor | None, bias: Tensor | None) -> Tensor:
    """x [n, c, h, w] plus `other` and `bias` [c]; x is written over."""
    if not torch.compiler.is_compiling() and x.is_contiguous(memory_format=torch.channels_last):
        from ip2pbatch.backends.pytorch.steps import kernels

        return kernels.add_into(x, other, bias)
    x = x if bias is None else x + bias[:, None, None]
    return x if other is None else x + other


def without_bias(conv: Any, x: Tensor) -> Tensor:
    """What the convolution makes of x [n, c, h, w] before its bias; a 1 × 1 one as a product over pixels."""
    if conv.kernel_size == (1, 1) and conv.stride == (1, 1) and conv.padding == (0, 0) and conv.groups == 1:
        return functional.linear(x.permute(0, 2, 3, 1), conv.weight.flatten(1)).permute(0, 3, 1, 2)
    return functional.conv2d(x, conv.weight, None, conv.stride, conv.padding, conv.dilation, conv.groups)


def fuse(network: nn.Module) -> None:
    """Have norms, convolutions and gates of `network` use the kernels, in place; a last norm takes its SiLU along."""
    for module in network.modules():
        if type(module) is nn.GroupNorm and module.affine:
            module.__class__ = FusedNorm
        elif type(module) is nn.Conv2d and module.padding_mode == "zeros" and not isinstance(module.padding, str):
            module.__class__ = FusedConv
        elif type(module) is GEGLU:
            module.__class__ = FusedGeglu
        if isinstance(getattr(module, "conv_act", None), nn.SiLU) and module.conv_norm_out is not None:
            module.conv_norm_out.__class__ = FusedNormSilu
            module.conv_act = nn.Identity()


def why_not_fused(device: torch.device) -> str:
    """Why these kernels cannot work here; "" where they can."""
    if not accelerators.is_nvidia(device):
        return accelerators.untried(device) or "on a CPU its own layouts are faster"
    return "" if is_installed("triton") else "Triton is not installed"
