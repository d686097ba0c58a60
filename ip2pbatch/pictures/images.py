"""Photos from files to pixels and back: open, orient, colour profile, bit depth, resize, save."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Literal, TypeVar, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin

from ip2pbatch.disk.atomic import Anchor, write_atomic
from ip2pbatch.disk.opening import open_file
from ip2pbatch.errors import PhotoError
from ip2pbatch.pictures import colour, deep, exif, grey, lossless
from ip2pbatch.pictures.codecs.decoded import SEVERAL, Decoded
from ip2pbatch.pictures.codecs.through_pillow import upright
from ip2pbatch.pictures.codecs.tiff import has_more_pages
from ip2pbatch.pictures.containers import read_blocks
from ip2pbatch.pictures.deep import DeepPixels
from ip2pbatch.pictures.sizing import Sizing
from ip2pbatch.plan.formats import UNKNOWN, Format, kind_of
from ip2pbatch.plan.named import named
from ip2pbatch.plan.photo_digests import FLOATING, MAX_PIXELS, check_size

Pixels = NDArray[np.uint8]
_Numbers = TypeVar("_Numbers", Pixels, DeepPixels)

SHALLOW = "{} bits a channel reduced to {}"
SHALLOW_ALPHA = "16 bits of the alpha channel reduced to 8"
_CLEAR_COLOUR = "one colour of 16 bits that the file calls transparent is not"
_ONE_WAY = "the colour profile works one way only: converted to sRGB"

# Centre-aligned and symmetric, so that shrinking and enlarging moves nothing.
_KERNELS = {"bicubic": Image.Resampling.BICUBIC, "lanczos": Image.Resampling.LANCZOS}

_MOST_PAGES = 1000  # of a TIFF; Pillow takes ever longer to count more
_MISFIT = "the colour profile does not fit the pixels"
_GREY = ("1", "L", "LA", "La", "I;16", "I;16L", "I;16B", "I;16N")


@dataclass(frozen=True, slots=True)
class Picture:
    """A decoded photo, upright, as eight-bit RGB.

    `pixels` [h, w, 3] are in sRGB, or in the colours of `icc` where that is not None. `alpha` [h, w] is apart, None
    where the file has none. `deep` are the same pixels in 16 bits, where the file has them and own colours were asked
    for at full size; `bits` are those of a channel in the file. `grey` is the profile of a photo of one channel, b""
    where it has none or one that knows no way back, None of other photos. `notes` say what was reduced or ignored.
    """

    pixels: Pixels
    alpha: Pixels | None
    format: str
    icc: bytes | None = None
    notes: tuple[str, ...] = ()
    deep: DeepPixels | None = None
    bits: int = 16
    grey: bytes | None = None


def load(
    path: Path, size: tuple[int, int] | None = None, *, colours: Literal["srgb", "own"] = "srgb",
    sizing: Sizing = "bicubic",
) -> Picture:  # fmt: skip
    """The photo, upright, at (width, height) `size` or its own, in sRGB or in the RGB profile it came with (`own`).

    Own colours are kept only where they can be written back: grey, CMYK and Lab photos, and profiles that work one
    way only, come as sRGB. Raises PhotoError with a plain reason for anything that is no whole photo of ours.
    """
    picture, deep_turn = _decoded(path, size)
    icc, whole = picture.icc, colours == "own" and size is None
    if picture.deep is not None and not whole:
        picture = _noted(replace(picture, deep=None), f"{picture.bits} bits a channel, of which the model sees 8")
    if size is not None:
        small = None if picture.alpha is None else resize(picture.alpha, size)
        picture = replace(picture, pixels=resize(picture.pixels, size, sizing), alpha=small)
    if colours == "srgb":
        picture = replace(picture, pixels=in_srgb(picture.pixels, icc), icc=None)
    return picture if deep_turn is None else _deepened(picture, path, deep_turn, whole=whole)


def _decoded(path: Path, least: tuple[int, int] | None) -> tuple[Picture, int | None]:
    """The photo as eight-bit RGB in its own colours, and for one of 16-bit RGB how it was turned (0: not to be had).

    Apart from `load` so that Pillow's own copy of the pixels, a third larger than ours, is gone before more is done.
    """
    with _file(path) as (file, kind):
        if kind.decoder:
            with _decoding(path):
                with kind.open(file, whole=False) as header:
                    check_size(*header.size)
                return _taken(named(kind.decoder)(file, least), kind), None
    with _opened(path) as (image, kind):
        turn, declared = _by_exif(path)
        turn = 1 if kind.upright else turn
        wide, notes = _is_deep(image), _frame_notes(image)
        raw = _raw_mode(image)
        with _decoding(path):
            image.load()
            levels = grey.stored(image, raw) if image.mode.startswith("I;16") else None
            opaque, alpha = _split_alpha(image, levels)
            profile = image.info.get("icc_profile") or declared
            pixels, icc, remarks = _rgb(opaque, profile)
    turned = None if alpha is None else _turn(np.asarray(alpha), turn)
    picture = Picture(_turn(pixels, turn), turned, kind.name, icc, (*notes, *remarks))
    if image.mode in _GREY or raw.startswith("LA"):
        picture = replace(picture, grey=_grey_profile(profile))
        if levels is not None:
            picture = replace(picture, bits=12 if raw.startswith("I;12") else 16)
            return _greys(picture, _turn(levels, turn), profile), None
    as_stored = opaque.mode == "RGB" and _ONE_WAY not in remarks
    return picture, (turn if as_stored else 0) if wide else None


def _taken(found: Decoded, kind: Format) -> Picture:
    """What a decoder of our own found. More than eight bits are kept in colours that can be written back."""
    wide = found.pixels.dtype == np.uint16
    pixels = (found.pixels >> 8).astype(np.uint8) if wide else found.pixels.astype(np.uint8, copy=False)
    shallow, icc, remarks = _rgb(Image.fromarray(pixels[..., 0] if found.grey else pixels), found.icc)
    picture = Picture(
        shallow, found.alpha, kind.name, icc, (*found.notes, *remarks), bits=found.bits,
        grey=_grey_profile(found.icc) if found.grey else None,
    )  # fmt: skip
    if not wide:
        return picture
    if found.grey:
        return _greys(picture, found.pixels[..., 0].astype(np.uint16, copy=False), found.icc)
    if _ONE_WAY in remarks:
        return replace(picture, notes=(*picture.notes, SHALLOW.format(found.bits, 8)))
    return replace(picture, deep=found.pixels.astype(np.uint16, copy=False))


def _grey_profile(icc: bytes | None) -> bytes:
    return icc if icc and grey.followed(icc) else b""


def _greys(picture: Picture, levels: DeepPixels, icc: bytes | None) -> Picture:
    """The same with 16 bits of grey [h, w], as sRGB's numbers; with a note where its profile cannot be followed."""
    if icc and not picture.grey:
        return _noted(picture, SHALLOW.format(picture.bits, 8))
    if picture.grey:
        levels = grey.to_srgb(levels, picture.grey)
    return replace(picture, deep=np.broadcast_to(levels[..., None], (*levels.shape, 3)))


