"""Exporting a model to ONNX: trace, fuse, halve, compare with PyTorch, and only then give the folder its name.

The safety checker stays on torch and is copied as it is, with the tokenizer and the configurations, so that the folder
is a model of its own.
"""

from __future__ import annotations

import importlib.metadata
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ip2pbatch.backends import artefact as artefacts
from ip2pbatch.backends import model_folder
from ip2pbatch.backends.artefact import Artefact
from ip2pbatch.backends.model_folder import Layout
from ip2pbatch.backends.onnx import external_weights, graphs, parity
from ip2pbatch.backends.onnx.fp16 import to_half
from ip2pbatch.backends.onnx.traced import Network, networks
from ip2pbatch.backends.pytorch import backend as pytorch
from ip2pbatch.backends.pytorch.guidance_embedding import is_embedded
from ip2pbatch.backends.quiet import quiet
from ip2pbatch.backends.weights import ModelFolder
from ip2pbatch.disk.digests import file_sha256
from ip2pbatch.errors import ModelError, ResourceError, UsageError

OPSET = 17
FILES = {
    "text_encoder": "text_encoder/model.onnx",
    "unet": "unet/model.onnx",
    "vae_encoder": "vae/encoder.onnx",
    "vae_decoder": "vae/decoder.onnx",
    "vae_decoder_fp32": "vae/decoder_fp32.onnx",  # for latents whose picture came out broken in fp16
}

_EXPORTED = ("text_encoder", "unet", "vae")
_BESIDE = ("ip2pbatch.json", "taught.json")  # what a model's folder says for `plan` and for advice
_LIBRARIES = ("torch", "diffusers", "transformers", "onnx", "onnxruntime", "onnxruntime-gpu", "openvino")

Say = Callable[[str], None]
Answer = Callable[[Mapping[str, torch.Tensor]], NDArray[np.float32]]
"""Has a network that was opened work on named inputs."""


@dataclass(frozen=True, slots=True)
class Form:
    """The form of an export: fp32 or fp16; a plain graph, or one fused for the CUDA provider; ONNX's opset."""

    precision: str = "fp32"
    graph: str = "plain"
    opset: int = OPSET


def form_for(provider: str, precision: str | None = None, opset: int = OPSET) -> Form:
    """The Form that `provider` runs best; without a precision in fp32 for a CPU and in fp16 for a GPU."""
    return Form(precision or default_precision(provider), "fused" if provider == "cuda" else "plain", opset)


def default_precision(provider: str) -> str:
    """The precision that is used on `provider` where none is named."""
    return "fp32" if provider == "cpu" else "fp16"


def export(model: ModelFolder, folder: Path, form: Form, opened: Callable[[Path], Answer], say: Say) -> Artefact:
    """Export `model` to `folder` and compare each network, `opened` by what is to run it, with PyTorch; `say` hears how
    far it is.

    `folder` appears when all is done and right; an older export in it is replaced. Raises ModelError (6) where a
    network is not what it was exported from, UsageError where `folder` holds something else, ResourceError (7),
    MissingError.
    """
    _refuse(folder, form)
    checked = model_folder.check(model.path, checker=model.checker)
    if checked.single is not None:
        hint = f"make a folder of it: ip2pbatch models import {model.path}"
        raise ModelError(f"{model.path} is one file, and an export is made of a folder", hint=hint)
    if is_embedded(checked.config("unet")):
        why = "is distilled: its UNet reads both guidance scales, and an exported one has no input for them"
        raise ModelError(f"{model.path} {why}", hint="use --backend torch, or export the model that it was made from")
    with quiet():
        parts = pytorch.load_parts(checked, torch.float32, torch.float32, torch.device("cpu"), laid=model.laid)
    with _staged(folder) as staging:
        described: dict[str, dict[str, Any]] = {}
        for network in networks(parts):
            say(f"exporting the {network.name.replace('_', ' ')}")
            vae = (model.laid.vae.layout, model.laid.vae.component) if model.laid.vae else (checked, "vae")
            spared = network.name.startswith("vae") and model_folder.forces_upcast(*vae)
            own = replace(form, precision="fp32") if spared else form
            described |= _export_network(network, staging, own, opened)
        files = [*_copied(checked, staging), *_written(staging)]
        made = Artefact(
            model.name, model.digest, form.precision, form.graph, form.opset, model_folder.latent_channels(checked),
            float(parts.vae.config.scaling_factor), pytorch.vae_scale(parts.vae), described,
            {name: file_sha256(staging / name) for name in sorted(set(files))}, _versions(),
        )  # fmt: skip
        artefacts.write(made, staging)
    return artefacts.read(folder)


