"""Confidence intervals of means by the percentile bootstrap: the samples are drawn again, with replacement."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A mean and the ends of its interval."""

    mean: float
    low: float
    high: float


def intervals(values: Floats, resamples: int = 1000, level: float = 0.95, seed: int = 0) -> list[Interval]:
    """One Interval a column of `values` `[n, columns]`; the columns of a row are drawn together, as one sample."""
    count = len(values)
    rng = np.random.default_rng(seed)
    means = np.empty((resamples, values.shape[1]))
    for number in range(resamples):
        # How often each sample is drawn says as much as which ones are, and needs no copy of the rows.
        weights = np.bincount(rng.integers(count, size=count), minlength=count)
        means[number] = weights @ values / count
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return [Interval(*map(float, row)) for row in zip(values.mean(axis=0), low, high, strict=True)]
