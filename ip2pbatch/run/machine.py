"""The flags that say on what and how fast. Light: every command's `--help` imports it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, TypeVar

from ip2pbatch.errors import UsageError


class Provider(StrEnum):
    """What onnxruntime runs on."""

    CPU = "cpu"
    CUDA = "cuda"
    TENSORRT = "tensorrt"


class Precision(StrEnum):
    """The number format of the networks."""

    AUTO = "auto"
    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"


class Determinism(StrEnum):
    """How far a picture is pinned: see README, "What comes back"."""

    FAST = "fast"
    STABLE = "stable"
    BITWISE = "bitwise"


class Compile(StrEnum):
    """Whether the network goes through torch.compile: auto does it where the job is large enough to pay for it."""

    AUTO = "auto"
    ON = "on"
    OFF = "off"


class On(StrEnum):
    """What shares a run among several machines."""

    RAY = "ray"


class Memory(StrEnum):
    """Where the parts of an editor lie that is no InstructPix2Pix: all of them on the GPU (full), one after the other
    (offload), or of each part one layer after the other (sequential).
    """

    AUTO = "auto"
    FULL = "full"
    OFFLOAD = "offload"
    SEQUENTIAL = "sequential"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that an edit depends on here, as `doctor` shows it: state is ok, note or problem."""

    topic: str
    value: str
    state: str = "ok"
    why: str = ""


@dataclass(frozen=True, slots=True)
class Machine:
    """The flags that say how fast and on what. Only `interval` asks for another picture: it is approximate, and named
    in the run's identity.

    `backend` is a name of jobs/backends.py; `batch` is the most Edits a call, or auto; `without` are speed-ups of the
    torch backend that are left out; `interval` is the part of the steps that is guided, as (start, end) of 0…1;
    `provider` is the onnx backend's. `devices` have a worker process each, where there are any: "all" is one a GPU.
    `on` a cluster there are at least and at most as many `workers`; None is as many as it has room for.
    """

    backend: str = "torch"
    device: str | None = None
    precision: Precision = Precision.AUTO
    determinism: Determinism = Determinism.STABLE
    batch: int | Literal["auto"] | None = None
    compile: Compile = Compile.AUTO
    without: tuple[str, ...] = ()
    interval: tuple[float, float] | None = None
    provider: Provider | None = None
    devices: tuple[str, ...] = ()
    memory: Memory = Memory.AUTO
    on: On | None = None
    workers: tuple[int, int] | None = None

    @classmethod
    def of(
        cls, *, backend: str = "torch", device: str | None = None, precision: str = "auto", determinism: str = "stable",
        batch: str | int | None = None, compile: str = "auto", without: Sequence[str] = (),
        guidance_interval: str | None = None, provider: str | None = None, devices: str | None = None,
        memory: str = "auto", on: str | None = None, workers: str | None = None,
    ) -> Machine:  # fmt: skip
        """What the flags of these names say, as texts. Raises UsageError."""
        refuse_apart(on, workers, devices, device)
        return cls(
            backend, device_of(device, backend), _named(Precision, precision), _named(Determinism, determinism),
            batch_of(None if batch is None else str(batch)), _named(Compile, compile), tuple(without),
            interval_of(guidance_interval), None if provider is None else _named(Provider, provider),
            devices_of(devices, device), _named(Memory, memory), None if on is None else _named(On, on),
            workers_of(workers),
        )  # fmt: skip

    @property
    def has_workers(self) -> bool:
        """Whether others than this process make the pictures."""
        return bool(self.devices) or self.on is not None

    @property
    def approximations(self) -> tuple[str, ...]:
        """The opt-in speed-ups that change pictures, as a run's identity and every file's metadata name them."""
        return (f"{_INTERVAL} {self.interval[0]:g}..{self.interval[1]:g}",) if self.interval else ()


_INTERVAL = "guidance-interval"


Choice = TypeVar("Choice", bound=StrEnum)


def _named(kind: type[Choice], text: str) -> Choice:
    try:
        return kind(text)
    except ValueError:
        known = ", ".join(kind)
        raise UsageError(f"{text} is no {kind.__name__.lower()}", hint=f"use one of {known}") from None


def batch_of(text: str | None) -> int | Literal["auto"] | None:
    """What `--batch` says. Raises UsageError."""
    if text is None or text == "auto":
        return "auto" if text else None
    if not text.isdecimal() or int(text) < 1:
        raise UsageError(f"--batch takes a number from 1 or auto, not {text}", hint="leave it out for auto")
    return int(text)


