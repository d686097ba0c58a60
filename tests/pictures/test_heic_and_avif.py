"""HEIC and AVIF: turned, coloured and described by their boxes; of several pictures the main one; the rest is named."""

from __future__ import annotations

import importlib.util
import io
import json
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from command import CommandLine
from PIL import Image
from test_metadata import PROVENANCE, needs_exiftool

from ip2pbatch.errors import PhotoError
from ip2pbatch.pictures import colour, images
from ip2pbatch.pictures.codecs import boxes, coded_colour, heif
from ip2pbatch.pictures.codecs.decoded import SEVERAL
from ip2pbatch.pictures.containers import Blocks, Raster, encode, read_blocks
from ip2pbatch.pictures.deliver import DeliverySettings, Rendered, render
from ip2pbatch.pictures.exif import Block
from ip2pbatch.pictures.originals import Original
from ip2pbatch.plan.photo_digests import look

pillow_heif = pytest.importorskip("pillow_heif", reason="pillow-heif is not installed")

Pixels = np.ndarray
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"/>'


@pytest.fixture
def pixels() -> Pixels:
    y, x = np.mgrid[0:96, 0:128]
    return np.stack([2 * x, 2.6 * y, 128 + 100 * np.sin(x / 20)], -1).astype(np.uint8)


def exif(orientation: int = 1, maker: str = "Maker") -> bytes:
    block = Image.Exif()
    block[0x0112], block[0x010F] = orientation, maker
    return block.tobytes()


def heic(path: Path, pixels: Pixels, mode: str = "RGB", **options: object) -> Path:
    size = pixels.shape[1], pixels.shape[0]
    pillow_heif.from_bytes(mode=mode, size=size, data=pixels.tobytes()).save(
        path, **{"quality": 95, "chroma": 444, **options}
    )
    return path


def saved(kind: str, path: Path, pixels: Pixels, **options: object) -> Path:
    if kind == "heic":
        image = pillow_heif.from_pillow(Image.fromarray(pixels))
        image.save(path, quality=95, chroma=444, **options)
    else:
        Image.fromarray(pixels).save(path, "AVIF", quality=95, subsampling="4:4:4", **options)
    return path


def kind_of(path: Path) -> str | None:
    with Image.open(path) as image:
        return image.format


def near(found: Pixels, wanted: Pixels) -> bool:
    return found.shape == wanted.shape and bool(np.abs(found.astype(int) - wanted).mean() < 2)


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("kind", ["heic", "avif"])
def test_boxes_say_how_a_picture_is_turned(tmp_path: Path, pixels: Pixels, kind: str, turn: int) -> None:
    path = tmp_path / f"a.{kind}"
    if kind == "heic":
        with path.open("wb") as file:
            image = Image.fromarray(pixels)
            image.encoderinfo = {"quality": 95, "chroma": 444, "exif": exif(turn)}  # type: ignore[attr-defined]
            pillow_heif.as_plugin._save_heif(image, file, path.name)
    else:
        saved(kind, path, pixels, exif=exif(turn))
    upright = images._turn(pixels, turn)
    found = images.load(path)
    assert near(found.pixels, upright)
    assert look(path).size == (upright.shape[1], upright.shape[0])


@pytest.mark.parametrize("kind", ["heic", "avif"])
def test_metadata_comes_along_and_changes_no_digest(tmp_path: Path, pixels: Pixels, kind: str) -> None:
    path = saved(kind, tmp_path / f"a.{kind}", pixels, exif=exif(), xmp=XMP)
    blocks = read_blocks(path)
    block = Block(blocks.exif)
    assert block.text(block.get(0x010F)) == "Maker"
    assert blocks.xmp == XMP
    other = saved(kind, tmp_path / f"b.{kind}", pixels, exif=exif(maker="Somebody else's"), xmp=XMP + b"  ")
    brighter = saved(kind, tmp_path / f"c.{kind}", pixels + 8, exif=exif(), xmp=XMP)
    assert look(other).digest == look(path).digest != look(brighter).digest


