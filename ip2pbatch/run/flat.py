"""What became of a picture; and whether it came out as one flat colour, black, white or grey, where its source had
something to show.

A model that fails gives such pictures. A sky that stays a sky, or a photo at a twentieth of its light that has one
colour left in eight bits, is none: a flat picture is told by what its source would look like in the picture's light.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ip2pbatch.run.directory.lines import Status
from ip2pbatch.run.engine import Result, Source

LIGHT = 1 / 20
"""An edit may take a photo down to this share of its light ("make it night" at strong guidance); below it is black."""

EVEN = 1.0  # levels of 255, standard deviation: an autoencoder's own noise over one colour is below it
_LEFT = 0.5  # the share of its contrast that a source keeps, whatever is done to it in that light
_ROUNDED = 0.3  # levels that rounding to eight bits may take from a contrast
_GRAIN = 0.5  # levels of a dark source's contrast that may be nothing but its own rounding
_NEAR = 0.5  # levels that rounding may add to a picture's light or take from it
_DRIFT = 0.35  # levels that an autoencoder may: 0.27 at most, seen over 210 dark pictures of the embedded one


def is_flat(picture: NDArray[np.uint8], source: Source) -> bool:
    """Whether `picture` [h, w, 3] is one colour, and its source does not say why."""
    if (left := contrast(picture)) >= EVEN:
        return False
    return lacks_content(left, float(picture.mean()), source, rounded=True)


def lacks_content(left: float, light: float, source: Source, *, rounded: bool) -> bool:
    """The same of an even picture whose contrast and mean, in levels of 255, are known, and whether they are rounded.

    A source without pixels counts as having content.
    """
    if source.pixels is None:
        return True
    near, lost = (_NEAR, _ROUNDED) if rounded else (_DRIFT, 0.0)
    was = float(source.pixels.mean())
    if light + near < LIGHT * was:
        return True
    gain = min(max((light - near) / max(was, near), LIGHT), 1.0)
    return left < _LEFT * gain * (contrast(source.pixels) - _GRAIN) - lost


def contrast(pixels: NDArray[np.uint8]) -> float:
    """The standard deviation of the channel that varies most, in levels of 255: one red has none, as one grey has."""
    return max(float(pixels[..., channel].std(dtype=np.float32)) for channel in range(pixels.shape[-1]))


def judge(result: Result, source: Source) -> tuple[Status, str]:
    """The state of a Result and why. A picture of one flat colour is no picture, whatever the engine says of it, unless
    its source was as flat.
    """
    if result.state != "done":
        return result.state, result.detail or {"nan": "not a number", "flagged": "the safety checker flagged it"}[
            result.state
        ]
    if result.image is None:
        return "failed", "the engine gave no picture"
    if source.full is None and is_flat(result.image, source):
        return "nan", "the picture came out as one flat colour"
    return "done", ""
