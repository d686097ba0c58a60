"""The four file formats as containers: metadata blocks out of a file, pixels and blocks into a new one."""

from __future__ import annotations

import hashlib
import io
import mmap
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import IO, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from ip2pbatch.errors import PhotoError
from ip2pbatch.pictures import deep
from ip2pbatch.pictures.exif import Block, Value

Pixels = NDArray[np.uint8]
Format = Literal["jpeg", "png", "tiff", "webp"]

_SIGNATURES: tuple[tuple[bytes, Format], ...] = (
    (b"\xff\xd8\xff", "jpeg"),
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"II*\0", "tiff"),
    (b"MM\0*", "tiff"),
)
_XMP_HEAD = b"http://ns.adobe.com/xap/1.0/\0"
_EXTENDED_HEAD = b"http://ns.adobe.com/xmp/extension/\0"
_PHOTOSHOP_HEAD = b"Photoshop 3.0\0"
_PNG_XMP = b"XML:com.adobe.xmp\0"
_LONGEST_SIDE = {"jpeg": 65_500, "webp": 16_383}
_SEGMENT = 65_533  # bytes of content in a JPEG segment
_LARGEST_BLOCK = 64 << 20
_XMP_TAG, _IPTC_TAG, _ICC_TAG, _C2PA_TAG = 700, 33723, 34675, 52545
DEEP: frozenset[Format] = frozenset({"png", "tiff"})  # formats that hold 16 bits a channel
# Of a TIFF's main directory: how and where its pixels lie, and blocks that are carried apart from EXIF.
_STRUCTURE = (
    *range(0x00FE, 0x0108), 0x010A, 0x0111, 0x0115, 0x0116, 0x0117, 0x0118, 0x0119, 0x011C, 0x0120, 0x0121, 0x0122,
    0x0123, 0x0124, 0x0125, 0x012D, 0x013D, 0x013E, 0x013F, 0x0140, 0x0141, *range(0x0142, 0x0147), 0x014A,
    *range(0x014C, 0x0159), 0x015B, *range(0x0200, 0x0216), _XMP_TAG, _IPTC_TAG, _ICC_TAG, _C2PA_TAG, 34377, 37724,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Blocks:
    """A file's metadata, block by block, as bytes; empty where it has none.

    `exif` starts with its TIFF header; `iptc` are IIM datasets; `text` are PNG's textual chunks (type, content),
    XMP not among them; `dpi` is pixels an inch, (0, 0) where the file does not say. `c2pa`: it has Content Credentials,
    a signature over its bytes, which no other file can carry on.
    """

    exif: bytes = b""
    xmp: bytes = b""
    xmp_extended: bytes = b""
    iptc: bytes = b""
    comment: bytes = b""
    text: tuple[tuple[bytes, bytes], ...] = ()
    dpi: tuple[float, float] = (0.0, 0.0)
    c2pa: bool = False


@dataclass(frozen=True, slots=True)
class Raster:
    """Pixels to be written: RGB [h, w, 3] in the colours of `icc` (sRGB where None), alpha uint8 [h, w] or None.

    Pixels of uint16 are for formats in DEEP only.
    """

    pixels: Pixels | deep.DeepPixels
    alpha: Pixels | None = None
    icc: bytes | None = None


def sniff(head: bytes) -> Format | None:
    """The format that a file's first 16 bytes announce; its extension is not asked."""
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "webp"
    return next((kind for signature, kind in _SIGNATURES if head.startswith(signature)), None)


def read_blocks(path: Path) -> Blocks:
    """The metadata of a JPEG, PNG, TIFF or WebP file, pixels not decoded; empty for what cannot be followed."""
    try:
        with path.open("rb") as file:
            kind = sniff(file.read(16))
            file.seek(0)
            return _READERS[kind](file) if kind else Blocks()
    # A damaged file fails in its own way in every reader; whether its pixels are whole is for `images` to say.
    except Exception:
        return Blocks()


def _read_jpeg(file: IO[bytes]) -> Blocks:
    found: dict[str, bytes] = {}
    extended: dict[int, bytes] = {}
    photoshop = b""
    for marker, data in _segments(file):
        if marker == 0xE1 and data.startswith(b"Exif\0\0"):
            found["exif"] = found.get("exif", b"") + data[6:]  # some cameras go on in a second segment
        elif marker == 0xE1 and data.startswith(_XMP_HEAD):
            found.setdefault("xmp", data[len(_XMP_HEAD) :])
        elif marker == 0xE1 and data.startswith(_EXTENDED_HEAD):
            at = len(_EXTENDED_HEAD) + 32  # after the digest that names the whole
            extended[struct.unpack_from(">I", data, at + 4)[0]] = data[at + 8 :]
        elif marker == 0xED and data.startswith(_PHOTOSHOP_HEAD):
            photoshop += data[len(_PHOTOSHOP_HEAD) :]
        elif marker == 0xEB and data[:2] == b"JP" and b"c2pa" in data[:64]:
            found["c2pa"] = data
        elif marker == 0xFE:
            found["comment"] = data
        elif marker == 0xE0 and data.startswith(b"JFIF\0"):
            found["density"] = data[7:12]
    return Blocks(
        found.get("exif", b""),
        found.get("xmp", b""),
        b"".join(extended[offset] for offset in sorted(extended)),
        _iptc(photoshop),
        found.get("comment", b""),
        dpi=_density(found.get("density", b"")),
        c2pa="c2pa" in found,
    )


def _segments(file: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    """(marker, content) of a JPEG's segments up to its pixels."""
    file.read(2)
    while (head := file.read(2)) and len(head) == 2 and head[0] == 0xFF:
        marker = head[1]
        if marker == 0xFF:  # padding
            file.seek(-1, io.SEEK_CUR)
            continue
        if marker in (0xD9, 0xDA):
            return
        (length,) = struct.unpack(">H", file.read(2))
        yield marker, file.read(length - 2)


def _density(jfif: bytes) -> tuple[float, float]:
    if len(jfif) < 5 or jfif[0] not in (1, 2):
        return 0.0, 0.0
    x, y = struct.unpack(">HH", jfif[1:5])
    unit = 1.0 if jfif[0] == 1 else 2.54
    return x * unit, y * unit


def _iptc(resources: bytes) -> bytes:
    """The IPTC datasets among Photoshop's image resources (which may also hold a thumbnail of the old picture)."""
    at = 0
    while resources[at : at + 4] == b"8BIM":
        (number,) = struct.unpack_from(">H", resources, at + 4)
        name = 1 + resources[at + 6]
        at += 6 + name + name % 2
        (length,) = struct.unpack_from(">I", resources, at)
        if number == 0x0404:
            return resources[at + 4 : at + 4 + length]
        at += 4 + length + length % 2
    return b""


def _read_png(file: IO[bytes]) -> Blocks:
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
        elif data.startswith(_PNG_XMP):
            xmp = _international_text(data)
        else:
            text.append((kind, data))
    return Blocks(exif=exif, xmp=xmp, text=tuple(text), dpi=dpi, c2pa=c2pa)


def _international_text(data: bytes) -> bytes:
    rest = data.split(b"\0", 1)[1]
    packed = rest[0] == 1
    content = rest[2:].split(b"\0", 2)[2]
    return zlib.decompressobj().decompress(content, _LARGEST_BLOCK) if packed else content


def _read_webp(file: IO[bytes]) -> Blocks:
    found: dict[bytes, bytes] = {}
    file.read(12)
    while len(head := file.read(8)) == 8:
        (length,), kind = struct.unpack("<I", head[4:]), head[:4]
        if kind == b"C2PA":
            found[kind] = b""
        if kind in (b"EXIF", b"XMP ") and length <= _LARGEST_BLOCK:
            found[kind] = file.read(length)
            file.read(length % 2)
        else:
            file.seek(length + length % 2, io.SEEK_CUR)
    exif = found.get(b"EXIF", b"").removeprefix(b"Exif\0\0")
    return Blocks(exif=exif, xmp=found.get(b"XMP ", b""), c2pa=b"C2PA" in found)


def _read_tiff(file: IO[bytes]) -> Blocks:
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as whole:
        block = Block(whole)
        found = (block.get(tag) for tag in (_XMP_TAG, _IPTC_TAG))
        xmp, iptc = (value.data if value else b"" for value in found)
        return Blocks(block.compacted(_STRUCTURE), xmp, iptc=iptc, c2pa=block.get(_C2PA_TAG) is not None)


_READERS = {"jpeg": _read_jpeg, "png": _read_png, "webp": _read_webp, "tiff": _read_tiff}


def encode(raster: Raster, blocks: Blocks, kind: Format, quality: int) -> bytes:
    """A whole file. JPEG is 4:4:4 and flattens alpha on white; PNG and TIFF are lossless.

    `blocks` must fit the format (see `metadata.merge`). Raises PhotoError where the picture is too large for it.
    """
    height, width = raster.pixels.shape[:2]
    if max(height, width) > _LONGEST_SIDE.get(kind, 1 << 31):
        longest = _LONGEST_SIDE[kind]
        raise PhotoError(f"{width} × {height}: {kind} holds at most {longest} pixels a side", hint="use format: png")
    if kind == "tiff":
        return _tiff(raster, blocks)
    if raster.pixels.dtype == np.uint16:
        shell = encode(Raster(np.zeros((1, 1, 3), np.uint8), None, raster.icc), blocks, kind, quality)
        return deep.png(raster.pixels.astype(np.uint16, copy=False), raster.alpha, shell)
    image = _image(raster, alpha=kind != "jpeg")
    options: dict[str, object] = {"icc_profile": raster.icc}
    if blocks.exif:
        options["exif"] = b"Exif\0\0" + blocks.exif
    if kind != "webp" and min(blocks.dpi) > 0:
        options["dpi"] = blocks.dpi
    if kind == "jpeg":
        options |= {"quality": quality, "subsampling": 0, "comment": blocks.comment, "extra": _jpeg_extra(blocks)}
    elif kind == "png":
        options |= {"compress_level": 4, "pnginfo": _png_info(blocks)}
    else:
        options |= {"quality": quality, "method": 4, "exact": True, "xmp": blocks.xmp}
    buffer = io.BytesIO()
    image.save(buffer, kind.upper(), **options)
    return buffer.getvalue()


def _image(raster: Raster, alpha: bool) -> Image.Image:
    if raster.alpha is None:
        return Image.fromarray(raster.pixels)
    image = Image.fromarray(np.dstack([raster.pixels, raster.alpha]))
    if alpha:
        return image
    paper = Image.new("RGB", image.size, "white")
    paper.paste(image, mask=image.getchannel("A"))
    return paper


def _jpeg_extra(blocks: Blocks) -> bytes:
    segments = []
    if blocks.xmp:
        segments.append((0xE1, _XMP_HEAD + blocks.xmp))
    digest = _digest(blocks.xmp_extended)
    step = _SEGMENT - len(_EXTENDED_HEAD) - 40
    for at in range(0, len(blocks.xmp_extended), step):
        head = _EXTENDED_HEAD + digest + struct.pack(">II", len(blocks.xmp_extended), at)
        segments.append((0xE1, head + blocks.xmp_extended[at : at + step]))
    if blocks.iptc:
        resource = b"8BIM\x04\x04\0\0" + struct.pack(">I", len(blocks.iptc)) + blocks.iptc + bytes(len(blocks.iptc) % 2)
        segments.append((0xED, _PHOTOSHOP_HEAD + resource))
    return b"".join(struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data for marker, data in segments)


def _digest(extended: bytes) -> bytes:
    return hashlib.md5(extended, usedforsecurity=False).hexdigest().upper().encode()


def _png_info(blocks: Blocks) -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    for kind, data in blocks.text:
        info.add(kind, data)
    if blocks.xmp:
        info.add(b"iTXt", _PNG_XMP + b"\0\0\0\0" + blocks.xmp)
    return info


def _tiff(raster: Raster, blocks: Blocks) -> bytes:
    """A TIFF: the EXIF block with the pixels' tags added to its main directory, then the strips.

    Deflate with horizontal differencing, 8 or 16 bits a channel, associated nothing: alpha is unassociated.
    """
    pixels = raster.pixels
    if raster.alpha is not None:
        pixels = np.dstack([pixels, raster.alpha.astype(pixels.dtype) * (1 if pixels.dtype == np.uint8 else 257)])
    height, width, channels = pixels.shape
    rows = max(1, (1 << 20) // (width * channels * pixels.itemsize))
    block = Block(blocks.exif)
    strips = [_tiff_strip(pixels[top : top + rows], block.order) for top in range(0, height, rows)]
    lengths = [len(strip) for strip in strips]
    bits = struct.pack(f"{block.order}{channels}H", *[8 * pixels.itemsize] * channels)
    tags: dict[int, Value | None] = {
        0x0100: block.long(width), 0x0101: block.long(height), 0x0102: Value(3, channels, bits),
        0x0103: block.short(8), 0x0106: block.short(2), 0x0111: block.long(*lengths), 0x0112: block.short(1),
        0x0115: block.short(channels), 0x0116: block.long(rows), 0x0117: block.long(*lengths), 0x011C: block.short(1),
        0x013D: block.short(2), 0x0152: block.short(2) if channels == 4 else None,
    }  # fmt: skip
    for tag, content in ((_XMP_TAG, blocks.xmp), (_IPTC_TAG, blocks.iptc), (_ICC_TAG, raster.icc)):
        tags[tag] = Value(7 if tag == _ICC_TAG else 1, len(content), content) if content else None
    # The directory is as long with the true offsets as with any others, so its length is known before they are.
    first = len(block.rewritten(tags, {}))
    tags[0x0111] = block.long(*accumulate(lengths[:-1], initial=first))
    return b"".join([block.rewritten(tags, {}), *strips])


def _tiff_strip(rows: Pixels | deep.DeepPixels, order: str) -> bytes:
    """Rows less the pixel to the left, deflated; of even length, as offsets in a TIFF should be."""
    strip = rows.copy()
    strip[:, 1:] -= rows[:, :-1]
    packed = zlib.compress(strip.astype(f"{order}u{strip.itemsize}").tobytes(), 5)
    return packed + bytes(len(packed) % 2)
