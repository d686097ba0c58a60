"""The photos that a page may show and edit: those given and those dropped in. Known by ids, never by paths."""

from __future__ import annotations

import hashlib
import io
import math
import os
import re
import tempfile
import threading
import time
import unicodedata
from collections import OrderedDict
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from ip2pbatch.disk.atomic import disk_error
from ip2pbatch.errors import Ip2pError, PhotoError
from ip2pbatch.plan.folder_walk import SUFFIXES
from ip2pbatch.plan.photo_digests import MAX_PIXELS, look, oriented_size

UPLOADS = "uploads"
MOST_BYTES = 100 << 20
_HELD = 64 << 20  # bytes of small pictures in memory
_NAME = 120  # letters of a dropped photo's name
_QUALITY = 85


@dataclass(frozen=True, slots=True)
class Listed:
    """A photo on the shelf. `real` is where it lay when it was listed: a link to elsewhere is no longer it."""

    id: str
    name: str
    path: Path
    real: str


@dataclass(frozen=True, slots=True)
class Facts:
    """What a page is told of a photo: its size, or why it cannot be read."""

    width: int = 0
    height: int = 0
    error: str = ""


Lister = Callable[[], Iterable[tuple[str, Path]]]
"""The photos that were given, by name: walked anew each time."""


@dataclass(slots=True)
class Shelf:
    """Photos by id, in order; dropped ones first. Safe to use from several threads.

    `problem` says why they could not be listed the last time.
    """

    lister: Lister
    uploads: Path
    changed: Callable[[], None] = lambda: None
    problem: Ip2pError | None = None
    _photos: dict[str, Listed] = field(default_factory=dict)
    _ids: dict[str, str] = field(default_factory=dict)
    _facts: dict[str, tuple[object, Facts]] = field(default_factory=dict)
    _small: OrderedDict[tuple[str, int, object], bytes] = field(default_factory=OrderedDict)
    _bytes: int = 0
    _listed: float = -math.inf
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _listing: threading.Lock = field(default_factory=threading.Lock)

    def __len__(self) -> int:
        return len(self._photos)

    def refresh(self, *, after: float = 0.0) -> bool:
        """List anew, where that was so many seconds ago; whether anything is another than before. Raises PlanError
        where the folder is gone, which is its `problem` until it is listed again.
        """
        with self._listing:
            if time.monotonic() - self._listed < after:
                return False
            try:
                found = [*self._dropped(), *self.lister()]
            except Ip2pError as error:
                was, self.problem = self.problem, error
                if str(was) != str(error):
                    self.changed()
                raise
            finally:
                self._listed = time.monotonic()
            places = _Places()
            photos = {one.id: one for one in (listed(name, path, places) for name, path in found)}
            with self._lock:
                changed = list(photos) != list(self._photos) or self.problem is not None
                self._photos, self._ids = photos, {str(one.path): one.id for one in photos.values()}
                self.problem = None
        if changed:
            self.changed()
        return changed

    def _dropped(self) -> list[tuple[str, Path]]:
        with suppress(OSError):
            paths = [path for path in self.uploads.iterdir() if not path.name.startswith(".")]
            return [(path.name, path) for path in sorted(paths) if path.suffix.lower() in SUFFIXES]
        return []

    def page(self, offset: int, limit: int, search: str = "") -> tuple[int, list[Listed]]:
        """How many there are, and some of them."""
        with self._lock:
            photos = list(self._photos.values())
        if search:
            photos = [one for one in photos if search.casefold() in one.name.casefold()]
        return len(photos), photos[offset : offset + limit]

    def get(self, photo: str) -> Listed | None:
        """The photo of an id, where it is still where it was."""
        found = self._photos.get(photo)
        return found if found is not None and os.path.realpath(found.path) == found.real else None

    def id_of(self, path: Path) -> str | None:
        """The id of a photo by its path; None where it is not on the shelf."""
        return self._ids.get(str(path))

    def facts(self, photo: Listed) -> Facts:
        """Read from the file's header, once as long as the file stays as it is."""
        state = _state(photo.path)
        known = self._facts.get(photo.id)
        if known is not None and known[0] == state:
            return known[1]
        try:
            width, height = oriented_size(photo.path)
            facts = Facts(width, height)
        except PhotoError as error:
            facts = Facts(error=str(error))
        self._facts[photo.id] = state, facts
        return facts

    def version(self, photo: Listed) -> str:
        """What changes with the file: for an ETag."""
        return hashlib.sha256(f"{photo.real}\n{_state(photo.path)}".encode("utf-8", "replace")).hexdigest()[:16]

    def picture(self, photo: Listed, side: int | None) -> bytes:
        """A JPEG of it, upright, in sRGB, at most `side` pixels long; at its own size where that is None.

        Raises PhotoError.
        """
        place = (photo.id, side or 0, _state(photo.path))
        with self._lock:
            if place in self._small:
                self._small.move_to_end(place)
                return self._small[place]
        data = _jpeg(photo.path, side)
        with self._lock:
            self._bytes += len(data) - len(self._small.get(place, b""))
            self._small[place] = data
            while len(self._small) > 1 and self._bytes > _HELD:
                self._bytes -= len(self._small.popitem(last=False)[1])
        return data

    def take_in(self, data: bytes, name: str) -> Listed:
        """Keep a dropped photo. The same bytes twice are one. Raises PhotoError where they are no photo of ours, and
        ResourceError.
        """
        clean = _clean(name)
        try:
            self.uploads.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".", dir=self.uploads) as folder:
                file = Path(folder, clean)
                file.write_bytes(data)
                look(file)
                _jpeg(file, 64)  # a header may promise what the rest does not hold
                path = self._place(clean, data)
                if not path.exists():
                    file.replace(path)
        except OSError as error:
            raise disk_error(error, self.uploads) from error
        self.refresh()
        return listed(path.name, path)

    def _place(self, name: str, data: bytes) -> Path:
        """A free name, or that of the same bytes."""
        path, number = self.uploads / name, 2
        while path.exists() and path.read_bytes() != data:
            path = self.uploads / f"{Path(name).stem}-{number}{Path(name).suffix}"
            number += 1
        return path


