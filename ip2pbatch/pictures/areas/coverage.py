"""A Region at a size: how much of each pixel is edited, 0 to 255, with what `grow` and `invert` make of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from ip2pbatch.errors import PhotoError
from ip2pbatch.pictures import images
from ip2pbatch.plan.edits import Point, Polygon, Region
from ip2pbatch.plan.photo_digests import look

Coverage = NDArray[np.uint8]
Floats = NDArray[np.float32]

_NEARLY = 12  # levels from black and white that count as these: a JPEG does not keep them, nor does a brush
_FINE = 1_500_000  # pixels up to which polygons are drawn four times as large, so that their edges are smooth
_REACH = 16  # pixels over which distances are measured; longer ones are measured in a smaller picture


Found = Callable[[Region], Coverage]
"""Gives the mask of what a Region seeks in its photo, uint8 at any size, all 0 where nothing was found. Raises
PhotoError where nobody looked for it.
"""


def unfound(region: Region) -> Coverage:
    """Where nobody looks for anything."""
    raise PhotoError("nobody looked for what is to be edited in the photo", hint="run the recipe again")


def coverage(region: Region, size: tuple[int, int], found: Found = unfound) -> Coverage:
    """`region` in a picture of (width, height) `size`: uint8 [h, w], 255 where all of a pixel is edited.

    A mask that was drawn soft is soft. Raises PhotoError where a mask cannot be read or is another one by now.
    """
    own = _own(region, size, found)
    return own if region.protect is None else np.minimum(own, 255 - _own(region.protect, size, found))


def share(region: Region, feather: float, size: tuple[int, int], found: Found = unfound) -> Coverage:
    """The same with what fades out over `feather` per cent of the short side: around the region, but not into what is
    protected.
    """
    own = faded(_own(region, size, found), feather)
    if region.protect is None:
        return own
    return np.minimum(own, 255 - faded(_own(region.protect, size, found), feather))


def _own(region: Region, size: tuple[int, int], found: Found) -> Coverage:
    """Without regard to what is protected."""
    if region.is_all:
        return _whole(size)
    drawn = _shape(region, size, found)
    if region.missing == "whole" and not drawn.any():
        return _whole(size)
    short = min(size)
    if region.grow > 0:
        drawn = _grown(drawn, region.grow / 100 * short)
    elif region.grow < 0:
        drawn = 255 - _grown(255 - drawn, -region.grow / 100 * short)
    return 255 - drawn if region.invert else drawn


def _shape(region: Region, size: tuple[int, int], found: Found) -> Coverage:
    if region.sought is None:
        return _sized(_mask(region), size) if region.mask else _drawn(region.polygons, size)
    return _sized(found(region), size)


def _whole(size: tuple[int, int]) -> Coverage:
    return np.full((size[1], size[0]), 255, np.uint8)


def faded(area: Coverage, feather: float) -> Coverage:
    """How much of the edit is in each pixel, where it fades out over `feather` per cent of the short side around what
    is covered: 255 within, 0 beyond it.

    It fades outside, where the model had begun to grow the edit into the photo, and not within.
    """
    width = feather / 100 * min(area.shape)
    if width < 0.5 or not area.any() or area.all():
        return area
    far = _distance(area == 255, width + 1) - np.float32(0.5)  # from the edge, which lies between two pixels
    near = 1 - np.clip(far / np.float32(width), 0, 1)
    soft = np.rint(near * near * (3 - 2 * near) * 255).astype(np.uint8)
    found: Coverage = np.maximum(area, soft)
    return found


def _mask(region: Region) -> Coverage:
    """The white of a mask file at its own size."""
    path = region.path or Path()
    if look(path).digest != region.mask:
        raise PhotoError(f"the mask {path} has changed since the recipe was read", hint="run again")
    picture = images.load(path, colours="own")
    white = picture.pixels.mean(axis=2)
    if picture.alpha is not None:
        white = white * picture.alpha / 255
    scaled = (white - _NEARLY) * (255 / (255 - 2 * _NEARLY))
    levels: Coverage = np.clip(np.rint(scaled), 0, 255).astype(np.uint8)
    return levels


def _sized(mask: Coverage, size: tuple[int, int]) -> Coverage:
    """A mask at another size: each pixel's mean where it shrinks, so that nothing thin is lost; else linear between."""
    if mask.shape == (size[1], size[0]):
        return mask
    smaller = size[0] < mask.shape[1]
    kernel = Image.Resampling.BOX if smaller else Image.Resampling.BILINEAR
    return np.asarray(Image.fromarray(mask).resize(size, kernel))


