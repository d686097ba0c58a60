"""A tiny random CLIP of the real classes; its cosines are spread out, so that thresholds have something to decide."""

from __future__ import annotations

from pathlib import Path

import torch
from tiny_models import TOKENS, WIDTH, make_tokenizer
from transformers import CLIPConfig, CLIPModel

from ip2pbatch.measures.clip import Clip


def make_clip(seed: int = 0) -> Clip:
    """The model and the tokenizer, on the processor."""
    text = {
        "vocab_size": len(make_tokenizer()), "hidden_size": WIDTH, "intermediate_size": 37, "num_hidden_layers": 2,
        "num_attention_heads": 4, "max_position_embeddings": TOKENS, "bos_token_id": 512, "eos_token_id": 513,
        "pad_token_id": 513,
    }  # fmt: skip
    vision = {
        "hidden_size": WIDTH, "intermediate_size": 37, "num_hidden_layers": 1, "num_attention_heads": 4,
        "image_size": 32, "patch_size": 8,
    }  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=WIDTH))
    return Clip(model, make_tokenizer())


def save_clip(folder: Path, seed: int = 0) -> Path:
    """The same as a folder that `Clip.load` reads."""
    clip = make_clip(seed)
    clip.model.save_pretrained(folder)
    clip.tokenizer.save_pretrained(folder)
    return folder
