"""Where the tiles lie in which a picture is refined: at which sizes of the photo, and where in each.

Sizes are the photo's own and halves of it, so that each has twice the detail of the one before. Tiles have the size at
which the model made the edit, the size that its calls are made for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Size = tuple[int, int]

_LEAST = 1.25  # times the model's size: what is less has no detail that the edit has not
_OVERLAP = 0.25  # of a tile
_FINER = 3  # the lift from which on tiles take over finer detail alone, and what an autoencoder damps is made good


@dataclass(frozen=True, slots=True)
class Refinement:
    """How a picture is made once more at its photo's own size: tiles of that are edited again at ever higher scales,
    each beginning at `start` (0 to 1) of the noise from what the picture became so far.

    `photo` is the photo's digest, `full` its (width, height). `tiles` are those where the edit shows something new, or
    all. `before` is the key of the link that the picture was edited from, "" where that was the photo. `register` says
    whether what the model moved was moved back before, `lift` by which version of the lift it then was lifted.
    """

    photo: str
    full: tuple[int, int]
    tiles: Literal["auto", "all"]
    start: float
    before: str = ""
    register: bool = True
    lift: int = 0

    @property
    def row(self) -> dict[str, Any]:
        """What a key and a stored plan say of it: `refinement_of` reads it."""
        return {
            "photo": self.photo, "full": list(self.full), "tiles": self.tiles, "start": self.start,
            "before": self.before, "register": self.register, "lift": self.lift,
        }  # fmt: skip

    @property
    def undamped(self) -> bool:
        """Whether what the model's autoencoder takes of fine detail is made good: not in runs of an earlier lift."""
        return self.lift >= _FINER

    @property
    def keeps(self) -> int:
        """Pixels of a scale: what is coarser than about that stays as it was at the scale before."""
        return 4 if self.lift >= _FINER else 16

    @property
    def fades(self) -> int:
        """How a tile's weight falls from its middle to its edge: evenly (1), or by the square (2)."""
        return 2 if self.lift >= _FINER else 1

    def steps_of(self, steps: int) -> int:
        """How many of an Edit's steps are left from `start` of the noise: at least one."""
        return max(1, min(steps, round(self.start * steps)))


def refinement_of(row: Mapping[str, Any]) -> Refinement:
    """The Refinement that `row` says."""
    return Refinement(**{**row, "full": tuple(row["full"])})


@dataclass(frozen=True, slots=True)
class Box:
    """A tile's place on a canvas, in pixels from the top left."""

    left: int
    top: int


def levels(model: Size, full: Size) -> list[Size]:
    """The (width, height) at which a photo of `full` pixels is refined, smallest first; none where it is hardly larger
    than `model`.
    """
    found, size = list[Size](), full
    while size[0] > _LEAST * model[0] and size[1] > _LEAST * model[1]:
        found.append(size)
        size = -(-size[0] // 2), -(-size[1] // 2)
    return found[::-1]


def canvas(size: Size, tile: Size, multiple: int) -> Size:
    """A level's size with sides that the model can take, and room for a tile."""
    wide, high = (max(own, -(-side // multiple) * multiple) for side, own in zip(size, tile, strict=True))
    return wide, high


def boxes(area: Size, tile: Size, multiple: int) -> list[Box]:
    """Tiles that cover a canvas of `area`, by rows: a quarter of each lies in the next one, or somewhat more."""
    across, down = (_starts(side, own, multiple) for side, own in zip(area, tile, strict=True))
    return [Box(left, top) for top in down for left in across]


def _starts(side: int, tile: int, multiple: int) -> Sequence[int]:
    """Where tiles begin along a side: spread evenly, at multiples."""
    number = 1 + max(0, math.ceil((side - tile) / (tile * (1 - _OVERLAP))))
    last = (side - tile) // multiple
    return [round(last * at / max(1, number - 1)) * multiple for at in range(number)]


def count_tiles(model: Size, full: Size, multiple: int) -> int:
    """All tiles of all levels: more than `auto` takes."""
    return sum(len(boxes(canvas(size, model, multiple), model, multiple)) for size in levels(model, full))
