"""Photos in and files out: orientation, colours, bit depths, damage, geometry, atomic writes."""

from __future__ import annotations

import errno
import io
import os
import random
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from diffusers.image_processor import VaeImageProcessor
from PIL import Image, ImageCms
from sklearn.datasets import load_sample_image

from ip2pbatch.disk import atomic
from ip2pbatch.errors import PhotoError, ResourceError
from ip2pbatch.pictures import colour, images
from ip2pbatch.pictures.sizing import SIZING

PHOTO = skimage.data.astronaut()[290:490, 100:348]
LOSSLESS = {"JPEG": {"quality": 100, "subsampling": 0}, "PNG": {}, "TIFF": {}, "WEBP": {"lossless": True}}
# How a camera held in each way stores an upright scene.
STORED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / max(float(((a.astype(float) - b) ** 2).mean()), 1e-9)))


def oriented(turn: int) -> tuple[Image.Image, Image.Exif]:
    exif = Image.Exif()
    exif[0x0112] = turn
    image = Image.fromarray(PHOTO)
    return (image.transpose(STORED[turn]) if turn in STORED else image), exif


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("turn", range(1, 9))
def test_every_orientation_is_upright_in_every_format(tmp_path: Path, kind: str, turn: int) -> None:
    image, exif = oriented(turn)
    path = tmp_path / f"photo.{kind.lower()}"
    image.save(path, kind, exif=exif, **LOSSLESS[kind])
    picture = images.load(path)
    assert picture.pixels.shape == PHOTO.shape
    assert psnr(picture.pixels, PHOTO) > (40 if kind == "JPEG" else 90)
    small = images.load(path, (120, 96))
    assert small.pixels.shape == (96, 120, 3)
    assert np.array_equal(small.pixels, images.seen(images.load(path, colours="own"), (120, 96)))


@pytest.mark.parametrize("turn", range(1, 9))
def test_a_thumbnail_is_the_photo_as_it_is_seen(tmp_path: Path, turn: int) -> None:
    """Of a JPEG by its own smaller scales, of others as they are loaded."""
    from ip2pbatch.plan.photo_digests import oriented_size

    scene = Image.fromarray(np.ascontiguousarray(np.tile(PHOTO, (4, 4, 1))))
    stored = scene.transpose(STORED[turn]) if turn in STORED else scene
    exif = Image.Exif()
    exif[0x0112] = turn
    for kind in ("jpeg", "png"):
        path = tmp_path / f"photo.{kind}"
        stored.save(path, exif=exif, quality=95)
        assert oriented_size(path) == scene.size
        small = images.thumbnail(path, (124, 100))
        assert small.shape == (100, 124, 3)
        assert psnr(small, images.load(path, (124, 100)).pixels) > 25


def test_a_png_may_hold_its_orientation_behind_the_pixels(tmp_path: Path) -> None:
    image, exif = oriented(6)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", exif=exif)
    data = buffer.getvalue()
    at = data.index(b"eXIf") - 4
    (length,) = struct.unpack(">I", data[at : at + 4])
    chunk = data[at : at + length + 12]
    path = tmp_path / "late.png"
    path.write_bytes(data[:at] + data[at + len(chunk) : -12] + chunk + data[-12:])
    assert np.array_equal(images.load(path).pixels, PHOTO)


def test_an_orientation_in_xmp_alone_does_not_turn_the_photo(tmp_path: Path) -> None:
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    xmp += b'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>'
    Image.fromarray(PHOTO).save(tmp_path / "a.jpg", xmp=xmp)
    assert images.load(tmp_path / "a.jpg").pixels.shape == PHOTO.shape


