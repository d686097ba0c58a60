"""What this machine has, and what an edit would use on it and why."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
from collections.abc import Iterator
from pathlib import Path

from ip2pbatch.errors import MissingError, ModelError
from ip2pbatch.jobs.backends import BACKENDS, backend
from ip2pbatch.pictures.marks import manifests
from ip2pbatch.plan.families import FAMILIES
from ip2pbatch.plan.formats import FORMATS
from ip2pbatch.plan.metrics import named_in, offered
from ip2pbatch.run.machine import Finding

PACKAGES = (
    "torch", "diffusers", "transformers", "accelerate", "safetensors", "huggingface-hub", "pillow", "numpy",
    "onnxruntime", "onnxruntime-gpu",
)  # fmt: skip


def examine(model: str | None = None) -> list[Finding]:
    """Every finding, in the order it is shown; each is something an edit depends on, with `model` where it is named."""
    of_backends = (finding for name in BACKENDS for finding in backend(name).findings())
    here = (*_system(), *_packages(), *_formats(), *_signing(), *_families(), *_metrics())
    return [*here, *of_backends, *_models(), *_model(model)]


def _model(name: str | None) -> Iterator[Finding]:
    if name is not None:
        from ip2pbatch.engine.on_torch import model_findings

        yield from model_findings(name)


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


def _formats() -> Iterator[Finding]:
    for one in FORMATS.values():
        if missing := one.missing():
            yield Finding(f"format {one.title}", "not read: its library is not installed", "note", missing)
            continue
        how = "read and written" if one.written else f"read; delivered as {FORMATS[one.delivered()].title}"
        if one.encode and (line := one.unwritten()):
            how += f"; written after {line}"
        yield Finding(f"format {one.title}", how, why=" ".join(one.suffixes))


def _signing() -> Iterator[Finding]:
    if manifests.is_installed():
        how = f"files can be signed, by c2pa-python {importlib.metadata.version('c2pa-python')}"
        yield Finding("marks", how, why="`output: {sign: …}` in a recipe; `ip2pbatch marks` reads them")
    else:
        yield Finding("marks", "files cannot be signed: its library is not installed", "note", manifests.INSTALL)


def _metrics() -> Iterator[Finding]:
    """Numbers beside a cell that a recipe may ask for."""
    for one in named_in(offered()):
        try:
            one.check(fetch=False)
        except (MissingError, ModelError) as error:
            yield Finding(f"metric {one.caption}", str(error), "note", error.hint or "")
        else:
            yield Finding(f"metric {one.caption}", "ready", why=f"`{one.key}` in a recipe's sheet: metrics")


def _families() -> Iterator[Finding]:
    for family in FAMILIES.values():
        yield Finding(f"family {family.called}", "edits", why=" ".join(family.pipelines))


def _models() -> Iterator[Finding]:
    from ip2pbatch.backends.weights import list_models

    for model in list_models():
        yield Finding(f"model {model.name}", str(model.path), why=f"{model.family}, {model.bytes / 1e6:.0f} MB")
