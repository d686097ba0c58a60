"""The backend `onnx`: which provider and which form of export the flags come to, and where the export lies."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from ip2pbatch.backends.installed import is_installed, refuse_without
from ip2pbatch.errors import MissingError, ModelError, UsageError
from ip2pbatch.plan.defaults import taught_scales
from ip2pbatch.plan.edits import Edit
from ip2pbatch.run.directory.lines import EngineSpec
from ip2pbatch.run.engine import EditEngine
from ip2pbatch.run.machine import Compile, Determinism, Finding, Machine, Precision, Provider, interval_in

if TYPE_CHECKING:
    from ip2pbatch.backends.artefact import Artefact
    from ip2pbatch.backends.onnx.providers import Place
    from ip2pbatch.backends.weights import ModelFolder


def choose(
    model: str, machine: Machine, *, safety: bool, edits: Sequence[Edit], note: Callable[[str], None]
) -> tuple[EngineSpec, Callable[[], EditEngine]]:
    """The engine's identity, and what opens it: an exported folder, or a model, exported into the cache on first use.

    Raises ModelError, MissingError (6) and UsageError.
    """
    from ip2pbatch.backends import artefact
    from ip2pbatch.backends.model_folder import read_schedule
    from ip2pbatch.backends.onnx import providers
    from ip2pbatch.backends.weights import resolve

    refuse_torch_flags(machine)
    refuse_without("torch", "diffusers", "transformers")
    from ip2pbatch.engine.samplers import refuse_unsampled

    folder = resolve(model, checker=safety, note=note)
    refuse_distilled(folder)
    place = place_of(machine)
    found = artefact.read(folder.path) if artefact.is_artefact(folder.path) else None
    precision = _precision(machine.precision, place.provider, found)
    providers.refuse_missing(place)
    refuse_unsampled(read_schedule(folder.path), edits)
    spec = EngineSpec(
        model, folder.digest, "onnx", place.provider, precision, str(machine.determinism), machine.approximations
    )

    def open_engine() -> EditEngine:
        from ip2pbatch.backends.onnx import backend as ort
        from ip2pbatch.backends.pytorch import backend as pytorch
        from ip2pbatch.engine.editor import Editor

        pytorch.configure()
        exported = _exported(folder, found, precision, place, note)
        backend = ort.load(exported, place, [edit.size for edit in edits], note, checker=safety)
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


def _exported(
    folder: ModelFolder, found: Artefact | None, precision: str, place: Place, note: Callable[[str], None]
) -> Artefact:
    from ip2pbatch.backends import artefact
    from ip2pbatch.backends.onnx import export, providers

    form = export.form_for(place.provider, precision)
    if found is None:
        return export.cached(folder, form, providers.opener(place), note)
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


def refuse_distilled(folder: ModelFolder) -> None:
    """Raises ModelError for a model whose UNet reads its scales: an export has no input for them."""
    if taught_scales(str(folder.path)):
        why = "its UNet reads both guidance scales, and an exported one has no input for them"
        hint = "use --backend torch, or the model that it was made from"
        raise ModelError(f"{folder.name} is distilled: {why}", hint=hint)


def refuse_torch_flags(machine: Machine) -> None:
    """Raises UsageError for what an exported model has no use for."""
    if machine.batch == "auto":
        raise UsageError("--batch auto measures the torch backend", hint="give --batch a number")
    if machine.compile is Compile.ON:
        raise UsageError("--compile on compiles the torch backend's network", hint="leave it out")
    if machine.without:
        raise UsageError("--without leaves out steps of the torch backend", hint="leave it out")


def device_name(machine: Machine) -> str:
    """The device that the provider works on."""
    from ip2pbatch.engine.on_torch import torch_device_name

    place = place_of(machine)
    return torch_device_name("cpu" if place.provider == "cpu" else f"cuda:{place.device}", place.threads)


def devices() -> Sequence[str]:
    """The GPUs that torch sees, or else the CPU."""
    from ip2pbatch.engine import on_torch

    return on_torch.devices()


def libraries() -> Mapping[str, str]:
    """onnxruntime's version. Raises MissingError."""
    from ip2pbatch.backends.onnx.providers import onnxruntime

    return {"onnxruntime": onnxruntime().__version__}


def is_known_as(model: str, digest: str) -> bool:
    """As torch knows it: an export says whose weights it holds."""
    from ip2pbatch.engine import on_torch

    return on_torch.is_known_as(model, digest)


def files(model: str, *, safety: bool) -> tuple[str, Mapping[str, str]]:
    """As torch has them."""
    from ip2pbatch.engine import on_torch

    return on_torch.files(model, safety=safety)


def as_made(spec: EngineSpec, batch: int, steps: tuple[str, ...] | None) -> Machine:
    """The flags of a run that was made with it; it has providers where the others have devices."""
    return Machine(
        "onnx", None, Precision(spec.precision), Determinism(spec.determinism), batch,
        interval=interval_in(spec.approximations), provider=Provider(spec.provider),
    )  # fmt: skip


def findings() -> Iterator[Finding]:
    """Each provider of onnxruntime as a session finds it, which is not always as onnxruntime lists it."""
    from ip2pbatch.backends.onnx import providers

    try:
        providers.onnxruntime()
    except MissingError as error:
        yield Finding("onnx backend", "missing", "note", f"optional: {error.hint}")
        return
    if not is_installed("torch"):
        return
    for name in providers.PROVIDERS:
        reason = providers.why_not(name)
        yield Finding(f"onnx {name}", "does not work" if reason else "works", "note" if reason else "ok", reason)
