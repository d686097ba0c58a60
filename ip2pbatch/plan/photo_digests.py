"""A photo's digest and oriented size, from its file, without decoding it."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NoReturn, cast

from ip2pbatch.disk.opening import open_file
from ip2pbatch.errors import PhotoError
from ip2pbatch.plan.formats import HEAD, UNKNOWN, Format, kind_of
from ip2pbatch.plan.named import named
from ip2pbatch.plan.unedited import unread_by_head

DIGEST_VERSION = 1
MAX_PIXELS = 200_000_000
MAX_ASPECT = 32

FLOATING = (
    "holds 32-bit or floating-point pixels, whose white only their author knows; save it as 8 or 16 bits a channel"
)

_BLOCK = 1 << 20
_ORIENTATION = 0x0112


@dataclass(frozen=True, slots=True)
class Look:
    """What the file of a photo says: digest, and (width, height) in pixels after the EXIF orientation."""

    digest: str
    size: tuple[int, int]


def look(path: Path) -> Look:
    """The digest and the oriented size of a photo, without decoding it. Raises PhotoError with the reason.

    The digest covers what pixels depend on: of a JPEG all but APPn and comments (Adobe's APP14 says how its colours
    are coded, so it counts), of a PNG its pixel and colour chunks, else the whole file; and orientation and profile.
    """
    digest = hashlib.sha256()
    try:
        with open_file(path) as file:
            kind = kind_of(file, path.suffix) or _refused(file.read(HEAD))
            if missing := kind.missing():
                raise PhotoError(f"is {kind.title}, whose reader is not installed; {missing}")
            digest.update(f"{DIGEST_VERSION} {kind.name.upper()}\n".encode())
            size, exif, profile = _header(kind, file)
            check_size(*size)
            file.seek(0)
            exif = _fed(kind, file, digest) or exif
    except OSError as error:
        raise PhotoError(f"cannot be read: {error.strerror or error}") from None
    orientation = 1 if kind.upright else _orientation(exif)
    digest.update(f"\n{orientation} {len(profile)}\n".encode() + profile)
    return Look(digest.hexdigest()[:32], size[::-1] if orientation >= 5 else size)


def oriented_size(path: Path) -> tuple[int, int]:
    """The size alone, by the file's header, for whoever lists very many photos. Raises PhotoError."""
    try:
        with open_file(path) as file:
            kind = kind_of(file, path.suffix) or _refused(file.read(HEAD))
            if missing := kind.missing():
                raise PhotoError(f"is {kind.title}, whose reader is not installed; {missing}")
            size, exif, _ = _header(kind, file)
    except OSError as error:
        raise PhotoError(f"cannot be read: {error.strerror or error}") from None
    check_size(*size)
    return size[::-1] if not kind.upright and _orientation(exif) >= 5 else size


def _fed(kind: Format, file: IO[bytes], digest: hashlib._Hash) -> bytes:
    try:
        return cast(bytes, named(kind.digest)(file, digest))
    except (ValueError, IndexError, struct.error) as error:
        raise PhotoError(f"is not a readable {kind.name.upper()}: {error}") from None


def _refused(head: bytes) -> NoReturn:
    if other := unread_by_head(head):
        raise PhotoError(f"is {other.title} inside, which is not read here; {other.hint}")
    raise PhotoError("is empty" if not head else UNKNOWN)


def _header(kind: Format, file: IO[bytes]) -> tuple[tuple[int, int], bytes, bytes]:
    """(width, height), EXIF and ICC profile, by Pillow, from the header alone."""
    file.seek(0)
    try:
        with kind.open(file, whole=False) as image:
            if image.mode in ("F", "I"):
                raise PhotoError(FLOATING)
            return image.size, image.info.get("exif") or b"", image.info.get("icc_profile") or b""
    except PhotoError:
        raise
    except Exception as error:  # Pillow's parsers raise whatever a broken header leads them to
        if str(error) == "unknown pixel mode":  # of a TIFF whose colour is no whole number of 8 or 16 bits
            raise PhotoError(FLOATING) from None
        raise PhotoError(f"is not a readable {kind.name.upper()}: {error or type(error).__name__}") from None


def _orientation(exif: bytes) -> int:
    """1 to 8; 1 where there is none or the EXIF is damaged. One left behind in XMP does not count."""
    if not exif:
        return 1
    from PIL.Image import Exif

    block = Exif()
    try:
        block.load(exif)
        value: object = block.get(_ORIENTATION)
    except Exception:  # as in _header; a photo with damaged EXIF is still a photo
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def check_size(width: int, height: int) -> None:
    """Raises PhotoError for more pixels, or a longer shape, than any photo has."""
    if width * height > MAX_PIXELS:
        raise PhotoError(f"has {width} × {height} pixels; {MAX_PIXELS // 1_000_000} megapixels at most")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise PhotoError(f"has {width} × {height} pixels; one side more than {MAX_ASPECT} times the other")


def hash_rest(file: IO[bytes], digest: hashlib._Hash) -> bytes:
    """Feed `digest` with what is left of a file; b"" for the EXIF, which was not looked for."""
    while block := file.read(_BLOCK):
        digest.update(block)
    return b""
