"""Sample grids: held-out photos down, instructions across, made by the same engine that edits folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from ip2pbatch.backends.pytorch.backend import load
from ip2pbatch.backends.weights import resolve
from ip2pbatch.engine.editor import Editor
from ip2pbatch.plan.edits import Guidance, make_edit
from ip2pbatch.run.engine import Source
from ip2pbatch.train.data.crops import centre_square, load_rgb, training_photos

LABEL = 14  # pixels of the line of words above the columns


def held_out_squares(photos: Path, count: int, side: int) -> list[np.ndarray]:
    """The middle squares of `count` held-out photos, spread over the folder."""
    _, held = training_photos(photos)
    chosen = held[:: max(1, len(held) // count)][:count]
    return [centre_square(load_rgb(photo.path, side), side) for photo in chosen]


def edit_square(
    editor: Editor, pixels: np.ndarray, instructions: Sequence[str], guidance: Guidance, steps: int = 20,
    seed: int = 0, sampler: str = "euler_a",
) -> list[np.ndarray]:  # fmt: skip
    """One picture edited by each instruction."""
    size = (pixels.shape[1], pixels.shape[0])
    edits = [
        make_edit("square", text, guidance, seed, steps=steps, sampler=sampler, size=size) for text in instructions
    ]
    results = []
    for begin in range(0, len(edits), 4):
        part = edits[begin : begin + 4]
        results += [result.image for result in editor.edit(part, [Source(pixels=pixels)] * len(part))]
    return [np.zeros_like(pixels) if image is None else image for image in results]


def draw_grid(
    model: Path, squares: Sequence[np.ndarray], instructions: Sequence[str], guidance: Guidance,
    precision: str = "fp32", steps: int = 20, sampler: str = "euler_a",
) -> Image.Image:  # fmt: skip
    """The photo and its edits on each line, the instruction above each column."""
    backend = load(resolve(str(model)), precision=precision)
    lines = []
    for pixels in squares:
        editor = Editor(backend, determinism="fast")  # its cache knows a photo by name, and all of these have one
        lines.append(
            np.concatenate(
                [pixels, *edit_square(editor, pixels, instructions, guidance, steps, sampler=sampler)], axis=1
            )
        )
    sheet = Image.fromarray(np.concatenate(lines, axis=0))
    side = squares[0].shape[1]
    labelled = Image.new("RGB", (sheet.width, sheet.height + LABEL), "white")
    labelled.paste(sheet, (0, LABEL))
    pen = ImageDraw.Draw(labelled)
    for column, text in enumerate(("photo", *instructions)):
        pen.text((column * side + 2, 1), text[: side // 6], fill="black")
    return labelled
