"""Regions as a recipe says them, for each of its photos: which mask is whose, and whether it fits."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from ip2pbatch.errors import PlanError
from ip2pbatch.plan.edits import Photo, Region, region_of
from ip2pbatch.plan.folder_walk import nfc
from ip2pbatch.plan.formats import suffixes
from ip2pbatch.plan.regional.finders import known_as

if TYPE_CHECKING:
    from ip2pbatch.plan.written.where import Protected, Shape, Where

_ASPECT = 0.02  # by how much a mask's shape may differ: sides that were rounded to multiples of eight do by one
_TOLD = 3
_HINT = (
    "a mask has the photo's name, and its shape as it is seen upright, at any size; "
    "`photos` in an edit says which photos get it"
)


Place = tuple["Where | None", "Protected | None"]
"""What a link says of where it edits, and of what it leaves as it is."""


def in_words(region: Region | None, feather: float) -> dict[str, dict[str, Any]]:
    """The same as a recipe says it: its `region` and `protect`, each where there is one; the feather, in per cent of
    the short side, is the region's where it has one.
    """
    if region is None:
        return {}
    own, soft = region.written, {"feather": feather}
    said = {"region": own | soft} if own else {}
    return said if region.protect is None else said | {"protect": region.protect.written | ({} if own else soft)}


@dataclass(slots=True)
class Regions:
    """The Regions of photos: find those that are masks with `look`, then ask `of`."""

    _masks: dict[tuple[Shape, str], Region] = field(default_factory=dict)
    _finders: dict[Shape, str] = field(default_factory=dict)  # what keys say of them

    @classmethod
    def read(cls, specs: Iterable[tuple[Sequence[Place], Callable[[str], bool]]], photos: Sequence[Photo]) -> Regions:
        """Of the photos that edits want by their names, with what the edits' links say.

        Raises PlanError, and ModelError where what finds something is not known on this machine.
        """
        asked: dict[Shape, dict[str, Photo]] = defaultdict(dict)
        regions = cls()
        for places, wants in specs:
            for shape in {shape for place in places for shape in place if shape is not None}:
                if shape.kind is not None:
                    regions._finders[shape] = known_as(shape.kind, shape.model or "")
                if shape.mask:
                    asked[shape] |= {photo.name: photo for photo in photos if wants(photo.name)}
        regions.look({shape: own.values() for shape, own in asked.items()})
        return regions

    def look(self, asked: Mapping[Shape, Iterable[Photo]]) -> None:
        """Read the masks that these photos need, as far as their headers and digests go.

        Raises PlanError where one is missing, is no picture, or has not the shape of its photo.
        """
        troubles: list[str] = []
        wanted: dict[tuple[Shape, Photo], Path] = {}
        for where, photos in asked.items():
            if where.mask is not None:
                wanted |= {(where, photo): path for photo, path in _paired(where.mask, photos, troubles)}
        found, reasons = _looks({*wanted.values()})
        for (where, photo), path in wanted.items():
            look = found.get(str(path))
            if look is None:
                troubles.append(f"the mask {path} {reasons.get(str(path), 'is gone')}")
            elif not fits(look.size, photo.size):
                troubles.append(_misfit(path, look, photo))
            else:
                self._masks[where, photo.name] = _masked(where, path, look.digest)
        if troubles:
            more = f", and {len(troubles) - _TOLD:,} more like this" if len(troubles) > _TOLD else ""
            raise PlanError("; ".join(list(dict.fromkeys(troubles))[:_TOLD]) + more, hint=_HINT)

    def of(self, place: Place, photo: Photo) -> Region | None:
        """That of one photo; None where all of it is edited."""
        where, protect = place
        own = None if where is None else self._shape(where, photo)
        if protect is None:
            return own
        return replace(own or Region(), protect=self._shape(protect, photo))

    def _shape(self, shape: Shape, photo: Photo) -> Region:
        if shape.mask is not None:
            return self._masks[shape, photo.name]
        if shape.kind is None:
            return region_of({"polygons": shape.polygons, **shape.rest})
        words = {"words": shape.words} if shape.words else {}
        sought = {"kind": shape.kind, "by": self._finders[shape], **words}
        return region_of({"sought": sought, **shape.rest}, photo=photo.digest, model=shape.model or "")


def fits(mask: tuple[int, int], photo: tuple[int, int]) -> bool:
    """Whether two (width, height) have the same shape, or one that rounding makes of it."""
    across, down = mask[0] * photo[1], mask[1] * photo[0]
    return abs(across - down) <= max(_ASPECT * across, *photo)  # one pixel of the mask more or less


def _masked(where: Shape, path: Path, digest: str) -> Region:
    folder = str(where.mask) if where.mask is not None and where.mask.is_dir() else ""
    return region_of({"mask": digest, **where.rest}, str(path), folder)


def _misfit(path: Path, look: Photo, photo: Photo) -> str:
    (w, h), (width, height) = look.size, photo.size
    return f"the mask {path} has {w} × {h} pixels, which is another shape than the {width} × {height} of {photo.name}"


def _paired(mask: Path, photos: Iterable[Photo], troubles: list[str]) -> Iterator[tuple[Photo, Path]]:
    """Each photo with its mask: a lone file is everybody's, in a folder it has the photo's name."""
    if not mask.is_dir():
        yield from ((photo, mask) for photo in photos)
        return
    files, users = _listed(mask), dict[Path, str]()
    for photo in photos:
        found = _found(photo.name, files)
        if not found:
            troubles.append(f"there is no mask of {photo.name} in {mask}")
        elif len(found) > 1:
            troubles.append(f"two masks have the name of {photo.name}: {found[0]} and {found[1]}")
        elif users.setdefault(found[0], photo.name) != photo.name:
            troubles.append(f"{users[found[0]]} and {photo.name} would both have the mask {found[0]}")
        else:
            yield photo, found[0]


def _found(name: str, files: Mapping[str, list[Path]]) -> list[Path]:
    """The masks of a photo: of its whole name, else of what is left of it without its first folders."""
    parts = PurePosixPath(name).with_suffix("").parts
    for first in range(len(parts)):
        tail = "/".join(parts[first:]).casefold()
        if tail in files:
            return files[tail]
    return []


def _listed(folder: Path) -> dict[str, list[Path]]:
    """The pictures below a folder by their path in it without suffix, in small letters."""
    found, known = defaultdict[str, list[Path]](list), suffixes()
    for base, _, names in os.walk(folder):
        for name in sorted(names):
            path = Path(base) / name
            if path.suffix.lower() in known:
                found[nfc(path.relative_to(folder).with_suffix("").as_posix()).casefold()].append(path)
    return found


def _looks(paths: set[Path]) -> tuple[dict[str, Photo], dict[str, str]]:
    """What the headers of masks say by path, and why others cannot be read."""
    from ip2pbatch.plan.photos import looked_at

    there, reasons = [], dict[str, str]()
    for path in sorted(paths):
        try:
            there.append((str(path), str(path), path.stat()))
        except OSError as error:
            reasons[str(path)] = f"cannot be read: {error.strerror}"
    found = looked_at(there)
    return {one.name: one for one in found.photos}, reasons | {one.name: one.reason for one in found.broken}
