"""A UNet's forward in stages, so that a step can keep, share or spread what a stage computes.

    condition   timestep and text  →  what every residual block adds, and every cross-attention's keys and values
    head        what knows nothing of the text: conv_in, first residual block and first self-attention; only half of
                that block where the text is in the time embedding, or where the first blocks have no attention
    tail        the rest

The stages are functions of tensors whose first dimension is the rows of the call, and hold diffusers' own modules in
diffusers' own order (`UNet2DConditionModel.forward`), so that with every step off they give the network's own bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ip2pbatch.backends.pytorch.guidance_embedding import embed, is_embedded
from ip2pbatch.backends.pytorch.steps.conditioning import TextMemory, TimeTable
from ip2pbatch.backends.pytorch.steps.residual import begin, finish, is_plain
from ip2pbatch.backends.recent import Recent
from ip2pbatch.plan.edits import Guidance
from ip2pbatch.plan.rows import Row

Stage = Callable[..., tuple[Tensor, ...]]

_PATTERNS = 16  # ways in which the rows of a call are alike: a batch has two, of its first step and of the others

_BLOCKS = {
    "DownBlock2D", "CrossAttnDownBlock2D", "UpBlock2D", "CrossAttnUpBlock2D", "UNetMidBlock2D",
    "UNetMidBlock2DCrossAttn",
}  # fmt: skip


class StagedUNet:
    """The forward of `unet`, with the steps that have been put in: `texts`, `times`, `shared` and the two stages."""

    def __init__(self, unet: Any) -> None:
        self.unet = unet
        self.texts: TextMemory | None = None
        self.times: TimeTable | None = None
        self.shared = False
        self._reads_scales = is_embedded(unet.config)
        # Kept, because a list for an index is a copy to the device each time, which waits for all that it has to do.
        self._places: Recent[tuple[list[Tensor], Tensor]] = Recent(_PATTERNS)
        self.bare()

    def bare(self) -> None:
        """Take off whatever is about the stages."""
        long = not why_no_long_head(self.unet)
        self.head: Stage = self._head if long else self._stem
        self.whole: Stage = self._whole
        self.tail: Stage = self._tail if long else self._after_stem

    def wrap(self, around: Callable[[Stage], Stage]) -> None:
        """Put `around` about each stage: what is wrapped first is innermost."""
        self.head, self.whole, self.tail = around(self.head), around(self.whole), around(self.tail)

    def __call__(self, sample: Tensor, timestep: Tensor, text: Tensor, rows: Sequence[Row] | None) -> Tensor:
        """Noise [n, c, h, w] of sample [n, 2c, h, w] and text [n, tokens, width], both in the network's dtype.

        `rows` are what the caller knows of the rows: equal texts are computed once, and equal (latent, image) pairs
        share the head. Without them nothing is remembered or shared, and the numbers are the same.
        """
        words = [row.text or "" for row in rows] if rows else [None] * len(sample)
        scales = [row.scales for row in rows] if rows and self._reads_scales else [None] * len(sample)
        moment = (
            self.times(timestep, text, words, scales) if self.times else self._embed(sample, timestep, text, scales)
        )
        memory = self.texts(text, words) if self.texts else text
        if not self.shared:
            return self.whole(sample, moment, memory)[0]
        places = same_pictures(rows) if rows else list(range(len(sample)))
        return self.tail(*self._shared(sample, moment, places), moment, memory)[0]

    def _shared(self, sample: Tensor, moment: Tensor, places: Sequence[int]) -> list[Tensor]:
        """The head of every row, computed once for rows of one latent and image, in calls of a third of the rows.

        The calls have a size of their own that hangs on the bucket alone, so that a row's bits do not tell how many
        of its neighbours were alike: three rows an Edit need two such calls, two rows need the same two.
        """
        calls, where = self._places.get((*places, sample.device), lambda: _head_calls(places, sample.device))
        outputs = [self.head(sample[call], moment[call]) for call in calls]
        return [torch.cat(parts)[where] for parts in zip(*outputs, strict=True)]

    def _embed(self, sample: Tensor, timestep: Tensor, text: Tensor, scales: Sequence[Guidance | None]) -> Tensor:
        """The time embedding of every row as the network itself computes it [n, time width]."""
        told = [one for one in scales if one is not None]
        known = embed(told, sample.device).to(sample.dtype) if told else None
        embedding = self.unet.time_embedding(self.unet.get_time_embed(sample, timestep), known)
        added = self.unet.get_aug_embed(embedding, text, {})
        whole: Tensor = embedding if added is None else embedding + added
        return whole

    def _whole(self, sample: Tensor, moment: Tensor, memory: Tensor) -> tuple[Tensor]:
        first = self.unet.conv_in(sample)
        return (self._onward(first, (first,), self.unet.down_blocks, moment, memory),)

    def _head(self, sample: Tensor, moment: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """conv_in [n, c, h, w], the first residual block's output, and its tokens after self-attention [n, hw, c]."""
        first = self.unet.conv_in(sample)
        block = self.unet.down_blocks[0]
        hidden = block.resnets[0](first, moment)
        transformer = block.attentions[0]
        tokens, _ = transformer._operate_on_continuous_inputs(hidden)
        inner = transformer.transformer_blocks[0]
        return first, hidden, inner.attn1(inner.norm1(tokens)) + tokens

    def _stem(self, sample: Tensor, moment: Tensor) -> tuple[Tensor, Tensor]:
        """conv_in [n, c, h, w] and what the first residual block makes of it before it sees the timestep."""
        first = self.unet.conv_in(sample)
        return first, begin(self.unet.down_blocks[0].resnets[0], first)

    def _after_stem(self, first: Tensor, half: Tensor, moment: Tensor, memory: Tensor) -> tuple[Tensor]:
        block = self.unet.down_blocks[0]
        hidden = finish(block.resnets[0], first, half, moment)
        for attention in getattr(block, "attentions", ())[:1]:
            hidden = attention(hidden, encoder_hidden_states=memory, return_dict=False)[0]
        return self._after_first(first, hidden, moment, memory)

    def _tail(self, first: Tensor, hidden: Tensor, tokens: Tensor, moment: Tensor, memory: Tensor) -> tuple[Tensor]:
        hidden = _resume(self.unet.down_blocks[0].attentions[0], hidden, tokens, memory)
        return self._after_first(first, hidden, moment, memory)

    def _after_first(self, first: Tensor, hidden: Tensor, moment: Tensor, memory: Tensor) -> tuple[Tensor]:
        """The rest of the network after the first layer of the first block gave `hidden`."""
        block = self.unet.down_blocks[0]
        skips: tuple[Tensor, ...] = (first, hidden)
        attentions = getattr(block, "attentions", None)
        for number, resnet in enumerate(block.resnets[1:], 1):
            hidden = resnet(hidden, moment)
            if attentions:
                hidden = attentions[number](hidden, encoder_hidden_states=memory, return_dict=False)[0]
            skips += (hidden,)
        for downsampler in block.downsamplers or ():
            hidden = downsampler(hidden)
            skips += (hidden,)
        return (self._onward(hidden, skips, self.unet.down_blocks[1:], moment, memory),)

    def _onward(
        self, hidden: Tensor, skips: tuple[Tensor, ...], down: Sequence[Any], moment: Tensor, memory: Tensor
    ) -> Tensor:
        """The remaining down blocks, the middle and the way up, from `hidden` and what was kept for the way up."""
        unet = self.unet
        odd = any(side % 2**unet.num_upsamplers for side in skips[0].shape[-2:])
        for block in down:
            hidden, more = block(hidden_states=hidden, temb=moment, **_text_for(block, memory))
            skips += more
        if unet.mid_block is not None:
            hidden = unet.mid_block(hidden, moment, **_text_for(unet.mid_block, memory))
        for number, block in enumerate(unet.up_blocks):
            kept, skips = skips[-len(block.resnets) :], skips[: -len(block.resnets)]
            size = skips[-1].shape[2:] if odd and number < len(unet.up_blocks) - 1 else None
            hidden = block(
                hidden_states=hidden, temb=moment, res_hidden_states_tuple=kept, upsample_size=size,
                **_text_for(block, memory),
            )  # fmt: skip
        if unet.conv_norm_out is not None:
            hidden = unet.conv_act(unet.conv_norm_out(hidden))
        noise: Tensor = unet.conv_out(hidden)
        return noise


