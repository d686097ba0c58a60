"""Tiny random editing pipelines of the real classes, saved in diffusers' layout, a function a family."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLFlux2, FlowMatchEulerDiscreteScheduler, Flux2KleinPipeline, Flux2Transformer2DModel
from tokenizers.pre_tokenizers import ByteLevel
from transformers import Qwen2Tokenizer, Qwen3Config, Qwen3ForCausalLM

WIDTH = 16
_MARKS = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
]
_CHAT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
)


def save_editor(folder: Path, family: str, *, seed: int = 0) -> Path:
    """A random model of a family at `folder`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        EDITORS[family]().save_pretrained(folder)
    return folder


def qwen_tokenizer() -> Qwen2Tokenizer:
    letters = sorted(ByteLevel.alphabet())
    vocabulary = {word: number for number, word in enumerate([*letters, *_MARKS])}
    made = Qwen2Tokenizer(vocab=vocabulary, merges=[], additional_special_tokens=_MARKS[1:])
    made.chat_template = _CHAT
    return made


def klein(*, is_distilled: bool = True) -> Flux2KleinPipeline:
    tokenizer = qwen_tokenizer()
    words = Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=WIDTH, intermediate_size=WIDTH, num_hidden_layers=27,
        num_attention_heads=2, num_key_value_heads=2, head_dim=8, max_position_embeddings=512,
    )  # fmt: skip
    vae = AutoencoderKLFlux2(
        sample_size=32, down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(4,) * 4, layers_per_block=1, latent_channels=2, norm_num_groups=1,
    )  # fmt: skip
    transformer = Flux2Transformer2DModel(
        patch_size=1, in_channels=8, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=3 * WIDTH, timestep_guidance_channels=32, axes_dims_rope=(4,) * 4, guidance_embeds=False,
    )  # fmt: skip
    return Flux2KleinPipeline(
        FlowMatchEulerDiscreteScheduler(), vae, Qwen3ForCausalLM(words), tokenizer, transformer,
        is_distilled=is_distilled,
    )  # fmt: skip


EDITORS: dict[str, Callable[[], Any]] = {"klein": klein, "klein_base": lambda: klein(is_distilled=False)}
