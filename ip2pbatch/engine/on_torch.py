"""The backend `torch`: which device, precision and speed-ups flags and job come to, and the engine they open."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from ip2pbatch.backends.installed import is_installed, refuse_without
from ip2pbatch.errors import ModelError, UsageError
from ip2pbatch.plan.defaults import family_for, taught_scales
from ip2pbatch.plan.editors.composed import composed
from ip2pbatch.plan.editors.few_steps import unlike
from ip2pbatch.plan.edits import Edit
from ip2pbatch.plan.families import Family, family_of
from ip2pbatch.run.directory.lines import EngineSpec
from ip2pbatch.run.engine import EditEngine
from ip2pbatch.run.machine import Compile, Determinism, Finding, Machine, Memory, Precision, interval_in

if TYPE_CHECKING:
    import torch

    from ip2pbatch.backends.model_folder import Layout
    from ip2pbatch.backends.weights import ModelFolder

Note = Callable[[str], None]


class FamilyModule(Protocol):
    """The functions of a family's module (plan/families.py)."""

    def precision(self, folder: ModelFolder, device: str) -> str:
        """The number format that a model runs in where none is asked for."""
        ...

    def refuse(self, folder: ModelFolder, edits: Sequence[Edit]) -> None:
        """Raises what tells of Edits that this model cannot make, before anything heavy is read."""
        ...

    def speedups(self, layout: Layout, device: torch.device, dtype: torch.dtype) -> Mapping[str, str]:
        """The speed-ups that there are for its models, and why one is left out of this one, "" where it is in."""
        ...

    def open_engine(
        self, folder: ModelFolder, device: str, precision: str, machine: Machine, *, safety: bool,
        edits: Sequence[Edit], note: Note,
    ) -> EditEngine:  # fmt: skip
        """The engine, with what was left to be decided by the job decided."""
        ...


def choose(
    model: str, machine: Machine, *, safety: bool, edits: Sequence[Edit], note: Note
) -> tuple[EngineSpec, Callable[[], EditEngine]]:
    """The engine's identity, and what opens it. A model loads before that only to measure its precision, once.

    Raises MissingError (6), ModelError (6), UsageError.
    """
    if machine.provider is not None:
        raise UsageError("--provider is of the onnx backend", hint="add --backend onnx, or leave out --provider")
    refuse_without("torch", "diffusers", "transformers")  # before a model is fetched
    from ip2pbatch.backends.known_models import tell_licence
    from ip2pbatch.backends.weights import resolve

    planned = family_for(model)
    folder = resolve(model, checker=safety, note=note)
    from ip2pbatch.backends.pytorch import deferred

    with deferred.loading():
        deferred.defer()
        from ip2pbatch.backends.pytorch import accelerators, steps
        from ip2pbatch.backends.pytorch import backend as pytorch

    tell_licence(model, note)
    found = family_of(folder.path)
    _refuse_unplanned(model, planned, found)
    device = machine.device or accelerators.default()
    if said := accelerators.untried(device):
        note(f"{said}: look at a few pictures beside those of --device cpu first")
    _refuse_flags(found, machine, device)
    family = _module_of(found)
    precision = family.precision(folder, device) if machine.precision is Precision.AUTO else str(machine.precision)
    if precision == "fp16" and device == "cpu":
        raise UsageError("fp16 is not for a CPU", hint="use --precision bf16 or fp32")
    family.refuse(folder, edits)
    distilled = _distilled(folder, machine)
    for text in unlike([lora.path for lora in composed(model).loras if lora.scale], found, edits):
        note(text)
    steps.choose(machine.without)
    determinism = machine.determinism
    if determinism is Determinism.BITWISE and (machine.batch == "auto" or machine.compile is Compile.ON):
        raise UsageError(
            "neither a measured batch nor compiled code is bitwise: another machine's cache would round otherwise",
            hint="leave out --batch auto and --compile on, or use --determinism stable",
        )
    provider = device.partition(":")[0]
    spec = EngineSpec(
        model, folder.digest, "torch", provider, precision, str(determinism),
        approximations=(*machine.approximations, *distilled),
    )  # fmt: skip

    def open_engine() -> EditEngine:
        bitwise, fast = determinism is Determinism.BITWISE, determinism is Determinism.FAST
        pytorch.configure(deterministic=bitwise, tf32=fast)
        return family.open_engine(folder, device, precision, machine, safety=safety, edits=edits, note=note)

    return spec, open_engine


def _distilled(folder: ModelFolder, machine: Machine) -> tuple[str, ...]:
    """What a student is called among the approximations of a run. UsageError for a flag that it has no use for."""
    taught = taught_scales(str(folder.path))
    if taught and machine.interval:
        why = f"--guidance-interval spares rows, and {folder.name} is distilled: it is guided by one row a step"
        raise UsageError(why, hint="leave it out")
    return (f"distilled guidance, {taught}",) if taught else ()


def _refuse_unplanned(model: str, planned: Family, found: Family) -> None:
    """A model that was fetched just now may be of another family than it was taken for when sizes and scales were
    planned.
    """
    if planned is not found:
        raise UsageError(
            f"{model} is {found.called}, which was not known before it was fetched: its pictures were planned as "
            f"{planned.called}'s",
            hint="run the same command once more: it is here now",
        )


