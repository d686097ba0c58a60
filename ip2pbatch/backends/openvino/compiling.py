"""OpenVINO's devices, and graphs compiled for one of them, in one precision, for shapes that are fixed.

Fixed shapes are what makes it quick: with sides that may vary its plans are general ones. What was compiled is kept in
this user's cache by OpenVINO itself, under the graph, the device and the version, a folder a precision.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ip2pbatch.errors import MissingError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}
"""Precisions by OpenVINO's names for them."""

_INSTALL = "pip install 'ip2pbatch[openvino]'"
_NAMES = {"cpu": "CPU", "gpu": "GPU", "npu": "NPU"}
_MEMORY = re.compile(
    r"bad_alloc|out of memory|OUT_OF_(HOST_)?MEMORY|OUT_OF_RESOURCES|Exceeded max size of memory", re.I
)


@dataclass(frozen=True, slots=True)
class Place:
    """Where graphs run: cpu, gpu, gpu:1 or npu, and a CPU's threads."""

    device: str = "cpu"
    threads: int = 1

    @property
    def kind(self) -> str:
        """cpu, gpu or npu."""
        return self.device.partition(":")[0]

    @property
    def called(self) -> str:
        """OpenVINO's name of it: CPU, GPU, GPU.1, NPU."""
        kind, _, index = self.device.partition(":")
        return f"{_NAMES[kind]}.{index}" if index else _NAMES[kind]


def openvino() -> Any:
    """The library; MissingError with the pip line where it, or onnx beside it, is not installed."""
    try:
        import onnx  # noqa: F401 (exports are written with it; both come with the extra)
        import openvino
    except ImportError as error:
        raise MissingError(f"the openvino backend needs openvino and onnx ({error})", hint=_INSTALL) from error
    return openvino


def core() -> Any:
    """What finds devices and compiles: one to the end of the process, which has crashed after one was let go of.
    Raises MissingError.
    """
    return _core_of(openvino())


@cache
def _core_of(library: Any) -> Any:
    return library.Core()


def choose(device: str | None, threads: int) -> Place:
    """The Place behind `--device`, cpu where it is not given. MissingError where OpenVINO finds no such device here."""
    found = devices()
    place = Place(device or "cpu", threads)
    if place.kind not in _NAMES or not {place.called, f"{place.called}.0"}.intersection(found):
        raise MissingError(
            f"OpenVINO finds no {place.device} here (it finds {', '.join(found) or 'nothing'})",
            hint="use --device cpu; gpu and npu are Intel's, and need their drivers",
        )
    return place


def devices() -> Sequence[str]:
    """What OpenVINO finds here, by its names: CPU, GPU or GPU.0, GPU.1, NPU."""
    return tuple(core().available_devices)


def full_name(place: Place) -> str:
    """The device as its maker calls it."""
    return str(core().get_property(place.called, "FULL_DEVICE_NAME"))


def has_bf16() -> bool:
    """Whether the CPU multiplies bf16 itself."""
    return "BF16" in core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


class Compiler:
    """Compiles graphs for `place`; keeps what it compiled in the folder `kept`, where one is given."""

    def __init__(self, place: Place, kept: Path | None = None) -> None:
        self._core, self._place, self._kept = core(), place, kept

    def compile(
        self, file: Path, precision: str, shapes: Mapping[str, Sequence[int]] | None = None, streams: int = 1
    ) -> Any:
        """The graph in `file` for inputs of these shapes, any where there are none; so many calls at a time share the
        CPU's threads.
        """
        graph = self._core.read_model(str(file))
        if shapes is not None:
            graph.reshape({name: list(shape) for name, shape in shapes.items()})
        settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": HINTS[precision], "NUM_STREAMS": streams}
        if self._place.kind == "cpu":
            settings |= {"INFERENCE_NUM_THREADS": self._place.threads}
        if self._kept is not None:
            # a folder a precision: OpenVINO takes what it kept in another one for this one's, and answers with nan
            folder = self._kept / precision
            folder.mkdir(parents=True, exist_ok=True)
            settings |= {"CACHE_DIR": str(folder)}
        return self._core.compile_model(graph, self._place.called, settings)


def opener(place: Place) -> Callable[[Path], Callable[[Mapping[str, Tensor]], NDArray[np.float32]]]:
    """What opens an exported network on `place` in float32, to be asked with named inputs."""
    compiler = Compiler(place)

    def opened(file: Path) -> Callable[[Mapping[str, Tensor]], NDArray[np.float32]]:
        compiled = compiler.compile(file, "fp32")

        def answer(inputs: Mapping[str, Tensor]) -> NDArray[np.float32]:
            found: NDArray[np.float32] = compiled({name: value.numpy() for name, value in inputs.items()})[0]
            return found

        return answer

    return opened


@contextmanager
def memory() -> Iterator[None]:
    """OpenVINO's ways to say that memory ran out, as the condition that `execute` answers."""
    from ip2pbatch.run.engine import OutOfMemory

    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, MemoryError) or _MEMORY.search(str(error)):
            raise OutOfMemory(str(error).splitlines()[0] if str(error) else "no memory") from error
        raise
