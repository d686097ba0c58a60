"""The devices of torch: what each kind is called, what it can and what it holds. Whatever asks a device asks here.

A build of torch knows one kind of accelerator beside the CPU (`torch.accelerator`): cuda, which is what ROCm's build
calls its GPUs too, Apple's mps or Intel's xpu. Of these only NVIDIA's was run by us. The others have the numbers that
they were built for and none of the ways of their own in which NVIDIA's is made faster: graphs, kernels, streams.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from ip2pbatch.errors import MissingError

Device = torch.device | str

ATTENTION = (
    SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH,
)  # fmt: skip
"""Attention kernels in the order in which NVIDIA's GPUs are asked for them: cuDNN's is the fastest on Hopper."""

_COUNTED = ("cuda", "xpu")  # kinds whose memory torch counts
_CALLED = {"cpu": "CPU", "cuda": "CUDA", "mps": "MPS", "xpu": "XPU"}

# How torch and the libraries below it say that there is no room, where that is no OutOfMemoryError: the host's
# allocator, the driver, cuBLAS and cuDNN, which find no kernel where none of their workspaces fits; Metal; Level Zero.
_FULL = (
    "DefaultCPUAllocator", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED", "unable to find an engine to execute this computation",
    "Unable to find a valid cuDNN algorithm", "HIP error: out of memory", "HIPBLAS_STATUS_ALLOC_FAILED",
    "MPS backend out of memory", "OUT_OF_DEVICE_MEMORY", "OUT_OF_HOST_MEMORY", "OUT_OF_RESOURCES",
)  # fmt: skip


def kind_of(device: Device) -> str:
    """cpu, cuda, mps or xpu."""
    return str(device).partition(":")[0]


def on_host(device: Device) -> bool:
    """Whether it is the CPU, whose memory is the host's."""
    return kind_of(device) == "cpu"


def is_nvidia(device: Device) -> bool:
    """Whether it is a GPU by NVIDIA: what is made faster in ways of its own, and the one kind that was run by us."""
    return kind_of(device) == "cuda" and torch.version.hip is None


def called(device: Device) -> str:
    """The kind as people say it: CPU, CUDA, ROCm, MPS, XPU."""
    kind = kind_of(device)
    return "ROCm" if kind == "cuda" and torch.version.hip else _CALLED[kind]


def toolkit() -> str | None:
    """The version of CUDA or ROCm that torch was built for, None where for neither."""
    return torch.version.cuda or torch.version.hip


def untried(device: Device) -> str:
    """What is said of a kind that was not run by us; "" of the CPU and of NVIDIA's GPUs."""
    return "" if on_host(device) or is_nvidia(device) else f"{called(device)} was not run by us yet"


def available() -> tuple[str, ...]:
    """Every accelerator of this machine by torch's name; none where there is only the CPU."""
    found = torch.accelerator.current_accelerator(check_available=True)
    if found is None:
        return ()
    count = torch.accelerator.device_count()
    return tuple(f"{found.type}:{index}" for index in range(count)) if found.type != "mps" else ("mps",)


def default() -> str:
    """The device that is used where none is named: the first accelerator, else the CPU."""
    return kind_of(next(iter(available()), "cpu"))


def known(name: str) -> torch.device:
    """The device of this name, numbered where its kind is: questions after its memory want that. Raises MissingError
    where there is none here.
    """
    kind, _, index = name.partition(":")
    if kind not in _CALLED or (index and not index.isdecimal()):
        raise MissingError(f"{name} is not a device", hint="use cpu, cuda, cuda:1, mps or xpu")
    if kind == "cpu":
        return torch.device("cpu")
    of_kind = [one for one in available() if kind_of(one) == kind]
    if int(index or 0) >= len(of_kind):
        raise MissingError(f"there is no device {name} here ({len(of_kind)} found)", hint="`ip2pbatch doctor` says why")
    return torch.device(kind, int(index or 0))


def name_of(device: Device) -> str:
    """An accelerator as its maker calls it; cpu for the CPU."""
    kind = kind_of(device)
    if kind == "mps":
        return "Apple's GPU (Metal)"
    return str(_module(kind).get_device_name(device)) if kind in ("cuda", "xpu") else kind


