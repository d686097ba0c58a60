"""The four networks as modules with named inputs and one output, with random inputs to trace and to compare them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ip2pbatch.backends.pytorch.backend import Parts, latents_of, vae_scale

# Latent sizes (height, width) and rows of the probes. The first one is traced: a size that the UNet's downsampling
# does not divide makes diffusers follow the shapes of the skip connections, which is right at every size.
_PROBES = ((2, 9, 11), (1, 8, 8), (3, 13, 16))


@dataclass(frozen=True, slots=True)
class Network:
    """One network. `axes` names what may vary of each input, `probes` are inputs: the first is what is traced."""

    name: str
    module: nn.Module
    output: str
    axes: Mapping[str, Mapping[int, str]]
    probes: tuple[Mapping[str, Tensor], ...]

    def run(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """What PyTorch says to `inputs`, in float32."""
        with torch.inference_mode():
            output: Tensor = self.module(*inputs.values())
            return output.float()


class _TextEncoder(nn.Module):
    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        text: Tensor = self.encoder(ids, attention_mask=mask)[0]
        return text


class _UNet(nn.Module):
    def __init__(self, unet: Any) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, sample: Tensor, timestep: Tensor, text: Tensor) -> Tensor:
        noise: Tensor = self.unet(sample, timestep, encoder_hidden_states=text, return_dict=False)[0]
        return noise


class _Encoder(nn.Module):
    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, pixels: Tensor) -> Tensor:
        return latents_of(self.vae.encode(pixels))


class _Decoder(nn.Module):
    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, latents: Tensor) -> Tensor:
        pixels: Tensor = self.vae.decode(latents, return_dict=False)[0]
        return pixels


def networks(parts: Parts) -> Iterator[Network]:
    """The networks of a model in float32, with probes that are the same every time."""
    draw = torch.Generator().manual_seed(0)
    encoder, tokens = parts.text_encoder, parts.tokenizer.model_max_length
    names = ["ids", "mask"] if getattr(encoder.config, "use_attention_mask", False) else ["ids"]
    words = [torch.randint(encoder.config.vocab_size, (rows, tokens), generator=draw) for rows, _, _ in _PROBES]
    texts = tuple({name: ids if name == "ids" else torch.ones_like(ids) for name in names} for ids in words)
    yield Network("text_encoder", _TextEncoder(encoder), "text", {name: {0: "rows"} for name in names}, texts)

    channels, width = parts.unet.config.in_channels, encoder.config.hidden_size
    rows = tuple(
        {
            "sample": torch.randn((rows, channels, high, wide), generator=draw),
            "timestep": torch.rand((), generator=draw) * 999,
            "text": torch.randn((rows, tokens, width), generator=draw),
        }
        for rows, high, wide in _PROBES
    )
    varying = {0: "rows", 2: "height", 3: "width"}
    yield Network("unet", _UNet(parts.unet), "noise", {"sample": varying, "text": {0: "rows"}}, rows)

    scale = vae_scale(parts.vae)
    pixels = tuple({"pixels": _picture(high * scale, wide * scale, draw)} for _, high, wide in _PROBES)
    yield Network("vae_encoder", _Encoder(parts.vae), "latents", {"pixels": varying}, pixels)
    latents = tuple(
        {"latents": torch.randn((1, channels // 2, high, wide), generator=draw)} for _, high, wide in _PROBES
    )
    yield Network("vae_decoder", _Decoder(parts.vae), "pixels", {"latents": varying}, latents)


def _picture(height: int, width: int, draw: torch.Generator) -> Tensor:
    """Smooth colours [1, 3, height, width] in [-1, 1], as photos are: white noise is nothing an autoencoder knows."""
    coarse = torch.rand((1, 3, 5, 5), generator=draw) * 2 - 1
    return nn.functional.interpolate(coarse, (height, width), mode="bilinear", align_corners=True)
