"""Sheets and the report show what is delivered: only the region, as strong as asked, and where the photo is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import skimage.data
from command import CommandLine
from PIL import Image

from ip2pbatch.engine import fake
from ip2pbatch.run.directory.view import read_run
from ip2pbatch.show.cells import Cell, gallery
from ip2pbatch.show.page import Box, fitted
from ip2pbatch.show.proof import Proof

FAKE = ("--backend", "fake")
RECIPE = """
model: tiny
photos: photos
edits:
  - {id: part, instruction: make it winter, region: {box: [0, 0, 50, 100], feather: 6}}
  - {id: weak, instruction: make it winter, strength: 0.4}
  - id: trip
    photos: three.png
    chain: [{instruction: make it dark, region: masks}, {instruction: make it dry, region: {box: [60, 0, 100, 100]}}]
size: {long_side: 96}
output: {folder: out, format: png, full_resolution: off, strength: 0.8}
"""


def cells_of(command: CommandLine, shoot: Path, recipe: str) -> tuple[Cell, ...]:
    (shoot / "recipe.yaml").write_text(recipe)
    said = command("run", shoot / "recipe.yaml", *FAKE, "--only", "three.png")
    assert said.code == 0, said.err
    return tuple(gallery(read_run(shoot / "out")).cells)


def test_a_cell_is_shown_as_its_file_is(command: CommandLine, shoot: Path) -> None:
    (shoot / "masks").mkdir()
    Image.linear_gradient("L").save(shoot / "masks" / "three.png")
    cells = [cell for cell in cells_of(command, shoot, RECIPE) if cell.delivered]
    assert len(cells) == 3
    for cell in cells:
        assert cell.proof is not None
        assert cell.picture is not None
        file, shown = np.asarray(Image.open(cell.delivered)), np.asarray(cell.proof.open())
        assert np.array_equal(shown, file)
        assert not np.array_equal(shown, cell.picture.pixels())
        assert np.array_equal(fitted(cell.proof, Box(96, 96, 1)), file)
    before = np.asarray(cells[0].proof.whole.open())[:, -20:]  # type: ignore[union-attr]
    assert cells[0].source is not None
    assert np.array_equal(before, cells[0].source.pixels()[:, -20:])
    (shoot / "masks" / "three.png").unlink()
    assert cells[2].proof is not None
    assert cells[2].proof.open().size == (96, 96), "a view does without a mask that is gone"


def test_an_edit_that_was_moved_back_is_shown_there(
    command: CommandLine, shoot: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fake, "_caption", lambda pixels, edit: np.roll(pixels, 3, axis=1))
    Image.fromarray(skimage.data.astronaut()).save(shoot / "photos" / "three.png")
    recipe = "model: tiny\nphotos: photos\nedits: [make it winter]\nsize: 256\noutput: {folder: out}\n"
    (cell,) = cells_of(command, shoot, recipe)
    assert cell.moved
    assert cell.proof is not None
    shown = [np.asarray(one.open(), float) for one in (cell.proof, Proof(cell.picture))]  # type: ignore[union-attr,arg-type]
    off = [np.abs(one[16:-16, 16:-16] - cell.source.pixels()[16:-16, 16:-16]).mean() for one in shown]  # type: ignore[union-attr]
    assert off[0] < 0.3 * off[1]
