"""HEIC and its kin, read by libheif (pi_heif), which turns and crops by the file's boxes: EXIF has no say in it.

Written by the same library with x265 (pillow_heif), whose licence is the GPL: an extra.
"""

from __future__ import annotations

import io
from typing import IO, TYPE_CHECKING, Any

from ip2pbatch.errors import PhotoError
from ip2pbatch.pictures.codecs import apart, boxes
from ip2pbatch.pictures.codecs.decoded import Decoded, Header
from ip2pbatch.pictures.containers import Blocks, Raster

if TYPE_CHECKING:
    from numpy.typing import NDArray


def header(file: IO[bytes]) -> Header:
    """Size and profile of the main picture, from the boxes alone."""
    container = boxes.read(file)
    return Header(container.size, {"icc_profile": container.icc})


def decode(file: IO[bytes], least: tuple[int, int] | None) -> Decoded:
    """The main picture whole, by a process of its own."""
    return apart.decode(file, "ip2pbatch.pictures.codecs.heif:decoded", least)


def decoded(file: IO[bytes], least: tuple[int, int] | None) -> Decoded:
    """The same here."""
    import numpy as np
    import pi_heif

    from ip2pbatch.pictures.codecs import coded_colour

    container = boxes.read(file)
    apart.room_for(*container.stored)
    found = pi_heif.HeifFile(file, convert_hdr_to_8bit=False)
    main = found[found.primary_index]
    pixels = np.array(main)  # a copy: the library's own memory goes with `main`
    bits = int(main.info.get("bit_depth", 8))
    if pixels.dtype == np.uint16:
        pixels = pixels | pixels >> bits  # its low bits are empty: white would not be white
    grey = pixels.ndim == 2 or pixels.shape[2] < 3
    colours, alpha = _channels(pixels)
    icc, notes = container.icc, container.notes()
    if icc is None and container.coded:
        colours, coded, more = coded_colour.shown(colours, *container.coded)
        icc, notes = None if grey else coded, notes + more
    return Decoded(colours, alpha, icc, notes, bits, grey)


def _channels(pixels: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """RGB and eight bits of alpha, of grey, RGB or either with alpha."""
    import numpy as np

    if pixels.ndim == 2 or pixels.shape[2] < 3:
        grey = pixels.reshape(*pixels.shape[:2], -1)
        pixels = np.concatenate([grey[..., :1]] * 3 + [grey[..., 1:]], axis=2)
    alpha = pixels[..., 3] if pixels.shape[2] == 4 else None
    if alpha is not None and alpha.dtype == np.uint16:
        alpha = (alpha >> 8).astype(np.uint8)
    if alpha is not None and alpha.min() == 255:
        alpha = None
    return np.ascontiguousarray(pixels[..., :3]), None if alpha is None else np.ascontiguousarray(alpha)


_BITS = 10  # of a channel where there are more than eight: what viewers of HEIC show
# Measured on two megapixels: a third of the usual preset's time, 4 % more bytes, the same error.
_PRESET = "ultrafast"
# Readers (libde265) show no picture of more than 16 MB, which 24 megapixels need. Tiles stay below it, as a phone's do;
# what has alpha is never tiled.
_TILE, _MOST_ALPHA = 1024, 1 << 24
_CHROMA = {(2, 1): "422", (2, 2): "420"}


def encode(raster: Raster, blocks: Blocks, quality: int) -> bytes:
    """A file with colour in full, or as `blocks.chroma` says where that is usual; without loss where the photo is."""
    import pillow_heif

    pixels, mode = _interleaved(raster)
    buffer = io.BytesIO()
    pillow_heif.encode(
        mode, (pixels.shape[1], pixels.shape[0]), pixels.tobytes(), buffer, bit_depth=_BITS,
        quality=-1 if blocks.lossless else quality, enc_params={"preset": _PRESET},
        chroma="444" if blocks.lossless else _CHROMA.get(blocks.chroma, "444"), exif=blocks.exif or None,
        xmp=blocks.xmp or None, tile_size=_TILE, **_colours(raster, blocks.lossless),
    )  # fmt: skip
    if raster.alpha is not None and buffer.tell() > _MOST_ALPHA:
        raise PhotoError("a HEIC with transparency is read up to 16 MB only", hint="use format: png")
    return buffer.getvalue()


def _interleaved(raster: Raster) -> tuple[NDArray[Any], str]:
    """Pixels with their alpha, as the library calls them."""
    import numpy as np

    pixels, deep = raster.pixels, raster.pixels.dtype == np.uint16
    mode = "L" if pixels.ndim == 2 else "RGB"
    if raster.alpha is not None:
        pixels = np.dstack([pixels, raster.alpha.astype(pixels.dtype) * (257 if deep else 1)])
        mode += "A"
    return pixels, f"{mode};16" if deep else mode


def _colours(raster: Raster, lossless: bool) -> dict[str, Any]:
    """What is said of them, by numbers of H.273: sRGB, or nothing beside a profile; red, green and blue as they are
    where nothing is to be lost, else BT.601's matrix.
    """
    primaries, transfer = (1, 13) if raster.icc is None else (2, 2)
    said = {"color_primaries": primaries, "transfer_characteristics": transfer, "full_range_flag": 1}
    said["matrix_coefficients"] = 0 if lossless and raster.pixels.ndim == 3 else 6
    return said if raster.icc is None else {**said, "icc_profile": raster.icc, "icc_profile_type": "prof"}
