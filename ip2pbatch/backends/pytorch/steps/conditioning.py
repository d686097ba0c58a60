"""What a network needs of timestep and text, computed once a run instead of once a step and row.

Both tables change the classes of a few modules in place, so that the network takes what was computed before; given a
plain embedding, the changed modules do what they always did.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import AttnProcessor2_0
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn
from torch.nn import functional

from ip2pbatch.backends.pytorch.guidance_embedding import embed
from ip2pbatch.backends.pytorch.steps.rowwise import RowwiseLinear
from ip2pbatch.backends.recent import Recent
from ip2pbatch.plan.edits import Guidance

_TEXTS = 64  # keys and values of one text take 4 MB in Stable Diffusion at fp16
_MOMENTS = 4096
_GATHERED = 4  # sets of rows in one step of a batch: the same ones come again in its next step


class TextMemory:
    """The keys and values of every cross-attention, side by side in one row a text: exact up to rounding.

    Stable Diffusion asks 32 linear layers for the same numbers in every step; a text's are computed alone and once.
    """

    def __init__(self, unet: Any) -> None:
        self._layers = cross_attentions(unet)
        start = 0
        for layer in self._layers:
            processor = KeptText(start, layer.to_k.out_features)
            layer.set_processor(processor)
            start += 2 * layer.to_k.out_features
        self._spare = int(start == self._layers[0].to_k.in_features)  # kept text is told from text by its width
        self._known: Recent[Tensor] = Recent(_TEXTS)
        self._gathered: Recent[Tensor] = Recent(_GATHERED)

    def __call__(self, text: Tensor, words: Sequence[str | None]) -> Tensor:
        """Text [n, tokens, width] → [n, tokens, keys and values of all layers]; `words` name equal rows."""
        texts = zip(words, text.split(1), strict=True)
        parts = [self._known.get(name, partial(self._project, row)) for name, row in texts]
        return self._gathered.get(None if None in words else tuple(words), lambda: torch.cat(parts))

    def clear(self) -> None:
        """Forget every text."""
        self._known.clear()
        self._gathered.clear()

    def _project(self, row: Tensor) -> Tensor:
        columns = [part(row) for layer in self._layers for part in (layer.to_k, layer.to_v)]
        return torch.cat([*columns, *[columns[0][..., :1]] * self._spare], dim=-1)


class KeptText:
    """Attention to keys and values that lie ready at columns `start`… of what is handed in as the text."""

    def __init__(self, start: int, width: int) -> None:
        self._start, self._width = start, width
        self._plain = AttnProcessor2_0()

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None, temb: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """[n, pixels, c] → [n, pixels, c]; a plain text is given to diffusers' own processor."""
        kept = encoder_hidden_states
        if kept is None or kept.shape[-1] == attn.to_k.in_features:
            attended: Tensor = self._plain(attn, hidden_states, kept, attention_mask, temb)
            return attended
        columns = kept[..., self._start : self._start + 2 * self._width]
        keys, values = (_heads(part, attn.heads) for part in columns.chunk(2, dim=-1))
        found = functional.scaled_dot_product_attention(_heads(attn.to_q(hidden_states), attn.heads), keys, values)
        found = found.transpose(1, 2).reshape(len(hidden_states), -1, self._width)
        projected: Tensor = attn.to_out[1](attn.to_out[0](found))
        return projected


