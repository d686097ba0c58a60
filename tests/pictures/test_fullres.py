"""The lift to full size on real photos: what an edit kept comes back, what it replaced does not."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
import skimage.data
from PIL import Image, ImageFilter
from scipy.ndimage import distance_transform_edt
from sklearn.datasets import load_sample_image

from ip2pbatch.pictures import fullres, images

Pixels = np.ndarray
PHOTOS: dict[str, Callable[[], Pixels]] = {
    "astronaut": skimage.data.astronaut,
    "coffee": skimage.data.coffee,
    "chelsea": skimage.data.chelsea,
    "rocket": skimage.data.rocket,
    "china": lambda: load_sample_image("china.jpg"),
    "flower": lambda: load_sample_image("flower.jpg"),
}
LUMA = np.array([0.2126, 0.7152, 0.0722])


def photo(name: str) -> tuple[Pixels, Pixels]:
    """A photo, and what a model would see of it at half its size."""
    full = PHOTOS[name]()
    size = (full.shape[1] // 16 * 8, full.shape[0] // 16 * 8)
    return full, images.resize(full, size)


def pixels(values: Pixels) -> Pixels:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def psnr(a: Pixels, b: Pixels, where: Pixels | None = None) -> float:
    error = (a.astype(float) - b) ** 2
    return float(10 * np.log10(255**2 / max(float((error if where is None else error[where]).mean()), 1e-9)))


def like_an_autoencoder(edit: Pixels) -> Pixels:
    """What a decoder does to an edit: its finest detail blurred (σ = 0.7), 2 % noise."""
    blurred = np.asarray(Image.fromarray(edit).filter(ImageFilter.GaussianBlur(0.7)))
    return pixels(blurred + np.random.default_rng(0).normal(0, 5.1, edit.shape))


def evening(x: Pixels) -> Pixels:
    light = np.linspace(0.6, 1.05, x.shape[1])[None, :, None]
    return pixels(x * light * np.array([1.0, 0.9, 0.75]) + 6)


def darker(x: Pixels) -> Pixels:
    return pixels(x * 0.7 + 8)


def curve(x: Pixels) -> Pixels:
    return pixels(255 * (x / 255.0) ** 1.6)


def monochrome(x: Pixels) -> Pixels:
    return pixels(np.repeat((x @ LUMA)[..., None], 3, axis=2))


def sepia(x: Pixels) -> Pixels:
    return pixels((x @ LUMA)[..., None] * np.array([1.0, 0.86, 0.66]) + 10)


def negative(x: Pixels) -> Pixels:
    return 255 - x


@pytest.mark.parametrize("name", PHOTOS)
def test_an_identity_edit_gives_the_photo_back(name: str) -> None:
    full, seen = photo(name)
    lifted = fullres.lift(seen, seen, full)
    assert psnr(lifted.pixels, full) >= 50
    assert lifted.gate > 0.99


@pytest.mark.parametrize("relight", [evening, darker, curve, monochrome, sepia, negative])
@pytest.mark.parametrize("name", PHOTOS)
def test_a_relight_is_the_relight_done_at_full_size(name: str, relight: Callable[[Pixels], Pixels]) -> None:
    full, seen = photo(name)
    lifted = fullres.lift(relight(seen), seen, full)
    assert psnr(lifted.pixels, relight(full)) >= 48
    assert lifted.gate > 0.9


@pytest.mark.parametrize("name", PHOTOS)
def test_the_gate_opens_for_an_edit_that_went_through_an_autoencoder(name: str) -> None:
    full, seen = photo(name)
    edit = like_an_autoencoder(evening(seen))
    lifted = fullres.lift(edit, seen, full)
    enlarged = images.resize(edit, full.shape[1::-1])
    assert psnr(lifted.pixels, evening(full)) > psnr(enlarged, evening(full)) + 6
    assert lifted.gate > 0.85


def detail(x: Pixels) -> Pixels:
    luma = Image.fromarray((x @ LUMA).astype(np.float32))
    small = luma.resize((x.shape[1] // 4, x.shape[0] // 4), Image.Resampling.BOX)
    return np.asarray(luma) - np.asarray(small.resize(luma.size, Image.Resampling.BICUBIC))


def ellipse(shape: tuple[int, ...], scale: float = 1.0) -> Pixels:
    y, x = np.mgrid[0 : shape[0], 0 : shape[1]] + 0.5
    return ((y / shape[0] - 0.5) / 0.28) ** 2 + ((x / shape[1] - 0.5) / 0.25) ** 2 < scale**2


def object_from_another_photo(seen: Pixels) -> Pixels:
    return images.resize(skimage.data.coffee(), seen.shape[1::-1])


def plain_wall(seen: Pixels) -> Pixels:
    return np.broadcast_to(np.array([90, 140, 200], np.uint8), seen.shape)


@pytest.mark.parametrize("noisy", [False, True])
@pytest.mark.parametrize("replacement", [object_from_another_photo, plain_wall])
@pytest.mark.parametrize("name", ["astronaut", "chelsea", "china", "flower"])
def test_a_replaced_object_leaves_no_ghost(name: str, replacement: Callable[[Pixels], Pixels], noisy: bool) -> None:
    full, seen = photo(name)
    edit = np.where(ellipse(seen.shape)[..., None], replacement(seen), seen)
    lifted = fullres.lift(like_an_autoencoder(edit) if noisy else edit, seen, full)
    inside, outside = ellipse(full.shape, 0.95), ~ellipse(full.shape, 1.08)
    ghost = np.corrcoef(detail(full)[inside], detail(lifted.pixels)[inside])[0, 1]
    assert abs(ghost) <= 0.1
    naive = images.resize(edit, full.shape[1::-1]).astype(float) + full - images.resize(seen, full.shape[1::-1])
    assert abs(np.corrcoef(detail(full)[inside], detail(naive)[inside])[0, 1]) > 0.3, "the measure sees a ghost"
    if not noisy:
        assert psnr(lifted.pixels, full, outside) >= 50


@pytest.mark.parametrize("name", ["astronaut", "chelsea", "china", "flower"])
def test_the_photo_is_sharp_up_to_the_edge_of_what_was_replaced(name: str) -> None:
    full, seen = photo(name)
    edit = np.where(ellipse(seen.shape)[..., None], plain_wall(seen), seen)
    lifted = fullres.lift(edit, seen, full).pixels
    distance = distance_transform_edt(~ellipse(full.shape)) / 2  # in pixels of the model
    assert psnr(lifted, full, (distance > 2) & (distance <= 3)) >= 40
    assert psnr(lifted, full, distance > 3) >= 60


def mosaic(x: Pixels) -> Pixels:
    height, width = x.shape[:2]
    tiles = Image.fromarray(x).resize((width // 10, height // 10), Image.Resampling.BOX)
    return np.asarray(tiles.resize((width, height), Image.Resampling.NEAREST))


@pytest.mark.parametrize("name", ["chelsea", "china", "astronaut"])
def test_a_repainted_photo_keeps_its_new_texture(name: str) -> None:
    full, seen = photo(name)
    edit = mosaic(seen)
    lifted = fullres.lift(edit, seen, full)
    assert lifted.gate < 0.15
    added = detail(lifted.pixels) - detail(images.resize(edit, full.shape[1::-1]))
    assert abs((added * detail(full)).sum() / (detail(full) ** 2).sum()) < 0.05


def test_black_and_white_stays_without_colour() -> None:
    full, seen = photo("coffee")
    lifted = fullres.lift(monochrome(seen), seen, full).pixels.astype(int)
    assert np.percentile(np.ptp(lifted, axis=2), 99) <= 4


@pytest.mark.parametrize("size", [(160, 104), (320, 208), (480, 312)])
def test_the_height_of_the_strips_changes_nothing(size: tuple[int, int]) -> None:
    full = PHOTOS["china"]()[:208, :320]
    seen = images.resize(full, size)
    edit = like_an_autoencoder(evening(seen))
    whole = fullres.lift(edit, seen, full, rows=10_000)
    for rows in (1, 7, 64):
        assert np.array_equal(fullres.lift(edit, seen, full, rows=rows).pixels, whole.pixels)


def test_a_photo_smaller_than_the_model_is_lifted_down() -> None:
    full = PHOTOS["flower"]()[:208, :320]
    seen = images.resize(full, (640, 416))
    assert psnr(fullres.lift(evening(seen), seen, full).pixels, evening(full)) >= 45


def test_memory_grows_with_width_not_with_megapixels() -> None:
    full = np.tile(PHOTOS["china"](), (6, 4, 1))
    seen = images.resize(full, (512, 512))
    edit = darker(seen)
    tracemalloc.start()
    lifted = fullres.lift(edit, seen, full)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    planes, strip = 10 * 4 * 512 * full.shape[1], 40 * 4 * 64 * full.shape[1]
    assert peak < lifted.pixels.nbytes + 3 * planes + strip + 150e6
    # The same sum at 61 megapixels and a model size of 768 × 512:
    assert 3 * 10 * 4 * 512 * 9504 + 40 * 4 * 64 * 9504 + 150e6 < 2e9


@pytest.mark.parametrize("shape", [(8, 8, 3), (9, 17, 3), (64, 8, 3)])
def test_tiny_pictures_work(shape: tuple[int, int, int]) -> None:
    seen = np.random.default_rng(1).integers(0, 255, shape, dtype=np.uint8)
    full = images.resize(seen, (shape[1] * 3, shape[0] * 3))
    assert psnr(fullres.lift(seen, seen, full).pixels, full) >= 50


def test_flat_pictures_work() -> None:
    grey = np.full((64, 64, 3), 128, np.uint8)
    lifted = fullres.lift(np.full_like(grey, 90), grey, np.full((256, 256, 3), 128, np.uint8))
    assert np.abs(lifted.pixels.astype(int) - 90).max() <= 1


def test_shapes_that_do_not_fit_are_refused() -> None:
    full, seen = photo("chelsea")
    with pytest.raises(ValueError, match="do not fit"):
        fullres.lift(seen[:-8], seen, full)
