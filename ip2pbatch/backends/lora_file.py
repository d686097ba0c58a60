"""A LoRA's file: which layers it changes and by what, whichever of the common names its tensors have.

diffusers and peft write `unet.….to_q.lora_A.weight`, older diffusers `….processor.to_q_lora.down.weight`, kohya's
scripts `lora_unet_…_to_q.lora_down.weight` beside an alpha. Only the header is read here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Container, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from ip2pbatch.backends.single_file import ldm_names
from ip2pbatch.backends.single_file.ldm_file import read_shapes
from ip2pbatch.errors import ModelError

T = TypeVar("T")
NAME = "pytorch_lora_weights.safetensors"
_PEFT = ("adapter_model.safetensors", "adapter_config.json")
_CLASSES = ("UNet2DConditionModel", "CLIPTextModel", "CLIPTextModelWithProjection")

Shape = tuple[int, ...]
Layers = Mapping[str, Mapping[str, Shape]]
"""Of each network that a LoRA may change the shapes of its layers, by their names parted by `_`."""

# How a tensor's name begins, and of which network it is then: the first that a model has.
_NETWORKS = (
    ("base_model.model.unet.", "unet"), ("base_model.model.transformer.", "transformer"),
    ("base_model.model.text_encoder_2.", "text_encoder_2"), ("base_model.model.text_encoder.", "text_encoder"),
    ("base_model.model.text_model.", "text_encoder"), ("base_model.model.", "unet"),
    ("base_model.model.", "transformer"), ("unet.", "unet"), ("lora_unet_", "unet"), ("transformer.", "transformer"),
    ("diffusion_model.", "transformer"), ("lora_unet_", "transformer"), ("lora_transformer_", "transformer"),
    ("text_encoder_2.", "text_encoder_2"), ("lora_te2_", "text_encoder_2"), ("text_encoder.", "text_encoder"),
    ("lora_te_", "text_encoder"), ("lora_te1_", "text_encoder"), ("down_blocks.", "unet"), ("mid_block.", "unet"),
    ("up_blocks.", "unet"), ("", "transformer"),
)  # fmt: skip
_HALVES = (
    (re.compile(r"[._]lora(?:_linear_layer)?\.(?:[\w-]+\.)?(down|up)\.weight$"), None),
    (re.compile(r"\.lora_(down|up)\.weight$"), None),
    (re.compile(r"\.lora_([AB])(?:\.[\w-]+)?\.weight$"), {"A": "down", "B": "up"}),
    (re.compile(r"\.(alpha)$"), None),
)
# A piece of a tensor's name, what such a file is, and the network of a model that it may be for.
_OTHERS = (
    ("lora_te2_", "is for an SDXL model", "text_encoder_2"),
    ("text_encoder_2.", "is for an SDXL model", "text_encoder_2"),
    ("double_blocks", "is for a FLUX model", "transformer"), ("single_blocks", "is for a FLUX model", "transformer"),
    ("transformer.", "is for an editor with a diffusion transformer", "transformer"),
    ("down_blocks", "is for a Stable Diffusion model", "unet"),
    ("input_blocks", "is for a Stable Diffusion model", "unet"),
    ("hada_", "is a LoHa, not a LoRA", ""), ("lokr_", "is a LoKr, not a LoRA", ""),
    ("dora_scale", "is a DoRA, not a LoRA", ""), ("lora_magnitude_vector", "is a DoRA, not a LoRA", ""),
    ("lora_mid", "is a LoRA of three factors, which is not added here", ""), ("oft_", "is an OFT, not a LoRA", ""),
)  # fmt: skip
# FLUX's layers by the names of its first publication, and diffusers' that are one below the other in each: FLUX.1's,
# or FLUX.2's.
_FLUX = re.compile(r"(double|single)_blocks_(\d+)_(\w+)")
_FLUX_PARTS: dict[str, tuple[tuple[str, ...], ...]] = {
    "img_attn_qkv": (("attn_to_q", "attn_to_k", "attn_to_v"),), "img_attn_proj": (("attn_to_out_0",),),
    "txt_attn_qkv": (("attn_add_q_proj", "attn_add_k_proj", "attn_add_v_proj"),),
    "txt_attn_proj": (("attn_to_add_out",),), "img_mlp_0": (("ff_net_0_proj",), ("ff_linear_in",)),
    "img_mlp_2": (("ff_net_2",), ("ff_linear_out",)), "img_mod_lin": (("norm1_linear",),),
    "txt_mlp_0": (("ff_context_net_0_proj",), ("ff_context_linear_in",)),
    "txt_mlp_2": (("ff_context_net_2",), ("ff_context_linear_out",)), "txt_mod_lin": (("norm1_context_linear",),),
    "linear1": (("attn_to_q", "attn_to_k", "attn_to_v", "proj_mlp"), ("attn_to_qkv_mlp_proj",)),
    "linear2": (("proj_out",), ("attn_to_out",)), "modulation_lin": (("norm_linear",),),
}  # fmt: skip
_HINT = "use a LoRA for the model that it is laid over, by diffusers, peft or kohya's scripts"


@dataclass(slots=True)
class Change:
    """The names of the tensors that change one layer; `alpha` is a tensor's name, where the file has one."""

    down: str = ""
    up: str = ""
    alpha: str = ""


