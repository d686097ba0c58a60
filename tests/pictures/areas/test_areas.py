"""Regions as pixels: what is covered, how it grows and fades, and that the rest of a file is the photo to the bit."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from PIL import Image
from scipy.ndimage import distance_transform_edt

from ip2pbatch.errors import PhotoError
from ip2pbatch.pictures.areas.composing import Area, area_of, composed
from ip2pbatch.pictures.areas.coverage import coverage, faded
from ip2pbatch.pictures.deliver import DeliverySettings, render
from ip2pbatch.pictures.metadata import Provenance
from ip2pbatch.pictures.originals import Original
from ip2pbatch.plan.edits import Region, region_of
from ip2pbatch.plan.photo_digests import look

PHOTO = skimage.data.astronaut()[160:460, 30:430]
SIZE = (200, 152)
PROVENANCE = Provenance("e" * 32, "f" * 32, ("make it night",), 7.5, 1.5, 1, 20, "euler_a", SIZE, "tiny")


def box(left: float, top: float, right: float, bottom: float, **more: object) -> Region:
    return region_of({"polygons": [[(left, top), (right, top), (right, bottom), (left, bottom)]], **more})


def mask(path: Path, pixels: np.ndarray, **more: object) -> Region:
    Image.fromarray(pixels).save(path)
    return region_of({"mask": look(path).digest, **more}, str(path))


@pytest.mark.parametrize("size", [(64, 48), (2000, 1500)])
def test_a_box_covers_its_per_cents_and_a_whole_one_everything(size: tuple[int, int]) -> None:
    assert coverage(box(0, 0, 100, 100), size).min() == 255
    half = coverage(box(25, 0, 75, 50), size) > 127
    width, height = size
    assert abs(half.sum() - width * height / 4) <= 2 * (width + height)
    assert half[0, width // 2]
    assert not half[0, width // 4 - 2]
    assert not half[height // 2 + 2].any()


@pytest.mark.parametrize("size", [(80, 60), (1600, 1200)])
@pytest.mark.parametrize("grow", [5.0, -5.0, 12.0])
def test_it_grows_by_per_cents_of_the_short_side(size: tuple[int, int], grow: float) -> None:
    sharp, grown = (coverage(box(30, 30, 70, 70, grow=by), size) > 127 for by in (0.0, grow))
    by = grow / 100 * size[1]
    right = distance_transform_edt(~sharp) <= by if by > 0 else distance_transform_edt(sharp) > -by
    assert np.mean(grown != right) < 0.02
    inverted = coverage(box(30, 30, 70, 70, grow=grow, invert=True), size) > 127
    assert np.array_equal(inverted, ~grown)


@pytest.mark.parametrize("size", [(100, 100), (1500, 1000)])
def test_an_edit_fades_out_around_its_region_and_not_within(size: tuple[int, int]) -> None:
    area = coverage(box(0, 0, 50, 100), size)
    soft = faded(area, 10.0)
    edge, width = size[0] // 2, size[1] // 10
    row = soft[size[1] // 2].astype(int)
    assert (row[:edge] == 255).all()
    assert (np.diff(row) <= 0).all()
    assert abs(row[edge + width // 2] - 127) < 25
    assert not row[edge + width + 1 :].any()
    assert np.array_equal(faded(area, 0.0), area)


def test_a_mask_is_taken_at_any_size_and_nearly_white_is_white(tmp_path: Path) -> None:
    drawn = np.full((30, 40), 3, np.uint8)
    drawn[:, 20:] = 250
    region = mask(tmp_path / "m.png", drawn)
    assert coverage(region, (40, 30))[0].tolist() == [0] * 20 + [255] * 20
    large = coverage(region, (400, 300))
    assert not large[:, :190].any()
    assert large[:, 210:].min() == 255
    thin = np.zeros((300, 400), np.uint8)
    thin[150] = 255
    assert coverage(mask(tmp_path / "thin.png", thin), (40, 30)).max() > 0


def test_a_mask_that_changed_since_the_plan_is_refused(tmp_path: Path) -> None:
    region = mask(tmp_path / "m.png", np.zeros((30, 40), np.uint8))
    Image.new("L", (40, 30), 255).save(tmp_path / "m.png")
    with pytest.raises(PhotoError, match="has changed"):
        coverage(region, (40, 30))


def test_a_chain_delivers_what_any_of_its_links_touched() -> None:
    left, right = box(0, 0, 25, 100), box(75, 0, 100, 100)
    area = area_of([left, right], (0.0, 0.0))
    assert area is not None
    share = area.share((40, 10))
    assert share[0].tolist() == [255] * 10 + [0] * 20 + [255] * 10
    assert area_of([left, None], (0.0, 0.0)) is None
    assert area_of([None, None], ()) is None


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_what_is_composed_is_photo_edit_or_between(kind: type) -> None:
    choose = np.random.default_rng(3)
    edit, photo = (choose.integers(0, np.iinfo(kind).max, (300, 20, 3), kind, endpoint=True) for _ in range(2))
    share = np.repeat(np.array([0, 64, 255], np.uint8), 100)[:, None].repeat(20, axis=1)
    out = composed(edit, photo, share)
    assert out.dtype == kind
    assert np.array_equal(out[:100], photo[:100])
    assert np.array_equal(out[200:], edit[200:])
    between = photo[100:200] + 64 / 255 * (edit[100:200].astype(float) - photo[100:200])
    assert np.abs(out[100:200] - between).max() <= 0.51


def saved(path: Path, pixels: np.ndarray, **options: object) -> Original:
    Image.fromarray(pixels).save(path, **options)
    return Original(path)


@pytest.mark.parametrize("lifted", ["auto", "off"])
@pytest.mark.parametrize("kind", ["RGB", "L", "deep"])
def test_a_lossless_file_is_the_photo_outside_of_the_feather(tmp_path: Path, kind: str, lifted: str) -> None:
    pixels = PHOTO if kind == "RGB" else PHOTO[..., 1] if kind == "L" else PHOTO[..., 1].astype(np.uint16) * 257
    source = saved(tmp_path / "photo.png", pixels)
    edited = 255 - source.seen(SIZE)
    area = Area(((box(0, 0, 50, 100), 4.0),))
    settings = DeliverySettings(full_resolution=lifted)  # type: ignore[arg-type]
    whole, part, white = (
        np.asarray(Image.open(io.BytesIO(render(source, edited, settings, PROVENANCE, one).data)))
        for one in (None, area, Area(((box(0, 0, 100, 100), 4.0),)))
    )
    assert np.array_equal(white, whole)
    edge = part.shape[1] // 2
    fade = round(0.04 * min(part.shape[:2])) + 2
    photo = pixels if lifted == "auto" else source.seen(SIZE)
    if photo.ndim > part.ndim:
        photo = photo[..., 0]
    assert np.array_equal(part[:, edge + fade :], photo[:, edge + fade :])
    assert np.array_equal(part[:, : edge - 1], whole[:, : edge - 1])
    assert not np.array_equal(whole[:, edge + fade :], photo[:, edge + fade :])
