"""Muon: momentum whose update is orthogonalised, matrix by matrix; for small networks it needs fewer steps than AdamW.

Keller Jordan's method (https://kellerjordan.github.io/posts/muon): the momentum of a weight matrix is replaced by the
nearest semi-orthogonal matrix, found by five Newton–Schulz steps. A convolution is the matrix [out, in · kh · kw].
Everything else stays with AdamW, in the same optimizer, so that one state is saved.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

QUINTIC = (3.4445, -4.7750, 2.0315)  # coefficients of the published iteration


def orthogonalise(update: Tensor, steps: int = 5) -> Tensor:
    """The nearest semi-orthogonal matrix, roughly: singular values end up between about 0.7 and 1.2.

    Every iterate is a polynomial of X·Xᵀ times X, so the iteration runs on the small square matrix alone and X is
    multiplied twice instead of ten times, which on a CPU makes the optimizer cheaper than the batch.
    """
    a, b, c = QUINTIC
    tall = update.shape[0] > update.shape[1]
    wide: Tensor = update.T if tall else update
    wide = wide / (wide.norm() + 1e-7)
    gram = wide @ wide.T
    eye = torch.eye(len(gram), device=gram.device)
    product = eye
    for step in range(steps):
        factor = a * eye + b * gram + c * (gram @ gram)
        product = factor @ product
        if step < steps - 1:
            gram = factor @ gram @ factor
    wide = product @ wide
    return wide.T if tall else wide


class Muon(torch.optim.Optimizer):
    """Muon for the groups marked `muon`, AdamW for the others; every group has its own `lr`."""

    def __init__(self, groups: Iterable[dict[str, Any]], *, beta2: float = 0.99, weight_decay: float = 0.01) -> None:
        super().__init__(groups, {"lr": 1e-3, "momentum": 0.95, "beta2": beta2, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # the loop makes the gradients, no closure
        """One update of every group."""
        for group in self.param_groups:
            for weight in group["params"]:
                gradient: Tensor | None = weight.grad
                if gradient is None:
                    continue
                move = self._muon if group["muon"] else self._adam
                update = move(weight, gradient, group)
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.add_(update, alpha=-group["lr"])

    def _muon(self, weight: Tensor, gradient: Tensor, group: dict[str, Any]) -> Tensor:
        momentum: Tensor = self.state[weight].setdefault("momentum", torch.zeros_like(weight))
        momentum.lerp_(gradient, 1 - group["momentum"])
        ahead = torch.lerp(gradient, momentum, group["momentum"])
        # Columns may stand in any order: in this one the matrix of a channels-last convolution needs no copy.
        matrix = ahead.permute(0, 2, 3, 1).flatten(1)
        scale: float = max(1.0, matrix.shape[0] / matrix.shape[1]) ** 0.5
        out, ins, high, wide = weight.shape
        return orthogonalise(matrix).view(out, high, wide, ins).permute(0, 3, 1, 2) * scale

    def _adam(self, weight: Tensor, gradient: Tensor, group: dict[str, Any]) -> Tensor:
        state = self.state[weight]
        if "step" not in state:
            state.update(step=0, mean=torch.zeros_like(weight), square=torch.zeros_like(weight))
        state["step"] += 1
        state["mean"].lerp_(gradient, 0.1)
        state["square"].lerp_(gradient.square(), 1 - group["beta2"])
        mean = state["mean"] / (1 - 0.9 ** state["step"])
        square = state["square"] / (1 - group["beta2"] ** state["step"])
        update: Tensor = mean / (square.sqrt() + 1e-8)
        return update
