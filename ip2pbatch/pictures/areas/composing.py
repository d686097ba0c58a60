"""What of a delivered file is the edit and what is the photo: regions of a chain's links, with their feathers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ip2pbatch.pictures.areas.coverage import Coverage, Found, share, unfound
from ip2pbatch.plan.edits import Region

Numbers = TypeVar("Numbers", bound=NDArray[Any])
_ROWS = 256


@dataclass(frozen=True, slots=True)
class Area:
    """All that a chain of edits has touched: each link's Region, and how far around it the link fades out.

    `found` gives the masks of what they seek.
    """

    parts: tuple[tuple[Region, float], ...]
    found: Found = field(default=unfound, compare=False)

    def share(self, size: tuple[int, int]) -> Coverage:
        """How much of the edit is in each pixel at (width, height) `size`: uint8 [h, w]. Raises PhotoError."""
        shares = [share(region, feather, size, self.found) for region, feather in self.parts]
        together: Coverage = np.maximum.reduce(shares)
        return together


def area_of(regions: Sequence[Region | None], feathers: Sequence[float], found: Found = unfound) -> Area | None:
    """Of the links of a chain up to the delivered one; None where one of them edits all of the photo."""
    if not feathers or None in regions:
        return None
    parts = zip(regions, feathers, strict=True)
    return Area(tuple((region, feather) for region, feather in parts if region is not None), found)


def composed(edit: Numbers, photo: Numbers, share: Coverage) -> Numbers:
    """`edit` where `share` is 255 and `photo` where it is 0, to the bit, and a mixture between: [h, w, 3], integers."""
    if share.all() and share.min() == 255:
        return edit
    out = photo.copy()
    for top in range(0, len(out), _ROWS):
        rows = slice(top, top + _ROWS)
        much = share[rows]
        if not much.any():
            continue
        weight = much[..., None] * np.float32(1 / 255)
        mixed = photo[rows] + weight * (edit[rows].astype(np.float32) - photo[rows])
        out[rows] = np.where(much[..., None] == 255, edit[rows], np.rint(mixed).astype(photo.dtype))
    return out
