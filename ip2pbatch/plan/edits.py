"""What should exist: photos, edits with their keys, strips of them, and the plan. Built by plan/expand.py."""

from __future__ import annotations

import hashlib
import json
import os
from abc import abstractmethod
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import chain, islice
from json.encoder import encode_basestring_ascii
from pathlib import Path
from typing import Any, Literal

from ip2pbatch.disk.hash_table import HashTable
from ip2pbatch.disk.on_demand import spooled
from ip2pbatch.plan.tiling import Refinement

KEY_VERSION = 1
_as_json = json.JSONEncoder(ensure_ascii=True, separators=(",", ":")).encode

Carry = Literal["latent", "pixels"]
SoughtKind = Literal["faces", "subject", "background", "words"]
Missing = Literal["skip", "whole"]

Point = tuple[float, float]
Polygon = tuple[Point, ...]

FEATHER = 2.0
"""Per cent of the photo's short side over which an edit fades out around its region, where a recipe says nothing."""


@dataclass(frozen=True, slots=True)
class Guidance:
    """The scales of InstructPix2Pix: s_T pulls towards the instruction, s_I towards the photo. Any finite pair.

    Where they are `embedded`, a network reads them as numbers and one row is guided; no key says so, the model does.
    """

    text: float
    image: float
    embedded: bool = False


