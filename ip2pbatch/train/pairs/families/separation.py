"""How far apart the families are: the median LPIPS between every two families' targets over some photos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ip2pbatch.measures.lpips import Lpips, to_tensor
from ip2pbatch.train.pairs.families import FAMILIES, target

FLOOR = 0.1


@dataclass(frozen=True, slots=True)
class Separation:
    """`median[i, j]` is the median LPIPS of names[i]'s and names[j]'s targets; `source[i]` that to the photo itself."""

    names: tuple[str, ...]
    median: NDArray[np.float32]
    source: NDArray[np.float32]

    def closest(self) -> list[tuple[float, str, str]]:
        """All pairs of families, the closest first."""
        rows, columns = np.triu_indices(len(self.names), 1)
        pairs = [(float(self.median[i, j]), self.names[i], self.names[j]) for i, j in zip(rows, columns, strict=True)]
        return sorted(pairs)


def separation(
    photos: Sequence[NDArray[np.uint8]], metric: Lpips, names: Sequence[str] = tuple(FAMILIES)
) -> Separation:
    """Every family's canonical target of every photo (rgb uint8, compared at the size they come in)."""
    between, away = [], []
    for photo in photos:
        pictures = [photo, *(target(FAMILIES[name], photo) for name in names)]
        distance = distances(embed(pictures, metric)).numpy()
        between.append(distance[1:, 1:])
        away.append(distance[0, 1:])
    return Separation(tuple(names), np.median(between, axis=0), np.median(away, axis=0))


@torch.inference_mode()
def embed(pictures: Sequence[NDArray[np.uint8]], metric: Lpips, batch: int = 8) -> torch.Tensor:
    """`Lpips.embed` of bytes of one size, in batches, on the CPU in the end: [n, d]."""
    device = metric.shift.device
    chunks = [list(pictures[i : i + batch]) for i in range(0, len(pictures), batch)]
    return torch.cat([metric.embed(to_tensor(chunk, device)).cpu() for chunk in chunks])


def distances(vectors: torch.Tensor, others: torch.Tensor | None = None) -> torch.Tensor:
    """Squared Euclidean distances, [n, m]: LPIPS of every vector to every other."""
    others = vectors if others is None else others
    squares = vectors.square().sum(1)[:, None] + others.square().sum(1)[None]
    return (squares - 2 * vectors @ others.T).clamp(min=0)
