"""What InstructPix2Pix trains (arXiv 2211.09800, section 3.2): the network's target, the two-way dropout, the input.

The noisy latent and the photo's latent go in side by side; the instruction, the photo, or both are dropped for a part
of the samples, so that both guidance scales mean something.
"""

from __future__ import annotations

import numpy as np
import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from torch import nn

from ip2pbatch.errors import ModelError


class Dropout(BaseModel):
    """Parts of the samples that lose the instruction only, both, and the image only."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    text: float = 0.05
    both: float = 0.05
    image: float = 0.05


def dropped(uniform: NDArray[np.floating], dropout: Dropout) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(without text, without image) for each draw in 0…1, from one number as the original does, so the three exclude
    each other: text alone in [0, t), both in [t, t + b), the image alone in [t + b, t + b + i)."""
    text, both = dropout.text, dropout.text + dropout.both
    return uniform < both, (uniform >= text) & (uniform < both + dropout.image)


def aim(schedule: DDPMScheduler, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
    """What the network should say: the noise, the velocity or the clean latent."""
    kind = schedule.config.prediction_type
    if kind == "v_prediction":
        velocity: torch.Tensor = schedule.get_velocity(latents, noise, timesteps)
        return velocity
    return noise if kind == "epsilon" else latents


@torch.no_grad()
def grow_first_convolution(unet: UNet2DConditionModel, latent_channels: int | None = None) -> UNet2DConditionModel:
    """4 input channels → 8, the new ones at zero and the bias kept: the network begins as if it saw no photo.

    A UNet that edits already is left as it is. Raises ModelError for any other count, such as an inpainting UNet's 9.
    """
    old, channels = unet.conv_in, latent_channels or unet.config.out_channels
    if old.in_channels == 2 * channels:
        return unet
    _require(old.in_channels, unet.config.out_channels, channels)
    grown = nn.Conv2d(2 * channels, old.out_channels, old.kernel_size, old.stride, old.padding)
    grown.weight.zero_()
    grown.weight[:, :channels] = old.weight
    if grown.bias is not None:
        grown.bias.copy_(old.bias)
    unet.conv_in = grown.to(old.weight.device, old.weight.dtype)
    unet.register_to_config(in_channels=grown.in_channels)
    return unet


def _require(takes: int, gives: int, channels: int) -> None:
    """ModelError where a network does not take and give the autoencoder's channels."""
    if takes != channels or gives != channels:
        raise ModelError(
            f"the UNet takes {takes} channels and gives {gives}, but the autoencoder's latents have {channels}",
            hint=f"start from a text-to-image model ({channels} → {channels}) or an InstructPix2Pix model "
            f"({2 * channels} → {channels}); inpainting and depth models do not fit",
        )


def min_snr(schedule: DDPMScheduler, timesteps: torch.Tensor, gamma: float) -> torch.Tensor:
    """Weights `[n]` of the samples' losses by min-SNR-γ (arXiv 2303.09556): min(SNR, γ) of the clean latent's loss, in
    the words of what the network says: / SNR for the noise, / (SNR + 1) for the velocity."""
    kept: torch.Tensor = schedule.alphas_cumprod.to(timesteps.device)[timesteps].float()
    snr = kept / (1 - kept)
    kind = schedule.config.prediction_type
    if kind == "epsilon":
        return (gamma / snr).clamp(max=1)  # at no signal at all, 1
    least = snr.clamp(max=gamma)
    return least / (snr + 1) if kind == "v_prediction" else least
