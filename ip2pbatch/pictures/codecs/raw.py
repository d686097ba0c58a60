"""Camera raw, developed by LibRaw (rawpy) as the camera saw it: its white balance, sRGB, 16 bits. No raw developer."""

from __future__ import annotations

import contextlib
import io
import mmap
import struct
from dataclasses import replace
from typing import IO, TYPE_CHECKING, Any

from ip2pbatch.errors import PhotoError
from ip2pbatch.pictures.codecs import apart
from ip2pbatch.pictures.codecs.decoded import Decoded, Header
from ip2pbatch.pictures.containers import Blocks
from ip2pbatch.pictures.exif import Block

if TYPE_CHECKING:
    from collections.abc import Iterator

_MAKE, _DNG_VERSION = 0x010F, 0xC612
_MOST_TAGS = 1000
# Tags that describe a mosaic of sensor values, which a finished picture is not; those of the camera, its lens and the
# first file's name stand among them in a DNG.
_CAMERA = (0xC614, 0xC615, 0xC62F, 0xC630, 0xC68B)
_MOSAIC = {*range(0x828D, 0x8290), 0x9216, 0x9217, *range(0xC612, 0xC7F0), *range(0xCD2D, 0xCD50)} - {*_CAMERA}
_PRIVATE = 0xC634
_TIFF = {b"II": b"II*\0", b"MM": b"MM\0*"}


def is_raw(file: IO[bytes]) -> bool:
    """Whether a file that begins as a TIFF does is a camera's: a DNG says so, others name the camera's maker."""
    file.seek(0)
    head = file.read(8)
    order = "<" if head[:2] == b"II" else ">"
    file.seek(struct.unpack(order + "4xI", head)[0])
    count = file.read(2)
    if len(count) < 2:
        return False
    entries = file.read(12 * min(struct.unpack(order + "H", count)[0], _MOST_TAGS))
    tags = {struct.unpack_from(order + "H", entries, at)[0] for at in range(0, len(entries) - 11, 12)}
    return not tags.isdisjoint((_MAKE, _DNG_VERSION))


def header(file: IO[bytes]) -> Header:
    """The size of the developed picture as it is shown."""
    width, height = apart.ask(file, "ip2pbatch.pictures.codecs.raw:size")
    return Header((width, height))


def size(file: IO[bytes]) -> tuple[int, int]:
    """The same here: LibRaw meets files that nobody has seen."""
    with _opened(file) as raw:
        sizes = raw.sizes
        width, height = sizes.width, sizes.height
        if sizes.pixel_aspect > 1:
            width = round(width * sizes.pixel_aspect)
        elif 0 < sizes.pixel_aspect < 1:
            height = round(height / sizes.pixel_aspect)
        return (height, width) if sizes.flip & 4 else (width, height)


def _opened(file: IO[bytes]) -> Any:
    import rawpy

    file.seek(0)
    with _in_words():
        return rawpy.imread(io.BytesIO(file.read()))


def decode(file: IO[bytes], least: tuple[int, int] | None) -> Decoded:
    """The picture developed, by a process of its own."""
    return apart.decode(file, "ip2pbatch.pictures.codecs.raw:develop", least)


@contextlib.contextmanager
def _in_words() -> Iterator[None]:
    """LibRaw's reasons, which are bytes, as a PhotoError."""
    import rawpy

    try:
        yield
    except rawpy.LibRawError as error:
        reason = error.args[0] if error.args else b"no reason given"
        raise PhotoError(f"LibRaw: {reason.decode() if isinstance(reason, bytes) else reason}") from None


def develop(file: IO[bytes], least: tuple[int, int] | None) -> Decoded:
    """The same here: camera white balance, sRGB, and from each four sensor values one pixel where that is enough."""
    import rawpy

    with _opened(file) as raw:
        apart.room_for(raw.sizes.raw_width, raw.sizes.raw_height)
        sides = sorted((raw.sizes.height, raw.sizes.width))
        half = least is not None and all(side >= 2 * wanted for side, wanted in zip(sides, sorted(least), strict=True))
        with _in_words():
            pixels = raw.postprocess(
                use_camera_wb=True, output_bps=16, output_color=rawpy.ColorSpace.sRGB, gamma=(2.4, 12.92),
                half_size=half, demosaic_algorithm=rawpy.DemosaicAlgorithm.PPG,
            )  # fmt: skip
    return Decoded(pixels, bits=16)


def read_blocks(file: IO[bytes]) -> Blocks:
    """Metadata of the raw file's own directory, or of the JPEG or the boxes in which some cameras put it."""
    head = file.read(16)
    if head.startswith(b"FUJIFILMCCD-RAW"):
        return _of_preview(file)
    if head[4:8] == b"ftyp":
        return _of_boxes(file)
    from ip2pbatch.pictures.codecs import tiff

    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as whole:
        # Olympus and Panasonic write other numbers where a TIFF has 42.
        found = tiff.blocks_of(Block(whole if head[:4] in _TIFF.values() else _TIFF[head[:2]] + whole[4:]))
    block = Block(found.exif)
    left = [one for one in found.left if one != tiff.SUB_PICTURES]  # they are the raw values and previews of them
    if block.get(_PRIVATE):
        left.append("the DNG's private data (maker notes)")
    return replace(found, exif=block.compacted(_MOSAIC), left=tuple(left))


def _of_preview(file: IO[bytes]) -> Blocks:
    """Fujifilm: where the JPEG lies stands at byte 84."""
    from ip2pbatch.pictures.codecs import jpeg

    file.seek(84)
    start, length = struct.unpack(">II", file.read(8))
    file.seek(start)
    return jpeg.read_blocks(io.BytesIO(file.read(length)))


def _of_boxes(file: IO[bytes]) -> Blocks:
    """Canon's CR3: the main, Exif and GPS directories are TIFFs of their own, in boxes."""
    from ip2pbatch.pictures.codecs.bigtiff import joined

    parts = dict(_canon(file))
    return Blocks(exif=joined(parts.get(b"CMT1", b""), parts.get(b"CMT2", b""), parts.get(b"CMT4", b"")))


def _canon(file: IO[bytes]) -> Iterator[tuple[bytes, bytes]]:
    from ip2pbatch.pictures.codecs.boxes import inner, top

    for name, length in top(file):
        if name == b"moov" and length < 64 << 20:
            for box, content in inner(file.read(length)):
                if box == b"uuid":
                    yield from inner(content[16:])