_ACCELERATORS = r"(cuda|xpu)(:\d{1,3})?|mps"  # of torch; ROCm's build calls its GPUs cuda
_DEVICES = {
    "openvino": (r"cpu|npu|gpu(:\d{1,3})?", "use cpu, gpu, gpu:1 or npu"),
    "onnx": (r"cpu|cuda(:\d{1,3})?", "use cpu, cuda or cuda:1"),
}
_TORCHS = (f"cpu|{_ACCELERATORS}", "use cpu, cuda or cuda:1 (NVIDIA, ROCm), mps (Apple) or xpu (Intel)")


def device_of(text: str | None, backend: str = "torch") -> str | None:
    """What `--device` says: torch's cpu, cuda, cuda:1, mps or xpu, OpenVINO's cpu, gpu, gpu:1 or npu; be it here or
    not. Raises UsageError.
    """
    known, hint = _DEVICES.get(backend, _TORCHS)
    if text is not None and not re.fullmatch(known, text):
        raise UsageError(f"{text or 'an empty name'} is not a device", hint=hint)
    return text


_MOST_WORKERS = 256


def devices_of(text: str | None, device: str | None = None) -> tuple[str, ...]:
    """What `--devices` says: all, or devices such as cuda:0,xpu:3 or cpu:4, which is the CPU four times. Raises
    UsageError, also beside `--device`.
    """
    if text is None:
        return ()
    if device is not None:
        raise UsageError("--device and --devices do not go together", hint="leave out --device")
    if text.strip() == "all":
        return ("all",)
    found: list[str] = []
    for part in (part.strip() for part in text.split(",")):
        count = re.fullmatch(r"cpu:([1-9]\d{0,2})", part)
        if count is None and not re.fullmatch(f"cpu|{_ACCELERATORS}", part):
            raise UsageError(f"{part or 'an empty name'} is not a device", hint="use all, cuda:0,cuda:1 or cpu:2")
        found += ["cpu"] * int(count[1]) if count else [f"{part}:0" if part in ("cuda", "xpu") else part]
    if len(found) > _MOST_WORKERS:
        raise UsageError(f"--devices asks for {len(found)} workers", hint=f"at most {_MOST_WORKERS} share a run")
    return tuple(found)


def workers_of(text: str | None) -> tuple[int, int] | None:
    """What `--workers` says: a number such as 8, or the least and the most, as 1..64. Raises UsageError."""
    if text is None:
        return None
    found = re.fullmatch(r"([1-9]\d{0,3})(?:\.\.([1-9]\d{0,3}))?", text)
    if found is None or int(found[2] or found[1]) < int(found[1]):
        raise UsageError(f"{text} is no number of workers", hint="write a number such as 8, or two as 1..64")
    least, most = int(found[1]), int(found[2] or found[1])
    if most > _MOST_WORKERS:
        raise UsageError(f"--workers asks for {most}", hint=f"at most {_MOST_WORKERS} share a run")
    return least, most


def refuse_apart(on: str | None, workers: str | None, devices: str | None, device: str | None) -> None:
    """Raises UsageError where these do not go together: a cluster says itself which GPU a worker has."""
    if on is None:
        if workers is not None:
            raise UsageError("--workers is of a cluster", hint="add --on ray, or use --devices cpu:4 on one machine")
        return
    if devices is not None:
        raise UsageError("--on and --devices do not go together", hint="leave out --devices: --workers says how many")
    if device is not None and ":" in device:
        raise UsageError(f"a cluster gives each worker a GPU, and {device} is one of one machine", hint="leave it out")


def interval_of(text: str | None) -> tuple[float, float] | None:
    """What `--guidance-interval` says: two shares of the steps, such as 0.1..0.8. Raises UsageError."""
    if text is None:
        return None
    try:
        start, end = (float(part) for part in text.split(".."))
    except ValueError:
        start = end = 0.0
    if not 0 <= start < end <= 1:
        raise UsageError(f"{text} is no part of the steps", hint="write two numbers of 0 to 1, such as 0.1..0.8")
    return start, end


def interval_in(approximations: tuple[str, ...]) -> tuple[float, float] | None:
    """The guidance interval that a run's identity names, None where it guides all steps."""
    found = [name.removeprefix(_INTERVAL).strip() for name in approximations if name.startswith(_INTERVAL)]
    return interval_of(found[0] if found else None)
