"""PNG: its chunks, and a lossless file of 8 or 16 bits a channel."""

from __future__ import annotations

import hashlib
import io
import struct
import zlib
from collections.abc import Iterable
from typing import IO

from PIL import PngImagePlugin

from ip2pbatch.errors import PhotoError
from ip2pbatch.pictures import exif as exif_block
from ip2pbatch.pictures import photoshop
from ip2pbatch.pictures.codecs.through_pillow import saved
from ip2pbatch.pictures.containers import Blocks, Raster

# The chunks that pixels depend on; profile (iCCP) and orientation (eXIf) are hashed for themselves.
_PIXELS = frozenset((b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"gAMA", b"cHRM", b"sRGB", b"cICP"))
_XMP_HEAD = b"XML:com.adobe.xmp\0"
_LARGEST_BLOCK = 64 << 20
_BLOCK = 1 << 20
_RAW = b"Raw profile type "
_MOST_RAW = 10  # that are unpacked: two of each kind
_RAW_KINDS = (b"exif", b"app1", b"iptc", b"8bim", b"xmp")
_COLOURS = (b"iCCP", b"sRGB", b"gAMA", b"cICP")
_GAMMA = struct.pack(">I", 45_455)  # what sRGB's curve is written as
_GREYS = {"L;2": 85, "L;4": 17}  # how Pillow stretches grey of fewer bits than eight

# Texts and profiles of more than a megabyte are common: workflows, scanner profiles. Pillow's bound on the sum of a
# file's texts, 64 MB, stays, and is the bound of each.
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY


def open_image(file: IO[bytes]) -> PngImagePlugin.PngImageFile:
    """Pillow's image; what it says of transparency is of the numbers that its pixels will have."""
    try:
        image = PngImagePlugin.PngImageFile(file)
    except ValueError as error:
        if "MAX_TEXT" in str(error):
            most = PngImagePlugin.MAX_TEXT_MEMORY >> 20
            raise PhotoError(
                f"holds more than {most} MB of texts and profiles", hint="save it without them (exiftool -all=)"
            ) from None
        raise
    stored = str(image.tile[0].args) if image.tile else ""
    clear = image.info.get("transparency")
    if stored in _GREYS and isinstance(clear, int):
        image.info["transparency"] = min(clear * _GREYS[stored], 255)
    elif stored.startswith("RGB;16") and clear is not None:
        image.info["deep_transparency"] = image.info.pop("transparency")
    return image


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
    exif, xmp, dpi, c2pa = b"", b"", (0.0, 0.0), False
    text: list[tuple[bytes, bytes]] = []
    colours: dict[bytes, bytes] = {}
    file.read(8)
    while len(head := file.read(8)) == 8:
        (length,), kind = struct.unpack(">I", head[:4]), head[4:]
        c2pa |= kind == b"caBX"
        if kind in _COLOURS and length < _BLOCK:
            colours[kind] = file.read(length)
            file.seek(-length, io.SEEK_CUR)
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
    raw = _raw_profiles(text)
    iptc, others = photoshop.apart(raw.get(b"8bim", raw.get(b"iptc", b"")))
    if raw.get(b"iptc", b"").startswith(b"\x1c"):
        iptc = raw[b"iptc"]
    return Blocks(
        exif=exif or raw.get(b"exif", b""), xmp=xmp or raw.get(b"xmp", b""), iptc=iptc, photoshop=others,
        text=tuple(one for one in text if _raw_kind(one[1]) not in _RAW_KINDS), dpi=dpi, c2pa=c2pa,
        left=_left_colours(colours),
    )  # fmt: skip