@pytest.mark.parametrize("kind", ["heic", "avif"])
def test_a_profile_counts_and_so_do_colours_by_numbers(tmp_path: Path, pixels: Pixels, kind: str) -> None:
    profile = colour.adobe_rgb()
    if kind == "heic":
        image = Image.fromarray(pixels)
        image.info["icc_profile"] = profile
        pillow_heif.from_pillow(image).save(tmp_path / "icc.heic", quality=95, chroma=444)
    else:
        saved(kind, tmp_path / "icc.avif", pixels, icc_profile=profile)
    assert images.load(tmp_path / f"icc.{kind}", colours="own").icc == profile
    plain = saved(kind, tmp_path / f"a.{kind}", pixels)
    assert images.load(plain, colours="own").icc is None
    data = bytearray(plain.read_bytes())
    at = data.index(b"nclx") + 4
    data[at : at + 4] = struct.pack(">HH", 12, 13)
    (tmp_path / f"p3.{kind}").write_bytes(data)
    p3 = images.load(tmp_path / f"p3.{kind}", colours="own")
    assert p3.icc is not None
    known = colour.to_srgb(np.full((1, 1, 3), (200, 40, 40), np.uint8), p3.icc)[0, 0].astype(int)
    assert known == pytest.approx((218, 0, 26), abs=3)  # Display P3 (200, 40, 40) in sRGB
    assert look(tmp_path / f"p3.{kind}").digest != look(plain).digest


@pytest.mark.parametrize(("transfer", "name"), [(16, "PQ"), (18, "HLG")])
def test_hdr_is_brought_to_sdr_and_told(transfer: int, name: str) -> None:
    ramp = np.repeat(np.linspace(0, 65535, 512).astype(np.uint16)[None, :, None], 3, axis=2)
    shown, icc, notes = coded_colour.shown(ramp, 9, transfer)
    assert icc is not None
    assert notes == (f"HDR ({name}) brought to SDR: highlights are pressed together",)
    assert np.all(np.diff(shown[0, :, 0].astype(int)) >= 0)
    white = int(65535 * (0.5807 if transfer == 16 else 0.75))  # 203 candela a square metre
    one = coded_colour.shown(np.full((1, 1, 3), white, np.uint16), 9, transfer)[0]
    assert 0.85 < one.max() / 65535 < 0.95
    eight = coded_colour.shown((ramp >> 8).astype(np.uint8), 9, transfer)[0]
    assert eight.dtype == np.uint8


def test_ten_bits_are_kept_where_a_file_holds_them(tmp_path: Path, pixels: Pixels) -> None:
    path = heic(tmp_path / "a.heic", (pixels.astype(np.uint16) * 257), "RGB;16")
    found = images.load(path, colours="own")
    assert found.deep is not None
    assert (found.bits, found.deep.dtype) == (10, np.uint16)
    assert near(found.deep >> 8, pixels)
    white = heic(tmp_path / "w.heic", np.full((64, 64, 3), 65535, np.uint16), "RGB;16")
    assert images.load(white, colours="own").deep.min() > 65000  # type: ignore[union-attr]
    assert images.load(path, (64, 48)).notes == ("10 bits a channel, of which the model sees 8",)


def test_alpha_and_grey_of_a_heic(tmp_path: Path, pixels: Pixels) -> None:
    alpha = np.tile(np.linspace(0, 255, 128).astype(np.uint8), (96, 1))
    found = images.load(heic(tmp_path / "a.heic", np.dstack([pixels, alpha]), "RGBA"))
    assert found.alpha is not None
    assert near(found.alpha, alpha)
    grey = images.load(heic(tmp_path / "g.heic", np.ascontiguousarray(pixels[..., 0]), "L"))
    assert near(grey.pixels[..., 1], pixels[..., 0])


def test_of_several_pictures_the_main_one_is_taken_and_the_others_are_named(tmp_path: Path, pixels: Pixels) -> None:
    path = tmp_path / "a.heic"
    several = pillow_heif.from_pillow(Image.fromarray(255 - pixels))
    several.add_from_pillow(Image.fromarray(pixels))
    several.save(path, quality=95, chroma=444, primary_index=1)
    found = images.load(path)
    assert near(found.pixels, pixels)
    assert found.notes == ("only the main one of several pictures in the file is used",)


