"""What an SDXL UNet is told beside its latents (arXiv 2307.01952): two text encoders, their pooled half, and sizes.

The formulas are those of diffusers' examples/instruct_pix2pix/train_instruct_pix2pix_sdxl.py: the last hidden states
but one of both encoders side by side, the second one's projection as the pooled text, and six numbers a picture:
original size, crop and target size. As there, a picture counts as it is trained on: of the side's size, and uncut.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from ip2pbatch.train.fit.latents import Encoder, Floats, digest_of_weights, digest_of_words, fixed

if TYPE_CHECKING:
    from diffusers import AutoencoderKL
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

AT_ONCE = 4  # rows of a call on a GPU: pictures of 768 to 1,024 pixels in float32 are large


@dataclass(frozen=True)
class Reader:
    """A text encoder and its tokenizer."""

    network: CLIPTextModel | CLIPTextModelWithProjection
    tokenizer: Any


class TwoEncoders(Encoder):
    """SDXL's frozen halves. A text's row is its embeddings `[tokens, width]` and then its pooled text, in one line.

    An autoencoder whose configuration says `force_upcast` overflows in half precision, and is not asked in it.
    """

    def __init__(
        self, vae: AutoencoderKL, first: Reader, second: Reader, device: torch.device, *, exact: bool = False
    ) -> None:
        super().__init__(vae, first.network, first.tokenizer, device, exact=exact)
        second.network.eval().requires_grad_(False).to(device)
        self.readers = (first, second)
        self.at_once = min(self.at_once, AT_ONCE)
        if vae.config.force_upcast:
            self.precision = "fp32"

    @property
    def width(self) -> int:
        """Of the embeddings of both encoders side by side."""
        return sum(int(reader.network.config.hidden_size) for reader in self.readers)

    @property
    def text_shape(self) -> tuple[int, ...]:
        """Of a text's row."""
        pooled = int(self.readers[1].network.config.projection_dim)
        return (int(self.tokenizer.model_max_length) * self.width + pooled,)

    def text_digests(self) -> list[str]:
        """Of both encoders' weights and of both tokenizers' words."""
        return [
            digest
            for reader in self.readers
            for digest in (digest_of_weights(reader.network), digest_of_words(reader.tokenizer))
        ]

    @torch.inference_mode()
    def texts(self, instructions: Sequence[str]) -> Floats:
        """Rows `[n, tokens · width + pooled]`, padded and cut as diffusers' pipelines do."""
        found = [self._read(reader, instructions) for reader in self.readers]
        states = np.concatenate([states for states, _ in found], axis=2)
        return np.concatenate([states.reshape(len(states), -1), found[1][1]], axis=1)

    def _read(self, reader: Reader, instructions: Sequence[str]) -> tuple[Floats, Floats]:
        """One encoder's hidden states `[n, tokens, width]`, and what it gives first: of the second, `[n, pooled]`."""
        length = reader.tokenizer.model_max_length
        words = reader.tokenizer(list(instructions), padding="max_length", max_length=length, truncation=True)
        states, pooled = [], []
        for part, count in fixed(np.asarray(words.input_ids), self.at_once):
            said = reader.network(torch.from_numpy(part).to(self.device), output_hidden_states=True)
            states.append(said.hidden_states[-2][:count].float().cpu().numpy())
            pooled.append(said[0][:count].float().cpu().numpy())
        return np.concatenate(states), np.concatenate(pooled)

    def conditioning(self, rows: NDArray[np.float32], side: int) -> dict[str, NDArray[np.float32]]:
        """`text` `[n, tokens, width]`, `text_embeds` `[n, pooled]` and `time_ids` `[n, 6]` of n rows."""
        tokens = int(self.tokenizer.model_max_length)
        states, pooled = np.split(rows, [tokens * self.width], axis=1)
        sizes = np.array([side, side, 0, 0, side, side], np.float32)
        return {
            "text": states.reshape(len(rows), tokens, -1), "text_embeds": pooled,
            "time_ids": np.repeat(sizes[None], len(rows), axis=0),
        }  # fmt: skip
