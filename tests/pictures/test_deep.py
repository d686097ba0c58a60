"""Sixteen bits a channel: in from PNG and TIFF, through the lift, and out again."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
import tifffile
from PIL import Image

from ip2pbatch.pictures import colour, fullres, images
from ip2pbatch.pictures.deliver import DeliverySettings, Rendered, render
from ip2pbatch.pictures.metadata import Provenance
from ip2pbatch.pictures.originals import Original

SIZE = (80, 48)
PROVENANCE = Provenance("e" * 32, "f" * 32, ("make it night",), 7.5, 1.5, 1, 20, "euler_a", SIZE, "tiny")
P3 = colour.matrix_profile("Display P3", ((0.68, 0.32), (0.265, 0.69), (0.15, 0.06)), 2.2)


def deep_photo() -> np.ndarray:
    """A photo [96, 160, 3] with all 65536 levels in use: a smooth light that eight bits would break into bands."""
    photo = skimage.data.astronaut()[180:276, 140:300].astype(np.float64) * 257
    light = np.linspace(0.7, 1, 160)[None, :, None]
    return np.rint(np.clip(photo * light + np.random.default_rng(0).normal(0, 40, photo.shape), 0, 65535)).astype(
        np.uint16
    )


PHOTO = deep_photo()
ALPHA = np.tile(np.linspace(0, 65535, 160).astype(np.uint16), (96, 1))


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def write_png(path: Path, pixels: np.ndarray, *more: bytes) -> Path:
    height, width, channels = pixels.shape
    header = struct.pack(">IIBBBBB", width, height, 16, {3: 2, 4: 6}[channels], 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    body = [chunk(b"IHDR", header), *more, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(body))
    return path


def png_pixels(data: bytes) -> np.ndarray:
    """An independent reader of 16-bit PNGs: every filter undone byte by byte, as the standard words it."""
    at, packed, head = 8, b"", (0,) * 7
    while at < len(data):
        (length,), kind = struct.unpack_from(">I", data, at), data[at + 4 : at + 8]
        content = data[at + 8 : at + 8 + length]
        assert struct.unpack_from(">I", data, at + 8 + length)[0] == zlib.crc32(kind + content)
        head = struct.unpack(">IIBBBBB", content) if kind == b"IHDR" else head
        packed += content if kind == b"IDAT" else b""
        at += length + 12
    width, height, bits, colours = head[:4]
    step = bits // 8 * {2: 3, 6: 4}[colours]
    raw, line = zlib.decompress(packed), width * step
    above, rows = bytearray(line), []
    for row in range(height):
        kind, own = raw[row * (line + 1)], bytearray(raw[row * (line + 1) + 1 : (row + 1) * (line + 1)])
        assert kind == 4
        for i in range(line):
            a, b, c = (own[i - step], above[i], above[i - step]) if i >= step else (0, above[i], 0)
            nearest = min((abs(b - c), 0, a), (abs(a - c), 1, b), (abs(a + b - 2 * c), 2, c))[2]
            own[i] = (own[i] + nearest) & 255
        rows.append(bytes(own))
        above = own
    return np.frombuffer(b"".join(rows), ">u2").reshape(height, width, -1)


def deep_pixels(rendered: Rendered) -> np.ndarray:
    return png_pixels(rendered.data) if rendered.format == "png" else tifffile.imread(io.BytesIO(rendered.data))


def saved(tmp_path: Path, kind: str, pixels: np.ndarray = PHOTO, **options: Any) -> Path:
    if kind == "png":
        return write_png(tmp_path / "photo.png", pixels)
    extra = {"extrasamples": ["unassalpha"]} if pixels.shape[2] == 4 else {}
    tifffile.imwrite(tmp_path / "photo.tif", pixels, photometric="rgb", **extra, **options)
    return tmp_path / "photo.tif"


FILES = {
    "png": {}, "tiff": {}, "tiff-mm": {"byteorder": ">"}, "tiff-deflate": {"compression": "zlib", "predictor": True},
    "tiff-mm-deflate": {"compression": "zlib", "byteorder": ">"}, "tiff-tiles": {"tile": (32, 32)},
}  # fmt: skip


@pytest.mark.parametrize("kind", FILES)
def test_an_identity_edit_gives_all_sixteen_bits_back(tmp_path: Path, kind: str) -> None:
    path = saved(tmp_path, kind.partition("-")[0], **FILES[kind])
    rendered = render(Original(path), images.load(path, SIZE).pixels, DeliverySettings(), PROVENANCE)
    assert np.abs(deep_pixels(rendered).astype(int) - PHOTO).max() <= 1
    assert rendered.notes == ()


@pytest.mark.parametrize("target", ["png", "tiff"])
@pytest.mark.parametrize("kind", ["png", "tiff"])
def test_alpha_and_colour_profile_come_along(tmp_path: Path, kind: str, target: str) -> None:
    path = saved(tmp_path, kind, np.dstack([PHOTO, ALPHA]))
    if kind == "png":
        write_png(path, np.dstack([PHOTO, ALPHA]), chunk(b"iCCP", b"P3\0\0" + zlib.compress(P3)))
    settings = DeliverySettings(format=target)  # type: ignore[arg-type]
    rendered = render(Original(path), images.load(path, SIZE).pixels, settings, PROVENANCE)
    pixels = deep_pixels(rendered).astype(int)
    assert np.abs(pixels[..., :3] - PHOTO).max() <= 1
    assert np.abs(pixels[..., 3] - ALPHA.astype(int)).max() <= 256, "alpha has eight bits"
    assert rendered.notes == (images.SHALLOW_ALPHA,)
    with Image.open(io.BytesIO(rendered.data)) as image:
        assert image.info.get("icc_profile") == (P3 if kind == "png" else None)
        assert image.mode == "RGBA"


def test_a_relight_has_no_bands(tmp_path: Path) -> None:
    path = saved(tmp_path, "tiff")
    seen = images.load(path, SIZE).pixels
    rendered = render(Original(path), np.rint(seen * 0.6).astype(np.uint8), DeliverySettings(), PROVENANCE)
    pixels = deep_pixels(rendered).astype(float)
    error = np.sqrt(((pixels - PHOTO * 0.6) ** 2).mean())
    assert error < 65535 * 10 ** (-48 / 20)
    assert len(np.unique(pixels)) > 10_000, "eight bits would leave 256 levels"


def test_a_tone_curve_is_followed_between_the_levels_of_eight_bits() -> None:
    ramp = np.tile(np.linspace(2000, 60000, 512).astype(np.uint16)[None, :, None], (64, 1, 3))
    noise = np.random.default_rng(1).normal(0, 2500, ramp.shape)
    photo = np.clip(ramp + noise, 0, 65535).astype(np.uint16)
    seen = images.resize((photo >> 8).astype(np.uint8), (256, 32))
    edit = np.rint(255 * (seen / 255) ** 1.6).astype(np.uint8)
    lifted = fullres.lift(edit, seen, photo).pixels
    assert lifted.dtype == np.uint16
    error = lifted / 65535 - (photo / 65535) ** 1.6
    assert np.sqrt((error**2).mean()) < 10 ** (-44 / 20)


def test_a_photo_on_its_side_is_turned_in_all_its_bits(tmp_path: Path) -> None:
    exif = struct.pack("<2sHIH", b"II", 42, 8, 1) + struct.pack("<HHIHHI", 0x0112, 3, 1, 6, 0, 0)
    path = write_png(tmp_path / "photo.png", PHOTO, chunk(b"eXIf", exif))
    upright = np.rot90(PHOTO, -1)
    rendered = render(Original(path), images.load(path, SIZE[::-1]).pixels, DeliverySettings(), PROVENANCE)
    assert np.abs(deep_pixels(rendered).astype(int) - upright).max() <= 1


@pytest.mark.parametrize("settings", [DeliverySettings(format="jpeg"), DeliverySettings(full_resolution="off")])
def test_eight_bits_are_said_where_the_file_has_no_more(tmp_path: Path, settings: DeliverySettings) -> None:
    path = saved(tmp_path, "tiff")
    rendered = render(Original(path), images.load(path, SIZE).pixels, settings, PROVENANCE)
    assert images.SHALLOW.format(16, 8) in rendered.notes
    assert images.SHALLOW_ALPHA not in rendered.notes, "said once"


def test_premultiplied_colour_is_reduced_and_said(tmp_path: Path) -> None:
    path = tmp_path / "photo.tif"
    opaque = np.dstack([PHOTO, np.full_like(ALPHA, 65535)])
    tifffile.imwrite(path, opaque, photometric="rgb", extrasamples=["assocalpha"])
    rendered = render(Original(path), images.load(path, SIZE).pixels, DeliverySettings(), PROVENANCE)
    assert tifffile.imread(io.BytesIO(rendered.data)).dtype == np.uint8
    assert rendered.notes == (images.SHALLOW.format(16, 8),)