def test_however_many_pictures_a_sequence_has_the_note_is_one(tmp_path: Path, pixels: Pixels) -> None:
    image = Image.fromarray(pixels)
    for name, more in (("a.avif", 1), ("b.avif", 2), ("c.webp", 1), ("d.gif", 2), ("e.png", 1), ("f.tif", 2)):
        others = [Image.fromarray(pixels // (2 + number)) for number in range(more)]
        image.save(tmp_path / name, save_all=True, append_images=others, duration=100)
        assert images.load(tmp_path / name).notes == (SEVERAL,)
        assert read_blocks(tmp_path / name).left == ()


def test_what_is_left_out_is_named_by_its_kind() -> None:
    gain = boxes.Item(b"hvc1", properties=[(b"auxC", b"\0\0\0\0urn:com:apple:photo:2020:aux:hdrgainmap\0")])
    depth = boxes.Item(b"hvc1", properties=[(b"auxC", b"\0\0\0\0urn:mpeg:hevc:2015:auxid:2:depth\0")])
    items = {1: boxes.Item(b"grid"), 2: gain, 3: depth, 4: boxes.Item(b"hvc1"), 5: boxes.Item(b"Exif")}
    references = [(b"auxl", 2, 1), (b"auxl", 3, 1), (b"dimg", 1, 4)]
    container = boxes.Container(items, 1, references, b"", frozenset((b"moov",)))
    assert container.left == ("HDR gain map", "depth map", "video")
    assert container.notes() == ()


def test_planning_loads_no_decoder(tmp_path: Path, pixels: Pixels) -> None:
    heic(tmp_path / "a.heic", pixels)
    saved("avif", tmp_path / "b.avif", pixels)
    program = (
        "import sys; from pathlib import Path; from ip2pbatch.plan.photo_digests import look\n"
        f"print([look(Path({str(tmp_path)!r}) / name).size for name in ('a.heic', 'b.avif')])\n"
        "print([name for name in ('numpy', 'pi_heif', 'PIL.Image', 'PIL.AvifImagePlugin') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["[(128, 96), (128, 96)]", "[]"]


def test_a_heic_without_its_reader_says_what_to_install(
    tmp_path: Path, pixels: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = heic(tmp_path / "a.heic", pixels)
    monkeypatch.setattr("ip2pbatch.plan.formats.find_spec", lambda name: None)
    with pytest.raises(PhotoError, match="is HEIC, whose reader is not installed; pip install pi-heif"):
        look(path)
    with pytest.raises(PhotoError, match="whose reader is not installed"):
        images.load(path)


def test_a_folder_of_a_phones_files_without_what_writes_heic(
    command: CommandLine, tmp_path: Path, pixels: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr("ip2pbatch.plan.formats.find_spec", lambda name: None if name == "pillow_heif" else found(name))
    folder, out = tmp_path / "photos", tmp_path / "out"
    folder.mkdir()
    heic(folder / "a.heic", pixels)
    saved("avif", folder / "b.avif", pixels, exif=exif(6), xmp=XMP, icc_profile=colour.adobe_rgb())
    heic(folder / "renamed.jpg", pixels)
    (folder / "broken.heic").write_bytes((folder / "a.heic").read_bytes()[:300])
    said = command("edit", folder, "-i", "make it winter", "-o", out, "--backend", "fake")
    assert said.code == 3
    words = " ".join((said.out + said.err).split())
    assert "broken.heic: " in words
    assert "HEIC is written with an extra (pip install 'ip2pbatch[heic]'): delivered as JPEG (2 files)" in words
    refused = command(
        "edit", folder / "a.heic", "-i", "make it winter", "-o", out / "b", "--format", "heic", "--backend", "fake"
    )
    assert refused.code == 6
    assert "hint: pip install 'ip2pbatch[heic]'" in refused.err
    topics = {one["topic"]: one["value"] for one in json.loads(command("doctor", "--json").out)}
    assert topics["format HEIC"] == "read; delivered as JPEG; written after pip install 'ip2pbatch[heic]'"
    made = {path.name: kind_of(path) for path in out.iterdir() if path.suffix in (".jpg", ".avif")}
    assert made == {
        "a_make-it-winter.jpg": "JPEG", "b_make-it-winter.avif": "AVIF", "renamed_make-it-winter.jpg": "JPEG"
    }  # fmt: skip
    result = out / "b_make-it-winter.avif"
    blocks = read_blocks(result)
    assert Block(blocks.exif).text(Block(blocks.exif).get(0x010F)) == "Maker"
    assert b"compositeWithTrainedAlgorithmicMedia" in blocks.xmp
    picture = images.load(result, colours="own")
    assert (picture.pixels.shape, picture.icc) == ((128, 96, 3), colour.adobe_rgb())


def edited(path: Path, **settings: str) -> tuple[Rendered, Path]:
    """The edited file of a photo, and where it lies."""
    shown = images.load(path).pixels
    small = images.load(path, (shown.shape[1] // 2, shown.shape[0] // 2)).pixels
    made = render(Original(path), (small * 0.8).astype(np.uint8), DeliverySettings(**settings), PROVENANCE)
    target = path.with_name(f"made-{path.stem}.{made.format}")
    target.write_bytes(made.data)
    return made, target


@needs_exiftool
@pytest.mark.parametrize("turn", range(1, 9))
def test_a_heic_comes_back_as_one(tmp_path: Path, pixels: Pixels, turn: int) -> None:
    path = tmp_path / "a.heic"
    with path.open("wb") as file:
        image = Image.fromarray(pixels)
        image.encoderinfo = {"quality": 95, "exif": exif(turn), "icc_profile": colour.adobe_rgb()}  # type: ignore[attr-defined]
        pillow_heif.as_plugin._save_heif(image, file, path.name)
    made, target = edited(path)
    assert (made.format, made.notes) == ("heic", ())
    before, after = (images.load(one, colours="own") for one in (path, target))
    assert before.icc == after.icc == colour.adobe_rgb()
    assert np.abs(after.pixels - 0.8 * before.pixels).mean() < 2
    found = subprocess.run(["exiftool", "-j", "-G1", "-n", target], capture_output=True, check=True).stdout
    said = json.loads(found)[0]
    assert (said["IFD0:Make"], said["IFD0:Orientation"]) == ("Maker", 1)
    assert said["XMP-iptcExt:DigitalSourceType"].endswith("compositeWithTrainedAlgorithmicMedia")
    assert not [name for name in said if "Rotation" in name or "Warning" in name]


def test_bits_loss_alpha_and_chroma_of_a_heic_are_its_photo_s(tmp_path: Path, pixels: Pixels) -> None:
    deep = pixels.astype(np.uint16) * 257
    made, target = edited(heic(tmp_path / "ten.heic", deep, "RGB;16", bit_depth=10))
    assert (images.load(target, colours="own").bits, made.notes) == (10, ())
    made, _ = edited(heic(tmp_path / "twelve.heic", deep, "RGB;16", bit_depth=12))
    assert made.notes == ("12 bits a channel reduced to 10",)
    exact = heic(tmp_path / "exact.heic", pixels, quality=-1, matrix_coefficients=0)
    assert read_blocks(exact).lossless
    _, target = edited(exact)
    png = edited(exact, format="png")[1]
    assert np.array_equal(images.load(target).pixels, images.load(png).pixels)
    alpha = np.tile(np.linspace(0, 255, 128).astype(np.uint8), (96, 1))
    found = images.load(edited(heic(tmp_path / "alpha.heic", np.dstack([pixels, alpha]), "RGBA"))[1]).alpha
    assert found is not None
    assert np.abs(found.astype(int) - alpha).mean() < 2
    half = heic(tmp_path / "half.heic", pixels, chroma=420)
    assert [read_blocks(edited(half, chroma=one)[1]).chroma for one in ("full", "source")] == [(1, 1), (2, 2)]
    grey = heic(tmp_path / "grey.heic", np.ascontiguousarray(pixels[..., 1]), "L")
    assert images.load(edited(grey)[1]).grey == b""


def test_a_large_heic_is_tiled_because_readers_show_sixteen_megabytes_at_most(
    tmp_path: Path, pixels: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    wide = np.tile(pixels[:64], (1, 9, 1))
    data = encode(Raster(wide), Blocks(lossless=True), "heic", 95)
    assert boxes.read(io.BytesIO(data)).main.kind == b"grid"
    (tmp_path / "wide.heic").write_bytes(data)
    assert np.array_equal(images.load(tmp_path / "wide.heic").pixels, wide)
    monkeypatch.setattr(heif, "_MOST_ALPHA", 1000)
    with pytest.raises(PhotoError, match="16 MB only"):
        encode(Raster(pixels, pixels[..., 0]), Blocks(), "heic", 95)


def test_an_avif_bomb_is_refused_by_its_header(tmp_path: Path, pixels: Pixels) -> None:
    for kind in ("heic", "avif"):
        data = bytearray(saved(kind, tmp_path / f"a.{kind}", pixels).read_bytes())
        at = data.index(b"ispe") + 8
        data[at : at + 8] = struct.pack(">II", 60_000, 60_000)
        (tmp_path / f"bomb.{kind}").write_bytes(data)
        with pytest.raises(PhotoError, match="200 megapixels at most"):
            look(tmp_path / f"bomb.{kind}")
        with pytest.raises(PhotoError, match="megapixels"):
            images.load(tmp_path / f"bomb.{kind}")


def test_boxes_that_lead_nowhere_are_refused() -> None:
    for data in (b"", b"\0\0\0\x08ftyp", b"\0\0\0\x04ftypheic", b"\0\0\0\x0cmeta\0\0\0\0", b"\xff\xff\xff\xffmeta"):
        with pytest.raises((ValueError, struct.error, IndexError)):
            boxes.read(io.BytesIO(data))
