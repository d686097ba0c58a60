"""The edit families: what the tiny model learns, as procedures that turn a photo into its edited self.

Each family is one edit that a person would ask for by name. Its edit is a function of the photo, a strength (1.0 is
canonical) and a generator that only places flakes, streaks, veins and the like. Augment the photo first and edit it
then, never the pair afterwards: reliefs are lit from the upper left, grids and borders belong to the frame.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ip2pbatch.train.pairs.families import focus, light, material, media, tone
from ip2pbatch.train.pairs.families import hue as colour

Edit = Callable[[NDArray[np.uint8], float, np.random.Generator], NDArray[np.uint8]]


@dataclass(frozen=True, slots=True)
class Family:
    """One edit: rgb uint8 [h, w, 3] in and out.

    `strengths` is the range that training samples around 1.0; `keeps_structure` says that the photo's luma edges should
    survive the edit (checked by the evaluator).
    """

    name: str
    group: str
    edit: Edit
    strengths: tuple[float, float]
    keeps_structure: bool


def _family(group: str, edit: Edit, low: float, high: float, keeps: bool) -> tuple[str, Family]:
    return edit.__name__, Family(edit.__name__, group, edit, (low, high), keeps)


FAMILIES: dict[str, Family] = dict(
    [
        _family("light", light.winter, 0.85, 1.15, False),
        _family("light", light.autumn, 0.8, 1.15, True),
        _family("light", light.spring_green, 0.8, 1.15, True),
        _family("light", light.rain, 0.85, 1.2, False),
        _family("light", light.fog, 0.88, 1.05, False),
        _family("light", light.night, 0.8, 1.3, False),
        _family("light", light.sunset, 0.85, 1.1, True),
        _family("light", light.golden_hour, 0.8, 1.2, True),
        _family("light", light.overcast, 0.85, 1.0, True),
        _family("light", light.underwater, 0.85, 1.15, False),
        _family("tone", tone.black_and_white, 0.75, 1.25, True),
        _family("tone", tone.sepia, 0.9, 1.1, True),
        _family("tone", tone.warmer, 0.8, 1.2, True),
        _family("tone", tone.cooler, 0.8, 1.2, True),
        _family("tone", tone.brighter, 0.8, 1.2, True),
        _family("tone", tone.darker, 0.8, 1.2, True),
        _family("tone", tone.contrast, 0.8, 1.25, True),
        _family("tone", tone.faded_film, 0.85, 1.1, True),
        _family("tone", tone.vintage, 0.8, 1.2, False),
        _family("tone", tone.high_key, 0.85, 1.1, False),
        _family("tone", tone.invert, 0.94, 1.0, True),
        _family("tone", tone.vignette, 0.85, 1.02, False),
        _family("media", media.pencil_sketch, 0.8, 1.25, False),
        _family("media", media.charcoal, 0.85, 1.15, False),
        _family("media", media.watercolour, 0.8, 1.25, False),
        _family("media", media.oil_painting, 0.8, 1.25, False),
        _family("media", media.pop_art, 0.85, 1.2, False),
        _family("media", media.comic_halftone, 0.88, 1.1, False),
        _family("media", media.cartoon, 0.8, 1.25, False),
        _family("media", media.pixel_art, 0.7, 1.3, False),
        _family("media", media.mosaic, 0.8, 1.25, False),
        _family("media", media.stained_glass, 0.8, 1.2, False),
        _family("media", media.blueprint, 0.85, 1.2, False),
        _family("media", media.emboss, 0.85, 1.2, False),
        _family("material", material.marble, 0.85, 1.2, False),
        _family("material", material.wood, 0.85, 1.2, False),
        _family("material", material.bronze, 0.85, 1.15, False),
        _family("material", material.gold, 0.85, 1.1, False),
        _family("focus", focus.blur_background, 0.85, 1.3, False),
        _family("focus", focus.soft_focus, 0.85, 1.1, True),
        _family("focus", focus.sharpen, 0.8, 1.25, True),
        _family("colour", colour.red_to_blue, 0.9, 1.0, True),
        _family("colour", colour.only_red, 0.9, 1.0, True),
        _family("colour", colour.swap_colours, 0.9, 1.0, True),
    ]
)


def target(family: Family, photo: NDArray[np.uint8], strength: float = 1.0, seed: int = 0) -> NDArray[np.uint8]:
    """The photo (rgb uint8 [h, w, 3]) after the edit; equal arguments give equal bytes."""
    return family.edit(photo, strength, np.random.default_rng(seed))
