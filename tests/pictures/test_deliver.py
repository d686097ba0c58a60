"""The file the photographer gets: size, colours, alpha, format, name, and nobody's file harmed."""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import tifffile
from PIL import Image

from ip2pbatch.errors import PhotoError, ResourceError
from ip2pbatch.pictures import colour, containers, images
from ip2pbatch.pictures.deliver import DeliverySettings, Prepared, prepare, render
from ip2pbatch.pictures.metadata import Provenance
from ip2pbatch.pictures.originals import Original
from ip2pbatch.pictures.placing import Place
from ip2pbatch.pictures.sizing import SIZING

PHOTO = skimage.data.astronaut()[160:460, 30:430]
SIZE = (200, 152)
PROVENANCE = Provenance("e" * 32, "f" * 32, ("make it night",), 7.5, 1.5, 1, 20, "euler_a", SIZE, "tiny")
SAVE = {
    "jpeg": (".jpg", {"quality": 100, "subsampling": 0}),
    "png": (".png", {}),
    "tiff": (".tif", {}),
    "webp": (".webp", {"lossless": True}),
}
P3 = colour.matrix_profile("Display P3", ((0.68, 0.32), (0.265, 0.69), (0.15, 0.06)), 2.2)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / max(float(((a.astype(float) - b) ** 2).mean()), 1e-9)))


def saved(tmp_path: Path, kind: str = "png", pixels: np.ndarray = PHOTO, **options: object) -> Path:
    suffix, lossless = SAVE[kind]
    path = tmp_path / f"photo{suffix}"
    Image.fromarray(pixels).save(path, **{**lossless, **options})
    return path


def opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def darker(pixels: np.ndarray) -> np.ndarray:
    return (pixels * 0.6).astype(np.uint8)


@pytest.mark.parametrize("target", ["same", "jpeg", "png", "tiff", "webp"])
@pytest.mark.parametrize("kind", SAVE)
def test_a_photo_comes_back_at_its_size_in_the_format_asked_for(tmp_path: Path, kind: str, target: str) -> None:
    path = saved(tmp_path, kind)
    edited = darker(images.load(path, SIZE).pixels)
    rendered = render(Original(path), edited, DeliverySettings(format=target), PROVENANCE)
    image = opened(rendered.data)
    expected = kind if target == "same" else target
    assert (rendered.format, image.format) == (expected, expected.upper())
    assert image.size == (400, 300)
    assert psnr(np.asarray(image.convert("RGB")), darker(PHOTO)) > (48 if expected in ("png", "tiff") else 36)
    assert rendered.gate > 0.9


def test_jpegs_keep_all_their_colour_and_quality(tmp_path: Path) -> None:
    path = saved(tmp_path)
    identity = images.load(path, SIZE).pixels
    image = opened(render(Original(path), identity, DeliverySettings(format="jpeg"), PROVENANCE).data)
    assert (
        image.layer == [("R", 1, 1, 0), ("G", 1, 1, 1), ("B", 1, 1, 1)] or [c[1:3] for c in image.layer] == [(1, 1)] * 3
    )
    assert psnr(np.asarray(image), PHOTO) > 38
    smaller = render(Original(path), identity, DeliverySettings(format="jpeg", quality=60), PROVENANCE).data
    assert len(smaller) < len(render(Original(path), identity, DeliverySettings(format="jpeg"), PROVENANCE).data) * 0.6


@pytest.mark.parametrize("kind", SAVE)
@pytest.mark.parametrize("icc", [P3, colour.adobe_rgb()], ids=["P3", "Adobe RGB"])
def test_wide_gamut_comes_back_in_its_own_colours(tmp_path: Path, kind: str, icc: bytes) -> None:
    wide = PHOTO.copy()
    wide[100:200, 100:200] = (10, 250, 20)  # a green that sRGB does not have
    path = saved(tmp_path, kind, wide, icc_profile=icc)
    rendered = render(Original(path), images.load(path, SIZE).pixels, DeliverySettings(format="tiff"), PROVENANCE)
    image = opened(rendered.data)
    assert image.info["icc_profile"] == icc
    assert psnr(np.asarray(image), np.asarray(Image.open(path).convert("RGB"))) >= 50


