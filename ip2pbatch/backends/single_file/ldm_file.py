"""A whole model in one safetensors file of the original layout: its configurations, found in its weights' shapes.

Such a file holds weights and nothing else. What a shape does not tell (heads, groups, the noise schedule) is Stable
Diffusion 1's, of which InstructPix2Pix was made. Only the header is read here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ip2pbatch.backends.single_file import ldm_names
from ip2pbatch.backends.single_file.ldm_names import PREFIXES, Blocks, translated
from ip2pbatch.backends.single_file.vocabulary import Vocabulary, find
from ip2pbatch.errors import ModelError

Shapes = Mapping[str, tuple[int, ...]]

CLASSES = {
    "unet": "UNet2DConditionModel", "vae": "AutoencoderKL", "text_encoder": "CLIPTextModel",
    "tokenizer": "CLIPTokenizer", "scheduler": "EulerAncestralDiscreteScheduler",
}  # fmt: skip
SCHEDULE: dict[str, Any] = {
    "_class_name": CLASSES["scheduler"], "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000, "prediction_type": "epsilon", "steps_offset": 1, "clip_sample": False,
    "set_alpha_to_one": False, "skip_prk_steps": True,
}  # fmt: skip
SCALING = 0.18215
"""By which Stable Diffusion 1's latents are scaled."""

_HEADS, _GROUPS, _HEAD_WIDTH = 8, 32, 64

# Of what else there is in one file, a piece of a weight's name and what it is.
_OTHERS = (
    ("lora", "a LoRA, which changes a model and is none", "write it as `lora: [{path: FILE}]` beside a model"),
    ("conditioner.embedders.", "an SDXL model", ""),
    ("cond_stage_model.model.", "a Stable Diffusion 2 model", ""),
    ("double_blocks.", "a FLUX model", ""),
    ("joint_blocks.", "a Stable Diffusion 3 model", ""),
    ("control_model.", "a ControlNet", ""),
    ("motion_modules.", "a motion module", ""),
)
_KINDS = "use a Stable Diffusion 1 checkpoint that edits, such as instruct-pix2pix-00-22000.safetensors"


@dataclass(frozen=True, slots=True)
class Described:
    """What a file's weights come to: a configuration for each network, the names of its weights (in diffusers → in the
    file), and what else the file holds.
    """

    configs: Mapping[str, Mapping[str, Any]]
    names: Mapping[str, Mapping[str, str]]
    left: tuple[str, ...]


@dataclass(frozen=True)
class LdmWeights:
    """A checked file: what its weights are, and their shapes."""

    path: Path
    described: Described
    shapes: Shapes

    def elements(self, component: str) -> int:
        """The numbers in a network's weights."""
        return sum(math.prod(self.shapes[key]) for key in self.described.names[component].values())


@dataclass(frozen=True)
class SingleFile(LdmWeights):
    """A whole model, with the vocabulary of its text encoder."""

    vocabulary: Vocabulary

    @property
    def tokens(self) -> int:
        """How many tokens its text encoder reads."""
        return int(self.described.configs["text_encoder"]["max_position_embeddings"])


def check(file: Path) -> SingleFile:
    """The model in `file`, by its header alone. Raises ModelError where it is none that is loaded, or its vocabulary is
    not on this machine.
    """
    if file.suffix.lower() != ".safetensors":
        raise ModelError(
            f"{file} may be a pickle, which is never loaded as it stands",
            hint=f"turn it into a folder of safetensors, without running what is in it: ip2pbatch models import {file}",
        )
    shapes = read_shapes(file)
    described = describe(shapes, file)
    words = described.configs["text_encoder"]["vocab_size"]
    return SingleFile(file, described, shapes, find(words, file))


def check_vae(file: Path) -> LdmWeights:
    """The autoencoder in `file`, which may hold a whole model besides. Raises ModelError where there is none."""
    if file.suffix.lower() != ".safetensors":
        raise ModelError(f"{file} may be a pickle, which is never loaded", hint="use it as safetensors")
    shapes = read_shapes(file)
    prefix = PREFIXES["vae"] if any(key.startswith(PREFIXES["vae"]) for key in shapes) else ""
    part = {key.removeprefix(prefix): shape for key, shape in shapes.items() if key.startswith(prefix)}
    try:
        config = _vae(part)
    except LookupError as error:
        raise ModelError(f"{file} is no autoencoder in the original layout: it lacks {error}", hint=_KINDS) from error
    modules = ldm_names.vae_modules(len(config["block_out_channels"]), config["layers_per_block"])
    names = _names(part, modules, prefix)
    used = set(names.values())
    return LdmWeights(file, Described({"vae": config}, {"vae": names}, tuple(shapes.keys() - used)), shapes)


def read_shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor in a safetensors file, from its header. ModelError where it is damaged."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="np") as tensors:
            return {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"{file} is damaged or incomplete ({error})", hint="fetch it again: a download may have been cut short"
        ) from error


