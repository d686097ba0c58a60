"""A model in another runtime's form, compared with PyTorch before it is kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ip2pbatch.run.machine import Machine, Precision, Provider

if TYPE_CHECKING:
    from ip2pbatch.jobs.voice import Voice


@dataclass(frozen=True, slots=True)
class Exported:
    """A folder that `--backend onnx --model` takes. `networks` says of each how near it came to PyTorch: its PSNR in
    dB, and the largest difference as a share of its range.
    """

    model: str
    folder: Path
    precision: str
    networks: Mapping[str, tuple[float, float]]


def export(model: str, out: Path, provider: Provider, precision: Precision, opset: int, voice: Voice) -> Exported:
    """Write a model as ONNX. Raises MissingError, ModelError, UsageError, and where a network is not what PyTorch
    makes of it.
    """
    from ip2pbatch.backends.onnx.providers import onnxruntime, opener
    from ip2pbatch.backends.weights import resolve
    from ip2pbatch.engine.on_onnx import place_of, refuse_bf16

    refuse_bf16(precision)
    onnxruntime()
    from ip2pbatch.backends.onnx import export as onnx

    form = onnx.form_for(provider, None if precision is Precision.AUTO else str(precision), opset)
    # A plain graph is compared with PyTorch on the CPU, a fused one where alone it runs.
    compared = Provider.CUDA if form.graph == "fused" else Provider.CPU
    opened = opener(place_of(Machine(provider=compared)))
    made = onnx.export(resolve(model, note=voice.note), out, form, opened, voice.note)
    networks = {name: (facts["psnr"], facts["max_relative"]) for name, facts in made.networks.items()}
    return Exported(model, out, form.precision, networks)
