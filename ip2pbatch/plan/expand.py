"""Recipe × Photos → Plan: every picture that should exist, with its size, seed and key."""

from __future__ import annotations

import hashlib
import math
from array import array
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar, overload

from ip2pbatch.disk.hash_table import HashTable
from ip2pbatch.errors import NothingMatchedError, PlanError
from ip2pbatch.plan.edits import MOST_HELD, Carry, Edit, Guidance, ManyEdits, ManyStrips, Photo, Plan, Strip, make_edit
from ip2pbatch.plan.families import ModelDefaults
from ip2pbatch.plan.globs import matcher
from ip2pbatch.plan.regions import Regions

if TYPE_CHECKING:
    from ip2pbatch.plan.edits import Region
    from ip2pbatch.plan.photos import Scan
    from ip2pbatch.plan.written.recipe import EditSpec, Link, Recipe, Seeds, Size
    from ip2pbatch.plan.written.where import Where

Thing = TypeVar("Thing")
MakeEdit = Callable[..., Edit]
"""From all fields of an Edit but its key, in their order."""
_KEY = 16  # bytes of a key, which are 32 hex digits
_RECENT = 256  # photos whose strips are held after they were asked for: several threads may be at several of them


def expand(recipe: Recipe, scan: Scan, defaults: ModelDefaults) -> Plan:
    """Every picture that `recipe` asks for of the photos in `scan`, by photo, edit, seed, text scale, image scale.

    `defaults` are what counts where it says nothing: the model's own, or those that its run was begun with.

    Raises PlanError where a photo has no size that the model can take, an edit names photos that are not there, or a
    mask does not fit its photo; NothingMatchedError where there is no edit.
    """
    if scan.whole:
        _refuse_unmatched(recipe, scan)
    asked = _Asked(recipe, scan, defaults)
    strips, edits = Expansion(scan.photos, asked).parts()
    if scan.photos and not strips:
        raise NothingMatchedError("no edit for any of the photos", hint="give the recipe edits, or the CSV a row")
    return Plan(recipe.name, recipe.model, scan.photos, strips, edits)


class _Asked:
    """The strips that a recipe asks for of a photo, each Edit made once."""

    def __init__(self, recipe: Recipe, scan: Scan, defaults: ModelDefaults) -> None:
        self._recipe, self._defaults = recipe, defaults
        self._shared = [_Spec.of(spec, recipe, defaults) for spec in recipe.edits]
        self._sizes = {recipe.size, *(spec.size for spec in self._shared)}
        self._own: dict[str, list[EditSpec]] = defaultdict(list)
        for row in scan.instructions:
            self._own[row.photo].append(row.edit)
        self._regions = Regions.read(((spec.wheres, spec.wants) for spec in self._shared), scan.photos)

    def __call__(self, photo: Photo, make: MakeEdit | None = None) -> list[Strip]:
        """Raises PlanError where the photo has no size that the model can take."""
        make = make or _Once()
        sizes = {size: model_size(photo, size, self._defaults) for size in self._sizes}
        return [
            _strip(photo, sizes[spec.size], spec, guidance, zip(spec.chain, seeds, regions, strict=True), make)
            for spec in self._specs(photo.name) if spec.wants(photo.name)
            for regions in [[self._regions.of(where, photo) for where in spec.wheres]]
            for seeds in _seeds(spec.seeds, photo.digest, len(spec.chain))
            for guidance in spec.cells
        ]  # fmt: skip

    def _specs(self, photo: str) -> list[_Spec]:
        recipe = self._recipe
        if not (own := self._own.get(photo)):
            return self._shared
        return self._shared + [_Spec.of(spec, recipe, self._defaults) for spec in _own(recipe.edits, own)]


class _Once:
    """Makes each Edit of a photo once."""

    def __init__(self) -> None:
        self._made: dict[str, Edit] = {}

    def __call__(
        self, source: str, instruction: str, guidance: Guidance, seed: int, steps: int, sampler: str,
        size: tuple[int, int], carry: Carry | None, region: Region | None, negative: str,
    ) -> Edit:  # fmt: skip
        edit = make_edit(
            source, instruction, guidance, seed, steps=steps, sampler=sampler, size=size, carry=carry, region=region,
            negative=negative,
        )  # fmt: skip
        return self._made.setdefault(edit.key, edit)


