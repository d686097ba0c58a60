"""How much arithmetic a row is, how fast this device multiplies matrices, and what share of that the UNet reaches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ip2pbatch.backends.base import Backend
from ip2pbatch.backends.pytorch import accelerators
from ip2pbatch.backends.pytorch.backend import DTYPES
from ip2pbatch.engine.call_cost import median_seconds, seconds_of_call

_SIDE, _SIDE_ON_CPU = 8192, 1536  # of the square matrices whose product is timed
_REPEATS, _REPEATS_ON_CPU = 20, 5


@dataclass(frozen=True, slots=True)
class Rate:
    """The UNet in calls of `rows` rows: seconds a call (median), TFLOP/s, and its share of the matrix product's."""

    rows: int
    seconds: float
    tflops: float
    share: float


def flops_per_row(unet: Mapping[str, Any], size: tuple[int, int], vae_scale: int) -> int:
    """Floating-point operations of one row at (width, height) `size` of the UNet with this configuration.

    A multiplication with its addition is two; attention's two products count, which many published figures leave out.
    Counted on diffusers' own module without weights, so an optimised network is credited with the same useful work.
    """
    from diffusers import UNet2DConditionModel
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"), torch.no_grad():
        network = UNet2DConditionModel.from_config(dict(unet))
        sample = torch.empty(1, network.config.in_channels, size[1] // vae_scale, size[0] // vae_scale)
        # 77 is CLIP's length; what the text adds is below half a per cent at any length
        text = torch.empty(1, 77, network.config.cross_attention_dim)
        with FlopCounterMode(display=False) as counter:
            network(sample, torch.tensor(1.0), encoder_hidden_states=text)
    return int(counter.get_total_flops())


def matmul_rate(device: torch.device, precision: str) -> float:
    """TFLOP/s of a large matrix product of random numbers: what the device gives to anyone in this precision."""
    side, repeats = (_SIDE_ON_CPU, _REPEATS_ON_CPU) if accelerators.on_host(device) else (_SIDE, _REPEATS)
    a, b = (torch.randn(side, side, device=device).to(DTYPES[precision]) for _ in range(2))
    seconds = median_seconds(lambda: a @ b, device, repeats)
    return 2 * side**3 / seconds / 1e12


def unet_rate(backend: Backend, size: tuple[int, int], rows: int, row_flops: int, product: float) -> Rate:
    """The UNet's Rate in calls of `rows` rows as a run makes them; `product` is the matrix product's TFLOP/s."""
    repeats = _REPEATS_ON_CPU if accelerators.on_host(backend.device) else _REPEATS
    seconds = seconds_of_call(backend, size, rows, repeats)
    tflops = rows * row_flops / seconds / 1e12
    return Rate(rows, seconds, tflops, tflops / product)