@dataclass(frozen=True, slots=True)
class LoraFile:
    """A checked file: the changes of each network by their layers' names, parted by `_` alone, and the shapes of its
    tensors. `alphas` is what is said beside the tensors: alpha over rank of a network's layers that have no alpha of
    their own.
    """

    path: Path
    changes: Mapping[str, Mapping[str, Change]]
    shapes: Mapping[str, Shape]
    alphas: Mapping[str, float] = field(default_factory=dict)


def find(path: Path) -> Path:
    """The LoRA's file at `path`, a file or a folder with one. Raises ModelError."""
    if path.is_file():
        return path
    for name in (NAME, _PEFT[0]):
        if (path / name).is_file():
            return path / name
    files = sorted(path.glob("*.safetensors"))
    if len(files) != 1:
        found = f"{len(files)} files" if files else "no file"
        raise ModelError(f"{path} has {found} that could be its LoRA", hint="give the .safetensors itself")
    return files[0]


def networks_of(classes: Mapping[str, str]) -> tuple[str, ...]:
    """Which of a model's components, each with its class, a LoRA can change: its UNet or transformer, and CLIP's text
    encoders.
    """
    return tuple(name for name, kind in classes.items() if kind in _CLASSES or kind.endswith("Transformer2DModel"))


def check(file: Path, networks: Collection[str]) -> LoraFile:
    """What `file` changes of a model's `networks`. ModelError with the reason where it is no LoRA for such models, or
    damaged.
    """
    if file.suffix.lower() != ".safetensors":
        raise ModelError(f"{file} may be a pickle, which is never loaded", hint=_HINT)
    shapes = read_shapes(file)
    for key in shapes:
        for piece, what, network in _OTHERS:
            if piece in key and network not in networks:
                raise ModelError(f"{file} {what} ({key})", hint=_HINT)
    changes: dict[str, dict[str, Change]] = {network: {} for network in networks}
    for key in shapes:
        network, layer, half = _parsed(key, file, networks)
        setattr(changes[network].setdefault(layer, Change()), half, key)
    partial = [layer for found in changes.values() for layer, one in found.items() if not (one.down and one.up)]
    if partial or not shapes:
        raise ModelError(f"{file} is no whole LoRA: {(partial or ['everything'])[0]} is missing", hint=_HINT)
    return LoraFile(file, changes, shapes, _alphas(file, networks))


def by_layer(network: str, modules: Mapping[str, T], config: Mapping[str, Any]) -> dict[str, T]:
    """`modules` of a network by their layers' names as LoRAs have them: a UNet's in diffusers' words, and in the
    original layout's.
    """
    found = {name.removeprefix("text_model.").replace(".", "_"): one for name, one in modules.items()}
    if network == "unet":
        attends = tuple("CrossAttn" in str(kind) for kind in config.get("down_block_types", ()))
        layers = config.get("layers_per_block", 2)
        blocks = ldm_names.Blocks(int(layers if isinstance(layers, int) else max(layers)), attends)
        names = ldm_names.unet_modules(blocks)
        for name, one in modules.items():
            if original := ldm_names.translated(f"{name}.weight", names):
                found.setdefault(original.removesuffix(".weight").replace(".", "_"), one)
    return found


