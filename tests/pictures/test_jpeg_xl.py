"""JPEG XL: size and orientation from its header, bare or in boxes; written with metadata in sRGB."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from command import CommandLine
from PIL import Image

from ip2pbatch.errors import PhotoError
from ip2pbatch.pictures import colour, images
from ip2pbatch.pictures.codecs import boxes, jxl
from ip2pbatch.pictures.containers import Blocks, Raster, encode, read_blocks
from ip2pbatch.pictures.exif import Block
from ip2pbatch.plan.photo_digests import look

pillow_jxl = pytest.importorskip("pillow_jxl", reason="pillow-jxl-plugin is not installed")


@pytest.fixture
def pixels() -> np.ndarray:
    y, x = np.mgrid[0:96, 0:130]
    return np.stack([1.9 * x, 2.6 * y, 128 + 100 * np.sin(x / 20)], -1).astype(np.uint8)


def exif(orientation: int = 1, maker: str = "Maker") -> bytes:
    block = Image.Exif()
    block[0x0112], block[0x010F] = orientation, maker
    return block.tobytes()


def write(path: Path, pixels: np.ndarray, **blocks: bytes) -> Path:
    path.write_bytes(encode(Raster(pixels), Blocks(**blocks), "jxl", 95))  # type: ignore[arg-type]
    return path


def from_jpeg(pixels: np.ndarray, turn: int) -> bytes:
    """A JPEG packed without loss, turned by what its EXIF says."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=95, subsampling=0, exif=exif(turn))
    encoder = pillow_jxl.Encoder(mode="RGB", lossless=True, quality=100, use_container=True)
    return bytes(encoder(buffer.getvalue(), pixels.shape[1], pixels.shape[0], jpeg_encode=True))


def without(data: bytes, *names: bytes) -> bytes:
    """The file without boxes of these names."""
    file, kept = io.BytesIO(data), b""
    for name, length in boxes.top(file):
        content = file.read(length)
        kept += b"" if name in names else struct.pack(">I4s", 8 + length, name) + content
    return kept


@pytest.mark.parametrize("size", [(8, 8), (256, 256), (130, 96), (640, 480), (1234, 77), (300, 200), (1600, 900)])
def test_sizes_are_read_of_the_header(tmp_path: Path, size: tuple[int, int]) -> None:
    bare = pillow_jxl.Encoder(mode="RGB", lossless=False, quality=50, effort=1)
    path = tmp_path / "a.jxl"
    path.write_bytes(bare(bytes(3 * size[0] * size[1]), *size, jpeg_encode=False))
    assert look(path).size == size
    with path.open("rb") as file:
        assert jxl.header(file).size == size


@pytest.mark.parametrize("turn", range(1, 9))
def test_a_packed_jpeg_comes_upright(tmp_path: Path, pixels: np.ndarray, turn: int) -> None:
    upright = images._turn(pixels, turn)
    data = from_jpeg(pixels, turn)
    for name, content in (("a.jxl", data), ("b.jxl", without(data, b"jbrd"))):
        (tmp_path / name).write_bytes(content)
        found = images.load(tmp_path / name)
        assert found.pixels.shape == upright.shape
        assert np.abs(found.pixels.astype(int) - upright).mean() < 4, name
        assert look(tmp_path / name).size == (upright.shape[1], upright.shape[0])


def test_what_is_written_is_read_again_with_its_metadata(tmp_path: Path, pixels: np.ndarray) -> None:
    path = write(tmp_path / "a.jxl", pixels, exif=exif()[6:], xmp=b"<x:xmp/>")
    blocks = read_blocks(path)
    block = Block(blocks.exif)
    assert (block.text(block.get(0x010F)), blocks.xmp) == ("Maker", b"<x:xmp/>")
    assert np.abs(images.load(path).pixels.astype(int) - pixels).mean() < 3
    other = write(tmp_path / "b.jxl", pixels, exif=exif(maker="Another")[6:], xmp=b"<x:y/>")
    assert look(other).digest == look(path).digest != look(write(tmp_path / "c.jxl", pixels + 9)).digest


