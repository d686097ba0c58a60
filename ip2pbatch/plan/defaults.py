"""What a recipe may leave unsaid, model by model: guidance, size, steps, sampler. Reads small JSON files at most."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ip2pbatch.errors import ModelError

DEFAULT_MODEL = "timbrooks/instruct-pix2pix"
TINY = "tiny"
SETTINGS_FILE = "ip2pbatch.json"
_TINY_FOLDER = Path(__file__).parent.parent / TINY


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


def model_defaults(model: str) -> ModelDefaults:
    """The defaults of `model`: `tiny`, a hub id, or a folder whose `ip2pbatch.json` has {"defaults": {"text": …}}.

    Raises ModelError where that file is there but is not what it should be.
    """
    path = model_folder(model)
    if path is None:
        return ModelDefaults()
    defaults = ModelDefaults(multiple=_multiple(path))
    if not (file := path / SETTINGS_FILE).is_file():
        return defaults
    try:
        given = json.loads(file.read_text(encoding="utf-8"))["defaults"]
        return replace(defaults, **{key: _typed(key, value) for key, value in given.items()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        hint = 'it should hold {"defaults": {"text": 7.5, "image": 1.5, "long_side": 512, "steps": 20}}'
        raise ModelError(f"{file} cannot be used: {error}", hint=hint) from error


def model_folder(model: str) -> Path | None:
    """The folder of `model`: the embedded one for `tiny`, the path where it is a folder, None for a hub id."""
    if model == TINY:
        return _TINY_FOLDER
    path = Path(model)
    return path if path.is_dir() else None


def split_revision(model: str) -> tuple[str, str | None]:
    """`owner/name@revision` → (owner/name, revision); a path or an unpinned id has no revision."""
    name, at, revision = model.rpartition("@")
    return (name, revision) if at and name and "/" not in revision else (model, None)


def _multiple(folder: Path) -> int:
    """How much the autoencoder in `folder` shrinks width and height: it halves them between its blocks; 8 at least."""
    try:
        config = json.loads((folder / "vae" / "config.json").read_text(encoding="utf-8"))
        blocks = config.get("encoder_block_out_channels") or config["block_out_channels"]
        return max(8, int(2 ** (len(blocks) - 1)))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return 8  # the engine says what is wrong with the model


def _typed(key: str, value: Any) -> Any:
    wanted = {"text": float, "image": float, "sampler": str}.get(key, int)
    if wanted is str and isinstance(value, str):
        return value
    if wanted is str or isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{key}: {value!r} is not right")
    if wanted(value) != value:
        raise ValueError(f"{key}: {value!r} is not a whole number")
    return wanted(value)
