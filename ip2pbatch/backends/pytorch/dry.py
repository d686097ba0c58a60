"""A model's UNet without its weights: whether diffusers can call it as an edit does, and which steps hold for it.

On torch's `meta` device a network has shapes and no numbers, so that a call costs a fraction of a second whatever its
size, and fails where the real one would.
"""

from __future__ import annotations

from typing import Any

import torch

from ip2pbatch.backends.model_folder import Layout
from ip2pbatch.backends.pytorch import steps
from ip2pbatch.backends.quiet import quiet
from ip2pbatch.errors import ModelError

_TOKENS = 7


def unet_without_weights(layout: Layout) -> Any:
    """The UNet of a checked folder on the meta device. ModelError where diffusers cannot make it, or call it with
    latents, a timestep and a text alone.
    """
    from diffusers import UNet2DConditionModel

    file = layout.path / "unet" / "config.json"
    try:
        with quiet(), torch.device("meta"):
            unet = UNet2DConditionModel.from_config(layout.config("unet")).eval().requires_grad_(False)
            _call(unet)
    except Exception as error:  # whatever a configuration that nobody thought of leads to
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ModelError(
            f"{file}: diffusers cannot run this UNet on latents, a timestep and a text ({reason})",
            hint="use a model that edits, such as timbrooks/instruct-pix2pix, or --model tiny",
        ) from error
    return unet


def steps_of(layout: Layout, device: torch.device, dtype: torch.dtype) -> dict[str, str]:
    """Each step that need not be asked for, and why it is left out of this model on `device`, "" where it is in.

    Raises ModelError as `unet_without_weights` does.
    """
    import diffusers

    unet = unet_without_weights(layout)
    with quiet(), torch.device("meta"):
        vae = getattr(diffusers, layout.classes["vae"]).from_config(layout.config("vae"))
    site = steps.Site({"unet": unet, "vae": vae, "text_encoder": torch.nn.Identity()}, device, dtype)
    return {step.name: steps.why_left_out(step, site) for step in steps.choose(None)}


@torch.inference_mode()
def _call(unet: Any) -> None:
    """One row at the smallest size that every doubling and halving goes through."""
    config, side = unet.config, 2 ** len(unet.config.block_out_channels)
    sample = torch.zeros(1, config.in_channels, side, side)
    text = torch.zeros(1, _TOKENS, config.cross_attention_dim)
    unet(sample, torch.tensor(1.0), encoder_hidden_states=text, return_dict=False)
