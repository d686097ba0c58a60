"""ISO base media files (ISO/IEC 14496-12, 23008-12): HEIC and AVIF. What lies in one and where, nothing decoded."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import IO

from ip2pbatch.pictures.containers import Blocks
from ip2pbatch.plan.photo_digests import hash_rest

_MOST_META = 16 << 20  # bytes of a box that describes the pictures
_MOST_BLOCK = 64 << 20
_MOST_ITEMS = 65_535
_MOST_BOXES = 65_535  # side by side
_MOST_PARTS = 1 << 18  # extents of all items, and properties that items have
_MOST_PROPERTIES = 512 << 20  # bytes of these, each as often as an item has it
_MOST_NOTED = 16  # items that may be the EXIF or the XMP
_MOST_TIMES = 8  # the file's bytes that items may name together
_NO_PICTURE = (b"Exif", b"mime", b"uri ")
_C2PA = bytes.fromhex("d8fec3d61b0e483c92975828877ec481")
_XMP = b"application/rdf+xml"


class NoPictureError(ValueError):
    """The boxes do not lead to a picture."""


@dataclass(slots=True)
class Item:
    """One thing in the file: its type, where its bytes lie (offset, length), what is said of it (type, content)."""

    kind: bytes = b""
    content_type: bytes = b""
    hidden: bool = False
    in_meta: bool = False
    extents: list[tuple[int, int]] = field(default_factory=list)
    properties: list[tuple[bytes, bytes]] = field(default_factory=list)

    def said(self, kind: bytes) -> bytes | None:
        """The content of the first property of a type."""
        return next((content for name, content in self.properties if name == kind), None)


@dataclass(frozen=True)
class Container:
    """The items of a file by number, which is the primary one, and which refers to which (type, from, to)."""

    items: dict[int, Item]
    primary: int
    references: list[tuple[bytes, int, int]]
    data: bytes
    others: frozenset[bytes]

    @property
    def main(self) -> Item:
        return self.items[self.primary]

    @cached_property
    def stored(self) -> tuple[int, int]:
        """(width, height) before it is turned or cropped."""
        said = self.main.said(b"ispe")
        if said is None or len(said) < 12:
            raise NoPictureError("its size is not said")
        width, height = struct.unpack_from(">II", said, 4)
        return width, height

    @cached_property
    def size(self) -> tuple[int, int]:
        """(width, height) as it is shown."""
        width, height = self.stored
        for name, content in self.main.properties:
            if name == b"clap" and len(content) >= 16:
                across, of_across, down, of_down = struct.unpack_from(">4I", content)
                width, height = across // max(of_across, 1), down // max(of_down, 1)
            elif name == b"irot" and content and content[0] & 1:
                width, height = height, width
        return width, height

    @property
    def depth(self) -> int:
        """Bits of a channel, 8 where it is not said."""
        said = self.main.said(b"pixi") or b""
        return max(said[5:], default=8) if len(said) > 5 else 8

    @property
    def is_grey(self) -> bool:
        """Whether the picture is said to have one channel."""
        return (self.main.said(b"pixi") or b"")[4:5] == b"\1"

    @property
    def icc(self) -> bytes | None:
        """The embedded profile."""
        said = (content for name, content in self.main.properties if name == b"colr")
        return next((content[4:] for content in said if content[:4] in (b"prof", b"rICC")), None)

    @property
    def coded(self) -> tuple[int, int] | None:
        """Primaries and transfer by their numbers in ITU-T H.273, where there is no profile."""
        for name, content in self.main.properties:
            if name == b"colr" and content[:4] == b"nclx" and len(content) >= 8:
                primaries, transfer = struct.unpack_from(">HH", content, 4)
                return primaries, transfer
        return None

    @property
    def chroma(self) -> tuple[int, int]:
        """How many pixels of HEVC share one sample of colour, across and down (14496-15, 8.3.3.1)."""
        said = (one.said(b"hvcC") for one in (self.main, *self.items.values()))  # of a grid its tiles say it
        found = next((content for content in said if content), b"")
        return {1: (2, 2), 2: (2, 1)}.get(found[16] & 3, (1, 1)) if len(found) > 16 else (1, 1)

    @property
    def as_rgb(self) -> bool:
        """Whether red, green and blue are coded as they are (matrix 0 of H.273), as encoders do to lose nothing."""
        said = (content for name, content in self.main.properties if name == b"colr")
        return any(content[:4] == b"nclx" and content[8:10] == b"\0\0" for content in said)

    @property
    def left(self) -> tuple[str, ...]:
        """What else is in the file and comes along nowhere."""
        said = [content for item in self.items.values() for name, content in item.properties if name == b"auxC"]
        kinds = {item.kind for item in self.items.values()}
        found = {
            "HDR gain map": any(b"hdrgainmap" in one for one in said) or b"tmap" in kinds,
            "depth map": any(b"depth" in one or b"disparity" in one for one in said),
            "video": b"moov" in self.others and self.main.kind != b"av01",  # AVIF's are pictures, which are told
        }
        return tuple(name for name, there in found.items() if there)

    def notes(self) -> tuple[str, ...]:
        """That other pictures in the file are not used."""
        return ("only the main one of several pictures in the file is used",) if self._pictures() > 1 else ()

    def _pictures(self) -> int:
        """Pictures a person would see: no tiles, thumbnails, or parts of others."""
        parts = {start for kind, start, _ in self.references if kind in (b"thmb", b"auxl", b"cdsc", b"prem")}
        parts |= {end for kind, _, end in self.references if kind == b"dimg"}
        shown = [
            number for number, item in self.items.items()
            if item.kind not in (*_NO_PICTURE, b"tmap") and not item.hidden and number not in parts
        ]  # fmt: skip
        return len({*shown, self.primary})


def read(file: IO[bytes]) -> Container:
    """What the file's boxes say. Raises NoPictureError, or struct.error where they are cut."""
    file.seek(0)
    meta, names = b"", set()
    for name, length in top(file):
        names.add(name)
        if name == b"meta" and not meta:
            if length > _MOST_META:
                raise NoPictureError("its description is longer than any picture needs")
            meta = file.read(length)
        elif name == b"uuid" and file.read(16) == _C2PA:
            names.add(_C2PA)
    if not meta:
        raise NoPictureError("there is no still picture in it")
    return _container(meta, frozenset(names))


