"""LoRAs added to a loaded network's weights, W + scale · alpha / rank · up · down, so that it runs as any other."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ip2pbatch.backends.lora_file import Change, LoraFile
from ip2pbatch.backends.single_file import ldm_names
from ip2pbatch.errors import ModelError


@torch.no_grad()
def fuse(networks: dict[str, Any], lora: LoraFile, scale: float) -> None:
    """Add a LoRA to the networks `unet` and `text_encoder`, in float32. ModelError, and nothing is changed, where it is
    made for another architecture.
    """
    from safetensors import safe_open

    layers = {name: _layers(name, network) for name, network in networks.items()}
    with safe_open(lora.path, framework="pt") as stored:
        found = [
            (layers[network].get(layer), network, layer, change)
            for network, changes in lora.changes.items() for layer, change in changes.items()
        ]  # fmt: skip
        for layer, network, name, change in found:
            _refuse(lora, layer, network, name, stored.get_slice(change.down), stored.get_slice(change.up))
        for layer, network, _, change in found:
            assert layer is not None
            _add(layer.weight, _delta(stored, change, lora.alphas.get(network)), scale)


def _layers(name: str, network: nn.Module) -> dict[str, nn.Module]:
    """The layers that a LoRA can change, by names parted with `_`: in diffusers' words, and the original layout's."""
    kinds = (nn.Linear, nn.Conv2d)
    found: dict[str, nn.Module] = {key: layer for key, layer in network.named_modules() if isinstance(layer, kinds)}
    named = {key.removeprefix("text_model.").replace(".", "_"): layer for key, layer in found.items()}
    if name != "unet":
        return named
    config: Any = network.config
    attends = tuple("CrossAttn" in str(kind) for kind in config.down_block_types)
    modules = ldm_names.unet_modules(ldm_names.Blocks(_one(config.layers_per_block), attends))
    for key, layer in found.items():
        if original := ldm_names.translated(f"{key}.weight", modules):
            named.setdefault(original.removesuffix(".weight").replace(".", "_"), layer)
    return named


def _one(layers: Any) -> int:
    return int(layers if isinstance(layers, int) else max(layers))


def _refuse(lora: LoraFile, layer: nn.Module | None, network: str, name: str, down: Any, up: Any) -> None:
    called = network.replace("_", " ")
    if layer is None:
        what = f"this model's {called} has no layer {name}"
    else:
        weight: Any = layer.weight
        into, out = down.get_shape(), up.get_shape()
        same_kernel = list(into[2:]) in ([], list(weight.shape[2:]))
        if into[1] == weight.shape[1] and out[0] == weight.shape[0] and out[1] == into[0] and same_kernel:
            return
        what = f"{name} of this model's {called} is {list(weight.shape)}, and it changes {out[0]} × {into[1]}"
    raise ModelError(
        f"{lora.path} is made for another architecture: {what}", hint="use a LoRA for the model that it is laid over"
    )


def _delta(stored: Any, change: Change, share: float | None) -> Tensor:
    down, up = stored.get_tensor(change.down).float(), stored.get_tensor(change.up).float()
    delta: Tensor = up.flatten(1) @ down.flatten(1)
    if change.alpha:
        share = float(stored.get_tensor(change.alpha)) / down.shape[0]
    return delta if share is None else delta * share


def _add(weight: Any, delta: Tensor, scale: float) -> None:
    full = weight.data.float() + scale * delta.reshape(weight.shape).to(weight.device)
    weight.data = full.to(weight.dtype)
