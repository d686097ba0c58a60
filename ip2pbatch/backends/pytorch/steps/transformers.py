"""Transformer blocks on a GPU between convolutions whose channels lie innermost: tokens lie in memory as pixels do.

diffusers writes every block's tokens out with their channels outermost, for the convolution after it to turn them back,
and divides what each self-attention found by one.
"""

from __future__ import annotations

from typing import Any

from diffusers.models.attention_processor import AttnProcessor2_0
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import Tensor, nn
from torch.nn import functional


class TokensInPlace(Transformer2DModel):
    """A Transformer2DModel whose 1 × 1 convolutions are products over tokens, and whose tokens stay where they are."""

    def _operate_on_continuous_inputs(self, hidden_states: Tensor) -> tuple[Tensor, int]:
        """[n, c, h, w] → tokens [n, h · w, inner]."""
        n, c, h, w = hidden_states.shape
        tokens = self.norm(hidden_states).permute(0, 2, 3, 1).reshape(n, h * w, c)
        tokens = functional.linear(tokens, self.proj_in.weight.flatten(1), self.proj_in.bias)
        return tokens, tokens.shape[-1]

    def _get_output_for_continuous_inputs(
        self, hidden_states: Tensor, residual: Tensor, batch_size: int, height: int, width: int, inner_dim: int
    ) -> Tensor:
        """Tokens [n, h · w, inner] → [n, c, h, w], with `residual` added."""
        tokens = functional.linear(hidden_states, self.proj_out.weight.flatten(1), self.proj_out.bias)
        return tokens.view(batch_size, height, width, -1).permute(0, 3, 1, 2) + residual


class PlainSelfAttention:
    """diffusers' self-attention without what a plain one does not need: its masks, norms, and a division by one."""

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None, temb: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """[n, tokens, c] → [n, tokens, c]."""
        source = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        asked, keys, values = (
            part.unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for part in (attn.to_q(hidden_states), attn.to_k(source), attn.to_v(source))
        )
        found = functional.scaled_dot_product_attention(asked, keys, values)
        projected: Tensor = attn.to_out[0](found.transpose(1, 2).flatten(2))
        return projected


def keep_tokens_in_place(network: nn.Module) -> None:
    """Change the plain transformer blocks and self-attentions of `network` in place."""
    for name, module in network.named_modules():
        if type(module) is Transformer2DModel and is_plain(module):
            module.__class__ = TokensInPlace
        if name.endswith("attn1") and is_plain_attention(module):
            module.set_processor(PlainSelfAttention())


def is_plain(transformer: Any) -> bool:
    """Whether its way in and out is a norm and a 1 × 1 convolution or a linear layer."""
    inside = isinstance(transformer.proj_in, (nn.Conv2d, nn.Linear)) if hasattr(transformer, "proj_in") else False
    return inside and transformer.is_input_continuous and isinstance(transformer.norm, nn.GroupNorm)


def is_plain_attention(attention: Any) -> bool:
    """Whether diffusers' processor does nothing for it but project, attend and project."""
    extras = (attention.group_norm, attention.spatial_norm, attention.norm_q, attention.norm_k)
    return (
        type(attention.processor) is AttnProcessor2_0
        and not attention.residual_connection
        and attention.rescale_output_factor == 1
        and all(extra is None for extra in extras)
    )
