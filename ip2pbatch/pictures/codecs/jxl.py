"""JPEG XL (ISO/IEC 18181), read and written by libjxl (pillow_jxl): its header is read here, its pixels there."""

from __future__ import annotations

import base64
import hashlib
import io
from dataclasses import replace
from typing import IO, TYPE_CHECKING, Any, NamedTuple, cast

from ip2pbatch.errors import PhotoError
from ip2pbatch.pictures.codecs import apart
from ip2pbatch.pictures.codecs.boxes import top
from ip2pbatch.pictures.codecs.decoded import SEVERAL, Decoded, Header
from ip2pbatch.pictures.containers import Blocks, Raster
from ip2pbatch.plan.named import named
from ip2pbatch.plan.photo_digests import FLOATING, hash_rest

if TYPE_CHECKING:
    from ip2pbatch.pictures.deep import Pixels

_MOST_BLOCK = 64 << 20
_HEAD = 64  # bytes of a codestream within which its header ends
_RATIOS = (None, (1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))
_CODESTREAM = b"\xff\x0a"
_CHANNELS = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4}


class _Basics(NamedTuple):
    """(width, height) as stored, orientation as in EXIF, bits of a channel, whether there is more than one frame, and
    whether pixels are stored as they are: not as XYB, which loses some.
    """

    size: tuple[int, int]
    turn: int
    bits: int
    moves: bool
    plain: bool


class _Bits:
    """Numbers of a codestream (ISO/IEC 18181-1, 9.2), the lowest bit first. Raises ValueError at its end."""

    def __init__(self, data: bytes) -> None:
        self._number, self._left = int.from_bytes(data, "little"), 8 * len(data)

    def take(self, count: int) -> int:
        self._left -= count
        if self._left < 0:
            raise ValueError("its header is cut")
        found = self._number & (1 << count) - 1
        self._number >>= count
        return found

    def one_of(self, *ways: tuple[int, int]) -> int:
        """One of four numbers: each a start and how many bits are added to it."""
        start, bits = ways[self.take(2)]
        return start + self.take(bits)


def _basics(data: bytes) -> _Basics:
    bits = _Bits(data)
    if bits.take(16) != 0x0AFF:
        raise ValueError("no codestream")
    size, turn, depth, moves, plain = _size(bits), 1, 8, False, False
    if not bits.take(1):
        preview = False
        if bits.take(1):
            turn = 1 + bits.take(3)
            if bits.take(1):
                _size(bits)
            preview = bool(bits.take(1))
            moves = bool(not preview and bits.take(1))
        if not preview and not moves and not bits.take(1):
            depth = bits.one_of((8, 0), (10, 0), (12, 0), (1, 6))
            plain = _is_plain(bits)
    return _Basics(size, turn, depth, moves, plain)


def _is_plain(bits: _Bits) -> bool:
    """From behind the depth on; False where a further channel is no usual alpha, for its description is not read."""
    bits.take(1)
    further = bits.one_of((0, 0), (1, 0), (2, 4), (1, 12))
    return all(bits.take(1) for _ in range(further)) and not bits.take(1)