@pytest.mark.parametrize("channels", ["L", "RGB", "RGBA"])
@pytest.mark.parametrize("lossless", [True, False])
def test_what_is_stored_without_loss_is_written_without(
    tmp_path: Path, pixels: np.ndarray, channels: str, lossless: bool
) -> None:
    Image.fromarray(pixels).convert(channels).save(
        path := tmp_path / "a.jxl", lossless=lossless, quality=100 if lossless else 80
    )
    blocks = read_blocks(path)
    assert blocks.lossless == lossless
    (tmp_path / "b.jxl").write_bytes(encode(Raster(pixels), blocks, "jxl", 80))
    written = np.asarray(Image.open(tmp_path / "b.jxl").convert("RGB"))
    assert np.array_equal(written, pixels) == lossless
    assert read_blocks(tmp_path / "b.jxl").lossless == lossless


def test_a_packed_jpeg_is_not_taken_for_a_picture_without_loss(tmp_path: Path, pixels: np.ndarray) -> None:
    (tmp_path / "a.jxl").write_bytes(from_jpeg(pixels, 1))
    assert not read_blocks(tmp_path / "a.jxl").lossless


def test_sixteen_bits_and_alpha(tmp_path: Path, pixels: np.ndarray) -> None:
    grey = pixels[..., 0].astype(np.uint16) * 257
    deep = pillow_jxl.Encoder(mode="I;16", lossless=True, quality=100)
    path = tmp_path / "deep.jxl"
    path.write_bytes(deep(grey.tobytes(), 130, 96, jpeg_encode=False))
    found = images.load(path, colours="own")
    assert found.deep is not None
    light = grey / 65_535  # the library calls numbers of 16 bits light itself
    code = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    assert np.abs(found.deep[..., 1] - code * 65_535).max() < 1
    alpha = np.tile(np.linspace(0, 255, 130).astype(np.uint8), (96, 1))
    path.write_bytes(encode(Raster(pixels, alpha), Blocks(), "jxl", 95))
    again = images.load(path)
    assert again.alpha is not None
    assert np.abs(again.alpha.astype(int) - alpha).mean() < 2


def test_a_folder_of_them(command: CommandLine, tmp_path: Path, pixels: np.ndarray) -> None:
    folder, out = tmp_path / "photos", tmp_path / "out"
    folder.mkdir()
    write(folder / "a.jxl", pixels)
    Image.fromarray(pixels).save(folder / "wide.png", icc_profile=colour.adobe_rgb())
    (folder / "torn.jxl").write_bytes((folder / "a.jxl").read_bytes()[:150])
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("model: tiny\nphotos: photos\nedits: [make it winter]\noutput: {name: '{stem}', format: jxl}\n")
    said = command("run", recipe, "--backend", "fake")
    assert said.code == 3
    words = " ".join((said.out + said.err).split())
    assert "colours converted to sRGB: JPEG XL is written without a profile" in words
    assert "torn.jxl: " in words
    assert b"compositeWithTrainedAlgorithmicMedia" in read_blocks(out / "a.jxl").xmp
    assert look(out / "wide.jxl").size == (130, 96)


def test_it_is_not_promised_where_it_cannot_be_written(
    command: CommandLine, tmp_path: Path, pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "photos").mkdir()
    Image.fromarray(pixels).save(tmp_path / "photos/a.png")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("model: tiny\nphotos: photos\nedits: [make it winter]\noutput: {format: jxl}\n")
    monkeypatch.setattr("ip2pbatch.plan.formats.find_spec", lambda name: None)
    said = command("run", recipe, "--backend", "fake")
    assert said.code == 6
    assert "pip install 'ip2pbatch[jxl]'" in said.err
    assert not [*(tmp_path / "out").glob("*.jxl")]


def test_a_bomb_and_a_cut_header_are_refused(tmp_path: Path) -> None:
    # small: 0; height and width by 30 bits each: 2³⁰ × 2³⁰
    bits = 0 | 3 << 1 | ((1 << 30) - 1) << 3 | 0 << 33 | 3 << 36 | ((1 << 30) - 1) << 38
    (tmp_path / "bomb.jxl").write_bytes(b"\xff\x0a" + bits.to_bytes(12, "little") + bytes(40))
    (tmp_path / "cut.jxl").write_bytes(b"\xff\x0a\x03")
    for name, why in (("bomb.jxl", "200 megapixels at most"), ("cut.jxl", "its header is cut")):
        with pytest.raises(PhotoError, match=why):
            look(tmp_path / name)
        with pytest.raises(PhotoError):
            images.load(tmp_path / name)
