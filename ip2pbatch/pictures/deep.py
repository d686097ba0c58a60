"""Sixteen bits a channel: the halves that Pillow leaves out when it reads colour, and a PNG writer that keeps them.

Pillow holds colour in eight bits. Of 16-bit colour its decoders hand over the high byte of each number; told that the
file has the other byte order, they hand over the low one. Both together are the whole picture.
"""

from __future__ import annotations

import struct
import sys
import zlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

Pixels = NDArray[np.uint8]
DeepPixels = NDArray[np.uint16]

_OTHER = {"16L": "16B", "16B": "16L", "16N": "16B" if sys.byteorder == "little" else "16L"}
_COLOUR = ("RGB", "RGBA", "RGBX")
_ROWS = 256
_SIGNATURE = 8


def read_low_bytes(image: Image.Image) -> bool:
    """Tell an opened, undecoded image to decode the low bytes of its 16-bit colour; False where it has none.

    Premultiplied alpha, planes apart and inks are left alone: their numbers are not simply stored.
    """
    if not isinstance(image, ImageFile.ImageFile):
        return False
    tiles = []
    for tile in image.tile:
        raw, *rest = tile.args if isinstance(tile.args, tuple) else (tile.args,)
        mode, _, order = str(raw).partition(";")
        if mode not in _COLOUR or order not in _OTHER:
            return False
        raw = f"{mode};{_OTHER[order]}"
        tiles.append(tile._replace(args=(raw, *rest) if isinstance(tile.args, tuple) else raw))
    if tiles:
        image.tile = tiles
    return bool(tiles)


def joined(high: Pixels, low: Pixels) -> DeepPixels:
    """The 16-bit numbers of their two bytes, in strips: a second copy of them never exists."""
    whole = low.astype(np.uint16)
    for top in range(0, len(whole), _ROWS):
        whole[top : top + _ROWS] |= high[top : top + _ROWS].astype(np.uint16) << 8
    return whole


def png(pixels: DeepPixels, alpha: Pixels | None, shell: bytes) -> bytes:
    """A PNG of 16-bit pixels with every other chunk of `shell`, a PNG that Pillow made of eight-bit ones.

    `pixels` are RGB [h, w, 3] or grey [h, w], and `alpha` [h, w] has eight bits and is stretched. Rows are
    filtered by Paeth's predictor and deflated in strips.
    """
    height, width = pixels.shape[:2]
    colours = (2 if pixels.ndim == 3 else 0) + (0 if alpha is None else 4)
    parts = [shell[:_SIGNATURE]]
    for kind, content in _chunks(shell):
        if kind == b"IHDR":
            content = struct.pack(">IIBBBBB", width, height, 16, colours, 0, 0, 0)
        if kind == b"IDAT":
            continue
        if kind == b"IEND":
            parts += [_chunk(b"IDAT", data) for data in _deflated(pixels, alpha)]
        parts.append(_chunk(kind, content))
    return b"".join(parts)


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = _SIGNATURE
    while at < len(data):
        (length,) = struct.unpack_from(">I", data, at)
        yield data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        at += length + 12


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _deflated(pixels: DeepPixels, alpha: Pixels | None) -> Iterator[bytes]:
    packer = zlib.compressobj(4)
    above: NDArray[np.uint8] | None = None
    for top in range(0, len(pixels), _ROWS):
        rows = _stored(pixels[top : top + _ROWS], None if alpha is None else alpha[top : top + _ROWS])
        before = np.zeros_like(rows[:1]) if above is None else above
        yield packer.compress(_filtered(rows, np.concatenate([before, rows[:-1]])))
        above = rows[-1:]
    yield packer.flush()


def _stored(pixels: DeepPixels, alpha: Pixels | None) -> NDArray[np.uint8]:
    """[rows, w, bytes of a pixel], the high byte first."""
    if alpha is not None:
        pixels = np.dstack([pixels, alpha.astype(np.uint16) * 257])
    elif pixels.ndim == 2:
        pixels = pixels[..., None]
    return np.ascontiguousarray(pixels).astype(">u2").view(np.uint8)


def _filtered(rows: NDArray[np.uint8], above: NDArray[np.uint8]) -> bytes:
    """Paeth's filter (PNG 9.4): each byte less that of left, above and above left which is nearest to their sum."""
    left, corner = np.zeros_like(rows), np.zeros_like(rows)
    left[:, 1:], corner[:, 1:] = rows[:, :-1], above[:, :-1]
    a, b, c = (part.astype(np.int16) for part in (left, above, corner))
    to_left, to_above, to_corner = np.abs(b - c), np.abs(a - c), np.abs(a + b - 2 * c)
    nearest = np.where(
        (to_left <= to_above) & (to_left <= to_corner), left, np.where(to_above <= to_corner, above, corner)
    )
    rest = (rows - nearest).reshape(len(rows), -1)
    return np.concatenate([np.full((len(rows), 1), 4, np.uint8), rest], axis=1).tobytes()
