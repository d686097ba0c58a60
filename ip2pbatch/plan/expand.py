"""Recipe × Photos → Plan: every picture that should exist, with its size, seed and key."""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ip2pbatch.errors import NothingMatchedError, PlanError
from ip2pbatch.plan.edits import Carry, Edit, Guidance, Photo, Plan, Strip, make_edit
from ip2pbatch.plan.families import ModelDefaults
from ip2pbatch.plan.globs import matcher

if TYPE_CHECKING:
    from ip2pbatch.plan.photos import Scan
    from ip2pbatch.plan.written.recipe import EditSpec, Link, Recipe, Seeds, Size


def expand(recipe: Recipe, scan: Scan, defaults: ModelDefaults) -> Plan:
    """Every picture that `recipe` asks for of the photos in `scan`, by photo, edit, seed, text scale, image scale.

    `defaults` are what counts where it says nothing: the model's own, or those that its run was begun with.

    Raises PlanError where a photo has no size that the model can take or an edit names photos that are not there,
    NothingMatchedError where there is no edit.
    """
    edits: dict[str, Edit] = {}
    own = defaultdict(list)
    for row in scan.instructions:
        own[row.photo].append(row.edit)
    shared = [_Spec.of(spec, recipe, defaults) for spec in recipe.edits]
    if scan.whole:
        _refuse_unmatched(recipe, scan)
    strips = []
    for photo in scan.photos:
        sizes = {size: model_size(photo, size, defaults) for size in {recipe.size, *(spec.size for spec in shared)}}
        specs = shared + [_Spec.of(spec, recipe, defaults) for spec in _own(recipe.edits, own.get(photo.name, ()))]
        for spec in (spec for spec in specs if spec.wants(photo.name)):
            for seeds in _seeds(spec.seeds, photo.digest, len(spec.chain)):
                strips += [_strip(photo, sizes[spec.size], spec, guidance, seeds, edits) for guidance in spec.cells]
    if scan.photos and not strips:
        raise NothingMatchedError("no edit for any of the photos", hint="give the recipe edits, or the CSV a row")
    return Plan(recipe.name, recipe.model, scan.photos, tuple(strips), tuple(edits.values()))


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

    @classmethod
    def of(cls, spec: EditSpec, recipe: Recipe, defaults: ModelDefaults) -> _Spec:
        return cls(
            spec.id, spec.chain, spec.keep, spec.carry or "latent", _cells(recipe, spec, defaults),
            spec.seeds or recipe.seeds, spec.steps or recipe.steps or defaults.steps,
            spec.sampler or recipe.sampler or defaults.sampler, spec.size or recipe.size,
            matcher(spec.photos) if spec.photos else lambda name: True, spec.strength,
        )  # fmt: skip


def _strip(
    photo: Photo, size: tuple[int, int], spec: _Spec, guidance: Guidance, seeds: Sequence[int], edits: dict[str, Edit]
) -> Strip:
    """One photo through a chain at one cell; a link that `edits` has already is taken from there."""
    links: list[Edit] = []
    for link, seed in zip(spec.chain, seeds, strict=True):
        edit = make_edit(
            links[-1].key if links else photo.digest, link.instruction, _link_guidance(link, guidance), seed,
            steps=spec.steps, sampler=spec.sampler, size=size, carry=spec.carry if links else None,
        )  # fmt: skip
        links.append(edits.setdefault(edit.key, edit))
    return Strip(photo, spec.id, guidance, seeds[0], tuple(links), spec.keep, spec.strength)


def _refuse_unmatched(recipe: Recipe, scan: Scan) -> None:
    names = [photo.name for photo in scan.photos] + [broken.name for broken in scan.broken]
    for spec in recipe.edits:
        if spec.photos and not any(map(matcher(spec.photos), names)):
            example = f"names are relative to their folder, such as {names[0]}" if names else None
            raise PlanError(f"{spec.id}: no photo matches {', '.join(spec.photos)}", hint=example)


def _link_guidance(link: Link, guidance: Guidance) -> Guidance:
    if link.text is None and link.image is None:
        return guidance
    text = guidance.text if link.text is None else link.text
    return Guidance(text, guidance.image if link.image is None else link.image)


def _cells(recipe: Recipe, spec: EditSpec, defaults: ModelDefaults) -> list[Guidance]:
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
