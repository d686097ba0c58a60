"""The row planner: the exact formula, with no row computed that is not needed."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ip2pbatch.plan.edits import Edit, Guidance, make_edit
from ip2pbatch.plan.rows import Row, asks_null, count_rows, fill, plan_rows


def edit(
    source: str = "photo-a",
    instruction: str = "make it winter",
    text: float = 7.5,
    image: float = 1.5,
    seed: int = 1,
    steps: int = 20,
    negative: str = "",
) -> Edit:
    guidance = Guidance(text, image)
    return make_edit(
        source, instruction, guidance, seed, steps=steps, sampler="euler_a", size=(64, 64), negative=negative
    )


def noise(edits: list[Edit], row: Row, step: int) -> float:
    """A stand-in for the network: any function of what goes into the row."""
    latent = edits[row.latent_of].seed if step == 0 else edits[row.latent_of].key
    image = None if row.image_of is None else (edits[row.image_of].source, edits[row.image_of].carry)
    return math.sin(hash((latent, image, row.text)) % 100_003)


def formula(edits: list[Edit], at: int, step: int) -> float:
    """The paper's form of the guidance, evaluated row by row."""
    e00, e10, e11 = (
        noise(edits, Row(at, image, text or None), step)
        for image, text in ((None, edits[at].negative), (at, edits[at].negative), (at, edits[at].instruction))
    )
    scale = edits[at].guidance
    return e00 + scale.image * (e10 - e00) + scale.text * (e11 - e10)


scales = st.one_of(st.sampled_from([0.0, 0.5, 1.0, 1.5, 7.5, -1.0]), st.floats(-20, 20, width=32))
edits_ = st.builds(
    edit,
    source=st.sampled_from(["photo-a", "photo-b"]),
    instruction=st.sampled_from(["make it winter", "make it night", ""]),
    text=scales,
    image=scales,
    seed=st.sampled_from([1, 2]),
    negative=st.sampled_from(["", "blurry", "make it night"]),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(edits_, min_size=1, max_size=8), st.sampled_from([0, 1, 7]))
def test_the_weighted_rows_are_the_guidance_formula(edits: list[Edit], step: int) -> None:
    plan = plan_rows(edits, step)
    for at in range(len(edits)):
        total = sum(weight * noise(edits, plan.rows[row], step) for row, weight in plan.weights[at])
        assert total == pytest.approx(formula(edits, at, step), abs=1e-4)


@settings(max_examples=100, deadline=None)
@given(st.lists(edits_, min_size=1, max_size=8), st.sampled_from([0, 1]))
def test_no_row_is_unused_or_asked_for_twice(edits: list[Edit], step: int) -> None:
    plan = plan_rows(edits, step)
    used = {row for pairs in plan.weights for row, _ in pairs}
    assert used == set(range(len(plan.rows)))
    assert len(set(plan.rows)) == len(plan.rows)
    assert all(weight != 0 for pairs in plan.weights for _, weight in pairs)


@pytest.mark.parametrize(
    ("text", "image", "rows"),
    [(7.5, 1.5, 3), (7.5, 1, 2), (1.5, 1.5, 2), (0, 1.5, 2), (1, 1, 1), (0, 1, 1), (0, 0, 1), (-2, 0.5, 3)],
)
def test_zero_coefficients_cost_nothing(text: float, image: float, rows: int) -> None:
    assert len(plan_rows([edit(text=text, image=image)], 3).rows) == rows


def test_a_grid_shares_its_first_step() -> None:
    grid = [edit(text=text, image=image) for text in (5, 7.5, 10) for image in (1.25, 1.5, 2)]
    assert len(plan_rows(grid, 0).rows) == 3
    assert len(plan_rows(grid, 1).rows) == 27


def test_photos_of_one_seed_share_the_unconditional_row_of_the_first_step() -> None:
    photos = [edit(source=name) for name in ("a", "b", "c")]
    assert len(plan_rows(photos, 0).rows) == 1 + 2 * 3
    other_seeds = [edit(source=name, seed=seed) for seed, name in enumerate(("a", "b", "c"))]
    assert len(plan_rows(other_seeds, 0).rows) == 3 * 3


def test_a_carried_latent_is_not_the_decoded_picture() -> None:
    links = [
        make_edit("parent", "make it night", Guidance(7.5, 1.5), 1, steps=4, sampler="ddim", size=(64, 64), carry=carry)
        for carry in ("latent", "pixels")
    ]
    assert len(plan_rows(links, 0).rows) == 1 + 2 * 2


def test_edits_of_different_negatives_share_what_they_have_alike() -> None:
    batch = [edit(), edit(negative="blurry"), edit(negative="blurry", text=3), edit(negative="dark", text=1, image=1)]
    assert len(plan_rows(batch, 0).rows) == 2 + 2 + 1, "the null texts' rows each, and the instruction's once"
    assert [len(plan_rows([one], 0).rows) for one in batch] == [3, 3, 3, 1]
    assert [asks_null(one.guidance) for one in batch] == [True, True, True, False]
    assert len(plan_rows([edit(instruction="blurry", negative="blurry")], 3).rows) == 2


def test_an_edit_sums_its_terms_in_one_order_in_every_batch() -> None:
    wanted = edit()
    alone = [weight for _, weight in plan_rows([wanted], 0).weights[0]]
    last = [weight for _, weight in plan_rows([edit("b"), edit("photo-a", "x"), wanted], 0).weights[2]]
    assert alone == last == [-0.5, -6.0, 7.5]


def test_weights_are_float32() -> None:
    weights = plan_rows([edit(text=0.1, image=0.3)], 1).weights[0]
    assert [weight for _, weight in weights] == pytest.approx([0.7, 0.2, 0.1], abs=1e-7)
    assert weights[2][1] == 0.10000000149011612


@pytest.mark.parametrize("rows", [1, 3, 4, 5, 12, 13])
def test_fill_makes_full_calls_and_keeps_the_order(rows: int) -> None:
    wanted = [Row(i, None, None) for i in range(rows)]
    calls = fill(wanted, 4)
    assert {len(call) for call in calls} == {4}
    assert len(calls) == math.ceil(rows / 4)
    assert [row for call in calls for row in call][:rows] == wanted


def test_fill_of_nothing_and_of_a_bad_bucket() -> None:
    assert fill([], 4) == []
    with pytest.raises(ValueError, match="at least one row"):
        fill([Row(0, None, None)], 0)


def test_count_rows_is_the_sum_over_the_steps() -> None:
    grid = [edit(text=text, image=image, steps=5) for text in (5, 7.5) for image in (1, 1.5)]
    assert count_rows(grid) == sum(len(plan_rows(grid, step).rows) for step in range(5))


def test_rows_counted_a_photo_at_a_time_are_those_counted_together() -> None:
    photos = [[edit(source=name, text=text, image=1.5) for text in (5, 7.5)] for name in "abc"]
    shared = set[object]()
    assert sum(count_rows(one, shared) for one in photos) == count_rows(one for some in photos for one in some)
