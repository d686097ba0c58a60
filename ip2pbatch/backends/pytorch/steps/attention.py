"""Which attention kernel a GPU is asked for first: cuDNN's, which is the fastest on Hopper for these head sizes."""

from __future__ import annotations

from torch import Tensor

from ip2pbatch.backends.pytorch import accelerators
from ip2pbatch.backends.pytorch.steps.staged import Stage


def cudnn_first(stage: Stage) -> Stage:
    """`stage` with its device's kernels, the fastest that takes a shape first; torch's own order is back afterwards."""

    def ordered(*tensors: Tensor) -> tuple[Tensor, ...]:
        with accelerators.attention_of(tensors[0].device):
            return stage(*tensors)

    return ordered
