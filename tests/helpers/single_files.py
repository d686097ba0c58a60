"""A tiny random model that one file in the original layout can hold: Stable Diffusion 1's classes, heads and groups."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

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


def cache_full_vocabulary(cache: Path) -> Path:
    """One of CLIP's size in a hub's cache: its letters, and words that nobody says."""
    folder = cache / f"models--{CLIP.replace('/', '--')}/snapshots/0123456789abcdef0123456789abcdef01234567"
    folder.mkdir(parents=True)
    letters = [*make_vocabulary()[0]][:512]
    made = [f"a{number} b{number}</w>" for number in range(49408 - 2 - len(letters))]
    words = [*letters, *(pair.replace(" ", "") for pair in made), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: place for place, word in enumerate(words)}), "utf-8")
    (folder / "merges.txt").write_text("\n".join(("#version: 0.2", *made, "")), "utf-8")
    return folder


def save_stable_diffusion(folder: Path, cache: Path) -> Path:
    """A model that edits of the full Stable Diffusion 1.5 architecture, in half precision; each weight is another."""
    vae = {
        "block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "latent_channels": 4, "sample_size": 512,
        "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4,
    }  # fmt: skip
    text = CLIPTextConfig(
        vocab_size=49408, hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12,
        projection_dim=768, pad_token_id=49407, bos_token_id=49406, eos_token_id=49407,
    )  # fmt: skip
    with torch.device("meta"):
        parts: dict[str, Any] = {
            "unet": UNet2DConditionModel(in_channels=8, cross_attention_dim=768, sample_size=64),
            "vae": AutoencoderKL(**vae), "text_encoder": CLIPTextModel(text),
        }  # fmt: skip
    parts = {name: _numbered(part.half().to_empty(device="cpu")) for name, part in parts.items()}
    scheduler = EulerAncestralDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1
    )
    for name, part in (*parts.items(), ("scheduler", scheduler)):
        part.save_pretrained(folder / name)
    shutil.copytree(next(cache.glob("models--*/snapshots/*")), folder / "tokenizer")
    absent = dict.fromkeys(("safety_checker", "feature_extractor"))
    write_index(folder, {**parts, "scheduler": scheduler, "tokenizer": make_tokenizer(), **absent})
    return folder


def _numbered(part: Any) -> Any:
    """Weights that count up from another number each: as fast as they are written."""
    for place, weight in enumerate([*part.parameters(), *part.buffers()]):
        if weight.is_floating_point():
            numbers = (torch.arange(weight.numel(), dtype=torch.int32) + 97 * place) % 30000  # finite as half floats
            weight.data = numbers.to(torch.int16).view(torch.float16).reshape(weight.shape)
    return part