class _Known:
    """The same of a photo whose Edits all differ, by keys that are known: to find them takes most of the time."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._keys, self.made = keys, 0

    def __call__(self, *fields: Any) -> Edit:
        self.made += 1
        return Edit(self._keys[min(self.made, len(self._keys)) - 1], *fields)

    @property
    def fits(self) -> bool:
        """Whether there were as many Edits as keys."""
        return self.made == len(self._keys)


class Expansion:
    """The strips and the Edits of many photos, expanded photo by photo when they are asked for.

    Held are where each photo's strips and Edits begin, and each Edit's key, by which one that an equal photo has
    already is known: sixteen bytes a photo, some thirty an Edit. Safe to use from several threads.
    """

    def __init__(self, photos: Sequence[Photo], asked: _Asked) -> None:
        self._photos, self._asked = photos, asked
        self._first_strip, self._first_edit = array("Q", [0]), array("Q", [0])
        self._keys, self._table, self._hands_on = bytearray(), HashTable(), bytearray()
        self._few: list[Strip] | None = []
        for photo in photos:
            self._add(asked(photo))

    def parts(self) -> tuple[Sequence[Strip], Sequence[Edit]]:
        """All strips and all Edits: of a small plan as they are."""
        if self._few is None:
            of_photo = lru_cache(_RECENT)(self._expanded)
            strips = _Strips(self._first_strip, lambda number: of_photo(number)[0])
            return strips, _Edits(self._first_edit, lambda number: of_photo(number)[1], self)
        edits = {edit.key: edit for strip in self._few for edit in strip.edits}
        return tuple(self._few), tuple(edits.values())

    def _add(self, strips: list[Strip]) -> None:
        for strip in strips:
            for edit in strip.edits:
                self._enter(edit)
        self._first_strip.append(self._first_strip[-1] + len(strips))
        self._first_edit.append(len(self._table))
        if self._few is not None:
            self._few += strips
            if len(self._few) > MOST_HELD:
                self._few = None

    def _enter(self, edit: Edit) -> None:
        key, number = bytes.fromhex(edit.key), len(self._table)
        if self._table.setdefault(hash(key), number, lambda other: self._has(other, key)) == number:
            self._keys += key
            self._hands_on.append(False)
        if edit.carry == "latent":
            for place in map(self.place, (edit.key, edit.source)):
                assert place is not None, "parents come before children"
                self._hands_on[place] = True

    def _has(self, number: int, key: bytes) -> bool:
        return self._keys.startswith(key, number * _KEY)

    def place(self, key: str) -> int | None:
        """The number of the Edit with this key."""
        wanted = bytes.fromhex(key)
        return self._table.get(hash(wanted), lambda number: self._has(number, wanted))

    def keys(self) -> Iterator[str]:
        """The keys of all Edits in order."""
        for at in range(0, len(self._keys), _KEY):
            yield self._keys[at : at + _KEY].hex()

    def keeps_latent(self, key: str) -> bool:
        """Whether an Edit hands its latent on, or is made of one."""
        place = self.place(key)
        return place is not None and bool(self._hands_on[place])

    @property
    def keeps_latents(self) -> bool:
        """Whether any Edit does."""
        return any(self._hands_on)

    def _expanded(self, number: int) -> tuple[tuple[Strip, ...], tuple[Edit, ...]]:
        """The strips of a photo, and those of its Edits that no photo before it has."""
        photo, first, end = self._photos[number], self._first_edit[number], self._first_edit[number + 1]
        known = _Known([self._keys[at : at + _KEY].hex() for at in range(first * _KEY, end * _KEY, _KEY)])
        strips = tuple(self._asked(photo, known)) if first < end else ()
        if known.fits and strips:
            return strips, tuple(edit for strip in strips for edit in strip.edits)
        strips = tuple(self._asked(photo))
        edits = {edit.key: edit for strip in strips for edit in strip.edits}
        return strips, tuple(edit for key, edit in edits.items() if self.place(key) in range(first, end))


class _ByPhoto(Sequence[Thing]):
    """All that photos have, by number. `first` says where each photo's begin, `of_photo` gives them."""

    def __init__(self, first: array[int], of_photo: Callable[[int], Sequence[Thing]]) -> None:
        self._first, self._of_photo = first, of_photo

    def __len__(self) -> int:
        return self._first[-1]

    @overload
    def __getitem__(self, at: int) -> Thing: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[Thing]: ...
    def __getitem__(self, at: int | slice) -> Thing | Sequence[Thing]:
        if isinstance(at, slice):
            return tuple(self[one] for one in range(*at.indices(len(self))))
        at = range(len(self))[at]
        photo = self._photo_of(at)
        return self._of_photo(photo)[at - self._first[photo]]

    def _photo_of(self, at: int) -> int:
        return bisect_right(self._first, at) - 1

    def __iter__(self) -> Iterator[Thing]:
        for photo in range(len(self._first) - 1):
            yield from self._of_photo(photo)

    def __reversed__(self) -> Iterator[Thing]:
        for photo in range(len(self._first) - 2, -1, -1):
            yield from reversed(self._of_photo(photo))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or len(self) != len(other):
            return False
        return all(one == two for one, two in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]


