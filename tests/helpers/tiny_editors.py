"""Tiny random editing pipelines of the real classes, saved in diffusers' layout, a function a family."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLFlux2,
    AutoencoderKLQwenImage,
    EDMEulerScheduler,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Transformer2DModel,
    FluxKontextPipeline,
    FluxTransformer2DModel,
    LongCatImageTransformer2DModel,
    QwenImageTransformer2DModel,
)
from tiny_models import make_text_encoder, make_tokenizer
from tiny_sdxl import save_sdxl
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Tokenizer,
    Qwen2VLImageProcessorPil,
    Qwen3Config,
    Qwen3ForCausalLM,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

WIDTH = 16
_NAMES = ("endoftext", "im_start", "im_end", "vision_start", "vision_end", "image_pad", "video_pad")
_MARKS = [f"<|{name}|>" for name in _NAMES]
_CHAT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
)


def save_editor(folder: Path, family: str, *, seed: int = 0) -> Path:
    """A random model of a family at `folder`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        EDITORS[family](folder)
    return folder


def qwen_tokenizer() -> Qwen2Tokenizer:
    letters = sorted(ByteLevel.alphabet())
    vocabulary = {word: number for number, word in enumerate([*letters, *_MARKS])}
    made = Qwen2Tokenizer(vocab=vocabulary, merges=[], additional_special_tokens=_MARKS[1:])
    made.chat_template = _CHAT
    return made


def flat_vae(channels: int) -> AutoencoderKL:
    return AutoencoderKL(
        sample_size=32, down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(4,) * 4, layers_per_block=1, latent_channels=channels, norm_num_groups=1,
        use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.0609, scaling_factor=1.5035,
    )  # fmt: skip


def save_klein(folder: Path, *, is_distilled: bool = True) -> None:
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
    Flux2KleinPipeline(
        FlowMatchEulerDiscreteScheduler(), vae, Qwen3ForCausalLM(words), tokenizer, transformer,
        is_distilled=is_distilled,
    ).save_pretrained(folder)  # fmt: skip


def save_kontext(folder: Path) -> None:
    transformer = FluxTransformer2DModel(
        patch_size=1, in_channels=8, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=WIDTH, pooled_projection_dim=32, axes_dims_rope=(4, 4, 8), guidance_embeds=True,
    )  # fmt: skip
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((chr(code), -2.0) for code in range(33, 127))]
    tokenizer = T5Tokenizer(vocab=[*pieces, ("\u2581", -2.0)], extra_ids=0)
    words = T5Config(
        vocab_size=len(tokenizer), d_model=WIDTH, d_ff=WIDTH, d_kv=8, num_layers=1, num_heads=2, dropout_rate=0.0
    )
    FluxKontextPipeline(
        FlowMatchEulerDiscreteScheduler(), flat_vae(2), make_text_encoder(), make_tokenizer(), T5EncoderModel(words),
        tokenizer, transformer,
    ).save_pretrained(folder)  # fmt: skip


def sees(tokenizer: Qwen2Tokenizer) -> Qwen2_5_VLForConditionalGeneration:
    """Qwen's text encoder, which is shown the photo beside the instruction."""
    marks = {name: tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in _NAMES}
    config = Qwen2_5_VLConfig(
        text_config={
            "hidden_size": WIDTH, "intermediate_size": WIDTH, "num_hidden_layers": 1, "num_attention_heads": 2,
            "num_key_value_heads": 2, "vocab_size": len(tokenizer), "rope_theta": 1e6,
            "rope_scaling": {"mrope_section": [1, 1, 2], "rope_type": "default", "type": "default"},
        },
        vision_config={
            "depth": 1, "hidden_size": WIDTH, "intermediate_size": WIDTH, "num_heads": 2, "out_hidden_size": WIDTH,
        },
        hidden_size=WIDTH, vocab_size=len(tokenizer), vision_start_token_id=marks["vision_start"],
        vision_end_token_id=marks["vision_end"], image_token_id=marks["image_pad"], video_token_id=marks["video_pad"],
    )  # fmt: skip
    return Qwen2_5_VLForConditionalGeneration(config)


def save_pictures(folder: Path, tokenizer: Qwen2Tokenizer) -> None:
    """What a Qwen2VLProcessor leaves, which cannot be made where torchvision is not installed."""
    tokenizer.save_pretrained(folder)
    Qwen2VLImageProcessorPil(min_pixels=28 * 28, max_pixels=64 * 64).save_pretrained(folder)


def save_qwen(folder: Path) -> None:
    transformer = QwenImageTransformer2DModel(
        patch_size=2, in_channels=16, out_channels=4, num_layers=1, attention_head_dim=16, num_attention_heads=3,
        joint_attention_dim=WIDTH, guidance_embeds=False, axes_dims_rope=(8, 4, 4),
    )  # fmt: skip
    vae = AutoencoderKLQwenImage(
        base_dim=4, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True],
        latents_mean=[0.0] * 4, latents_std=[1.0] * 4,
    )  # fmt: skip
    tokenizer = qwen_tokenizer()
    parts = {"vae": vae, "text_encoder": sees(tokenizer), "tokenizer": tokenizer, "transformer": transformer}
    save_seeing(folder, "QwenImageEditPlusPipeline", "processor", parts)


def save_longcat(folder: Path) -> None:
    transformer = LongCatImageTransformer2DModel(
        patch_size=1, in_channels=64, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=WIDTH, pooled_projection_dim=WIDTH, axes_dims_rope=[4, 4, 8],
    )  # fmt: skip
    tokenizer = qwen_tokenizer()
    parts = {"vae": flat_vae(16), "text_encoder": sees(tokenizer), "tokenizer": tokenizer, "transformer": transformer}
    save_seeing(folder, "LongCatImageEditPipeline", "text_processor", parts)


def save_seeing(folder: Path, pipeline: str, pictures: str, parts: dict[str, Any]) -> None:
    """The folder of a pipeline with a processor, whose index is written as diffusers writes it."""
    parts = {"scheduler": FlowMatchEulerDiscreteScheduler()} | parts
    for name, part in parts.items():
        part.save_pretrained(folder / name)
    save_pictures(folder / pictures, parts["tokenizer"])
    of = {name: "transformers" if name.startswith("t") and name != "transformer" else "diffusers" for name in parts}
    index = {name: [of[name], type(part).__name__] for name, part in parts.items()}
    index[pictures] = ["transformers", "Qwen2VLProcessor"]
    (folder / "model_index.json").write_text(json.dumps({"_class_name": pipeline, **index}))


def save_cosxl(folder: Path) -> None:
    save_sdxl(folder, 8)
    EDMEulerScheduler(prediction_type="v_prediction").save_pretrained(folder / "scheduler")
    index = json.loads((folder / "model_index.json").read_text())
    index |= {"scheduler": ["diffusers", "EDMEulerScheduler"], "is_cosxl_edit": True}
    (folder / "model_index.json").write_text(json.dumps(index))


EDITORS: dict[str, Callable[[Path], Any]] = {
    "klein": save_klein,
    "klein_base": lambda folder: save_klein(folder, is_distilled=False),
    "kontext": save_kontext,
    "qwen_edit": save_qwen,
    "longcat": save_longcat,
    "cosxl": save_cosxl,
    "sdxl": lambda folder: save_sdxl(folder, 8),
}
