"""A photo's sidecar: XMP in a file beside it, as Lightroom, darktable and digiKam write it. Read, never written to; an
edit gets one of its own where that is asked for.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from ip2pbatch.disk.opening import open_file
from ip2pbatch.pictures import exif, xmp
from ip2pbatch.pictures.containers import Blocks

Sidecar = tuple[Path, bytes]
"""Where one lies or is to lie, and what is in it."""
_LARGEST = 16 << 20  # bytes; edits of darktable fill a few hundred thousand
_DC = "http://purl.org/dc/elements/1.1/"
_RIGHTS = "http://ns.adobe.com/xap/1.0/rights/"
_PHOTOSHOP = "http://ns.adobe.com/photoshop/1.0/"
_LIGHTROOM = "http://ns.adobe.com/lightroom/1.0/"
_DIGIKAM = "http://www.digikam.org/ns/1.0/"
# What a photographer wrote: its names in XMP, its tag in EXIF and its dataset in IPTC (0: none).
_WANTED = (
    (((xmp.XMP, "Rating"),), 0, 0),
    (((xmp.XMP, "Label"),), 0, 0),
    (((_DC, "subject"), (_LIGHTROOM, "hierarchicalSubject"), (_DIGIKAM, "TagsList")), 0, 25),
    (((_DC, "creator"),), 0x013B, 80),
    (((_DC, "rights"), (_RIGHTS, "Marked"), (_RIGHTS, "UsageTerms"), (_RIGHTS, "WebStatement")), 0x8298, 116),
    (((_DC, "title"),), 0, 5),
    (((_DC, "description"),), 0x010E, 120),
    (((_PHOTOSHOP, "Headline"),), 0, 105),
)


def beside(photo: Path) -> Iterator[Path]:
    """Where the sidecar of a photo may lie: photo.jpg.xmp (darktable, digiKam), photo.xmp (Lightroom, Bridge)."""
    for name in (f"{photo.name}.xmp", f"{photo.name}.XMP", f"{photo.stem}.xmp", f"{photo.stem}.XMP"):
        yield photo.with_name(name)


def find(photo: Path) -> Sidecar | None:
    """The sidecar of a photo and what is in it."""
    for path in beside(photo):
        with suppress(OSError), open_file(path) as file:
            return path, file.read(_LARGEST)
    return None


def is_readable(photo: Path) -> bool:
    """Whether a photo has a sidecar that is XMP."""
    found = find(photo)
    if found is None:
        return False
    try:
        xmp.Packet(found[1])
    except (xmp.XmpError, RecursionError):
        return False
    return True


def named_as(sidecar: Path, photo: Path, file: Path) -> Path:
    """The sidecar of `file`, under the kind of name that the photo's has: whose program reads one finds the other."""
    return file.with_name(f"{file.name if sidecar.stem == photo.name else file.stem}{sidecar.suffix}")


def completed(blocks: Blocks, photo: Path) -> Blocks:
    """The photo's blocks with what its sidecar says and it does not: rating, keywords, creator, copyright, caption.

    A sidecar that cannot be read is named in `left`.
    """
    sidecar = find(photo)
    if sidecar is None:
        return blocks
    try:
        return replace(blocks, xmp=_joined(blocks, xmp.Packet(sidecar[1])))
    except (xmp.XmpError, RecursionError):
        return replace(blocks, left=(*blocks.left, f"the sidecar {sidecar[0].name}, which is damaged,"))


def _joined(blocks: Blocks, sidecar: xmp.Packet) -> bytes:
    packet = xmp.Packet(blocks.xmp)
    wanted = {
        name
        for names, tag, dataset in _WANTED
        if not _in_exif(blocks.exif, tag) and not _in_iptc(blocks.iptc, dataset)
        and not any(packet.has(*name) for name in names)
        for name in names
    }  # fmt: skip
    return packet.tobytes() if packet.adopt(sidecar, wanted) else blocks.xmp


def _in_exif(block: bytes, tag: int) -> bool:
    try:
        found = exif.Block(block) if block else None
        return bool(found and tag and found.text(found.get(tag)))
    except exif.ExifError:
        return False


def _in_iptc(datasets: bytes, number: int) -> bool:
    """Whether the IPTC block holds this dataset of its second record."""
    return bool(number) and re.search(rb"\x1c\x02%b(?!\0\0)" % re.escape(bytes([number])), datasets) is not None
