"""A `.ckpt`: a pickle of weights, and of whatever the program that trained them had at hand. It is read without running
anything of it.

torch's own reader for weights makes tensors and plain containers, and calls nothing else. What training programs leave
beside the weights (callbacks, configurations, numbers) is given to stand-ins that do nothing; no module is imported for
it. Whatever else a file asks for is no part of a model: it is refused by name.
"""

from __future__ import annotations

import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import Tensor

from ip2pbatch.errors import ModelError

_FRAMEWORKS = ("pytorch_lightning.", "lightning.", "lightning_fabric.", "lightning_utilities.", "omegaconf.", "numpy.")
_PLAIN = frozenset(
    {
        "typing.Any", "argparse.Namespace", "copyreg._reconstructor", "builtins.object", "builtins.dict",
        "builtins.list", "builtins.tuple", "builtins.int", "builtins.float", "builtins.str", "builtins.bool",
        "pathlib.Path", "pathlib.PosixPath", "pathlib.PurePosixPath", "pathlib.WindowsPath",
    }
)  # fmt: skip
_CONTAINERS = ("collections.defaultdict", "AttributeDict")  # filled item by item
_PICKLE = 64 << 20  # bytes of the part that is no weights: a model's has one million
_AGAIN = "fetch it again: a download may have been cut short"
_NOT_OURS = "use a file of weights from somebody you trust, best as safetensors"
_NESTED = ("state_dict", "model")


class _StandIn:
    """Takes what a class of a training program is given, and keeps none of it."""

    def __new__(cls, *_: object, **__: object) -> _StandIn:
        return object.__new__(cls)

    def __init__(self, *_: object, **__: object) -> None:
        """Nothing."""

    def __setstate__(self, state: object) -> None:
        """Nothing."""


def read(file: Path) -> dict[str, Tensor]:
    """The weights in a checkpoint by name. Nothing of the file is run; ModelError where it asks for more than weights,
    is damaged, or holds none.
    """
    _refuse_archive(file)
    names = _asked_for(file)
    if refused := sorted(name for name in names if not _is_left_by_training(name)):
        more = f" and {len(refused) - 3} more" if len(refused) > 3 else ""
        raise ModelError(
            f"{file} asks for {', '.join(refused[:3])}{more}, which weights have no need of: nothing of it was run",
            hint=_NOT_OURS,
        )
    try:
        with torch.serialization.safe_globals([(_stand_in(name), name) for name in names]):
            found = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # a made-up pickle makes the reader stumble in any way; it runs nothing
        raise ModelError(f"{file} cannot be read as weights ({_first(error)})", hint=_NOT_OURS) from error
    return _weights(found, file)


def _refuse_archive(file: Path) -> None:
    """Refuse what torch never writes: an archive that is packed, that says more than it has, or that points out."""
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise ModelError(f"{file} is damaged, incomplete, or no checkpoint of torch ({error})", hint=_AGAIN) from error
    for entry in entries:
        path = PurePosixPath(entry.filename)
        if path.is_absolute() or ".." in path.parts or "\\" in entry.filename:
            raise ModelError(f"{file} holds {entry.filename!r}, which points out of it", hint=_NOT_OURS)
        if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
            raise ModelError(f"{file} holds {entry.filename!r} packed, as torch writes none", hint=_NOT_OURS)
        if path.name == "data.pkl" and entry.file_size > _PICKLE:
            raise ModelError(f"{file} holds {entry.file_size / 1e6:,.0f} MB that are no weights", hint=_NOT_OURS)


def _asked_for(file: Path) -> list[str]:
    """The classes and functions that the pickle names beyond tensors and plain containers, found without reading it."""
    try:
        return torch.serialization.get_unsafe_globals_in_checkpoint(file)
    except (pickle.UnpicklingError, EOFError, IndexError, ValueError, RuntimeError, AttributeError) as error:
        raise ModelError(f"{file} is no checkpoint of torch ({_first(error)})", hint=_NOT_OURS) from error


def _is_left_by_training(name: str) -> bool:
    return name.startswith(_FRAMEWORKS) or name in _PLAIN or name.endswith(_CONTAINERS[:1])


def _stand_in(name: str) -> Callable[..., object]:
    if name == _CONTAINERS[0]:
        return lambda *_: OrderedDict()
    if name.endswith(_CONTAINERS[1]):
        return OrderedDict
    # A class of its own for each: they are keys of dictionaries, and the reader compares them.
    return type("Left", (_StandIn,), {"__slots__": ()})


def _weights(found: Any, file: Path) -> dict[str, Tensor]:
    for key in _NESTED:
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
    values = found.items() if isinstance(found, Mapping) else ()
    weights = {key: value.detach() for key, value in values if isinstance(key, str) and isinstance(value, Tensor)}
    if not weights:
        raise ModelError(f"{file} holds no weights", hint=_NOT_OURS)
    for key, value in weights.items():
        plain = value.layout == torch.strided and value.device.type == "cpu" and not value.is_quantized
        if not plain or value.nbytes > value.untyped_storage().nbytes():  # a few numbers may claim to be many
            raise ModelError(f"{file}: {key} is no plain tensor", hint=_NOT_OURS)
    return weights


def _first(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
