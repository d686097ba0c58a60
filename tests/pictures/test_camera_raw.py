"""Camera raw: developed with the camera's white balance to 16 bits, told from a TIFF, and never the end of a run."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
import tifffile
from camera_raw import write_dng
from command import CommandLine
from PIL import Image

from ip2pbatch.pictures import images
from ip2pbatch.pictures.codecs import raw
from ip2pbatch.pictures.containers import read_blocks
from ip2pbatch.pictures.exif import Block
from ip2pbatch.plan.formats import kind_of
from ip2pbatch.plan.photo_digests import look

pytest.importorskip("rawpy", reason="rawpy is not installed")


@pytest.fixture
def pixels() -> np.ndarray:
    y, x = np.mgrid[0:96, 0:128]
    return np.stack([2 * x, 2.6 * y, 128 + 100 * np.sin(x / 20)], -1).astype(np.uint8)


@pytest.mark.parametrize("turn", [1, 3, 6, 8])
def test_a_raw_is_developed_upright_in_16_bits(tmp_path: Path, pixels: np.ndarray, turn: int) -> None:
    path = write_dng(tmp_path / "a.dng", pixels, turn, neutral=(0.5, 1, 0.7))
    found = images.load(path, colours="own")
    upright = images._turn(pixels, turn)
    assert found.deep is not None
    assert found.pixels.shape == found.deep.shape == upright.shape
    assert look(path).size == (upright.shape[1], upright.shape[0])
    inner = (slice(8, -8), slice(8, -8))
    assert np.abs(found.pixels[inner].astype(int) - upright[inner]).mean() < 8  # brightened a little, as LibRaw does
    assert (found.icc, found.format) == (None, "raw")


def test_half_of_it_is_developed_where_that_is_enough(tmp_path: Path, pixels: np.ndarray) -> None:
    path = write_dng(tmp_path / "a.dng", pixels)
    with path.open("rb") as file:
        assert raw.develop(file, (64, 48)).pixels.shape == (48, 64, 3)
        assert raw.develop(file, (96, 72)).pixels.shape == (96, 128, 3)
    whole, half = images.load(path), images.load(path, (48, 36))
    shrunk = images.resize(whole.pixels, (48, 36))
    assert np.abs(half.pixels[2:-2, 2:-2].astype(int) - shrunk[2:-2, 2:-2]).mean() < 4


def test_a_camera_is_told_from_a_tiff_by_more_than_its_head(tmp_path: Path, pixels: np.ndarray) -> None:
    write_dng(tmp_path / "a.dng", pixels)
    tifffile.imwrite(tmp_path / "b.dng", pixels, photometric="rgb", metadata=None)
    (tmp_path / "c.tif").write_bytes((tmp_path / "a.dng").read_bytes())
    (tmp_path / "d.rw2").write_bytes(b"IIU\0" + bytes(60))
    (tmp_path / "e.nef").write_bytes(b"II*\0\xff\xff\0\0")
    found = {}
    for path in sorted(tmp_path.iterdir()):
        with path.open("rb") as file:
            kind = kind_of(file, path.suffix)
            assert kind is not None
            assert file.tell() == 0
            found[path.name] = kind.name
    assert found == {"a.dng": "raw", "b.dng": "tiff", "c.tif": "tiff", "d.rw2": "raw", "e.nef": "tiff"}


def test_metadata_comes_along_without_what_describes_a_mosaic(tmp_path: Path, pixels: np.ndarray) -> None:
    block = Block(read_blocks(write_dng(tmp_path / "a.dng", pixels)).exif)
    texts = [block.text(block.get(tag)) for tag in (271, 33432, 50708)]
    assert texts == ["Maker", "Copyright holder", "Maker Model One"]
    assert not any(block.get(tag) for tag in (50706, 50721, 33422, 273))


def plain_tiff(*entries: tuple[int, bytes]) -> bytes:
    """A TIFF of one directory with ASCII values of at most four bytes."""
    rows = b"".join(struct.pack("<HHI", tag, 2, len(text)) + text.ljust(4, b"\0") for tag, text in entries)
    return struct.pack("<2sHIH", b"II", 42, 8, len(entries)) + rows + bytes(4)


def box(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(content), name) + content


def test_metadata_of_raws_that_are_no_tiffs(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x010F] = "Fuji"
    preview = io.BytesIO()
    Image.new("RGB", (16, 16)).save(preview, "JPEG", exif=exif)
    fuji = b"FUJIFILMCCD-RAW ".ljust(84, b"\0") + struct.pack(">II", 92, len(preview.getvalue())) + preview.getvalue()
    (tmp_path / "a.raf").write_bytes(fuji)
    block = Block(read_blocks(tmp_path / "a.raf").exif)
    assert block.text(block.get(0x010F)) == "Fuji"
    parts = ((b"CMT1", (0x010F, b"Can\0")), (b"CMT2", (0xA434, b"Len\0")), (b"CMT4", (1, b"N\0")))
    boxes = b"".join(box(name, plain_tiff(entry)) for name, entry in parts)
    canon = box(b"ftyp", b"crx \0\0\0\1crx isom") + box(b"moov", box(b"uuid", bytes(16) + boxes))
    (tmp_path / "a.cr3").write_bytes(canon)
    block = Block(read_blocks(tmp_path / "a.cr3").exif)
    assert (block.text(block.get(0x010F)), block.text(block.get_exif(0xA434))) == ("Can", "Len")
    assert block.get(0x8825) is not None


def test_a_folder_of_raws(command: CommandLine, tmp_path: Path, pixels: np.ndarray) -> None:
    folder, out = tmp_path / "photos", tmp_path / "out"
    folder.mkdir()
    write_dng(folder / "a.dng", pixels)
    (folder / "b.nef").write_bytes((folder / "a.dng").read_bytes()[:600])
    said = command("edit", folder, "-i", "make it winter", "-o", out, "--backend", "fake")
    assert said.code == 3
    words = " ".join((said.out + said.err).split())
    assert "camera raw is read only: delivered as JPEG" in words
    assert "b.nef: " in words
    with Image.open(out / "a_make-it-winter.jpg") as image:
        assert (image.format, image.size) == ("JPEG", (128, 96))
        assert image.getexif()[0x8298] == "Copyright holder"


def test_a_raw_comes_as_a_tiff_of_16_bits_where_that_is_asked_for(
    command: CommandLine, tmp_path: Path, pixels: np.ndarray
) -> None:
    folder, recipe = tmp_path / "photos", tmp_path / "recipe.yaml"
    folder.mkdir()
    write_dng(folder / "a.dng", pixels)
    tifffile.imwrite(folder / "no-raw.dng", pixels, photometric="rgb", metadata=None)
    start = "model: tiny\nphotos: photos\nedits: [make it winter]\noutput: {name: '{stem}', "
    recipe.write_text(start + "raw: tiff16, folder: deep}\n")
    assert command("run", recipe, "--backend", "fake").code == 0
    for name in ("a.tif", "no-raw.tif"):
        assert look(tmp_path / "deep" / name).size == (128, 96)
    assert tifffile.imread(tmp_path / "deep/a.tif").dtype == np.uint16
    recipe.write_text(start + "folder: plain}\n")
    assert command("run", recipe, "--backend", "fake").code == 0
    for name in ("a.jpg", "no-raw.jpg"):
        with Image.open(tmp_path / "plain" / name) as image:
            assert image.format == "JPEG"


def test_without_its_extra_a_raw_says_what_to_install(
    command: CommandLine, tmp_path: Path, pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "photos").mkdir()
    write_dng(tmp_path / "photos/a.dng", pixels)
    monkeypatch.setattr("ip2pbatch.plan.formats.find_spec", lambda name: None)
    said = command("edit", tmp_path / "photos", "-i", "make it winter", "-o", tmp_path / "out", "--backend", "fake")
    assert said.code == 3
    assert "pip install 'ip2pbatch[raw]'" in " ".join(said.err.split()) + " ".join(said.out.split())
