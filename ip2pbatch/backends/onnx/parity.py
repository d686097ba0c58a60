"""Is an exported network still the one it was exported from? The measure and the thresholds of an export."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ip2pbatch.errors import ModelError

MAX_RELATIVE = 1e-3
"""The largest difference in float32, as a part of the range of PyTorch's output."""

MIN_PSNR = 35.0
"""Decibels in fp16, with the range of PyTorch's output as the peak."""


@dataclass(frozen=True, slots=True)
class Parity:
    """How far an output is from PyTorch's: the largest difference over its range, and the PSNR in dB."""

    max_relative: float
    psnr: float


def compare(expected: NDArray[np.float32], found: NDArray[np.float32]) -> Parity:
    """The Parity of two outputs; infinitely bad where shapes differ or `found` is not finite."""
    if expected.shape != found.shape or not np.isfinite(found).all():
        return Parity(math.inf, -math.inf)
    span = max(float(expected.max() - expected.min()), 1e-12)
    error = np.abs(found.astype(np.float64) - expected)
    rms = math.sqrt(float(np.mean(error**2)))
    return Parity(float(error.max()) / span, 20 * math.log10(span / max(rms, span * 1e-10)))


def worst(parities: Iterable[Parity]) -> Parity:
    """The worst of each figure."""
    all_of_them = list(parities)
    return Parity(max(one.max_relative for one in all_of_them), min(one.psnr for one in all_of_them))


def require(network: str, precision: str, parity: Parity) -> None:
    """Raises ModelError where a network at `precision` (fp32, fp16) is not what it was exported from."""
    if precision == "fp32" and not parity.max_relative <= MAX_RELATIVE:
        raise ModelError(
            f"the exported {network} differs from PyTorch's by {parity.max_relative:.2g} of its range; "
            f"{MAX_RELATIVE:g} is allowed",
            hint="nothing was written; try another --opset, or run this model with --backend torch",
        )
    if precision != "fp32" and not parity.psnr >= MIN_PSNR:
        raise ModelError(
            f"the exported {network} is within {parity.psnr:.1f} dB of PyTorch's in {precision}; "
            f"{MIN_PSNR:g} dB is asked for",
            hint="nothing was written; use --precision fp32, or run this model with --backend torch",
        )
