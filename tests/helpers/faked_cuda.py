"""A GPU on a machine that has none: torch answers as with one card, and what is sent there stays on the host.

    with faked_cuda(gibibytes=80) as card: pytorch.load(folder, "cuda", "fp16") ...
    with faked_accelerator("mps") as card: pytorch.load(folder, "mps", "fp32") ...

Only what lies below torch's Python is replaced, so that the package's own branches for a GPU and torch's checks of
what they ask are run. Streams, events and graphs note what they are asked, and a graph replays its stage.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map

from ip2pbatch.backends.pytorch.steps import fused

NAME = "Faked GPU 80GB"


@dataclass
class Card:
    """What the card was asked. `share` is of its memory; `recording` is whether a stage is being recorded."""

    gibibytes: float
    share: float = 1.0
    asked: list[str] = field(default_factory=list)
    pinned: int = 0
    recording: bool = False
    kind: str = "cuda"

    def note(self, what: str) -> None:
        self.asked.append(what)


class _OnHost(TorchFunctionMode):
    """Whatever names a device of the card's kind is carried out on the CPU."""

    def __init__(self, card: Card) -> None:
        super().__init__()
        self._card = card

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.device:
            return function(*args, **(kwargs or {}))
        if function is Tensor.pin_memory:
            self._card.pinned += 1
            return args[0]
        args, kwargs = tree_map(self._host, (args, kwargs or {}))
        return function(*args, **kwargs)

    def _host(self, value: Any) -> Any:
        if isinstance(value, torch.device) and value.type == self._card.kind:
            return torch.device("cpu")
        return "cpu" if isinstance(value, str) and value.partition(":")[0] == self._card.kind else value


class _Tape(TorchDispatchMode):
    """Every kernel that is asked for while it is entered, to be carried out again on the same memory."""

    def __init__(self) -> None:
        super().__init__()
        self._kernels: list[tuple[Any, Any, Any, list[Tensor]]] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        self._kernels.append((function, args, kwargs or {}, _tensors(made)))
        return made

    def play(self) -> None:
        for function, args, kwargs, before in self._kernels:
            given = {one.untyped_storage().data_ptr() for one in _tensors((args, kwargs))}
            for own, again in zip(before, _tensors(function(*args, **kwargs)), strict=True):
                if own.untyped_storage().data_ptr() not in given:
                    own.copy_(again)


def _tensors(value: Any) -> list[Tensor]:
    return [one for one in tree_iter(value) if isinstance(one, Tensor)]


@contextlib.contextmanager
def faked_cuda(gibibytes: float = 80, count: int = 1, *, triton: bool = False) -> Iterator[Card]:
    """`count` cards of this memory for the duration; tensors on them lie on the host, where Triton's kernels cannot
    reach them unless its interpreter runs them.
    """
    card = Card(gibibytes)

    def properties(_: int) -> SimpleNamespace:
        memory = int(card.gibibytes * 2**30)
        return SimpleNamespace(total_memory=memory, name=NAME, major=9, minor=0, multi_processor_count=132)

    class Event:
        def __init__(self, **_: object) -> None:
            self.at = 0

        def record(self, *_: object) -> None:
            card.note("event")
            self.at = len(card.asked)

        def synchronize(self) -> None:
            card.note("wait for event")

        def elapsed_time(self, other: Any) -> float:
            return float(other.at - self.at)

    class Device:
        def __init__(self, index: object) -> None: ...

        def __enter__(self) -> None: ...

        def __exit__(self, *_: object) -> None: ...

    class Stream:
        def __init__(self, *_: object, **__: object) -> None:
            card.note("new stream")

        def wait_stream(self, _: object) -> None: ...

        def synchronize(self) -> None: ...

    class CUDAGraph:
        def capture_begin(self, pool: object = None, capture_error_mode: str = "global") -> None:
            assert not card.recording
            card.note(f"record {capture_error_mode}")
            card.recording, self.tape = True, _Tape()
            self.tape.__enter__()

        def capture_end(self) -> None:
            assert card.recording
            card.recording = False
            self.tape.__exit__(None, None, None)

        def replay(self) -> None:
            card.note("replay")
            self.tape.play()

    @contextlib.contextmanager
    def stream(_: object) -> Iterator[None]:
        yield

    with pytest.MonkeyPatch.context() as patch, _OnHost(card):
        low = {
            "_cuda_getDeviceCount": lambda: count, "_cuda_getMemoryFraction": lambda index: card.share,
            "_cuda_getDevice": lambda: 0, "_cuda_synchronize": lambda: card.note("synchronize"),
            "_accelerator_getAccelerator": lambda: torch.device("cuda"),
        }  # fmt: skip
        for name, answer in low.items():
            patch.setattr(torch._C, name, answer, raising=False)
        patch.setattr(torch.cuda, "_initialized", True)
        if not triton:
            patch.setattr(fused, "is_installed", lambda library: False)
        patch.setattr(torch.cuda, "_get_device_properties", properties, raising=False)
        patch.setattr(torch.cuda, "_cached_device_count", None)
        patch.setattr(torch.cuda, "_device_count_nvml", lambda: count)
        patch.setattr(torch.cuda, "device", Device)
        patch.setattr(torch.cuda, "empty_cache", lambda: card.note("empty cache"))
        patch.setattr(torch.cuda, "current_stream", lambda *_: Stream())
        patch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, len(card.asked)))
        for name, kind in {"Event": Event, "Stream": Stream, "CUDAGraph": CUDAGraph, "stream": stream}.items():
            patch.setattr(torch.cuda, name, kind)
        yield card


@contextlib.contextmanager
def faked_accelerator(kind: str, gibibytes: float = 16, count: int = 1) -> Iterator[Card]:
    """Cards of a kind that we have none of, for the duration: mps, xpu, or rocm, which torch calls cuda."""
    if kind == "rocm":
        with faked_cuda(gibibytes, count) as card, pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.version, "hip", "7.1")
            yield card
        return
    card = Card(gibibytes, kind=kind)
    memory, taken = int(gibibytes * 2**30), 2**30
    answers: dict[str, Any] = {
        "is_available": lambda: True, "device_count": lambda: count, "empty_cache": lambda: card.note("empty cache"),
        "synchronize": lambda *_: card.note("synchronize"),
    }  # fmt: skip
    if kind == "mps":
        answers |= {"recommended_max_memory": lambda: memory, "driver_allocated_memory": lambda: taken}
    else:
        answers |= {
            "get_device_properties": lambda _: SimpleNamespace(total_memory=memory), "get_device_name": lambda _: NAME,
            "mem_get_info": lambda _: (memory - taken, memory), "is_bf16_supported": lambda **_: True,
        }  # fmt: skip
    with pytest.MonkeyPatch.context() as patch, _OnHost(card):
        patch.setattr(torch._C, "_accelerator_getAccelerator", lambda: torch.device(kind))
        for name, answer in answers.items():
            patch.setattr(torch.get_device_module(kind), name, answer)
        yield card