class _Strips(_ByPhoto[Strip], ManyStrips):
    """The strips of an Expansion."""

    def of_same_photo(self, number: int) -> Sequence[Strip]:
        return self._of_photo(self._photo_of(number))


class _Edits(_ByPhoto[Edit], ManyEdits):
    """The Edits of an Expansion."""

    def __init__(
        self, first: array[int], of_photo: Callable[[int], Sequence[Edit]], expansion: Expansion
    ) -> None:  # fmt: skip
        super().__init__(first, of_photo)
        self._expansion = expansion

    def keys(self) -> Iterator[str]:
        return self._expansion.keys()

    def places(self) -> Callable[[str], int | None]:
        return self._expansion.place

    @property
    def latents(self) -> Container[str]:
        return _Latents(self._expansion)


class _Latents(Container[str]):
    """The keys of an Expansion's Edits that keep a latent."""

    def __init__(self, expansion: Expansion) -> None:
        self._expansion = expansion

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and self._expansion.keeps_latent(key)

    def __bool__(self) -> bool:
        return self._expansion.keeps_latents


@dataclass(frozen=True, slots=True)
class _Spec:
    """An edit of a recipe with all that it leaves to the recipe or to the model filled in."""

    id: str
    chain: tuple[Link, ...]
    keep: tuple[int, ...]
    carry: Carry
    cells: list[Guidance]
    seeds: Seeds
    steps: int
    sampler: str
    size: Size | None
    wants: Callable[[str], bool]  # by a photo's name
    strength: float | None
    negative: str
    wheres: tuple[Where | None, ...]  # of each link
    feathers: tuple[float, ...]

    @classmethod
    def of(cls, spec: EditSpec, recipe: Recipe, defaults: ModelDefaults) -> _Spec:
        wheres = tuple(link.region or spec.region for link in spec.chain)
        return cls(
            spec.id, spec.chain, spec.keep, spec.carry or "latent", cells_of(recipe, spec, defaults),
            spec.seeds or recipe.seeds, spec.steps or recipe.steps or defaults.steps,
            spec.sampler or recipe.sampler or defaults.sampler, spec.size or recipe.size,
            matcher(spec.photos) if spec.photos else lambda name: True, spec.strength, spec.negative or "",
            wheres, tuple(where.feather if where else 0.0 for where in wheres) if any(wheres) else (),
        )  # fmt: skip


def _strip(
    photo: Photo, size: tuple[int, int], spec: _Spec, guidance: Guidance,
    chain: Iterable[tuple[Link, int, Region | None]], make: MakeEdit,
) -> Strip:  # fmt: skip
    """One photo through a chain, with the seed and the region of each link, at one cell."""
    links: list[Edit] = []
    for link, seed, region in chain:
        source, carry = (links[-1].key, spec.carry) if links else (photo.digest, None)
        how = link_guidance(link, guidance), seed, spec.steps, spec.sampler, size, carry, region, spec.negative
        links.append(make(source, link.instruction, *how))
    return Strip(photo, spec.id, guidance, links[0].seed, tuple(links), spec.keep, spec.strength, spec.feathers)


