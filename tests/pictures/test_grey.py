"""A photo of one channel comes back in one channel, in its own depth and profile, where its edit has no colour."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_metadata import PROVENANCE, needs_exiftool, tags

from ip2pbatch.pictures import colour, grey, images
from ip2pbatch.pictures.deliver import ADDED, GREY, DeliverySettings, Rendered, render
from ip2pbatch.pictures.originals import Original

Y, X = np.mgrid[0:96, 0:128]
LEVELS = (20 + (X * 1.2 + Y * 0.6) + 8 * np.sin(X / 2)).astype(np.uint8)
DEEP = LEVELS.astype(np.uint16) * 257 - (X % 99).astype(np.uint16)


def profile(curve: bytes) -> bytes:
    """A grey profile of that curve."""
    tags = {b"wtpt": colour._xyz(np.array([0.9642, 1.0, 0.8249])), b"kTRC": curve, b"cprt": b"text" + bytes(4) + b"-\0"}
    table, body, start = b"", b"", 132 + 12 * len(tags)
    for name, content in tags.items():
        table += name + struct.pack(">II", start + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    head = struct.pack(">I4xI4s4s4s", start + len(body), 0x02100000, b"mntr", b"GRAY", b"XYZ ")
    head = (head + bytes(12) + b"acsp").ljust(68, b"\0") + colour._xyz(np.array([0.9642, 1.0, 0.8249]))[8:]
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


def curve(*steps: int) -> bytes:
    return b"curv" + bytes(4) + struct.pack(f">I{len(steps)}H", len(steps), *steps)


FORMULA = (
    b"para" + bytes(4) + struct.pack(">HH5i", 3, 0, *(round(65_536 * x) for x in (2.4, 0.9479, 0.0521, 0.0774, 0.0405)))
)
DOTS = curve(*(round(65_535 * (x / 255) ** 1.75) for x in range(256)))
CURVES = {"2.2": curve(round(2.2 * 256)), "light": curve(), "dots": DOTS, "formula": FORMULA}


def edited(path: Path, tint: tuple[float, float, float] = (1, 1, 1), **settings: str) -> Rendered:
    small = images.load(path, (64, 48)).pixels * 0.8 * tint
    return render(Original(path), np.rint(small).astype(np.uint8), DeliverySettings(**settings), PROVENANCE)


def mode(made: Rendered) -> str:
    with Image.open(io.BytesIO(made.data)) as image:
        return image.mode


def error(made: Rendered, path: Path) -> float:
    """How far the file's own numbers are from 0.8 of the photo's, both as sRGB, of 255."""
    target = path.with_name(f"made.{made.format}")
    target.write_bytes(made.data)
    pair = [images.load(one, colours="own") for one in (path, target)]
    deep = all(one.deep is not None for one in pair)
    before, after = ((one.deep / 257 if deep and one.deep is not None else one.pixels) for one in pair)
    return float(np.abs(after - 0.8 * before).mean())


@pytest.mark.parametrize("icc", [None, *CURVES])
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "deep.png", "a.tif", "deep.tif", "a.avif"])
def test_grey_stays_grey_in_its_depth_and_profile(tmp_path: Path, name: str, icc: str | None) -> None:
    path, deep = tmp_path / name, name.startswith("deep")
    own = profile(CURVES[icc]) if icc else None
    Image.fromarray(DEEP if deep else LEVELS).save(path, **{"quality": 95} if "." in name else {}, icc_profile=own)
    made = edited(path)
    assert mode(made) == ("I;16" if deep else "L")
    assert error(made, path) < 1
    with Image.open(io.BytesIO(made.data)) as image:
        assert image.info.get("icc_profile") == own
    assert made.notes == ()


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("name", ["a.jpg", "deep.png", "deep.tif", "a.avif"])
def test_however_it_is_turned(tmp_path: Path, name: str, turn: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = turn
    path = tmp_path / name
    Image.fromarray(DEEP if "deep" in name else LEVELS).save(path, exif=exif, quality=95)
    made = edited(path)
    assert error(made, path) < 1
    with Image.open(io.BytesIO(made.data)) as image:
        assert image.getexif().get(0x0112, 1) == 1


@pytest.mark.parametrize("target", ["png", "tiff", "avif"])
def test_alpha_of_a_grey_photo(tmp_path: Path, target: str) -> None:
    alpha = np.tile(np.linspace(0, 255, 128).astype(np.uint8), (96, 1))
    Image.fromarray(np.dstack([LEVELS, alpha])).save(path := tmp_path / "a.png", icc_profile=profile(CURVES["2.2"]))
    made = edited(path, format=target)
    assert error(made, path) < 1
    found = images.load(tmp_path / f"made.{target}", colours="own")
    assert found.grey == profile(CURVES["2.2"])
    assert found.alpha is not None
    assert np.abs(found.alpha.astype(int) - alpha).mean() < 1


def test_a_colour_of_the_edit_stays_and_a_trace_of_one_is_named(tmp_path: Path) -> None:
    Image.fromarray(LEVELS).save(path := tmp_path / "a.png")
    assert edited(path).notes == ()
    faint = edited(path, (1, 0.96, 0.98))
    assert (mode(faint), faint.notes) == ("L", (ADDED,))
    sepia = edited(path, (1, 0.85, 0.7))
    assert (mode(sepia), sepia.notes) == ("RGB", (GREY,))
    spot = images.load(path, (64, 48)).pixels.copy()
    spot[20:23, 20:23] = 255, 0, 0
    assert mode(render(Original(path), spot, DeliverySettings(), PROVENANCE)) == "RGB"
    assert edited(path, format="webp").notes == (GREY,)


def test_numbers_of_a_profile_lead_back_to_themselves() -> None:
    levels = np.arange(65_536, dtype=np.uint16)
    for one in map(profile, CURVES.values()):
        assert grey.followed(one)
        away = np.abs(grey.from_srgb(grey.to_srgb(levels, one), one).astype(int) - levels)
        assert away[8192:].max() <= 1
        assert away.max() < 128
    for broken in (profile(b"mft2" + bytes(20)), profile(curve(500, 200, 0)), colour.adobe_rgb(), b"none"):
        assert not grey.followed(broken)


def test_a_profile_that_cannot_be_followed_is_named(tmp_path: Path) -> None:
    Image.fromarray(LEVELS).save(path := tmp_path / "a.png", icc_profile=colour.adobe_rgb())
    made = edited(path)
    assert mode(made) == "L"
    assert made.notes == ("the colour profile does not fit the pixels and is ignored",)


def tiff(path: Path, bits: int, white: int, rows: bytes) -> Path:
    """A grey TIFF of 128 × 96 pixels."""
    fields = [
        (256, 3, 128), (257, 3, 96), (258, 3, bits), (259, 3, 1), (262, 3, white), (273, 4, 8), (277, 3, 1),
        (278, 3, 96), (279, 4, len(rows)),
    ]  # fmt: skip
    table = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in fields)
    path.write_bytes(struct.pack("<2sHI", b"II", 42, 8 + len(rows)) + rows + struct.pack("<H", 9) + table + bytes(4))
    return path


def test_twelve_bits_and_white_below_black(tmp_path: Path) -> None:
    """Pillow's decoders hand over 12 bits as they are, which were as good as black, and 16 bits of negatives."""
    pairs = (LEVELS.astype(np.uint32) * 16).reshape(-1, 2)
    packed = (pairs[:, 0] << 12 | pairs[:, 1]).astype(">u4").view(np.uint8).reshape(-1, 4)[:, 1:].tobytes()
    for name, bits, photometric, rows in (("12", 12, 1, packed), ("white", 16, 0, (65_535 - DEEP).tobytes())):
        path = tiff(tmp_path / f"{name}.tif", bits, photometric, rows)
        assert np.abs(images.load(path).pixels[..., 0].astype(int) - LEVELS).max() <= 1
        made = edited(path)
        assert (mode(made), made.notes) == ("I;16", ())
        assert error(made, path) < 1


@needs_exiftool
def test_exiftool_sees_grey(tmp_path: Path) -> None:
    Image.fromarray(DEEP).save(path := tmp_path / "a.png", icc_profile=profile(CURVES["dots"]))
    target = tmp_path / "made.png"
    target.write_bytes(edited(path).data)
    said = tags(target)
    assert (said["PNG:ColorType"], said["PNG:BitDepth"], said["ICC-header:ColorSpaceData"]) == (0, 16, "GRAY")
