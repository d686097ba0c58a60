"""A tiny random model that one file in the original layout can hold: Stable Diffusion 1's classes, heads and groups."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, EulerAncestralDiscreteScheduler, UNet2DConditionModel
from tiny_models import make_tokenizer, make_vocabulary, write_index
from transformers import CLIPTextConfig, CLIPTextModel

from ip2pbatch.backends.single_file.vocabulary import CLIP

WIDTH, TOKENS = 64, 16


def save_folder(folder: Path, *, in_channels: int = 8, seed: int = 0) -> Path:
    """The model at `folder`, in diffusers' layout."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = UNet2DConditionModel(
            in_channels=in_channels, out_channels=4, block_out_channels=(32, 64), layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=WIDTH, sample_size=8,
        )  # fmt: skip
        vae = AutoencoderKL(
            block_out_channels=(32, 32), down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=4, sample_size=16,
        )  # fmt: skip
        text_encoder = CLIPTextModel(make_config())
    parts = {
        "unet": unet, "vae": vae, "text_encoder": text_encoder, "tokenizer": make_tokenizer(),
        "scheduler": EulerAncestralDiscreteScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1
        ),
        "safety_checker": None, "feature_extractor": None,
    }  # fmt: skip
    for name, part in parts.items():
        if part is not None:
            part.save_pretrained(folder / name)
    write_index(folder, parts)
    return folder


def make_config() -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(make_vocabulary()[0]), hidden_size=WIDTH, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=1, max_position_embeddings=TOKENS, bos_token_id=512, eos_token_id=513, pad_token_id=513,
        projection_dim=WIDTH,
    )  # fmt: skip


def cache_vocabulary(cache: Path) -> Path:
    """The tiny vocabulary in a hub's cache, where CLIP's would lie."""
    words, merges = make_vocabulary()
    folder = cache / f"models--{CLIP.replace('/', '--')}/snapshots/0123456789abcdef0123456789abcdef01234567"
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps(words), encoding="utf-8")
    lines = "".join(f"{first} {second}\n" for first, second in merges)
    (folder / "merges.txt").write_text(f"#version: 0.2\n{lines}", encoding="utf-8")
    return cache
