"""Photoshop's image resources ("8BIM"), which JPEG, TIFF and PNG carry beside the picture: apart, sifted, joined.

After "Adobe Photoshop File Formats Specification", section "Image Resources Section".
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

IPTC = 0x0404
# Thumbnails of the old picture, how it was compressed, and what files hold in a block of their own: profile, EXIF, XMP.
_STALE = frozenset((0x0406, 0x0409, 0x040C, 0x040F, 0x0422, 0x0423, 0x0424))
# Guides and slices are in pixels, paths in fractions of the picture: all lie elsewhere in one that was turned.
_PLACES = frozenset((0x0408, 0x041A, 0x0BB7, *range(0x07D0, 0x0BB7)))
_SIGNATURES = (b"8BIM", b"MeSa", b"AgHg", b"PHUT", b"DCSR")


class Resource(NamedTuple):
    """One resource: its number and the whole of it as it lies in the file; `data` is what it says."""

    number: int
    data: bytes
    whole: bytes


def resources(block: bytes) -> Iterator[Resource]:
    """The resources of a block, as far as it can be followed."""
    at = 0
    while block[at : at + 4] in _SIGNATURES and len(block) >= at + 12:
        start = at
        (number,) = struct.unpack_from(">H", block, at + 4)
        name = 1 + block[at + 6]
        at += 6 + name + name % 2
        if len(block) < at + 4:
            return
        (length,) = struct.unpack_from(">I", block, at)
        data = block[at + 4 : at + 4 + length]
        if len(data) < length:
            return
        at += 4 + length
        yield Resource(number, data, block[start:at] + bytes(length % 2))
        at += length % 2


def apart(block: bytes) -> tuple[bytes, bytes]:
    """The IPTC datasets of a block, and its other resources."""
    found = [*resources(block)]
    iptc = next((one.data for one in found if one.number == IPTC), b"")
    return iptc, b"".join(one.whole for one in found if one.number != IPTC)


def still_true(block: bytes, *, in_place: bool) -> tuple[bytes, Sequence[str]]:
    """The resources that hold of the edited picture, and what was left out in words.

    `in_place`: the picture lies as it did in the photo's file, neither turned nor of another size.
    """
    kept, left = [], False
    for one in resources(block):
        moved = one.number in _PLACES and not in_place
        left |= moved
        if one.number not in _STALE and not moved:
            kept.append(one.whole)
    return b"".join(kept), ["Photoshop paths, guides and slices left out: the picture lies otherwise"] if left else []


def joined(iptc: bytes, others: bytes) -> bytes:
    """One block of IPTC datasets and other resources; empty where both are."""
    head = b"8BIM" + struct.pack(">H", IPTC) + b"\0\0" + struct.pack(">I", len(iptc))
    return (head + iptc + bytes(len(iptc) % 2) if iptc else b"") + others
