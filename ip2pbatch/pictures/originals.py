"""Photos at full size while files are delivered: decoded once for all the edits of a photo, and not kept for long."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from ip2pbatch.disk.opening import status
from ip2pbatch.errors import PhotoError
from ip2pbatch.pictures import colour, containers, images, sidecars
from ip2pbatch.pictures.containers import Blocks
from ip2pbatch.pictures.images import Picture, Pixels
from ip2pbatch.pictures.sizing import Sizing
from ip2pbatch.plan.memory import stamp
from ip2pbatch.plan.photo_digests import Look, look

_MOST_BYTES = 400 << 20  # of decoded photos that nobody works on at the moment: two of 60 megapixels


class Original:
    """One photo as it lies on the disk, read when it is first asked for; safe to share between threads.

    `picture` is in its own colours and depth, `sizing` how the model was shown it. Asking raises PhotoError where the
    file is gone or damaged.
    """

    def __init__(self, path: Path, sizing: Sizing = "bicubic") -> None:
        self.path, self.sizing = path, sizing
        self._lock = threading.Lock()
        self._seen: dict[tuple[int, int], Pixels] = {}

    @property
    def picture(self) -> Picture:
        with self._lock:
            return self._picture

    @property
    def look(self) -> Look:
        """Its digest and size, by which it is told from another photo of that name."""
        with self._lock:
            return self._look

    @property
    def blocks(self) -> Blocks:
        with self._lock:
            return self._blocks

    def seen(self, size: tuple[int, int]) -> Pixels:
        """What the model saw at (width, height) `size`, in the photo's own colours."""
        photo = self.picture
        with self._lock:
            if size not in self._seen:
                small = images.seen(photo, size, self.sizing)
                self._seen[size] = colour.from_srgb(small, photo.icc) if self.managed and photo.icc else small
            return self._seen[size]

    @property
    def managed(self) -> bool:
        """Whether its colours are other ones than sRGB."""
        return self._picture.icc is not None and not colour.is_srgb(self._picture.icc)

    @property
    def bytes(self) -> int:
        """What the decoded photo takes in memory; 0 before it is decoded."""
        photo = self.__dict__.get("_picture")
        parts = (photo.pixels, photo.alpha, photo.deep) if photo else ()
        return sum(part.nbytes for part in parts if part is not None)

    @cached_property
    def _picture(self) -> Picture:
        return images.load(self.path, colours="own")

    @cached_property
    def _look(self) -> Look:
        try:
            return look(self.path)
        except PhotoError as error:
            raise PhotoError(f"{self.path.name}: {error}") from None

    @cached_property
    def _blocks(self) -> Blocks:
        blocks = sidecars.completed(containers.read_blocks(self.path), self.path)
        return replace(blocks, left=(*blocks.left, *containers.behind(self.path)))


class Originals:
    """The Originals of one run that were used last. What is worked on is shared; beyond that at most `most_bytes` are
    kept.
    """

    def __init__(self, most_bytes: int = _MOST_BYTES, *, sizing: Sizing = "bicubic") -> None:
        self._most, self._sizing = most_bytes, sizing
        self._known: OrderedDict[tuple[Path, int, int, int], Original] = OrderedDict()
        self._lock = threading.Lock()

    def at(self, path: Path) -> Original:
        """The photo at `path` as the file is now: one that was written anew is read anew."""
        try:
            key = (path, *stamp(status(path)))
        except OSError:
            return Original(path, self._sizing)  # says why when it is asked
        with self._lock:
            found = self._known.pop(key, None) or Original(path, self._sizing)
            self._known[key] = found
            return found

    def trim(self) -> None:
        """Let go of the photos that were used longest ago, down to the bytes allowed; call it when one was used."""
        with self._lock:
            total = sum(one.bytes for one in self._known.values())
            while self._known and total > self._most:
                _, oldest = self._known.popitem(last=False)
                total -= oldest.bytes

    def clear(self) -> None:
        """Let go of all."""
        with self._lock:
            self._known.clear()
