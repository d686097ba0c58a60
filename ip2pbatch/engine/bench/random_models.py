"""Real architectures with random weights, in a folder like any model: what speed is measured on without a download.

Weights are scaled so that every layer keeps the variance of what it is given (He et al. 2015): activations stay near
one, finite in fp16, and never zero, because matrix units run faster on zeros than on anything a model ever sees.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ip2pbatch.errors import UsageError

_SCHEDULER = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
_OUTPUT = 0.1  # of conv_out: a random network that answers as loudly as a trained one would amplify every rounding


@dataclass(frozen=True, slots=True)
class Architecture:
    """Configurations as diffusers and transformers read them; `side` is the picture's own side in pixels."""

    side: int
    unet: Mapping[str, Any]
    vae: Mapping[str, Any]
    text: Mapping[str, Any]


_CLIP = {"hidden_act": "quick_gelu", "layer_norm_eps": 1e-5, "bos_token_id": 512, "eos_token_id": 513}
_LEVELS = {
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
}

ARCHITECTURES = {
    # Stable Diffusion 1.5 as InstructPix2Pix has it: 859.5 M weights in the UNet, 803.4 GFLOP a row at 512 × 512.
    "sd15": Architecture(
        512,
        {
            "in_channels": 8, "out_channels": 4, "block_out_channels": (320, 640, 1280, 1280), "layers_per_block": 2,
            "cross_attention_dim": 768, "attention_head_dim": 8, "sample_size": 64, **_LEVELS,
        },
        {
            "block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "latent_channels": 4, "sample_size": 512,
            "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4,
        },
        {
            "vocab_size": 49408, "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
            "num_attention_heads": 12, "max_position_embeddings": 77, "projection_dim": 768, **_CLIP,
        },
    ),
    # The same blocks in the same places, small: for checking on a CPU what is to run on a GPU.
    "small": Architecture(
        128,
        {
            "in_channels": 8, "out_channels": 4, "block_out_channels": (32, 64, 64, 64), "layers_per_block": 1,
            "cross_attention_dim": 64, "attention_head_dim": 4, "norm_num_groups": 16, "sample_size": 16, **_LEVELS,
        },
        {
            "block_out_channels": (16, 32, 32, 32), "layers_per_block": 1, "latent_channels": 4, "sample_size": 128,
            "norm_num_groups": 8,
            "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4,
        },
        {
            "vocab_size": 514, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
            "num_attention_heads": 4, "max_position_embeddings": 77, "projection_dim": 64, **_CLIP,
        },
    ),
}  # fmt: skip


def build(name: str, root: Path) -> Path:
    """The folder of the random model `name` below `root`, made where it is missing: weights in fp16, seed 0.

    Raises UsageError for a name that is none.
    """
    if name not in ARCHITECTURES:
        raise UsageError(f"there is no architecture {name}", hint=f"known are {', '.join(ARCHITECTURES)}")
    folder = root / f"{name}-random-1"
    if (folder / "model_index.json").is_file():  # written last
        return folder
    from ip2pbatch.backends.quiet import quiet

    with quiet():
        _save(ARCHITECTURES[name], folder)
    return folder


def _save(architecture: Architecture, folder: Path) -> None:
    from diffusers import AutoencoderKL, EulerAncestralDiscreteScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    generator = torch.Generator().manual_seed(0)
    parts = {
        "unet": UNet2DConditionModel(**architecture.unet),
        "vae": AutoencoderKL(**architecture.vae),
        "text_encoder": CLIPTextModel(CLIPTextConfig(**architecture.text)),
    }
    for part in parts.values():
        fill(part, generator)
        part.half().save_pretrained(folder / _name_of(parts, part))
    length = architecture.text["max_position_embeddings"]
    CLIPTokenizer(vocab=_vocabulary(), merges=[], model_max_length=length).save_pretrained(folder / "tokenizer")
    EulerAncestralDiscreteScheduler(**_SCHEDULER).save_pretrained(folder / "scheduler")
    index: dict[str, Any] = {"_class_name": "StableDiffusionInstructPix2PixPipeline"}
    for name, kind in (
        ("unet", "UNet2DConditionModel"), ("vae", "AutoencoderKL"), ("scheduler", "EulerAncestralDiscreteScheduler"),
    ):  # fmt: skip
        index[name] = ["diffusers", kind]
    index |= {"text_encoder": ["transformers", "CLIPTextModel"], "tokenizer": ["transformers", "CLIPTokenizer"]}
    index |= {"safety_checker": [None, None], "feature_extractor": [None, None]}
    (folder / "ip2pbatch.json").write_text(json.dumps({"defaults": {"long_side": architecture.side}}))
    (folder / "model_index.json").write_text(json.dumps(index, indent=2))


def _name_of(parts: Mapping[str, nn.Module], part: nn.Module) -> str:
    return next(name for name, one in parts.items() if one is part)


@torch.no_grad()
def fill(network: nn.Module, generator: torch.Generator) -> None:
    """Random weights in place: normal with variance 1/fan_in, norms around one, small biases; nothing is zero."""
    for name, weight in network.named_parameters():
        if weight.ndim >= 2 and "embedding" not in name:
            weight.normal_(0, 1 / math.sqrt(weight[0].numel()), generator=generator)
        else:
            weight.normal_(0, 0.02, generator=generator)
        if weight.ndim == 1 and "norm" in name and name.endswith("weight"):
            weight.add_(1)
        if name == "conv_out.weight":
            weight.mul_(_OUTPUT)


def _vocabulary() -> dict[str, int]:
    """CLIP's byte-level alphabet without merges: 512 letters, then the marks of start and end."""
    from tokenizers.pre_tokenizers import ByteLevel

    letters = sorted(ByteLevel.alphabet())
    words = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    return {word: number for number, word in enumerate(words)}
