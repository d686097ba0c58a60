"""Which attention kernel a GPU is asked for first: cuDNN's, which is the fastest on Hopper for these head sizes."""

from __future__ import annotations

from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from ip2pbatch.backends.pytorch.steps.staged import Stage

ORDER = (
    SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH,
)  # fmt: skip


def cudnn_first(stage: Stage) -> Stage:
    """`stage` with the kernels in ORDER, each where it takes the shape; torch's own order is back afterwards."""

    def ordered(*tensors: Tensor) -> tuple[Tensor, ...]:
        with sdpa_kernel(list(ORDER), set_priority=True):
            return stage(*tensors)

    return ordered
