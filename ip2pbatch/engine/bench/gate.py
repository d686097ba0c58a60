"""Equal pictures before speed: a contender whose pictures are not those of our float32 path is not timed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]

FLOORS = {"fp32": 50.0, "bf16": 40.0, "fp16": 40.0}
"""Decibels of PSNR to the float32 pictures, the worst of them, below which a precision's pictures are others."""

_EQUAL = 99.0  # what is said of equal pictures, whose PSNR is infinite


@dataclass(frozen=True, slots=True)
class Likeness:
    """Of two rows of pictures: largest difference in levels of 255, worst PSNR in dB, share of equal pixels."""

    largest: int
    psnr: float
    equal: float


def compare(reference: Sequence[Pixels], found: Sequence[Pixels]) -> Likeness:
    """How alike pictures uint8 [h, w, 3] are, in the order given. Raises ValueError where sizes or numbers differ."""
    pairs = list(zip(reference, found, strict=True))
    if not pairs or any(a.shape != b.shape for a, b in pairs):
        raise ValueError("the pictures to compare have other sizes, or there are none")
    differences = [np.abs(a.astype(np.int16) - b) for a, b in pairs]
    return Likeness(
        largest=max(int(difference.max()) for difference in differences),
        psnr=min(_psnr(difference) for difference in differences),
        equal=float(np.mean([(difference == 0).mean() for difference in differences])),
    )


def _psnr(difference: NDArray[np.int16]) -> float:
    error = float(np.mean(difference.astype(np.float64) ** 2))
    return _EQUAL if error == 0 else min(_EQUAL, float(10 * np.log10(255**2 / error)))