def top(file: IO[bytes]) -> Iterator[tuple[bytes, int]]:
    """Name and length of the content of each box of the file, which stands at the content meanwhile."""
    end = file.seek(0, 2)
    at = 0
    while at + 8 <= end:
        file.seek(at)
        length, name = struct.unpack(">I4s", file.read(8))
        head = 8
        if length == 1:
            head, length = 16, struct.unpack(">Q", file.read(8))[0]
        length = length or end - at
        if length < head:
            raise NoPictureError("a box shorter than its head")
        yield name, min(length, end - at) - head
        at += length


def inner(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The boxes within one."""
    at = count = 0
    while at + 8 <= len(data):
        count += 1
        if count > _MOST_BOXES:
            raise NoPictureError("more boxes than any picture needs")
        length, name = struct.unpack_from(">I4s", data, at)
        head = 8
        if length == 1:
            head, length = 16, struct.unpack_from(">Q", data, at + 8)[0]
        length = length or len(data) - at
        if length < head:
            raise NoPictureError("a box shorter than its head")
        yield name, data[at + head : at + length]
        at += length


def _container(meta: bytes, others: frozenset[bytes]) -> Container:
    parts: dict[bytes, bytes] = {}
    for name, content in inner(meta[4:]):
        parts.setdefault(name, content)
    if b"pitm" not in parts or b"iloc" not in parts:
        raise NoPictureError("there is no still picture in it")
    items = dict(_infos(parts.get(b"iinf", b"")))
    _locate(parts[b"iloc"], items)
    _describe(parts.get(b"iprp", b""), items)
    number = parts[b"pitm"]
    primary = struct.unpack_from(">H" if number[0] == 0 else ">I", number, 4)[0]
    if primary not in items:
        raise NoPictureError("its main picture is not in it")
    return Container(items, primary, list(_refer(parts.get(b"iref", b""))), parts.get(b"idat", b""), others)


def _infos(data: bytes) -> Iterator[tuple[int, Item]]:
    if not data:
        return
    for name, content in inner(data[6 if data[0] == 0 else 8 :]):
        if name != b"infe" or content[0] < 2:
            continue
        flags, wide = content[3], content[0] > 2
        (number,) = struct.unpack_from(">I" if wide else ">H", content, 4)
        at = 10 if wide else 8
        kind, rest = content[at : at + 4], content[at + 4 :].split(b"\0")
        yield number, Item(kind, rest[1] if kind == b"mime" and len(rest) > 1 else b"", bool(flags & 1))


def _locate(data: bytes, items: dict[int, Item]) -> None:
    version, sizes, more = data[0], data[4], data[5]
    widths = sizes >> 4, sizes & 15, more >> 4, more & 15 if version else 0  # offset, length, base, index
    at = 6

    def number(width: int) -> int:
        nonlocal at
        at += width
        if at > len(data):
            raise NoPictureError("its table of places is cut")
        return int.from_bytes(data[at - width : at], "big")

    left = _MOST_PARTS
    for _ in range(min(number(2 if version < 2 else 4), _MOST_ITEMS)):
        item = items.setdefault(number(2 if version < 2 else 4), Item())
        item.in_meta = bool(version and number(2) & 15)
        number(2)
        base = number(widths[2])
        extents = number(2)
        left -= extents
        if left < 0:
            raise NoPictureError("its table of places is not to be believed")
        for _ in range(extents):
            number(widths[3])
            start = base + number(widths[0])
            item.extents.append((start, number(widths[1])))


def _describe(data: bytes, items: dict[int, Item]) -> None:
    shared: list[tuple[bytes, bytes]] = []
    for name, content in inner(data):
        if name == b"ipco":
            shared = list(inner(content))
        elif name == b"ipma":
            _associate(content, items, shared)


def _associate(data: bytes, items: dict[int, Item], shared: list[tuple[bytes, bytes]]) -> None:
    wide_number, wide_index = data[0] > 0, data[3] & 1
    at, left = 8, _MOST_PARTS
    for _ in range(min(struct.unpack_from(">I", data, 4)[0], _MOST_ITEMS)):
        (number,) = struct.unpack_from(">I" if wide_number else ">H", data, at)
        at += 4 if wide_number else 2
        count = data[at]
        at += 1
        left -= count
        if left < 0:
            raise NoPictureError("its table of properties is not to be believed")
        for _ in range(count):
            (index,) = struct.unpack_from(">H" if wide_index else ">B", data, at)
            at += 2 if wide_index else 1
            index &= 0x7FFF if wide_index else 0x7F
            if number in items and 0 < index <= len(shared):
                items[number].properties.append(shared[index - 1])


def _refer(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    code, width = (">H", 2) if not data or data[0] == 0 else (">I", 4)
    for name, content in inner(data[4:]):
        (start,) = struct.unpack_from(code, content)
        (count,) = struct.unpack_from(">H", content, width)
        for place in range(count):
            yield name, start, struct.unpack_from(code, content, width + 2 + place * width)[0]


def content(file: IO[bytes], container: Container, item: Item, most: int = _MOST_BLOCK) -> bytes:
    """The bytes of an item, b"" where there are more than `most`."""
    end = len(container.data) if item.in_meta else file.seek(0, 2)
    parts, total = [], 0
    for start, length in item.extents:
        length = min(length or end, max(end - start, 0))
        total += length
        if total > most:
            return b""
        if item.in_meta:
            parts.append(container.data[start : start + length])
        else:
            file.seek(start)
            parts.append(file.read(length))
    return b"".join(parts)


def read_blocks(file: IO[bytes]) -> Blocks:
    """EXIF and XMP of the main picture, and whether the file is signed."""
    container = read(file)
    exif = xmp = b""
    noted = [item for item in container.items.values() if item.kind in (b"Exif", b"mime")]
    for item in noted[:_MOST_NOTED]:
        if item.kind == b"Exif" and not exif:
            found = content(file, container, item)
            start = 4 + int.from_bytes(found[:4], "big")
            exif = found[start:].removeprefix(b"Exif\0\0")
        elif item.kind == b"mime" and item.content_type == _XMP and not xmp:
            xmp = content(file, container, item)
    return Blocks(
        exif=exif, xmp=xmp, lossless=container.as_rgb, chroma=container.chroma, c2pa=_C2PA in container.others,
        left=container.left,
    )  # fmt: skip


def _check_sums(container: Container, total: int) -> None:
    """Raises NoPictureError where items together are many times the file, or their properties more than is read."""
    items = [item for item in container.items.values() if item.kind not in _NO_PICTURE]
    if sum(length or total for item in items for _, length in item.extents) > _MOST_TIMES * total:
        raise NoPictureError("its table of places is not to be believed")
    if sum(len(content) for item in items for _, content in item.properties) > _MOST_PROPERTIES:
        raise NoPictureError("its table of properties is not to be believed")


def digest(file: IO[bytes], into: hashlib._Hash) -> bytes:
    """All that is a picture or part of one, with what is said of it; EXIF and XMP are not."""
    container = read(file)
    into.update(repr((container.primary, sorted(container.references), b"moov" in container.others)).encode())
    total = file.seek(0, 2)
    _check_sums(container, total)
    for number, item in sorted(container.items.items()):
        if item.kind in _NO_PICTURE:
            continue
        into.update(repr((number, item.kind, item.hidden, item.properties)).encode())
        into.update(content(file, container, item, 2 * total))
    if b"moov" in container.others:  # a film beside the picture, which decoders may take it from
        file.seek(0)
        hash_rest(file, into)
    return b""
