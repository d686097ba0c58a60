"""WebP: its RIFF chunks, and a file with EXIF and XMP."""

from __future__ import annotations

import io
import struct
from typing import IO

from ip2pbatch.pictures.codecs.through_pillow import saved
from ip2pbatch.pictures.containers import Blocks, Raster

_LARGEST_BLOCK = 64 << 20


def read_blocks(file: IO[bytes]) -> Blocks:
    """The EXIF and XMP chunks."""
    found: dict[bytes, bytes] = {}
    file.read(12)
    while len(head := file.read(8)) == 8:
        (length,), kind = struct.unpack("<I", head[4:]), head[:4]
        if kind in (b"C2PA", b"VP8L"):
            found[kind] = b""
        if kind in (b"EXIF", b"XMP ") and length <= _LARGEST_BLOCK:
            found[kind] = file.read(length)
            file.read(length % 2)
        else:
            file.seek(length + length % 2, io.SEEK_CUR)
    exif = found.get(b"EXIF", b"").removeprefix(b"Exif\0\0")
    return Blocks(exif=exif, xmp=found.get(b"XMP ", b""), lossless=b"VP8L" in found, c2pa=b"C2PA" in found)


def encode(raster: Raster, blocks: Blocks, quality: int) -> bytes:
    """A lossy file, or a lossless one of a photo that is; colours below transparent pixels stay as they are."""
    return saved(
        "WEBP", raster, blocks, dpi=False, lossless=blocks.lossless, quality=quality, method=4, exact=True,
        xmp=blocks.xmp,
    )  # fmt: skip
