"""The lossless pictures that a run keeps: pixels to the bytes of a PNG and back, and whether such bytes are whole."""

from __future__ import annotations

import hashlib
import io
import zlib
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from ip2pbatch.errors import PhotoError

Pixels = NDArray[np.uint8]

_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def encode(pixels: Pixels) -> bytes:
    """Pixels uint8 [h, w, 3], or [h, w, 4] with a share of each, as the bytes of a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=3)
    return buffer.getvalue()


def decode(data: bytes, name: str, mode: Literal["RGB", "RGBA"] = "RGB") -> Pixels:
    """The pixels, uint8 [h, w, 3], of what `encode` made; [h, w, 4] as RGBA. Raises PhotoError, which calls the file
    `name`.
    """
    try:
        with PngImagePlugin.PngImageFile(io.BytesIO(data)) as image:
            return np.asarray(image.convert(mode))
    # A decoder answers damage with OSError, SyntaxError, ValueError, struct.error, zlib.error …
    except Exception as error:
        raise PhotoError(f"{name}: the file is damaged or cut off ({error})") from None


def is_whole(data: bytes) -> bool:
    """Whether a PNG is as it was written, by the CRC-32 that the format (ISO/IEC 15948, 5.3) has in each chunk.

    Pillow passes over the CRC of the pixels. One flipped bit is always told, other damage but for once in 4 × 10⁹.
    """
    if not data.startswith(_SIGNATURE):
        return False
    at = len(_SIGNATURE)
    while at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        end = at + 8 + length
        if zlib.crc32(memoryview(data)[at + 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
            return False
        if data[at + 4 : at + 8] == b"IEND":
            return end + 4 == len(data)
        at = end + 4
    return False


def pixel_digest(pixels: Pixels) -> str:
    """The sha256 of a picture's RGB bytes [h, w, 3], row by row."""
    return hashlib.sha256(pixels.tobytes()).hexdigest()
