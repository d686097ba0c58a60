"""Prompt-to-Prompt on a diffusers UNet: two pictures of two captions that share their attention, many pairs a call.

A call of the UNet has four equal blocks of rows: ∅ and ∅ (first and second picture), then caption and edited caption.
The second picture can share

- self-attention, as InstructPix2Pix's released code does: its maps are the first's, its values are its own,
- cross-attention, as the Prompt-to-Prompt paper does: the map of every word that the captions have in common is the
  first's, carried over by the words' alignment; the words that are new keep their own.

Attention is linear in its values, so that both are fused attention with other values and no map is ever written out:
M'·V' with M' = M·A is M·(A·V'), and a map that is partly another's is the sum of two such products.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from diffusers.models.attention import BasicTransformerBlock
from torch import Tensor
from torch.nn import functional

Shared = Literal["self", "cross", "both"]
SELF, CROSS = frozenset({"self", "both"}), frozenset({"cross", "both"})


@dataclass(frozen=True)
class WordMaps:
    """For each of n pairs: `carried` [n, tokens, tokens] takes attention on the first caption's tokens (rows) to the
    second's (columns), `own` [n, tokens] is the part that the second's tokens keep of their own attention."""

    carried: Tensor
    own: Tensor

    def to(self, device: torch.device, dtype: torch.dtype) -> WordMaps:
        """The same on a device, in the precision of the network's values."""
        return WordMaps(self.carried.to(device, dtype), self.own.to(device, dtype))


@dataclass
class Sharing:
    """What the UNet's next call shares; the attention layers look here. Rows are four blocks of n pairs.

    `steady` goes the same way where no pair shares as where some do: compiled, the two would round differently, and a
    pair's last bits would tell of its neighbours.
    """

    kind: Shared
    words: WordMaps | None = None
    steady: bool = False
    mask: Tensor | None = None  # [n] bool, which pairs share; None: no pair does
    rows: Tensor | None = field(default=None, init=False)  # [4n] the row whose queries and keys each row takes

    def set(self, mask: Tensor, device: torch.device) -> None:
        """Share between the pairs of `mask` [n], which is on the CPU so that nothing waits for a GPU to look at it."""
        self.mask = mask.to(device, non_blocking=True) if self.steady or bool(mask.any()) else None
        self.rows = None if self.mask is None else rows_to_read(self.mask)


def rows_to_read(mask: Tensor) -> Tensor:
    """[4n] row numbers: second blocks of the pairs in `mask` [n] read the first blocks' rows, all others their own."""
    own = torch.arange(4 * len(mask), device=mask.device).view(4, -1)
    first = own[[0, 0, 2, 2]]
    return torch.where(mask, first, own).flatten()


def attend_self(q: Tensor, k: Tensor, v: Tensor, sharing: Sharing) -> Tensor:
    """Self-attention [4n, heads, places, width]; the second picture of a sharing pair has the first's maps."""
    if sharing.kind in SELF and sharing.rows is not None:
        q, k = q[sharing.rows], k[sharing.rows]
    return functional.scaled_dot_product_attention(q, k, v)


def attend_cross(q: Tensor, k: Tensor, v: Tensor, sharing: Sharing) -> Tensor:
    """Attention of [4n, heads, places, width] on words; the edited caption's words of a sharing pair have the maps that
    `sharing.words` carries over from the caption's. The rows of ∅ share nothing: both look at the same words."""
    if sharing.kind not in CROSS or sharing.mask is None or sharing.words is None:
        return functional.scaled_dot_product_attention(q, k, v)
    mask, words = sharing.mask, sharing.words
    _, _, caption, edited = (slice(i * len(mask), (i + 1) * len(mask)) for i in range(4))
    own = torch.where(mask[:, None], words.own, 1)[:, None, :, None]
    carried = torch.where(mask[:, None, None], words.carried, 0)[:, None]
    values = torch.cat([v[: edited.start], own * v[edited]])
    out = functional.scaled_dot_product_attention(q, k, values)
    taken = functional.scaled_dot_product_attention(q[caption], k[caption], carried @ v[edited])
    return torch.cat([out[: edited.start], out[edited] + taken])


class SharingProcessor:
    """A processor of diffusers for the attention inside transformer blocks, where masks and norms play no part."""

    def __init__(self, sharing: Sharing) -> None:
        self.sharing = sharing

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, **_: Any
    ) -> Tensor:
        """[rows, places, width] → the same shape; without `encoder_hidden_states` it is self-attention."""
        seen = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = (
            part.unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for part in (attn.to_q(hidden_states), attn.to_k(seen), attn.to_v(seen))
        )
        attend = attend_self if encoder_hidden_states is None else attend_cross
        mixed = attend(q, k, v, self.sharing).transpose(1, 2).flatten(2)
        projected: Tensor = attn.to_out[1](attn.to_out[0](mixed)) / attn.rescale_output_factor
        return projected


@contextmanager
def sharing_attention(unet: Any, processor: Any) -> Iterator[None]:
    """Have the transformer blocks of `unet` attend by `processor`; afterwards they are as they were."""
    layers = [
        layer
        for block in unet.modules()
        if isinstance(block, BasicTransformerBlock)
        for layer in (block.attn1, block.attn2)
        if layer is not None
    ]
    before = [layer.processor for layer in layers]
    for layer in layers:
        layer.set_processor(processor)
    try:
        yield
    finally:
        for layer, own in zip(layers, before, strict=True):
            layer.set_processor(own)
