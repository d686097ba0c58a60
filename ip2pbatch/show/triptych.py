"""Expected, actual and their difference side by side: what a person looks at when a verification fails."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from ip2pbatch.pictures import images
from ip2pbatch.run.directory.kept import Pixels
from ip2pbatch.show.lettering import draw_line, elide, line_height

_MARGIN, _TYPE = 16, 15
_PAPER, _INK, _FAINT = "#ffffff", "#1a1a1a", "#666666"
_LEAST = 240  # pixels of a column: its heading must fit


def draw_triptych(expected: Pixels, actual: Pixels, title: str, note: str, path: Path) -> None:
    """Write a PNG of two pictures [h, w, 3] and how they differ: mid grey is equal, lighter is more, darker is less.

    The difference is stretched so that its largest value is visible, and says by how much. Pictures of two sizes are
    shown without it. Raises ResourceError.
    """
    panels = [("expected", expected), ("actual", actual)]
    if expected.shape == actual.shape:
        factor, pixels = stretched(expected, actual)
        panels.append((f"difference × {factor}", pixels))
    columns = [max(_LEAST, pixels.shape[1]) for _, pixels in panels]
    width = sum(columns) + _MARGIN * (len(panels) + 1)
    top = _MARGIN + 3 * line_height(_TYPE) + _MARGIN // 2
    page = Image.new("RGB", (width, top + max(pixels.shape[0] for _, pixels in panels) + _MARGIN), _PAPER)
    room = width - 2 * _MARGIN
    draw_line(page, (_MARGIN, _MARGIN), elide(title, _TYPE, room), size=_TYPE, fill=_INK, bold=True)
    draw_line(page, (_MARGIN, _MARGIN + line_height(_TYPE)), elide(note, _TYPE, room), size=_TYPE, fill=_FAINT)
    x = _MARGIN
    for (name, pixels), column in zip(panels, columns, strict=True):
        draw_line(page, (x, top - line_height(_TYPE)), name, size=_TYPE, fill=_INK)
        page.paste(Image.fromarray(pixels), (x, top))
        x += column + _MARGIN
    path.parent.mkdir(parents=True, exist_ok=True)
    images.save_png(np.asarray(page), path)


def stretched(expected: Pixels, actual: Pixels) -> tuple[int, Pixels]:
    """(factor, the signed difference times factor around 128): the factor is a power of two, the largest that fits."""
    difference = actual.astype(np.int16) - expected
    most = int(np.abs(difference).max())
    factor = 1
    while most and most * factor * 2 <= 127:
        factor *= 2
    return factor, (128 + difference * factor).clip(0, 255).astype(np.uint8)