def shift(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """By how many pixels b lies beside a, by least squares on the gradient."""
    x, y = a.astype(float).mean(axis=2), b.astype(float).mean(axis=2)
    down, across = np.gradient(x)
    moved, *_ = np.linalg.lstsq(np.stack([-down.ravel(), -across.ravel()], 1), (y - x).ravel(), rcond=None)
    return float(moved[0]), float(moved[1])


@pytest.mark.parametrize("size", [(512, 344), (328, 216), (264, 184)])
def test_shrinking_and_enlarging_moves_nothing(size: tuple[int, int]) -> None:
    photo = load_sample_image("china.jpg")
    back = images.resize(images.resize(photo, size), (640, 427))
    smooth = images.resize(images.resize(photo, (80, 54)), (640, 427))
    softer = images.resize(images.resize(back, (80, 54)), (640, 427))
    for rows in (slice(8, 210), slice(210, -8)):
        for columns in (slice(8, 320), slice(320, -8)):
            assert max(map(abs, shift(smooth[rows, columns], softer[rows, columns]))) < 0.1
    moved = np.roll(smooth, 1, axis=1)  # the measure itself sees a pixel
    assert shift(smooth[8:-8, 8:-8], moved[8:-8, 8:-8])[1] == pytest.approx(1, abs=0.2)


def test_a_huge_photo_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 20_001, 10_000, 8, 2, 0, 0, 0))
    path = tmp_path / "bomb.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b""))
    with pytest.raises(PhotoError, match="20001 × 10000 pixels are more than 200 megapixels"):
        images.load(path)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_a_truncated_photo_is_refused_with_a_reason(tmp_path: Path, kind: str) -> None:
    buffer = io.BytesIO()
    Image.fromarray(PHOTO).save(buffer, kind, **LOSSLESS[kind])
    path = tmp_path / "cut"
    path.write_bytes(buffer.getvalue()[: len(buffer.getvalue()) * 6 // 10])
    with pytest.raises(PhotoError, match=r"^cut: the file is damaged or cut off \(.+\)$"):
        images.load(path)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_mutated_files_are_read_or_refused_and_nothing_else(tmp_path: Path, kind: str) -> None:
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 3
    options = {**LOSSLESS[kind], "exif": exif, "icc_profile": colour.adobe_rgb()}
    Image.fromarray(PHOTO[:40, :40]).save(buffer, kind, **options)
    rng, path = random.Random(kind), tmp_path / "mutant"
    refused = 0
    for _ in range(60):
        data = bytearray(buffer.getvalue())
        for _ in range(rng.randint(1, 12)):
            data[rng.randrange(12, len(data))] = rng.randrange(256)
        path.write_bytes(data)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's remarks about damage
            try:
                assert images.load(path).pixels.dtype == np.uint8
            except PhotoError:
                refused += 1
    assert refused > 5


@pytest.mark.parametrize("content", [b"", b"hello", b"<svg/>", b"%!PS-Adobe", b"GIF89a" + bytes(20), b"BM" + bytes(60)])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(content)
    with pytest.raises(PhotoError, match=r"is not a JPEG or another|damaged or cut off"):
        images.load(path)


def test_a_missing_photo_says_so(tmp_path: Path) -> None:
    with pytest.raises(PhotoError, match=r"gone\.jpg: cannot be opened"):
        images.load(tmp_path / "gone.jpg")


def saved(tmp_path: Path, image: Image.Image, kind: str = "png", **options: object) -> images.Picture:
    path = tmp_path / f"photo.{kind}"
    image.save(path, **options)
    return images.load(path, colours="own")


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA", "I;16"])
def test_modes_come_as_rgb_with_alpha_apart(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(PHOTO)
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    else:
        image = image.convert(mode)
    if mode in ("LA", "RGBA"):
        image.putalpha(Image.fromarray(np.tile(np.arange(248, dtype=np.uint8), (200, 1))))
    picture = saved(tmp_path, image)
    assert picture.pixels.shape == PHOTO.shape
    assert (picture.alpha is not None) == (mode in ("LA", "RGBA"))
    if picture.alpha is not None:
        assert np.array_equal(picture.alpha[7], np.arange(248))
    if mode in ("L", "LA", "I;16"):
        assert np.array_equal(picture.pixels[..., 1], np.asarray(Image.fromarray(PHOTO).convert("L")))
    assert (picture.deep is not None) == (mode == "I;16")
    assert (picture.grey is not None) == (mode in ("1", "L", "LA", "I;16"))


def test_an_opaque_alpha_is_no_alpha(tmp_path: Path) -> None:
    assert saved(tmp_path, Image.fromarray(PHOTO).convert("RGBA")).alpha is None


def test_palette_transparency_becomes_alpha(tmp_path: Path) -> None:
    image = Image.fromarray(PHOTO).quantize(16)
    picture = saved(tmp_path, image, transparency=0)
    assert picture.alpha is not None
    assert np.array_equal(picture.alpha == 0, np.asarray(image) == 0)


def test_sixteen_bit_colour_is_reduced_for_the_model_and_said(tmp_path: Path) -> None:
    deep = PHOTO.astype(">u2") * 257
    raw = b"".join(b"\0" + row.tobytes() for row in deep)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 248, 200, 16, 2, 0, 0, 0))
    path = tmp_path / "deep.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b""))
    picture = images.load(path)
    assert np.array_equal(picture.pixels, PHOTO)
    assert picture.notes == ("16 bits a channel, of which the model sees 8",)
    assert picture.deep is None


def test_floating_point_pixels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PhotoError, match="32-bit or floating-point"):
        saved(tmp_path, Image.fromarray(np.ones((20, 20), np.float32)), "tif")


