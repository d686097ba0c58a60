"""What the name of a model in a stage's config means: a stage's input, a folder, or a model of the hub; and its digest.

    start: ../models/sd        a folder, read from the config's own folder like every path
    start: owner/name@revision a model of the hub; without a revision, what this machine's cache calls `main`
    model: full                one of the stage's inputs
    data: owner/name@revision  a data set of the hub, where neither that path nor a folder `owner` is beside the config

A name is never both: where `owner` is a folder beside the config, `owner/name` was meant as a path, and is missing.
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from ip2pbatch.plan.defaults import EMBEDDED, hub_id

_COMMIT = re.compile(r"[0-9a-f]{40}")


class ModelName(str):
    """A model as a config names it: text that a stage's runner reads as above. Paths in it are absolute once read."""

    __slots__ = ()

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Any text."""
        return core_schema.no_info_after_validator_function(cls, core_schema.str_schema())

    @property
    def is_path(self) -> bool:
        """Whether it is an absolute path, as `beside` leaves every path."""
        return Path(self).is_absolute()

    @property
    def is_hub_id(self) -> bool:
        """Whether it is owner/name or owner/name@revision."""
        return hub_id(self) is not None

    @property
    def hub(self) -> tuple[str, str]:
        """Repository and revision of a hub id, `main` where it names none."""
        found = hub_id(self)
        assert found is not None
        return found[0], found[1] or "main"


class HubSet(str):
    """A data set of the hub as a config names it, `owner/name[@revision]`; a pinned one's revision is a commit."""

    __slots__ = ()

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """One of these, as it is."""
        return core_schema.is_instance_schema(cls, serialization=core_schema.to_string_ser_schema())

    @property
    def hub(self) -> tuple[str, str]:
        """Repository and revision, `main` where it names none."""
        return ModelName(self).hub

    @property
    def commit(self) -> str | None:
        """The commit that it is pinned to; None where it is not."""
        revision = self.hub[1]
        return revision if _COMMIT.fullmatch(revision) else None

    def at(self, commit: str) -> HubSet:
        """The same set, pinned."""
        return HubSet(f"{self.hub[0]}@{commit}")


def _source(value: Any) -> Any:
    return HubSet(value) if isinstance(value, str) and ModelName(value).is_hub_id else value


# Where a stage reads pairs that were made elsewhere: a path, or a data set of the hub.
DataSource = Annotated[HubSet | Path, BeforeValidator(_source)]


def set_beside(name: HubSet, folder: Path) -> HubSet | Path:
    """The set, or the path beside the config that it must have been meant as."""
    there, first = folder / name, folder / name.partition("/")[0]
    return there.resolve() if there.exists() or ("@" not in name and first.is_dir()) else name


def beside(name: ModelName, folder: Path, inputs: Collection[str]) -> ModelName:
    """The name with a path made absolute, read from the config's `folder`; every other name as it is."""
    if name in inputs or name in EMBEDDED:
        return name
    there = folder / Path(name).expanduser()
    looks = name.startswith(("/", "./", "../", "~")) or name in (".", "..") or name.partition("@")[0].count("/") > 1
    return ModelName(there.resolve()) if looks or there.exists() else name


def meant_as_path(name: ModelName, folder: Path) -> Path | None:
    """The path that `models/sd` was meant as where nothing is there: `folder` has a folder `models`; else None."""
    first, rest, _ = name.partition("/")
    return folder / name if rest and (folder / first).is_dir() else None


def commit_of(name: ModelName) -> str | None:
    """The commit of a hub model that this machine would load; None where it is not in the hub's cache."""
    from huggingface_hub import constants

    repo, revision = name.hub
    if _COMMIT.fullmatch(revision):
        return revision
    reference = Path(constants.HF_HUB_CACHE) / f"models--{repo.replace('/', '--')}" / "refs" / revision
    try:
        commit = reference.read_text("utf-8").strip()
    except OSError:
        return None
    return commit if _COMMIT.fullmatch(commit) else None


def folder_of(name: ModelName) -> Path | None:
    """Where the model's files are on this machine; None where they are not."""
    if name in EMBEDDED:
        return EMBEDDED[name]
    if name.is_path:
        return Path(name) if Path(name).is_dir() else None
    commit = commit_of(name) if name.is_hub_id else None
    if commit is None:
        return None
    from huggingface_hub import constants

    found = Path(constants.HF_HUB_CACHE) / f"models--{name.hub[0].replace('/', '--')}" / "snapshots" / commit
    return found if found.is_dir() else None


def pinned(name: ModelName, commit: str) -> ModelName:
    """The same model at one commit, so that what is loaded is what was looked at."""
    return ModelName(f"{name.hub[0]}@{commit}")


def count_weights(folder: Path) -> int:
    """How many numbers the safetensors files directly in `folder` hold, by their headers; 0 where there are none.

    Of a network that is there in several precisions, one counts.
    """
    return sum(math.prod(shape) for shape in shapes_of_weights(folder).values())


def shapes_of_weights(folder: Path) -> dict[str, tuple[int, ...]]:
    """The shape of each weight in them by its name."""
    plain = [path for path in folder.glob("*.safetensors") if ".fp16." not in path.name]
    return {name: shape for path in plain or folder.glob("*.safetensors") for name, shape in _shapes(path).items()}


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(min(length, 1 << 26)))
    except (OSError, ValueError, struct.error):
        return {}
    return {name: tuple(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__"}
