"""What Edits start from, loaded ahead of the engine: photos at model size, or what an earlier link left behind."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace

import numpy as np

from ip2pbatch.errors import DamagedError, PhotoError
from ip2pbatch.pictures import fullres, images, registration
from ip2pbatch.pictures.areas.coverage import Coverage, coverage
from ip2pbatch.pictures.sizing import Sizing
from ip2pbatch.plan.edits import Edit, Photo, Region
from ip2pbatch.plan.memory import Memory
from ip2pbatch.plan.photo_digests import Look, look
from ip2pbatch.plan.tiling import Refinement
from ip2pbatch.run.directory.kept import Pixels
from ip2pbatch.run.directory.ledger import Run
from ip2pbatch.run.engine import FullSize, Source
from ip2pbatch.run.masks import masks_in

log = logging.getLogger("ip2pbatch.run")


class Sources:
    """Loads Sources in threads. A photo is decoded once a run: at model size it is kept in the run directory.

    At most `ahead` photos are in memory; all cells of a grid share theirs. `hold` keeps what the engine just made at
    hand until it is on the disk, so that the next link need not wait. `photos` gives those with a digest.
    """

    def __init__(self, run: Run, photos: Callable[[str], Sequence[Photo]], *, ahead: int, threads: int) -> None:
        self._run, self._most, self._photos = run, ahead, photos
        self._found = masks_in(run.layout)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="load")
        self._loaded: OrderedDict[tuple[str, tuple[int, int]], Future[Pixels]] = OrderedDict()
        self._masks: OrderedDict[tuple[Region, tuple[int, int]], Future[Coverage]] = OrderedDict()
        self._held: dict[str, Source] = {}
        self._lock = threading.Lock()

    def fetch(self, edit: Edit) -> Callable[[], Source]:
        """Start loading the Source of `edit`; calling what comes back waits for it.

        The wait raises PhotoError where the photo cannot be read, and ResourceError where the disk refuses.
        """
        mask = None if edit.region is None else self._mask(edit.region, edit.size)
        if edit.refine is not None:
            seen = self.photo(edit.refine.photo, edit.size)
            return self._pool.submit(self._refining, edit, edit.refine, seen, mask).result
        if edit.carry is not None:
            carried = self._pool.submit(self._carried, edit)
            return lambda: _within(carried.result(), mask)
        photo = self.photo(edit.source, edit.size)
        return lambda: _within(Source(pixels=photo.result()), mask)

    def foresee(self, edit: Edit) -> None:
        """`edit` comes soon: begin to load its photo. (What a link starts from is at hand or quickly read.)"""
        if edit.carry is None:
            self.photo(edit.source, edit.size)
        if edit.region is not None and edit.refine is None:
            self._mask(edit.region, edit.size)

    def photo(self, digest: str, size: tuple[int, int]) -> Future[Pixels]:
        """The photo with this digest at model size, uint8 [h, w, 3], soon."""
        with self._lock:
            future = self._loaded.get((digest, size))
            if future is None:
                future = self._loaded[(digest, size)] = self._pool.submit(self._load, digest, size)
            self._loaded.move_to_end((digest, size))
            while len(self._loaded) > self._most:
                self._loaded.popitem(last=False)
        return future

    def _mask(self, region: Region, size: tuple[int, int]) -> Future[Coverage]:
        """A region at model size, soon; the cells of a photo's grid share theirs."""
        with self._lock:
            future = self._masks.get((region, size))
            if future is None:
                future = self._masks[region, size] = self._pool.submit(coverage, region, size, self._found)
            self._masks.move_to_end((region, size))
            while len(self._masks) > self._most:
                self._masks.popitem(last=False)
        return future

    def hold(self, key: str, source: Source) -> None:
        """Keep what an Edit made until `release`, for the links that start from it."""
        self._held[key] = source

    def release(self, key: str) -> None:
        """The picture of this Edit is on the disk now."""
        self._held.pop(key, None)

    def close(self) -> None:
        """Begin to load nothing further, and wait for what is being loaded: it writes into the run directory."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _load(self, digest: str, size: tuple[int, int]) -> Pixels:
        with suppress(PhotoError):  # a kept copy that is damaged is made again
            kept = self._run.source(digest, size)
            if kept is not None:
                return kept
        # the same bytes may lie in several places
        pixels = _first_whole(self._photos(digest), size, self._run.spec.sizing)
        self._run.keep_source(digest, size, pixels)
        return pixels

    def _refining(
        self, edit: Edit, how: Refinement, seen: Future[Pixels], mask: Future[Coverage] | None
    ) -> Source:  # fmt: skip
        """What a picture is refined from. The two it waits for were asked for before it. Raises DamagedError."""
        photo = _first_whole(self._photos(how.photo), None, self._run.spec.sizing)
        before = self._picture(how.before) if how.before else None
        cell = self._picture(edit.source)
        return Source(cell, full=_full_size(how, cell, before, seen.result(), photo, mask.result() if mask else None))

    def _picture(self, key: str) -> Pixels:
        held = self._held.get(key)
        return self._run.picture(key) if held is None or held.pixels is None else held.pixels

    def _carried(self, edit: Edit) -> Source:
        """What a link starts from; beside a latent the picture that it became, by which flaws are told.

        Raises DamagedError.
        """
        held = self._held.get(edit.source)
        if edit.carry != "latent":
            return Source(pixels=held.pixels if held else self._run.picture(edit.source))
        return held or Source(self._run.picture(edit.source), self._run.latent(edit.source))


def _full_size(
    how: Refinement, cell: Pixels, before: Pixels | None, seen: Pixels, photo: Pixels, mask: Coverage | None
) -> FullSize:
    """`cell`, what it was edited `before` from where that was not the photo, the photo as the model had `seen` it and
    the `mask` of its region are of model size, [h, w, 3] and [h, w]; `photo` is [H, W, 3]. All in sRGB.
    """

    def laid(picture: Pixels) -> Pixels:
        return registration.register(picture, seen)[0] if how.register else picture

    cell = laid(cell)
    wanted = np.ones(cell.shape[:2], np.float32) if how.tiles == "all" else 1 - fullres.gate(cell, seen)
    share = np.rint(255 * np.clip(wanted, 0, 1)).astype(np.uint8)
    if mask is not None:
        share = np.minimum(share, mask)
    lifted = fullres.lift(cell, seen, photo, version=how.lift).pixels.astype(np.uint8, copy=False)
    source = (
        photo
        if before is None
        else fullres.lift(laid(before), seen, photo, version=how.lift).pixels.astype(np.uint8, copy=False)
    )
    return FullSize(source, lifted, share)


def _within(source: Source, mask: Future[Coverage] | None) -> Source:
    return source if mask is None else replace(source, mask=mask.result())


def heal_sources(run: Run, photos: Iterable[tuple[Photo, tuple[int, int]]]) -> list[DamagedError]:
    """Read what was kept of these photos at these sizes; what is damaged is made again from the photo, and comes back.

    Where that cannot be had any more, it is set aside: sheets then say that it is missing. Raises ResourceError.
    """
    found = []
    for photo, size in dict.fromkeys(photos):
        try:
            run.source(photo.digest, size)
        except DamagedError as error:
            found.append(error)
            remake_source(run, photo, size, error)
    return found


def remake_source(run: Run, photo: Photo, size: tuple[int, int], damage: DamagedError) -> bool:
    """Set the damaged copy of a photo at model size aside, and keep it once more; False where the photo is gone or
    another one now.
    """
    run.set_aside("", damage)
    with suppress(PhotoError):
        run.keep_source(photo.digest, size, read_photo(photo, size, run.spec.sizing))
        return True
    return False


def _first_whole(photos: Sequence[Photo], size: tuple[int, int] | None, sizing: Sizing) -> Pixels:
    """The pixels of the first of these equal photos that can be read. Raises the last one's PhotoError."""
    for photo in photos[:-1]:
        with suppress(PhotoError):
            return read_photo(photo, size, sizing)
    return read_photo(photos[-1], size, sizing)


def refuse_other(photo: Photo, found: Look) -> None:
    """Raises PhotoError where a file that was looked at is not the photo that was planned by that name."""
    if found.digest != photo.digest:
        Memory().forget(str(photo.path))  # or what it said would be believed again
        raise PhotoError(
            f"{photo.name} has changed since it was planned, or its manifest has another photo's digest",
            hint="run again, and it is edited as it is now, unless a manifest says its digest",
        )
    if found.size != photo.size:
        (width, height), (other, planned) = found.size, photo.size
        raise PhotoError(
            f"{photo.name} has {width} × {height} pixels as it is shown, and was planned with {other} × {planned}",
            hint="mend its size in the manifest, or leave it out there",
        )


def read_photo(photo: Photo, size: tuple[int, int] | None, sizing: Sizing) -> Pixels:
    """The pixels of `photo` at a size or its own, if it is still the photo that was planned: another one's edit must
    not get its name.

    Raises PhotoError.
    """
    picture = images.load(photo.path, size, sizing=sizing)
    refuse_other(photo, look(photo.path))
    for note in picture.notes:
        log.info("%s: %s", photo.name, note)
    return picture.pixels
