"""Makes diffusers' own pipeline able to hold an AutoencoderDC: for parity tests and for the benchmark's baseline.

`StableDiffusionInstructPix2PixPipeline` counts `vae.config.block_out_channels` and reads `.latents` of what `encode`
returns; AutoencoderDC has `encoder_block_out_channels` and returns `.latent`. Nothing of the arithmetic changes.
"""

from __future__ import annotations

from typing import Any

from diffusers import AutoencoderDC
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTinyOutput
from torch import Tensor


class PipelineAutoencoderDC(AutoencoderDC):
    """An AutoencoderDC that the pipeline can use; made by `adapt`."""

    def encode(self, x: Tensor, return_dict: bool = True) -> Any:
        """Pixels [n, 3, H, W] → an output whose `.latents` are the unscaled latents, as AutoencoderTiny's are."""
        (latents,) = super().encode(x, return_dict=False)
        return AutoencoderTinyOutput(latents=latents) if return_dict else (latents,)


def adapt(vae: AutoencoderDC) -> PipelineAutoencoderDC:
    """The same autoencoder, weights shared, as the pipeline wants it."""
    adapted: PipelineAutoencoderDC = PipelineAutoencoderDC.from_config(vae.config)
    adapted.load_state_dict(vae.state_dict(), assign=True)
    adapted.register_to_config(block_out_channels=tuple(vae.config.encoder_block_out_channels))
    adapted.eval().requires_grad_(False)
    return adapted
