"""Confidence intervals of means by the percentile bootstrap: the samples are drawn again, with replacement."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Item = TypeVar("Item")


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


def of_groups(
    groups: Sequence[Sequence[Item]],
    statistics: Callable[[Sequence[Item]], Sequence[float]],
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> list[Interval]:
    """One Interval a statistic of all items, which stands as its `mean`. Whole groups are drawn again: items of one,
    such as the edits of a photo, are not independent.
    """
    rng = np.random.default_rng(seed)
    found = np.array([
        statistics(list(chain.from_iterable(groups[one] for one in rng.integers(len(groups), size=len(groups)))))
        for _ in range(resamples)
    ])  # fmt: skip
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2], axis=0)
    own = statistics(list(chain.from_iterable(groups)))
    return [Interval(*map(float, row)) for row in zip(own, low, high, strict=True)]
