"""Linear layers on a CPU that give a row the same bits in every company: one product a row."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class RowwiseLinear(nn.Linear):
    """`nn.Linear` over x [n, ..., in] as n products.

    With several threads the CPU's float32 product cuts the rows of a small matrix among them and takes another kernel
    for the last few, so a row's last bits would tell its place in the call. Convolutions and attention do not do that.
    """

    def forward(self, x: Tensor) -> Tensor:
        """[n, ..., in] → [n, ..., out]."""
        if len(x) < 2 or x.dtype != torch.float32:
            return super().forward(x)
        return torch.cat([functional.linear(row, self.weight, self.bias) for row in x.split(1)])


def make_rowwise(network: nn.Module) -> None:
    """Have every `nn.Linear` of `network` work row by row, in place; its weights and their names stay."""
    for module in network.modules():
        if type(module) is nn.Linear:
            module.__class__ = RowwiseLinear
