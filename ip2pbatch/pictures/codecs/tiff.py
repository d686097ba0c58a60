"""TIFF: its main directory, and a lossless file of 8 or 16 bits a channel with EXIF, XMP and IPTC."""

from __future__ import annotations

import mmap
import struct
import zlib
from itertools import accumulate
from typing import IO, TYPE_CHECKING

from ip2pbatch.pictures import photoshop
from ip2pbatch.pictures.containers import Blocks, Raster
from ip2pbatch.pictures.exif import Block, Value

if TYPE_CHECKING:
    from ip2pbatch.pictures.deep import DeepPixels, Pixels

_XMP_TAG, _IPTC_TAG, _ICC_TAG, _C2PA_TAG = 700, 33723, 34675, 52545
_PHOTOSHOP_TAG, _LAYERS_TAG = 34377, 37724
SUB_PICTURES = "pictures in SubIFDs"
_LEFT = {_LAYERS_TAG: "Photoshop layers", 0x014A: SUB_PICTURES}
# Of a TIFF's main directory: how and where its pixels lie, and blocks that are carried apart from EXIF.
_STRUCTURE = (
    *range(0x00FE, 0x0108), 0x010A, 0x0111, 0x0115, 0x0116, 0x0117, 0x0118, 0x0119, 0x011C, 0x0120, 0x0121, 0x0122,
    0x0123, 0x0124, 0x0125, 0x012D, 0x013D, 0x013E, 0x013F, 0x0140, 0x0141, *range(0x0142, 0x0147), 0x014A,
    *range(0x014C, 0x0159), 0x015B, *range(0x0200, 0x0216), _XMP_TAG, _IPTC_TAG, _ICC_TAG,
    _C2PA_TAG, _PHOTOSHOP_TAG, _LAYERS_TAG,
)  # fmt: skip


def read_blocks(file: IO[bytes]) -> Blocks:
    """The main directory but for what its pixels depend on, and XMP, IPTC and Photoshop's resources apart."""
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as whole:
        return blocks_of(Block(whole))


def blocks_of(block: Block) -> Blocks:
    """The same of a block that is a whole TIFF."""
    found = (block.get(tag) for tag in (_XMP_TAG, _IPTC_TAG, _PHOTOSHOP_TAG))
    xmp, iptc, resources = (bytes(value.data) if value else b"" for value in found)
    inner, others = photoshop.apart(resources)
    return Blocks(
        block.compacted(_STRUCTURE), xmp, iptc=iptc or inner, photoshop=others,
        c2pa=block.get(_C2PA_TAG) is not None,
        left=tuple(called for tag, called in _LEFT.items() if block.get(tag)),
    )  # fmt: skip


def has_more_pages(file: IO[bytes], most: int) -> bool:
    """Whether a TIFF or BigTIFF has more than so many pages, of which nothing is read but where the next one lies."""
    file.seek(0)
    head = file.read(16)
    big = head[2:4] in (b"+\0", b"\0+")
    order, code, entry = "<" if head[:2] == b"II" else ">", "Q" if big else "H", 20 if big else 12
    place = order + ("Q" if big else "I")
    (at,) = struct.unpack_from(place, head, 8 if big else 4)
    for _ in range(most + 1):
        file.seek(at)
        count = file.read(struct.calcsize(code))
        if not at or len(count) < struct.calcsize(order + code):
            return False
        file.seek(struct.unpack(order + code, count)[0] * entry, 1)
        following = file.read(struct.calcsize(place))
        if len(following) < struct.calcsize(place):
            return False
        (at,) = struct.unpack(place, following)
    return True


def encode(raster: Raster, blocks: Blocks, quality: int) -> bytes:
    """A TIFF: the EXIF block with the pixels' tags added to its main directory, then the strips.

    Deflate with horizontal differencing, 8 or 16 bits a channel, associated nothing: alpha is unassociated.
    """
    import numpy as np

    pixels = raster.pixels
    if grey := pixels.ndim == 2:
        pixels = pixels[..., None]
    if raster.alpha is not None:
        pixels = np.dstack([pixels, raster.alpha.astype(pixels.dtype) * (1 if pixels.dtype == np.uint8 else 257)])
    height, width, channels = pixels.shape
    rows = max(1, (1 << 20) // (width * channels * pixels.itemsize))
    block = Block(blocks.exif)
    strips = [_strip(pixels[top : top + rows], block.order) for top in range(0, height, rows)]
    lengths = [len(strip) for strip in strips]
    bits = struct.pack(f"{block.order}{channels}H", *[8 * pixels.itemsize] * channels)
    tags: dict[int, Value | None] = {
        0x0100: block.long(width), 0x0101: block.long(height), 0x0102: Value(3, channels, bits),
        0x0103: block.short(8), 0x0106: block.short(1 if grey else 2), 0x0111: block.long(*lengths),
        0x0112: block.short(1), 0x0115: block.short(channels), 0x0116: block.long(rows), 0x0117: block.long(*lengths),
        0x011C: block.short(1), 0x013D: block.short(2), 0x0152: block.short(2) if raster.alpha is not None else None,
    }  # fmt: skip
    for tag, kind, content in (
        (_XMP_TAG, 1, blocks.xmp), (_IPTC_TAG, 1, blocks.iptc), (_PHOTOSHOP_TAG, 1, blocks.photoshop),
        (_ICC_TAG, 7, raster.icc),
    ):  # fmt: skip
        tags[tag] = Value(kind, len(content), content) if content else None
    # The directory is as long with the true offsets as with any others, so its length is known before they are.
    first = len(block.rewritten(tags, {}))
    tags[0x0111] = block.long(*accumulate(lengths[:-1], initial=first))
    return b"".join([block.rewritten(tags, {}), *strips])


def _strip(rows: Pixels | DeepPixels, order: str) -> bytes:
    """Rows less the pixel to the left, deflated; of even length, as offsets in a TIFF should be."""
    strip = rows.copy()
    strip[:, 1:] -= rows[:, :-1]
    packed = zlib.compress(strip.astype(f"{order}u{strip.itemsize}").tobytes(), 5)
    return packed + bytes(len(packed) % 2)