def _left_colours(chunks: dict[bytes, bytes]) -> tuple[str, ...]:
    """Colours that are said by numbers, are not sRGB's, and are not looked at: few viewers do."""
    if b"iCCP" in chunks:
        return ()
    left = []
    if chunks.get(b"cICP", b"\1\r")[:2] not in (b"\1\r", b"\1\1"):
        left.append("colours by numbers (cICP)")
    if b"sRGB" not in chunks and abs(int.from_bytes(chunks.get(b"gAMA", _GAMMA)) - int.from_bytes(_GAMMA)) > 1000:
        left.append("the PNG's own gamma")
    return tuple(left)


def _raw_kind(data: bytes) -> bytes:
    """The kind of a text that ImageMagick, exiv2 and digiKam keep a profile in, b"" of any other."""
    keyword = data.partition(b"\0")[0]
    return keyword.removeprefix(_RAW).lower() if keyword.startswith(_RAW) else b""


def _raw_profiles(text: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """{kind: bytes} of such texts: "\n", kind, "\n", length in decimals, "\n", hexadecimals in lines."""
    found: dict[bytes, bytes] = {}
    for kind, data in [one for one in text if _raw_kind(one[1]) in _RAW_KINDS][:_MOST_RAW]:
        try:
            name, content = _raw_kind(data), _undumped(kind, data)
        except (ValueError, IndexError, zlib.error):
            continue
        if name == b"app1":
            name = b"exif" if content.startswith(b"Exif\0\0") else b"xmp"
        found.setdefault(name, content.removeprefix(b"Exif\0\0").removeprefix(b"http://ns.adobe.com/xap/1.0/\0"))
    if b"exif" in found:
        found[b"exif"] = _as_shown(found[b"exif"])
    return found


def _undumped(kind: bytes, data: bytes) -> bytes:
    text = data.partition(b"\0")[2]
    if kind == b"zTXt":
        text = zlib.decompressobj().decompress(text[1:], _LARGEST_BLOCK)
    elif kind == b"iTXt":
        text = _international_text(data)
    _, length, dump = text.lstrip(b"\n").split(b"\n", 2)  # the first line may be "iptc" or "IPTC profile"
    return bytes.fromhex(dump.decode("ascii"))[: int(length)]


def _as_shown(block: bytes) -> bytes:
    """EXIF of a text without its orientation, by which no viewer turns a PNG."""
    try:
        found = exif_block.Block(block)
        return found.in_place({exif_block.ORIENTATION: found.short(1)}, {})
    except exif_block.ExifError:
        return block


def text_of(kind: bytes, data: bytes) -> str:
    """What a textual chunk says, "" where it is damaged."""
    try:
        if kind == b"iTXt":
            return _international_text(data).decode("utf-8", "replace")
        text = data.partition(b"\0")[2]
        if kind == b"zTXt":
            text = zlib.decompressobj().decompress(text[1:], _LARGEST_BLOCK)
        return text.decode("latin-1")
    except (zlib.error, IndexError):
        return ""


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

        shell = encode(Raster(np.zeros((1, 1, *raster.pixels.shape[2:]), np.uint8), None, raster.icc), blocks, quality)
        return deep.png(raster.pixels.astype(np.uint16, copy=False), raster.alpha, shell)
    return saved("PNG", raster, blocks, compress_level=4, pnginfo=_info(blocks))


def _info(blocks: Blocks) -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    for kind, data in blocks.text:
        info.add(kind, data)
    if resources := photoshop.joined(blocks.iptc, blocks.photoshop):
        info.add(b"zTXt", _RAW + b"iptc\0\0" + zlib.compress(_dumped(b"iptc", resources)))
    if blocks.xmp:
        info.add(b"iTXt", _XMP_HEAD + b"\0\0\0\0" + blocks.xmp)
    return info


def _dumped(kind: bytes, content: bytes) -> bytes:
    """The text of a raw profile, as ImageMagick writes it and exiftool reads it."""
    digits = content.hex().encode()
    lines = [digits[at : at + 72] for at in range(0, len(digits), 72)]
    return b"\n%b\n%8d\n" % (kind, len(content)) + b"\n".join(lines) + b"\n"
