"""A DINO of the real class with random weights, small enough for a test."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import ViTConfig, ViTModel


def save_dino(folder: Path) -> Path:
    """At `folder`, which is returned."""
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    ViTModel(ViTConfig(image_size=224, patch_size=32, **shape), add_pooling_layer=False).save_pretrained(folder)
    return folder
