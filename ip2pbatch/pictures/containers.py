"""File formats as containers: metadata blocks out of a file, pixels and blocks into a new one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from ip2pbatch.disk.opening import open_file
from ip2pbatch.errors import PhotoError
from ip2pbatch.plan.formats import FORMATS, Format, kind_of
from ip2pbatch.plan.named import named

if TYPE_CHECKING:
    from ip2pbatch.pictures.deep import DeepPixels, Pixels


@dataclass(frozen=True, slots=True)
class Blocks:
    """A file's metadata, block by block, as bytes; empty where it has none.

    `exif` starts with its TIFF header; `iptc` are IIM datasets; `photoshop` are Photoshop's other resources; `text` are
    PNG's textual chunks (type, content), XMP not among them; `dpi` is pixels an inch, (0, 0) where the file does not
    say. `lossless`: the file's format has both, and its pixels are stored without loss. `chroma` is how JPEG's colour
    is sampled, across and down. `c2pa`: it has Content Credentials, a signature over its bytes, which no other file can
    carry on. `left` names what else no edited file can have, such as a video behind the photo.
    """

    exif: bytes = b""
    xmp: bytes = b""
    xmp_extended: bytes = b""
    iptc: bytes = b""
    photoshop: bytes = b""
    comment: bytes = b""
    text: tuple[tuple[bytes, bytes], ...] = ()
    dpi: tuple[float, float] = (0.0, 0.0)
    lossless: bool = False
    chroma: tuple[int, int] = (1, 1)
    c2pa: bool = False
    left: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Raster:
    """Pixels to be written: RGB [h, w, 3] or grey [h, w], in the colours of `icc` (sRGB where None), and alpha uint8
    [h, w] or None.

    Pixels of uint16 are for formats that are `deep` only, grey for those that are `grey`.
    """

    pixels: Pixels | DeepPixels
    alpha: Pixels | None = None
    icc: bytes | None = None


def read_blocks(path: Path) -> Blocks:
    """The metadata of a photo, pixels not decoded; empty for what cannot be followed."""
    return cast(Blocks, _read(path, lambda kind: kind.blocks, Blocks()))


def behind(path: Path) -> tuple[str, ...]:
    """What lies in a photo's file behind its picture, in words. The whole file is read: for deliveries only."""
    return cast("tuple[str, ...]", _read(path, lambda kind: kind.behind, ()))


def _read(path: Path, by: Callable[[Format], str], otherwise: object) -> object:
    """What a function of the file's format makes of it; `otherwise` where it has none, or cannot follow the file."""
    try:
        with open_file(path) as file:
            kind = kind_of(file, path.suffix)
            return named(by(kind))(file) if kind and by(kind) else otherwise
    # A damaged file fails in its own way in every reader; whether its pixels are whole is for `images` to say.
    except Exception:
        return otherwise


def encode(raster: Raster, blocks: Blocks, kind: str, quality: int) -> bytes:
    """A whole file. JPEG is 4:4:4 and flattens alpha on white; PNG and TIFF are lossless.

    `blocks` must fit the format (see `metadata.merge`). Raises PhotoError where the picture is too large for it.
    """
    height, width = raster.pixels.shape[:2]
    if max(height, width) > (longest := FORMATS[kind].longest_side):
        raise PhotoError(f"{width} × {height}: {kind} holds at most {longest} pixels a side", hint="use format: png")
    return cast(bytes, named(FORMATS[kind].encode)(raster, blocks, quality))