def _head_calls(places: Sequence[int], device: torch.device) -> tuple[list[Tensor], Tensor]:
    """The rows that each call of the head is given, and where in the calls' outputs, laid end to end, each row is."""
    size = max(1, len(places) // 3)
    unique = sorted(set(places))
    padded = unique + [unique[-1]] * (-len(unique) % size)
    calls = [torch.tensor(padded[start : start + size], device=device) for start in range(0, len(padded), size)]
    return calls, torch.tensor([unique.index(place) for place in places], device=device)


def same_pictures(rows: Sequence[Row]) -> list[int]:
    """For each row the place of the first row of the same latent and image, told the same scales."""
    first: dict[tuple[object, ...], int] = {}
    return [first.setdefault((row.latent_of, row.image_of, row.scales), place) for place, row in enumerate(rows)]


def why_not_staged(unet: Any) -> str:
    """Why this UNet's forward has parts that the stages do not know; "" where they hold all of it."""
    config = unet.config
    blocks = {type(block).__name__ for block in (*unet.down_blocks, *unet.up_blocks, unet.mid_block) if block}
    if unknown := blocks - _BLOCKS:
        return f"it has a {min(unknown)}"
    if config.addition_embed_type not in (None, "text"):
        return f"it adds {config.addition_embed_type} to its time embedding"
    for key in ("class_embed_type", "num_class_embeds", "encoder_hid_dim_type", "time_embedding_act_fn"):
        if config.get(key) is not None:
            return f"it has {key}"
    return "it centres its input" if config.center_input_sample else ""


def why_no_head(unet: Any) -> str:
    """Why rows of one picture and different texts share nothing worth sharing; "" where they do."""
    if not why_no_long_head(unet) or is_plain(unet.down_blocks[0].resnets[0]):
        return ""
    return "its first residual block is of another kind"


def why_no_long_head(unet: Any) -> str:
    """Why the head ends within the first residual block; "" where it goes on to the first attention to the text."""
    if unet.config.addition_embed_type is not None:
        return "the text enters this network's time embedding"
    attentions = getattr(unet.down_blocks[0], "attentions", None)
    if not attentions:
        return "this network's first block has no attention"
    transformer = attentions[0]
    inner = transformer.transformer_blocks[0]
    if not hasattr(transformer, "_operate_on_continuous_inputs") or inner.norm_type != "layer_norm":
        return "its transformer is of another kind"
    return "its self-attention sees the text" if inner.only_cross_attention or inner.pos_embed is not None else ""


def _resume(transformer: Any, residual: Tensor, tokens: Tensor, memory: Tensor) -> Tensor:
    """The rest of a transformer whose first block has done its self-attention: [n, hw, c] → [n, c, h, w]."""
    first, *others = transformer.transformer_blocks
    tokens = first.attn2(first.norm2(tokens), encoder_hidden_states=memory) + tokens
    tokens = first.ff(first.norm3(tokens)) + tokens
    for block in others:
        tokens = block(tokens, encoder_hidden_states=memory)
    n, _, height, width = residual.shape
    shape = (n, height, width, tokens.shape[-1])
    output: Tensor = transformer._get_output_for_continuous_inputs(tokens, residual, *shape)
    return output


def _text_for(block: Any, memory: Tensor) -> dict[str, Tensor]:
    return {"encoder_hidden_states": memory} if getattr(block, "has_cross_attention", False) else {}
