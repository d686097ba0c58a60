"""Photos with their regions, to be looked at before the editor's time is spent: the one sheet that needs no run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ip2pbatch.pictures import images
from ip2pbatch.pictures.areas.composing import composed
from ip2pbatch.show.lettering import draw_line, elide, line_height

Pixels = NDArray[np.uint8]

CELL = 320  # the long side of a photo on the sheet
_ACROSS, _MARGIN, _TYPE = 5, 16, 13
_PAPER, _INK, _FAINT = "#ffffff", "#1a1a1a", "#666666"
_EDGE = (230, 0, 120)


@dataclass(frozen=True, slots=True)
class Panel:
    """A photo uint8 [h, w, 3] at a cell's size, how much of an edit is in each pixel [h, w], and their names."""

    photo: str
    edit: str
    pixels: Pixels
    share: Pixels


def draw_regions(panels: Sequence[Panel], title: str, path: Path) -> None:
    """Write a PNG: what is edited is in colour and has a line around it, the rest is pale. Raises ResourceError."""
    line = line_height(_TYPE)
    wide, high = CELL + _MARGIN, CELL + 2 * line + _MARGIN
    rows = -(-len(panels) // _ACROSS)
    across = min(_ACROSS, len(panels))
    top = _MARGIN + 2 * line
    page = Image.new("RGB", (across * wide + _MARGIN, top + rows * high), _PAPER)
    draw_line(page, (_MARGIN, _MARGIN), elide(title, _TYPE, page.width - 2 * _MARGIN), size=_TYPE, fill=_INK, bold=True)
    for number, panel in enumerate(panels):
        x, y = _MARGIN + number % _ACROSS * wide, top + number // _ACROSS * high
        draw_line(page, (x, y), elide(panel.photo, _TYPE, CELL), size=_TYPE, fill=_INK)
        draw_line(page, (x, y + line), elide(panel.edit, _TYPE, CELL), size=_TYPE, fill=_FAINT)
        page.paste(Image.fromarray(_shown(panel)), (x, y + 2 * line))
    images.save_png(np.asarray(page), path)


def _shown(panel: Panel) -> Pixels:
    grey = panel.pixels.mean(axis=2, keepdims=True) * 0.35 + 165
    shown = composed(panel.pixels, np.repeat(np.rint(grey), 3, axis=2).astype(np.uint8), panel.share).copy()
    inside = panel.share > 127
    edge = np.zeros_like(inside)
    edge[1:] |= inside[1:] != inside[:-1]
    edge[:, 1:] |= inside[:, 1:] != inside[:, :-1]
    edge[:-1] |= edge[1:]  # two pixels wide
    shown[edge] = _EDGE
    return shown
