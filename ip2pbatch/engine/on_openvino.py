"""The backend `openvino`: which device and precision the flags come to, and where the export lies."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from ip2pbatch.backends.installed import is_installed, refuse_without
from ip2pbatch.engine.on_onnx import refuse_distilled, refuse_torch_flags
from ip2pbatch.errors import MissingError, UsageError
from ip2pbatch.plan.edits import Edit
from ip2pbatch.run.directory.lines import EngineSpec
from ip2pbatch.run.engine import EditEngine
from ip2pbatch.run.machine import Determinism, Finding, Machine, Precision, interval_in

if TYPE_CHECKING:
    from ip2pbatch.backends.artefact import Artefact
    from ip2pbatch.backends.openvino.backend import OpenVinoBackend
    from ip2pbatch.backends.openvino.compiling import Place
    from ip2pbatch.backends.weights import ModelFolder

Note = Callable[[str], None]


def choose(
    model: str, machine: Machine, *, safety: bool, edits: Sequence[Edit], note: Note
) -> tuple[EngineSpec, Callable[[], EditEngine]]:
    """The engine's identity, and what opens it: an exported folder, or a model, exported into the cache on first use.

    Raises ModelError, MissingError (6) and UsageError.
    """
    from ip2pbatch.backends.model_folder import read_schedule
    from ip2pbatch.backends.weights import resolve

    if machine.provider is not None:
        raise UsageError("--provider is of the onnx backend", hint="use --device cpu, gpu or npu here")
    refuse_torch_flags(machine)
    refuse_without("torch", "diffusers", "transformers")
    from ip2pbatch.engine.samplers import refuse_unsampled

    place = place_of(machine)
    folder = resolve(model, checker=safety, note=note)
    refuse_distilled(folder)
    refuse_unsampled(read_schedule(folder.path), edits)
    precision = _precision(machine.precision, folder, place, note)
    spec = EngineSpec(
        model, folder.digest, "openvino", place.kind, precision, str(machine.determinism), machine.approximations
    )

    def open_engine() -> EditEngine:
        from ip2pbatch.engine.editor import Editor

        backend = load(folder, place, precision, note, checker=safety)
        return Editor(backend, determinism=machine.determinism.value, safety=safety, interval=machine.interval)

    return spec, open_engine


def place_of(machine: Machine) -> Place:
    """The Place behind the flags. Raises MissingError where OpenVINO, or the device, is not here."""
    import torch

    from ip2pbatch.backends.openvino import compiling

    return compiling.choose(machine.device, torch.get_num_threads())


def load(folder: ModelFolder, place: Place, precision: str, note: Note, *, checker: bool) -> OpenVinoBackend:
    """The four networks of a model, exported first where that has not been done. Raises ModelError, MissingError."""
    from ip2pbatch.backends.openvino import backend as openvino
    from ip2pbatch.backends.pytorch import backend as pytorch

    pytorch.configure()
    return openvino.load(_exported(folder, place, note), place, precision, note, checker=checker)


def _exported(folder: ModelFolder, place: Place, note: Note) -> Artefact:
    """A plain graph in float32: OpenVINO lowers it itself to what it is asked for."""
    from ip2pbatch.backends import artefact
    from ip2pbatch.backends.onnx import export
    from ip2pbatch.backends.openvino import compiling

    if not artefact.is_artefact(folder.path):
        return export.cached(folder, export.Form(), compiling.opener(compiling.Place("cpu", place.threads)), note)
    found = artefact.read(folder.path)
    artefact.check(found, model_digest=folder.digest, precision="fp32", graph="plain")
    return found


def _precision(asked: Precision, folder: ModelFolder, place: Place, note: Note) -> str:
    if asked is Precision.AUTO:
        return _measured(folder, place, note) if place.kind == "cpu" else "fp16"
    if place.kind == "cpu" and asked is Precision.FP16:
        raise UsageError("fp16 is not for a CPU", hint="use --precision bf16 or fp32")
    if place.kind != "cpu" and asked is Precision.BF16:
        raise UsageError(f"bf16 is not for OpenVINO's {place.kind}", hint="use --precision fp16 or fp32")
    return str(asked)


def _measured(folder: ModelFolder, place: Place, note: Note) -> str:
    """bf16 where the CPU has it and this model's pictures stay near those of float32."""
    from ip2pbatch.backends.openvino import compiling
    from ip2pbatch.engine.precision import cheaper_or_exact

    if not compiling.has_bf16():
        return "fp32"
    version = compiling.openvino().__version__
    return cheaper_or_exact(
        f"{folder.digest} {place.device} openvino {version}",
        lambda precision: load(folder, place, precision, note, checker=False),
    )[0]


def device_name(machine: Machine) -> str:
    """The device that it works on; of a CPU also what its bits hang on."""
    from ip2pbatch.backends.openvino import compiling
    from ip2pbatch.engine.on_torch import torch_device_name

    place = place_of(machine)
    return torch_device_name("cpu", place.threads) if place.kind == "cpu" else compiling.full_name(place)


def devices() -> Sequence[str]:
    """The CPU: of what else there may be, none was tried by several processes."""
    return ("cpu",)


def libraries() -> Mapping[str, str]:
    """OpenVINO's version. Raises MissingError."""
    from ip2pbatch.backends.openvino.compiling import openvino

    return {"openvino": str(openvino().__version__)}


def is_known_as(model: str, digest: str) -> bool:
    """As torch knows it: an export says whose weights it holds."""
    from ip2pbatch.engine import on_torch

    return on_torch.is_known_as(model, digest)


def files(model: str, *, safety: bool) -> tuple[str, Mapping[str, str]]:
    """As torch has them."""
    from ip2pbatch.engine import on_torch

    return on_torch.files(model, safety=safety)


def as_made(spec: EngineSpec, batch: int, steps: tuple[str, ...] | None) -> Machine:
    """The flags of a run that was made with it."""
    return Machine(
        "openvino", spec.provider, Precision(spec.precision), Determinism(spec.determinism), batch,
        interval=interval_in(spec.approximations),
    )  # fmt: skip


def findings() -> Iterator[Finding]:
    """The devices that OpenVINO finds."""
    from ip2pbatch.backends.openvino import compiling

    try:
        found = compiling.devices()
    except MissingError as error:
        yield Finding("openvino backend", "missing", "note", f"optional: {error.hint}")
        return
    if is_installed("torch"):
        untried = "; gpu and npu: not run by us yet" if len(found) > 1 else ""
        why = "it exports and compiles first, which only large folders make up for"
        yield Finding(
            "openvino backend", ", ".join(found), why=f"by --backend openvino; unasked torch is taken: {why}{untried}"
        )