def parts_of(name: str, layers: Container[str]) -> tuple[str, ...]:
    """The layers of a network that a LoRA's layer of this name is, from its first row on: one, or several of FLUX,
    whose first publication has them in one. None where there is no such layer.
    """
    if name in layers:
        return (name,)
    if (short := name.removesuffix("_0")).endswith("to_out") and short in layers:
        return (short,)
    if found := _FLUX.fullmatch(name):
        block = f"{'single_' * (found[1] == 'single')}transformer_blocks_{found[2]}_"
        for parts in _FLUX_PARTS.get(found[3], ()):
            if all(block + part in layers for part in parts):
                return tuple(block + part for part in parts)
    return ()


def refuse_unfit(lora: LoraFile, layers: Layers) -> None:
    """Raises ModelError where a LoRA changes a layer that is not among `layers`, or is of another shape there."""
    for network, changes in lora.changes.items():
        for name, change in changes.items():
            shapes = [layers[network][part] for part in parts_of(name, layers[network])]
            if what := _unlike(lora, change, shapes):
                called = f"this model's {network.replace('_', ' ')}"
                why = f"{name} of {called} is {what}" if shapes else f"{called} has no layer {name}"
                raise ModelError(f"{lora.path} is made for another architecture: {why}", hint=_FITTING)


_FITTING = "use a LoRA for the model that it is laid over"


def _unlike(lora: LoraFile, change: Change, shapes: Sequence[Shape]) -> str:
    if not shapes:
        return "absent"
    shape = (sum(one[0] for one in shapes), *shapes[0][1:])
    into, out = lora.shapes[change.down], lora.shapes[change.up]
    same_kernel = into[2:] in ((), shape[2:])
    if into[1] == shape[1] and out[0] == shape[0] and out[1] == into[0] and same_kernel:
        return ""
    return f"{list(shape)}, and it changes {out[0]} × {into[1]}"


def _parsed(key: str, file: Path, networks: Collection[str]) -> tuple[str, str, str]:
    for pattern, called in _HALVES:
        if found := pattern.search(key):
            half = called[found[1]] if called else found[1]
            for prefix, network in _NETWORKS:
                if network in networks and key.startswith(prefix):
                    kept = 0 if prefix.endswith(("blocks.", "block.")) else len(prefix)
                    return network, _layer(key[kept : found.start()]), half
    raise ModelError(f"{file} is no LoRA for this model: it holds {key}", hint=_HINT)


def _layer(name: str) -> str:
    name = name.replace(".processor.", ".").replace(".", "_").removeprefix("text_model_")
    return f"{name}_0" if name.endswith("to_out") else name


def _alphas(file: Path, networks: Collection[str]) -> dict[str, float]:
    """What peft keeps beside a LoRA: its configuration as metadata, or in a file."""
    config = file.with_name(_PEFT[1])
    given = _metadata(file)
    if not given and file.name == _PEFT[0] and config.is_file():
        found = _json(config.read_text("utf-8"), file)
        given = {f"{network}.{key}": value for network in networks for key, value in found.items()}
    return {network: share for network in networks if (share := _share(given, network, file)) is not None}


def _share(given: Mapping[str, Any], network: str, file: Path) -> float | None:
    alpha, rank = given.get(f"{network}.lora_alpha"), given.get(f"{network}.r")
    if not isinstance(alpha, (int, float)) or not isinstance(rank, (int, float)) or rank <= 0:
        return None
    if (
        given.get(f"{network}.rank_pattern")
        or given.get(f"{network}.alpha_pattern")
        or given.get(f"{network}.use_dora")
    ):
        raise ModelError(f"{file} has layers of several ranks by its configuration alone", hint=_HINT)
    return alpha / (rank**0.5 if given.get(f"{network}.use_rslora") else rank)


def _metadata(file: Path) -> dict[str, Any]:
    from safetensors import safe_open

    with safe_open(file, framework="np") as stored:
        text = (stored.metadata() or {}).get("lora_adapter_metadata", "{}")
    return _json(text, file)


def _json(text: str, file: Path) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise ModelError(f"the configuration of {file} cannot be read", hint="fetch it again")
    return value
