"""SDEdit (arXiv 2108.01073): noise a photo up to a strength, denoise it with a text-to-image model and a new caption.

The baseline of InstructPix2Pix's trade-off curve: the same samples, and for every strength the same noise.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers import EulerAncestralDiscreteScheduler
from numpy.typing import NDArray
from torch import Tensor

from ip2pbatch.backends.pytorch.backend import TorchBackend, memory
from ip2pbatch.train.data.crops import to_tensor


@dataclass(frozen=True)
class Denoising:
    """Steps of the whole schedule, of which a strength takes its part, and the scale of the caption's guidance."""

    steps: int = 100
    text: float = 7.5


@torch.inference_mode()
def sdedit(
    backend: TorchBackend, photos: Sequence[NDArray[np.uint8]], captions: Sequence[str], strength: float,
    seeds: Sequence[int], denoising: Denoising,
) -> Tensor:  # fmt: skip
    """n photos `[h, w, 3]` of one size, redrawn as their captions say → pictures `[n, 3, h, w]`, −1…1 but not clamped.

    `strength` is the part of the steps that are taken: at 0 the autoencoder's reconstruction, at 1 no photo is left.
    """
    scheduler = make_schedule(backend.scheduler_config, denoising.steps)
    begin = denoising.steps - round(denoising.steps * strength)
    clean = backend.encode_image(to_tensor(list(photos)).to(backend.device)) * backend.scaling_factor
    generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
    noise = torch.cat([torch.randn((1, *clean.shape[1:]), generator=one) for one in generators]).to(clean.device)
    if begin == denoising.steps:
        return decode(backend, clean)
    scheduler.set_begin_index(begin)
    timesteps = scheduler.timesteps[begin:]
    latents = scheduler.add_noise(clean, noise, timesteps[:1].expand(len(clean)))
    text = torch.cat([backend.encode_text([""]).expand(len(clean), -1, -1), backend.encode_text(captions)])
    for timestep in timesteps:
        rows = predict(backend, scheduler.scale_model_input(latents, timestep), timestep, text)
        guided = rows[0] + denoising.text * (rows[1] - rows[0])
        latents = scheduler.step(guided, timestep, latents, generator=generators, return_dict=False)[0]
    return decode(backend, latents)


def decode(backend: TorchBackend, latents: Tensor) -> Tensor:
    """Pictures of scaled latents; an autoencoder that breaks in half precision is asked again in float32."""
    pictures = backend.decode(latents / backend.scaling_factor)
    return pictures if pictures.isfinite().all() else backend.decode(latents / backend.scaling_factor, upcast=True)


def predict(backend: TorchBackend, latents: Tensor, timestep: Tensor, text: Tensor) -> Tensor:
    """One network call without and with the caption: latents `[n, c, h, w]` → `[2, n, c, h, w]`, float32."""
    unet = backend.parts.unet
    with memory():
        rows: Tensor = unet(
            latents.repeat(2, 1, 1, 1).to(unet.dtype), timestep, encoder_hidden_states=text.to(unet.dtype),
            return_dict=False,
        )[0]  # fmt: skip
    return rows.float().view(2, *latents.shape)


def make_schedule(config: Any, steps: int) -> EulerAncestralDiscreteScheduler:
    """Euler ancestral on a model's own noise schedule."""
    known = set(inspect.signature(EulerAncestralDiscreteScheduler.__init__).parameters) & set(config)
    scheduler = EulerAncestralDiscreteScheduler.from_config({key: config[key] for key in known})
    scheduler.set_timesteps(steps)
    return scheduler
