"""Sixty photos, four formats by fifteen kinds of metadata, each delivered in its own format and read with exiftool."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
import skimage.data
from PIL import Image
from test_images import SPACES
from test_metadata import PROVENANCE, edited_like

from ip2pbatch.pictures import colour
from ip2pbatch.pictures.deliver import DeliverySettings, render
from ip2pbatch.pictures.originals import Original

pytestmark = pytest.mark.skipif(
    shutil.which("exiftool") is None, reason="exiftool is not installed (apt-get install libimage-exiftool-perl)"
)
PHOTO = skimage.data.coffee()[:64, :96]
FORMATS = {"jpg": "JPEG", "png": "PNG", "tif": "TIFF", "webp": "WEBP"}
# What exiftool writes into a photo of each kind; all of it is to come back.
WRITTEN = {
    "exif": {
        "IFD0:Make": "Canon", "IFD0:Model": "EOS R5", "IFD0:Artist": "Jo Ö", "IFD0:Copyright": "(c) Jo",
        "ExifIFD:DateTimeOriginal": "2024:07:15 18:03:11", "ExifIFD:OffsetTimeOriginal": "+02:00",
        "ExifIFD:SubSecTimeOriginal": 37, "ExifIFD:ISO": 400, "ExifIFD:FNumber": 2.8, "ExifIFD:ExposureTime": 0.008,
        "ExifIFD:FocalLength": 50, "ExifIFD:LensModel": "RF 50", "ExifIFD:SerialNumber": "0123",
    },
    "gps": {
        "GPS:GPSLatitudeRef": "N", "GPS:GPSLatitude": 48.2, "GPS:GPSLongitudeRef": "E", "GPS:GPSLongitude": 16.37,
        "GPS:GPSAltitude": 171, "GPS:GPSImgDirection": 93.5, "GPS:GPSDateStamp": "2024:07:15",
    },
    "xmp": {
        "XMP-dc:Title": "Cup", "XMP-dc:Subject": ["coffee", "table"], "XMP-dc:Rights": "(c) Jo", "XMP-xmp:Rating": 4,
        "XMP-lr:HierarchicalSubject": ["drinks|coffee", "places|bar"], "XMP-xmp:Label": "Red",
        "XMP-photoshop:City": "Wien", "XMP-xmpRights:Marked": True,
    },
}  # fmt: skip
IPTC = {
    "IPTC:Keywords": ["coffee", "bar"], "IPTC:By-line": "Jo", "IPTC:City": "Wien", "IPTC:CopyrightNotice": "(c) Jo",
    "IPTC:Caption-Abstract": "a cup",
}  # fmt: skip
IPTC_IN_XMP = {  # where a format has no place for IPTC's own records, IPTC Core is XMP
    "XMP-iptcCore:CountryCode": "AT", "XMP-iptcCore:Location": "Café", "XMP-photoshop:Headline": "A cup",
    "XMP-iptcExt:PersonInImage": ["Jo"],
}  # fmt: skip
KINDS = [*WRITTEN, "iptc", *SPACES, *(f"turned{turn}" for turn in range(1, 9))]


def exiftool(*commands: Sequence[object]) -> str:
    """Several commands in one process: starting it is what takes the time."""
    lines = [line for command in commands for line in (*command, "-execute")]
    done = subprocess.run(
        ["exiftool", "-@", "-"], input="\n".join(map(str, lines)), capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def read(folder: Path) -> dict[str, dict[str, object]]:
    """{file name: {"Group:Tag": value}} of all files in `folder`, numbers as numbers."""
    rows = json.loads(exiftool(["-json", "-a", "-G1", "-n", "-struct", folder]).replace("{ready}", ""))
    return {Path(str(row["SourceFile"])).name: row for row in rows}


def tags_of(kind: str, suffix: str) -> dict[str, object]:
    if kind == "iptc":
        return dict(IPTC if suffix in ("jpg", "tif") else IPTC_IN_XMP)
    return dict(WRITTEN.get(kind, {}))


def make(folder: Path) -> None:
    commands = []
    for suffix, name in FORMATS.items():
        for kind in KINDS:
            path = folder / f"{kind.replace(' ', '-')}.{suffix}"
            icc = colour.matrix_profile(kind, *SPACES[kind]) if kind in SPACES else None
            Image.fromarray(PHOTO).save(path, name, **({"icc_profile": icc} if icc else {}))
            flags = ["-q", "-overwrite_original", "-n"]
            for tag, value in tags_of(kind, suffix).items():
                flags += [f"-{tag}={one}" for one in (value if isinstance(value, list) else [value])]
            if kind.startswith("turned"):
                flags.append(f"-IFD0:Orientation={kind[-1]}")
            if len(flags) > 3:
                commands.append([*flags, path])
    exiftool(*commands)


def test_sixty_photos_keep_all_that_is_on_the_list(tmp_path: Path) -> None:
    before, after = tmp_path / "before", tmp_path / "after"
    before.mkdir()
    after.mkdir()
    make(before)
    paths = sorted(before.iterdir())
    assert len(paths) == 60
    for path in paths:
        data = render(Original(path), edited_like(path), DeliverySettings(), PROVENANCE).data
        (after / path.name).write_bytes(data)

    source, result = read(before), read(after)
    lost = []
    for path in paths:
        kind, suffix = path.stem.replace("-", " "), path.suffix[1:]
        kind = next(name for name in KINDS if name.replace("-", " ") == kind)
        old, new = source[path.name], result[path.name]
        for tag in tags_of(kind, suffix):
            assert tag in old, f"exiftool wrote no {tag} into {path.name}"
            lost += [f"{path.name}: {tag} was {old[tag]!r}, is {new.get(tag)!r}"] if new.get(tag) != old[tag] else []
        if kind in SPACES:
            with Image.open(path) as one, Image.open(after / path.name) as two:
                assert one.info["icc_profile"] == two.info["icc_profile"], path.name
        if kind.startswith("turned"):
            size = "64 96" if int(kind[-1]) >= 5 else "96 64"
            assert (new.get("IFD0:Orientation", 1), new["Composite:ImageSize"]) == (1, size), path.name
        assert new["XMP-iptcExt:DigitalSourceType"].endswith("compositeWithTrainedAlgorithmicMedia"), path.name
    assert lost == []