def _drawn(polygons: tuple[Polygon, ...], size: tuple[int, int]) -> Coverage:
    """Polygons whose points are in per cent of `size`."""
    width, height = size
    times = 4 if width * height <= _FINE else 1
    image = Image.new("L", (width * times, height * times))
    pen = ImageDraw.Draw(image)
    for polygon in polygons:
        points = [(x / 100 * image.width, y / 100 * image.height) for x, y in polygon]
        (left, top), (right, bottom) = (tuple(map(round, points[corner])) for corner in (0, len(points) // 2))
        if points == _corners(points[0], points[len(points) // 2]):
            pen.rectangle((left, top, max(left, right - 1), max(top, bottom - 1)), fill=255)
        else:  # pixels are named by their middle: 0 is half a pixel from the photo's edge
            pen.polygon([(x - 0.5, y - 0.5) for x, y in points], fill=255)
    return np.asarray(image.reduce(times) if times > 1 else image)


def _corners(first: Point, third: Point) -> list[Point]:
    """The rectangle between two points, as a recipe's box is written."""
    return [first, (third[0], first[1]), third, (first[0], third[1])]


def _grown(area: Coverage, by: float) -> Coverage:
    """What is covered and all within `by` pixels of it, with a smooth edge."""
    if by < 0.25 or not area.any():
        return area
    edge = np.clip(np.float32(by + 0.5) - _distance(area >= 128, by + 1), 0, 1)
    grown: Coverage = np.maximum(area, np.rint(edge * 255).astype(np.uint8))
    return grown


def _distance(inside: NDArray[np.bool_], most: float) -> Floats:
    """Each pixel's distance to the nearest one inside, exact up to some `most` pixels and more than that beyond.

    Measured along rows and then down columns (Felzenszwalb and Huttenlocher 2012), in a smaller picture where `most`
    is many pixels.
    """
    height, width = inside.shape
    step = most / _REACH
    if step <= 1:
        return _measured(inside, most)
    small = max(2, round(width / step)), max(2, round(height / step))
    reduced = np.asarray(Image.fromarray(inside.astype(np.uint8) * 255).resize(small, Image.Resampling.BOX)) >= 128
    if not reduced.any():  # what is covered is smaller than a pixel of that
        reduced = np.asarray(Image.fromarray(inside.astype(np.uint8) * 255).resize(small, Image.Resampling.BOX)) > 0
    far = _measured(reduced, _REACH) * np.float32(step)
    return np.asarray(Image.fromarray(far).resize((width, height), Image.Resampling.BILINEAR))


def _measured(inside: NDArray[np.bool_], most: float) -> Floats:
    reach = int(np.ceil(most)) + 1
    along = _along_rows(inside, reach) ** 2
    padded = np.pad(along, ((reach, reach), (0, 0)), constant_values=np.float32(4 * reach * reach))
    nearest = along.copy()
    height = inside.shape[0]
    for down in range(1, reach + 1):
        square = np.float32(down * down)
        np.minimum(nearest, padded[reach - down : reach - down + height] + square, out=nearest)
        np.minimum(nearest, padded[reach + down : reach + down + height] + square, out=nearest)
    return np.sqrt(nearest)


def _along_rows(inside: NDArray[np.bool_], reach: int) -> Floats:
    """Each pixel's distance to the nearest one inside in its row; 2 · `reach` where none is that near."""
    width = inside.shape[1]
    places = np.arange(width, dtype=np.float32)
    far = np.float32(-4 * reach)
    before = places - np.maximum.accumulate(np.where(inside, places, far), axis=1)
    after = np.minimum.accumulate(np.where(inside, places, width - far)[:, ::-1], axis=1)[:, ::-1] - places
    return np.minimum(np.minimum(before, after), np.float32(2 * reach)).astype(np.float32)
