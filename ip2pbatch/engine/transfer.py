"""Tensors between the host and a device, without one waiting for the other longer than it must.

A plain copy to or from a GPU waits until it has done all that it was asked for; one by way of pinned memory takes its
turn among the GPU's work.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from ip2pbatch.backends.pytorch.accelerators import event, is_nvidia


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """A host's tensor on `device`."""
    return tensor.pin_memory().to(device, non_blocking=True) if is_nvidia(device) else tensor.to(device)


def fetch(tensors: Sequence[Tensor]) -> Callable[[], list[NDArray[Any]]]:
    """Ask for tensors of one device; what comes back waits for them, and for nothing that is asked for after this."""
    if not is_nvidia(tensors[0].device):
        return lambda: [tensor.cpu().numpy() for tensor in tensors]
    held = [torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True) for tensor in tensors]
    for own, tensor in zip(held, tensors, strict=True):
        own.copy_(tensor, non_blocking=True)
    there = event()
    there.record()

    def wait() -> list[NDArray[Any]]:
        there.synchronize()
        return [own.numpy().copy() for own in held]  # pinned memory is scarce, and pictures wait for the disk

    return wait
