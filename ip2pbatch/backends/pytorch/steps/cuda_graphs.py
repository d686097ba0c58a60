"""CUDA graphs: a stage is recorded once for each shape, and after that one launch replays its hundreds of kernels.

At few rows a call the GPU waits for Python; a replay does not. A bucket has one shape, so a run records once or twice.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress

import torch
from torch import Tensor

from ip2pbatch.backends.pytorch.steps.staged import Stage
from ip2pbatch.backends.recent import Recent

Replay = Callable[[], tuple[Tensor, ...]]
Record = Callable[[Stage, Sequence[Tensor]], Replay]

log = logging.getLogger("ip2pbatch.backends")

_SHAPES = 16  # recordings: of four picture sizes two stages of the UNet, and the autoencoder's two ways
_WARM_UP = 3  # runs before a recording, as PyTorch's notes on CUDA graphs ask, so that libraries choose their kernels


class CannotRecord(Exception):  # noqa: N818 (a condition that Graphs answers)
    """The stage runs, but it cannot be recorded, or there is no memory for that."""


class Recorder:
    """Records stages (PyTorch, "CUDA semantics": whole-network capture) on one side stream, into one pool of memory.

    The pool can be shared because recordings are replayed one after another, and what one leaves there is copied out
    before the next. torch.cuda.graph does the same, but where a stage raises, its `capture_end` raises in turn, which
    hides the reason and leaves the side stream the current one.
    """

    def __init__(self) -> None:
        self._stream, self._pool = torch.cuda.Stream(), torch.cuda.graph_pool_handle()

    def __call__(self, stage: Stage, inputs: Sequence[Tensor]) -> Replay:
        """Warm up, then capture; raises CannotRecord. Other threads may use the device meanwhile."""
        graph = torch.cuda.CUDAGraph()
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            for _ in range(_WARM_UP):
                stage(*inputs)
            torch.cuda.synchronize()
            torch.cuda.empty_cache()  # what the warm-up took is to be had for the recording
            outputs = self._capture(graph, stage, inputs)
        torch.cuda.current_stream().wait_stream(self._stream)

        def replay() -> tuple[Tensor, ...]:
            graph.replay()
            return outputs

        return replay

    def _capture(self, graph: torch.cuda.CUDAGraph, stage: Stage, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
        try:
            outputs = stage(*inputs)
        except RuntimeError as error:
            with suppress(RuntimeError):  # it says that the recording is void
                graph.capture_end()
            raise CannotRecord(str(error).partition("\n")[0]) from error
        try:
            graph.capture_end()
        except RuntimeError as error:
            raise CannotRecord(str(error).partition("\n")[0]) from error
        return outputs


class Graphs:
    """Stages as recordings by shape. `recorder` makes another one in tests, where there is no GPU."""

    def __init__(self, recorder: Callable[[], Record] = Recorder) -> None:
        self._recorder = recorder
        self._record: Record | None = None
        self._replays: Recent[tuple[Sequence[Tensor], Replay | None]] = Recent(_SHAPES)

    def clear(self) -> None:
        """Let go of every recording and of its memory."""
        self._replays.clear()
        self._record = None

    def around(self, stage: Stage) -> Stage:
        """`stage` replayed for the shapes it was asked for last; outputs are the caller's own."""

        def replayed(*tensors: Tensor) -> tuple[Tensor, ...]:
            key = (stage, *((tensor.shape, tensor.dtype) for tensor in tensors))
            inputs, replay = self._replays.get(key, lambda: self._recorded(stage, tensors))
            if replay is None:
                return stage(*tensors)
            for own, given in zip(inputs, tensors, strict=True):
                own.copy_(given)
            return tuple(output.clone() for output in replay())

        return replayed

    def _recorded(self, stage: Stage, tensors: Sequence[Tensor]) -> tuple[Sequence[Tensor], Replay | None]:
        """A recording with inputs of its own, or none where that fails: then the stage runs kernel by kernel."""
        self._record = self._record or self._recorder()
        try:
            inputs = [tensor.clone() for tensor in tensors]
            return inputs, self._record(stage, inputs)
        except CannotRecord as error:
            log.warning("a stage of the network is not recorded, and runs kernel by kernel: %s", error)
            return (), None
