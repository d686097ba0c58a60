"""HEIC and its kin, read by libheif (pi_heif), which turns and crops by the file's boxes: EXIF has no say in it."""

from __future__ import annotations

from typing import IO, TYPE_CHECKING, Any

from ip2pbatch.pictures.codecs import apart, boxes
from ip2pbatch.pictures.codecs.decoded import Decoded, Header

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
