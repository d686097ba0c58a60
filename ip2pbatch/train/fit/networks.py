"""The parts of a Stable Diffusion that a training starts from. Never: how they are trained."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusers import AutoencoderKL, DDPMScheduler, EulerAncestralDiscreteScheduler, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from ip2pbatch.backends.quiet import quiet
from ip2pbatch.errors import ModelError
from ip2pbatch.train.fit.lora import merged
from ip2pbatch.train.fit.objective import grow_first_convolution


@dataclass(frozen=True)
class Networks:
    """A model's parts, the UNet ready to see a photo; `schedule` is the noise schedule in diffusers' words."""

    unet: UNet2DConditionModel
    vae: AutoencoderKL
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    schedule: dict[str, Any]

    @classmethod
    def load(cls, start: str) -> Networks:
        """The parts of a diffusers folder or a model of the hub (`owner/name@revision`), in float32.

        ModelError says what does not fit.
        """
        model, _, revision = (start, "", "") if Path(start).exists() else start.partition("@")
        place = {"revision": revision} if revision else {}

        def part(kind: Any, name: str) -> Any:
            return kind.from_pretrained(model, subfolder=name, use_safetensors=True, **place)

        try:
            with quiet():
                unet, vae = part(UNet2DConditionModel, "unet"), part(AutoencoderKL, "vae")
                text_encoder = part(CLIPTextModel, "text_encoder")
                schedule = dict(DDPMScheduler.load_config(model, subfolder="scheduler", **place))
            tokenizer = CLIPTokenizer.from_pretrained(model, subfolder="tokenizer", **place)
        except (OSError, ValueError, RuntimeError) as error:
            raise ModelError(
                f"{start} cannot be trained from: {str(error).splitlines()[0]}",
                hint="give a Stable Diffusion 1.x or InstructPix2Pix model in diffusers' layout, with safetensors",
            ) from error
        grow_first_convolution(unet, vae.config.latent_channels)
        width = text_encoder.config.hidden_size
        if unet.config.cross_attention_dim != width:
            raise ModelError(f"{start}: the UNet reads text of width {unet.config.cross_attention_dim}, not {width}")
        known = set(inspect.signature(EulerAncestralDiscreteScheduler.__init__).parameters) & set(schedule)
        return cls(unet, vae, text_encoder, tokenizer, {name: schedule[name] for name in sorted(known)})

    def parts(self, adapted: bool = False) -> dict[str, Any]:
        """Under the names of a model's folder; the adapters of an `adapted` UNet are in its weights."""
        return {
            "unet": merged(self.unet) if adapted else self.unet, "vae": self.vae,
            "text_encoder": self.text_encoder, "tokenizer": self.tokenizer,
        }  # fmt: skip
