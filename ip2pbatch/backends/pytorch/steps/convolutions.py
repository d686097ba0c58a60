"""Convolutions on a CPU in oneDNN's own layouts: weights laid out once, channels innermost from one to the next.

A plain convolution lays out its weights, its input and its output anew in every call. Beside that, a convolution can
write its sum with a second input itself, and one after a doubling of the picture's sides can do without the doubling.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from typing import Any

import torch
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn

_MOST = 0.25  # of the machine's memory, for the second copy of the weights
# A CPU with AVX2 alone makes a plain convolution in half precision, and refuses weights that are laid out for one.
_ASKED = {torch.bfloat16: "_is_mkldnn_bf16_supported", torch.float16: "_is_mkldnn_fp16_supported"}

# What an output pixel at an even place, and one at an odd place, take of a kernel's three columns, where each pixel of
# the input stands for two: the even one sees the left neighbour once and its own pixel twice.
_HALVES = (((1.0, 0.0, 0.0), (0.0, 1.0, 1.0)), ((1.0, 1.0, 0.0), (0.0, 0.0, 1.0)))


class PackedConv(nn.Conv2d):
    """`nn.Conv2d` whose weight also lies ready as oneDNN wants it; outputs have their channels innermost.

    Which kernel works hangs on the call's shape alone, not on the shape that the weight was laid out for: a weight that
    lies otherwise is laid out anew in each call, which may take a hundred times the convolution. So each shape has the
    layout that it asks for, and there are few different ones.
    """

    def forward(self, x: Tensor) -> Tensor:
        """[n, in, h, w] → [n, out, h', w']."""
        if torch.compiler.is_compiling() or not _has_layouts(self.weight.dtype):  # the compiler lays out weights itself
            return super().forward(x)
        convolved: Tensor = torch.ops.mkldnn._convolution_pointwise(
            x, self._laid_out(x), self.bias, *self._how(), "none", [], ""
        )
        return convolved

    def plus(self, x: Tensor, other: Tensor) -> Tensor:
        """The convolution of x, plus `other`."""
        if not _has_layouts(self.weight.dtype):
            return super().forward(x) + other
        other = other.contiguous(memory_format=torch.channels_last)
        summed: Tensor = torch.ops.mkldnn._convolution_pointwise.binary(
            x, other, self._laid_out(x), self.bias, *self._how(), "add", 1.0, None, [], None
        )
        return summed

    def _how(self) -> tuple[list[int], list[int], list[int], int]:
        padding = [side for side in self.padding if isinstance(side, int)]
        return padding, list(self.stride), list(self.dilation), self.groups

    def _laid_out(self, x: Tensor) -> Tensor:
        known: dict[Any, Tensor] = self.__dict__.setdefault("packed", {})  # no buffer: a state_dict stays what it was
        shape = (self.weight.dtype, torch.get_num_threads(), *x.shape)
        found = known.get(shape)
        if found is None:
            packed = torch.ops.mkldnn._reorder_convolution_weight(self.weight, *self._how(), list(x.shape))
            others = tuple(known.values())  # rows' threads come here at the same time
            if any(one.dtype != packed.dtype for one in others):
                known.clear()  # the network is in another precision than it was
                others = ()
            found = known[shape] = next((one for one in others if _is_alike(one, packed)), packed)
        return found


class SplitUpsample(Upsample2D):
    """Doubling by repetition and a 3 × 3 convolution as one of four 2 × 2 kernels before the doubling: 16 products a
    pixel for 36. A row and column of the output are every second ones of a kernel's own.
    """

    split: nn.Conv2d

    def forward(self, hidden_states: Tensor, output_size: Any = None, *args: Any, **kwargs: Any) -> Tensor:
        """[n, c, h, w] → [n, out, 2h, 2w]; other sizes are made as diffusers makes them."""
        if output_size is not None or torch.compiler.is_compiling():
            plain: Tensor = super().forward(hidden_states, output_size, *args, **kwargs)
            return plain
        n, _, height, width = hidden_states.shape
        parts = self.split(hidden_states).unflatten(1, (4, -1))  # one more row and column than the input has
        shape = (n, parts.shape[2], 2 * height, 2 * width)
        whole = torch.empty(shape, dtype=parts.dtype, device=parts.device, memory_format=torch.channels_last)
        for number in range(4):
            down, right = divmod(number, 2)
            whole[..., down::2, right::2] = parts[:, number, :, down : down + height, right : right + width]
        return whole


def pack(network: nn.Module) -> None:
    """Make every plain convolution of `network` whose precision has layouts on this CPU a PackedConv, in place."""
    for module in network.modules():
        if type(module) is nn.Conv2d and _plain(module) and _has_layouts(module.weight.dtype):
            module.__class__ = PackedConv


def split_upsampling(network: nn.Module) -> None:
    """Make every doubling with a 3 × 3 convolution of `network` a SplitUpsample, in place."""
    for module in upsamplers(network):
        module.__dict__["split"] = _split(module.conv)  # no module of the network: a state_dict stays what it was
        module.__class__ = SplitUpsample


def upsamplers(network: nn.Module) -> list[Any]:
    """The doublings of `network` that `split_upsampling` knows."""
    found: list[Any] = [module for module in network.modules() if type(module) is Upsample2D]
    return [module for module in found if _repeats(module)]


def why_no_packing(networks: Sequence[nn.Module], device: torch.device) -> str:
    """Why weights cannot be laid out a second time; "" where they can."""
    if device.type != "cpu":
        return "oneDNN's layouts are for CPUs"
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_reorder_convolution_weight"):
        return "this torch was built without oneDNN"
    weights = [module.weight for network in networks for module in network.modules() if isinstance(module, nn.Conv2d)]
    if not any(_has_layouts(weight.dtype) for weight in weights):
        return "oneDNN has no layouts for this precision on this CPU"
    size, memory = sum(weight.nbytes for weight in weights), os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if size > _MOST * memory:
        return f"a second copy of the weights takes {size / 2**30:.1f} GiB of {memory / 2**30:.0f}"
    return ""


def why_no_split(unet: nn.Module, device: torch.device, dtype: torch.dtype) -> str:
    """Why doublings stay as they are; "" where they can be split."""
    if device.type != "cpu":
        return "not measured on a GPU"
    if dtype != torch.float32:
        return "measured: it saves time in float32 alone"
    return "" if upsamplers(unet) else "this network doubles no sides by repetition"


@functools.cache
def _has_layouts(dtype: torch.dtype) -> bool:
    return dtype not in _ASKED or bool(getattr(torch.ops.mkldnn, _ASKED[dtype])())


def _is_alike(one: Tensor, other: Tensor) -> bool:
    """Whether two weights are laid out alike, by oneDNN's own description."""
    describe = torch.ops.mkldnn._get_mkldnn_serialized_md
    return torch.equal(describe(one), describe(other))


