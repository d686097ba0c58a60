"""Rows of one call in several threads on a CPU: each works through its own rows with kernels of few threads.

A small network's kernels are too short to be cut among cores: the threads of one kernel spend their time waiting for
each other. Measured on two cores with the embedded model at 256 px, in BENCHMARKS.md.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from ip2pbatch.backends.pytorch.steps.staged import Stage

_BEGINNING = 60.0  # seconds that a thread may take to begin, on a machine that is very busy


class RowWorkers:
    """Threads that share out the rows of a call. Made on first use; `torch.get_num_threads()` is what they share."""

    def __init__(self) -> None:
        self._pools: dict[int, ThreadPoolExecutor] = {}

    def around(self, stage: Stage) -> Stage:
        """`stage` over equal parts of its rows at once; alone, with all threads, where the rows cannot be cut evenly.

        The parts are equal, so that a row's place in the call does not change the shape it is computed in.
        """

        def spread(*tensors: Tensor) -> tuple[Tensor, ...]:
            count = parts_of(len(tensors[0]), torch.get_num_threads())
            if count == 1:
                return stage(*tensors)
            pieces = zip(*(tensor.chunk(count) for tensor in tensors), strict=True)
            results = list(self._pool(count).map(lambda piece: _inferring(stage, piece), pieces))
            return tuple(torch.cat(parts) for parts in zip(*results, strict=True))

        return spread

    def _pool(self, count: int) -> ThreadPoolExecutor:
        """`count` threads of an equal share of torch's threads each; the calling thread keeps what it had."""
        if count not in self._pools:
            threads = torch.get_num_threads()
            pool = ThreadPoolExecutor(
                count, thread_name_prefix="rows", initializer=_take_share, initargs=(threads // count,)
            )
            together = threading.Barrier(count)
            list(pool.map(lambda _: together.wait(_BEGINNING), range(count)))  # each has begun, and set its share
            torch.set_num_threads(threads)  # it is also the default of threads that other code begins
            self._pools[count] = pool
        return self._pools[count]


def parts_of(rows: int, threads: int) -> int:
    """Into how many equal parts `rows` are cut for `threads`: the most that both allow."""
    return max(count for count in range(1, max(1, min(rows, threads)) + 1) if rows % count == 0)


def _take_share(threads: int) -> None:
    """Have the calling thread's kernels use `threads` threads from now on."""
    torch.set_num_threads(threads)
    torch.get_num_threads()  # a thread's first look at the number takes the default of that moment, for good


def _inferring(stage: Stage, piece: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    with torch.inference_mode():  # a thread's own
        return stage(*piece)
