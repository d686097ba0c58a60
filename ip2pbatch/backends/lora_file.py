"""A LoRA's file: which layers it changes and by what, whichever of the common names its tensors have.

diffusers and peft write `unet.….to_q.lora_A.weight`, older diffusers `….processor.to_q_lora.down.weight`, kohya's
scripts `lora_unet_…_to_q.lora_down.weight` beside an alpha. Only the header is read here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ip2pbatch.backends.single_file.ldm_file import read_shapes
from ip2pbatch.errors import ModelError

Network = Literal["unet", "text_encoder"]
NAME = "pytorch_lora_weights.safetensors"
_PEFT = ("adapter_model.safetensors", "adapter_config.json")

_NETWORKS: tuple[tuple[str, Network], ...] = (
    ("base_model.model.unet.", "unet"), ("base_model.model.text_encoder.", "text_encoder"),
    ("base_model.model.text_model.", "text_encoder"), ("base_model.model.", "unet"),
    ("unet.", "unet"), ("lora_unet_", "unet"), ("text_encoder.", "text_encoder"), ("lora_te_", "text_encoder"),
    ("lora_te1_", "text_encoder"), ("down_blocks.", "unet"), ("mid_block.", "unet"), ("up_blocks.", "unet"),
)  # fmt: skip
_HALVES = (
    (re.compile(r"[._]lora(?:_linear_layer)?\.(?:[\w-]+\.)?(down|up)\.weight$"), None),
    (re.compile(r"\.lora_(down|up)\.weight$"), None),
    (re.compile(r"\.lora_([AB])(?:\.[\w-]+)?\.weight$"), {"A": "down", "B": "up"}),
    (re.compile(r"\.(alpha)$"), None),
)
_OTHERS = (
    ("lora_te2_", "is for an SDXL model"), ("text_encoder_2.", "is for an SDXL model"),
    ("transformer.", "is for an editor with a diffusion transformer"), ("double_blocks", "is for a FLUX model"),
    ("hada_", "is a LoHa, not a LoRA"), ("lokr_", "is a LoKr, not a LoRA"), ("dora_scale", "is a DoRA, not a LoRA"),
    ("lora_mid", "is a LoRA of three factors, which is not added here"), ("oft_", "is an OFT, not a LoRA"),
    ("lora_magnitude_vector", "is a DoRA, not a LoRA"),
)  # fmt: skip
_HINT = "use a LoRA for Stable Diffusion 1.5, by diffusers, peft or kohya's scripts"


@dataclass(slots=True)
class Change:
    """The names of the tensors that change one layer; `alpha` is a tensor's name, where the file has one."""

    down: str = ""
    up: str = ""
    alpha: str = ""


@dataclass(frozen=True, slots=True)
class LoraFile:
    """A checked file: the changes of each network by their layers' names, parted by `_` alone. `alphas` is what is said
    beside the tensors: alpha over rank of a network's layers that have no alpha of their own.
    """

    path: Path
    changes: Mapping[Network, Mapping[str, Change]]
    alphas: Mapping[Network, float] = field(default_factory=dict)


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


def check(file: Path) -> LoraFile:
    """What `file` changes. ModelError with the reason where it is no LoRA for such models, or damaged."""
    if file.suffix.lower() != ".safetensors":
        raise ModelError(f"{file} may be a pickle, which is never loaded", hint=_HINT)
    shapes = read_shapes(file)
    for key in shapes:
        for piece, what in _OTHERS:
            if piece in key:
                raise ModelError(f"{file} {what} ({key})", hint=_HINT)
    changes: dict[Network, dict[str, Change]] = {"unet": {}, "text_encoder": {}}
    for key in shapes:
        network, layer, half = _parsed(key, file)
        setattr(changes[network].setdefault(layer, Change()), half, key)
    partial = [layer for found in changes.values() for layer, one in found.items() if not (one.down and one.up)]
    if partial or not shapes:
        raise ModelError(f"{file} is no whole LoRA: {(partial or ['everything'])[0]} is missing", hint=_HINT)
    return LoraFile(file, changes, _alphas(file))


def _parsed(key: str, file: Path) -> tuple[Network, str, str]:
    for pattern, called in _HALVES:
        if found := pattern.search(key):
            half = called[found[1]] if called else found[1]
            for prefix, network in _NETWORKS:
                if key.startswith(prefix):
                    kept = 0 if prefix.endswith(("blocks.", "block.")) else len(prefix)
                    return network, _layer(key[kept : found.start()]), half
    raise ModelError(f"{file} is no LoRA for a Stable Diffusion 1 model: it holds {key}", hint=_HINT)


def _layer(name: str) -> str:
    name = name.replace(".processor.", ".").replace(".", "_").removeprefix("text_model_")
    return f"{name}_0" if name.endswith("to_out") else name


def _alphas(file: Path) -> dict[Network, float]:
    """What peft keeps beside a LoRA: its configuration as metadata, or in a file."""
    config = file.with_name(_PEFT[1])
    given = _metadata(file)
    if not given and file.name == _PEFT[0] and config.is_file():
        found = _json(config.read_text("utf-8"), file)
        given = {f"{network}.{key}": value for network in ("unet", "text_encoder") for key, value in found.items()}
    networks: tuple[Network, Network] = ("unet", "text_encoder")
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
