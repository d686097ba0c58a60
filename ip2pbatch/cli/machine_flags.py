"""The flags of a Machine, written once for every command that edits."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Any, get_type_hints

import typer

from ip2pbatch.jobs.backends import BACKENDS
from ip2pbatch.run.machine import (
    Compile,
    Determinism,
    Machine,
    Memory,
    On,
    Precision,
    Provider,
    batch_of,
    device_of,
    devices_of,
    interval_of,
    refuse_apart,
    workers_of,
)

# typer takes its choices from an Enum, and these are a table's.
Name = StrEnum("Name", {name.upper(): name for name in BACKENDS})  # type: ignore[misc]

Backend = Annotated[Name, typer.Option(help="What makes the pictures; onnx, openvino: extras; fake needs no model.")]
Device = Annotated[
    str | None,
    typer.Option(help="cpu, cuda, cuda:1, mps, xpu; openvino: cpu, gpu, npu.", show_default="the first GPU, else cpu"),
]
Devices = Annotated[
    str | None, typer.Option(help="A worker process each: all, cuda:0,cuda:3 or cpu:4.", show_default="one process")
]
OnFlag = Annotated[
    On | None, typer.Option("--on", help="A worker each where this cluster has room.", show_default="this machine")
]
Workers = Annotated[
    str | None,
    typer.Option(help="Of --on ray, how many: 8, or 1..64 as they come.", show_default="one a GPU, or a node"),
]
ProviderFlag = Annotated[
    Provider | None,
    typer.Option("--provider", help="What the onnx backend runs on.", show_default="cuda where it works, else cpu"),
]
PrecisionFlag = Annotated[Precision, typer.Option(help="auto: fp16 on CUDA; else what is fast and near fp32.")]
DeterminismFlag = Annotated[Determinism, typer.Option(help="How far a picture is pinned to its bits.")]
Batch = Annotated[
    str | None,
    typer.Option(help="Edits a call at most; auto measures once what suits the machine.", show_default="by device"),
]
CompileFlag = Annotated[Compile, typer.Option("--compile", help="torch.compile; auto where the job is large enough.")]
Without = Annotated[
    list[str] | None,
    typer.Option("--without", metavar="STEP", help="Leave out a speed-up; may be given several times."),
]
Interval = Annotated[
    str | None, typer.Option("--guidance-interval", help="Approximate: guide only this part of the steps, as 0.1..0.8.")
]
MemoryFlag = Annotated[
    Memory,
    typer.Option("--memory", help="Of other editors: all on the GPU, a part at a time, or a layer; auto: what fits."),
]


def machine_of(
    backend: Backend = Name("torch"),
    provider: ProviderFlag = None,
    device: Device = None,
    devices: Devices = None,
    on: OnFlag = None,
    workers: Workers = None,
    precision: PrecisionFlag = Precision.AUTO,
    determinism: DeterminismFlag = Determinism.STABLE,
    batch: Batch = None,
    compile_: CompileFlag = Compile.AUTO,
    without: Without = None,
    interval: Interval = None,
    memory: MemoryFlag = Memory.AUTO,
) -> Machine:
    """What the flags say. Raises UsageError."""
    refuse_apart(on, workers, devices, device)
    return Machine(
        str(backend), device_of(device, str(backend)), precision, determinism, batch_of(batch), compile_,
        tuple(without or ()), interval_of(interval), provider, devices_of(devices, device), memory,
        on, workers_of(workers),
    )  # fmt: skip


def on_a_machine(command: Callable[..., None]) -> Callable[..., None]:
    """`command`, with the flags of `machine_of` in the place of its parameter `machine`."""
    flags, own = _parameters(machine_of), _parameters(command)
    at = [parameter.name for parameter in own].index("machine")

    @functools.wraps(command)
    def flagged(**given: Any) -> None:
        machine = machine_of(**{flag.name: given.pop(flag.name) for flag in flags})
        command(**given, machine=machine)

    parameters = [*own[:at], *flags, *own[at + 1 :]]
    # typer reads a command's flags from these two.
    flagged.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    flagged.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return flagged


def _parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    """The parameters with their annotations resolved, by name, so that any order of defaults will do."""
    hints = get_type_hints(function, include_extras=True)
    return [
        parameter.replace(annotation=hints[name], kind=inspect.Parameter.KEYWORD_ONLY)
        for name, parameter in inspect.signature(function).parameters.items()
    ]