def _deepened(picture: Picture, path: Path, turn: int, *, whole: bool) -> Picture:
    """The same with its 16 bits, which Pillow decodes in halves; with a note where only eight are had or wanted."""
    if not whole:
        return _noted(picture, "16 bits a channel, of which the model sees 8")
    low = _low_bytes(path, turn) if turn else None
    return (
        _noted(picture, SHALLOW.format(picture.bits, 8))
        if low is None
        else replace(picture, deep=deep.joined(picture.pixels, low))
    )


def _low_bytes(path: Path, turn: int) -> Pixels | None:
    with _opened(path) as (image, _), _decoding(path):
        if not deep.read_low_bytes(image):
            return None
        image.load()
        return _turn(np.asarray(image)[..., :3], turn)


def _noted(picture: Picture, note: str) -> Picture:
    return replace(picture, notes=(note, *picture.notes))


def in_srgb(pixels: Pixels, icc: bytes | None) -> Pixels:
    """Pixels [h, w, 3] in the colours of an RGB profile → sRGB; as they are where there is none."""
    return pixels if icc is None or colour.is_srgb(icc) else colour.to_srgb(pixels, icc)


def seen(picture: Picture, size: tuple[int, int], sizing: Sizing = "bicubic") -> Pixels:
    """What the model sees of a picture loaded at full size: the same bits as `load(path, size, …).pixels`."""
    return in_srgb(resize(picture.pixels, size, sizing), picture.icc)


