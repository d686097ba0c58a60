"""A pair of pictures as training sees it: resized, cropped and mirrored, both the same way."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def augment(
    pair: tuple[Image.Image, Image.Image],
    side: int,
    resize: tuple[int, int],
    flip: float,
    rng: np.random.Generator,
    *,
    squash: bool = False,
) -> NDArray[np.uint8]:
    """Both pictures as uint8 `[2, side, side, 3]`: the short side resized to a random length of `resize` (both ends
    included; Lanczos), a random `side` × `side` crop, mirrored with probability `flip`.

    With `squash` both sides get that length, as in the original: the same for square pictures. A second picture of
    another size is brought to the first one's.
    """
    short = int(rng.integers(resize[0], resize[1] + 1))
    place, mirrored = rng.random(2), rng.random() < flip
    first = pair[0].size
    scale = short / min(first)
    width, height = (short if squash else max(short, round(length * scale)) for length in first)
    left, top = (int(part * (length - side + 1)) for part, length in zip(place, (width, height), strict=True))
    crops = []
    for picture in pair:
        resized = picture.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)
        crops.append(np.asarray(resized.crop((left, top, left + side, top + side))))
    both = np.stack(crops)
    return np.ascontiguousarray(both[:, :, ::-1]) if mirrored else both


def centre(picture: Image.Image, side: int) -> NDArray[np.uint8]:
    """The middle square at `side` px, uint8 `[side, side, 3]`: what evaluations and sample grids see."""
    edge = min(picture.size)
    left, top = (picture.width - edge) // 2, (picture.height - edge) // 2
    box = (left, top, left + edge, top + edge)
    return np.asarray(picture.convert("RGB").resize((side, side), Image.Resampling.LANCZOS, box=box))
