"""Two hundred small photos: every format with every kind of metadata that it can hold, turned, grey, clear and deep."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pillow_heif
import pillow_jxl
import skimage.data
import tifffile
from camera_raw import write_dng
from PIL import Image, ImageCms, PngImagePlugin

from ip2pbatch.pictures import colour

PHOTO: np.ndarray = skimage.data.coffee()[:64, :96]
SPACES = {
    "adobe-rgb": (((0.64, 0.33), (0.21, 0.71), (0.15, 0.06)), 563 / 256),
    "display-p3": (((0.68, 0.32), (0.265, 0.69), (0.15, 0.06)), 2.2),
    "prophoto": (((0.7347, 0.2653), (0.1596, 0.8404), (0.0366, 0.0001)), 1.8),
}
PILLOW = {
    "jpg": "JPEG", "png": "PNG", "tif": "TIFF", "webp": "WEBP", "avif": "AVIF", "jxl": "JXL", "gif": "GIF",
    "bmp": "BMP",
}  # fmt: skip
FORMATS = (*PILLOW, "mpo", "heic", "dng", "btf")
EXIF = {
    "IFD0:Make": "Canon", "IFD0:Model": "EOS R5", "IFD0:Artist": "Jo Ö", "IFD0:Copyright": "(c) Jo",
    "ExifIFD:DateTimeOriginal": "2024:07:15 18:03:11", "ExifIFD:OffsetTimeOriginal": "+02:00",
    "ExifIFD:SubSecTimeOriginal": 37, "ExifIFD:ISO": 400, "ExifIFD:FNumber": 2.8, "ExifIFD:ExposureTime": 0.008,
    "ExifIFD:FocalLength": 50, "ExifIFD:LensModel": "RF 50", "ExifIFD:SerialNumber": "0123",
}  # fmt: skip
GPS = {
    "GPS:GPSLatitudeRef": "N", "GPS:GPSLatitude": 48.2, "GPS:GPSLongitudeRef": "E", "GPS:GPSLongitude": 16.37,
    "GPS:GPSAltitude": 171, "GPS:GPSImgDirection": 93.5, "GPS:GPSDateStamp": "2024:07:15",
}  # fmt: skip
XMP = {
    "XMP-dc:Title": "Cup", "XMP-dc:Subject": ["coffee", "table"], "XMP-dc:Rights": "(c) Jo", "XMP-xmp:Rating": 4,
    "XMP-lr:HierarchicalSubject": ["drinks|coffee", "places|bar"], "XMP-xmp:Label": "Red",
    "XMP-photoshop:City": "Wien", "XMP-xmpRights:Marked": True, "XMP-iptcCore:CountryCode": "AT",
    "XMP-iptcCore:Location": "Café", "XMP-photoshop:Headline": "A cup", "XMP-iptcExt:PersonInImage": ["Jo"],
}  # fmt: skip
FOREIGN = {
    "XMP-crs:Exposure2012": "+0.35", "XMP-digiKam:TagsList": ["a/b"], "XMP-acdsee:Caption": "cap",
    "XMP-GPano:ProjectionType": "equirectangular", "XMP-GPano:FullPanoWidthPixels": 96, "XMP-aux:Lens": "RF50",
    "XMP-GPano:UsePanoramaViewer": True, "XMP-microsoft:RatingPercent": 75, "XMP-exifEX:LensModel": "RF50",
    "XMP-cc:License": "x", "XMP-xmpMM:OriginalDocumentID": "abc", "XMP-xmpDM:Artist": "ar", "XMP-pdf:Keywords": "k",
    "XMP-mwg-rs:RegionInfo": "{AppliedToDimensions={W=96,H=64,Unit=pixel},RegionList=[{Area={X=0.5,Y=0.5,W=0.2,H=0.2,"
                             "Unit=normalized},Name=Jo,Type=Face}]}",
}  # fmt: skip
IPTC = {
    "IPTC:Keywords": ["coffee", "bar"], "IPTC:By-line": "Jo", "IPTC:City": "Wien", "IPTC:CopyrightNotice": "(c) Jo",
    "IPTC:Caption-Abstract": "a cup", "IPTC:DateCreated": "2024:07:15", "IPTC:Sub-location": "Café",
}  # fmt: skip
PHOTOSHOP = {
    "Photoshop:URL": "http://www.example.org/", "Photoshop:CopyrightFlag": 1,
}  # fmt: skip
KINDS: dict[str, Mapping[str, object]] = {
    "exif": EXIF, "gps": GPS, "xmp": XMP, "foreign": FOREIGN, "iptc": IPTC, "8bim": PHOTOSHOP,
    "all": {**EXIF, **GPS, **XMP, **FOREIGN, **IPTC, **PHOTOSHOP},
}  # fmt: skip
_WITHOUT = {  # groups that a format has no place for
    "gif": ("IFD0", "ExifIFD", "GPS", "IPTC", "Photoshop"), "png": ("Photoshop",),
    **dict.fromkeys(("webp", "avif", "jxl", "heic"), ("IPTC", "Photoshop")),
}  # fmt: skip
MODES = {  # Pillow's
    "jpg": ("CMYK",), "png": ("1", "P", "LA"), "tif": ("1", "P", "LA", "CMYK", "LAB"), "gif": ("1", "P"),
    "bmp": ("1", "P"), "webp": ("P",),
}  # fmt: skip
_HALF = np.tile(np.repeat(np.uint8([0, 255]), 48), (64, 1))
_ONLY_DRAWN = ("bmp", "btf")  # whose metadata exiftool does not write


def make(folder: Path, exiftool: Callable[..., object]) -> None:
    """Draws all of them, named "kind.suffix"; `exiftool` is called once, with all that is to be written."""
    exiftool(*_described(folder))
    for suffix in FORMATS:
        if suffix not in ("gif", "bmp"):
            for turn in range(1, 9):
                _turned(folder / f"turned{turn}.{suffix}", turn)
        if suffix not in ("dng", "mpo"):
            draw(folder / f"grey.{suffix}", PHOTO[..., 1])
        if suffix not in ("jpg", "bmp", "mpo", "dng", "btf"):
            clear = np.tile(np.linspace(0, 255, 96).astype(np.uint8), (64, 1)) if suffix != "gif" else _HALF
            draw(folder / f"alpha.{suffix}", np.dstack([PHOTO, clear]))
        if suffix in ("jpg", "png", "tif", "webp", "avif", "jxl", "heic"):
            for name, space in SPACES.items():
                draw(folder / f"{name}.{suffix}", PHOTO, icc_profile=colour.matrix_profile(name, *space))
        for mode in MODES.get(suffix, ()):
            _converted(mode).save(folder / f"mode-{mode}.{suffix}", PILLOW[suffix])
    for chroma in (1, 2):
        draw(folder / f"chroma{chroma}.jpg", PHOTO, subsampling=chroma, progressive=True)
    for suffix in ("jpg", "png", "tif", "bmp"):
        draw(folder / f"dpi.{suffix}", PHOTO, dpi=(300, 300))
    _deep(folder)
    draw(folder / "comment.jpg", PHOTO, comment=b"by hand")
    draw(folder / "comment.gif", PHOTO, comment=b"by hand")
    draw(folder / "lossless.webp", PHOTO, lossless=True)
    texts = PngImagePlugin.PngInfo()
    for name, text in (("Title", "A cup"), ("Author", "Jö"), ("parameters", "a cup, Steps: 20")):
        texts.add_itxt(name, text)
    draw(folder / "text.png", PHOTO, pnginfo=texts)


def _converted(mode: str) -> Image.Image:
    image = Image.fromarray(PHOTO)
    if mode != "LAB":
        return image.convert(mode)
    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    return ImageCms.profileToProfile(image, *profiles, outputMode="LAB") or image


def _described(folder: Path) -> Iterator[list[object]]:
    for suffix in FORMATS:
        for kind, tags in KINDS.items():
            wanted = {tag: value for tag, value in tags.items() if tag.split(":")[0] not in _WITHOUT.get(suffix, ())}
            if wanted and suffix not in _ONLY_DRAWN:
                path = folder / f"{kind}.{suffix}"
                draw(path, PHOTO)
                values = [(tag, one) for tag, value in wanted.items() for one in _list(value)]
                yield ["-q", "-q", "-m", "-overwrite_original", "-n", *(f"-{tag}={one}" for tag, one in values), path]


def _list(value: object) -> Sequence[object]:
    return value if isinstance(value, list) else [value]


def draw(path: Path, pixels: np.ndarray, **options: object) -> None:
    """The pixels in the format of the path's suffix, with what its writer takes."""
    suffix, image = path.suffix[1:], Image.fromarray(pixels)
    if suffix == "heic":
        pillow_heif.from_pillow(image).save(path, quality=90, chroma=444, **options)
    elif suffix == "mpo":
        image.save(path, "MPO", save_all=True, append_images=[image], **options)
    elif suffix == "dng":
        write_dng(path, pixels)
    elif suffix == "btf":
        _tiff(path, pixels, 1)
    else:
        image.save(path, PILLOW[suffix], **({"quality": 90} if suffix in ("avif", "jxl") else {}), **options)