def resize(pixels: Pixels, size: tuple[int, int], sizing: Sizing = "bicubic") -> Pixels:
    """Pixels [h, w] or [h, w, 3] at (width, height) `size`: antialiased when shrinking, nothing moved.

    Pixel areas map onto pixel areas, also where the ratio is not whole, so that down and up again is an identity
    of the geometry.
    """
    if (pixels.shape[1], pixels.shape[0]) == tuple(size):
        return pixels
    return np.asarray(Image.fromarray(pixels).resize(size, _KERNELS[sizing]))


def thumbnail(path: Path, size: tuple[int, int]) -> Pixels:
    """The photo, upright, at about (width, height) `size`, in sRGB: of a JPEG by its own smaller scales, which is quick
    and not what a model may see. Raises PhotoError.
    """
    with _opened(path) as (image, kind):
        if kind.name == "jpeg" and image.mode == "RGB":
            turn, declared = _by_exif(path)
            stored = size[::-1] if turn >= 5 else size
            with _decoding(path):
                image.draft("RGB", stored)
                image.load()
            small = _turn(resize(np.asarray(image), stored), turn)
            return in_srgb(small, image.info.get("icc_profile") or declared)
    return load(path, size).pixels


def save_png(pixels: Pixels, path: Path, *, root: Path | Anchor | None = None) -> None:
    """Pixels uint8 [h, w, 3] as a lossless PNG, whole or not at all and below `root` (see `write_atomic`)."""
    write_atomic(path, lossless.encode(pixels), root=root)


def _by_exif(path: Path) -> tuple[int, bytes | None]:
    """The orientation, 1 to 8, and the profile that EXIF declares without embedding it; (1, None) without EXIF.

    Only EXIF counts: an orientation left behind in XMP is ignored, as viewers ignore it. Cameras set to Adobe RGB
    often embed no profile and say "R03" instead (DCF 2.0).
    """
    try:
        block = exif.Block(read_blocks(path).exif)
    except exif.ExifError:
        return 1, None
    turn = block.number(block.get(exif.ORIENTATION), 1)
    return turn if 1 <= turn <= 8 else 1, colour.adobe_rgb() if block.interoperability == "R03" else None


@contextlib.contextmanager
def _file(path: Path) -> Iterator[tuple[IO[bytes], Format]]:
    """The file at its start, and the format that its first bytes announce."""
    try:
        file = open_file(path)
    except OSError as error:
        raise PhotoError(f"{path.name}: cannot be opened ({error.strerror})") from None
    with file:
        kind = kind_of(file, path.suffix)
        if kind is None:
            raise PhotoError(f"{path.name}: {UNKNOWN}")
        if missing := kind.missing():
            raise PhotoError(f"{path.name}: is {kind.title}, whose reader is not installed", hint=missing)
        yield file, kind


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[Image.Image, Format]]:
    """The photo with its header read and its size checked, nothing decoded yet."""
    with _file(path) as (file, kind):
        with _decoding(path):
            image: Image.Image = kind.open(file)
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise PhotoError(
                f"{path.name}: {width} × {height} pixels are more than {MAX_PIXELS // 1_000_000} megapixels",
                hint="make it smaller first",
            )
        yield image, kind


@contextlib.contextmanager
def _decoding(path: Path) -> Iterator[None]:
    """Every way in which a decoder can fail on a damaged file, as one PhotoError."""
    try:
        yield
    except PhotoError as error:
        raise PhotoError(f"{path.name}: {error}", hint=error.hint) from None
    except MemoryError:
        raise PhotoError(f"{path.name}: not enough memory to decode it") from None
    # Decoders answer damage with OSError, SyntaxError, ValueError, struct.error, zlib.error, IndexError …
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise PhotoError(
            f"{path.name}: the file is damaged or cut off ({reason})", hint="copy it from the camera again"
        ) from None


