"""The loss on pairs that are not trained on: of the averaged weights, with the same noise and timesteps every time.

What is drawn for a pair hangs on the seed and its prompt alone, so that two values differ by nothing but the weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from ip2pbatch.train.data.broken import LeftOut
from ip2pbatch.train.data.pair_sets import PairSet
from ip2pbatch.train.fit.edit_batches import Caches, EditBatches, Place, View
from ip2pbatch.train.fit.latents import Encoder, LatentCache
from ip2pbatch.train.fit.loop import Batch
from ip2pbatch.train.fit.objective import Dropout


class Validation(BaseModel):
    """How many pairs of the validation split (90 to 95 % of the prompts) are looked at, and every how many steps."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    pairs: int = Field(256, ge=0)  # 0: no validation
    every: int = Field(500, ge=0)  # 0: at the end alone


class HeldOutLoss:
    """Call it for the loss of a task on `count` held-out pairs; they are read and encoded when it is called first."""

    def __init__(self, pairs: PairSet, count: int, view: View, levels: int, batch: int) -> None:
        self.pairs, self.count, self.view, self.levels, self.batch = pairs, min(count, len(pairs)), view, levels, batch
        self._batches: Sequence[Batch] = ()

    def __call__(self, task: nn.Module, encoder: Encoder, left_out: LeftOut | None = None) -> float:
        """The mean loss over the pairs, nothing dropped: neither an instruction nor a photo."""
        self._batches = self._batches or self._load(encoder, left_out)
        training, total = task.training, 0.0
        task.eval()
        with torch.no_grad():
            for batch in self._batches:
                loss = task(**{name: value.to(encoder.device) for name, value in batch.items()})
                total += float(loss) * len(batch["timesteps"])
        task.train(training)
        return total / self.count

    def _load(self, encoder: Encoder, left_out: LeftOut | None) -> list[Batch]:
        caches, size = Caches(LatentCache(None, 0, 0, (0, 0, 0)), None), min(self.batch, self.count)
        batches = EditBatches(self.pairs, encoder, self.view, caches, Place(size), left_out=left_out)
        batches.dropout, batches.levels = Dropout(text=0, both=0, image=0), self.levels
        try:
            found = [batches(part) for part in range(math.ceil(self.count / size))]
        finally:
            batches.close()
        last = self.count - size * (len(found) - 1)
        return [*found[:-1], {name: value[:last] for name, value in found[-1].items()}]