_PACKET = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description rdf:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmp:Rating="4"/></rdf:RDF></x:xmpmeta>'
)
_DATASETS = b"\x1c\x02\x50\0\x06Author\x1c\x02\x05\0\x05Title"


def _tiff(path: Path, pixels: np.ndarray, turn: int) -> None:
    """A TIFF, or a BigTIFF by its suffix, with a camera's name, XMP and IPTC."""
    tags = [
        (271, "s", 0, "Maker", True), (272, "s", 0, "Model", True), (274, "H", 1, turn, True),
        (315, "s", 0, "Jo", True),
        (33432, "s", 0, "(c) Jo", True), (700, "B", len(_PACKET), _PACKET, True),
        (33723, "B", len(_DATASETS), _DATASETS, True),
    ]  # fmt: skip
    tifffile.imwrite(
        path, pixels, bigtiff=path.suffix == ".btf", photometric="rgb" if pixels.ndim == 3 else "minisblack",
        metadata=None, software=False, extratags=tags,
    )  # fmt: skip


def _turned(path: Path, turn: int) -> None:
    if path.suffix == ".dng":
        write_dng(path, PHOTO, turn)
    elif path.suffix in (".tif", ".btf"):
        _tiff(path, PHOTO, turn)
    else:
        draw(path, PHOTO, exif=b"Exif\0\0" + with_maker_notes(turn))


