"""A photo's digest and oriented size, from its file, without decoding it."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from ip2pbatch.errors import PhotoError

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile

DIGEST_VERSION = 1
MAX_PIXELS = 200_000_000
MAX_ASPECT = 32

_BLOCK = 1 << 20
_ORIENTATION = 0x0112
# The chunks of a PNG that its pixels depend on; profile (iCCP) and orientation (eXIf) are hashed for themselves.
_PNG_CHUNKS = frozenset((b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"gAMA", b"cHRM", b"sRGB", b"cICP"))


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
        with path.open("rb") as file:
            kind = _kind(file.read(16))
            digest.update(f"{DIGEST_VERSION} {kind}\n".encode())
            size, exif, profile = _header(kind, file)
            _check_size(*size)
            file.seek(0)
            exif = {"JPEG": _hash_jpeg, "PNG": _hash_png}.get(kind, _hash_rest)(file, digest) or exif
    except OSError as error:
        raise PhotoError(f"cannot be read: {error.strerror or error}") from None
    orientation = 1 if kind == "TIFF" else _orientation(exif)  # Pillow turns a TIFF by itself, its size is upright
    digest.update(f"\n{orientation} {len(profile)}\n".encode() + profile)
    return Look(digest.hexdigest()[:32], size[::-1] if orientation >= 5 else size)


def _kind(head: bytes) -> str:
    """The format by content: a file's suffix is only a promise."""
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if head[:4] in (b"II*\0", b"MM\0*"):
        return "TIFF"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    raise PhotoError("is empty" if not head else "is not a JPEG, PNG, TIFF or WebP file")


def _header(kind: str, file: IO[bytes]) -> tuple[tuple[int, int], bytes, bytes]:
    """(width, height), EXIF and ICC profile, by Pillow, from the header alone.

    The format's own class is called rather than Image.open, whose limit of pixels is lower than ours and global.
    """
    file.seek(0)
    try:
        with _open(kind, file) as image:
            return image.size, image.info.get("exif") or b"", image.info.get("icc_profile") or b""
    except Exception as error:  # Pillow's parsers raise whatever a broken header leads them to
        raise PhotoError(f"is not a readable {kind}: {error or type(error).__name__}") from None


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


def _open(kind: str, file: IO[bytes]) -> ImageFile:
    if kind == "JPEG":
        from PIL.JpegImagePlugin import JpegImageFile

        return JpegImageFile(file)
    if kind == "PNG":
        from PIL.PngImagePlugin import PngImageFile

        return PngImageFile(file)
    if kind == "TIFF":
        from PIL.TiffImagePlugin import TiffImageFile

        return TiffImageFile(file)
    from PIL.WebPImagePlugin import WebPImageFile

    return WebPImageFile(file)


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise PhotoError(f"has {width} × {height} pixels; {MAX_PIXELS // 1_000_000} megapixels at most")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise PhotoError(f"has {width} × {height} pixels; one side more than {MAX_ASPECT} times the other")


def _hash_rest(file: IO[bytes], digest: hashlib._Hash) -> bytes:
    while block := file.read(_BLOCK):
        digest.update(block)
    return b""


def _hash_jpeg(file: IO[bytes], digest: hashlib._Hash) -> bytes:
    """All segments but APP0-13, APP15 and comments; from the first scan on everything."""
    file.seek(2)
    while len(head := file.read(4)) == 4 and head[0] == 0xFF:
        marker, length = head[1], struct.unpack(">H", head[2:])[0]
        if marker == 0xFF:  # fill bytes before a marker
            file.seek(-3, 1)
        elif (0xE0 <= marker <= 0xEF and marker != 0xEE) or marker == 0xFE:
            file.seek(max(length - 2, 0), 1)
        else:
            digest.update(head + file.read(max(length - 2, 0)))
        if marker == 0xDA:
            break
    return _hash_rest(file, digest)


def _hash_png(file: IO[bytes], digest: hashlib._Hash) -> bytes:
    """The chunks that pixels depend on, without their checksums. Returns the EXIF, which may come after the pixels."""
    file.seek(8)
    exif = b""
    while len(head := file.read(8)) == 8:
        length, name = struct.unpack(">I", head[:4])[0], head[4:]
        if name in _PNG_CHUNKS:
            digest.update(name if name != b"IDAT" else b"")
            while length and (block := file.read(min(length, _BLOCK))):
                digest.update(block)
                length -= len(block)
        elif name == b"eXIf" and length < _BLOCK:
            exif, length = file.read(length), 0
        file.seek(length + 4, 1)
    return exif