class TimeTable:
    """What every residual block adds for a timestep (and, where the network asks, a text), side by side in one row.

    Exact up to rounding. The embedding's two layers and every block's projection are computed once a timestep and text.
    """

    def __init__(self, unet: Any) -> None:
        self._unet = unet
        self._projections: list[TimeColumns] = []
        start = 0
        for block in residual_blocks(unet):
            projection = block.time_emb_proj
            projection.__class__ = TimeColumns
            projection.start = start
            block.skip_time_act = True  # the projection does it, where there is still something to activate
            self._projections.append(projection)
            start += projection.out_features
        # a row of the table is told from an embedding by its width
        self._spare = int(start == unet.time_embedding.linear_2.out_features)
        self._pooled = unet.config.addition_embed_type == "text"
        self._added: Recent[Tensor] = Recent(_TEXTS)
        self._known: Recent[Tensor] = Recent(_MOMENTS)

    def __call__(
        self, timestep: Tensor, text: Tensor, words: Sequence[str | None], scales: Sequence[Guidance | None]
    ) -> Tensor:
        """Timestep [] and text [n, tokens, width] → rows of the table [n, columns]; `words` name equal rows, and
        `scales` are what a network that reads them is told.
        """
        moment = float(timestep)
        if not self._pooled:
            if not any(scales):
                return self._known.get(moment, lambda: self._row(timestep, text[:1], "", None)).expand(len(text), -1)
            words = [""] * len(text)
        keys = [None if name is None else (moment, name, told) for name, told in zip(words, scales, strict=True)]
        rows = zip(keys, words, scales, text.split(1), strict=True)
        return torch.cat([
            self._known.get(key, partial(self._row, timestep, row, name, told)) for key, name, told, row in rows
        ])  # fmt: skip

    def clear(self) -> None:
        """Forget every timestep and text."""
        self._known.clear()
        self._added.clear()

    def _row(self, timestep: Tensor, text: Tensor, name: str | None, told: Guidance | None) -> Tensor:
        known = None if told is None else embed([told], text.device).to(text.dtype)
        embedding = self._unet.time_embedding(self._unet.get_time_embed(text, timestep), known)
        if self._pooled:
            embedding = embedding + self._added.get(name, partial(self._unet.add_embedding, text))
        columns = [projection(embedding) for projection in self._projections]
        return torch.cat([*columns, *[columns[0][:, :1]] * self._spare], dim=1)


class TimeColumns(RowwiseLinear):
    """A residual block's projection of the time embedding that also takes a row of the TimeTable."""

    start: int

    def forward(self, x: Tensor) -> Tensor:
        """[n, time width] → [n, out], or the block's own columns of a table's row."""
        if x.shape[-1] != self.in_features:
            return x[:, self.start : self.start + self.out_features]
        return super().forward(functional.silu(x))


def cross_attentions(unet: Any) -> list[Any]:
    """Every attention to the text, in the network's order."""
    return [module for name, module in unet.named_modules() if name.endswith("attn2")]


def residual_blocks(unet: Any) -> list[Any]:
    """Every residual block that adds the time embedding, in the network's order."""
    return [module for module in unet.modules() if isinstance(module, ResnetBlock2D) and module.time_emb_proj]


def why_no_text_memory(unet: Any) -> str:
    """Why keys and values cannot be kept; "" where they can."""
    layers = cross_attentions(unet)
    if not layers:
        return "this network attends to no text"
    blocks = [module for module in unet.modules() if isinstance(module, BasicTransformerBlock)]
    if any(block.only_cross_attention for block in blocks):
        return "its self-attention reads the text as well"
    if any(layer.to_k.in_features != unet.config.cross_attention_dim for layer in layers):
        return "its attention to the text reads something else"
    for layer in layers:
        plain = type(layer.processor) is AttnProcessor2_0 and not layer.residual_connection
        extras = (layer.group_norm, layer.spatial_norm, layer.norm_cross, layer.norm_q, layer.norm_k)
        if not plain or any(extra is not None and extra is not False for extra in extras):
            return "its attention to the text is of another kind"
        if layer.rescale_output_factor != 1:
            return "its attention rescales its output"
    return ""


def why_no_time_table(unet: Any) -> str:
    """Why the time embedding cannot be kept as a table; "" where it can."""
    for block in residual_blocks(unet):
        if block.skip_time_act or not isinstance(block.nonlinearity, nn.SiLU):
            return "its residual blocks take the time embedding in another way"
        if not isinstance(block.time_emb_proj, nn.Linear):
            return "its time projections are of another kind"
    return "" if residual_blocks(unet) else "no residual block takes the time embedding"


def _heads(x: Tensor, heads: int) -> Tensor:
    """[n, tokens, heads · d] → [n, heads, tokens, d]."""
    apart: Tensor = x.unflatten(-1, (heads, -1))
    return apart.transpose(1, 2)
