"""TensorRT through onnxruntime: the shapes that engines are built for, and where built engines are kept.

An engine is built for minutes and then loaded in seconds, so it is kept under a key of all that it hangs on: the
network's file, the libraries, the GPU, the precision and the shapes.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.metadata
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ip2pbatch.backends.artefact import Artefact
from ip2pbatch.backends.onnx import providers
from ip2pbatch.errors import UsageError

_LIBRARY = "libnvinfer.so.10"


@dataclass(frozen=True, slots=True)
class Bucket:
    """Network rows a call, and the width and height of its pictures in pixels."""

    rows: int
    width: int
    height: int


def buckets(sizes: Sequence[tuple[int, int]], row_bucket: Callable[[tuple[int, int]], int]) -> tuple[Bucket, ...]:
    """The Buckets of a plan's sizes, each once and in order. UsageError where there is no size to build for."""
    if not sizes:
        raise UsageError(
            "TensorRT builds its engines for the sizes of a plan, and there is none",
            hint="run it with a recipe or photos",
        )
    return tuple(Bucket(row_bucket(size), *size) for size in sorted(set(sizes)))


def profiles(artefact: Artefact, network: str, wanted: Sequence[Bucket]) -> dict[str, str]:
    """onnxruntime's three options of optimisation profiles for `network`: one profile a Bucket.

    A profile takes from one row to the Bucket's rows, so that a call which is not padded, or a smaller one after the
    memory ran out, needs no other engine; it is tuned for the Bucket's rows.
    """
    inputs = artefact.networks[network]["inputs"]
    varying = {name: shape for name, shape in inputs.items() if any(isinstance(side, str) for side in shape)}
    made: dict[str, list[str]] = {"min": [], "opt": [], "max": []}
    for bucket in _distinct(network, wanted):
        for level, rows in (("min", 1), ("opt", bucket.rows), ("max", bucket.rows)):
            scale = 1 if network == "vae_encoder" else artefact.vae_scale
            sides = {"rows": rows, "height": bucket.height // scale, "width": bucket.width // scale}
            made[level] += [
                f"{name}:" + "x".join(str(sides.get(side, side)) for side in shape) for name, shape in varying.items()
            ]
    return {f"trt_profile_{level}_shapes": ",".join(shapes) for level, shapes in made.items()}


def options(artefact: Artefact, network: str, shapes: Mapping[str, str], cache: Path) -> dict[str, str]:
    """The provider's options for `network`, whose engine and timings lie in `cache`."""
    return {
        "trt_fp16_enable": "1" if artefact.precision == "fp16" and not network.endswith("fp32") else "0",
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(cache),
        "trt_engine_cache_prefix": network,
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(cache),
        "trt_layer_norm_fp32_fallback": "1",
        **shapes,
    }


def cache_folder(artefact: Artefact, network: str, shapes: Mapping[str, str], machine: Mapping[str, str]) -> Path:
    """Where the engine of `network` lies: a folder named by a hash of everything that the engine hangs on."""
    from ip2pbatch.disk.remembered import cache_folder

    name = str(artefact.networks[network]["file"])
    facts = {
        "network": {file: digest for file, digest in artefact.files.items() if file in (name, f"{name}.data")},
        "model": artefact.model_digest,
        "precision": artefact.precision,
        "opset": artefact.opset,
        "shapes": dict(shapes),
        "machine": dict(machine),
    }
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    return cache_folder() / "tensorrt" / key[:32]


def machine_facts(device: int) -> dict[str, str]:
    """The libraries and the GPU that an engine hangs on. Raises MissingError where TensorRT cannot be loaded."""
    from ip2pbatch.backends.pytorch import accelerators

    try:
        version = ctypes.CDLL(_LIBRARY).getInferLibVersion()
    except (OSError, AttributeError) as error:
        raise providers.cannot_start("tensorrt") from error
    card = accelerators.card(f"cuda:{device}")
    return {
        "onnxruntime": importlib.metadata.version("onnxruntime-gpu"),
        "tensorrt": str(version),
        "cuda": providers.cuda_version(),
        "gpu": card.name,
        "capability": f"{card.major}.{card.minor}",
        "memory": str(card.total_memory),
    }


def _distinct(network: str, wanted: Sequence[Bucket]) -> Sequence[Bucket]:
    """The Buckets as `network` sees them: text has no size, and the autoencoder works on one picture at a time."""
    if network == "text_encoder":
        return [Bucket(1, 0, 0)]
    return wanted if network == "unet" else [Bucket(1, bucket.width, bucket.height) for bucket in wanted]
