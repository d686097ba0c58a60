"""A network of a single file: diffusers' and transformers' own class, with the file's weights under its own names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ip2pbatch.backends.single_file.ldm_file import LdmWeights
from ip2pbatch.backends.single_file.ldm_names import is_convolved
from ip2pbatch.errors import ModelError

_TEXT = "text_model."  # transformers' module of a text encoder has this prefix in some versions


def load(single: LdmWeights, component: str, dtype: torch.dtype) -> nn.Module:
    """The network in `dtype`. ModelError where a weight is missing or of another shape."""
    # Copied: numbers that lie where the file has them are at odd addresses, where some kernels round otherwise.
    weights = {name: weight.to(dtype, copy=True) for name, weight in tensors(single, component)}
    return fitted(component, single.described.configs[component], weights, single.path)


def tensors(single: LdmWeights, component: str) -> Iterator[tuple[str, Tensor]]:
    """The weights of a network by their names in diffusers, as they are stored."""
    from safetensors import safe_open

    with safe_open(single.path, framework="pt") as stored:
        for name, key in single.described.names[component].items():
            yield name, linear(component, name, stored.get_tensor(key))


def linear(component: str, name: str, weight: Tensor) -> Tensor:
    """A weight as diffusers has it: an autoencoder's attention has no convolutions of 1 × 1 there."""
    return weight.flatten(1) if component == "vae" and is_convolved(name) else weight


def fitted(component: str, config: Mapping[str, Any], weights: Mapping[str, Tensor], file: Path) -> nn.Module:
    """The network with exactly these weights, by their names in diffusers, taken as they are. ModelError where one is
    missing, is one too many or of another shape.
    """
    module = unfilled(component, config)
    wanted = module.state_dict()
    named = {name if name in wanted else f"{_TEXT}{name}": weight for name, weight in weights.items()}
    wrong = [name for name in wanted if name not in named or named[name].shape != wanted[name].shape]
    wrong += [name for name in named if name not in wanted]
    if wrong:
        raise ModelError(
            f"{file} is no whole Stable Diffusion 1 model: {wrong[0]} of its {component.replace('_', ' ')} is missing, "
            "of another shape or one too many",
            hint="fetch it again, or use another one",
        )
    module.load_state_dict(named, assign=True)
    return module


def unfilled(component: str, config: Mapping[str, Any]) -> nn.Module:
    """A network without memory for its weights; what else it counts with is made. ModelError where there is none."""
    import diffusers
    import transformers
    from accelerate import init_empty_weights

    module: nn.Module
    try:
        with init_empty_weights(include_buffers=False):
            if component == "text_encoder":
                module = transformers.CLIPTextModel(transformers.CLIPTextConfig(**config))
            else:
                kind = {"unet": diffusers.UNet2DConditionModel, "vae": diffusers.AutoencoderKL}[component]
                module = kind.from_config(dict(config))
    except (ValueError, TypeError, ArithmeticError) as error:
        what = component.replace("_", " ")
        raise ModelError(f"no {what} can be made like this: {error}", hint="use another model") from error
    return module