def _deep(folder: Path) -> None:
    wide = PHOTO.astype(np.uint16) * 257
    for suffix in ("tif", "btf"):
        _tiff(folder / f"deep.{suffix}", wide, 1)
    for bits in (10, 12):
        heic = pillow_heif.from_bytes(mode=f"RGB;{bits}", size=(96, 64), data=(wide >> 16 - bits).tobytes())
        heic.save(folder / f"deep{bits}.heic", quality=90, chroma=444)
    grey = pillow_jxl.Encoder(mode="I;16", lossless=True, quality=100)
    (folder / "deep.jxl").write_bytes(grey(wide[..., 0].tobytes(), 96, 64, jpeg_encode=False))
    Image.fromarray(wide[..., 0]).save(folder / "deep.png")


_Entry = tuple[int, int, int, bytes]  # tag, type, items, content


def with_maker_notes(turn: int) -> bytes:
    """EXIF with a camera's own directory, whose places are counted from the block's start: it may not be moved."""
    exif_at = 8 + len(_table(8, _main(turn, 0)))
    length = len(_table(0, _notes()))
    note_at = exif_at + _table(exif_at, _details(b"\xee" * length)).index(b"\xee" * length)
    details = _table(exif_at, _details(_table(note_at, _notes())))
    return b"II*\0\x08\0\0\0" + _table(8, _main(turn, exif_at)) + details


def _main(turn: int, exif_at: int) -> list[_Entry]:
    model = _text(0x010F, "Canon"), _text(0x0110, "Canon EOS R5")
    return [*model, (0x0112, 3, 1, struct.pack("<H", turn)), (0x8769, 4, 1, struct.pack("<I", exif_at))]


def _details(note: bytes) -> list[_Entry]:
    return [(0x9000, 7, 4, b"0232"), _text(0x9003, "2024:07:15 18:03:11"), (0x927C, 7, len(note), note)]


def _notes() -> list[_Entry]:
    return [_text(6, "Canon EOS R5 maker"), _text(7, "Firmware Version 1.8.1"), _text(9, "Jo Owner"),
            _text(0x95, "RF50mm F1.2 L USM")]  # fmt: skip


def _text(tag: int, text: str) -> _Entry:
    return tag, 2, len(text) + 1, text.encode() + b"\0"


def _table(at: int, entries: Sequence[_Entry]) -> bytes:
    """A directory that stands at `at`, and behind it the values that do not fit in."""
    data, rows = b"", b""
    free = at + 6 + 12 * len(entries)
    for tag, kind, items, content in entries:
        field = content.ljust(4, b"\0")
        if len(content) > 4:
            field = struct.pack("<I", free + len(data))
            data += content + bytes(len(content) % 2)
        rows += struct.pack("<HHI", tag, kind, items) + field
    return struct.pack("<H", len(entries)) + rows + bytes(4) + data
