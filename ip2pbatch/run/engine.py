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
class FullSize:
    """What a picture is refined from, at the photo's size in sRGB: the `photo` [H, W, 3], what the picture has become
    on it so far, `lifted` [H, W, 3], and at model size [h, w] how much of each pixel is to be refined, 0 to 255.
    """

    photo: NDArray[np.uint8]
    lifted: NDArray[np.uint8]
    share: NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Source:
    """What an Edit starts from: pixels uint8 [h, w, 3] sRGB at the Edit's size, or, where there is one, a latent
    float32 [c, h, w]; its pixels then only say what it looks like. `mask` is the Edit's region at that size, uint8
    [h, w]: 0 where the picture stays what it starts from; None where all of it is edited. `full` is there where the
    Edit refines.
    """

    pixels: NDArray[np.uint8] | None = None
    latent: NDArray[np.float32] | None = None
    mask: NDArray[np.uint8] | None = None
    full: FullSize | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """What an engine returns for one Edit: image uint8 [h, w, 3], its latent float32 [c, h, w] where it has one.

    Of a refinement the image is [H, W, 4] at the photo's size: what was refined, and by how much it takes the place of
    what was lifted there, 0 to 255.
    """

    image: NDArray[np.uint8] | None
    latent: NDArray[np.float32] | None
    state: Literal["done", "nan", "flagged"]
    detail: str = ""


Preview = Callable[[], list[NDArray[np.uint8]]]
"""Makes, when it is called, the pictures [h, w, 3] that a batch is on its way to."""

Pending = Callable[[], list[Result]]
"""Waits for what an engine has begun: one Result an Edit, in order. Raises OutOfMemory."""


class OutOfMemory(Exception):  # noqa: N818 (a condition that execute answers, not an error a person sees)
    """An engine ran out of memory; execute halves its batch and tries again."""


class Stopped(Exception):  # noqa: N818 (a condition that execute answers)
    """A Hook asked an engine to stop between two steps: what it was at is not made."""


class Hook(Protocol):
    """What hears of a network step, and may stop between two of them."""

    def step(self, done: int, of: int, preview: Preview) -> bool:
        """Step `done` of `of` was asked of the device; `preview` is what the pictures are like so far. False: stop."""
        ...


class EditEngine(Protocol):
    """Pictures in, pictures out. Everything that diffusion needs is behind it."""

    limits: Limits

    @property
    def steps(self) -> tuple[str, ...]:
        """The names of the speed-ups that are in."""
        ...

    def begin(self, edits: Sequence[Edit], sources: Sequence[Source], hook: Hook | None = None) -> Pending:
        """Begin to make one Result an Edit; all edits share size, steps and sampler. Raises OutOfMemory, Stopped.

        An engine whose limits say that it `overlaps` is still at work when this returns, and may be given the next
        Edits before it is asked for these Results. `hook` hears of every network step, where the engine has such.
        """
        ...

    def shrink(self) -> bool:
        """Halve the row bucket after OutOfMemory; False where it is already as small as it goes."""
        ...

    def close(self) -> None:
        """Free what the engine holds."""
        ...
