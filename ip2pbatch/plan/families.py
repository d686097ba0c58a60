"""The families of models that edit photos: how a folder is told, the defaults, who checks and who opens it. Adding one
is a module and a line here.

    check(path, kind, checker=…) -> Layout                refuses a folder that must not be loaded
    precision(folder, device) -> str                      the number format where none is asked for
    refuse(folder, edits)                                 raises for Edits that the model cannot make
    open_engine(folder, device, precision, machine, …)    the EditEngine; see engine/instruct_pix2pix.py

The last three are its torch module's. All are imported when they are needed: `plan` and `--help` read this file.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class ModelDefaults:
    """Guidance scales, the long side in pixels, network steps, sampler, and the sizes a model can take.

    Width and height are multiples of `multiple` from `min_side` to `max_side`. They come from the model's folder and
    not from the engine, so that `plan` asks for the same pictures as `run` without loading anything. The values are
    InstructPix2Pix's own: 7.5 and 1.5 at 512 pixels; 20 steps with euler_a, as its demo space uses.
    """

    text: float = 7.5
    image: float = 1.5
    long_side: int = 512
    steps: int = 20
    sampler: str = "euler_a"
    multiple: int = 8
    min_side: int = 64
    max_side: int = 2048


@dataclass(frozen=True, slots=True)
class Family:
    """`called` is its name in messages and files, `pipelines` the classes that a folder's `model_index.json` may name.

    `check` is "module:function", `torch` a module; what they offer stands at the head of this file. `defaults` count
    where a model's own folder says nothing. `null_text`: its guidance knows one, whose place a `negative` can take.
    """

    called: str
    pipelines: tuple[str, ...]
    defaults: ModelDefaults
    check: str
    torch: str
    null_text: bool = True


FAMILIES: dict[str, Family] = {
    "instruct_pix2pix": Family(
        "InstructPix2Pix", ("StableDiffusionInstructPix2PixPipeline", "StableDiffusionPipeline"), ModelDefaults(),
        check="ip2pbatch.backends.model_folder:check", torch="ip2pbatch.engine.instruct_pix2pix",
    ),
}  # fmt: skip

_LIMIT = 1 << 20  # bytes of an index that are read here: real ones have hundreds


def family_of(folder: Path | None) -> Family:
    """The family of a model's folder by the pipeline that it names; the first, where it names none that is known, says
    what is wrong with it. A hub id (None) is taken for the first: what it is stands in files that may not be here.
    """
    known = {pipeline: family for family in FAMILIES.values() for pipeline in family.pipelines}
    first = next(iter(FAMILIES.values()))
    return first if folder is None else known.get(_pipeline(folder / "model_index.json"), first)


def families() -> str:
    """All of them, for messages: `InstructPix2Pix`, or `InstructPix2Pix or Another`."""
    return " or ".join(family.called for family in FAMILIES.values())


def _pipeline(index: Path) -> str:
    try:
        if index.stat().st_size > _LIMIT:
            return ""
        return str(json.loads(index.read_text("utf-8"))["_class_name"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return ""
