"""The EditEngine of tinted, captioned photos: `--backend fake`.

It lets a recipe be tried (names, folders, sheets, disk) in seconds and without a model, and carries the reliability
suite. A picture depends on its Edit and its source alone, to the bit: the instruction chooses the tint, guidance its
strength, the seed a shade of it, and all of them stand in the caption.
"""

from __future__ import annotations

import colorsys
import hashlib
import unicodedata
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ip2pbatch.pictures.areas.composing import composed
from ip2pbatch.plan.edits import Edit
from ip2pbatch.plan.limits import Limits
from ip2pbatch.plan.rows import asks_null
from ip2pbatch.run.engine import FullSize, Hook, Pending, Result, Source

Floats = NDArray[np.float32]

_CELL = 8  # the fake's latent is the picture in squares of 8 × 8, as if an autoencoder had made it: [192, h/8, w/8]
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


class FakeEngine:
    """Tints and captions; needs no model, no device and no torch."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()

    def edit(self, edits: Sequence[Edit], sources: Sequence[Source]) -> list[Result]:
        """One tinted, captioned picture an Edit; its latent is the tinted picture without the caption."""
        return [_fake(edit, source) for edit, source in zip(edits, sources, strict=True)]

    steps: tuple[str, ...] = ()

    def begin(self, edits: Sequence[Edit], sources: Sequence[Source], hook: Hook | None = None) -> Pending:
        """The same, done when this returns. It has no steps that a hook could hear of."""
        made = self.edit(edits, sources)
        return lambda: made

    def shrink(self) -> bool:
        """There is nothing to halve: a fake needs no memory worth the name."""
        return False

    def close(self) -> None:
        """There is nothing to free."""


def _fake(edit: Edit, source: Source) -> Result:
    if source.full is not None:
        return _refined(edit, source.full)
    before = _floats(source, edit.size)
    picture = _tint(before, edit)
    captioned = _caption(np.rint(picture).astype(np.uint8), edit)
    if source.mask is not None:
        picture = composed(picture, before, source.mask)
        captioned = composed(captioned, np.rint(before).astype(np.uint8), source.mask)
    return Result(captioned, _pack(picture), "done")


def _refined(edit: Edit, full: FullSize) -> Result:
    """The photo itself, tinted at its own size."""
    high, wide = full.photo.shape[:2]
    share = np.asarray(Image.fromarray(full.share).resize((wide, high)))
    tinted = np.rint(_tint(full.photo.astype(np.float32), edit)).astype(np.uint8)
    return Result(np.concatenate([tinted, share[..., None]], axis=2), None, "done")


def _floats(source: Source, size: tuple[int, int]) -> Floats:
    if source.latent is not None:
        return _unpack(source.latent)[: size[1], : size[0]]
    assert source.pixels is not None, "a Source has pixels or a latent"
    return source.pixels.astype(np.float32)


def _tint(picture: Floats, edit: Edit) -> Floats:
    """The picture drawn towards one colour of the same lightness; float32 [h, w, 3] in 0..255."""
    hue = _hue(edit.instruction)
    if edit.negative and asks_null(edit.guidance):
        hue += 0.5 * _hue(edit.negative) + 0.1
    hue += (edit.seed % 97) / 97 * 0.06
    colour = np.array(colorsys.hsv_to_rgb(hue % 1.0, 0.65, 1.0), np.float32)
    colour /= float(colour @ _LUMA)
    strength = np.float32(np.clip(0.08 * edit.guidance.text / max(abs(edit.guidance.image), 0.5), 0.05, 0.9))
    toned = (picture @ _LUMA)[..., None] * colour
    return np.clip(picture + strength * (toned - picture), 0, 255).astype(np.float32)


def _hue(text: str) -> float:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:2], "big") / 65536


def _caption(pixels: NDArray[np.uint8], edit: Edit) -> NDArray[np.uint8]:
    """Two lines in a dark band along the lower edge, in a size that suits the picture."""
    height, width = pixels.shape[:2]
    size = max(6, min(height // 14, width // 22))
    font = ImageFont.load_default(size)
    guidance = f"text {edit.guidance.text:g}, image {edit.guidance.image:g}, seed {edit.seed}"
    image = Image.fromarray(pixels)
    pen = ImageDraw.Draw(image)
    margin, line = size // 2, round(size * 1.3)
    top = height - 2 * line - margin
    pen.rectangle((0, top, width, height), fill=(20, 20, 24))
    for row, text in enumerate((_plain(edit.instruction), guidance)):
        while len(text) > 1 and font.getlength(text) > width - 2 * margin:
            text = text[:-4].rstrip() + "..." if len(text) > 4 else text[:-1]
        pen.text((margin, top + margin // 2 + row * line), text, fill=(245, 245, 240), font=font)
    return np.asarray(image)


def _plain(text: str) -> str:
    """`text` in the letters that the typeface has: accents are dropped, other alphabets become question marks."""
    letters = (char for char in unicodedata.normalize("NFKD", text) if not unicodedata.combining(char))
    return "".join(letters).encode("ascii", "replace").decode()


def _pack(picture: Floats) -> Floats:
    """[h, w, 3] → [192, h/8, w/8]; sides are padded by their edge to whole squares."""
    height, width = picture.shape[:2]
    padded = np.pad(picture, ((0, -height % _CELL), (0, -width % _CELL), (0, 0)), mode="edge")
    rows, columns = padded.shape[0] // _CELL, padded.shape[1] // _CELL
    squares = padded.reshape(rows, _CELL, columns, _CELL, 3).transpose(1, 3, 4, 0, 2)
    return np.ascontiguousarray(squares.reshape(_CELL * _CELL * 3, rows, columns))


def _unpack(latent: Floats) -> Floats:
    _, rows, columns = latent.shape
    squares = latent.reshape(_CELL, _CELL, 3, rows, columns).transpose(3, 0, 4, 1, 2)
    return np.ascontiguousarray(squares.reshape(rows * _CELL, columns * _CELL, 3))
