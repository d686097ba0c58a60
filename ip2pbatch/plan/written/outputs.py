"""The parts of a recipe that ask for no picture of the model: delivered files, what they say, sheets and report."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, StrictInt

from ip2pbatch.plan.formats import lossy_titles
from ip2pbatch.plan.written.choices import Metric, OutputFormat
from ip2pbatch.plan.written.part import PathOrLocation, RecipePath, Written
from ip2pbatch.plan.written.template import Template
from ip2pbatch.plan.written.yaml_source import Mistake

SIGNER = "IP2PBATCH_SIGNER"
"""The environment variable with a command that signs: bytes on stdin, their signature on stdout."""


def _template(name: str) -> str:
    Template.parse(name)
    return name


def _no_key(value: Any) -> Any:
    """A path and not what it should lead to: a recipe is kept with its runs, and a message might show it."""
    if isinstance(value, str) and "-----BEGIN" in value:
        raise Mistake("is the text of a file, and should be its path", hint="keep keys out of recipes: key: key.pem")
    return value


def _time_stamper(address: str) -> str:
    try:
        parts = urlsplit(address)
        known = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        known = False
    if not known or any(letter.isspace() for letter in address):
        raise Mistake("is no address of a time-stamp authority", hint="timestamp: http://timestamp.example.com")
    if parts.username or parts.password:
        raise Mistake("has a name or a password in it", hint="keep secrets out of recipes: use an authority without")
    return address


def _strength(value: Any) -> Any:
    """Checked here because JSON Schema's bounds let NaN pass, and pydantic's words say nothing of what it means."""
    try:
        number = value if isinstance(value, str) else math.nan if isinstance(value, bool) else float(value)
        if 0 <= float(number) <= 1:
            return float(number)
    except (TypeError, ValueError):
        pass
    raise Mistake(f"{value!r} is no strength from 0 to 1", hint="strength: 0.6; 0 is the photo, 1 the edit")


def _switch(value: Any) -> Any:
    """YAML 1.1's words for true and false, which an editor may have written."""
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else value


Strength = Annotated[float, BeforeValidator(_strength), Field(ge=0, le=1)]
PemPath = Annotated[RecipePath, BeforeValidator(_no_key)]


class Signing(Written):
    """With what delivered files are signed as Content Credentials (C2PA). Files are named: no secret is in a recipe."""

    certificate: PemPath = Field(description="PEM: the signer's certificate, then those up to its authority's")
    key: PemPath | None = Field(
        default=None, description=f"PEM of its private key; without it the command in ${SIGNER} signs"
    )
    timestamp: Annotated[str, Field(max_length=500), AfterValidator(_time_stamper)] | None = Field(
        default=None, description="address of a time-stamp authority (RFC 3161)"
    )


def _start(value: Any) -> Any:
    """Checked here for the same reasons as a strength."""
    try:
        number = math.nan if isinstance(value, (bool, str)) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if 0 < number <= 1:
        return number
    raise Mistake(f"{value!r} is no share of the noise above 0, up to 1", hint="start: 0.3; more changes more")


class Refine(Written):
    """How an edit is refined at its photo's size."""

    tiles: Literal["auto", "all"] = Field(
        default="auto", description="auto: where the edit shows something new; all: everywhere"
    )
    start: Annotated[float, BeforeValidator(_start), Field(gt=0, le=1)] = Field(
        default=0.3, description="the share of the noise that each tile begins with"
    )


class Output(Written):
    """Where delivered files go and what they are. Changing it asks for no new picture of the model."""

    folder: PathOrLocation = Field(
        validate_default=True, default=Path("out"), description="relative to the recipe, or s3://bucket/prefix"
    )
    name: Annotated[str, AfterValidator(_template)] = Field(
        default="{folder}/{stem}_{edit}", min_length=1, max_length=500, description="template of file names"
    )
    format: OutputFormat = Field(default="same", description="same: as the photo")
    quality: Annotated[StrictInt, Field(ge=1, le=100)] = Field(default=95, description=f"of {lossy_titles()}")
    chroma: Literal["full", "source"] = Field(
        default="full", description="colour of a JPEG or HEIC: full, or sampled as in the photo (smaller)"
    )
    raw: Literal["jpeg", "tiff16"] = Field(
        default="jpeg", description="what `same` makes of camera raw: a JPEG, or a TIFF of 16 bits"
    )
    dates: Literal["now", "source"] = Field(default="now", description="the files' own times: now, or as the photo's")
    sidecar: Literal["none", "copy"] = Field(
        default="none", description="copy: a photo's sidecar comes along beside its files, but for how it was developed"
    )
    sign: Signing | None = Field(default=None, description="sign the files as Content Credentials (C2PA)")
    full_resolution: Annotated[
        Literal["auto", "off", "refine"], BeforeValidator(lambda value: "off" if value is False else value)
    ] = Field(
        default="auto",
        description="auto: lift the edit to the photo's own size; refine: there the model adds detail; off: its size",
    )
    refine: Refine = Field(default=Refine(), description="how `full_resolution: refine` goes about it")
    strength: Strength = Field(default=1.0, description="how much of an edit is delivered: 0 the photo, 1 the edit")
    registering: Annotated[Literal["auto", "on", "off"], BeforeValidator(_switch)] = Field(
        default="auto", alias="register",  # classes have a `register` of their own
        description="move what the model shifted back before the lift; auto: on, but not in runs begun without it",
    )  # fmt: skip
    on_conflict: Literal["unique", "skip", "overwrite", "error"] = Field(
        default="unique", description="a name that is taken"
    )

    def registers(self, run: bool | None) -> bool:
        """Whether edits are registered, in a `run` that does, does not, or (None) has not begun."""
        return self.registering == "on" or (self.registering == "auto" and run is not False)


class Metadata(Written):
    """What a delivered file says. EXIF, ICC and XMP of the photo are always kept, and that it is AI-edited is added."""

    gps: Literal["keep", "strip"] = Field(default="keep", description="where it was taken")
    prompt: bool = Field(default=True, description="write instruction, scales and seed into the file")


class Sheet(Written):
    """How contact sheets and the report look."""

    cell: Annotated[StrictInt, Field(ge=64, le=2048)] = Field(default=384, description="long side of a cell in pixels")
    metrics: tuple[Metric, ...] = Field(default=("l1", "ssim"), description="numbers beside a cell, as many as fit")