def test_an_edit_of_a_wide_gamut_photo_has_the_colours_of_the_edit(tmp_path: Path) -> None:
    path = saved(tmp_path, pixels=colour.from_srgb(PHOTO, P3), icc_profile=P3)
    edited = darker(images.load(path, SIZE).pixels)
    (tmp_path / "out.png").write_bytes(render(Original(path), edited, DeliverySettings(), PROVENANCE).data)
    assert psnr(images.load(tmp_path / "out.png").pixels, darker(PHOTO)) > 40


def test_an_edit_that_gives_a_grey_photo_colours_comes_in_srgb(tmp_path: Path) -> None:
    path = tmp_path / "grey.png"
    Image.fromarray(PHOTO).convert("L").save(path)
    edited = (images.load(path, SIZE).pixels * [1, 0.8, 0.6]).astype(np.uint8)
    rendered = render(Original(path), edited, DeliverySettings(), PROVENANCE)
    assert opened(rendered.data).mode == "RGB"
    assert rendered.notes == ("grey converted to sRGB",)


@pytest.mark.parametrize("target", ["png", "tiff", "webp", "jpeg"])
def test_alpha_comes_back_where_the_format_has_it(tmp_path: Path, target: str) -> None:
    alpha = np.tile(np.linspace(0, 255, 400).astype(np.uint8), (300, 1))
    path = saved(tmp_path, pixels=np.dstack([PHOTO, alpha]))
    image = opened(
        render(Original(path), images.load(path, SIZE).pixels, DeliverySettings(format=target), PROVENANCE).data
    )
    if target == "jpeg":
        assert image.mode == "RGB"
        assert np.asarray(image)[:, :3].min() > 235, "flattened on white"
    else:
        assert image.mode == "RGBA"
        assert np.array_equal(np.asarray(image)[..., 3], alpha)


def test_without_full_resolution_the_models_picture_is_delivered(tmp_path: Path) -> None:
    path = saved(tmp_path, icc_profile=P3)
    edited = darker(images.load(path, SIZE).pixels)
    rendered = render(Original(path), edited, DeliverySettings(full_resolution="off"), PROVENANCE)
    (tmp_path / "out.png").write_bytes(rendered.data)
    picture = images.load(tmp_path / "out.png")
    assert picture.pixels.shape == (152, 200, 3)
    assert psnr(picture.pixels, edited) > 40
    assert opened(rendered.data).getexif().get_ifd(0x8769)[0xA002] == 200


def test_a_picture_too_large_for_its_format_is_refused(tmp_path: Path) -> None:
    wide = np.zeros((8, 16_500, 3), np.uint8)
    path = saved(tmp_path, pixels=wide)
    with pytest.raises(PhotoError, match="webp holds at most 16383"):
        render(Original(path), images.load(path, (1024, 8)).pixels, DeliverySettings(format="webp"), PROVENANCE)


def test_settings_have_a_digest_that_any_of_them_changes() -> None:
    settings = [
        DeliverySettings(), DeliverySettings(format="png"), DeliverySettings(quality=90),
        DeliverySettings(full_resolution="off"), DeliverySettings(gps="strip"), DeliverySettings(prompt=False),
        DeliverySettings(chroma="source"), DeliverySettings(dates="source"),
    ]  # fmt: skip
    assert len({s.digest for s in settings}) == len(settings)
    assert DeliverySettings().digest == DeliverySettings().digest


