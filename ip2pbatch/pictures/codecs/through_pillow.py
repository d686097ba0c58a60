"""What the formats that Pillow writes have in common."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from PIL import Image

if TYPE_CHECKING:
    from ip2pbatch.pictures.containers import Blocks, Raster


def saved(kind: str, raster: Raster, blocks: Blocks, *, alpha: bool = True, dpi: bool = True, **options: Any) -> bytes:
    """The file that Pillow's writer called `kind` makes of eight-bit pixels, with profile and EXIF.

    Without `alpha` the picture is laid on white; `dpi` says that the format has a place for it.
    """
    options["icc_profile"] = raster.icc
    if blocks.exif:
        options["exif"] = b"Exif\0\0" + blocks.exif
    if dpi and min(blocks.dpi) > 0:
        options["dpi"] = blocks.dpi
    buffer = io.BytesIO()
    pillow_image(raster, alpha).save(buffer, kind, **options)
    return buffer.getvalue()


_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip


def upright(image: Image.Image, turn: int) -> Image.Image:
    """The image turned by an orientation as EXIF counts them, 1 to 8; as it is for any other number."""
    method = _TURNS.get(turn)
    return image if method is None else image.transpose(method)


def pillow_image(raster: Raster, alpha: bool = True) -> Image.Image:
    """The pixels as Pillow's image, laid on white without `alpha`."""
    import numpy as np

    if raster.alpha is None:
        return Image.fromarray(raster.pixels)
    image = Image.fromarray(np.dstack([raster.pixels, raster.alpha]))
    if alpha:
        return image
    paper = Image.new("L" if raster.pixels.ndim == 2 else "RGB", image.size, "white")
    paper.paste(image, mask=image.getchannel("A"))
    return paper
