"""`apply`: what one cell of a run is of its photo, of other photos, into the same run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command import CommandLine
from PIL import Image

from ip2pbatch.run.directory.view import read_run

RECIPE = """
name: shoot
model: tiny
photos: photos
edits: [{id: dusk, instruction: make it night, text: [3, 7], negative: fog}, {id: trip, chain: [make it dark, add fog]}]
output: {folder: out, strength: 0.5}
size: {long_side: 96}
steps: 5
"""


@pytest.fixture
def out(shoot: Path, command: CommandLine) -> Path:
    """A run of one photo of three, at settings of the machine that are part of what it is."""
    (shoot / "recipe.yaml").write_text(RECIPE)
    said = command("run", shoot / "recipe.yaml", "--backend", "fake", "--only", "three.png", "--determinism", "fast")
    assert said.code == 0, said.err
    return shoot / "out"


def numbers(out: Path) -> dict[int, tuple[str, float]]:
    """The cells' numbers as the report has them."""
    page = (out / "report.html").read_text()
    cells = json.loads(page.split('id="data">')[1].split("</script>")[0])["cells"]
    return {cell["number"]: (cell["instruction"], cell["sort"]["text"]) for cell in cells}


def test_a_cell_is_used_for_the_folder_of_its_photo_and_nothing_is_made_twice(command: CommandLine, out: Path) -> None:
    (number,) = (number for number, said in numbers(out).items() if said == ("make it night", 7.0))
    before = {edit.key for edit in read_run(out).plan.edits}
    said = command("apply", out, "--cell", str(number))
    assert (said.code, "2 edits made, 2 files delivered" in said.out) == (0, True), said.out + said.err
    view = read_run(out)
    made = [strip for strip in view.strips if strip.edits[0].key not in before]
    assert {(strip.photo.name, strip.edits[0].guidance.text, strip.edits[0].negative) for strip in made} == {
        ("one.jpg", 7.0, "fog"), ("day2/two.jpg", 7.0, "fog"),
    }  # fmt: skip
    assert {row.strength for row in (view.delivery(strip, strip.edits[0]) for strip in made) if row} == {0.5}
    assert view.spec.determinism == "fast"
    assert "0 edits made, 0 files" in command("apply", out, "--cell", str(number)).out
    assert numbers(out)[number] == ("make it night", 7.0), "cells keep their numbers"


def test_a_link_of_a_chain_is_used_for_photos_that_are_given(command: CommandLine, out: Path, tmp_path: Path) -> None:
    (number,) = (number for number, said in numbers(out).items() if said[0] == "add fog")
    Image.new("RGB", (120, 90), "teal").save(tmp_path / "other.png")
    said = command("apply", out, tmp_path / "other.png", "--cell", str(number))
    assert (said.code, "2 edits made, 1 file" in said.out) == (0, True), said.out + said.err


def test_what_cannot_be_used_is_refused(command: CommandLine, out: Path, tmp_path: Path) -> None:
    for cell, reason in (("0", "no cell 0"), ("99", "no cell 99 of 4")):
        said = command("apply", out, "--cell", cell)
        assert (said.code, reason in said.err) == (2, True), said.err
    assert command("apply", tmp_path, "--cell", "1").code == 2
    (tmp_path / "empty").mkdir()
    assert command("apply", out, tmp_path / "empty", "--cell", "1").code == 5
    results = out / ".ip2pbatch/results.jsonl"
    results.write_text("".join(results.read_text().splitlines(keepends=True)[1:]))
    broken = [
        number for number in range(1, 5) if command("apply", out, "--cell", str(number), "--only", "x*").code == 2
    ]
    assert len(broken) == 1, "the cell that is not made"
    assert "is missing" in command("apply", out, "--cell", str(broken[0])).err