def cached(model: ModelFolder, form: Form, opened: Callable[[Path], Answer], say: Say) -> Artefact:
    """The export of `model` in this user's cache, made there on first use. Raises as `export` does."""
    from filelock import FileLock

    from ip2pbatch.disk.remembered import cache_folder

    root = cache_folder() / "onnx"
    root.mkdir(parents=True, exist_ok=True)
    name = f"{model.digest[:16]}-{form.precision}-{form.graph}-opset{form.opset}-v{artefacts.FORMAT}"
    with FileLock(root / f"{name}.lock"):
        if artefacts.is_artefact(root / name):
            found = artefacts.read(root / name)
            artefacts.check(found, model_digest=model.digest, precision=form.precision, graph=form.graph)
            return found
        say(f"exporting {model.name} to ONNX, once: it is kept in {root / name}")
        return export(model, root / name, form, opened, say)


def _export_network(
    network: Network, staging: Path, form: Form, opened: Callable[[Path], Answer]
) -> dict[str, dict[str, Any]]:
    """Write the files of one network and compare them; what artefact.json says of each, by the file's name."""
    file = staging / FILES[network.name]
    file.parent.mkdir(exist_ok=True)
    graphs.trace(network, file, form.opset, fused=form.graph == "fused")
    made = {}
    if form.precision == "fp16" and network.name == "vae_decoder":
        exact = staging / FILES["vae_decoder_fp32"]
        external_weights.write(external_weights.read(file), exact)
        made["vae_decoder_fp32"] = _describe(network, exact, "fp32", opened)
    if form.graph == "fused":
        graphs.fuse(file, network.name)
    if form.precision == "fp16":
        graph = external_weights.read(file)
        to_half(graph)
        external_weights.write(graph, file)
    made[network.name] = _describe(network, file, form.precision, opened)
    return {name: {"file": FILES[name], **facts} for name, facts in made.items()}


def _describe(network: Network, file: Path, precision: str, opened: Callable[[Path], Answer]) -> dict[str, Any]:
    """The inputs and the parity of an exported network. Raises ModelError where it is not near enough to PyTorch's."""
    answer = opened(file)
    found = parity.worst(parity.compare(network.run(probe).numpy(), answer(probe)) for probe in network.probes)
    parity.require(network.name.replace("_", " "), precision, found)
    inputs = {
        name: [network.axes.get(name, {}).get(axis, size) for axis, size in enumerate(value.shape)]
        for name, value in network.probes[0].items()
    }
    return {"inputs": inputs, "max_relative": found.max_relative, "psnr": round(found.psnr, 2)}


def _refuse(folder: Path, form: Form) -> None:
    if folder.exists() and not artefacts.is_artefact(folder) and (folder.is_file() or any(folder.iterdir())):
        raise UsageError(f"{folder} holds something that is not an export", hint="give a folder that does not exist")
    if not 17 <= form.opset <= 20:
        raise UsageError(f"opset {form.opset} is not written", hint=f"use 17 to 20; {OPSET} is the tested one")


@contextmanager
def _staged(folder: Path) -> Iterator[Path]:
    """A folder beside `folder` that takes its place at the end, and is gone after an error or an interrupt."""
    staging = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(staging, ignore_errors=True)
    try:
        staging.mkdir(parents=True)
        yield staging
        if folder.exists():
            shutil.rmtree(folder)
        staging.rename(folder)
    except OSError as error:
        raise ResourceError(
            f"the export cannot be written to {folder}: {error.strerror or error}",
            hint="while it is made it takes up to twice the room of the model in float32",
        ) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _copied(checked: Layout, staging: Path) -> list[str]:
    """Copy all that is loaded beside the exported networks' weights; the names."""
    names = [name for name in checked.files if not (name.startswith(_EXPORTED) and ".safetensors" in name)]
    names += [name for name in _BESIDE if (checked.path / name).is_file()]
    for name in names:
        (staging / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(checked.path / name, staging / name)
    return names


def _written(staging: Path) -> list[str]:
    return [path.relative_to(staging).as_posix() for path in staging.glob("*/*") if path.suffix in (".onnx", ".data")]


def _versions() -> dict[str, str]:
    installed = {one.metadata["Name"].lower() for one in importlib.metadata.distributions()}
    return {name: importlib.metadata.version(name) for name in _LIBRARIES if name in installed}
