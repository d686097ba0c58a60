"""The parts of a recipe that ask for no picture of the model: delivered files, what they say, sheets and report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, StrictInt

from ip2pbatch.plan.formats import lossy_titles
from ip2pbatch.plan.written.choices import Metric, OutputFormat
from ip2pbatch.plan.written.part import RecipePath, Written
from ip2pbatch.plan.written.template import Template


def _template(name: str) -> str:
    Template.parse(name)
    return name


class Output(Written):
    """Where delivered files go and what they are. Changing it asks for no new picture of the model."""

    folder: RecipePath = Field(validate_default=True, default=Path("out"), description="relative to the recipe")
    name: Annotated[str, AfterValidator(_template)] = Field(
        default="{folder}/{stem}_{edit}", min_length=1, max_length=500, description="template of file names"
    )
    format: OutputFormat = Field(default="same", description="same: as the photo")
    quality: Annotated[StrictInt, Field(ge=1, le=100)] = Field(default=95, description=f"of {lossy_titles()}")
    chroma: Literal["full", "source"] = Field(
        default="full", description="colour of a JPEG: full, or sampled as in the photo (smaller)"
    )
    raw: Literal["jpeg", "tiff16"] = Field(
        default="jpeg", description="what `same` makes of camera raw: a JPEG, or a TIFF of 16 bits"
    )
    dates: Literal["now", "source"] = Field(default="now", description="the files' own times: now, or as the photo's")
    full_resolution: Annotated[
        Literal["auto", "off"], BeforeValidator(lambda value: "off" if value is False else value)
    ] = Field(default="auto", description="auto: lift the edit to the photo's own size; off: the model's size")
    on_conflict: Literal["unique", "skip", "overwrite", "error"] = Field(
        default="unique", description="a name that is taken"
    )


class Metadata(Written):
    """What a delivered file says. EXIF, ICC and XMP of the photo are always kept, and that it is AI-edited is added."""

    gps: Literal["keep", "strip"] = Field(default="keep", description="where it was taken")
    prompt: bool = Field(default=True, description="write instruction, scales and seed into the file")


class Sheet(Written):
    """How contact sheets and the report look."""

    cell: Annotated[StrictInt, Field(ge=64, le=2048)] = Field(default=384, description="long side of a cell in pixels")
    metrics: tuple[Metric, ...] = Field(default=("l1", "ssim"), description="numbers beside a cell, as many as fit")
