"""What a model moved is laid on its photo again; what it did not is left to the bit."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from moved_edits import EDITS, Moved, distance, moved_edits
from runs import many

from ip2pbatch.pictures import registration

TRIED = many(8, 63)


def cases(kind: str, *, moved: bool, long_side: int = 512) -> Iterator[tuple[str, Moved, registration.Motion | None]]:
    for name, case in moved_edits(kind, TRIED, moved=moved, long_side=long_side):
        yield name, case, registration.estimate(case.edited, case.seen)


@pytest.mark.parametrize("kind", EDITS)
def test_what_moved_is_found_to_a_quarter_of_a_pixel_or_left(kind: str) -> None:
    found = [distance(motion, case) for _, case, motion in cases(kind, moved=True) if motion is not None]
    assert max(found, default=0) <= 0.25
    if kind in ("recolour", "night"):
        assert len(found) >= 0.9 * TRIED


@pytest.mark.parametrize("kind", EDITS)
def test_what_did_not_move_is_left_to_the_bit(kind: str) -> None:
    for name, case in moved_edits(kind, TRIED, moved=False, long_side=512):
        edited, motion = registration.register(case.edited, case.seen)
        assert motion is None, name
        assert edited is case.edited


def test_pictures_without_enough_to_compare_are_left() -> None:
    small = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    flat = np.full((256, 256, 3), 120, np.uint8)
    for seen in (small, flat):
        assert registration.register(np.roll(seen, 3, axis=1), seen)[1] is None
