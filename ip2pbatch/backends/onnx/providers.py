"""onnxruntime's providers: opening a session on the one that was asked for, or saying plainly why it cannot be had.

onnxruntime lists a provider that it was built with, not one that works, and where it cannot start one it goes on with
the CPU and says so in a log at best. Here that is an error which names the missing library and what brings it.
"""

from __future__ import annotations

import ctypes
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ip2pbatch.errors import MissingError, UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}

_INSTALL = "pip install 'ip2pbatch[onnx]', or 'ip2pbatch[onnx-gpu]' for an NVIDIA GPU (never both)"
_INSTALL_GPU = "pip uninstall onnxruntime, then pip install 'ip2pbatch[onnx-gpu]': only one of the two can be there"


@dataclass(frozen=True, slots=True)
class Place:
    """Where sessions run: a provider of PROVIDERS, the GPU's index, the CPU's threads, repeatable kernels or any."""

    provider: str = "cpu"
    device: int = 0
    threads: int = 1
    deterministic: bool = False


def onnxruntime() -> Any:
    """The library; MissingError with the pip line where it, or onnx beside it, is not installed."""
    try:
        import onnx  # noqa: F401 (exports are written with it; both come with the extra)
        import onnxruntime
    except ImportError as error:
        raise MissingError(f"the onnx backend needs onnx and onnxruntime ({error})", hint=_INSTALL) from error
    return onnxruntime


def choose(provider: str | None, device: str | None) -> tuple[str, int]:
    """The provider and the GPU's index behind `--provider` and `--device`; a GPU where both onnxruntime and torch can.

    UsageError where the two flags do not fit together.
    """
    kind, _, index = (device or "").partition(":")
    if kind not in ("", "cpu", "cuda") or not (index or "0").isdigit():
        raise MissingError(f"{device} is not a device of the onnx backend", hint="use cpu, cuda or cuda:1")
    if provider is None:
        provider = kind or ("cuda" if _has("cuda") and _gpus() else "cpu")
    if kind and (provider == "cpu") != (kind == "cpu"):
        raise UsageError(f"--provider {provider} does not run on {device}", hint="leave out --device or --provider")
    return provider, int(index or 0)


def open_session(file: Path | bytes, place: Place, options: Mapping[str, str] | None = None) -> Any:
    """An InferenceSession over an ONNX file (or its bytes) that really runs on `place`.

    `options` are the provider's own. Raises MissingError where the provider cannot be had here.
    """
    runtime = onnxruntime()
    refuse_missing(place)
    settings = runtime.SessionOptions()
    settings.intra_op_num_threads = place.threads
    settings.log_severity_level = 3
    settings.use_deterministic_compute = place.deterministic
    wanted = [(PROVIDERS[place.provider], {**_options(place.provider, place), **(options or {})})]
    if place.provider == "tensorrt":
        wanted.append((PROVIDERS["cuda"], _options("cuda", place)))  # for the operators that TensorRT has not
    if place.provider != "cpu":
        wanted.append((PROVIDERS["cpu"], {}))
        runtime.preload_dlls()
    session = _create(runtime, file, settings, wanted)
    if session.get_providers()[0] != PROVIDERS[place.provider]:
        raise cannot_start(place.provider)
    session.disable_fallback()
    return session


def opener(place: Place) -> Callable[[Path], Callable[[Mapping[str, Tensor]], NDArray[np.float32]]]:
    """What opens an exported network on `place`, to be asked with named inputs. Raises as `open_session` does."""
    refuse_missing(place)

    def opened(file: Path) -> Callable[[Mapping[str, Tensor]], NDArray[np.float32]]:
        session = open_session(file, place)

        def answer(inputs: Mapping[str, Tensor]) -> NDArray[np.float32]:
            found: NDArray[np.float32] = session.run(None, {name: value.numpy() for name, value in inputs.items()})[0]
            return found

        return answer

    return opened


