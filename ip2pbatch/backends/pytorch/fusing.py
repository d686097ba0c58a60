"""LoRAs added to a loaded network's weights, W + scale · alpha / rank · up · down, so that it runs as any other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ip2pbatch.backends.lora_file import Change, LoraFile, by_layer, parts_of, refuse_unfit


@torch.no_grad()
def fuse(networks: Mapping[str, Any], lora: LoraFile, scale: float) -> None:
    """Add a LoRA to a model's networks, by their components' names, in float32. ModelError, and nothing is changed,
    where it is made for another architecture.
    """
    from safetensors import safe_open

    layers = {name: _layers(name, networks[name]) for name in lora.changes}
    refuse_unfit(lora, {name: {key: tuple(one.weight.shape) for key, one in of.items()} for name, of in layers.items()})
    with safe_open(lora.path, framework="pt") as stored:
        for network, changes in lora.changes.items():
            for name, change in changes.items():
                parts = [layers[network][part].weight for part in parts_of(name, layers[network])]
                delta = _delta(stored, change, lora.alphas.get(network))
                for weight, rows in zip(parts, delta.split([len(part) for part in parts]), strict=True):
                    _add(weight, rows, scale)


def _layers(name: str, network: nn.Module) -> dict[str, Any]:
    """The layers that a LoRA can change, by the names that it has for them."""
    kinds = (nn.Linear, nn.Conv2d)
    config: Any = network.config if name == "unet" else {}
    return by_layer(name, {key: one for key, one in network.named_modules() if isinstance(one, kinds)}, config)


def _delta(stored: Any, change: Change, share: float | None) -> Tensor:
    down, up = stored.get_tensor(change.down).float(), stored.get_tensor(change.up).float()
    delta: Tensor = up.flatten(1) @ down.flatten(1)
    if change.alpha:
        share = float(stored.get_tensor(change.alpha)) / down.shape[0]
    return delta if share is None else delta * share


def _add(weight: Any, delta: Tensor, scale: float) -> None:
    full = weight.data.float() + scale * delta.reshape(weight.shape).to(weight.device)
    weight.data = full.to(weight.dtype)
