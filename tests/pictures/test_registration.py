"""What a model moved is laid on its photo again; what it did not is left to the bit."""

from __future__ import annotations

import numpy as np
import pytest
from moved_edits import EDITS, distance, moved_edits
from runs import many

from ip2pbatch.pictures import registration

TRIED = {256: many(8, 63), 512: many(2, 63)}  # by the long side; small ones are the harder ones


@pytest.mark.parametrize("long_side", TRIED)
@pytest.mark.parametrize("kind", EDITS)
def test_what_moved_is_found_to_a_quarter_of_a_pixel_or_left(kind: str, long_side: int) -> None:
    tried = TRIED[long_side]
    cases = [case for _, case in moved_edits(kind, tried, moved=True, long_side=long_side)]
    motions = [(case, registration.estimate(case.edited, case.seen)) for case in cases]
    found = [distance(motion, case) for case, motion in motions if motion is not None]
    assert max(found, default=0) <= 0.25
    if kind in ("recolour", "night"):
        assert len(found) >= 0.9 * tried


@pytest.mark.parametrize("long_side", TRIED)
@pytest.mark.parametrize("kind", EDITS)
def test_what_did_not_move_is_left_to_the_bit(kind: str, long_side: int) -> None:
    for name, case in moved_edits(kind, TRIED[long_side], moved=False, long_side=long_side):
        edited, motion = registration.register(case.edited, case.seen)
        assert motion is None, name
        assert edited is case.edited


def test_pictures_without_enough_to_compare_are_left() -> None:
    small = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    flat = np.full((256, 256, 3), 120, np.uint8)
    for seen in (small, flat):
        assert registration.register(np.roll(seen, 3, axis=1), seen)[1] is None
