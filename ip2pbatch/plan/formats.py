"""The formats of photos that are read and written: one table. Adding one is a module in pictures/codecs and a line."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.util import find_spec
from typing import IO, TYPE_CHECKING, cast

from ip2pbatch.plan.named import named

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL.ImageFile import ImageFile

HEAD = 64  # bytes at a file's start that tell its format
ANY = 1 << 31  # no limit that a picture could meet
UNKNOWN = "is not a JPEG or another picture that is read here"


@dataclass(frozen=True, slots=True)
class Format:
    """One format, as recipes (`name`) and messages (`title`) call it. Functions are named as "module:function".

    `suffixes` are lower-case, the first is given to files that are delivered in it; `head` is a pattern for a file's
    first HEAD bytes. `opener` is called with the file and returns Pillow's image of it; `header` does the same where
    only the header is wanted, and is the opener where it is empty.

    `digest(file, hash) -> bytes` feeds the hash with what the pixels depend on, from the file's start, and returns
    EXIF that the opener did not find. `decoder(file, least) -> Decoded` reads pixels in the opener's stead, which is
    then for the header; a picture of `least` (width, height) is enough for who asks, where it is not None. `needs` is
    the library without which nothing is read, `writer` that without which nothing is written, `extra` what brings it.

    `blocks(file) -> Blocks` reads metadata, and `behind(file) -> words` looks for what follows the picture, which takes
    reading all of it; `encode(raster, blocks, quality) -> bytes` makes a whole file. Where a format is not `written`,
    `format: same` delivers `written_as`.

    `inside` ("module:function") tells a file that begins as a TIFF does, and has one of the suffixes, from a TIFF.
    `profiles`: a file of ours embeds them. `upright`: the opener turns by EXIF itself. `deep`: holds more than 8 bits a
    channel, at most `bits`; `grey`: as many as it holds of grey alone. `lossy`: asks for a quality; `lossless`: is
    written without loss where the photo is. The rest is what a file takes: pixels a side, bytes of EXIF, of IPTC and
    Photoshop's resources, and of a comment; a resolution that is not EXIF's; alpha; PNG's texts;
    XMP in two parts.
    """

    name: str
    title: str
    suffixes: tuple[str, ...]
    head: bytes
    opener: str
    blocks: str
    encode: str = ""
    behind: str = ""
    header: str = ""
    decoder: str = ""
    needs: str = ""
    writer: str = ""
    extra: str = ""
    inside: str = ""
    digest: str = "ip2pbatch.plan.photo_digests:hash_rest"
    written_as: str = "jpeg"
    profiles: bool = True
    upright: bool = False
    deep: bool = False
    bits: int = 16
    grey: int = 0
    lossy: bool = False
    lossless: bool = False
    longest_side: int = ANY
    most_exif: int = ANY
    most_iptc: int = 0
    most_comment: int = 0
    resolution: bool = False
    alpha: bool = True
    text: bool = False
    extended_xmp: bool = False

    def open(self, file: IO[bytes], *, whole: bool = True) -> ImageFile:
        """Pillow's image of an open file, nothing decoded. Raises whatever a broken header leads the opener to.

        The format's own class is called rather than Image.open: no other decoder can ever be reached, and Pillow's
        limit of pixels, which is lower than ours and shared by the whole process, need not be changed.
        """
        return cast("ImageFile", named((not whole and self.header) or self.opener)(file))

    def missing(self) -> str | None:
        """What to type where the library is not there that the format needs."""
        return self._line_for(self.needs)

    @property
    def written(self) -> bool:
        """Whether files are delivered in it here."""
        return bool(self.encode) and self.unwritten() is None

    def unwritten(self) -> str | None:
        """What to type where the library is not there that writing needs."""
        return self._line_for(self.writer) or self.missing()

    def _line_for(self, library: str) -> str | None:
        if not library or find_spec(library):
            return None
        own = bool(self.extra) and library == (self.writer or self.needs)
        return f"pip install 'ip2pbatch[{self.extra}]'" if own else f"pip install {library.replace('_', '-')}"

    def delivered(self, raw: str = "jpeg") -> str:
        """The name of the format that a photo of this one is delivered in where nothing else is asked for.

        `raw` is what a recipe says of camera raw: "jpeg" or "tiff16".
        """
        if self.name == "raw" and raw == "tiff16":
            return "tiff"
        return self.name if self.written else self.written_as


_CODECS = "ip2pbatch.pictures.codecs"
_NONE = rb"(?!)"  # no file begins so
FORMATS: dict[str, Format] = {
    "jpeg": Format(
        "jpeg", "JPEG", (".jpg", ".jpeg", ".jfif", ".jpe"), rb"\xff\xd8\xff", f"{_CODECS}.jpeg:open_image",
        f"{_CODECS}.jpeg:read_blocks", f"{_CODECS}.jpeg:encode", header=f"{_CODECS}.jpeg:open_header",
        digest=f"{_CODECS}.jpeg:digest", behind=f"{_CODECS}.jpeg:behind", lossy=True, grey=8, longest_side=65_500,
        most_exif=65_527,  # a segment, less its header
        most_iptc=ANY, most_comment=65_533, extended_xmp=True, resolution=True, alpha=False,
    ),
    "png": Format(
        "png", "PNG", (".png",), rb"\x89PNG\r\n\x1a\n", f"{_CODECS}.png:open_image",
        f"{_CODECS}.png:read_blocks", f"{_CODECS}.png:encode", digest=f"{_CODECS}.png:digest", deep=True, grey=16,
        most_iptc=ANY, text=True, resolution=True,
    ),
    "tiff": Format(
        "tiff", "TIFF", (".tif", ".tiff"), rb"II\*\0|MM\0\*", "PIL.TiffImagePlugin:TiffImageFile",
        f"{_CODECS}.tiff:read_blocks", f"{_CODECS}.tiff:encode", upright=True, deep=True, grey=16, most_iptc=ANY,
    ),
    "webp": Format(
        "webp", "WebP", (".webp",), rb"RIFF.{4}WEBP", "PIL.WebPImagePlugin:WebPImageFile",
        f"{_CODECS}.webp:read_blocks", f"{_CODECS}.webp:encode", lossy=True, lossless=True,
        longest_side=16_383,
    ),
    "avif": Format(
        "avif", "AVIF", (".avif", ".avifs"), rb".{4}ftyp(?:avi[fs]|(?:mif1|msf1|miaf).{4}(?:.{4}){0,8}?avi[fs])",
        f"{_CODECS}.heif:header", f"{_CODECS}.boxes:read_blocks", f"{_CODECS}.avif:encode",
        decoder=f"{_CODECS}.avif:decode", digest=f"{_CODECS}.boxes:digest", upright=True, lossy=True,
        grey=8, longest_side=65_535,
    ),
    "heic": Format(
        "heic", "HEIC", (".heic", ".heif", ".hif"), rb".{4}ftyp(?:hei[cxms]|hev[cxms]|mif[12]|msf1)",
        f"{_CODECS}.heif:header", f"{_CODECS}.boxes:read_blocks", f"{_CODECS}.heif:encode",
        decoder=f"{_CODECS}.heif:decode", needs="pi_heif", writer="pillow_heif", extra="heic",
        digest=f"{_CODECS}.boxes:digest", upright=True, deep=True, bits=10, grey=10, lossy=True, lossless=True,
        longest_side=16_384,
    ),
    "jxl": Format(
        "jxl", "JPEG XL", (".jxl",), rb"\xff\x0a|\0\0\0\x0cJXL ", f"{_CODECS}.jxl:header", f"{_CODECS}.jxl:read_blocks",
        f"{_CODECS}.jxl:encode", decoder=f"{_CODECS}.jxl:decode", needs="pillow_jxl", extra="jxl",
        digest=f"{_CODECS}.jxl:digest", upright=True, lossy=True, lossless=True, longest_side=65_535,
        grey=8, profiles=False,
    ),
    "raw": Format(
        "raw", "camera raw",
        (".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2", ".3fr", ".crw", ".dcr", ".erf", ".iiq", ".kdc",
         ".mef", ".mos", ".mrw", ".nrw", ".pef", ".rwl", ".sr2", ".srf", ".srw", ".x3f"),
        rb".{4}ftypcrx|FUJIFILMCCD-RAW|II(?:U\0|RO|RS)|MMOR|FOVb|\0MRM|II.{4}HEAPCCDR", f"{_CODECS}.raw:header",
        f"{_CODECS}.raw:read_blocks", decoder=f"{_CODECS}.raw:decode", needs="rawpy", extra="raw",
        inside=f"{_CODECS}.raw:is_raw", upright=True,
    ),
    # A JPEG by its bytes: only the name promises a second picture, which no file of ours has.
    "mpo": Format(
        "mpo", "MPO", (".mpo",), _NONE, f"{_CODECS}.jpeg:open_image", f"{_CODECS}.jpeg:read_blocks",
    ),
    "bigtiff": Format(
        "bigtiff", "BigTIFF", (".btf", ".tf8"), rb"II\+\0|MM\0\+", "PIL.TiffImagePlugin:TiffImageFile",
        f"{_CODECS}.bigtiff:read_blocks", upright=True, written_as="tiff",
    ),
    "gif": Format(
        "gif", "GIF", (".gif",), rb"GIF8[79]a", "PIL.GifImagePlugin:GifImageFile", f"{_CODECS}.gif:read_blocks",
    ),
    "bmp": Format(
        "bmp", "BMP", (".bmp", ".dib"), rb"BM.{4}\0\0\0\0", "PIL.BmpImagePlugin:BmpImageFile",
        f"{_CODECS}.bmp:read_blocks",
    ),
}  # fmt: skip


def recognised(head: bytes) -> Format | None:
    """The format that a file's first HEAD bytes announce: a file's suffix is only a promise."""
    return next((one for one in FORMATS.values() if re.match(one.head, head, re.DOTALL)), None)


def kind_of(file: IO[bytes], suffix: str) -> Format | None:
    """The format of an open file, which then stands at its start: by its first bytes, of a camera's TIFF by more."""
    file.seek(0)
    kind, promised = recognised(file.read(HEAD)), by_suffix(suffix)
    if kind is not None and kind.name == "tiff" and promised is not None and promised.inside:
        kind = promised if named(promised.inside)(file) else kind
    file.seek(0)
    return kind


def by_suffix(suffix: str) -> Format | None:
    """The format that a suffix such as ".JPG" promises."""
    return next((one for one in FORMATS.values() if suffix.lower() in one.suffixes), None)


def suffixes() -> tuple[str, ...]:
    """Every suffix of a file that may be a photo, in the table's order."""
    return tuple(suffix for one in FORMATS.values() for suffix in one.suffixes)


def written() -> tuple[str, ...]:
    """The names of the formats that are delivered, some with an extra."""
    return tuple(one.name for one in FORMATS.values() if one.encode)


def listed(words: Sequence[str], joint: str) -> str:
    """Words as a person lists them: `a, b and c`."""
    return f" {joint} ".join(part for part in (", ".join(words[:-1]), *words[-1:]) if part)


def lossy_titles() -> str:
    """The formats that `quality` is about: "JPEG and WebP"."""
    return listed([one.title for one in FORMATS.values() if one.lossy and one.encode], "and")