def memory_of(device: Device) -> int:
    """The bytes of an accelerator that this process may take: all of it, or the share that the process was given."""
    kind = kind_of(device)
    if kind == "mps":
        return int(torch.mps.recommended_max_memory())
    whole = int(_module(kind).get_device_properties(device).total_memory)
    return int(whole * torch.cuda.get_per_process_memory_fraction(device)) if kind == "cuda" else whole


def free_memory(device: Device) -> int:
    """The bytes of an accelerator that nobody holds now."""
    if kind_of(device) == "mps":
        return int(torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    free, _ = _module(kind_of(device)).mem_get_info(device)
    return int(free)


def most_held() -> int:
    """The most bytes of the default accelerator that tensors of this process had at once, since `forget_most`; 0 where
    that is not counted.
    """
    return int(_module(default()).max_memory_allocated()) if default() in _COUNTED else 0


def most_taken() -> int:
    """The same of what torch took for them, which is what others cannot have."""
    return int(_module(default()).max_memory_reserved()) if default() in _COUNTED else 0


def forget_most() -> None:
    """Count `most_held` from here."""
    if default() in _COUNTED:
        _module(default()).reset_peak_memory_stats()


def take_at_most(taken: float, device: Device) -> None:
    """Have more than `taken` bytes of an accelerator be out of memory for this process, as on a smaller one."""
    _module(kind_of(device)).set_per_process_memory_fraction(min(1.0, taken / memory_of(device)))


def random_state() -> torch.Tensor | None:
    """Where the default accelerator's own generator of random numbers stands; None where there is only the CPU's."""
    return None if default() == "cpu" else _module(default()).get_rng_state()


def take_random_state(state: torch.Tensor | None) -> None:
    """Put that generator where it stood, where there is one."""
    if state is not None and default() != "cpu":
        _module(default()).set_rng_state(state)


def let_go() -> None:
    """Give back what torch keeps of the default accelerator's memory for its next tensors."""
    if default() != "cpu":
        _module(default()).empty_cache()


def is_full(error: RuntimeError) -> bool:
    """Whether it says that memory ran out, an accelerator's or the host's."""
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in _FULL)


def has_bf16(device: Device) -> bool:
    """Whether an accelerator has bf16 in hardware; of a CPU `engine/precision.py` knows."""
    kind = kind_of(device)
    if kind == "mps":
        return bool(torch.backends.mps.is_macos_or_newer(14, 0))
    return kind == "cuda" or (kind == "xpu" and bool(torch.xpu.is_bf16_supported(including_emulation=False)))


def pin_bits() -> None:
    """Have every operation of this process give the same bits again; one that cannot becomes an error."""
    # cuBLAS adds in an order of its own otherwise, and torch refuses to call it. This is read at its first use.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False


def round_to_tf32(allowed: bool) -> None:
    """Whether a GPU may round to ten bits what convolutions in float32 are given, which torch lets NVIDIA's unasked."""
    torch.backends.cudnn.allow_tf32 = allowed


def attention_of(device: Device) -> AbstractContextManager[Any]:
    """The attention kernels of a device, the fastest that takes a shape first; torch's own order where we know none."""
    return sdpa_kernel(list(ATTENTION), set_priority=True) if is_nvidia(device) else nullcontext()


@contextmanager
def beside(device: Device) -> Iterator[None]:
    """A stream of its own for what is asked on one of NVIDIA's GPUs: it waits for no other work there."""
    if not is_nvidia(device):
        yield
        return
    with torch.cuda.stream(torch.cuda.Stream(device)):
        yield


def event(*, timed: bool = False) -> Any:
    """A mark among what one of NVIDIA's GPUs is asked for, to be waited for or timed."""
    return torch.cuda.Event(enable_timing=timed)


def card(device: Device) -> Any:
    """What the driver says of one of NVIDIA's GPUs."""
    return torch.cuda.get_device_properties(device)


@contextmanager
def whole_float32() -> Iterator[None]:
    """Convolutions in float32 as they are written, and not rounded to ten bits, for a while."""
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield


def finish(device: Device) -> None:
    """Wait until a device has done all that it was asked for."""
    kind = kind_of(device)
    if kind != "cpu":
        _module(kind).synchronize(*(() if kind == "mps" else (device,)))


def _module(kind: str) -> Any:
    return torch.get_device_module(kind)