def _size(bits: _Bits) -> tuple[int, int]:
    small = bits.take(1)

    def side() -> int:
        return 8 * (1 + bits.take(5)) if small else bits.one_of((1, 9), (1, 13), (1, 18), (1, 30))

    height = side()
    ratio = _RATIOS[bits.take(3)]
    return (side() if ratio is None else height * ratio[0] // ratio[1]), height


def _codestream(file: IO[bytes]) -> bytes:
    """The first bytes of the codestream, bare or in boxes."""
    file.seek(0)
    if file.read(2) == _CODESTREAM:
        return _CODESTREAM + file.read(_HEAD)
    found = b""
    for name, length in top(file):
        if name == b"jxlp":
            file.read(4)
            found += file.read(min(max(length - 4, 0), _HEAD))
        elif name == b"jxlc":
            found += file.read(min(length, _HEAD))
        if len(found) >= _HEAD:
            break
    return found


def header(file: IO[bytes]) -> Header:
    """The size as shown. Profiles are part of the codestream, which is hashed whole."""
    found = _basics(_codestream(file))
    return Header(found.size[::-1] if found.turn >= 5 else found.size)


def digest(file: IO[bytes], into: hashlib._Hash) -> bytes:
    """The codestream, and what rebuilds a JPEG; not what is said in boxes beside it."""
    file.seek(0)
    if file.read(2) == _CODESTREAM:
        into.update(_CODESTREAM)
        return hash_rest(file, into)
    for name, length in top(file):
        if name in (b"jxlp", b"jxlc", b"jbrd"):
            into.update(name)
            while length > 0 and (block := file.read(min(length, 1 << 20))):
                into.update(block)
                length -= len(block)
    return b""


def read_blocks(file: IO[bytes]) -> Blocks:
    """The Exif and XMP boxes, through libjxl where they are packed."""
    plain = _basics(_codestream(file)).plain
    file.seek(0)
    if file.read(2) == _CODESTREAM:
        return Blocks(lossless=plain)
    found: dict[bytes, bytes] = {}
    packed = False
    for name, length in top(file):
        if name == b"brob":
            packed |= file.read(4) in (b"Exif", b"xml ")
        elif name in (b"jhgm", b"jbrd"):
            found[name] = b""
        elif name in (b"Exif", b"xml ", b"jumb") and length <= _MOST_BLOCK:
            found.setdefault(name, file.read(length))
    blocks = _blocks(_unpacked(file) | found if packed else found)
    return replace(blocks, lossless=plain and b"jbrd" not in found)  # a JPEG's own loss is no reason for a large file


def _unpacked(file: IO[bytes]) -> dict[bytes, bytes]:
    found = apart.ask(file, "ip2pbatch.pictures.codecs.jxl:unpacked")
    return {name.encode("latin-1"): base64.b64decode(data) for name, data in found.items()}


def unpacked(file: IO[bytes]) -> dict[str, str]:
    """In the other process: {name: content in base64} of the file's boxes, those that are packed as they were."""
    apart.room_for(*_basics(_codestream(file)).size)
    file.seek(0)
    boxes = named("pillow_jxl:Decoder")(num_threads=-1)(file.read())[4]
    return {bytes(box.box_type).decode("latin-1"): base64.b64encode(bytes(box.data)).decode() for box in boxes}


def _blocks(found: dict[bytes, bytes]) -> Blocks:
    exif = found.get(b"Exif", b"")
    if exif[:4] not in (b"II*\0", b"MM\0*"):  # some writers leave out where it starts
        exif = exif[4 + int.from_bytes(exif[:4], "big") :].removeprefix(b"Exif\0\0")
    left = ("HDR gain map",) if b"jhgm" in found else ()
    return Blocks(exif=exif, xmp=found.get(b"xml ", b""), c2pa=b"c2pa" in found.get(b"jumb", b"")[:256], left=left)


def decode(file: IO[bytes], least: tuple[int, int] | None) -> Decoded:
    """The picture whole, by a process of its own; of several frames the first."""
    return apart.decode(file, "ip2pbatch.pictures.codecs.jxl:decoded", least)


def decoded(file: IO[bytes], least: tuple[int, int] | None) -> Decoded:
    """The same here."""
    basics = _basics(_codestream(file))
    apart.room_for(*basics.size)
    file.seek(0)
    is_jpeg, info, data, icc, _ = named("pillow_jxl:Decoder")(num_threads=-1)(file.read())
    notes = (SEVERAL,) if basics.moves else ()
    if is_jpeg:
        return _rebuilt(data, basics.turn, notes)
    pixels, alpha, bits = _unfolded(data, info.mode, (info.width, info.height))
    if bits == 8 < basics.bits:
        notes = (*notes, f"{basics.bits} bits a channel reduced to 8")
    grey = info.mode[0] in "LI"
    return Decoded(pixels, alpha, icc or None, notes, basics.bits if bits == 16 else 8, grey)


def _rebuilt(data: bytes, turn: int, notes: tuple[str, ...]) -> Decoded:
    """A JPEG that the file holds without loss, as the JPEG it was."""
    import numpy as np
    from PIL import JpegImagePlugin

    from ip2pbatch.pictures.codecs.through_pillow import upright

    with JpegImagePlugin.JpegImageFile(io.BytesIO(data)) as image:
        pixels = np.asarray(upright(image, turn).convert("RGB"))
        return Decoded(pixels, None, image.info.get("icc_profile"), notes, grey=image.mode == "L")


def _unfolded(data: bytes, mode: str, size: tuple[int, int]) -> tuple[Pixels, Pixels | None, int]:
    """RGB [h, w, 3], alpha [h, w], and the bits of a number in memory."""
    import numpy as np

    if mode.startswith("F"):
        raise PhotoError(FLOATING)
    channels = _CHANNELS.get(mode.partition(";")[0], 1)
    bits = 8 * len(data) // (size[0] * size[1] * channels)
    pixels: Any = np.frombuffer(data, np.uint8 if bits == 8 else np.uint16).reshape(size[1], size[0], channels)
    alpha = pixels[..., -1] if channels in (2, 4) else None
    colours = pixels[..., :3] if channels > 2 else np.repeat(pixels[..., :1], 3, axis=2)
    if alpha is not None:
        alpha = np.ascontiguousarray(alpha if bits == 8 else (alpha >> 8).astype(np.uint8))
        alpha = None if alpha.min() == 255 else alpha
    return cast("Pixels", np.ascontiguousarray(colours)), cast("Pixels | None", alpha), bits


def encode(raster: Raster, blocks: Blocks, quality: int) -> bytes:
    """A file in boxes, without loss where the photo's is; of sRGB only, because the library embeds no profile."""
    from ip2pbatch.pictures.codecs.through_pillow import pillow_image

    image = pillow_image(raster)
    encoder = named("pillow_jxl:Encoder")(
        mode=image.mode, lossless=blocks.lossless, quality=quality, decoding_speed=0, effort=4, use_container=True,
        use_original_profile=blocks.lossless, num_threads=-1,
    )  # fmt: skip
    return cast(bytes, encoder(
        image.tobytes(), image.width, image.height, jpeg_encode=False, jumb=None,
        exif=bytes(4) + blocks.exif if blocks.exif else None,
        xmp=blocks.xmp or None, compress=False,
    ))  # fmt: skip
