"""Recipe × Photos → Plan: every picture that should exist, with its size, seed and key."""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ip2pbatch.errors import NothingMatchedError, PlanError
from ip2pbatch.plan.edits import Carry, Edit, Guidance, Photo, Plan, Strip, make_edit
from ip2pbatch.plan.families import ModelDefaults
from ip2pbatch.plan.globs import matcher
from ip2pbatch.plan.large.expansion import Expansion, MakeEdit
from ip2pbatch.plan.regional.regions import Place, Regions
from ip2pbatch.plan.tiling import Refinement, levels

if TYPE_CHECKING:
    from ip2pbatch.plan.edits import Region
    from ip2pbatch.plan.photos import Scan
    from ip2pbatch.plan.written.ranges import Size
    from ip2pbatch.plan.written.recipe import EditSpec, Link, Recipe, Seeds


def expand(
    recipe: Recipe, scan: Scan, defaults: ModelDefaults, registers: bool | None = None, lift: int = 0
) -> Plan:  # fmt: skip
    """Every picture that `recipe` asks for of the photos in `scan`, by photo, edit, seed, text scale, image scale.

    `defaults` are what counts where it says nothing: the model's own, or those that its run was begun with. So does
    whether that run `registers`, which is None before it has begun; `lift` is its version of the lift.

    Raises PlanError where a photo has no size that the model can take, an edit names photos that are not there, or a
    mask does not fit its photo; NothingMatchedError where there is no edit.
    """
    if scan.whole:
        _refuse_unmatched(recipe, scan)
    asked = _Asked(recipe, scan, defaults, registers, lift)
    strips, edits = Expansion(scan.photos, asked).parts()
    if scan.photos and not strips:
        raise NothingMatchedError("no edit for any of the photos", hint="give the recipe edits, or the CSV a row")
    return Plan(recipe.name, recipe.model, scan.photos, strips, edits)


_Sides = tuple[int | None, float | None] | None
"""What a size says, which is quicker to look up than it."""
_MOST_SIZES = 10_000  # of photos, for which it is remembered what the model takes of them


class _Asked:
    """The strips that a recipe asks for of a photo, each Edit made once."""

    def __init__(
        self, recipe: Recipe, scan: Scan, defaults: ModelDefaults, registers: bool | None, lift: int
    ) -> None:  # fmt: skip
        self._recipe, self._defaults, self._registers = recipe, defaults, recipe.output.registers(registers)
        self._lift = lift
        self._shared = [_Spec.of(spec, recipe, defaults) for spec in recipe.edits]
        self._sizes = {_sides(size): size for size in (recipe.size, *(spec.size for spec in self._shared))}
        self._fitted: dict[tuple[int, int], dict[_Sides, tuple[int, int]]] = {}
        self._own: dict[str, list[EditSpec]] = defaultdict(list)
        for row in scan.instructions:
            self._own[row.photo].append(row.edit)
        self._regions = Regions.read(((spec.places, spec.wants) for spec in self._shared), scan.photos)

    def __call__(self, photo: Photo, make: MakeEdit | None = None) -> list[Strip]:
        """Raises PlanError where the photo has no size that the model can take."""
        make, sizes, strips = make or _Once(), self._sizes_of(photo), list[Strip]()
        seeds: dict[tuple[int, int], list[list[int]]] = {}  # many edits ask for the same
        for spec in self._specs(photo.name):
            if not spec.wants(photo.name):
                continue
            asked, links = (id(spec.seeds), len(spec.chain)), len(spec.chain)
            if asked not in seeds:
                seeds[asked] = list(_seeds(spec.seeds, photo.digest, links))
            regions = [self._regions.of(place, photo) for place in spec.places] if spec.feathers else [None] * links
            size = sizes[spec.sides]
            strips += [
                self._refined(_strip(photo, size, spec, guidance, own, regions, make), make)
                for own in seeds[asked] for guidance in spec.cells
            ]  # fmt: skip
        return strips

    def _sizes_of(self, photo: Photo) -> dict[_Sides, tuple[int, int]]:
        """What the model takes of a photo for each size that is asked for; most photos have one of few sizes."""
        fitted = self._fitted.get(photo.size)
        if fitted is None:
            fitted = {sides: model_size(photo, size, self._defaults) for sides, size in self._sizes.items()}
            if len(self._fitted) < _MOST_SIZES:
                self._fitted[photo.size] = fitted
        return fitted

    def _refined(self, strip: Strip, make: MakeEdit) -> Strip:
        """With its last link at the photo's own size, where that is asked for and more than the model's."""
        output, cell, photo = self._recipe.output, strip.edits[-1], strip.photo
        if (
            output.full_resolution != "refine"
            or len(strip.edits) not in strip.keep
            or not levels(cell.size, photo.size)
        ):
            return strip
        how = output.refine
        before = strip.edits[-2].key if len(strip.edits) > 1 else ""
        refine = Refinement(photo.digest, photo.size, how.tiles, how.start, before, self._registers, self._lift)
        return replace(strip, refined=make(
            cell.key, cell.instruction, cell.guidance, cell.seed, cell.steps, cell.sampler, cell.size, "pixels",
            cell.region, cell.negative, refine,
        ))  # fmt: skip

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
        refine: Refinement | None = None,
    ) -> Edit:  # fmt: skip
        edit = make_edit(
            source, instruction, guidance, seed, steps=steps, sampler=sampler, size=size, carry=carry, region=region,
            negative=negative, refine=refine,
        )  # fmt: skip
        return self._made.setdefault(edit.key, edit)


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
    sides: _Sides
    wants: Callable[[str], bool]  # by a photo's name
    strength: float | None
    negative: str
    places: tuple[Place, ...]  # of each link
    feathers: tuple[float, ...]

    @classmethod
    def of(cls, spec: EditSpec, recipe: Recipe, defaults: ModelDefaults) -> _Spec:
        places = tuple((link.region or spec.region, link.protect or spec.protect) for link in spec.chain)
        feathers = tuple(_feather(place) for place in places)
        return cls(
            spec.id, spec.chain, spec.keep, spec.carry or defaults.carry, cells_of(recipe, spec, defaults),
            spec.seeds or recipe.seeds, spec.steps or recipe.steps or defaults.steps,
            spec.sampler or recipe.sampler or defaults.sampler, spec.size or recipe.size,
            _sides(spec.size or recipe.size),
            matcher(spec.photos) if spec.photos else lambda name: True, spec.strength, spec.negative or "",
            places, feathers if any(map(any, places)) else (),
        )  # fmt: skip


