"""A model with what is laid over it, in one text: `MODEL + lora:FILE@0.8 + vae:FOLDER`. By that text runs, plans and
locks call it, and `--model` takes it; a recipe has keys for it. What it is stands in the digests of its files.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

from ip2pbatch.errors import ModelError
from ip2pbatch.plan.editors.few_steps import usual_scale

_PART = re.compile(r" \+ (lora|vae):")
_HINT = "write it like tiny + lora:winter.safetensors@0.8 + vae:folder"


@dataclass(frozen=True, slots=True)
class Lora:
    """A LoRA by its file, folder or hub id, and how much of it is added to the weights."""

    path: str
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class Composed:
    """A model's own name, the LoRAs that are added to it, in order, and the autoencoder in the place of its own."""

    base: str
    loras: tuple[Lora, ...] = ()
    vae: str = ""

    def __str__(self) -> str:
        """The text; a LoRA at 0 is none, and what is none is not in it."""
        loras = (f" + lora:{lora.path}@{_number(lora.scale)}" for lora in self.loras if lora.scale)
        return "".join((self.base, *loras, f" + vae:{self.vae}" if self.vae else ""))


def composed(model: str) -> Composed:
    """What a model's text says. Raises ModelError where it says two autoencoders, or a scale that is none."""
    base, *rest = _PART.split(model)
    parts = list(zip(rest[::2], rest[1::2], strict=True))
    vaes = [path for kind, path in parts if kind == "vae"]
    if len(vaes) > 1 or any(not path.strip() for _, path in parts):
        raise ModelError(f"{model} names two autoencoders, or none after vae: or lora:", hint=_HINT)
    return Composed(base, tuple(_lora(text) for kind, text in parts if kind == "lora"), vaes[0] if vaes else "")


def base_of(model: str) -> str:
    """The model itself, without what is laid over it."""
    return _PART.split(model, maxsplit=1)[0]


def brief(model: str) -> str:
    """A model in few words, the same wherever its files lie: of a path its own name alone."""
    found = composed(model)
    loras = tuple(Lora(_name(lora.path), lora.scale) for lora in found.loras)
    return str(Composed(_name(found.base), loras, _name(found.vae)))


def _lora(text: str) -> Lora:
    path, at, scale = text.rpartition("@")
    if not at:
        return Lora(text, usual_scale(text))
    try:
        value = float(scale)
    except ValueError:
        return Lora(text, usual_scale(text))  # of a hub id with its revision
    if not math.isfinite(value):
        raise ModelError(f"{text} has no scale that is a number", hint=_HINT)
    return Lora(path, value)


def _name(path: str) -> str:
    return Path(path).name if Path(path).is_absolute() or path.startswith(".") else path


def _number(value: float) -> str:
    short = f"{value:g}"
    return short if float(short) == value else repr(value)
