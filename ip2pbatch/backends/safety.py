"""The safety checker that a model may ship: on torch and in float32 whatever the other networks run on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ip2pbatch.backends.quiet import quiet


def flag(checker: Any | None, extractor: Any | None, images: Sequence[NDArray[np.uint8]]) -> list[bool]:
    """What the checker says of each picture [h, w, 3], one at a time; all False where there is none."""
    if checker is None or extractor is None:
        return [False] * len(images)
    flagged = []
    for image in images:
        seen = extractor(image, return_tensors="pt").pixel_values.to(checker.device, checker.dtype)
        with quiet():  # it would log advice about each picture that it blanks
            flagged.append(bool(checker(clip_input=seen, images=np.zeros((1, 1)))[1][0]))
    return flagged
