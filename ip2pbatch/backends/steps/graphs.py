"""CUDA graphs: a stage is recorded once for each shape, and after that one launch replays its hundreds of kernels.

At few rows a call the GPU waits for Python; a replay does not. A bucket has one shape, so a run records once or twice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ip2pbatch.backends.recent import Recent
from ip2pbatch.backends.steps.staged import Stage

Replay = Callable[[], tuple[Tensor, ...]]
Record = Callable[[Stage, Sequence[Tensor]], Replay]

_SHAPES = 8  # recordings hold memory of their own; two stages of four picture sizes
_WARM_UP = 3  # runs before a recording, as PyTorch's notes on CUDA graphs ask, so that libraries choose their kernels


class Graphs:
    """Stages as recordings by shape. `record` is another one in tests, where there is no GPU."""

    def __init__(self, record: Record | None = None) -> None:
        self._record = record or _record
        self._replays: Recent[tuple[Sequence[Tensor], Replay]] = Recent(_SHAPES)

    def around(self, stage: Stage) -> Stage:
        """`stage` replayed for the shapes it was asked for last; outputs are the caller's own."""

        def replayed(*tensors: Tensor) -> tuple[Tensor, ...]:
            def record() -> tuple[Sequence[Tensor], Replay]:
                inputs = [tensor.clone() for tensor in tensors]
                return inputs, self._record(stage, inputs)

            key = (stage, *((tensor.shape, tensor.dtype) for tensor in tensors))
            inputs, replay = self._replays.get(key, record)
            for own, given in zip(inputs, tensors, strict=True):
                own.copy_(given)
            return tuple(output.clone() for output in replay())

        return replayed


def _record(stage: Stage, inputs: Sequence[Tensor]) -> Replay:
    """Warm up on a side stream, then capture (PyTorch, "CUDA semantics": whole-network capture)."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(_WARM_UP):
            stage(*inputs)
    torch.cuda.current_stream().wait_stream(stream)
    graph: Any = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = stage(*inputs)

    def replay() -> tuple[Tensor, ...]:
        graph.replay()
        return outputs

    return replay
