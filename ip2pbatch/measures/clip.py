"""CLIP similarities of two pictures and two captions, as the dataset filter and the trade-off curve use them.

    image_0 = cos(I0, T0)    image_1 = cos(I1, T1)    direction = cos(I1 − I0, T1 − T0)    image = cos(I0, I1)

I and T are unit vectors; the direction is StyleGAN-NADA's (arXiv 2108.00946), used in arXiv 2211.09800, sections 3.1
and 4.1. Pictures are prepared as the paper's code does: bicubic, not antialiased, to the model's side, never cropped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional
from transformers import CLIPModel, CLIPTokenizer

from ip2pbatch.backends.pytorch import accelerators
from ip2pbatch.measures.pretrained import PRECISIONS, load_pretrained

VIT_L_14 = "openai/clip-vit-large-patch14"
MEAN = (0.48145466, 0.4578275, 0.40821073)
DEVIATION = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True, slots=True)
class Similarities:
    """The four cosines of one pair, under the names of the released `metadata.jsonl`."""

    clip_sim_0: float
    clip_sim_1: float
    clip_sim_dir: float
    clip_sim_image: float


def similarities(
    image_0: torch.Tensor, image_1: torch.Tensor, text_0: torch.Tensor, text_1: torch.Tensor
) -> list[Similarities]:
    """The cosines of n pairs from unit vectors `[n, d]`, before and after; one row of text may stand for all."""
    pairs = (
        functional.cosine_similarity(image_0, text_0),
        functional.cosine_similarity(image_1, text_1),
        functional.cosine_similarity(image_1 - image_0, text_1 - text_0),
        functional.cosine_similarity(image_0, image_1),
    )
    columns = [pair.float().cpu().tolist() for pair in pairs]
    return [Similarities(*row) for row in zip(*columns, strict=True)]


def to_unit_range(pictures: Sequence[np.ndarray]) -> torch.Tensor:
    """uint8 `[h, w, 3]` pictures of one size → float32 `[n, 3, h, w]` in 0…1, the range that CLIP needs."""
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255


class Clip:
    """A CLIP model as two functions to unit vectors. Texts are kept: a prompt is asked for a hundred times."""

    def __init__(self, model: CLIPModel, tokenizer: CLIPTokenizer) -> None:
        self.model, self.tokenizer = model.eval().requires_grad_(False), tokenizer
        self.side: int = model.config.vision_config.image_size
        self._texts: dict[str, torch.Tensor] = {}

    @classmethod
    def load(cls, model: str = VIT_L_14, device: str | None = None, precision: str = "fp32") -> Clip:
        """From a folder or the hub, safetensors only; `precision` is fp32, fp16 or bf16. ModelError where it fails."""
        kind = PRECISIONS[precision]
        network, tokenizer = load_pretrained(model, "CLIP model", CLIPModel, [CLIPTokenizer], dtype=kind)
        return cls(network.to(device or accelerators.default()), tokenizer)

    @property
    def device(self) -> torch.device:
        """Where it runs and its vectors are."""
        device: torch.device = next(self.model.parameters()).device
        return device

    @torch.inference_mode()
    def images(self, pictures: torch.Tensor, batch: int = 64) -> torch.Tensor:
        """float `[n, 3, h, w]` in 0…1, or uint8, → unit vectors `[n, d]`, float32. The range is the caller's promise:
        the published evaluation handed in −1…1, and who wants its figures does the same."""
        found = [self._images(part) for part in pictures.split(batch)]
        return torch.cat(found)

    def _images(self, pictures: torch.Tensor) -> torch.Tensor:
        small = pictures.to(self.device)  # as bytes, where they are bytes: a quarter of the way to a GPU
        pictures = small.float() / 255 if small.dtype == torch.uint8 else small.float()
        resized = functional.interpolate(pictures, size=(self.side, self.side), mode="bicubic", align_corners=False)
        mean = torch.tensor(MEAN, device=self.device).view(1, 3, 1, 1)
        deviation = torch.tensor(DEVIATION, device=self.device).view(1, 3, 1, 1)
        pixels = ((resized - mean) / deviation).to(self.model.dtype)
        vectors = self.model.get_image_features(pixel_values=pixels).pooler_output
        return functional.normalize(vectors.float(), dim=1)

    @torch.inference_mode()
    def texts(self, texts: Sequence[str], batch: int = 64) -> torch.Tensor:
        """Captions → unit vectors `[n, d]`, float32; a caption that is too long is cut."""
        new = list(dict.fromkeys(text for text in texts if text not in self._texts))
        if len(self._texts) + len(new) > 4096:
            self._texts.clear()
            new = list(dict.fromkeys(texts))
        for begin in range(0, len(new), batch):
            part = new[begin : begin + batch]
            self._texts.update(zip(part, self._embed(part), strict=True))
        return torch.stack([self._texts[text] for text in texts])

    def _embed(self, texts: list[str]) -> torch.Tensor:
        longest = self.model.config.text_config.max_position_embeddings
        tokens = self.tokenizer(texts, padding=True, truncation=True, max_length=longest, return_tensors="pt")
        vectors = self.model.get_text_features(**tokens.to(self.device)).pooler_output
        return functional.normalize(vectors.float(), dim=1)

    def score(
        self, before: torch.Tensor, after: torch.Tensor, captions: Sequence[tuple[str, str]]
    ) -> list[Similarities]:
        """n pairs of pictures, `[n, 3, h, w]` each as for `images`, with the (input, edited) captions of each pair."""
        texts = [self.texts([pair[side] for pair in captions]) for side in (0, 1)]
        return similarities(self.images(before), self.images(after), texts[0], texts[1])
