"""Tiny random models of the real classes, saved in diffusers' layout: what tests run instead of gigabytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import (
    AutoencoderDC,
    AutoencoderKL,
    AutoencoderTiny,
    EulerAncestralDiscreteScheduler,
    UNet2DConditionModel,
)
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPTextConfig, CLIPTextModel, CLIPTokenizer

WIDTH = 32
TOKENS = 16

# Which parts of a model there are; every kind has the same text encoder, and a UNet of twice its latent channels.
KINDS = ("kl", "dc", "taesd")


def save_model(folder: Path, kind: str = "kl", *, safety: bool = False, seed: int = 0, **scheduler: Any) -> Path:
    """A random model of `kind` at `folder`: kl and taesd like Stable Diffusion, dc like the embedded model."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vae = make_vae(kind)
        unet = make_pooled_unet(64) if kind == "dc" else make_unet(2 * vae.config.latent_channels)
        text_encoder = make_text_encoder()
        checker = StableDiffusionSafetyChecker(make_clip_config()) if safety else None
    settings = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    settings |= {"prediction_type": "v_prediction" if kind == "dc" else "epsilon"} | scheduler
    parts = {
        "unet": unet, "vae": vae, "text_encoder": text_encoder, "tokenizer": make_tokenizer(),
        "scheduler": EulerAncestralDiscreteScheduler(**settings),
        "safety_checker": checker,
        "feature_extractor": CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=32) if safety else None,
    }  # fmt: skip
    for name, part in parts.items():
        if part is not None:
            part.save_pretrained(folder / name)
    write_index(folder, parts)
    return folder


def save_text_to_image(folder: Path, *, seed: int = 0, **scheduler: Any) -> Path:
    """A random Stable Diffusion at `folder`: like `save_model`'s, but for a UNet that takes no photo."""
    save_model(folder, "kl", seed=seed, **scheduler)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed + 1)
        make_unet(4, 4).save_pretrained(folder / "unet")
    index = folder / "model_index.json"
    index.write_text(index.read_text().replace("StableDiffusionInstructPix2PixPipeline", "StableDiffusionPipeline"))
    return folder


def write_index(folder: Path, parts: dict[str, Any]) -> None:
    """model_index.json, as diffusers writes it."""
    import json

    libraries = {"text_encoder": "transformers", "tokenizer": "transformers", "feature_extractor": "transformers"}
    libraries["safety_checker"] = "stable_diffusion"
    index: dict[str, Any] = {"_class_name": "StableDiffusionInstructPix2PixPipeline", "_diffusers_version": "0.42.1"}
    for name, part in parts.items():
        found = None if part is None else type(part).__name__
        index[name] = [libraries.get(name, "diffusers") if found else None, found]
    (folder / "model_index.json").write_text(json.dumps(index, indent=2))


def make_vae(kind: str) -> AutoencoderKL | AutoencoderDC | AutoencoderTiny:
    if kind == "kl":
        return AutoencoderKL(
            block_out_channels=(16, 16, 32, 32), down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4, latent_channels=4, norm_num_groups=8, sample_size=64,
        )  # fmt: skip
    if kind == "taesd":
        return AutoencoderTiny(encoder_block_out_channels=(16,) * 4, decoder_block_out_channels=(16,) * 4)
    return AutoencoderDC(
        latent_channels=32, encoder_block_out_channels=(8, 16, 16, 32), decoder_block_out_channels=(8, 16, 16, 32),
        encoder_layers_per_block=(0, 1, 1, 1), decoder_layers_per_block=(0, 1, 1, 1),
        encoder_qkv_multiscales=((),) * 4, decoder_qkv_multiscales=((),) * 4,
    )  # fmt: skip


def make_unet(in_channels: int, out_channels: int | None = None) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        in_channels=in_channels, out_channels=out_channels or in_channels // 2, block_out_channels=(16, 32),
        layers_per_block=1, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), cross_attention_dim=WIDTH, attention_head_dim=4,
        norm_num_groups=8, sample_size=8,
    )  # fmt: skip


def make_pooled_unet(in_channels: int) -> UNet2DConditionModel:
    """The embedded model's shape: attention in the middle only, and the pooled instruction beside the timestep."""
    return UNet2DConditionModel(
        in_channels=in_channels, out_channels=in_channels // 2, block_out_channels=(16, 32), layers_per_block=1,
        down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2,
        mid_block_type="UNetMidBlock2DCrossAttn", cross_attention_dim=WIDTH, attention_head_dim=4, norm_num_groups=8,
        addition_embed_type="text", addition_embed_type_num_heads=4, resnet_time_scale_shift="scale_shift",
        sample_size=8,
    )  # fmt: skip


def make_text_encoder() -> CLIPTextModel:
    config = CLIPTextConfig(
        vocab_size=len(make_vocabulary()[0]), hidden_size=WIDTH, intermediate_size=37, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=TOKENS, bos_token_id=512, eos_token_id=513, pad_token_id=513,
        projection_dim=WIDTH,
    )  # fmt: skip
    return CLIPTextModel(config).eval()


def make_tokenizer() -> CLIPTokenizer:
    vocabulary, merges = make_vocabulary()
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=TOKENS)


def make_vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """The bytes, the bytes that end a word, CLIP's two marks, and a few merges."""
    letters = sorted(ByteLevel.alphabet())
    merges = [("m", "a"), ("k", "e</w>"), ("ma", "ke</w>"), ("i", "t</w>"), ("s", "n"), ("sn", "o"), ("sno", "w</w>")]
    words = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    words += [first + second for first, second in merges]
    return {word: number for number, word in enumerate(words)}, merges


def make_clip_config() -> CLIPConfig:
    vision = {
        "hidden_size": WIDTH, "intermediate_size": 37, "num_hidden_layers": 1, "num_attention_heads": 4,
        "image_size": 32, "patch_size": 8, "projection_dim": WIDTH,
    }  # fmt: skip
    return CLIPConfig(vision_config=vision, projection_dim=WIDTH)


def make_picture(seed: int = 0, size: tuple[int, int] = (64, 64)) -> np.ndarray:
    """A smooth coloured picture with edges, uint8 [h, w, 3]: not black, not noise."""
    rng = np.random.default_rng(seed)
    width, height = size
    y, x = np.mgrid[0:height, 0:width] / max(size)
    waves = [np.sin(2 * np.pi * (a * x + b * y) + c) for a, b, c in rng.uniform(-2, 2, (3, 3))]
    picture = np.stack(waves, axis=-1) * 0.35 + 0.5
    picture[(x - 0.5) ** 2 + (y - 0.4) ** 2 < 0.06] = rng.uniform(0.1, 0.9, 3)
    return (picture * 255).round().clip(0, 255).astype(np.uint8)
