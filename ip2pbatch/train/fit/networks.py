"""The parts of a Stable Diffusion or an SDXL that a training starts from. Never: how they are trained."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDPMScheduler, EulerAncestralDiscreteScheduler, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from ip2pbatch.backends.quiet import quiet
from ip2pbatch.errors import ModelError
from ip2pbatch.train.fit.latents import Encoder
from ip2pbatch.train.fit.lora import merged
from ip2pbatch.train.fit.objective import grow_first_convolution
from ip2pbatch.train.fit.two_encoders import Reader, TwoEncoders

_BASE = "give an SDXL base model, such as stabilityai/stable-diffusion-xl-base-1.0, not its refiner"
_WHOLE = "its folders are of two models: fetch it again, or give a model that is whole"
Load = Callable[[Any, str], Any]  # a class and a folder's name → the part


@dataclass(frozen=True)
class Networks:
    """A model's parts, the UNet ready to see a photo; `schedule` is the noise schedule in diffusers' words.

    An SDXL has a `second` text encoder.
    """

    unet: UNet2DConditionModel
    vae: AutoencoderKL
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    schedule: dict[str, Any]
    second: Reader | None = None

    @classmethod
    def load(cls, start: str) -> Networks:
        """The parts of a diffusers folder or a model of the hub (`owner/name@revision`), in float32.

        ModelError says what does not fit.
        """
        model, _, revision = (start, "", "") if Path(start).exists() else start.partition("@")
        place = {"revision": revision} if revision else {}

        def part(kind: Any, name: str) -> Any:
            settings = {} if kind is CLIPTokenizer else {"use_safetensors": True}
            return kind.from_pretrained(model, subfolder=name, **settings, **place)

        try:
            with quiet():
                schedule = dict(DDPMScheduler.load_config(model, subfolder="scheduler", **place))
                found = cls._of_parts(part, schedule)
        except (OSError, ValueError, RuntimeError) as error:
            raise ModelError(
                f"{start} cannot be trained from: {str(error).splitlines()[0]}",
                hint="give a Stable Diffusion 1.x, an SDXL base or an InstructPix2Pix model in diffusers' layout, "
                "with safetensors",
            ) from error
        if "sigma_data" in schedule:
            raise ModelError(f"{start}: its noise is EDM's (CosXL), and training here adds DDPM's", hint=_BASE)
        grow_first_convolution(found.unet, found.vae.config.latent_channels)
        found._require_fitting_texts(start)
        return found

    @classmethod
    def _of_parts(cls, part: Load, schedule: dict[str, Any]) -> Networks:
        unet = part(UNet2DConditionModel, "unet")
        second = None
        if unet.config.addition_embed_type == "text_time":  # SDXL's
            network = part(CLIPTextModelWithProjection, "text_encoder_2")
            second = Reader(network, part(CLIPTokenizer, "tokenizer_2"))
        known = set(inspect.signature(EulerAncestralDiscreteScheduler.__init__).parameters) & set(schedule)
        return cls(
            unet, part(AutoencoderKL, "vae"), part(CLIPTextModel, "text_encoder"), part(CLIPTokenizer, "tokenizer"),
            {name: schedule[name] for name in sorted(known)}, second,
        )  # fmt: skip

    def _require_fitting_texts(self, start: str) -> None:
        """ModelError where the UNet reads other texts than the encoders give."""
        wants, encoders = self.unet.config, [self.text_encoder, *([self.second.network] if self.second else [])]
        width = sum(encoder.config.hidden_size for encoder in encoders)
        if wants.cross_attention_dim != width:
            said = f"{start}: the UNet reads text of width {wants.cross_attention_dim}, not {width}"
            raise ModelError(said, hint=_WHOLE)
        if self.second is None:
            return
        told = 6 * wants.addition_time_embed_dim + self.second.network.config.projection_dim
        if wants.projection_class_embeddings_input_dim != told:
            said = f"{wants.projection_class_embeddings_input_dim} numbers beside the timestep, not {told}"
            raise ModelError(f"{start}: the UNet reads {said}", hint=_BASE)
        if self.tokenizer.model_max_length != self.second.tokenizer.model_max_length:
            raise ModelError(f"{start}: its two tokenizers cut texts at different lengths", hint=_WHOLE)

    def encoder(self, device: torch.device, *, exact: bool = False) -> Encoder:
        """The frozen parts on a device, at work."""
        if self.second is None:
            return Encoder(self.vae, self.text_encoder, self.tokenizer, device, exact=exact)
        return TwoEncoders(self.vae, Reader(self.text_encoder, self.tokenizer), self.second, device, exact=exact)

    def parts(self, adapted: bool = False) -> dict[str, Any]:
        """Under the names of a model's folder; the adapters of an `adapted` UNet are in its weights."""
        found = {
            "unet": merged(self.unet) if adapted else self.unet, "vae": self.vae,
            "text_encoder": self.text_encoder, "tokenizer": self.tokenizer,
        }  # fmt: skip
        if self.second:
            found |= {"text_encoder_2": self.second.network, "tokenizer_2": self.second.tokenizer}
        return found