def refuse_missing(place: Place) -> None:
    """Raises MissingError where this onnxruntime was built without the provider, or torch sees no such GPU."""
    if not _has(place.provider):
        raise MissingError(f"this onnxruntime was built without the {place.provider} provider", hint=_INSTALL_GPU)
    if place.provider != "cpu" and place.device >= _gpus():
        raise MissingError(
            f"torch sees no CUDA device {place.device} here ({_gpus()} found)",
            hint="`ip2pbatch doctor` says why; a CUDA build of torch is needed too",
        )


def cannot_start(provider: str) -> MissingError:
    """Why a provider that is built in does not start: the library that is missing, and the pip line that brings it."""
    library = missing_library(provider)
    reason = f"{library} cannot be loaded" if library else "it does not start on this GPU and driver"
    return MissingError(f"onnxruntime cannot use {provider} here: {reason}", hint=pip_line(provider))


def pip_line(provider: str) -> str:
    """What brings the libraries that a provider loads, for the CUDA that this onnxruntime was built with."""
    cuda = cuda_version().partition(".")[0]
    if provider == "tensorrt":
        return (
            f"pip install 'tensorrt-cu{cuda}>=10,<11' (onnxruntime wants TensorRT 10; its libraries come from NVIDIA's "
            "own package index, not from the default one), or use --provider cuda"
        )
    return f"pip install 'onnxruntime-gpu[cuda,cudnn]' brings CUDA {cuda} and cuDNN 9, or use --provider cpu"


def cuda_version() -> str:
    """The CUDA version that the installed onnxruntime was built with; that of today's where it was built without."""
    from onnxruntime.capi import build_and_package_info

    return str(getattr(build_and_package_info, "cuda_version", "") or "13.0")


def missing_library(provider: str) -> str | None:
    """The first shared library that the provider needs and the loader does not find; None where it finds all."""
    folder = Path(onnxruntime().__file__).parent / "capi"
    try:
        ctypes.CDLL(str(folder / f"libonnxruntime_providers_{provider}.so"))
    except OSError as error:
        found = re.match(r"(\S+\.so[.\d]*): cannot open shared object", str(error))
        return Path(found[1]).name if found else None
    return None


def why_not(provider: str) -> str:
    """Why a provider does not work on this machine, with what helps; "" where a session on it runs."""
    import numpy as np
    from onnx import TensorProto, helper

    shape = (
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [1]),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, [1]),
    )
    node = helper.make_node("Add", ["x", "x"], ["y"])
    graph = helper.make_graph([node], "probe", [shape[0]], [shape[1]])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    try:
        session = open_session(model.SerializeToString(), Place(provider))
        session.run(None, {"x": np.ones(1, np.float32)})
    except MissingError as error:
        return f"{error}; {error.hint}"
    return ""


def _create(runtime: Any, file: Path | bytes, settings: Any, wanted: list[tuple[str, dict[str, str]]]) -> Any:
    """The session, on whatever provider onnxruntime ends up; what it prints about that is held back."""
    runtime.set_default_logger_severity(4)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            source = file if isinstance(file, bytes) else str(file)
            return runtime.InferenceSession(source, settings, providers=wanted, enable_fallback=0)
    except Exception as error:
        if wanted[0][0] == PROVIDERS["cpu"] or not isinstance(error, RuntimeError):
            raise
        name = next(name for name, provider in PROVIDERS.items() if provider == wanted[0][0])
        raise cannot_start(name) from error
    finally:
        runtime.set_default_logger_severity(2)


def _options(provider: str, place: Place) -> dict[str, str]:
    """Where it works, and that float32 on CUDA is float32: unasked it rounds what it multiplies to ten bits."""
    where = {} if provider == "cpu" else {"device_id": str(place.device)}
    return where | ({"use_tf32": "0"} if provider == "cuda" else {})


def _has(provider: str) -> bool:
    return PROVIDERS[provider] in onnxruntime().get_available_providers()


def _gpus() -> int:
    from ip2pbatch.backends.pytorch import accelerators

    return len(accelerators.available()) if accelerators.default() == "cuda" else 0
