"""What the frozen networks make of training pairs, cached where it is asked for twice: latents and text embeddings.

A view is one seeded augmentation of one pair. With `views: K` a pair has K of them, cached as the mean of the first
picture's posterior and the mean and log-variance of the second's; epoch e sees view e mod K, and draws the target
latent from its posterior anew each time. With `views: 0` every epoch has a view of its own and nothing is cached.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ip2pbatch.backends.pytorch import accelerators
from ip2pbatch.train.data.crops import to_tensor
from ip2pbatch.train.data.row_store import RowStore

if TYPE_CHECKING:
    from diffusers import AutoencoderKL
    from transformers import CLIPTextModel

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Posteriors:
    """n pairs' latents, unscaled, float32 `[n, c, h, w]`: the conditioning mode, and the target's distribution."""

    image: Floats
    mean: Floats
    log_variance: Floats


class Encoder:
    """The frozen halves: an AutoencoderKL, a CLIP text encoder and its tokenizer, on one device.

    Rows are encoded in calls of one fixed size, so that a row has the same bits whatever is encoded beside it, and an
    interrupted training finds the latents that it would have made. An `exact` one computes and keeps float32.
    """

    def __init__(
        self,
        vae: AutoencoderKL,
        text_encoder: CLIPTextModel,
        tokenizer: Any,
        device: torch.device,
        *,
        exact: bool = False,
    ) -> None:
        self.vae = vae.eval().requires_grad_(False).to(device)
        self.text_encoder = text_encoder.eval().requires_grad_(False).to(device)
        self.tokenizer, self.device = tokenizer, device
        self.at_once = 1 if accelerators.on_host(device) else 16
        self.scaling_factor = float(vae.config.scaling_factor)
        self.precision = (
            "fp16" if accelerators.is_nvidia(device) and not exact else "fp32"
        )  # of the autoencoder's passes
        self.kept = np.dtype(np.float32 if exact else np.float16)  # of rows and texts

    @property
    def text_shape(self) -> tuple[int, ...]:
        """Of one text's row in `texts`."""
        return (int(self.tokenizer.model_max_length), int(self.text_encoder.config.hidden_size))

    def text_digests(self) -> list[str]:
        """Of all that decides `texts`: the encoder's weights and the tokenizer's words."""
        return [digest_of_weights(self.text_encoder), digest_of_words(self.tokenizer)]

    def conditioning(self, rows: Floats, side: int) -> dict[str, Floats]:
        """What the UNet is told by the rows of n texts, by its argument's name; `side` is that of the pictures."""
        return {"text": rows}

    @torch.inference_mode()
    def posteriors(self, pictures: NDArray[np.uint8]) -> tuple[Floats, Floats]:
        """uint8 `[n, H, W, 3]` → means and log-variances `[n, c, h, w]`; in half precision on a GPU if it is finite."""
        means, log_variances = [], []
        for part, count in fixed(pictures, self.at_once):
            pixels = to_tensor(part).to(self.device)
            with torch.autocast(self.device.type, torch.float16, enabled=self.precision == "fp16"):
                found = self.vae.encode(pixels).latent_dist
            if not found.mean.isfinite().all():
                found = self.vae.encode(pixels).latent_dist
            means.append(found.mean[:count].float().cpu().numpy())
            log_variances.append(found.logvar[:count].float().cpu().numpy())
        return np.concatenate(means), np.concatenate(log_variances)

    @torch.inference_mode()
    def texts(self, instructions: Sequence[str]) -> Floats:
        """Embeddings `[n, tokens, width]`, padded and cut as diffusers' pipelines do."""
        length = self.tokenizer.model_max_length
        words = self.tokenizer(list(instructions), padding="max_length", max_length=length, truncation=True)
        found = []
        for part, count in fixed(np.asarray(words.input_ids), self.at_once):
            states = self.text_encoder(torch.from_numpy(part).to(self.device)).last_hidden_state
            found.append(states[:count].float().cpu().numpy())
        return np.concatenate(found)


def fixed(rows: NDArray[Any], size: int) -> list[tuple[NDArray[Any], int]]:
    """`rows` in calls of exactly `size`, the last filled up with its last row, each with how many of them count."""
    parts = [rows[begin : begin + size] for begin in range(0, len(rows), size)]
    return [(np.concatenate([p, np.repeat(p[-1:], size - len(p), axis=0)]), len(p)) for p in parts]


class LatentCache:
    """Rows `[3c, h, w]` of (image mean, target mean, target log-variance), one a view of a pair."""

    def __init__(self, path: Path | None, pairs: int, views: int, shape: tuple[int, int, int]) -> None:
        self.views = views
        channels, height, width = shape
        self.store = RowStore(path, pairs * views, (3 * channels, height, width)) if path and views else None

    def get(self, pair: int, view: int) -> NDArray[np.floating] | None:
        """The row, where it has been encoded before."""
        return self.store.get(pair * self.views + view) if self.store else None

    def put(self, pair: int, view: int, row: NDArray[np.floating]) -> None:
        """Keep the row."""
        if self.store:
            self.store.put(pair * self.views + view, row)


def encode_rows(encoder: Encoder, pictures: NDArray[np.uint8]) -> NDArray[np.floating]:
    """uint8 `[n, 2, H, W, 3]` → rows `[n, 3c, h, w]` as the cache keeps them.

    Rounded to half precision even where nothing is cached, so that a cache changes no bit; not by an exact encoder.
    """
    means, log_variances = encoder.posteriors(pictures.reshape(-1, *pictures.shape[2:]))
    return np.concatenate([means[::2], means[1::2], log_variances[1::2]], axis=1).astype(encoder.kept)


def posteriors_of(rows: Sequence[NDArray[np.floating]]) -> Posteriors:
    """Rows `[3c, h, w]` as latents."""
    image, mean, log_variance = np.split(np.stack(rows).astype(np.float32), 3, axis=1)
    return Posteriors(image, mean, log_variance)


def digest_of_weights(network: nn.Module) -> str:
    """12 hex digits over a network's weights: what a cache of its outputs hangs on."""
    return digest_of_tensors(network.state_dict())


def digest_of_tensors(tensors: Mapping[str, torch.Tensor]) -> str:
    """12 hex digits over their names and bytes."""
    total = hashlib.blake2b(digest_size=6)
    for name, value in sorted(tensors.items()):
        total.update(name.encode())
        total.update(value.detach().cpu().flatten().contiguous().view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def digest_of_words(tokenizer: Any) -> str:
    """12 hex digits over what makes tokens of a text: vocabulary, merges and splitting, and the length."""
    rules = json.loads(tokenizer.backend_tokenizer.to_str())
    facts = [rules[part] for part in ("model", "normalizer", "pre_tokenizer", "added_tokens")]
    text = json.dumps([facts, tokenizer.model_max_length], sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()
