"""Whether a model's weights fit into memory, by the sizes of their tensors, before any of them is read."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ip2pbatch.errors import ResourceError
from ip2pbatch.run.machine import Memory

_HINT = "end other programs, use --precision bf16 where it is fp32 (fp16 on a GPU), or a smaller model"
WORKING = 3 << 30
"""Bytes that are left free for what a network makes as it works, at a megapixel: an estimate, and no promise."""

_COSTS = {
    Memory.FULL: "all of it stays there",
    Memory.OFFLOAD: "each part goes there when it is asked for, which moves all {:.1f} GiB once an edit",
    Memory.SEQUENTIAL: "each layer goes there when it is asked for, which moves the network at every step: slow",
}
CGROUP = Path("/sys/fs/cgroup")


def refuse_too_large(model: Path, needed: int, room: int | None) -> None:
    """Raises ResourceError (7) where `needed` bytes of weights are more than the `room` that there is, if one knows."""
    if room is not None and needed > room:
        raise too_large(model, f"its weights take {needed / 2**30:.1f} GiB, and {room / 2**30:.1f} GiB are free")


def too_large(model: Path, why: str) -> ResourceError:
    """What a person is told of a model that memory does not hold."""
    return ResourceError(f"{model} is too large for this machine's memory: {why}", hint=_HINT)


def elements(files: Iterable[Path]) -> int:
    """The numbers in safetensors `files`, from their headers."""
    from safetensors import safe_open

    total = 0
    for file in files:
        with safe_open(file, framework="np") as tensors:
            total += sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118
    return total


def free_memory() -> int | None:
    """Bytes of main memory and swap that this process may still take; None where the system, not a Linux, is silent."""
    with suppress(OSError, ValueError, KeyError):
        facts = _table(Path("/proc/meminfo"), ":")
        free = (facts["MemAvailable"] + facts["SwapFree"]) << 10
        limited = _left_in_group()
        return free if limited is None else min(free, limited)
    return None


def _left_in_group() -> int | None:
    """What the limit of a container leaves; pages of files that the system can drop at any time count as free."""
    with suppress(OSError, ValueError, KeyError):
        most = int((CGROUP / "memory.max").read_text())  # "max" where there is no limit
        held = int((CGROUP / "memory.current").read_text())
        return most - held + _table(CGROUP / "memory.stat", " ")["inactive_file"]
    return None


def _table(file: Path, separator: str) -> Mapping[str, int]:
    rows = (line.partition(separator) for line in file.read_text().splitlines())
    return {name: int(value.split()[0]) for name, _, value in rows}


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the parts of a pipeline are to lie, and in words why and what that costs."""

    how: Memory
    why: str


def placement(asked: Memory, parts: Mapping[str, int], free: int) -> Placement:
    """Of networks of so many bytes on a device with `free` bytes: all on it where that leaves room to work, else one at
    a time, else a layer at a time.
    """
    whole, largest = sum(parts.values()), max(parts.values())
    fits = (Memory.FULL, whole), (Memory.OFFLOAD, largest)
    how = asked
    if asked is Memory.AUTO:
        how = next((one for one, needed in fits if needed + WORKING <= free), Memory.SEQUENTIAL)
    known = f"{whole / 2**30:.1f} GiB of weights, {free / 2**30:.1f} GiB free on the device"
    return Placement(how, f"memory {how}: {known}; {_COSTS[how].format(whole / 2**30)}")
