"""DINO's view of a picture (arXiv 2104.14294): transformers' ViTModel on the published weights, its class token."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional
from transformers import ViTModel

from ip2pbatch.backends.pytorch import accelerators
from ip2pbatch.measures.pretrained import load_pretrained

MEAN = (0.485, 0.456, 0.406)
DEVIATION = (0.229, 0.224, 0.225)


class Dino:
    """A vision transformer as a function from pictures to unit vectors."""

    def __init__(self, model: ViTModel) -> None:
        self.model = model.eval().requires_grad_(False)

    @classmethod
    def load(cls, model: str, device: str | None = None) -> Dino:
        """From a folder or the hub, safetensors only. ModelError where it fails."""
        (network,) = load_pretrained(model, "DINO model", ViTModel, add_pooling_layer=False)
        return cls(network.to(device or accelerators.default()))

    @torch.inference_mode()
    def images(self, pictures: Tensor) -> Tensor:
        """float `[n, 3, 224, 224]` in 0…1 → unit vectors `[n, d]`: the class token after the last layer norm."""
        device = self.model.device
        mean, deviation = (torch.tensor(part, device=device).view(1, 3, 1, 1) for part in (MEAN, DEVIATION))
        states = self.model((pictures.to(device) - mean) / deviation, interpolate_pos_encoding=True).last_hidden_state
        return functional.normalize(states[:, 0].float(), dim=1)
