"""How much of an edit is delivered: light is mixed, 0 is the photo and 1 the edit, in every depth and colour space."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import tifffile
from PIL import Image, ImageCms

from ip2pbatch.pictures import colour, images, mixing
from ip2pbatch.pictures.deliver import DeliverySettings, render
from ip2pbatch.pictures.metadata import Provenance
from ip2pbatch.pictures.originals import Original

PHOTO = skimage.data.astronaut()[160:360, 30:330]
SIZE = (152, 104)
PROVENANCE = Provenance("e" * 32, "f" * 32, ("make it night",), 7.5, 1.5, 1, 20, "euler_a", SIZE, "tiny")
P3 = colour.matrix_profile("Display P3", ((0.68, 0.32), (0.265, 0.69), (0.15, 0.06)), 2.2)
SRGB_TABLE = colour.matrix_profile("sRGB", ((0.64, 0.33), (0.3, 0.6), (0.15, 0.06)), None)


def light(code: np.ndarray) -> np.ndarray:
    return np.where(code <= 0.04045, code / 12.92, ((code + 0.055) / 1.055) ** 2.4)


def code(value: np.ndarray) -> np.ndarray:
    return np.where(value <= 0.0031308, 12.92 * value, 1.055 * value ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
@pytest.mark.parametrize("strength", [0.01, 0.3, 0.6, 0.99])
def test_light_is_mixed_as_the_formula_says(depth: type, strength: float) -> None:
    draw, top = np.random.default_rng(0), np.iinfo(depth).max
    photo, edited = (draw.integers(0, top + 1, (60, 50, 3)).astype(depth) for _ in range(2))
    photo[:20] //= 40  # the dark, where a step of light is many levels
    edited[10:30] //= 40
    for icc, forth, back in (
        (None, light, code), (SRGB_TABLE, light, code),
        (P3, lambda x: x ** (563 / 256), lambda x: x ** (256 / 563)),
    ):  # fmt: skip
        mixed = mixing.mix(photo, edited, strength, icc)
        expected = back((1 - strength) * forth(photo / top) + strength * forth(edited / top)) * top
        assert mixed.dtype == depth
        assert np.abs(mixed - expected).max() <= (0.55 if depth == np.uint8 or icc is P3 else 16)
        assert np.array_equal(mixing.mix(photo, photo, strength, icc), photo), "what both have alike stays itself"


def test_a_profile_without_curves_is_mixed_as_srgb_and_shapes_that_do_not_fit_are_refused() -> None:
    photo, edited = np.full((2, 2, 3), 10, np.uint8), np.full((2, 2, 3), 200, np.uint8)
    lab = colour.lab_profile()
    assert np.array_equal(mixing.mix(photo, edited, 0.5, lab), mixing.mix(photo, edited, 0.5, None))
    with pytest.raises(ValueError, match="shapes do not fit"):
        mixing.mix(photo, edited[:1], 0.5, None)


def saved(tmp_path: Path, kind: str) -> Path:
    """A photo of each kind that goes another way through a delivery."""
    path = tmp_path / f"{kind}.{'tif' if '16' in kind else 'png'}"
    deep = PHOTO.astype(np.uint16) * 257 - np.random.default_rng(0).integers(0, 90, PHOTO.shape).astype(np.uint16) % 50
    alpha = np.tile(np.linspace(0, 255, PHOTO.shape[1]).astype(np.uint8), (PHOTO.shape[0], 1))
    if kind == "16 bits":
        tifffile.imwrite(path, deep, photometric="rgb")
    elif kind == "16 bits of grey":
        tifffile.imwrite(path, deep[..., 1], photometric="minisblack")
    else:
        pixels = {"alpha": np.dstack([PHOTO, alpha]), "grey": PHOTO[..., 1], "P3": PHOTO, "RGB": PHOTO}[kind]
        Image.fromarray(pixels).save(path, icc_profile=P3 if kind == "P3" else None)
    return path


KINDS = ["RGB", "P3", "alpha", "grey", "16 bits", "16 bits of grey"]


def delivered(source: Original, edited: np.ndarray, strength: float, **settings: object) -> np.ndarray:
    data = render(source, edited, DeliverySettings(strength=strength, **settings), PROVENANCE).data
    return tifffile.imread(io.BytesIO(data)) if data[:2] in (b"II", b"MM") else np.asarray(Image.open(io.BytesIO(data)))


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_of_an_edit_is_the_photo_to_the_bit_and_more_of_it_is_nearer_to_the_edit(
    tmp_path: Path, kind: str
) -> None:
    path = saved(tmp_path, kind)
    source, edited = Original(path), (images.load(path, SIZE).pixels * [0.7, 0.5, 0.3]).astype(np.uint8)
    original = tifffile.imread(path) if path.suffix == ".tif" else np.asarray(Image.open(path))
    assert np.array_equal(delivered(source, edited, 0.0), original)
    whole = delivered(source, edited, 1.0)
    shots = [delivered(source, edited, share) for share in (0.001, 0.3, 0.6, 0.999)]
    assert {shot.dtype for shot in shots} == {whole.dtype}
    distance = [np.abs(shot[..., :3].astype(float) - whole[..., :3]).mean() for shot in shots]
    assert distance == sorted(distance, reverse=True)
    assert distance[-1] < distance[0] / 200
    if kind == "alpha":
        assert all(np.array_equal(shot[..., 3], original[..., 3]) for shot in shots)


def test_a_grey_edit_of_a_grey_photo_stays_grey(tmp_path: Path) -> None:
    path = tmp_path / "grey.png"
    gamma = bytes(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    Image.fromarray(PHOTO[..., 1]).save(path, icc_profile=gamma if not gamma else None)
    edited = images.load(path, SIZE).pixels // 2
    for strength in (0.0, 0.5):
        assert delivered(Original(path), edited, strength).ndim == 2


@pytest.mark.parametrize("kind", ["RGB", "P3", "16 bits"])
def test_at_the_model_s_size_the_photo_at_that_size_is_mixed_in(tmp_path: Path, kind: str) -> None:
    path = saved(tmp_path, kind)
    source, edited = Original(path), images.load(path, SIZE).pixels // 2
    shown = delivered(source, edited, 0.0, full_resolution="off")
    assert np.array_equal(shown, source.seen(SIZE))
    half = delivered(source, edited, 0.5, full_resolution="off")
    assert np.all(half <= np.maximum(shown, delivered(source, edited, 1.0, full_resolution="off")))


def test_the_file_says_its_strength_and_a_whole_edit_says_none() -> None:
    assert "Strength" not in PROVENANCE.settings(prompt=True)
    assert "Strength: 0.6, Edit: " in replace(PROVENANCE, strength=0.6).settings(prompt=False)
    assert DeliverySettings(strength=1.0).digest == DeliverySettings().digest
    assert DeliverySettings(strength=0.6).digest != DeliverySettings().digest
