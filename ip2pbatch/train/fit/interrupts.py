"""When a training does more than its next step: by steps, by the clock, and because a signal asks it to end.

Processes have clocks of their own and get signals at other moments, so what one of them sees is told to all with the
loss, and all act on it after the same step.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from accelerate import Accelerator
from PIL import Image

from ip2pbatch.errors import TERMINATED, StoppedError
from ip2pbatch.run.stop import Stop

UNTIL = "this step is done and its checkpoint is written"


@dataclass
class Every:
    """Due every so many steps, and so many minutes after the last time; 0 of either is never."""

    steps: int = 0
    minutes: float = 0.0
    last: float = field(default_factory=lambda: time.monotonic())

    @property
    def overdue(self) -> bool:
        """Whether the minutes have passed, by this process's clock."""
        return self.minutes > 0 and time.monotonic() - self.last >= 60 * self.minutes

    def due(self, done: int, overdue: bool) -> bool:
        """Whether it is time after `done` steps, `overdue` being what all agreed on; if so, the clock starts anew."""
        found = overdue or (self.steps > 0 and done % self.steps == 0)
        if found:
            self.last = time.monotonic()
        return found


@dataclass(frozen=True)
class Watch:
    """What the main process does with the averaged weights now and then: a picture or figures that it gives are shown.

    What `kept` writes belongs to its step: it is done before the step's checkpoint, so that no kill passes over it.
    """

    every: Every
    look: Callable[[int], Image.Image | Mapping[str, float] | None]
    kept: bool = False


def agree(accelerator: Accelerator, loss: torch.Tensor, seen: Sequence[bool]) -> tuple[float, list[bool]]:
    """The mean loss over all processes, and of each thing whether any of them has seen it."""
    flags = torch.tensor(seen, dtype=loss.dtype, device=loss.device)
    mean, *flags = accelerator.reduce(torch.cat([loss.view(1), flags]), "mean").tolist()
    return mean, [flag > 0 for flag in flags]


def stopped(stop: Stop, done: int, steps: int) -> StoppedError:
    """The end that a signal asked for, of this process or of another one."""
    said = f"the checkpoint of step {done:,} of {steps:,} is written; run again to go on"
    return StoppedError(said, stop.exit_code or TERMINATED)
