"""What a recipe lays over its model: `lora` and `vae`, part of the model's own text (plan/editors/composed.py)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from ip2pbatch.errors import ModelError
from ip2pbatch.plan.defaults import DEFAULT_MODEL
from ip2pbatch.plan.editors.composed import Composed, Lora, composed
from ip2pbatch.plan.editors.few_steps import usual_scale
from ip2pbatch.plan.written.compared import model_path
from ip2pbatch.plan.written.yaml_source import Mistake

KEYS = ("lora", "vae")
_MOST = 16
_HINT = "lora: [{path: winter.safetensors, scale: 0.8}]"


def laid_over(value: dict[str, Any], base: Path) -> dict[str, Any]:
    """A recipe as it is written, with what it lays over its model in the model's text."""
    written = {key: value[key] for key in KEYS if value.get(key) is not None}
    rest = {key: item for key, item in value.items() if key not in KEYS}
    if not written:
        return rest
    if rest.get("compare"):
        hint = "write it with its model: compare: [tiny, tiny + lora:winter.safetensors@0.8]"
        raise Mistake("is of one model, and these are several", hint=hint, at=(next(iter(written)),))
    model = rest.get("model", DEFAULT_MODEL)
    if not isinstance(model, str):
        return rest  # which is told as such
    own = composed(model)
    loras = (*own.loras, *_loras(written.get("lora", []), base))
    vae = _vae(written["vae"], base) if "vae" in written else own.vae
    return rest | {"model": str(Composed(own.base, loras, vae))}


def _loras(value: Any, base: Path) -> list[Lora]:
    if not isinstance(value, list):
        return [_lora(value, base, ("lora",))]
    if len(value) > _MOST:
        raise Mistake(f"at most {_MOST} of them", hint="merge some into the model", at=("lora",))
    return [_lora(one, base, ("lora", place)) for place, one in enumerate(value)]


def _lora(value: Any, base: Path, at: tuple[str | int, ...]) -> Lora:
    value = {"path": value} if isinstance(value, str) else value
    if not isinstance(value, dict) or not isinstance(path := value.get("path"), str) or not path.strip():
        raise Mistake("a LoRA is its file, or a mapping with path and scale", hint=_HINT, at=at)
    for key in value.keys() - {"path", "scale"}:
        raise Mistake("unknown key", hint="a LoRA has path and scale", at=(*at, key))
    scale = value.get("scale", usual_scale(path))
    if isinstance(scale, bool) or not isinstance(scale, (int, float)) or not math.isfinite(scale):
        raise Mistake("should be a number, such as 0.8", hint=_HINT, at=(*at, "scale"))
    return Lora(_path(path, base, (*at, "path") if "scale" in value else at), float(scale))


def _vae(value: Any, base: Path) -> str:
    if not isinstance(value, str) or not value.strip():
        raise Mistake(
            "an autoencoder is its folder, file or hub id", hint="vae: stabilityai/sd-vae-ft-mse", at=("vae",)
        )
    return _path(value, base, ("vae",))


def _path(path: str, base: Path, at: tuple[str | int, ...]) -> str:
    found = model_path(path, base, at)
    try:
        plain = composed(f"m + vae:{found}").vae == found
    except ModelError:
        plain = False
    if not plain:
        raise Mistake("a path cannot hold ' + lora:' or ' + vae:' here", hint="call the file otherwise", at=at)
    return found