def test_cmyk_comes_as_srgb(tmp_path: Path) -> None:
    picture = saved(tmp_path, Image.new("CMYK", (20, 10), (0, 255, 255, 0)), "jpg", quality=100)
    assert picture.pixels[5, 5, 0] > 250
    assert picture.pixels[5, 5, 1:].max() < 5
    assert picture.icc is None
    assert picture.notes == ("CMYK inks converted to sRGB",)


def test_only_the_first_page_is_used_and_said(tmp_path: Path) -> None:
    pages = [Image.fromarray(PHOTO), Image.new("RGB", (9, 9))]
    picture = saved(tmp_path, pages[0], "tif", save_all=True, append_images=pages[1:])
    assert np.array_equal(picture.pixels, PHOTO)
    assert picture.notes == ("only the first of several pictures in the file is used",)


SPACES = {
    "Adobe RGB": (((0.64, 0.33), (0.21, 0.71), (0.15, 0.06)), 563 / 256),
    "Display P3": (((0.68, 0.32), (0.265, 0.69), (0.15, 0.06)), 2.2),
    "ProPhoto": (((0.7347, 0.2653), (0.1596, 0.8404), (0.0366, 0.0001)), 1.8),
}


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("kind", ["jpg", "png", "tif", "webp"])
def test_wide_gamut_photos_are_srgb_for_the_model_and_themselves_for_delivery(
    tmp_path: Path, name: str, kind: str
) -> None:
    icc = colour.matrix_profile(name, *SPACES[name])
    wide = colour.from_srgb(PHOTO, icc)
    options = {**LOSSLESS[{"jpg": "JPEG", "png": "PNG", "tif": "TIFF", "webp": "WEBP"}[kind]], "icc_profile": icc}
    own = saved(tmp_path, Image.fromarray(wide), kind, **options)
    assert own.icc == icc
    assert psnr(own.pixels, wide) > 40
    assert psnr(wide, PHOTO) < 36, "without the profile the colours would be wrong"
    assert psnr(images.load(tmp_path / f"photo.{kind}").pixels, PHOTO) > 38


def test_adobe_rgb_matches_published_values() -> None:
    corners = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]]], np.uint8)
    expected = np.array([[[219, 0, 0], [144, 255, 60], [0, 0, 250], [255, 255, 255]]])
    assert np.abs(colour.from_srgb(corners, colour.adobe_rgb()).astype(int) - expected).max() <= 1


