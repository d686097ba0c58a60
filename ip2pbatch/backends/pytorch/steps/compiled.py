"""torch.compile for large jobs: whether it will pay, and artefacts of earlier compilations tried first.

Compiling takes a minute or more and makes every later call faster, so it is worth its price only for many rows. What
it cost and gained is remembered a machine, versions and architecture, so that the next run decides on measurements.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ip2pbatch.backends.pytorch import accelerators
from ip2pbatch.backends.pytorch.steps.staged import Stage
from ip2pbatch.disk.atomic import write_atomic
from ip2pbatch.disk.remembered import Remembered
from ip2pbatch.errors import ResourceError

GPU_OPTIONS: Mapping[str, Any] = {"conv_1x1_as_mm": True, "coordinate_descent_tuning": True, "epilogue_fusion": False}
"""Inductor's options on a GPU, those of diffusers' guide to fast inference; none of them is set globally."""


@dataclass(frozen=True, slots=True)
class Price:
    """What compiling costs in seconds, and what share of a call's time it saves; `cached` where artefacts lie ready."""

    seconds: float
    saved: float
    cached: bool = False


ON_GPU, ON_CPU = Price(60.0, 0.28), Price(150.0, 0.18)
"""What is reckoned with until it was measured: a GPU's published figures, the embedded model on one CPU thread."""

_CACHED_SECONDS = 15.0
_MOST_SHAPES = 512  # of stages, for all models of a process


def pays(rows: int, seconds_per_row: float, price: Price) -> bool:
    """Whether a job of `rows` network rows is over sooner with compiling than without, with a margin of a half."""
    cost = min(price.seconds, _CACHED_SECONDS) if price.cached else price.seconds
    return rows * seconds_per_row * price.saved > 1.5 * cost


def why_no_compiler(device: torch.device) -> str:
    """Why Inductor cannot work here; "" where it can. It needs Triton on a GPU and a C++ compiler on a CPU."""
    if reason := accelerators.untried(device):
        return reason
    if accelerators.is_nvidia(device):
        from torch.utils._triton import has_triton

        return "" if has_triton() else "Triton is not installed"
    found = any(shutil.which(name) for name in ("c++", "g++", "clang++"))
    return "" if found else "there is no C++ compiler on this machine"


class Artefacts:
    """Compiled code that is kept between runs, and what it cost, in a folder of the user's cache.

    A key is everything the code hangs on: versions, GPU or processor, architecture and number format.
    """

    def __init__(self, root: Path, identity: Mapping[str, object]) -> None:
        text = json.dumps(dict(identity), sort_keys=True, default=str)
        self._code = root / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.bin"
        self._prices = Remembered("compiling")

    def price(self, device: torch.device) -> Price:
        """What compiling will cost here: measured where it was done before."""
        expected = ON_CPU if accelerators.on_host(device) else ON_GPU
        seconds = self._prices.get(self._code.stem)
        if not isinstance(seconds, (int, float)):
            return expected
        return Price(float(seconds), expected.saved, self._code.exists())

    def load(self) -> bool:
        """Hand kept artefacts to the compiler; False where there are none or they do not fit."""
        try:
            return torch.compiler.load_cache_artifacts(self._code.read_bytes()) is not None
        except (OSError, RuntimeError, ValueError, AssertionError):
            return False

    def save(self, seconds: float) -> None:
        """Keep what this process compiled, and the seconds that it took where nothing was kept before."""
        found = torch.compiler.save_cache_artifacts()
        try:
            self._code.parent.mkdir(parents=True, exist_ok=True)
            if self._prices.get(self._code.stem) is None:
                self._prices.keep({self._code.stem: round(seconds, 1)})
            if found is not None:
                write_atomic(self._code, found[0])
        except (OSError, ResourceError):
            return  # a cache that cannot be written costs the next run the compilation again


def identity_of(unet: Any, device: torch.device, dtype: torch.dtype) -> dict[str, object]:
    """Everything that compiled code of this network hangs on."""
    import diffusers

    on_host = accelerators.on_host(device)
    where = torch.backends.cpu.get_cpu_capability() if on_host else accelerators.name_of(device)
    return {
        "torch": torch.__version__, "cuda": accelerators.toolkit(), "diffusers": diffusers.__version__, "device": where,
        "threads": torch.get_num_threads() if on_host else 0,
        "dtype": str(dtype), "architecture": {key: unet.config[key] for key in sorted(unet.config)},
    }  # fmt: skip


class Compiled:
    """Stages through torch.compile with static shapes. `ready` has run before the first compilation of a process."""

    def __init__(self, artefacts: Artefacts, options: Mapping[str, Any], compiler: Callable[..., Stage] | None = None):
        self._artefacts, self._options = artefacts, dict(options)
        self._compiler = compiler or torch.compile
        self._seen: set[tuple[object, ...]] = set()
        self._loaded = False
        self.seconds = 0.0

    def around(self, stage: Stage) -> Stage:
        """`stage` compiled for each shape it meets; the first call of a shape compiles, and keeps the artefacts."""
        made = self._compiler(stage, dynamic=False, options=self._options)

        def compiled(*tensors: Tensor) -> tuple[Tensor, ...]:
            key = (stage, *_shapes(tensors))
            if key in self._seen:
                return made(*tensors)
            if not self._loaded:
                self._loaded = True
                self._artefacts.load()
            begun = time.perf_counter()
            # Beyond torch's own limit a further shape would run as it was written, in silence.
            with torch._dynamo.config.patch(recompile_limit=_MOST_SHAPES, accumulated_recompile_limit=_MOST_SHAPES):
                outputs = made(*tensors)
            self.seconds += time.perf_counter() - begun
            self._seen.add(key)
            self._artefacts.save(self.seconds)
            return outputs

        return compiled


def _shapes(tensors: Sequence[Tensor]) -> list[tuple[object, ...]]:
    return [(tensor.shape, tensor.dtype) for tensor in tensors]
