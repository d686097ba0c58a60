"""What this machine has, and what an edit would use on it and why."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

PACKAGES = (
    "torch", "diffusers", "transformers", "accelerate", "safetensors", "huggingface-hub", "pillow", "numpy",
    "onnxruntime", "onnxruntime-gpu",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the doctor's report: state is ok, note or problem."""

    topic: str
    value: str
    state: str = "ok"
    why: str = ""


def examine() -> list[Finding]:
    """Every finding, in the order it is shown; each is something an edit depends on."""
    return [*_system(), *_packages(), *_devices(), *_providers(), *_models()]


def as_json(findings: list[Finding]) -> list[dict[str, str]]:
    """The findings for `doctor --json`."""
    return [asdict(finding) for finding in findings]


def _system() -> Iterator[Finding]:
    yield Finding("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    yield Finding("disk", f"{free:.0f} GB free here", "ok" if free > 5 else "problem", "a run keeps lossless pictures")


def _packages() -> Iterator[Finding]:
    for name in PACKAGES:
        try:
            yield Finding(name, importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            if not name.startswith("onnxruntime"):
                yield Finding(name, "missing", "problem", "pip install ip2pbatch brings it")


def _devices() -> Iterator[Finding]:
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


def _providers() -> Iterator[Finding]:
    """Each provider of onnxruntime as a session finds it, which is not always as onnxruntime lists it."""
    from ip2pbatch.backends.onnx import providers
    from ip2pbatch.errors import MissingError

    try:
        providers.onnxruntime()
    except MissingError as error:
        yield Finding("onnx backend", "missing", "note", f"optional: {error.hint}")
        return
    for name in providers.PROVIDERS:
        reason = providers.why_not(name)
        yield Finding(f"onnx {name}", "does not work" if reason else "works", "note" if reason else "ok", reason)


def _models() -> Iterator[Finding]:
    from ip2pbatch.backends.weights import list_models

    for model in list_models():
        yield Finding(f"model {model.name}", str(model.path), why=f"{model.bytes / 1e6:.0f} MB")