def _refuse_unmatched(recipe: Recipe, scan: Scan) -> None:
    for spec in recipe.edits:
        if spec.photos and not any(map(matcher(spec.photos), _names(scan))):
            example = next((f"names are relative to their folder, such as {name}" for name in _names(scan)), None)
            raise PlanError(f"{spec.id}: no photo matches {', '.join(spec.photos)}", hint=example)


def _names(scan: Scan) -> Iterator[str]:
    return (one.name for several in (scan.photos, scan.broken) for one in several)


def link_guidance(link: Link, guidance: Guidance) -> Guidance:
    """The scales of a link in a cell of its chain."""
    if link.text is None and link.image is None:
        return guidance
    text = guidance.text if link.text is None else link.text
    return Guidance(text, guidance.image if link.image is None else link.image)


def cells_of(recipe: Recipe, spec: EditSpec, defaults: ModelDefaults) -> list[Guidance]:
    """The grid of an edit: its own scales, else the recipe's, else the model's; text outermost."""
    texts = spec.text or recipe.guidance.text or (defaults.text,)
    images = spec.image or recipe.guidance.image or (defaults.image,)
    if recipe.guidance.pair == "product":
        return [Guidance(text, image) for text in texts for image in images]
    length = max(len(texts), len(images))
    texts, images = (scales * length if len(scales) == 1 else scales for scales in (texts, images))
    return [Guidance(text, image) for text, image in zip(texts, images, strict=True)]


def _own(specs: Sequence[EditSpec], own: Sequence[EditSpec]) -> Iterator[EditSpec]:
    """A photo's own edits without those that the recipe has already, under ids that are not taken."""
    taken = {spec.id: spec for spec in specs}
    for spec in own:
        if taken.get(spec.id) == spec:
            continue
        name, number = spec.id, 2
        while name in taken:
            name, number = f"{spec.id}-{number}", number + 1
        taken[name] = spec if name == spec.id else spec.model_copy(update={"id": name})
        yield taken[name]


def _seeds(seeds: Seeds, digest: str, links: int) -> Iterator[list[int]]:
    """For each seed asked for, the seeds of a chain's links.

    Fixed seeds are used as they are in every link, so that each can be made again alone. A photo's own seeds are of
    32 bits, as many as torch's CPU generator takes, and another one for every link: the same noise again and again
    would print its pattern into a long chain.
    """
    for seed in seeds.fixed:
        yield [seed] * links
    for number in seeds.per_photo:
        yield [photo_seed(number, digest, link) for link in range(1, links + 1)]


def photo_seed(number: int, digest: str, link: int = 1) -> int:
    """A photo's own seed from a recipe's number: it hangs on the photo's digest, not on its name or its place."""
    text = f"{number} {digest}" + (f" {link}" if link > 1 else "")
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")


def model_size(photo: Photo, size: Size | None, defaults: ModelDefaults) -> tuple[int, int]:
    """(width, height) at which the model edits `photo`: its own aspect, nothing cropped, multiples of the model's.

    A small photo is scaled up to that size, because the model knows no other; what is delivered has the photo's size
    again. A panorama whose short side would be too small for the model gets a longer long side.
    """
    width, height = photo.size
    if size is not None and size.megapixels is not None:
        scale = math.sqrt(size.megapixels * 1e6 / (width * height))
    else:
        scale = (size.long_side if size and size.long_side else defaults.long_side) / max(width, height)
    scale = max(scale, defaults.min_side / min(width, height))
    fitted = tuple(max(1, round(side * scale / defaults.multiple)) * defaults.multiple for side in (width, height))
    if max(fitted) > defaults.max_side or min(fitted) < defaults.min_side:
        raise PlanError(
            f"{photo.name}: {width} × {height} pixels would be {fitted[0]} × {fitted[1]} for the model, which takes "
            f"{defaults.min_side} to {defaults.max_side}",
            hint="set a size with a smaller long_side, or exclude the photo",
        )
    return fitted[0], fitted[1]
