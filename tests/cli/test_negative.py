"""`negative:` of an edit, from recipe to files: in keys only where it is set, and told where it does nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command import CommandLine
from one_line import with_line
from PIL import Image

from ip2pbatch.run.directory.view import read_run

RECIPE = """
name: shoot
model: tiny
photos: photos
edits:
  - {id: plain, instruction: make it winter}
  - {id: sharp, instruction: make it winter, negative: "blurry: \\"soft\\""}
output: {folder: out, format: png}
size: {long_side: 96}
guidance: {text: 5}
"""


@pytest.fixture
def recipe(shoot: Path) -> Path:
    path = shoot / "recipe.yaml"
    path.write_text(RECIPE)
    return path


def test_a_negative_is_in_key_picture_file_report_and_pick_and_a_resumed_run_knows_it(
    command: CommandLine, recipe: Path
) -> None:
    out = recipe.parent / "out"
    recipe.write_text(RECIPE.replace("  - {id: sharp", "#"))
    assert command("run", recipe, "--backend", "fake").code == 0
    plain = {edit.key for edit in read_run(out).plan.edits}
    recipe.write_text(RECIPE)
    assert "3 edits made, 3 files" in command("run", recipe, "--backend", "fake").out
    edits = {edit.key: edit for edit in read_run(out).plan.edits}
    assert {key for key, edit in edits.items() if not edit.negative} == plain
    assert {edit.negative for key, edit in edits.items() if key not in plain} == {'blurry: "soft"'}
    with Image.open(out / "three_sharp.png") as sharp, Image.open(out / "three_plain.png") as other:
        assert sharp.tobytes() != other.tobytes()
        assert 'make it winter\nNegative prompt: blurry: "soft"\nSteps: ' in sharp.text["parameters"]
        assert "Negative" not in other.text["parameters"]
    page = (out / "report.html").read_text()
    assert "negative “blurry: " in page
    cells = json.loads(page.split('id="data">')[1].split("</script>")[0])["cells"]
    assert [', negative: "blurry: \\"soft\\""' in cell["recipe"] for cell in cells] == [False, True] * 3
    assert command("deliver", recipe, "--no-prompt").code == 0
    assert b"blurry" not in (out / "three_sharp.png").read_bytes()
    assert command("lock", recipe).code == 0
    recipe.write_text(RECIPE.replace("soft", "grey"))
    said = command("lock", recipe, "--check")
    assert (said.code, "carry or negative" in said.out) == (4, True), said.out


def test_a_negative_that_no_row_has_is_told_before_any_time_is_spent(command: CommandLine, recipe: Path) -> None:
    recipe.write_text(RECIPE.replace("negative:", "text: [1, 2], image: 1, negative:"))
    for words in (("plan", recipe), ("run", recipe, "--backend", "fake")):
        said = command(*words)
        assert said.code == 0
        assert "sharp: negative does nothing at text 1, image 1" in " ".join(said.err.split())
    assert "plain: negative" not in said.err


def test_a_csv_may_have_negatives_and_strengths(command: CommandLine, recipe: Path) -> None:
    (recipe.parent / "notes.csv").write_text("photo;instruction;negative;strength\nthree.png;make it dark;fog;0,5\n")
    recipe.write_text(RECIPE.replace("photos: photos", "photos: {folder: photos, instructions: notes.csv}"))
    assert command("run", recipe, "--backend", "fake").code == 0
    (strip,) = (
        strip for strip in read_run(recipe.parent / "out").strips if strip.edits[0].instruction == "make it dark"
    )
    assert (strip.edits[0].negative, strip.strength) == ("fog", 0.5)
    (recipe.parent / "notes.csv").write_text("photo,instruction,strength\nthree.png,make it dark,1.5\n")
    said = command("plan", recipe)
    assert (said.code, "notes.csv:2" in said.err, "no strength" in said.err) == (2, True, True), said.err


@pytest.mark.parametrize("negative", ['""', "7", "[a]", '"' + "x" * 2001 + '"'])
def test_a_negative_is_a_text_of_some_length(command: CommandLine, recipe: Path, negative: str) -> None:
    recipe.write_text(RECIPE.replace('"blurry: \\"soft\\""', negative))
    said = command("plan", recipe)
    assert (said.code, "recipe.yaml:7" in said.err, "negative" in said.err) == (2, True, True), said.err


LINE = """
import dataclasses
from ip2pbatch.plan.families import FAMILIES
FAMILIES["distilled"] = dataclasses.replace(
    FAMILIES["instruct_pix2pix"], called="Distilled", pipelines=("DistilledPipeline",), null_text=False
)
"""


def test_a_model_that_has_no_null_text_refuses_it_by_name(recipe: Path) -> None:
    model = recipe.parent / "student"
    model.mkdir()
    (model / "model_index.json").write_text(json.dumps({"_class_name": "DistilledPipeline"}))
    recipe.write_text(RECIPE.replace("model: tiny", "model: ./student"))
    commands = [["validate", "recipe.yaml"], ["plan", "recipe.yaml"], ["run", "recipe.yaml", "--backend", "fake"]]
    for said in with_line(LINE, commands, recipe.parent):
        words = " ".join(said.err.split())
        assert (said.code, "sharp: negative" in words, "Distilled, which has no null text" in words) == (2, True, True)
    assert not (recipe.parent / "out").exists()