def _turn(pixels: _Numbers, turn: int) -> _Numbers:
    return pixels if turn == 1 else cast("_Numbers", np.asarray(upright(Image.fromarray(pixels), turn)))


def _split_alpha(image: Image.Image, levels: DeepPixels | None) -> tuple[Image.Image, Image.Image | None]:
    """The image without its alpha, which is apart where it is not opaque; `levels` are those of 16-bit grey."""
    if image.mode in ("F", "I"):
        raise PhotoError(FLOATING)
    if levels is not None:
        eight = Image.fromarray(((levels.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8))
        clear = image.info.get("transparency")
        return eight, None if clear is None else Image.fromarray(np.where(levels == clear, 0, 255).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        whole = image.convert("RGBA")
        alpha = whole.getchannel("A")
        opaque = image.convert("L") if image.mode in ("L", "LA", "La") else whole.convert("RGB")
        return opaque, None if alpha.getextrema() == (255, 255) else alpha
    if image.mode in ("L", "RGB", "CMYK", "LAB"):
        return image, None
    return image.convert("L" if image.mode == "1" else "RGB"), None


def _rgb(image: Image.Image, icc: bytes | None) -> tuple[Pixels, bytes | None, list[str]]:
    """The pixels as RGB uint8, the profile they are in now (None for sRGB), and what there is to say about it."""
    if image.mode == "LAB":
        return colour.to_srgb(np.asarray(image), colour.lab_profile(), "LAB"), None, ["Lab colours converted to sRGB"]
    notes = ["CMYK inks converted to sRGB"] if image.mode == "CMYK" else []
    if icc:
        try:
            return _managed(image, icc, notes)
        except colour.ProfileError as error:
            notes.append(f"{error} and is ignored")
    return np.asarray(image.convert("RGB")), None, notes


def _managed(image: Image.Image, icc: bytes, notes: list[str]) -> tuple[Pixels, bytes | None, list[str]]:
    pixels = np.asarray(image)
    if image.mode != "RGB":
        if image.mode == "L" and colour.space(icc) != "GRAY":
            fits = colour.is_srgb(icc)  # as good as none, of grey
            return np.asarray(image.convert("RGB")), None, notes if fits else [*notes, f"{_MISFIT} and is ignored"]
        one_way = image.mode == "L" and not grey.followed(icc)
        return colour.to_srgb(pixels, icc, image.mode), None, [*notes, _ONE_WAY] if one_way else notes
    if colour.space(icc) != "RGB":
        raise colour.ProfileError(_MISFIT)
    if not colour.reversible(icc):
        return colour.to_srgb(pixels, icc), None, [*notes, _ONE_WAY]
    return pixels, icc, notes


def _raw_mode(image: Image.Image) -> str:
    """How the file stores its pixels, as Pillow's decoders call it."""
    tiles = getattr(image, "tile", [])
    args = tiles[0][3] if tiles else ""
    return str(args[0] if isinstance(args, tuple) else args)


def _is_deep(image: Image.Image) -> bool:
    """Whether the file has more than eight bits a channel, which Pillow does not show of colour."""
    raw = _raw_mode(image)
    bits = image.tag_v2.get(258, (8,)) if isinstance(image, TiffImagePlugin.TiffImageFile) else ()
    return ";16" in raw or ";16" in image.mode or max(bits, default=8) > 8


def _frame_notes(image: Image.Image) -> list[str]:
    try:
        if isinstance(image, TiffImagePlugin.TiffImageFile) and image.fp and has_more_pages(image.fp, _MOST_PAGES):
            return [SEVERAL]
        frames = int(getattr(image, "n_frames", 1))
    except Exception:  # what follows the first one is damaged, which is nobody's loss
        frames = 1
    notes = [SEVERAL] if frames > 1 else []
    return [*notes, _CLEAR_COLOUR] if "deep_transparency" in image.info else notes
