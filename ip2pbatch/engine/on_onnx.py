"""The onnx backend behind the flags: which provider, which form of export, and where the export lies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ip2pbatch.errors import UsageError
from ip2pbatch.plan.edits import Edit
from ip2pbatch.run.execute import EditEngine
from ip2pbatch.run.ledger import EngineSpec
from ip2pbatch.run.machine import Compile, Determinism, Machine, Precision

if TYPE_CHECKING:
    from ip2pbatch.backends.onnx.artefact import Artefact
    from ip2pbatch.backends.onnx.providers import Place
    from ip2pbatch.backends.weights import ModelFolder


def choose_onnx(
    model: str, machine: Machine, safety: bool, edits: Sequence[Edit]
) -> tuple[EngineSpec, Callable[[], EditEngine]]:
    """The engine's identity, and what opens it: an exported folder, or a model, exported into the cache on first use.

    Raises ModelError, MissingError (6) and UsageError.
    """
    from ip2pbatch.backends.onnx import artefact, providers
    from ip2pbatch.backends.weights import resolve

    _refuse_torch_flags(machine)
    folder = resolve(model)
    place = place_of(machine)
    found = artefact.read(folder.path) if artefact.is_artefact(folder.path) else None
    precision = _precision(machine.precision, place.provider, found)
    providers.refuse_missing(place)
    spec = EngineSpec(
        model, folder.digest, "onnx", place.provider, precision, str(machine.determinism), machine.approximations
    )

    def open_engine() -> EditEngine:
        from ip2pbatch.backends.onnx import backend as ort
        from ip2pbatch.backends.pytorch import backend as pytorch
        from ip2pbatch.cli import console
        from ip2pbatch.engine.editor import Editor

        pytorch.configure()
        exported = _exported(folder, found, precision, place)
        backend = ort.load(exported, place, [edit.size for edit in edits], console.note)
        return Editor(backend, determinism=machine.determinism.value, safety=safety, interval=machine.interval)

    return spec, open_engine


def place_of(machine: Machine) -> Place:
    """The Place behind the flags. Raises MissingError where onnxruntime is not installed, UsageError."""
    import torch

    from ip2pbatch.backends.onnx import providers

    name = None if machine.provider is None else str(machine.provider)
    provider, device = providers.choose(name, machine.device)
    repeatable = machine.determinism is Determinism.BITWISE
    return providers.Place(provider, device, torch.get_num_threads(), repeatable)


def _exported(folder: ModelFolder, found: Artefact | None, precision: str, place: Place) -> Artefact:
    from ip2pbatch.backends.onnx import artefact, export
    from ip2pbatch.cli import console

    form = export.form_for(place.provider, precision)
    if found is None:
        return export.cached(folder, form, place, console.note)
    artefact.check(found, model_digest=folder.digest, precision=precision, graph=form.graph)
    return found


def _precision(asked: Precision, provider: str, found: Artefact | None) -> str:
    from ip2pbatch.backends.onnx.export import default_precision

    if asked is Precision.AUTO:
        return found.precision if found else default_precision(provider)
    refuse_bf16(asked)
    if asked is Precision.FP16 and provider == "cpu":
        raise UsageError("fp16 is not for a CPU", hint="use --precision fp32")
    return str(asked)


def refuse_bf16(asked: Precision) -> None:
    """Raises UsageError."""
    if asked is Precision.BF16:
        raise UsageError("the onnx backend has no bf16", hint="use --precision fp32 or fp16, or --backend torch")


def _refuse_torch_flags(machine: Machine) -> None:
    if machine.batch == "auto":
        raise UsageError("--batch auto measures the torch backend", hint="give --batch a number")
    if machine.compile is Compile.ON:
        raise UsageError("--compile on compiles the torch backend's network", hint="leave it out")
    if machine.without:
        raise UsageError("--without leaves out steps of the torch backend", hint="leave it out")