class _Places(dict[str, str]):
    """Where folders really are, each looked up once."""

    def __missing__(self, folder: str) -> str:
        self[folder] = os.path.realpath(folder)
        return self[folder]

    def of(self, path: Path) -> str:
        """Where a file really is: in its folder, if it is no link."""
        folder, name = os.path.split(path)
        return os.path.realpath(path) if path.is_symlink() else os.path.join(self[folder], name)  # noqa: PTH118


def listed(name: str, path: Path, places: _Places | None = None) -> Listed:
    """A photo with its id."""
    real = (_Places() if places is None else places).of(path)
    digest = hashlib.sha256(real.encode("utf-8", "surrogateescape")).hexdigest()
    return Listed(digest[:16], name, path, real)


def _state(path: Path) -> object:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns, found.st_ino


def _jpeg(path: Path, side: int | None) -> bytes:
    from PIL import Image

    from ip2pbatch.pictures.images import load, thumbnail

    width, height = oriented_size(path)
    scale = 1.0 if side is None else min(1.0, side / max(width, height))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    pixels = load(path).pixels if scale == 1.0 else thumbnail(path, size)
    held = io.BytesIO()
    Image.fromarray(pixels).save(held, "JPEG", quality=_QUALITY)
    return held.getvalue()


def _clean(name: str) -> str:
    """A file's name of ours, whatever a page said: no folder, nothing that a shell or a file system minds."""
    last = re.split(r"[/\\]", unicodedata.normalize("NFC", name))[-1]
    stem, suffix = os.path.splitext(last)  # noqa: PTH122
    stem = re.sub(r"[^\w .,()+-]", "_", stem).strip(". ")[:_NAME] or "photo"
    return stem + (suffix.lower() if suffix.lower() in SUFFIXES else ".jpg")


LIMITS = {"upload_bytes": MOST_BYTES, "upload_pixels": MAX_PIXELS}
