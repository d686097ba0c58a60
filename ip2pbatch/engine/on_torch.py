"""The backend `torch`: which device, precision and speed-ups flags and job come to, and the engine they open."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ip2pbatch.errors import UsageError
from ip2pbatch.plan.edits import Edit
from ip2pbatch.run.directory.lines import EngineSpec
from ip2pbatch.run.engine import EditEngine
from ip2pbatch.run.machine import Compile, Determinism, Finding, Machine, Precision, interval_in

if TYPE_CHECKING:
    from ip2pbatch.backends.pytorch.backend import TorchBackend
    from ip2pbatch.engine.editor import Editor

Note = Callable[[str], None]


def choose(
    model: str, machine: Machine, *, safety: bool, edits: Sequence[Edit], note: Note
) -> tuple[EngineSpec, Callable[[], EditEngine]]:
    """The engine's identity, and what opens it. A model loads before that only to measure its precision, once.

    Raises ModelError (6), UsageError.
    """
    if machine.provider is not None:
        raise UsageError("--provider is of the onnx backend", hint="add --backend onnx, or leave out --provider")
    from ip2pbatch.backends.model_folder import read_schedule
    from ip2pbatch.backends.weights import resolve

    folder = resolve(model)
    from ip2pbatch.backends.pytorch import backend as pytorch
    from ip2pbatch.engine.editor import Editor
    from ip2pbatch.engine.precision import choose_precision
    from ip2pbatch.engine.samplers import refuse_unsampled

    device = machine.device or pytorch.default_device()
    precision = (
        choose_precision(folder, device)[0] if machine.precision is Precision.AUTO else str(machine.precision)
    )  # fmt: skip
    if precision == "fp16" and device == "cpu":
        raise UsageError("fp16 is not for a CPU", hint="use --precision bf16 or fp32")
    refuse_unsampled(read_schedule(folder.path), edits)
    determinism, wanted = machine.determinism, _steps(machine)
    if determinism is Determinism.BITWISE and (machine.batch == "auto" or machine.compile is Compile.ON):
        raise UsageError(
            "neither a measured batch nor compiled code is bitwise: another machine's cache would round otherwise",
            hint="leave out --batch auto and --compile on, or use --determinism stable",
        )
    provider = device.partition(":")[0]
    spec = EngineSpec(
        model, folder.digest, "torch", provider, precision, str(determinism), approximations=machine.approximations
    )

    def open_engine() -> EditEngine:
        bitwise, fast = determinism is Determinism.BITWISE, determinism is Determinism.FAST
        pytorch.configure(deterministic=bitwise, tf32=fast)
        backend = pytorch.load(folder, device, precision, wanted)
        for text in backend.site.notes:
            note(text)
        editor = Editor(backend, determinism=determinism.value, safety=safety, interval=machine.interval)
        _tune(editor, backend, machine, edits, folder.digest, note)
        return editor

    return spec, open_engine


def _steps(machine: Machine) -> list[str]:
    """The names of the steps that the flags leave in; compiling is decided on later. Raises UsageError for a name that
    is none.
    """
    from ip2pbatch.backends.pytorch import steps

    steps.choose(machine.without)
    return [step.name for step in steps.STEPS if not step.asked_for and step.name not in machine.without]


def _tune(
    editor: Editor, backend: TorchBackend, machine: Machine, edits: Sequence[Edit], digest: str, note: Note
) -> None:
    """Decide what was left to be decided by the job, and say what was decided. Bitwise leaves nothing to that.

    Row counts are tried before anything is compiled: each would be a compilation of its own.
    """
    from ip2pbatch.backends.pytorch import steps
    from ip2pbatch.engine import tuning

    said = tuning.tune_batch(editor, backend, edits, digest) if edits and machine.batch == "auto" else []
    if machine.compile is Compile.ON and "compiled" not in machine.without:
        reason = steps.compile_late(backend.site)
        said += [f"not compiled: {reason}"] if reason else []
    elif edits and machine.compile is Compile.AUTO and machine.determinism is not Determinism.BITWISE:
        said += tuning.compile_if_it_pays(editor, backend, edits)
    for text in said:
        note(text)


def device_name(machine: Machine) -> str:
    """A GPU as its maker calls it; of a CPU also what its bits hang on."""
    import torch

    from ip2pbatch.backends.pytorch import backend as pytorch

    return torch_device_name(machine.device or pytorch.default_device(), torch.get_num_threads())


def torch_device_name(device: str, threads: int) -> str:
    """The same of torch's name of a device."""
    import torch

    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return f"{_processor()}, {torch.backends.cpu.get_cpu_capability()}, {threads} threads"


def _processor() -> str:
    import platform

    with suppress(OSError), Path("/proc/cpuinfo").open(encoding="utf-8", errors="replace") as file:
        for line in file:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def libraries() -> Mapping[str, str]:
    """None beside what all backends share, torch among them."""
    return {}


def files(model: str) -> tuple[str, str, Mapping[str, str]]:
    """Digest, revision, and the digest of each file of the model. Fetches nothing; raises ModelError."""
    from ip2pbatch.backends.weights import file_digests, resolve

    folder = resolve(model, download=False)
    return folder.digest, folder.revision, file_digests(folder.path)


def as_made(spec: EngineSpec, batch: int, steps: tuple[str, ...] | None) -> Machine:
    """The flags of a run that was made with it; ValueError where there are none any more."""
    compiled = Compile.AUTO
    without: tuple[str, ...] = ()
    if steps is not None:
        from ip2pbatch.backends.pytorch.steps import STEPS

        compiled = Compile.ON if "compiled" in steps else Compile.OFF
        without = tuple(step.name for step in STEPS if not step.asked_for and step.name not in steps)
    return Machine(
        "torch", spec.provider, Precision(spec.precision), Determinism(spec.determinism), batch, compiled, without,
        interval_in(spec.approximations),
    )  # fmt: skip


def findings() -> Iterator[Finding]:
    """The devices that torch sees, and what would be used on them."""
    import torch

    from ip2pbatch.backends.pytorch.backend import default_device
    from ip2pbatch.engine.precision import describe

    for index in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(index)
        yield Finding(f"cuda:{index}", f"{card.name}, {card.total_memory / 2**30:.0f} GiB")
    device = default_device()
    why = "the first CUDA device" if device.startswith("cuda") else "no CUDA device is visible to torch"
    yield Finding("device used", device, "ok" if device != "cpu" else "note", why)
    precision, reason = describe(device)
    yield Finding("precision used", precision, why=reason)
    yield Finding("threads", f"{torch.get_num_threads()} of {os.cpu_count()} cores")