class Desk:
    """A photo, its edit, and an output folder."""

    def __init__(self, tmp_path: Path) -> None:
        self.source = saved(tmp_path)
        self.edited = darker(images.load(self.source, SIZE).pixels)
        self.out = tmp_path / "out"
        self.out.mkdir()

    def deliver(
        self, name: str = "a.png", policy: str = "unique", ours: str | None = None, dates: str = "now"
    ) -> Prepared:
        place, settings = Place(self.out, name, policy, ours), DeliverySettings(dates=dates)  # type: ignore[arg-type]
        ready = prepare(Original(self.source), self.edited, settings, PROVENANCE, place)
        if ready.file:
            ready.file.appear()
        return ready


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_a_file_is_written_in_its_folder_with_its_sha(desk: Desk) -> None:
    done = desk.deliver("day 1/photo_night.png")
    assert done.path == desk.out / "day 1" / "photo_night.png"
    assert done.sha256 == hashlib.sha256(done.path.read_bytes()).hexdigest()
    assert done.file
    assert [p.name for p in desk.out.rglob("*") if p.is_file()] == ["photo_night.png"]


def test_unique_leaves_a_strangers_file_and_takes_another_name(desk: Desk) -> None:
    (desk.out / "a.png").write_bytes(b"mine")
    (desk.out / "a_2.png").write_bytes(b"mine, too")
    assert desk.deliver().path.name == "a_3.png"
    assert (desk.out / "a.png").read_bytes() == b"mine"


def test_our_own_file_is_replaced_under_every_policy(desk: Desk) -> None:
    (desk.out / "a.png").write_bytes(b"mine")
    first = desk.deliver()
    for policy in ("unique", "overwrite"):
        again = desk.deliver(policy=policy, ours=first.sha256)
        assert again.path.name == ("a_2.png" if policy == "unique" else "a.png")
    ours = desk.deliver("b.png")
    for policy in ("skip", "error"):
        assert desk.deliver("b.png", policy, ours.sha256).file


def test_our_file_that_somebody_changed_is_theirs(desk: Desk) -> None:
    ours = desk.deliver()
    ours.path.write_bytes(b"retouched by hand")
    assert desk.deliver(ours=ours.sha256).path.name == "a_2.png"
    assert ours.path.read_bytes() == b"retouched by hand"


def test_skip_leaves_what_is_there(desk: Desk) -> None:
    (desk.out / "a.png").write_bytes(b"mine")
    done = desk.deliver(policy="skip")
    assert not done.file
    assert (desk.out / "a.png").read_bytes() == b"mine"
    assert desk.deliver("b.png", "skip").file


def test_error_refuses_and_overwrite_replaces(desk: Desk) -> None:
    (desk.out / "a.png").write_bytes(b"mine")
    with pytest.raises(PhotoError, match="exists"):
        desk.deliver(policy="error")
    assert (desk.out / "a.png").read_bytes() == b"mine"
    assert desk.deliver(policy="overwrite").file
    assert (desk.out / "a.png").read_bytes() != b"mine"


@pytest.mark.parametrize("policy", ["unique", "skip", "overwrite", "error"])
def test_the_photo_itself_is_never_written(desk: Desk, policy: str) -> None:
    before = desk.source.read_bytes()
    desk.out = desk.source.parent
    if policy == "unique":
        assert desk.deliver("photo.png", policy).path.name == "photo_2.png"
    else:
        with pytest.raises(PhotoError, match="the photo itself"):
            desk.deliver("photo.png", policy)
    assert desk.source.read_bytes() == before


@pytest.mark.parametrize("name", ["../a.png", "/tmp/a.png", "x/../../a.png", "", "a\0.png"])
def test_nothing_is_written_outside_the_output_folder(desk: Desk, name: str) -> None:
    with pytest.raises(PhotoError, match="leads outside"):
        desk.deliver(name)
    assert sorted(p.name for p in desk.out.parent.rglob("*")) == ["out", "photo.png"]