def test_adobe_rgb_that_is_only_declared_in_exif_is_understood(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0xA001] = 0xFFFF
    exif.get_ifd(0x8769)[0xA005] = {1: "R03"}
    wide = colour.from_srgb(PHOTO, colour.adobe_rgb())
    own = saved(tmp_path, Image.fromarray(wide), "jpg", exif=exif, **LOSSLESS["JPEG"])
    assert own.icc == colour.adobe_rgb()
    assert psnr(images.load(tmp_path / "photo.jpg").pixels, PHOTO) > 38


def test_an_srgb_profile_changes_nothing(tmp_path: Path) -> None:
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    path = tmp_path / "photo.png"
    Image.fromarray(PHOTO).save(path, icc_profile=icc)
    assert np.array_equal(images.load(path).pixels, PHOTO)
    assert images.load(path, colours="own").icc == icc


@pytest.mark.parametrize("icc", [b"no profile", ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()])
def test_a_profile_that_does_not_fit_is_ignored_and_said(tmp_path: Path, icc: bytes) -> None:
    picture = saved(tmp_path, Image.fromarray(PHOTO), icc_profile=icc)
    assert np.array_equal(picture.pixels, PHOTO)
    assert picture.icc is None
    assert "is ignored" in picture.notes[0]


def test_pngs_are_saved_without_loss(tmp_path: Path) -> None:
    images.save_png(PHOTO, tmp_path / "a.png")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "a.png")), PHOTO)


def test_writing_replaces_whole_files_and_leaves_nothing_beside(tmp_path: Path) -> None:
    atomic.write_atomic(tmp_path / "a", b"one")
    atomic.write_atomic(tmp_path / "a", b"two")
    atomic.write_atomic(tmp_path / "x" / "y" / "b", b"three", root=tmp_path)
    assert {p.name: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == {"a": b"two", "b": b"three"}


@pytest.mark.parametrize("by_descriptor", [True, False])
def test_a_full_disk_keeps_the_old_file_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by_descriptor: bool
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(atomic, "_BY_DESCRIPTOR", by_descriptor)
    atomic.write_atomic(tmp_path / "a", b"old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ResourceError, match="the disk is full") as caught:
        atomic.write_atomic(tmp_path / "a", b"new")
    assert "free some space" in str(caught.value.hint)
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [b"old"]


@pytest.mark.parametrize("by_descriptor", [True, False])
def test_nothing_is_written_over_a_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by_descriptor: bool) -> None:
    monkeypatch.setattr(atomic, "_BY_DESCRIPTOR", by_descriptor)
    original = tmp_path / "original"
    original.write_bytes(b"precious")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a").symlink_to(original)
    with pytest.raises(ResourceError, match="symbolic link"):
        atomic.write_atomic(tmp_path / "out" / "a", b"new")
    assert original.read_bytes() == b"precious"
    assert len(list((tmp_path / "out").iterdir())) == 1


def test_nothing_is_written_through_a_linked_folder_below_the_root(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "sub").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ResourceError):
        atomic.write_atomic(tmp_path / "out" / "sub" / "a", b"new", root=tmp_path / "out")
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_photo_of_a_new_run_is_sized_as_diffusers_sizes_it(tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    Image.fromarray(PHOTO).save(path)
    for size in ((120, 96), (PHOTO.shape[1] * 2 // 8 * 8, PHOTO.shape[0] * 2 // 8 * 8)):
        with Image.open(path) as photo:
            wanted = VaeImageProcessor().resize(photo, size[1], size[0])
        found = images.load(path, size, sizing=SIZING)
        assert np.array_equal(found.pixels, np.asarray(wanted))
        assert np.array_equal(found.pixels, images.seen(images.load(path, colours="own"), size, SIZING))
        assert not np.array_equal(found.pixels, images.load(path, size, sizing="bicubic").pixels)