def describe(shapes: Shapes, file: Path) -> Described:
    """What the weights of `file` are. ModelError with the reason where they are no Stable Diffusion 1 in the original
    layout.
    """
    prefixes = _prefixes(shapes, file)
    parts = {
        name: {key.removeprefix(prefix): shape for key, shape in shapes.items() if key.startswith(prefix)}
        for name, prefix in prefixes.items()
    }
    try:
        unet, blocks = _unet(parts["unet"])
        vae = _vae(parts["vae"])
        configs = {"unet": unet, "vae": vae, "text_encoder": _text_encoder(parts["text_encoder"])}
    except (LookupError, ValueError) as error:
        raise ModelError(f"{file} is no whole Stable Diffusion 1 model: it lacks {error}", hint=_KINDS) from error
    modules = {
        "unet": ldm_names.unet_modules(blocks),
        "vae": ldm_names.vae_modules(len(vae["block_out_channels"]), vae["layers_per_block"]),
        "text_encoder": ldm_names.TEXT_MODULES,
    }
    names = {name: _names(parts[name], modules[name], prefixes[name]) for name in parts}
    used = {key for found in names.values() for key in found.values()}
    return Described(configs | {"scheduler": SCHEDULE}, names, tuple(key for key in shapes if key not in used))


def _prefixes(shapes: Shapes, file: Path) -> dict[str, str]:
    """Where each network lies: a text encoder's may lack a part that newer libraries leave out."""
    found = dict(PREFIXES)
    short = found["text_encoder"].removesuffix("text_model.")
    if f"{short}embeddings.token_embedding.weight" in shapes:
        found["text_encoder"] = short
    absent = [prefix for prefix in found.values() if not any(key.startswith(prefix) for key in shapes)]
    if not absent:
        return found
    for piece, what, hint in _OTHERS:
        if any(piece in key for key in shapes):
            raise ModelError(f"{file} is {what}", hint=hint or _KINDS)
    raise ModelError(
        f"{file} is no model in the original layout of Stable Diffusion 1: it has no weights of {absent[0]}*",
        hint=_KINDS,
    )


def _names(part: Shapes, modules: Mapping[str, str], prefix: str) -> dict[str, str]:
    back = {original: name for name, original in modules.items()}
    both = ((translated(key, back), prefix + key) for key in part)
    return {name: key for name, key in both if name is not None and not name.endswith("position_ids")}


def _unet(part: Shapes) -> tuple[dict[str, Any], Blocks]:
    halved = sorted(_numbers(part, "input_blocks.", ".0.op.weight"))
    layers = (halved[0] if halved else len(_numbers(part, "input_blocks.", ".0.in_layers.2.weight")) + 1) - 1
    first = [block * (layers + 1) + 1 for block in range(len(halved) + 1)]
    blocks = Blocks(layers, tuple(f"input_blocks.{number}.1.proj_in.weight" in part for number in first))
    depth = len(_numbers(part, "middle_block.1.transformer_blocks.", ".attn2.to_k.weight"))
    if depth != 1:
        raise ValueError(f"attention of one layer (this has {depth})")
    config = {
        "_class_name": CLASSES["unet"], "act_fn": "silu", "attention_head_dim": _HEADS, "norm_num_groups": _GROUPS,
        "block_out_channels": [part[f"input_blocks.{number}.0.out_layers.3.weight"][0] for number in first],
        "cross_attention_dim": part["middle_block.1.transformer_blocks.0.attn2.to_k.weight"][1],
        "down_block_types": ["CrossAttnDownBlock2D" if one else "DownBlock2D" for one in blocks.attends],
        "up_block_types": ["CrossAttnUpBlock2D" if one else "UpBlock2D" for one in reversed(blocks.attends)],
        "in_channels": part["input_blocks.0.0.weight"][1], "out_channels": part["out.2.weight"][0],
        "layers_per_block": layers, "sample_size": 64,
        "use_linear_projection": len(part["middle_block.1.proj_in.weight"]) == 2,
    }  # fmt: skip
    return config, blocks


def _vae(part: Shapes) -> dict[str, Any]:
    count = len(_numbers(part, "encoder.down.", ".block.0.conv1.weight"))
    widths = [part[f"encoder.down.{block}.block.0.conv1.weight"][0] for block in range(count)]
    return {
        "_class_name": CLASSES["vae"], "act_fn": "silu", "norm_num_groups": _GROUPS, "block_out_channels": widths,
        "down_block_types": ["DownEncoderBlock2D"] * count, "up_block_types": ["UpDecoderBlock2D"] * count,
        "in_channels": part["encoder.conv_in.weight"][1], "out_channels": part["decoder.conv_out.weight"][0],
        "latent_channels": part["post_quant_conv.weight"][1], "sample_size": 512, "scaling_factor": SCALING,
        "layers_per_block": len(_numbers(part, "encoder.down.0.block.", ".conv1.weight")),
    }  # fmt: skip


def _text_encoder(part: Shapes) -> dict[str, Any]:
    words, width = part["embeddings.token_embedding.weight"]
    return {
        "architectures": [CLASSES["text_encoder"]], "model_type": "clip_text_model", "hidden_act": "quick_gelu",
        "hidden_size": width, "projection_dim": width, "vocab_size": words, "layer_norm_eps": 1e-5,
        "intermediate_size": part["encoder.layers.0.mlp.fc1.weight"][0],
        "max_position_embeddings": part["embeddings.position_embedding.weight"][0],
        "num_attention_heads": max(1, width // _HEAD_WIDTH),
        "num_hidden_layers": len(_numbers(part, "encoder.layers.", ".mlp.fc1.weight")),
        "bos_token_id": words - 2, "eos_token_id": words - 1, "pad_token_id": words - 1,
    }  # fmt: skip


def _numbers(keys: Iterable[str], before: str, after: str) -> set[int]:
    """The numbers that stand between `before` and `after` in some key."""
    middles = (
        key[len(before) : -len(after)]
        for key in keys
        if key.startswith(before) and key.endswith(after) and len(key) > len(before) + len(after)
    )
    return {int(middle) for middle in middles if middle.isdecimal()}
