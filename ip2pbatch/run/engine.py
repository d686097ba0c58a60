"""The seam between making a run exist and how a picture is edited: what goes into an engine and what comes out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from ip2pbatch.plan.edits import Edit
from ip2pbatch.plan.limits import Limits


@dataclass(frozen=True, slots=True)
class Source:
    """What an Edit starts from: pixels uint8 [h, w, 3] sRGB at the Edit's size, or, where there is one, a latent
    float32 [c, h, w]; its pixels then only say what it looks like.
    """

    pixels: NDArray[np.uint8] | None = None
    latent: NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """What an engine returns for one Edit: image uint8 [h, w, 3], its latent float32 [c, h, w] where it has one."""

    image: NDArray[np.uint8] | None
    latent: NDArray[np.float32] | None
    state: Literal["done", "nan", "flagged"]
    detail: str = ""


Pending = Callable[[], list[Result]]
"""Waits for what an engine has begun: one Result an Edit, in order. Raises OutOfMemory."""


class OutOfMemory(Exception):  # noqa: N818 (a condition that execute answers, not an error a person sees)
    """An engine ran out of memory; execute halves its batch and tries again."""


class EditEngine(Protocol):
    """Pictures in, pictures out. Everything that diffusion needs is behind it."""

    limits: Limits

    def begin(self, edits: Sequence[Edit], sources: Sequence[Source]) -> Pending:
        """Begin to make one Result an Edit; all edits share size, steps and sampler. Raises OutOfMemory.

        An engine whose limits say that it `overlaps` is still at work when this returns, and may be given the next
        Edits before it is asked for these Results.
        """
        ...

    def shrink(self) -> bool:
        """Halve the row bucket after OutOfMemory; False where it is already as small as it goes."""
        ...

    def close(self) -> None:
        """Free what the engine holds."""
        ...
