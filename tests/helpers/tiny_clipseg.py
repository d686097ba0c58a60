"""A tiny random CLIPSeg of the real class, as a folder that transformers loads."""

from __future__ import annotations

from pathlib import Path

import torch
from tiny_models import TOKENS, WIDTH, make_tokenizer
from transformers import CLIPSegConfig, CLIPSegForImageSegmentation


def save_clipseg(folder: Path, seed: int = 0, bias: float = 0.0) -> Path:
    """`bias` is added to all logits: a large one has it find everything, a small one nothing."""
    text = {
        "vocab_size": len(make_tokenizer()), "hidden_size": WIDTH, "intermediate_size": 37, "num_hidden_layers": 1,
        "num_attention_heads": 4, "max_position_embeddings": TOKENS, "bos_token_id": 512, "eos_token_id": 513,
        "pad_token_id": 513,
    }  # fmt: skip
    vision = {
        "hidden_size": WIDTH, "intermediate_size": 37, "num_hidden_layers": 2, "num_attention_heads": 4,
        "image_size": 352, "patch_size": 32,
    }  # fmt: skip
    config = CLIPSegConfig(
        text_config=text, vision_config=vision, projection_dim=WIDTH, extract_layers=[0, 1], reduce_dim=8,
        decoder_num_attention_heads=2, decoder_intermediate_size=16, conditional_layer=0,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = CLIPSegForImageSegmentation(config)
        model.decoder.transposed_convolution.weight.data *= 40
        model.decoder.transposed_convolution.bias.data += bias
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder
