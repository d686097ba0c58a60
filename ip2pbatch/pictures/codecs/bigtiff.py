"""BigTIFF, read only: a TIFF whose places and counts have 64 bits. Its tags are read as a plain one's."""

from __future__ import annotations

import mmap
import struct
from collections.abc import Mapping
from typing import IO

from ip2pbatch.pictures.codecs import tiff
from ip2pbatch.pictures.containers import Blocks
from ip2pbatch.pictures.exif import EXIF_IFD, GPS_IFD, Block

_INTEROP_IFD = 0xA005
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_PLAIN = range(1, 14)  # types that a plain TIFF has; 64-bit ones are the places of strips, which are not carried
_MOST_TAGS = 4096
_MOST_BYTES = 64 << 20  # of a directory's values, which may lie upon each other

_Entry = tuple[int, int, bytes]  # type, items, data


def read_blocks(file: IO[bytes]) -> Blocks:
    """What a plain TIFF with the same tags would give."""
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        order = "<" if data[:2] == b"II" else ">"
        root = _directory(data, order, struct.unpack_from(order + "Q", data, 8)[0])
        plain = bytearray(struct.pack(order + "2sHI", data[:2], 42, 0))
        if exif := _nested(data, order, root, EXIF_IFD):
            _move(plain, order, exif, _INTEROP_IFD, _nested(data, order, exif, _INTEROP_IFD))
        _move(plain, order, root, GPS_IFD, _nested(data, order, root, GPS_IFD))
        _move(plain, order, root, EXIF_IFD, exif)
        struct.pack_into(order + "I", plain, 4, _append(plain, order, root))
        return tiff.blocks_of(Block(bytes(plain)))


def joined(main: bytes, exif: bytes, gps: bytes) -> bytes:
    """One block of three plain TIFFs of one byte order, of which each holds one directory: main, Exif and GPS."""
    parts = [Block(part).root if part else {} for part in (main, exif, gps)]
    order = "<" if main[:2] == b"II" else ">"
    root, details, place = ({tag: (value.kind, value.items, value.data) for tag, value in one.items()} for one in parts)
    plain = bytearray(struct.pack(order + "2sHI", main[:2], 42, 0))
    _move(plain, order, root, GPS_IFD, place)
    _move(plain, order, root, EXIF_IFD, details)
    struct.pack_into(order + "I", plain, 4, _append(plain, order, root))
    return bytes(plain)


def _directory(data: mmap.mmap, order: str, at: int) -> dict[int, _Entry]:
    (count,) = struct.unpack_from(order + "Q", data, at)
    entries, left = {}, _MOST_BYTES
    for place in range(at + 8, at + 8 + 20 * min(count, _MOST_TAGS), 20):
        tag, kind, items = struct.unpack_from(order + "HHQ", data, place)
        length = _SIZES.get(kind, 0) * items
        start = struct.unpack_from(order + "Q", data, place + 12)[0] if length > 8 else place + 12
        if kind in _SIZES and length <= left and start + length <= len(data):
            entries[tag] = kind, items, data[start : start + length]
            left -= length
    return entries


def _nested(data: mmap.mmap, order: str, within: Mapping[int, _Entry], tag: int) -> dict[int, _Entry]:
    """The directory that a tag points to, empty where there is none."""
    if tag not in within:
        return {}
    pointer = within[tag][2]
    return _directory(data, order, struct.unpack(order + ("Q" if len(pointer) == 8 else "I"), pointer)[0])


def _move(plain: bytearray, order: str, within: dict[int, _Entry], tag: int, directory: Mapping[int, _Entry]) -> None:
    """Write a directory into the plain block and let the tag point there."""
    within.pop(tag, None)
    if directory:
        within[tag] = 4, 1, struct.pack(order + "I", _append(plain, order, directory))


def _append(plain: bytearray, order: str, directory: Mapping[int, _Entry]) -> int:
    """Where the directory starts that was written behind `plain`."""
    fields = []
    for tag, (kind, items, content) in sorted(directory.items()):
        if kind not in _PLAIN:
            continue
        field = content.ljust(4, b"\0")
        if len(content) > 4:
            plain += bytes(len(plain) % 2)
            field = struct.pack(order + "I", len(plain))
            plain += content
        fields.append(struct.pack(order + "HHI", tag, kind, items) + field)
    plain += bytes(len(plain) % 2)
    start = len(plain)
    plain += struct.pack(order + "H", len(fields)) + b"".join(fields) + bytes(4)
    return start
