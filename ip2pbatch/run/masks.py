"""The masks of what detectors find in photos: each is made once, before any edit, and kept in the run directory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ip2pbatch.disk.atomic import write_atomic
from ip2pbatch.errors import DamagedError, PhotoError
from ip2pbatch.pictures import images, lossless
from ip2pbatch.pictures.areas.coverage import Coverage, Found
from ip2pbatch.plan.edits import Edit, Photo, Plan, Region, Sought
from ip2pbatch.run.directory.kept import Kept
from ip2pbatch.run.directory.layout import Layout
from ip2pbatch.run.directory.ledger import Run

_LONGEST = 2048  # pixels of a photo's long side in which a detector looks, and which a mask has at most
_THREADS = 2


class Detector(Protocol):
    """Finds in photos what a `Sought` says."""

    def find(self, photo: NDArray[np.uint8]) -> Coverage:
        """Of pixels uint8 [h, w, 3] in sRGB, a mask of the same shape at any size: 255 is found, all 0 is nothing."""
        ...


Opens = Callable[[Sought], Detector]
"""Raises MissingError, ModelError."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be found in which photo."""

    sought: Sought
    photo: Photo

    @property
    def name(self) -> str:
        """What its mask is kept as."""
        return self.sought.mask_name(self.photo.digest)


def masks_in(layout: Layout) -> Found:
    """What gives the masks that are kept in a run; it raises PhotoError, and DamagedError for one that is damaged."""

    def found(region: Region) -> Coverage:
        assert region.sought is not None, "only what is sought is asked for"
        return _read(layout, region.sought.mask_name(region.photo))

    return found


def _read(layout: Layout, name: str) -> Coverage:
    return Kept(layout.mask(name), noun="mask").pixels()[..., 0]


def wanted_of(plan: Plan, wants: Callable[[Edit], bool] = lambda edit: True) -> Iterator[Wanted]:
    """All that is sought in the photos of the Edits that are wanted, each once."""
    seen = set[str]()
    for strip in plan.strips:
        for edit in strip.edits:
            for sought in edit.region.looked_for if edit.region and wants(edit) else ():
                one = Wanted(sought, strip.photo)
                if one.name not in seen:
                    seen.add(one.name)
                    yield one


def unmade(layout: Layout, wanted: Iterable[Wanted]) -> list[Wanted]:
    """Those that are not kept in a run, or not as they were written."""
    return [one for one in wanted if not _is_whole(Kept(layout.mask(one.name), noun="mask"))]


def _is_whole(kept: Kept) -> bool:
    try:
        kept.read()
    except DamagedError:
        return False
    return True


def copy_masks(run: Run, wanted: Iterable[Wanted], kept: Layout) -> list[Wanted]:
    """Take those masks that another run keeps; the others come back. Raises ResourceError."""
    left = []
    for one in wanted:
        try:
            data = Kept(kept.mask(one.name), noun="mask").read()
        except DamagedError:
            left.append(one)
        else:
            _write(run, one, data)
    return left


def make_masks(run: Run, wanted: Iterable[Wanted], opens: Opens, advance: Callable[[], None]) -> None:
    """Find what is wanted and keep it; a photo that cannot be read has no mask, and its edits fail for that.

    Raises MissingError and ModelError before anything is looked for, ResourceError.
    """

    def keep(one: Wanted, mask: Coverage) -> None:
        _write(run, one, lossless.encode(np.repeat(mask[..., None], 3, axis=2)))

    find(wanted, opens, keep, advance)


def _write(run: Run, one: Wanted, data: bytes) -> None:
    write_atomic(run.layout.mask(one.name), data, root=run.anchor or run.root, lasting=False)


def find(
    wanted: Iterable[Wanted], opens: Opens, keep: Callable[[Wanted, Coverage], None], advance: Callable[[], None]
) -> None:
    """Hand each mask over; see `make_masks`."""
    wanted = list(wanted)
    detectors = {one: opens(one) for one in dict.fromkeys(one.sought for one in wanted)}

    def work(one: Wanted) -> None:
        with suppress(PhotoError):
            keep(one, detectors[one.sought].find(_seen(one.photo)))

    pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="find")
    try:
        for _ in pool.map(work, wanted):
            advance()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _seen(photo: Photo) -> NDArray[np.uint8]:
    """The photo as a detector sees it, upright."""
    scale = min(1, _LONGEST / max(photo.size))
    width, height = (max(1, round(side * scale)) for side in photo.size)
    return images.load(photo.path, (width, height)).pixels
