"""What a recipe may leave unsaid, model by model: guidance, size, steps, sampler. Reads small JSON files at most."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ip2pbatch.errors import ModelError
from ip2pbatch.plan.editors.composed import base_of, composed
from ip2pbatch.plan.editors.few_steps import made_for
from ip2pbatch.plan.editors.short_names import short_name
from ip2pbatch.plan.families import FAMILIES, Family, ModelDefaults, family_of

DEFAULT_MODEL = "timbrooks/instruct-pix2pix"
SEGMENTER = "CIDAS/clipseg-rd64-refined"
"""What finds words, the subject and the background in photos where a recipe names no other model."""
TINY = "tiny"
EMBEDDED = {name: Path(__file__).parent.parent / name for name in (TINY, "tiny-fast")}
"""The folders of the models that the program brings along, by their names; ip2pbatch-light has none of them."""
FILES = (".safetensors", ".ckpt")
SETTINGS_FILE = "ip2pbatch.json"
_HUB_ID = re.compile(r"(?P<repo>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(@(?P<revision>[\w./-]+))?")


def hub_id(name: str) -> tuple[str, str | None] | None:
    """Repository and revision of `owner/name[@revision]`, as the hub's models and data sets are named; None where the
    name is no such one."""
    match = _HUB_ID.fullmatch(name)
    return (match["repo"], match["revision"]) if match else None


def model_id(model: str) -> tuple[str, str | None] | None:
    """Repository and revision of a model that is a hub id, or the short name of one."""
    model = base_of(model)
    known = short_name(model)
    _, at, revision = model.partition("@")
    return hub_id(f"{known.hub}{at}{revision}" if known else model)


def family_for(model: str) -> Family:
    """The family of a model: of a folder by what lies in it, of a short name and its hub id by the table, of another id
    by what of it is in the hub's cache. One that is nowhere yet is taken for the first.
    """
    model = base_of(model)
    folder = model_folder(model)
    if folder is None and (known := short_name(model)):
        return FAMILIES[known.family]
    return family_of(folder or _cached(model))


def _cached(model: str) -> Path | None:
    """The snapshot of a hub id that the cache would give, whole or not."""
    if (found := hub_id(model)) is None:
        return None
    from huggingface_hub import constants

    repo, revision = found
    cache = Path(constants.HF_HUB_CACHE) / f"models--{repo.replace('/', '--')}"
    try:
        commit = (cache / "refs" / (revision or "main")).read_text("utf-8").strip()
    except (OSError, ValueError):
        commit = revision or ""
    return cache / "snapshots" / commit if commit else None


def model_defaults(model: str) -> ModelDefaults:
    """The defaults of `model`: an embedded one, a hub id or its short name, or a folder whose `ip2pbatch.json` has
    {"defaults": {"text": …}}.

    A LoRA for few steps that is laid over it has its own, which come before. Raises ModelError where that file is there
    but is not what it should be.
    """
    family = family_for(model)
    few = made_for((lora.path for lora in composed(model).loras if lora.scale), family)
    return replace(_own_defaults(base_of(model), family), **(few.defaults if few else {}))


def former_defaults(model: str) -> ModelDefaults:
    """What counted for `model` in runs from before they kept their model's defaults: `formerly` in its folder's
    `ip2pbatch.json`, where its defaults have changed since; else today's. Raises ModelError.
    """
    return _own_defaults(base_of(model), family_for(model), "formerly")


def _own_defaults(model: str, family: Family, said: str = "defaults") -> ModelDefaults:
    path = model_folder(model)
    defaults = family.defaults
    if path is None:
        known = short_name(model)
        return replace(defaults, **known.otherwise) if known else defaults
    if family.call is None:
        defaults = replace(defaults, multiple=_multiple(path, defaults.multiple))
    if not (file := path / SETTINGS_FILE).is_file():
        return defaults
    with _reading(file):
        settings = json.loads(file.read_text(encoding="utf-8"))
        given = settings.get(said, settings["defaults"])
        own = replace(defaults, **{key: _typed(key, value) for key, value in given.items()})
        return replace(own, embedded=_taught_in(settings) is not None)


@contextmanager
def _reading(file: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        hint = 'it should hold {"defaults": {"text": 7.5, "image": 1.5, "long_side": 512, "steps": 20}}'
        raise ModelError(f"{file} cannot be used: {error}", hint=hint) from error


@dataclass(frozen=True, slots=True)
class TaughtScales:
    """The scales that a distilled model was taught to read, from the first of each to the second."""

    text: tuple[float, float]
    image: tuple[float, float]

    def hold(self, text: float, image: float) -> bool:
        """Whether a pair of scales is among them."""
        return self.text[0] <= text <= self.text[1] and self.image[0] <= image <= self.image[1]

    def __str__(self) -> str:
        """In words."""
        return f"text {self.text[0]:g} to {self.text[1]:g} and image {self.image[0]:g} to {self.image[1]:g}"


def taught_scales(model: str) -> TaughtScales | None:
    """Those of a distilled model's folder; None of any other, which is guided by its rows. Raises ModelError."""
    path = model_folder(base_of(model))
    if path is None or not (file := path / SETTINGS_FILE).is_file():
        return None
    with _reading(file):
        return _taught_in(json.loads(file.read_text(encoding="utf-8")))


def _taught_in(settings: dict[str, Any]) -> TaughtScales | None:
    if (found := settings.get("guidance", {}).get("embedded")) is None:
        return None
    text, image = ((float(low), float(high)) for low, high in (found["text"], found["image"]))
    if not (text[0] < text[1] and image[0] < image[1]):
        raise ValueError("guidance: embedded: a range is two scales, the lower one first")
    return TaughtScales(text, image)


def model_folder(model: str) -> Path | None:
    """The folder of `model`, whatever is laid over it: an embedded one, or a path that is a folder; None of a file or a
    hub id.
    """
    if model in EMBEDDED:
        return EMBEDDED[model]
    path = Path(base_of(model))
    return snapshot_of(path) if path.is_dir() else None


def snapshot_of(folder: Path) -> Path:
    """The model in a folder of the hub's cache (`models--owner--name`): what `main` means there, or the only one there
    is. Any other folder is its own.
    """
    if not (snapshots := folder / "snapshots").is_dir() or (folder / "model_index.json").exists():
        return folder
    with suppress(OSError, ValueError):
        main = snapshots / (folder / "refs" / "main").read_text("ascii").strip()
        if main.is_dir():
            return main
    found = [path for path in sorted(snapshots.iterdir()) if path.is_dir()]
    return found[0] if len(found) == 1 else folder


def is_file(model: str) -> bool:
    """Whether a model is written as one file, which need not be there."""
    return Path(model).suffix.lower() in FILES


def _multiple(folder: Path, least: int) -> int:
    """How much the autoencoder in `folder` shrinks width and height: it halves them between its blocks."""
    try:
        config = json.loads((folder / "vae" / "config.json").read_text(encoding="utf-8"))
        blocks = config.get("encoder_block_out_channels") or config["block_out_channels"]
        return max(least, int(2 ** (len(blocks) - 1)))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return least  # the engine says what is wrong with the model


def _typed(key: str, value: Any) -> Any:
    floats = dict.fromkeys(("text", "image", "megapixels", "max_aspect"), float)
    wanted = {**floats, "sampler": str, "carry": str}.get(key, int)
    if wanted is str and isinstance(value, str):
        return value
    if wanted is str or isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{key}: {value!r} is not right")
    if wanted(value) != value:
        raise ValueError(f"{key}: {value!r} is not a whole number")
    return wanted(value)