def _feather(place: Place) -> float:
    region, protect = place
    return region.feather if region else protect.feather if protect else 0.0


def _strip(
    photo: Photo, size: tuple[int, int], spec: _Spec, guidance: Guidance, seeds: Sequence[int],
    regions: Sequence[Region | None], make: MakeEdit,
) -> Strip:  # fmt: skip
    """One photo through a chain, with the seed and the region of each link, at one cell."""
    links: list[Edit] = []
    source, carry = photo.digest, None
    for link, seed, region in zip(spec.chain, seeds, regions, strict=True):
        how = link_guidance(link, guidance), seed, spec.steps, spec.sampler, size, carry, region, spec.negative
        edit = make(source, link.instruction, *how)
        links.append(edit)
        source, carry = edit.key, spec.carry
    return Strip(photo, spec.id, guidance, links[0].seed, tuple(links), spec.keep, spec.strength, spec.feathers)


def _sides(size: Size | None) -> _Sides:
    return None if size is None else (size.long_side, size.megapixels)


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
    return replace(guidance, text=text, image=guidance.image if link.image is None else link.image)


def cells_of(recipe: Recipe, spec: EditSpec, defaults: ModelDefaults) -> list[Guidance]:
    """The grid of an edit: its own scales, else the recipe's, else the model's; text outermost."""
    texts = spec.text or recipe.guidance.text or (defaults.text,)
    images = spec.image or recipe.guidance.image or (defaults.image,)
    if recipe.guidance.pair == "product":
        return [Guidance(text, image, defaults.embedded) for text in texts for image in images]
    length = max(len(texts), len(images))
    texts, images = (scales * length if len(scales) == 1 else scales for scales in (texts, images))
    return [Guidance(text, image, defaults.embedded) for text, image in zip(texts, images, strict=True)]


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

    What is longer than the model's `max_aspect` is squeezed to that, and comes back at its own size as all do.

    A small photo is scaled up to that size, because the model knows no other; what is delivered has the photo's size
    again. A panorama whose short side would be too small for the model gets a longer long side.
    """
    width, height = _bounded(photo.size, defaults.max_aspect)
    megapixels = size.megapixels if size else defaults.megapixels
    if megapixels is not None:
        scale = math.sqrt(megapixels * 1e6 / (width * height))
    else:
        scale = (size.long_side if size and size.long_side else defaults.long_side) / max(width, height)
    scale = max(scale, defaults.min_side / min(width, height))
    fitted = tuple(max(1, round(side * scale / defaults.multiple)) * defaults.multiple for side in (width, height))
    if max(fitted) > defaults.max_side or min(fitted) < defaults.min_side:
        width, height = photo.size
        raise PlanError(
            f"{photo.name}: {width} × {height} pixels would be {fitted[0]} × {fitted[1]} for the model, which takes "
            f"{defaults.min_side} to {defaults.max_side}",
            hint="set a size with a smaller long_side, or exclude the photo",
        )
    return fitted[0], fitted[1]


def _bounded(size: tuple[int, int], most: float | None) -> tuple[float, float]:
    """Sides of the same area whose aspect is at most `most`."""
    width, height = size
    if most is None or max(width, height) <= most * min(width, height):
        return size
    long, short = math.sqrt(width * height * most), math.sqrt(width * height / most)
    return (long, short) if width > height else (short, long)
