"""AVIF, read and written by Pillow in eight bits: its boxes say how it is turned, coloured and what else it holds."""

from __future__ import annotations

import io
from typing import IO

from PIL import AvifImagePlugin

from ip2pbatch.pictures.codecs import apart, boxes
from ip2pbatch.pictures.codecs.decoded import SEVERAL, Decoded
from ip2pbatch.pictures.codecs.through_pillow import pillow_image, upright
from ip2pbatch.pictures.containers import Blocks, Raster
from ip2pbatch.pictures.exif import ORIENTATION, Block


def decode(file: IO[bytes], least: tuple[int, int] | None) -> Decoded:
    """The main picture whole, by a process of its own; of a film its first frame."""
    return apart.decode(file, "ip2pbatch.pictures.codecs.avif:decoded", least)


def decoded(file: IO[bytes], least: tuple[int, int] | None) -> Decoded:
    """The same here."""
    import numpy as np

    from ip2pbatch.pictures.codecs import coded_colour

    container = boxes.read(file)
    apart.room_for(*container.stored)
    file.seek(0)
    with AvifImagePlugin.AvifImageFile(file) as image:
        image.load()
        # Pillow writes here what the boxes say, whatever the EXIF said before.
        turned = upright(image, image.getexif().get(ORIENTATION, 1))
        alpha = np.asarray(turned.getchannel("A")) if turned.mode.endswith("A") else None
        pixels, grey = np.asarray(turned.convert("RGB")), turned.mode == "L" or container.is_grey
        frames = int(getattr(image, "n_frames", 1))
    icc, notes = container.icc, container.notes()
    if icc is None and container.coded:
        pixels, coded, more = coded_colour.shown(pixels, *container.coded)
        icc, notes = None if grey else coded, notes + more
    if frames > 1:
        notes += (SEVERAL,)
    if container.depth > 8:
        notes += (f"{container.depth} bits a channel reduced to 8",)
    return Decoded(pixels, None if alpha is None or alpha.min() == 255 else alpha, icc, notes, grey=grey)


def encode(raster: Raster, blocks: Blocks, quality: int) -> bytes:
    """A lossy file, of full chroma or of grey."""
    buffer = io.BytesIO()
    options = {"icc_profile": raster.icc, "xmp": blocks.xmp or None, "exif": _unturned(blocks.exif)}
    chroma = "4:0:0" if raster.pixels.ndim == 2 else "4:4:4"
    pillow_image(raster).save(
        buffer, "AVIF", quality=quality, subsampling=chroma, speed=8, **{k: v for k, v in options.items() if v}
    )
    return buffer.getvalue()


def _unturned(exif: bytes) -> bytes:
    """Without an orientation, for which Pillow would write it all anew and move what maker notes need."""
    return Block(exif).rewritten({ORIENTATION: None}, {}) if exif else b""
