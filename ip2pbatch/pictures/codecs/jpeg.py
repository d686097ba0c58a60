"""JPEG: segments before the pixels, and a file of 4:4:4 with every block in its place."""

from __future__ import annotations

import hashlib
import io
import re
import struct
from collections.abc import Iterator
from typing import IO

from PIL import JpegImagePlugin

from ip2pbatch.errors import PhotoError
from ip2pbatch.pictures import photoshop
from ip2pbatch.pictures.codecs.through_pillow import saved
from ip2pbatch.pictures.containers import Blocks, Raster
from ip2pbatch.plan.photo_digests import hash_rest

_XMP_HEAD = b"http://ns.adobe.com/xap/1.0/\0"
_EXTENDED_HEAD = b"http://ns.adobe.com/xmp/extension/\0"
_PHOTOSHOP_HEAD = b"Photoshop 3.0\0"
_MOST_SEGMENTS, _MOST_EXIF = 10_000, 256  # segments, and those of EXIF
_SEGMENT = 65_533  # bytes of content in a segment
_SAMPLINGS = {(1, 1): 0, (2, 1): 1, (2, 2): 2}  # of colour, across and down, as Pillow's writer counts them
_FRAMES = frozenset((*range(0xC0, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0)))
# Segments about this file's bytes: thumbnails, profiles, further pictures, how it was coded, signatures.
_TECHNICAL = (b"JFIF", b"JFXX", b"ICC_PROFILE", b"MPF\0", b"Adobe", b"Ducky", b"JP")
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # among the bits of a scan
_LARGEST_TAIL = 16 << 20  # bytes behind the picture that are looked at


def open_image(file: IO[bytes]) -> JpegImagePlugin.JpegImageFile:
    """Pillow's image, which counts further pictures; PhotoError where there are more segments than any photo has."""
    _check_segments(file)
    return JpegImagePlugin.jpeg_factory(file)


def open_header(file: IO[bytes]) -> JpegImagePlugin.JpegImageFile:
    """The same of the first picture alone."""
    _check_segments(file)
    return JpegImagePlugin.JpegImageFile(file)


def _check_segments(file: IO[bytes]) -> None:
    """Pillow joins EXIF segment by segment, each time all of it anew. Leaves the file at its start."""
    file.seek(2)
    segments = exif = 0
    while len(head := file.read(10)) == 10 and head[0] == 0xFF and head[1] not in (0xD9, 0xDA):
        segments += 1
        exif += head[1] == 0xE1 and head[4:] == b"Exif\0\0"
        if segments > _MOST_SEGMENTS or exif > _MOST_EXIF:
            raise PhotoError("has more segments than any photo")
        file.seek(-9 if head[1] == 0xFF else struct.unpack_from(">H", head, 2)[0] - 8, io.SEEK_CUR)
    file.seek(0)


def digest(file: IO[bytes], into: hashlib._Hash) -> bytes:
    """All segments but APP0-13, APP15 and comments; from the first scan on everything."""
    file.seek(2)
    while len(head := file.read(4)) == 4 and head[0] == 0xFF:
        marker, length = head[1], struct.unpack(">H", head[2:])[0]
        if marker == 0xFF:  # fill bytes before a marker
            file.seek(-3, 1)
        elif (0xE0 <= marker <= 0xEF and marker != 0xEE) or marker == 0xFE:
            file.seek(max(length - 2, 0), 1)
        else:
            into.update(head + file.read(max(length - 2, 0)))
        if marker == 0xDA:
            break
    return hash_rest(file, into)


def read_blocks(file: IO[bytes]) -> Blocks:
    """The APPn segments and the comment; more than one EXIF or Photoshop segment is joined."""
    found: dict[str, bytes] = {}
    exif: list[bytes] = []
    extended: dict[int, bytes] = {}
    resources: list[bytes] = []
    left: dict[str, None] = {}
    chroma = (1, 1)
    for marker, data in _segments(file):
        if marker == 0xE1 and data.startswith(b"Exif\0\0"):
            exif.append(data[6:])  # some cameras go on in a second segment
        elif marker == 0xE1 and data.startswith(_XMP_HEAD):
            found.setdefault("xmp", data[len(_XMP_HEAD) :])
        elif marker == 0xE1 and data.startswith(_EXTENDED_HEAD):
            at = len(_EXTENDED_HEAD) + 32  # after the digest that names the whole
            extended[struct.unpack_from(">I", data, at + 4)[0]] = data[at + 8 :]
        elif marker == 0xED and data.startswith(_PHOTOSHOP_HEAD):
            resources.append(data[len(_PHOTOSHOP_HEAD) :])
        elif marker == 0xEB and data[:2] == b"JP" and b"c2pa" in data[:64]:
            found["c2pa"] = data
        elif marker == 0xFE:
            found["comment"] = data
        elif marker == 0xE0 and data.startswith(b"JFIF\0"):
            found["density"] = data[7:12]
        elif marker in _FRAMES:
            chroma = _chroma(data)
        elif 0xE0 <= marker <= 0xEF and not data.startswith(_TECHNICAL):
            left[_called(marker, data)] = None
    iptc, others = photoshop.apart(b"".join(resources))
    return Blocks(
        b"".join(exif),
        found.get("xmp", b""),
        b"".join(extended[offset] for offset in sorted(extended)),
        iptc,
        others,
        found.get("comment", b""),
        dpi=_density(found.get("density", b"")),
        chroma=chroma,
        c2pa="c2pa" in found,
        left=tuple(left),
    )