def test_a_linked_folder_or_file_in_the_output_is_not_followed(desk: Desk) -> None:
    elsewhere = desk.out.parent / "elsewhere"
    elsewhere.mkdir()
    (desk.out / "sub").symlink_to(elsewhere)
    (desk.out / "a.png").symlink_to(desk.source)
    before = desk.source.read_bytes()
    with pytest.raises(ResourceError):
        desk.deliver("sub/a.png", "overwrite")
    with pytest.raises((PhotoError, ResourceError)):
        desk.deliver("a.png", "overwrite")
    assert desk.source.read_bytes() == before
    assert list(elsewhere.iterdir()) == []


def test_a_prepared_file_has_no_name_before_it_appears_and_leaves_nothing_where_it_is_discarded(desk: Desk) -> None:
    ready = prepare(Original(desk.source), desk.edited, DeliverySettings(), PROVENANCE, Place(desk.out, "a.png"))
    assert ready.file is not None
    assert not ready.path.exists()
    ready.file.discard()
    assert list(desk.out.iterdir()) == []


def test_a_photo_that_is_gone_or_damaged_is_said(desk: Desk) -> None:
    desk.source.write_bytes(desk.source.read_bytes()[:5000])
    with pytest.raises(PhotoError, match="damaged or cut off"):
        desk.deliver()
    desk.source.unlink()
    with pytest.raises(PhotoError, match="cannot be opened"):
        desk.deliver()
    assert list(desk.out.iterdir()) == []


def test_a_picture_of_the_photo_s_own_size_is_delivered_to_the_bit(tmp_path: Path) -> None:
    path = saved(tmp_path)
    noise = np.random.default_rng(0).normal(0, 4, PHOTO.shape)  # as an autoencoder leaves it
    edited = np.clip(darker(PHOTO) + noise, 0, 255).astype(np.uint8)
    exact = render(Original(path, SIZING), edited, DeliverySettings(), PROVENANCE)
    assert np.array_equal(np.asarray(opened(exact.data)), edited)
    assert exact.gate is None
    earlier = render(Original(path), edited, DeliverySettings(), PROVENANCE)  # as runs from before do
    assert not np.array_equal(np.asarray(opened(earlier.data)), edited)
    assert earlier.gate is not None


def test_a_photo_of_sixteen_bits_keeps_them_at_the_model_s_size(tmp_path: Path) -> None:
    deep = PHOTO.astype(np.uint16) * 257 + np.random.default_rng(0).integers(0, 100, PHOTO.shape, np.uint16)
    path = tmp_path / "photo.tif"
    tifffile.imwrite(path, np.minimum(deep, 65535).astype(np.uint16), photometric="rgb")
    rendered = render(Original(path, SIZING), PHOTO, DeliverySettings(), PROVENANCE)
    (tmp_path / "out.tif").write_bytes(rendered.data)
    assert tifffile.imread(tmp_path / "out.tif").dtype == np.uint16
    assert rendered.gate is not None


@pytest.mark.parametrize(("sampling", "kept"), [(0, (1, 1)), (1, (2, 1)), (2, (2, 2))])
def test_colour_is_sampled_as_in_the_photo_where_that_is_asked_for(
    tmp_path: Path, sampling: int, kept: tuple[int, int]
) -> None:
    Image.fromarray(PHOTO).save(path := tmp_path / "photo.jpg", subsampling=sampling)
    edited = darker(images.load(path, SIZE).pixels)
    for chroma, expected in (("source", kept), ("full", (1, 1))):
        data = render(Original(path), edited, DeliverySettings(chroma=chroma), PROVENANCE).data
        (tmp_path / "edited.jpg").write_bytes(data)
        assert containers.read_blocks(tmp_path / "edited.jpg").chroma == expected


def test_a_file_has_the_photo_s_time_where_that_is_asked_for(desk: Desk) -> None:
    os.utime(desk.source, ns=(1_500_000_000_123_456_789, 1_400_000_000_123_456_789))
    done = desk.deliver(dates="source")
    assert done.path.stat().st_mtime_ns == desk.source.stat().st_mtime_ns
    again = desk.deliver("b.png")
    assert again.path.stat().st_mtime > 1_700_000_000
