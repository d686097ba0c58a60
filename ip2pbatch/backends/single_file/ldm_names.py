"""What Stable Diffusion's networks call their modules in the original layout (CompVis' latent diffusion) and in
diffusers'. A table holds both names of each module; a weight is called like its module, and what follows is the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

PREFIXES = {
    "unet": "model.diffusion_model.",
    "vae": "first_stage_model.",
    "text_encoder": "cond_stage_model.transformer.text_model.",
}
"""Where each network lies in a file."""

_UNET = {
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
}  # fmt: skip
_RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
    "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
}  # fmt: skip
_VAE_RESNET = {name: name for name in ("norm1", "conv1", "norm2", "conv2")} | {"conv_shortcut": "nin_shortcut"}
VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
"""An autoencoder's attention: linear in diffusers, in the original layout convolutions of 1 × 1."""


@dataclass(frozen=True, slots=True)
class Blocks:
    """A UNet's blocks from the full size down: how many residual layers each has, and which of them attend."""

    layers: int
    attends: tuple[bool, ...]


def unet_modules(blocks: Blocks) -> dict[str, str]:
    """Names in diffusers → names in the original layout, of a UNet's modules."""
    return _UNET | dict((*_down(blocks), *_middle(), *_up(blocks)))


def _down(blocks: Blocks) -> Iterator[tuple[str, str]]:
    for block, attends in enumerate(blocks.attends):
        first = block * (blocks.layers + 1) + 1
        for layer in range(blocks.layers):
            yield from _layer(f"down_blocks.{block}", layer, f"input_blocks.{first + layer}", attends)
        yield f"down_blocks.{block}.downsamplers.0.conv", f"input_blocks.{first + blocks.layers}.0.op"


def _middle() -> Iterator[tuple[str, str]]:
    yield from _resnet("mid_block.resnets.0", "middle_block.0", _RESNET)
    yield "mid_block.attentions.0", "middle_block.1"
    yield from _resnet("mid_block.resnets.1", "middle_block.2", _RESNET)


def _up(blocks: Blocks) -> Iterator[tuple[str, str]]:
    for block, attends in enumerate(reversed(blocks.attends)):
        first = block * (blocks.layers + 1)
        for layer in range(blocks.layers + 1):
            yield from _layer(f"up_blocks.{block}", layer, f"output_blocks.{first + layer}", attends)
        after = 2 if attends else 1  # it follows the last layer's attention, where there is one
        yield f"up_blocks.{block}.upsamplers.0.conv", f"output_blocks.{first + blocks.layers}.{after}.conv"


def _layer(block: str, layer: int, original: str, attends: bool) -> Iterator[tuple[str, str]]:
    yield from _resnet(f"{block}.resnets.{layer}", f"{original}.0", _RESNET)
    if attends:
        yield f"{block}.attentions.{layer}", f"{original}.1"


def _resnet(name: str, original: str, parts: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for part, called in parts.items():
        yield f"{name}.{part}", f"{original}.{called}"


def vae_modules(blocks: int, layers: int) -> dict[str, str]:
    """Names in diffusers → names in the original layout, of an autoencoder's modules."""
    return {"quant_conv": "quant_conv", "post_quant_conv": "post_quant_conv"} | dict(
        (*_half("encoder", "down", blocks, layers), *_half("decoder", "up", blocks, layers + 1))
    )


TEXT_MODULES = {name: name for name in ("embeddings", "encoder", "final_layer_norm")}
"""A text encoder's modules are called the same; transformers' own prefix `text_model.` comes and goes."""


def _half(half: str, way: str, blocks: int, layers: int) -> Iterator[tuple[str, str]]:
    for name, called in (("conv_in", "conv_in"), ("conv_norm_out", "norm_out"), ("conv_out", "conv_out")):
        yield f"{half}.{name}", f"{half}.{called}"
    for number in (0, 1):
        yield from _resnet(f"{half}.mid_block.resnets.{number}", f"{half}.mid.block_{number + 1}", _VAE_RESNET)
    yield from _resnet(f"{half}.mid_block.attentions.0", f"{half}.mid.attn_1", VAE_ATTENTION)
    for block in range(blocks):
        # The original layout counts the decoder's blocks from the full size as well.
        original = f"{half}.{way}.{block if way == 'down' else blocks - 1 - block}"
        for layer in range(layers):
            yield from _resnet(f"{half}.{way}_blocks.{block}.resnets.{layer}", f"{original}.block.{layer}", _VAE_RESNET)
        yield f"{half}.{way}_blocks.{block}.{way}samplers.0.conv", f"{original}.{way}sample.conv"


def translated(name: str, modules: Mapping[str, str]) -> str | None:
    """A weight's other name; None where it is of none of the modules."""
    parts = name.split(".")
    for end in range(len(parts) - 1, 0, -1):
        if (found := modules.get(".".join(parts[:end]))) is not None:
            return ".".join([found, *parts[end:]])
    return None


def is_convolved(name: str) -> bool:
    """Whether a weight of an autoencoder, by its name in diffusers, is a convolution in the original layout alone."""
    _, found, part = name.removesuffix(".weight").partition(".mid_block.attentions.0.")
    return bool(found) and name.endswith(".weight") and part != "group_norm"