@dataclass(frozen=True, slots=True)
class Sought:
    """What a detector looks for in a photo: `kind`, and with "words" what they say.

    `by` names the detector, its version and its weights, so that a key knows of another one; `model` is how the recipe
    calls it, "" where it does not, and changes nothing.
    """

    kind: SoughtKind
    by: str
    words: str = ""
    model: str = field(default="", compare=False)

    @property
    def row(self) -> dict[str, str]:
        """What a key says of it."""
        return {"kind": self.kind, "by": self.by} | ({"words": self.words} if self.words else {})

    @property
    def called(self) -> str:
        """What a person calls it."""
        return f"“{self.words}”" if self.words else self.kind

    def mask_name(self, photo: str) -> str:
        """What the mask of the photo with this digest is kept as: 32 hex digits."""
        return hashlib.sha256(_as_json([photo, self.row]).encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class Region:
    """A part of a photo: what lies in one of `polygons`, or what is white in a mask file, or what is `sought` in the
    photo with the digest `photo`; all of it where it is none of these. What lies in `protect` is no part of it.

    Points are (across, down) in per cent of the photo's width and height, from the top left, of the photo as it is
    seen upright. `mask` is the digest of the file's pixels, "" where there is none; `path` is where it lies now, and
    `folder` that of masks by photos' names where it was found in one: neither changes anything. `grow` is in per cent
    of the photo's short side, negative to shrink; `invert` takes the rest of the
    photo instead, after it grew. `missing` says what becomes of a photo in which nothing is found: it is skipped, or
    edited whole.
    """

    polygons: tuple[Polygon, ...] = ()
    mask: str = ""
    grow: float = 0.0
    invert: bool = False
    path: Path | None = field(default=None, compare=False)
    folder: Path | None = field(default=None, compare=False)
    sought: Sought | None = None
    photo: str = ""
    missing: Missing = "skip"
    protect: Region | None = None

    @property
    def row(self) -> dict[str, Any]:
        """What a key and a stored plan say of it, only what is set: `region_of` reads it."""
        polygons = [[list(point) for point in polygon] for polygon in self.polygons]
        found = {"polygons": polygons, "mask": self.mask, "grow": self.grow, "invert": self.invert}
        found |= {"sought": self.sought and self.sought.row, "protect": self.protect and self.protect.row}
        found |= {"missing": self.missing if self.missing != "skip" else ""}
        return {name: value for name, value in found.items() if value}

    @property
    def is_all(self) -> bool:
        """Whether it is all of a photo but for what is protected."""
        return not (self.polygons or self.mask or self.sought)

    @property
    def looked_for(self) -> tuple[Sought, ...]:
        """What of it a detector looks for."""
        protected = self.protect.sought if self.protect else None
        return tuple(one for one in (self.sought, protected) if one is not None)

    @property
    def written(self) -> dict[str, Any]:
        """The same as a recipe says it in `region`, and in `protect` of what is protected; {} where it is all.

        Of a folder of masks it is the folder, so that other photos get their own.
        """
        rest = {name: value for name, value in self.row.items() if name in ("grow", "invert", "missing")}
        if self.mask:
            return {"mask": str(self.folder or self.path), **rest}
        if self.sought is not None:
            what = {"words": self.sought.words} if self.sought.words else {"find": self.sought.kind}
            return what | ({"model": self.sought.model} if self.sought.model else {}) | rest
        return (
            {"polygon": [[list(point) for point in polygon] for polygon in self.polygons], **rest}
            if self.polygons
            else {}
        )


def region_of(
    row: Mapping[str, Any],
    path: str = "",
    folder: str = "",
    *,
    photo: str = "",
    model: str = "",
    protect: Region | None = None,
) -> Region:
    """The Region that `row` says, where it says something of what is protected with `protect`; equal ones are one, for
    a plan may have millions of them.
    """
    polygons = tuple(tuple((x, y) for x, y in polygon) for polygon in row.get("polygons", ()))
    found = _one(polygons, row.get("mask", ""), row.get("grow", 0.0), row.get("invert", False), path, folder)
    if "sought" not in row and protect is None:
        return found
    sought = Sought(**row["sought"], model=model) if "sought" in row else None
    return replace(found, sought=sought, photo=photo, missing=row.get("missing", "skip"), protect=protect)


@lru_cache(maxsize=1024)
def _one(polygons: tuple[Polygon, ...], mask: str, grow: float, invert: bool, path: str, folder: str) -> Region:
    return Region(polygons, mask, grow, invert, Path(path) if path else None, Path(folder) if folder else None)


@dataclass(frozen=True, slots=True)
class Edit:
    """One picture to make: one instruction at one guidance and seed, on a photo or on another Edit's picture.

    `source` is a Photo's digest, or the parent's key where `carry` is not None. `size` is (width, height) of the
    picture the model works on, in pixels. `region` is the part of its source that is edited, None for all of it.
    `negative` takes the place of the null text, "" of none. Where there is a `refine`, the picture is that of its
    source at the photo's own size; all other fields are then its source's. `key` is the hash of all other fields: no
    path, order, batch or backend.
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
    region: Region | None = None
    negative: str = ""
    refine: Refinement | None = None


def make_edit(
    source: str, instruction: str, guidance: Guidance, seed: int, *, steps: int, sampler: str,
    size: tuple[int, int], carry: Carry | None = None, region: Region | None = None, negative: str = "",
    refine: Refinement | None = None,
) -> Edit:  # fmt: skip
    """An Edit with its key: sha256 over the canonical JSON of every other field and KEY_VERSION, 32 hex digits.

    What was made is found by its key for ever. A field that Edit gets after these is appended to the list only where
    it is set (as a pair with its name), so that an Edit which does without it keeps its key.
    """
    begun = _of_instruction(instruction, float(guidance.text), float(guidance.image))
    text = f"[{KEY_VERSION},{encode_basestring_ascii(source)},{begun},{seed},{_of_how(steps, sampler, size, carry)}"
    if region is not None:
        text += f",{_as_json(['region', region.row])}"
    if negative:
        text += f",{_as_json(['negative', negative])}"
    if refine is not None:
        text += f",{_as_json(['refine', refine.row])}"
    text += "]"
    key = hashlib.sha256(text.encode()).hexdigest()[:32]
    return Edit(key, source, instruction, guidance, seed, steps, sampler, size, carry, region, negative, refine)


@lru_cache(maxsize=4096, typed=True)
def _of_instruction(instruction: str, text: float, image: float) -> str:
    """What very many Edits have in common, as it stands in the text that their keys are made of."""
    return _as_json([instruction, text, image])[1:-1]


@lru_cache(maxsize=4096, typed=True)
def _of_how(steps: int, sampler: str, size: tuple[int, int], carry: Carry | None) -> str:
    return _as_json([steps, sampler, list(size), carry])[1:-1]


@dataclass(frozen=True, slots=True)
class Strip:
    """One photo through one chain at one guidance and seed: a row on a sheet. A lone edit is a chain of one.

    `id` is the edit's name in the recipe (it fills `{edit}` in file names). `edits` are the links in order;
    `keep` are the links that are delivered, counted from 1, `strength` how much of them is (0 to 1; None is the
    delivery's own). `feathers` say for each link how far around its region it fades out, in per cent of the photo's
    short side; there are none where no link has a region. The model makes the same pictures whatever these are.
    `refined` is the last link once more at the photo's own size, None where that is not asked for.
    """

    photo: Photo
    id: str
    guidance: Guidance
    seed: int
    edits: tuple[Edit, ...]
    keep: tuple[int, ...]
    strength: float | None = None
    feathers: tuple[float, ...] = ()
    refined: Edit | None = None

    @property
    def made(self) -> tuple[Edit, ...]:
        """All that the model makes for it, in order: its links, and the last one refined."""
        return self.edits if self.refined is None else (*self.edits, self.refined)

    def refined_at(self, link: int) -> Edit | None:
        """What the file of this link, from 1, shows beside the link's own picture."""
        return self.refined if link == len(self.edits) else None


class ManyEdits(Sequence[Edit]):
    """The Edits of a large plan: each is made when it is asked for, and what many ask of all is at hand."""

    @abstractmethod
    def keys(self) -> Iterator[str]:
        """The key of each, in order."""

    def places(self) -> Callable[[str], int | None]:
        """See Plan.places."""
        return {key: number for number, key in enumerate(self.keys())}.get

    @property
    def latents(self) -> Container[str]:
        """See Plan.latents."""
        return _latents(self)


class ManyStrips(Sequence[Strip]):
    """The strips of a large plan, those of a photo beside each other."""

    @abstractmethod
    def of_same_photo(self, number: int) -> Sequence[Strip]:
        """All strips of the photo that has this one."""

    @abstractmethod
    def of_photo(self, photo: int) -> Iterator[tuple[int, Strip]]:
        """The strips of a photo, each with its number."""

    @abstractmethod
    def by_photo(self) -> Iterator[tuple[Sequence[Strip], Sequence[Edit]]]:
        """Of each photo its strips, and those of its Edits that no photo before it has."""

    @abstractmethod
    def of_photos(self, photos: Sequence[Photo]) -> tuple[Sequence[Strip], Sequence[Edit]]:
        """The strips and the Edits of some of the photos, of which none is left out that shares an Edit with one."""

    @abstractmethod
    def photo_with(self, key: str) -> int | None:
        """The number of the first photo that has the Edit with this key; None where none has."""


@dataclass(frozen=True, slots=True)
class Plan:
    """All pictures a recipe asks for: `edits` are unique, parents before children, shared chain prefixes once.

    Strips and Edits of a large plan are made when they are asked for: go through them once, in order.
    """

    name: str
    model: str
    photos: Sequence[Photo]
    strips: Sequence[Strip]
    edits: Sequence[Edit]

    @property
    def keys(self) -> Iterator[str]:
        """The key of every Edit, in order; no Edit is made for it."""
        return self.edits.keys() if isinstance(self.edits, ManyEdits) else (edit.key for edit in self.edits)

    def by_photo(self) -> Iterator[Sequence[Edit]]:
        """All Edits, those of a photo together: of a large plan a photo at a time, of another all at once."""
        if isinstance(self.strips, ManyStrips):
            return (edits for _, edits in self.strips.by_photo())
        return iter((self.edits,))

    def places(self) -> Callable[[str], int | None]:
        """What gives the number of an Edit in `edits` by its key, None where it is not among them."""
        if isinstance(self.edits, ManyEdits):
            return self.edits.places()
        return {edit.key: number for number, edit in enumerate(self.edits)}.get

    @property
    def latents(self) -> Container[str]:
        """The keys of the Edits whose latent is kept: every link of a chain that hands latents on.

        The last one's too, so that a chain that grows by a link pays for that link alone. A lone edit keeps none: a
        latent takes an eighth of its picture's room with Stable Diffusion, and as much as that with the embedded model.
        """
        return self.edits.latents if isinstance(self.edits, ManyEdits) else _latents(self.edits)

    @property
    def twins(self) -> dict[str, str]:
        """Photos that are the same picture as an earlier one and share its Edits: the later name to the earlier."""
        copies = _told_again(self.photos)
        first: dict[str, str] = {}
        own = {
            strip.photo.name: first.setdefault(strip.edits[0].key, strip.photo.name)
            for strip in (self.strips if copies else ()) if strip.photo.digest in copies
        }  # fmt: skip
        return {name: earlier for name, earlier in own.items() if name != earlier}


def _latents(edits: Iterable[Edit]) -> set[str]:
    return {key for edit in edits if edit.carry == "latent" for key in (edit.key, edit.source)}


def _told_again(photos: Sequence[Photo]) -> set[str]:
    """The digests that several photos have."""
    seen, again = HashTable(), set[str]()
    for number, photo in enumerate(photos):
        if first_with(photos, seen, number, photo.digest) != number:
            again.add(photo.digest)
    return again


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


def first_with(photos: Sequence[Photo], seen: HashTable, number: int, digest: str) -> int:
    """The first of `photos` that has this digest, which photo `number` has; `seen` knows those before."""
    return seen.setdefault(hash(digest), number, lambda other: photos[other].digest == digest)


MOST_HELD = 50_000
"""Photos, and Edits, that are held as they are; of more some bytes each."""


def held(photos: Iterable[Photo]) -> Sequence[Photo]:
    """`photos` in memory, or where they are very many on the disk. Raises ResourceError."""
    rest = iter(photos)
    first = tuple(islice(rest, MOST_HELD))
    if len(first) < MOST_HELD:
        return first
    return spooled(map(_row, chain(first, rest)), _photo)


def _row(photo: Photo) -> list[object]:
    return [photo.name, os.fspath(photo.path), photo.digest, *photo.size]


def _photo(row: Any) -> Photo:
    name, path, digest, width, height = row
    return Photo(name, Path(path), digest, (width, height))
