"""From a model's name and a machine's flags to an EngineSpec and the EditEngine behind it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ip2pbatch.cli import console
from ip2pbatch.errors import UsageError
from ip2pbatch.plan.edits import Edit, Plan
from ip2pbatch.plan.limits import Limits
from ip2pbatch.plan.schedule import padding
from ip2pbatch.run.execute import EditEngine
from ip2pbatch.run.ledger import EngineSpec
from ip2pbatch.run.machine import BackendName, Compile, Determinism, Machine, Precision

if TYPE_CHECKING:
    from ip2pbatch.backends.pytorch.backend import TorchBackend
    from ip2pbatch.engine.editor import Editor
    from ip2pbatch.run.engine import Pending


def choose(
    model: str, machine: Machine, *, safety: bool, edits: Sequence[Edit] = ()
) -> tuple[EngineSpec, Callable[[], EditEngine]]:
    """The engine's identity, and what opens it. A model loads before that only to measure its precision, once.

    `edits` are what it will be asked for: what `auto` settings are decided by. Raises ModelError (6).
    """
    if machine.backend is BackendName.FAKE:
        return _fake(model, machine)
    if machine.backend is BackendName.ONNX:
        return _onnx(model, machine, safety, edits)
    if machine.provider is not None:
        raise UsageError("--provider is of the onnx backend", hint="add --backend onnx, or leave out --provider")
    return _torch(model, machine, safety, edits)


def _fake(model: str, machine: Machine) -> tuple[EngineSpec, Callable[[], EditEngine]]:
    from ip2pbatch.run.fake import FakeEngine

    spec = EngineSpec(model, "fake", "fake", "cpu", "uint8", str(machine.determinism))
    return spec, lambda: _limited(FakeEngine(), machine.batch)


def _onnx(
    model: str, machine: Machine, safety: bool, edits: Sequence[Edit]
) -> tuple[EngineSpec, Callable[[], EditEngine]]:
    from ip2pbatch.engine.on_onnx import choose_onnx

    spec, open_engine = choose_onnx(model, machine, safety, edits)
    return spec, lambda: _limited(open_engine(), machine.batch)


def _torch(
    model: str, machine: Machine, safety: bool, edits: Sequence[Edit]
) -> tuple[EngineSpec, Callable[[], EditEngine]]:
    from ip2pbatch.backends.weights import resolve

    folder = resolve(model)
    from ip2pbatch.backends.pytorch import backend as pytorch
    from ip2pbatch.engine.editor import Editor
    from ip2pbatch.engine.precision import choose_precision

    device = machine.device or pytorch.default_device()
    chosen = machine.precision
    precision = choose_precision(folder, device)[0] if chosen is Precision.AUTO else str(chosen)
    if precision == "fp16" and device == "cpu":
        raise UsageError("fp16 is not for a CPU", hint="use --precision bf16 or fp32")
    provider = device.partition(":")[0]
    determinism, wanted = machine.determinism, _steps(machine)
    if determinism is Determinism.BITWISE and (machine.batch == "auto" or machine.compile is Compile.ON):
        raise UsageError(
            "neither a measured batch nor compiled code is bitwise: another machine's cache would round otherwise",
            hint="leave out --batch auto and --compile on, or use --determinism stable",
        )
    spec = EngineSpec(
        model, folder.digest, "torch", provider, precision, str(determinism), approximations=machine.approximations
    )

    def open_engine() -> EditEngine:
        bitwise, fast = determinism is Determinism.BITWISE, determinism is Determinism.FAST
        pytorch.configure(deterministic=bitwise, tf32=fast)
        backend = pytorch.load(folder, device, precision, wanted)
        for text in backend.site.notes:
            console.note(text)
        editor = Editor(backend, determinism=determinism.value, safety=safety, interval=machine.interval)
        _tune(editor, backend, machine, edits, folder.digest)
        return _limited(editor, machine.batch)

    return spec, open_engine


def _steps(machine: Machine) -> list[str]:
    """The names of the steps that the flags leave in; compiling is decided on later. Raises UsageError for a name that
    is none.
    """
    from ip2pbatch.backends.pytorch import steps

    steps.choose(machine.without)
    return [step.name for step in steps.STEPS if not step.asked_for and step.name not in machine.without]


def _tune(editor: Editor, backend: TorchBackend, machine: Machine, edits: Sequence[Edit], digest: str) -> None:
    """Decide what was left to be decided by the job, and say what was decided. Bitwise leaves nothing to that.

    Row counts are tried before anything is compiled: each would be a compilation of its own.
    """
    from ip2pbatch.backends.pytorch import steps
    from ip2pbatch.engine import tuning

    notes = tuning.tune_batch(editor, backend, edits, digest) if edits and machine.batch == "auto" else []
    if machine.compile is Compile.ON and "compiled" not in machine.without:
        reason = steps.compile_late(backend.site)
        notes += [f"not compiled: {reason}"] if reason else []
    elif edits and machine.compile is Compile.AUTO and machine.determinism is not Determinism.BITWISE:
        notes += tuning.compile_if_it_pays(editor, backend, edits)
    for text in notes:
        console.note(text)


def describe(engine: EditEngine, machine: Machine, plan: Plan) -> dict[str, object]:
    """What a run writes down about the engine at work: Edits a call, row buckets, the share of rows that only fill
    calls of the whole plan, the device's name, the steps in.
    """
    sizes = sorted({edit.size for edit in plan.edits})
    rows = {f"{width}x{height}": engine.limits.row_bucket((width, height)) for width, height in sizes}
    steps = list(getattr(engine, "steps", ()))
    share = round(padding(plan, engine.limits), 4)
    known = {"batch": engine.limits.batch, "rows": rows, "padding": share}
    return {**known, "device": device_name(machine), "steps": steps}


def device_name(machine: Machine) -> str:
    """The device behind a machine's flags as its maker calls it; of a CPU also what its bits hang on."""
    if machine.backend is BackendName.FAKE:
        return "cpu"
    import torch

    from ip2pbatch.backends.pytorch import backend as pytorch

    device = machine.device or pytorch.default_device()
    if machine.backend is BackendName.ONNX:
        from ip2pbatch.engine.on_onnx import place_of

        place = place_of(machine)
        device = "cpu" if place.provider == "cpu" else f"cuda:{place.device}"
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return f"{_processor()}, {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"


def _processor() -> str:
    import platform

    with suppress(OSError), Path("/proc/cpuinfo").open(encoding="utf-8", errors="replace") as file:
        for line in file:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _limited(engine: EditEngine, batch: int | str | None) -> EditEngine:
    if isinstance(batch, int):
        engine.limits = dataclasses.replace(engine.limits, batch=batch)
    return engine


class Idle:
    """The engine of a run with nothing left to make: files may still be delivered, and no model is loaded for that."""

    limits = Limits()

    def begin(self, edits: object, sources: object) -> Pending:
        raise AssertionError("an idle engine was asked for a picture")

    def shrink(self) -> bool:
        return False

    def close(self) -> None:
        """Nothing is held."""