def _refuse_flags(family: Family, machine: Machine, device: str) -> None:
    """Flags that this family has no use for. Raises UsageError."""
    moved = machine.memory in (Memory.OFFLOAD, Memory.SEQUENTIAL)
    unused = {
        f"--memory {machine.memory}": moved and family.call is None,
        "--guidance-interval": machine.interval is not None and family.call is not None,
        "--compile on": machine.compile is Compile.ON and bool(family.components),
        "--without": bool(machine.without and family.components),
    }
    for flag in (flag for flag, asked in unused.items() if asked):
        raise UsageError(f"{flag} is not for {family.called}", hint="leave it out")
    if moved and device == "cpu":
        why = f"--memory {machine.memory} is for a GPU: on a CPU there is nowhere to move a part from"
        raise UsageError(why, hint="leave it out, or name another --device")


def _module_of(family: Family) -> FamilyModule:
    return cast(FamilyModule, importlib.import_module(family.torch))


def device_name(machine: Machine) -> str:
    """A GPU as its maker calls it; of a CPU also what its bits hang on. Raises MissingError where there is none."""
    import torch

    from ip2pbatch.backends.pytorch import accelerators

    device = machine.device or accelerators.default()
    accelerators.known(device)
    return torch_device_name(device, torch.get_num_threads())


def torch_device_name(device: str, threads: int) -> str:
    """The same of torch's name of a device."""
    import torch

    from ip2pbatch.backends.pytorch import accelerators

    if not accelerators.on_host(device):
        return accelerators.name_of(device)
    return f"{_processor()}, {torch.backends.cpu.get_cpu_capability()}, {threads} threads"


def _processor() -> str:
    import platform

    with suppress(OSError), Path("/proc/cpuinfo").open(encoding="utf-8", errors="replace") as file:
        for line in file:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def devices() -> Sequence[str]:
    """The accelerators that torch sees, or else the CPU."""
    from ip2pbatch.backends.pytorch import accelerators

    return accelerators.available() or ("cpu",)


def libraries() -> Mapping[str, str]:
    """None beside what all backends share, torch among them."""
    return {}


def is_known_as(model: str, digest: str) -> bool:
    """With its safety checker or without."""
    from ip2pbatch.backends import weights

    return weights.is_known_as(model, digest)


def files(model: str, *, safety: bool) -> tuple[str, Mapping[str, str]]:
    """Revision, and the digest of each file of the model. Fetches nothing; raises ModelError."""
    from ip2pbatch.backends.weights import file_digests, resolve

    folder = resolve(model, download=False, checker=safety)
    return folder.revision, {**file_digests(folder.path, checker=safety), **folder.laid.digests}


def as_made(spec: EngineSpec, batch: int, steps: tuple[str, ...] | None) -> Machine:
    """The flags of a run that was made with it; ValueError where there are none any more. Raises MissingError."""
    refuse_without("torch")
    compiled = Compile.AUTO
    without: tuple[str, ...] = ()
    if steps is not None and not family_for(spec.model).components:  # others have no steps to leave out
        from ip2pbatch.backends.pytorch.steps import STEPS

        compiled = Compile.ON if "compiled" in steps else Compile.OFF
        without = tuple(step.name for step in STEPS if not step.asked_for and step.name not in steps)
    return Machine(
        "torch", spec.provider, Precision(spec.precision), Determinism(spec.determinism), batch, compiled, without,
        interval_in(spec.approximations),
    )  # fmt: skip


def model_findings(model: str) -> Iterator[Finding]:
    """Whether the model can be served here, and which speed-ups are left out of it and why. Loads no weights. Raises
    MissingError.
    """
    refuse_without("torch", "diffusers", "transformers")
    import torch

    from ip2pbatch.backends.pytorch import accelerators
    from ip2pbatch.backends.weights import checked, resolve

    device = torch.device(accelerators.default())
    precision = torch.float16 if accelerators.is_nvidia(device) else torch.float32
    try:
        folder = resolve(model, download=False, checker=False).path
        module = _module_of(family_of(folder))
        found = module.speedups(checked(folder, checker=False), device, precision)
    except ModelError as error:
        yield Finding(
            f"model {model}", "cannot be used", "problem", f"{error}; {error.hint}" if error.hint else str(error)
        )
        return
    within = [name for name, why in found.items() if not why]
    why = f"with {', '.join(within) or 'none'} of the speed-ups" if found else "as diffusers made it"
    yield Finding(f"model {model}", "can be used", why=why)
    for name, why in found.items():
        if why:
            yield Finding(f"speed-up {name}", "left out", "note", why)


def findings() -> Iterator[Finding]:
    """The devices that torch sees, and what would be used on them; nothing without torch."""
    if not is_installed("torch"):
        return
    import torch

    from ip2pbatch.backends.pytorch import accelerators
    from ip2pbatch.engine.precision import describe

    for one in accelerators.available():
        said = f"{accelerators.name_of(one)}, {accelerators.memory_of(one) / 2**30:.0f} GiB"
        untried = accelerators.untried(one)
        yield Finding(one, said, "note" if untried else "ok", untried)
    device = accelerators.default()
    on_host = accelerators.on_host(device)
    why = "no accelerator is visible to torch" if on_host else f"the first {accelerators.called(device)} device"
    yield Finding("device used", device, "ok" if device != "cpu" else "note", why)
    precision, reason = describe(device)
    yield Finding("precision used", precision, why=reason)
    yield Finding("threads", f"{torch.get_num_threads()} of {os.cpu_count()} cores")