def _called(marker: int, data: bytes) -> str:
    """A segment that only its maker's programs read, by the name with which it begins."""
    name = re.match(rb"[ -~]{2,24}", data)
    return f"segment APP{marker & 15}" + (f" ({name[0].decode().strip()})" if name else "")


def _segments(file: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    """(marker, content) of a JPEG's segments up to its pixels."""
    file.read(2)
    while (head := file.read(2)) and len(head) == 2 and head[0] == 0xFF:
        marker = head[1]
        if marker == 0xFF:  # padding
            file.seek(-1, io.SEEK_CUR)
            continue
        if marker in (0xD9, 0xDA):
            file.seek(-2, io.SEEK_CUR)
            return
        (length,) = struct.unpack(">H", file.read(2))
        yield marker, file.read(length - 2)


def _chroma(frame: bytes) -> tuple[int, int]:
    """How many pixels of a three-channel frame share one sample of colour, across and down."""
    if len(frame) < 15 or frame[5] != 3:
        return 1, 1
    light, *colour = ((frame[at] >> 4, frame[at] & 15) for at in (7, 10, 13))
    same = colour[0] == colour[1] and all(colour[0])
    return (light[0] // colour[0][0], light[1] // colour[0][1]) if same else (1, 1)


def behind(file: IO[bytes]) -> tuple[str, ...]:
    """What lies behind the end of the picture, in words; pictures that a directory lists are counted elsewhere."""
    listed = any(marker == 0xE2 and data.startswith(b"MPF\0") for marker, data in _segments(file))
    tail = _tail(file).strip(b"\0")
    if b"ftyp" in tail:
        return ("video of a motion photo",)
    if tail.startswith(b"\xff\xd8"):
        return () if listed else ("a further picture",)
    return ("data behind the picture",) if tail else ()


def _tail(file: IO[bytes]) -> bytes:
    """The bytes behind the end of the picture, from the first scan on, where `file` stands."""
    data = file.read()
    at = 0
    while (found := _MARKER.search(data, at)) and data[found.start() + 1] != 0xD9:
        (length,) = struct.unpack_from(">H", data, found.end())
        at = found.end() + length
    return data[found.end() : found.end() + _LARGEST_TAIL] if found else b""


def _density(jfif: bytes) -> tuple[float, float]:
    if len(jfif) < 5 or jfif[0] not in (1, 2):
        return 0.0, 0.0
    x, y = struct.unpack(">HH", jfif[1:5])
    unit = 1.0 if jfif[0] == 1 else 2.54
    return x * unit, y * unit


def encode(raster: Raster, blocks: Blocks, quality: int) -> bytes:
    """A file with colour in full, or as `blocks.chroma` says where that is usual; alpha is laid on white."""
    return saved(
        "JPEG", raster, blocks, alpha=False, quality=quality, subsampling=_SAMPLINGS.get(blocks.chroma, 0),
        comment=blocks.comment, extra=_extra(blocks),
    )  # fmt: skip


def _extra(blocks: Blocks) -> bytes:
    segments = []
    if blocks.xmp:
        segments.append((0xE1, _XMP_HEAD + blocks.xmp))
    digest = _digest(blocks.xmp_extended)
    step = _SEGMENT - len(_EXTENDED_HEAD) - 40
    for at in range(0, len(blocks.xmp_extended), step):
        head = _EXTENDED_HEAD + digest + struct.pack(">II", len(blocks.xmp_extended), at)
        segments.append((0xE1, head + blocks.xmp_extended[at : at + step]))
    resources = photoshop.joined(blocks.iptc, blocks.photoshop)
    step = _SEGMENT - len(_PHOTOSHOP_HEAD)
    for at in range(0, len(resources), step):  # readers join the segments again
        segments.append((0xED, _PHOTOSHOP_HEAD + resources[at : at + step]))
    return b"".join(struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data for marker, data in segments)


def _digest(extended: bytes) -> bytes:
    return hashlib.md5(extended, usedforsecurity=False).hexdigest().upper().encode()
