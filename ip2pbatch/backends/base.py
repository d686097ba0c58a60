"""The four networks of an InstructPix2Pix model behind one Protocol: float32 crosses it, precision is private."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ip2pbatch.plan.limits import Limits
from ip2pbatch.plan.rows import Row


class Backend(Protocol):
    """The four networks. `latent_channels`, `scaling_factor` and `vae_scale` are the autoencoder's.

    `device` is where tensors that cross the Protocol live; `provider` and `precision` name it for the run's identity;
    `scheduler_config` is the model's noise schedule as diffusers stores it. `embedded`: the UNet reads the scales of
    guidance, which its rows tell it.
    """

    limits: Limits
    device: torch.device
    provider: str
    precision: str
    latent_channels: int
    scaling_factor: float
    vae_scale: int
    scheduler_config: Mapping[str, Any]
    embedded: bool

    @property
    def steps(self) -> tuple[str, ...]:
        """The names of the speed-ups that are in."""
        ...

    def encode_text(self, instructions: Sequence[str]) -> Tensor:
        """Text embeddings [n, tokens, width]."""
        ...

    def words_read(self, instruction: str) -> str:
        """The part of `instruction` that the text encoder reads; all of it, but for very long ones."""
        ...

    def encode_image(self, pixels: Tensor, *, upcast: bool = False) -> Tensor:
        """Pixels [n, 3, H, W] in [-1, 1] → the posterior's mode [n, c, h, w], unscaled.

        `upcast` runs the autoencoder in float32, for photos whose latent came out broken at less.
        """
        ...

    def predict_noise(
        self, latents: Tensor, timestep: Tensor, text: Tensor, image: Tensor, rows: Sequence[Row] | None = None
    ) -> Tensor:
        """One network call over n rows: latents and image [n, c, h, w], text [n, tokens, width] → [n, c, h, w].

        `rows` say which of them are alike: a backend may use it to compute less, and need not. They tell an
        `embedded` one what it is to be guided by.
        """
        ...

    def decode(self, latents: Tensor, *, upcast: bool = False) -> Tensor:
        """Latents [n, c, h, w], already divided by the scaling factor → pixels [n, 3, H, W] in [-1, 1].

        `upcast` runs the autoencoder in float32, for latents whose picture came out broken at less.
        """
        ...

    def flag(self, images: Sequence[NDArray[np.uint8]]) -> list[bool]:
        """Which pictures [h, w, 3] the safety checker that the model ships flags; all False where it ships none."""
        ...
