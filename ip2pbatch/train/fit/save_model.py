"""A trained model as a folder: diffusers' InstructPix2Pix layout in float16 safetensors, and its own defaults."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from ip2pbatch.plan.defaults import SETTINGS_FILE
from ip2pbatch.plan.written.choices import Sampler
from ip2pbatch.plan.written.taught import TAUGHT_FILE, taught_text

if TYPE_CHECKING:
    from diffusers import ModelMixin
    from transformers import PreTrainedModel

# Of AutoencoderDC and the like: what the pipeline's index must say of each part.
LIBRARIES = dict.fromkeys(("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"), "transformers")
SAMPLER = "EulerAncestralDiscreteScheduler"


class Defaults(BaseModel):
    """What an edit uses where nobody says otherwise, written into the model's folder; here InstructPix2Pix's. Steps and
    sampler are its family's where they are not given.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    text: float = 7.5
    image: float = 1.5
    long_side: int = 512
    steps: int | None = Field(None, ge=1, exclude_if=lambda value: value is None)
    sampler: Sampler | None = Field(None, exclude_if=lambda value: value is None)


def write_model(
    folder: Path, parts: dict[str, Any], schedule: dict[str, Any], defaults: dict[str, Any], card: str,
    taught: Mapping[str, Sequence[str]] | None = None, embedded: Mapping[str, Sequence[float]] | None = None,
) -> None:  # fmt: skip
    """Write `parts` (unet, text_encoder, vae, tokenizer) below `folder`, with the sampler's schedule and an index; an
    SDXL has two of the texts' parts.

    `taught` are all instructions that a model knows, by family, where it was taught from nothing: it says so of others.
    `embedded` are the ranges of scales, text and image, that its UNet reads as numbers.
    """
    import diffusers

    partial = folder.with_name(f".{folder.name}")
    shutil.rmtree(partial, ignore_errors=True)
    for name, part in parts.items():
        if isinstance(part, nn.Module):
            half(part).save_pretrained(partial / name)
        else:
            part.save_pretrained(partial / name)
    sampler = getattr(diffusers, SAMPLER)(**schedule)
    sampler.save_pretrained(partial / "scheduler")
    for config in partial.glob("*/config.json"):
        forget_origin(config)
    index = pipeline_index(parts, diffusers.__version__)
    (partial / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
    settings = {"defaults": defaults, **({"guidance": {"embedded": embedded}} if embedded else {})}
    (partial / SETTINGS_FILE).write_text(json.dumps(settings, indent=2) + "\n")
    if taught:
        (partial / TAUGHT_FILE).write_text(taught_text(taught), encoding="utf-8")
    (partial / "README.md").write_text(card)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def pipeline_index(parts: dict[str, Any], version: str) -> dict[str, Any]:
    """What diffusers' pipeline reads first: of which library and class each part is. Of an SDXL also that no text is
    the text "", as in its training, and not zeros."""
    named = {"scheduler": ["diffusers", SAMPLER]}
    named |= {name: [LIBRARIES.get(name, "diffusers"), type(part).__name__] for name, part in sorted(parts.items())}
    if "text_encoder_2" in parts:
        kind = "StableDiffusionXLInstructPix2PixPipeline"
        return {"_class_name": kind, "_diffusers_version": version, "force_zeros_for_empty_prompt": False, **named}
    return {
        "_class_name": "StableDiffusionInstructPix2PixPipeline",
        "_diffusers_version": version,
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        **named,
    }


def half(part: ModelMixin | PreTrainedModel) -> ModelMixin | PreTrainedModel:
    """A float16 copy on the CPU; the part itself goes on training in its own precision."""
    twin = type(part)(part.config) if hasattr(part.config, "to_json_string") else type(part).from_config(part.config)
    twin.load_state_dict({name: value.detach().cpu() for name, value in part.state_dict().items()})
    return twin.to(torch.float16)


def forget_origin(config: Path) -> None:
    """Take out where a part was loaded from: a folder of this machine means nothing elsewhere."""
    said = json.loads(config.read_text("utf-8"))
    said.pop("_name_or_path", None)
    config.write_text(json.dumps(said, indent=2) + "\n")
