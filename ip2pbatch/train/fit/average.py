"""The moving average of the weights that learn: what a training makes in the end, and what is looked at meanwhile."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from diffusers.training_utils import EMAModel
from torch import nn


def weights_of(task: nn.Module) -> list[nn.Parameter]:
    """The weights that learn."""
    return [p for p in task.parameters() if p.requires_grad]


class Average:
    """Decay min(`decay`, warm-up), once a `step`: 1 − (1 + n)^−¾ where the warm-up is `power`, else InstructPix2Pix's
    (1 + n) / (10 + n)."""

    def __init__(self, task: nn.Module, decay: float, *, power: bool, foreach: bool) -> None:
        self.task, self._learns = task, [p.requires_grad for p in task.parameters()]
        self.ema = EMAModel(
            weights_of(task),
            decay=decay,
            use_ema_warmup=power,
            inv_gamma=1.0,
            power=0.75 if power else 2 / 3,
            foreach=foreach,
        )

    def step(self) -> None:
        """Move it towards the weights as they are."""
        self.ema.step(weights_of(self.task))

    def copy(self) -> None:
        """Leave it in the task for good."""
        self.ema.copy_to(weights_of(self.task))

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """It is in the task, which does not learn, for the length of a `with`."""
        self.ema.store(weights_of(self.task))
        self.copy()
        training = self.task.training
        self.task.eval()
        try:
            yield
        finally:
            self.ema.restore(weights_of(self.task))
            self.task.train(training)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        state: dict[str, Any] = self.ema.state_dict()
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Checkpoints of older versions have the frozen weights among the others."""
        shadows = state["shadow_params"]
        if len(shadows) == len(self._learns):
            shadows = [one for one, learns in zip(shadows, self._learns, strict=True) if learns]
        now = zip(shadows, weights_of(self.task), strict=True)
        self.ema.load_state_dict({**state, "shadow_params": [shadow.to(weight.device) for shadow, weight in now]})
