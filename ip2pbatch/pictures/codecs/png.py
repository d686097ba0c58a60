"""PNG: its chunks, and a lossless file of 8 or 16 bits a channel."""

from __future__ import annotations

import hashlib
import io
import struct
import zlib
from typing import IO

from PIL import PngImagePlugin

from ip2pbatch.pictures.codecs.through_pillow import saved
from ip2pbatch.pictures.containers import Blocks, Raster

# The chunks that pixels depend on; profile (iCCP) and orientation (eXIf) are hashed for themselves.
_PIXELS = frozenset((b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"gAMA", b"cHRM", b"sRGB", b"cICP"))
_XMP_HEAD = b"XML:com.adobe.xmp\0"
_LARGEST_BLOCK = 64 << 20
_BLOCK = 1 << 20


def digest(file: IO[bytes], into: hashlib._Hash) -> bytes:
    """The chunks that pixels depend on, without their checksums. Returns the EXIF, which may come after the pixels."""
    file.seek(8)
    exif = b""
    while len(head := file.read(8)) == 8:
        length, name = struct.unpack(">I", head[:4])[0], head[4:]
        if name in _PIXELS:
            into.update(name if name != b"IDAT" else b"")
            while length and (block := file.read(min(length, _BLOCK))):
                into.update(block)
                length -= len(block)
        elif name == b"eXIf" and length < _BLOCK:
            exif, length = file.read(length), 0
        file.seek(length + 4, 1)
    return exif


def read_blocks(file: IO[bytes]) -> Blocks:
    """The chunks before and after the pixels."""
    exif, xmp, text, dpi, c2pa = b"", b"", [], (0.0, 0.0), False
    file.read(8)
    while len(head := file.read(8)) == 8:
        (length,), kind = struct.unpack(">I", head[:4]), head[4:]
        c2pa |= kind == b"caBX"
        if kind not in (b"eXIf", b"iTXt", b"tEXt", b"zTXt", b"pHYs") or length > _LARGEST_BLOCK:
            file.seek(length + 4, io.SEEK_CUR)
            continue
        data = file.read(length)
        file.read(4)
        if kind == b"eXIf":
            exif = data.removeprefix(b"Exif\0\0")
        elif kind == b"pHYs":
            x, y, unit = struct.unpack(">IIB", data)
            dpi = (x * 0.0254, y * 0.0254) if unit == 1 else dpi
        elif data.startswith(_XMP_HEAD):
            xmp = _international_text(data)
        else:
            text.append((kind, data))
    return Blocks(exif=exif, xmp=xmp, text=tuple(text), dpi=dpi, c2pa=c2pa)


def _international_text(data: bytes) -> bytes:
    rest = data.split(b"\0", 1)[1]
    packed = rest[0] == 1
    content = rest[2:].split(b"\0", 2)[2]
    return zlib.decompressobj().decompress(content, _LARGEST_BLOCK) if packed else content


def encode(raster: Raster, blocks: Blocks, quality: int) -> bytes:
    """A lossless file; of 16-bit pixels all but the pixels is Pillow's."""
    import numpy as np

    if raster.pixels.dtype == np.uint16:
        from ip2pbatch.pictures import deep

        shell = encode(Raster(np.zeros((1, 1, 3), np.uint8), None, raster.icc), blocks, quality)
        return deep.png(raster.pixels.astype(np.uint16, copy=False), raster.alpha, shell)
    return saved("PNG", raster, blocks, compress_level=4, pnginfo=_info(blocks))


def _info(blocks: Blocks) -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    for kind, data in blocks.text:
        info.add(kind, data)
    if blocks.xmp:
        info.add(b"iTXt", _XMP_HEAD + b"\0\0\0\0" + blocks.xmp)
    return info
