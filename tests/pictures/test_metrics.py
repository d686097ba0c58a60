"""The numbers beside a cell agree with what a person sees."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import skimage.data
from PIL import Image, ImageFilter, ImageOps
from skimage.metrics import structural_similarity
from sklearn.datasets import load_sample_image

from ip2pbatch.pictures import likeness

Pixels = np.ndarray


def sized(photo: Pixels) -> Pixels:
    return np.asarray(Image.fromarray(photo).resize((384, 256), Image.Resampling.LANCZOS))


PHOTOS = {
    "astronaut": sized(skimage.data.astronaut()),
    "chelsea": sized(skimage.data.chelsea()),
    "coffee": sized(skimage.data.coffee()),
    "rocket": sized(skimage.data.rocket()),
    "china": sized(load_sample_image("china.jpg")),
    "flower": sized(load_sample_image("flower.jpg")),
}
RNG = np.random.default_rng(5)


def pixels(values: Pixels) -> Pixels:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def grey(x: Pixels) -> Pixels:
    return np.asarray(ImageOps.grayscale(Image.fromarray(x)).convert("RGB"))


def pencil(x: Pixels) -> Pixels:
    plain = ImageOps.grayscale(Image.fromarray(x))
    soft = np.asarray(ImageOps.invert(plain).filter(ImageFilter.GaussianBlur(4))).astype(float)
    return np.repeat(pixels(np.asarray(plain) * 255.0 / np.maximum(255 - soft, 1))[..., None], 3, axis=2)


def poster(x: Pixels) -> Pixels:
    return np.asarray(ImageOps.posterize(Image.fromarray(x), 2))


def hat(x: Pixels) -> Pixels:
    edited = x.copy()
    edited[20:60, 150:210] = (200, 40, 40)
    return edited


FOLLOWED: dict[str, Callable[[Pixels], Pixels]] = {
    "night": lambda x: pixels((0.6 * grey(x) + 0.4 * x) * np.array([0.35, 0.4, 0.6])),
    "sunset": lambda x: pixels(x * np.array([1.1, 0.85, 0.65])),
    "sepia": lambda x: pixels(grey(x) * np.array([1.0, 0.86, 0.66])),
    "fog": lambda x: pixels(0.45 * x + 120),
    "negative": lambda x: 255 - x,
    "pencil": pencil,
    "poster": poster,
    "hat": hat,
}
LOST: dict[str, Callable[[Pixels], Pixels]] = {
    "noise": lambda x: pixels(RNG.normal(128, 50, x.shape)),
    "coloured clouds": lambda x: np.asarray(
        Image.fromarray(pixels(RNG.normal(128, 60, (12, 18, 3)))).resize((384, 256), Image.Resampling.BICUBIC)
    ),
    "black": np.zeros_like,
}
UNCHANGED: dict[str, Callable[[Pixels], Pixels]] = {
    "the same": lambda x: x,
    "an autoencoder": lambda x: pixels(
        np.asarray(Image.fromarray(x).filter(ImageFilter.GaussianBlur(0.7))) + RNG.normal(0, 5, x.shape)
    ),
    "a little lighter": lambda x: pixels(x * 1.02),
}


@pytest.mark.parametrize("edit", FOLLOWED)
@pytest.mark.parametrize("name", PHOTOS)
def test_an_edit_that_was_followed_is_not_marked(name: str, edit: str) -> None:
    assert likeness.verdict(likeness.compare(PHOTOS[name], FOLLOWED[edit](PHOTOS[name]))) is None


@pytest.mark.parametrize("edit", LOST)
@pytest.mark.parametrize("name", PHOTOS)
def test_a_lost_photo_is_marked(name: str, edit: str) -> None:
    assert likeness.verdict(likeness.compare(PHOTOS[name], LOST[edit](PHOTOS[name]))) == "lost the photo"


@pytest.mark.parametrize("name", ["astronaut", "chelsea", "china"])
def test_a_picture_that_guidance_burnt_out_is_marked(name: str) -> None:
    photo = Image.fromarray(PHOTOS[name])
    outline = np.asarray(photo.resize((72, 48), Image.Resampling.BOX).resize(photo.size, Image.Resampling.BICUBIC))
    found = likeness.compare(PHOTOS[name], pixels(128 + (128.0 - outline) * 8))
    assert found["ssim"] < 0 < 0.4 < found["structure"]
    assert likeness.verdict(found) == "lost the photo"


def test_every_other_photo_is_a_lost_photo() -> None:
    names = list(PHOTOS)
    for a, b in zip(names, names[1:] + names[:1], strict=True):
        assert likeness.verdict(likeness.compare(PHOTOS[a], PHOTOS[b])) == "lost the photo"


@pytest.mark.parametrize("edit", UNCHANGED)
@pytest.mark.parametrize("name", PHOTOS)
def test_an_edit_that_did_nothing_is_marked(name: str, edit: str) -> None:
    assert likeness.verdict(likeness.compare(PHOTOS[name], UNCHANGED[edit](PHOTOS[name]))) == "hardly changed"


def test_ssim_is_the_reference_implementation() -> None:
    a, b = PHOTOS["china"], FOLLOWED["fog"](PHOTOS["china"])
    luma = np.array([0.2126, 0.7152, 0.0722])
    expected = structural_similarity(
        a @ luma, b @ luma, data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    assert likeness.ssim(a, b) == pytest.approx(float(expected), abs=1e-4)


def test_the_ends_of_the_scales() -> None:
    photo = PHOTOS["coffee"]
    same = likeness.compare(photo, photo)
    assert same == {"l1": 0.0, "ssim": pytest.approx(1), "changed": 0.0, "structure": pytest.approx(1)}
    assert likeness.l1(np.zeros_like(photo), np.full_like(photo, 255)) == 1.0


def test_tiny_pictures_have_numbers() -> None:
    small = PHOTOS["coffee"][:6, :9]
    assert all(np.isfinite(value) for value in likeness.compare(small, 255 - small).values())
