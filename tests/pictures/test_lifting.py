"""What an edit adds has contours and detail of its own at the photo's size, and the photo around it stays as it was."""

from __future__ import annotations

import numpy as np
import pytest
import skimage.data
from lifted_edits import Case, figures
from sklearn.datasets import load_sample_image

from ip2pbatch.pictures import fullres, images
from ip2pbatch.pictures.lifting import edge_directed
from ip2pbatch.pictures.lifting.damping import undamped
from ip2pbatch.pictures.lifting.planes import gauss

Pixels = np.ndarray


def added_disc() -> Case:
    """A photo of which a disc is another photo, four times larger than what the model saw."""
    photo = np.ascontiguousarray(load_sample_image("china.jpg")[:384, :512])
    seen, other = images.resize(photo, (128, 96), "lanczos"), images.resize(skimage.data.coffee(), (128, 96))
    y, x = np.mgrid[:96, :128]
    disc = (np.hypot(y - 48, x - 64) < 30)[..., None]
    return Case("disc", photo, seen, np.where(disc, other, seen))


@pytest.fixture(scope="module")
def lifts() -> tuple[Pixels, Pixels]:
    """The first lift of it, and today's."""
    case = added_disc()
    first, second = (fullres.lift(case.edited, case.seen, case.photo, version=one).pixels for one in (0, 2))
    return first, second


def test_what_was_added_has_detail_and_no_grid(lifts: tuple[Pixels, Pixels]) -> None:
    before, after = (figures(added_disc(), lifted, lifts[0]) for lifted in lifts)
    assert before.detail is not None
    assert after.detail is not None
    assert after.detail > 2 * before.detail
    assert before.grid is not None
    assert after.grid is not None
    assert before.grid[0] > 1.3, "the measure sees a grid"
    assert after.grid[0] < 1.15


def test_around_it_the_photo_is_as_it_was(lifts: tuple[Pixels, Pixels]) -> None:
    found = figures(added_disc(), lifts[1], lifts[0])
    assert found.open is not None
    assert found.open >= 50
    assert found.same >= 0.9


def test_where_nothing_was_added_both_lifts_are_one() -> None:
    case = added_disc()
    one, other = (fullres.lift(case.seen, case.seen, case.photo, version=one).pixels for one in (0, 2))
    assert np.array_equal(one, other)


@pytest.mark.parametrize("rows", [30, 1000])
def test_strips_change_nothing_in_what_was_added(lifts: tuple[Pixels, Pixels], rows: int) -> None:
    case = added_disc()
    assert np.array_equal(fullres.lift(case.edited, case.seen, case.photo, rows=rows).pixels, lifts[1])


def test_a_slanting_edge_has_no_steps() -> None:
    y, x = np.mgrid[:64, :64].astype(np.float32)
    edge = np.repeat(np.where(x > 20 + y / 4, 200, 50).astype(np.float32)[None], 3, axis=0)
    directed = edge_directed.enlarged(edge, np.ones((1, 64, 64), np.float32), 4)[0]
    plain = np.asarray(images.resize(edge[0].astype(np.uint8), (256, 256)), np.float32)
    middle = slice(60, 196)
    off = []
    for picture in (plain, directed):
        crossing = np.array([np.interp(125, row, np.arange(256)) for row in np.maximum.accumulate(picture[middle], 1)])
        line = np.polyfit(np.arange(len(crossing)), crossing, 1)
        off.append(float(np.std(crossing - np.polyval(line, np.arange(len(crossing))))))
    assert off[1] < off[0] / 2


def test_what_a_decoder_damps_is_made_good_and_its_noise_is_not() -> None:
    """By a photo whose left half is full of detail, and whose right half has nothing but noise."""
    draw = np.random.default_rng(1)
    known, made = (gauss(draw.normal(128, 60, (3, 96, 192)).astype(np.float32), 0.6) for _ in range(2))
    known[:, :, 96:] = 128 + draw.normal(0, 0.3, (3, 96, 96))
    damped, back = gauss(made, 0.7), gauss(known, 0.7)
    mended = undamped(damped, known, back)

    def strength(planes: Pixels, part: slice) -> float:
        return float((planes - gauss(planes, 1.0))[:, :, part].std())

    left, right = slice(0, 64), slice(140, 192)
    assert strength(damped, left) < 0.5 * strength(made, left)
    assert 0.75 * strength(made, left) < strength(mended, left) < 1.1 * strength(made, left)
    assert strength(mended, right) < 1.05 * strength(damped, right)
    assert np.array_equal(undamped(damped, back, known)[:, :, left], damped[:, :, left])  # never made weaker
    strong = 128 + 4 * (damped - 128)  # has more than the photo as it is
    assert strength(undamped(strong, known, back), left) < 1.01 * strength(strong, left)
