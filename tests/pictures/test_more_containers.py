"""Containers beyond the first four: what is read of each, and what is delivered in its stead."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import tifffile
from command import CommandLine
from PIL import Image

from ip2pbatch.errors import PhotoError
from ip2pbatch.pictures import images
from ip2pbatch.pictures.containers import read_blocks
from ip2pbatch.pictures.exif import Block
from ip2pbatch.plan.photo_digests import look

Pixels = np.ndarray


@pytest.fixture
def pixels() -> Pixels:
    y, x = np.mgrid[0:48, 0:64]
    return np.stack([4 * x, 5 * y, 128 + 100 * np.sin(x / 3)], -1).astype(np.uint8)


@pytest.fixture
def folder(tmp_path: Path, pixels: Pixels) -> Path:
    """One picture in every container that is only read, and under the names that JPEGs have."""
    folder = tmp_path / "photos"
    folder.mkdir()
    image = Image.fromarray(pixels)
    for name, kind in (("a.jfif", "JPEG"), ("b.jpe", "JPEG"), ("d.bmp", "BMP"), ("e.gif", "GIF"), ("d.jpg", "JPEG")):
        image.save(folder / name, kind)
    image.save(folder / "c.mpo", "MPO", save_all=True, append_images=[image])
    tifffile.imwrite(folder / "f.btf", pixels, bigtiff=True, photometric="rgb")
    tifffile.imwrite(folder / "g.tif", pixels.astype(np.uint16) * 257, bigtiff=True, photometric="rgb")
    return folder


def kind(path: Path) -> str | None:
    with Image.open(path) as image:
        return image.format


def test_a_folder_of_all_of_them_is_edited_and_told(command: CommandLine, folder: Path) -> None:
    out = folder.parent / "out"
    said = command("edit", folder, "-i", "make it winter", "-o", out, "--backend", "fake")
    assert said.code == 0, said
    found = {path.name: kind(path) for path in out.iterdir() if path.suffix in (".jpg", ".jfif", ".jpe", ".tif")}
    assert found == {
        "a_make-it-winter.jfif": "JPEG", "b_make-it-winter.jpe": "JPEG", "c_make-it-winter.jpg": "JPEG",
        "d_make-it-winter.jpg": "JPEG", "d_make-it-winter_bmp.jpg": "JPEG", "e_make-it-winter.jpg": "JPEG",
        "f_make-it-winter.tif": "TIFF", "g_make-it-winter.tif": "TIFF",
    }  # fmt: skip
    words = " ".join((said.out + said.err).split())
    for note in (
        "GIF is read only: delivered as JPEG",
        "BMP is read only: delivered as JPEG",
        "only the first of several",
    ):
        assert words.count(note) == 1
    with tifffile.TiffFile(out / "g_make-it-winter.tif") as deep:
        assert deep.pages[0].dtype == np.uint16
        assert not deep.is_bigtiff


def test_the_same_pixels_come_out_of_each(folder: Path, pixels: Pixels) -> None:
    for name in ("d.bmp", "f.btf", "g.tif"):
        assert np.array_equal(images.load(folder / name).pixels, pixels), name
    assert np.abs(images.load(folder / "e.gif").pixels.astype(int) - pixels).mean() < 12


def test_a_gif_keeps_its_comment_and_its_xmp(tmp_path: Path, pixels: Pixels) -> None:
    path = tmp_path / "a.gif"
    Image.fromarray(pixels).save(path, comment=b"by hand")
    tail = bytes((1, *range(255, -1, -1), 0))
    packet = b"!\xff\x0bXMP DataXMP<x:xmpmeta/>" + tail
    data = path.read_bytes()
    at = 13 + (3 << (data[10] & 7) + 1)
    path.write_bytes(data[:at] + packet + data[at:])
    blocks = read_blocks(path)
    assert (blocks.comment, blocks.xmp) == (b"by hand", b"<x:xmpmeta/>")
    assert images.load(path).pixels.shape == pixels.shape


def test_a_bmp_keeps_its_resolution(tmp_path: Path, pixels: Pixels) -> None:
    Image.fromarray(pixels).save(tmp_path / "a.bmp", dpi=(300, 150))
    assert read_blocks(tmp_path / "a.bmp").dpi == pytest.approx((300, 150), abs=0.1)


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_bigtiff_keeps_its_tags(tmp_path: Path, pixels: Pixels, order: str) -> None:
    path = tmp_path / "a.tif"
    tags = [(315, "s", 0, "Somebody", True), (700, "B", 8, b"<x:xmp/>", True), (33432, "s", 0, "(c)", True)]
    options = {"photometric": "rgb", "resolution": (300, 300), "extratags": tags}
    tifffile.imwrite(path, pixels, bigtiff=True, byteorder=order, **options)
    blocks = read_blocks(path)
    block = Block(blocks.exif)
    assert [block.text(block.get(tag)) for tag in (315, 33432)] == ["Somebody", "(c)"]
    assert blocks.xmp == b"<x:xmp/>"
    assert block.get(282) is not None
    assert block.get(273) is None


def test_a_bigtiff_brings_exif_and_gps_along(tmp_path: Path) -> None:
    def directory(at: int, *entries: tuple[int, int, int, bytes]) -> bytes:
        head = struct.pack("<Q", len(entries))
        return (
            head + b"".join(struct.pack("<HHQ", *entry[:3]) + entry[3].ljust(8, b"\0") for entry in entries) + bytes(8)
        )

    date = b"2019:08:07 06:05:04\0"
    root_at, exif_at, gps_at, date_at = 16, 16 + 56, 16 + 56 + 36, 16 + 56 + 72
    path = tmp_path / "a.tif"
    pointers = ((0x8769, 13, 1, struct.pack("<Q", exif_at)), (0x8825, 16, 1, struct.pack("<Q", gps_at)))
    path.write_bytes(
        struct.pack("<2sHHHQ", b"II", 43, 8, 0, root_at)
        + directory(root_at, *pointers)
        + directory(exif_at, (0x9003, 2, 20, struct.pack("<Q", date_at)))
        + directory(gps_at, (1, 2, 2, b"N\0"))
        + date
    )
    block = Block(read_blocks(path).exif)
    assert block.text(block.get_exif(0x9003)) == "2019:08:07 06:05:04"
    assert block.get(0x8825) is not None


@pytest.mark.parametrize("dtype", ["float32", "float16", "uint32"])
@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_without_a_white_are_refused_with_what_to_do(tmp_path: Path, dtype: str, channels: int) -> None:
    path = tmp_path / "a.tif"
    shape = (48, 64, 3) if channels == 3 else (48, 64)
    tifffile.imwrite(path, np.zeros(shape, dtype), photometric="rgb" if channels == 3 else "minisblack")
    with pytest.raises(PhotoError, match="white only their author knows; save it as 8 or 16 bits a channel"):
        look(path)


def test_a_name_that_a_photo_had_before_the_others_were_read_stays_its_own(command: CommandLine, folder: Path) -> None:
    recipe = folder.parent / "recipe.yaml"
    recipe.write_text("model: tiny\nphotos: photos\nedits: [make it winter]\noutput: {name: '{stem}', format: jpeg}\n")
    assert command("run", recipe, "--backend", "fake").code == 0
    files = {path.name for path in (folder.parent / "out").glob("*.jpg")}
    assert files == {"a.jpg", "b.jpg", "c.jpg", "d.jpg", "d_bmp.jpg", "e.jpg", "f.jpg", "g.jpg"}