def _plain(module: nn.Conv2d) -> bool:
    return module.padding_mode == "zeros" and not isinstance(module.padding, str)


def _repeats(module: Any) -> bool:
    conv = getattr(module, "conv", None)
    usual = module.use_conv and not module.use_conv_transpose and module.interpolate and module.norm is None
    return bool(usual) and isinstance(conv, nn.Conv2d) and conv.kernel_size == (3, 3) and conv.padding == (1, 1)


def _split(conv: nn.Conv2d) -> nn.Conv2d:
    """The four 2 × 2 kernels (even and odd rows, even and odd columns) as one convolution of four times the outputs."""
    halves = torch.tensor(_HALVES, dtype=torch.float64, device=conv.weight.device)
    kernels = torch.einsum("oikl,rak,cbl->rcoiab", conv.weight.double(), halves, halves)
    with torch.device("meta"):
        made = nn.Conv2d(conv.in_channels, 4 * conv.out_channels, 2, padding=1, bias=conv.bias is not None)
    weight = kernels.flatten(0, 2).to(conv.weight)
    if conv.weight.is_contiguous(memory_format=torch.channels_last):
        weight = weight.contiguous(memory_format=torch.channels_last)
    made.weight = nn.Parameter(weight, requires_grad=False)
    if conv.bias is not None:
        made.bias = nn.Parameter(conv.bias.repeat(4), requires_grad=False)
    made.__class__ = type(conv)
    return made
