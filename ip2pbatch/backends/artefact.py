"""What an exported folder says of itself in artefact.json, and who may load it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from ip2pbatch.errors import ModelError

FILE = "artefact.json"
CHECKER = ("safety_checker/", "feature_extractor/")
FORMAT = 1
"""Raised where an older export must not be loaded any more; it is part of the cache's keys."""

_AGAIN = "export the model again: ip2pbatch export onnx MODEL -o FOLDER"


@dataclass(frozen=True, slots=True)
class Artefact:
    """An exported model: whose weights it holds, in which form, and how near to PyTorch each network is.

    `graph` is plain (CPU and TensorRT) or fused (operators that only the CUDA provider has). `networks` holds of each
    its file, its inputs' shapes (numbers, and names of what varies) and its parity; `files` is the sha256 of each file
    that is loaded.
    """

    model: str
    model_digest: str
    precision: str
    graph: str
    opset: int
    latent_channels: int
    scaling_factor: float
    vae_scale: int
    networks: Mapping[str, Mapping[str, Any]]
    files: Mapping[str, str]
    versions: Mapping[str, str]
    path: Path = Path()

    def loaded(self, checker: bool) -> tuple[str, ...]:
        """The names of the files that are loaded, those of the safety checker where it is."""
        return tuple(name for name in self.files if checker or not name.startswith(CHECKER))

    def file(self, network: str) -> Path:
        """The ONNX file of a network."""
        return self.path / str(self.networks[network]["file"])


def is_artefact(folder: Path) -> bool:
    """Whether `folder` is an exported model."""
    return (folder / FILE).is_file()


def read(folder: Path) -> Artefact:
    """The Artefact of an exported folder, its files not looked at. ModelError (6) where it is not one we load."""
    file = folder / FILE
    try:
        given = json.loads(file.read_text(encoding="utf-8"))
        if given.pop("format") != FORMAT:
            raise ModelError(f"{folder} was exported by another version of ip2pbatch", hint=_AGAIN)
        found = Artefact(**given, path=folder)
        names = [*found.files, *(str(one["file"]) for one in found.networks.values())]
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ModelError(f"{file} cannot be used: {error}", hint=_AGAIN) from error
    for name in names:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\\" in name or name not in found.files:
            raise ModelError(f"{file} names {name!r}, which is not a file of the export", hint=_AGAIN)
    return found


def write(artefact: Artefact, folder: Path) -> None:
    """Write artefact.json, which makes `folder` an exported model: last of all its files."""
    values = {key: value for key, value in dataclasses.asdict(artefact).items() if key != "path"}
    text = json.dumps({"format": FORMAT, **values}, indent=2)
    (folder / FILE).write_text(text + "\n", encoding="utf-8")


def check(artefact: Artefact, *, model_digest: str, precision: str, graph: str) -> None:
    """Raises ModelError (6) where the export is another model's, or not what is asked for."""
    if artefact.model_digest != model_digest:
        raise ModelError(
            f"{artefact.path} was exported from other weights ({artefact.model}, {artefact.model_digest[:12]}) than "
            f"those that are asked for ({model_digest[:12]})",
            hint=f"delete that folder, or {_AGAIN}",
        )
    if artefact.precision != precision:
        raise ModelError(
            f"{artefact.path} was exported in {artefact.precision}, not in {precision}",
            hint=f"use --precision {artefact.precision}, or {_AGAIN} --precision {precision}",
        )
    if artefact.graph == "fused" and graph != "fused":
        raise ModelError(
            f"{artefact.path} was exported for the CUDA provider, whose operators no other provider has",
            hint=f"use --provider cuda, or {_AGAIN} --provider cpu",
        )


def check_files(artefact: Artefact, digests: Mapping[str, str]) -> None:
    """Raises ModelError (6) where a file has not the sha256 that was written down at the export."""
    for name, found in digests.items():
        wanted = artefact.files[name]
        if found != wanted:
            raise ModelError(
                f"{artefact.path / name} is not the file that was exported: its sha256 is {found[:12]}…, "
                f"not {wanted[:12]}…",
                hint=_AGAIN,
            )
