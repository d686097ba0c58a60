"""What should exist: photos, edits with their keys, strips of them, and the plan. Built by plan/expand.py."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

KEY_VERSION = 1

Carry = Literal["latent", "pixels"]


@dataclass(frozen=True, slots=True)
class Guidance:
    """The scales of InstructPix2Pix: s_T pulls towards the instruction, s_I towards the photo. Any finite pair."""

    text: float
    image: float


@dataclass(frozen=True, slots=True)
class Edit:
    """One picture to make: one instruction at one guidance and seed, on a photo or on another Edit's picture.

    `source` is a Photo's digest, or the parent's key where `carry` is not None. `size` is (width, height) of the
    picture the model works on, in pixels. `key` is the hash of all other fields: no path, order, batch or backend.
    """

    key: str
    source: str
    instruction: str
    guidance: Guidance
    seed: int
    steps: int
    sampler: str
    size: tuple[int, int]
    carry: Carry | None = None


def make_edit(
    source: str, instruction: str, guidance: Guidance, seed: int, *, steps: int, sampler: str,
    size: tuple[int, int], carry: Carry | None = None,
) -> Edit:  # fmt: skip
    """An Edit with its key: sha256 over the canonical JSON of every other field and KEY_VERSION, 32 hex digits.

    What was made is found by its key for ever. A field that Edit gets after these is appended to the list only where
    it is set (as a pair with its name), so that an Edit which does without it keeps its key.
    """
    scales = float(guidance.text), float(guidance.image)
    fields = [KEY_VERSION, source, instruction, *scales, seed, steps, sampler, list(size), carry]
    text = json.dumps(fields, ensure_ascii=True, separators=(",", ":"))
    key = hashlib.sha256(text.encode()).hexdigest()[:32]
    return Edit(key, source, instruction, guidance, seed, steps, sampler, size, carry)


@dataclass(frozen=True, slots=True)
class Strip:
    """One photo through one chain at one guidance and seed: a row on a sheet. A lone edit is a chain of one.

    `id` is the edit's name in the recipe (it fills `{edit}` in file names). `edits` are the links in order;
    `keep` are the links that are delivered, counted from 1, `strength` how much of them is (0 to 1; None is the
    delivery's own). The model makes the same pictures whatever that is.
    """

    photo: Photo
    id: str
    guidance: Guidance
    seed: int
    edits: tuple[Edit, ...]
    keep: tuple[int, ...]
    strength: float | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """All pictures a recipe asks for: `edits` are unique, parents before children, shared chain prefixes once.

    Those of a large plan that is read from a run are made when they are asked for: go through them once, in order.
    """

    name: str
    model: str
    photos: Sequence[Photo]
    strips: Sequence[Strip]
    edits: Sequence[Edit]

    @property
    def latents(self) -> set[str]:
        """The keys of the Edits whose latent is kept: every link of a chain that hands latents on.

        The last one's too, so that a chain that grows by a link pays for that link alone. A lone edit keeps none: a
        latent takes an eighth of its picture's room with Stable Diffusion, and as much as that with the embedded model.
        """
        links = [edit for edit in self.edits if edit.carry == "latent"]
        return {edit.key for edit in links} | {edit.source for edit in links}

    @property
    def twins(self) -> dict[str, str]:
        """Photos that are the same picture as an earlier one and share its Edits: the later name to the earlier."""
        first: dict[str, str] = {}
        own = {strip.photo.name: first.setdefault(strip.edits[0].key, strip.photo.name) for strip in self.strips}
        return {name: earlier for name, earlier in own.items() if name != earlier}


@dataclass(frozen=True, slots=True)
class Photo:
    """One photograph as a recipe sees it.

    `name` is the path relative to its folder with forward slashes, in NFC, unique in a plan. `digest` covers the bytes
    that pixels depend on, the orientation and the ICC profile, so that a new rating or keyword asks for no new
    picture. `size` is (width, height) in pixels after the EXIF orientation.
    """

    name: str
    path: Path
    digest: str
    size: tuple[int, int]
