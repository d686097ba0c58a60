"""A tiny random SDXL of the real classes, saved in diffusers' layout: two text encoders and a UNet that reads sizes."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import EulerDiscreteScheduler, UNet2DConditionModel
from tiny_models import TOKENS, WIDTH, make_text_encoder, make_tokenizer, make_vae
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

POOLED, SIZE = 24, 8  # width of the pooled text, and of each number's embedding


def make_second_encoder() -> CLIPTextModelWithProjection:
    config = CLIPTextConfig(
        vocab_size=len(make_tokenizer()), hidden_size=2 * WIDTH, intermediate_size=37, num_hidden_layers=3,
        num_attention_heads=4, max_position_embeddings=TOKENS, bos_token_id=512, eos_token_id=513, pad_token_id=0,
        projection_dim=POOLED, hidden_act="gelu",
    )  # fmt: skip
    return CLIPTextModelWithProjection(config).eval()


def make_sdxl_unet(in_channels: int = 4) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        in_channels=in_channels, out_channels=4, block_out_channels=(16, 32), layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=3 * WIDTH, attention_head_dim=(2, 4), norm_num_groups=8, sample_size=8,
        transformer_layers_per_block=(1, 2), use_linear_projection=True, addition_embed_type="text_time",
        addition_time_embed_dim=SIZE, projection_class_embeddings_input_dim=6 * SIZE + POOLED,
    )  # fmt: skip


def save_sdxl(folder: Path, in_channels: int = 4, *, seed: int = 0) -> Path:
    """A text-to-image SDXL, or with 8 `in_channels` one that edits; of one seed they differ in the UNet alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer = make_tokenizer()
        parts = {
            "vae": make_vae("kl"), "text_encoder": make_text_encoder(), "text_encoder_2": make_second_encoder(),
            "unet": make_sdxl_unet(in_channels), "tokenizer": tokenizer, "tokenizer_2": tokenizer,
            "scheduler": EulerDiscreteScheduler(
                beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1,
                timestep_spacing="leading",
            ),
        }  # fmt: skip
    parts["vae"].register_to_config(scaling_factor=0.13025, force_upcast=True)
    for name, part in parts.items():
        part.save_pretrained(folder / name)
    edits = in_channels == 8
    pipeline = "StableDiffusionXLInstructPix2PixPipeline" if edits else "StableDiffusionXLPipeline"
    words = {name: "transformers" for name in parts if name.startswith(("text", "token"))}
    index = {name: [words.get(name, "diffusers"), type(part).__name__] for name, part in parts.items()}
    (folder / "model_index.json").write_text(json.dumps({"_class_name": pipeline, **index}))
    return folder
