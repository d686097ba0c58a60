"""How much arithmetic a row is, how fast this device multiplies, and what share of that the UNet reaches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from ip2pbatch.backends.base import Backend
from ip2pbatch.backends.pytorch import accelerators
from ip2pbatch.backends.pytorch.backend import DTYPES
from ip2pbatch.backends.pytorch.steps.staged import Stage
from ip2pbatch.backends.pytorch.steps.workers import RowWorkers
from ip2pbatch.engine.call_cost import seconds_each, seconds_of_call

_REPEATS, _REPEATS_ON_CPU = 20, 5
_SIDES, _SIDES_ON_CPU = (8192,), (512, 1024)  # of the square matrices whose product is timed
_PICTURES, _PICTURES_ON_CPU = (24, 64), (6, 16)  # pictures and their sides, of which convolutions are timed
_CHANNELS, _KERNELS = 320, (1, 3)  # as many as Stable Diffusion's UNet has at its full side


@dataclass(frozen=True, slots=True)
class Rate:
    """The UNet in calls of `rows` rows: seconds a call (median), TFLOP/s, and its share of the device's best."""

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


def units(device: torch.device) -> list[str]:
    """What a CPU has for bf16, avx512-bf16 and amx; nothing of another device."""
    asked = {"avx512-bf16": "_is_avx512_bf16_supported", "amx": "_is_amx_tile_supported"}
    return [name for name, has in asked.items() if accelerators.on_host(device) and getattr(torch.cpu, has, bool)()]


def device_rates(device: torch.device, precision: str) -> dict[str, float]:
    """TFLOP/s of large matrix products and of convolutions of random numbers, each at its best: what the device gives
    to anyone in this precision. On a CPU also with their rows shared out, because kernels of one thread each may do
    more than one kernel of all; which is the fastest hangs on processor and libraries.
    """
    on_host = accelerators.on_host(device)
    found = {}
    for work in (*_products(device, precision), *_convolutions(device, precision)):
        found[work.called] = _tflops(partial(work.stage, work.rows), device, work.flops)
        if on_host:
            shared = RowWorkers().around(work.stage)
            found[f"{work.called}, rows shared out"] = _tflops(partial(shared, work.rows), device, work.flops)
    return found


@dataclass(frozen=True, slots=True)
class _Work:
    """Arithmetic whose speed is a limit: `stage` over `rows`."""

    called: str
    rows: torch.Tensor
    stage: Stage
    flops: int


def _products(device: torch.device, precision: str) -> Iterator[_Work]:
    for side in _SIDES_ON_CPU if accelerators.on_host(device) else _SIDES:
        a, b = (_random((side, side), device, precision) for _ in range(2))
        yield _Work(f"a matrix product of {side}", a, partial(_multiplied, b), 2 * side**3)


def _convolutions(device: torch.device, precision: str) -> Iterator[_Work]:
    count, side = _PICTURES_ON_CPU if accelerators.on_host(device) else _PICTURES
    pictures = _random((count, _CHANNELS, side, side), device, precision).to(memory_format=torch.channels_last)
    for kernel in _KERNELS:
        weights = _random((_CHANNELS, _CHANNELS, kernel, kernel), device, precision)
        stage = partial(_convolved, weights)
        flops = 2 * count * side**2 * (_CHANNELS * kernel) ** 2
        yield _Work(f"a convolution of {kernel} × {kernel}, {_CHANNELS} channels", pictures, stage, flops)


def _multiplied(matrix: torch.Tensor, rows: torch.Tensor) -> tuple[torch.Tensor]:
    return (rows @ matrix,)


def _convolved(weights: torch.Tensor, pictures: torch.Tensor) -> tuple[torch.Tensor]:
    return (torch.nn.functional.conv2d(pictures, weights, padding=weights.shape[-1] // 2),)


def _random(shape: tuple[int, ...], device: torch.device, precision: str) -> torch.Tensor:
    return torch.randn(shape, device=device).to(DTYPES[precision])


@torch.inference_mode()
def _tflops(call: Callable[[], Any], device: torch.device, flops: int) -> float:
    repeats = _REPEATS_ON_CPU if accelerators.on_host(device) else _REPEATS
    return flops / min(seconds_each(call, device, repeats)) / 1e12


def unet_rate(backend: Backend, size: tuple[int, int], rows: int, row_flops: int, best: float) -> Rate:
    """The UNet's Rate in calls of `rows` rows as a run makes them; `best` are the TFLOP/s that the device gives."""
    repeats = _REPEATS_ON_CPU if accelerators.on_host(backend.device) else _REPEATS
    seconds = seconds_of_call(backend, size, rows, repeats)
    tflops = rows * row_flops / seconds / 1e12
    return Rate(rows, seconds, tflops, tflops / best)
