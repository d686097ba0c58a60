"""Two hundred photos in twelve formats, delivered in their own, some in every one: exiftool looks before and after."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_metadata import PROVENANCE, edited_like

from ip2pbatch.pictures import images
from ip2pbatch.pictures.deliver import DeliverySettings, Rendered, render
from ip2pbatch.pictures.originals import Original

for library in ("pillow_heif", "pillow_jxl", "rawpy"):
    pytest.importorskip(library, reason=f"{library} is not installed")
fixtures = pytest.importorskip("container_fixtures")

pytestmark = pytest.mark.skipif(
    shutil.which("exiftool") is None, reason="exiftool is not installed (apt-get install libimage-exiftool-perl)"
)
OTHERS = ("all.jpg", "all.png", "all.dng", "all.heic", "text.png", "dpi.jpg", "alpha.png")
INTO = ("jpeg", "png", "tiff", "webp", "avif", "jxl", "heic")
# What describes a file's own bytes, in exiftool's groups and tags.
GROUPS = (
    "SourceFile", "System", "File", "ExifTool", "Composite", "QuickTime", "Meta", "HEIC", "RIFF", "JXL", "Main",
    "Track", "GIF", "BMP", "MPF0", "MPImage", "ICC", "Jpeg2000", "Adobe",
)  # fmt: skip
STRUCTURE = {
    "Compression", "StripOffsets", "RowsPerStrip", "StripByteCounts", "Orientation", "ImageWidth", "ImageHeight",
    "BitsPerSample", "SubfileType", "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration",
    "ExtraSamples", "CFARepeatPatternDim", "CFAPattern2", "DNGVersion", "DNGBackwardVersion", "BlackLevel",
    "WhiteLevel", "ColorMatrix1", "AsShotNeutral", "CalibrationIlluminant1", "ColorType", "BitDepth", "Filter",
    "Interlace", "JFIFVersion", "ResolutionUnit", "PixelUnits", "Transparency", "SRGBRendering", "ColorSpace",
    "ProfileName", "ColorMap", "Palette", "FillOrder",
    "Parameters",  # ours stand behind those that were there
    "ApplicationNotes", "IPTC-NAA",  # of a BigTIFF: exiftool does not look into them
    "PixelsPerUnitX", "PixelsPerUnitY", "XResolution", "YResolution",  # compared as dots an inch
}  # fmt: skip
NAMED = {
    "IPTC": "IPTC block left out", "Photoshop": "Photoshop's block left out", "PNG": "the PNG's texts left out",
}  # fmt: skip


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


def lost(old: Mapping[str, object], new: Mapping[str, object], notes: Sequence[str]) -> Iterator[str]:
    """Tags of the source that are neither in the result, under whatever group, nor named in a note."""
    values = {(tag.rpartition(":")[2], str(value)) for tag, value in new.items()}
    said = " ".join(notes)
    for tag, value in old.items():
        group, _, name = tag.rpartition(":")
        if (group or tag).startswith(GROUPS) or name in STRUCTURE or (name, str(value)) in values:
            continue
        if group not in NAMED or NAMED[group] not in said:
            yield f"{tag} was {value!r}, is {new.get(tag)!r}"


def dots(tags: Mapping[str, object]) -> int | None:
    """Dots an inch, where a file says any."""
    metre = tags.get("PNG-pHYs:PixelsPerUnitX")
    if metre:
        return round(float(str(metre)) * 0.0254)
    found = [tags.get(tag, 1) for tag in ("JFIF:XResolution", "IFD0:XResolution")]
    return next((round(float(str(value))) for value in found if value != 1), None)  # 1: only the shape of a pixel


def alike(path: Path, other: Path) -> bool:
    """Whether two files show the same, one of them darker."""
    one, two = (images.load(each).pixels.astype(float).mean(-1) for each in (path, other))
    return one.shape == two.shape and float(np.corrcoef(one.ravel(), two.ravel())[0, 1]) > 0.97


def delivered(path: Path, folder: Path, form: str) -> tuple[Path, Rendered]:
    made = render(Original(path), edited_like(path), DeliverySettings(format=form), PROVENANCE)
    target = folder / f"{path.name}.{form}.{'jpg' if made.format == 'jpeg' else made.format}"
    target.write_bytes(made.data)
    return target, made


def test_two_hundred_photos_lose_nothing_in_silence(tmp_path: Path) -> None:
    before, after = tmp_path / "before", tmp_path / "after"
    before.mkdir()
    after.mkdir()
    fixtures.make(before, exiftool)
    source = read(before)
    assert len(source) >= 200
    everything, in_boxes = fixtures.KINDS, ("exif", "gps", "xmp", "foreign")
    for suffix, kinds in {"jpg": everything, "heic": in_boxes, "dng": everything}.items():
        for kind in kinds:  # or its absence on both sides would be a success
            assert {*everything[kind]} <= {*source[f"{kind}.{suffix}"]}, (kind, suffix)
    asked = [*((name, "same") for name in source), *((name, form) for name in OTHERS for form in INTO)]
    files = [(before / name, *delivered(before / name, after, form)) for name, form in asked]

    result, faults = read(after), []
    for path, target, made in files:
        old, new = source[path.name], result[target.name]
        faults += [f"{target.name}: {one}" for one in lost(old, new, made.notes)]
        if dots(old) not in (None, dots(new)):
            faults.append(f"{target.name}: {dots(old)} dots an inch, now {dots(new)}")
        if path.stem != "alpha" and not alike(path, target):
            faults.append(f"{target.name}: another picture, or turned otherwise")
        if path.stem == "alpha" and images.load(target).alpha is None and "laid on white" not in " ".join(made.notes):
            faults.append(f"{target.name}: transparency is gone")
        if path.stem in fixtures.SPACES and made.format != "jxl":
            with Image.open(path) as one, Image.open(target) as two:
                assert one.info["icc_profile"] == two.info["icc_profile"], path.name
        assert new.get("IFD0:Orientation", 1) == 1, path.name
        assert str(new["XMP-iptcExt:DigitalSourceType"]).endswith("compositeWithTrainedAlgorithmicMedia"), path.name
    assert not faults, "\n".join(faults)
