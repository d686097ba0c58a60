"""A delivered file never shows an old picture, and a further `edit` adds to what earlier ones made."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from command import CommandLine
from PIL import Image
from runs import unsealed

from ip2pbatch.run.directory.view import read_run

RECIPE = """
name: shoot
model: tiny
photos: photos
edits: [{id: snow, instruction: make it snow}]
output: {folder: out, on_conflict: unique}
size: {long_side: 96}
"""
FAKE = ("--backend", "fake")


@pytest.fixture
def recipe(command: CommandLine, shoot: Path) -> Path:
    path = shoot / "recipe.yaml"
    path.write_text(RECIPE)
    assert command("run", path, *FAKE).code == 0
    return path


def files(out: Path) -> dict[str, bytes]:
    found = (path for path in (*out.glob("*.*"), *out.glob("*/*.*")) if path.suffix in (".jpg", ".png"))
    below = {path.relative_to(out).as_posix(): path for path in found if path.parent.name != "sheets"}
    return {name: path.read_bytes() for name, path in below.items() if not name.startswith(".ip2pbatch")}


def fresh(command: CommandLine, recipe: Path) -> dict[str, bytes]:
    """The files of a folder of its own."""
    out = recipe.parent / "elsewhere"
    assert command("run", recipe, *FAKE, "--out", out).code == 0
    return files(out)


@pytest.mark.parametrize("policy", ["unique", "skip", "error", "overwrite"])
def test_another_instruction_under_the_same_id_replaces_our_own_files(
    command: CommandLine, recipe: Path, policy: str
) -> None:
    recipe.write_text(RECIPE.replace("make it snow", "make it snow hard").replace("unique", policy))
    said = command("run", recipe, *FAKE)
    assert said.code == 0, said.err
    assert files(recipe.parent / "out") == fresh(command, recipe)
    assert json.loads(command("status", recipe, "--json").out)["superseded"] == []
    assert command("run", recipe, *FAKE).out.splitlines()[-1].startswith("done: 0 edits made, 0 files delivered")


def test_a_photo_that_was_replaced_is_shown_by_its_file(command: CommandLine, recipe: Path) -> None:
    command.guarding = False
    photo = recipe.parent / "photos/one.jpg"
    with Image.open(photo) as picture:
        turned = Image.fromarray(255 - np.asarray(picture))
    turned.save(photo, quality=95)
    assert command("run", recipe, *FAKE).code == 0
    assert files(recipe.parent / "out") == fresh(command, recipe)


def test_another_scale_replaces_and_what_was_asked_for_before_comes_back(command: CommandLine, recipe: Path) -> None:
    before = files(recipe.parent / "out")
    recipe.write_text(RECIPE + "guidance: {text: 3}\n")
    assert command("run", recipe, *FAKE).code == 0
    assert files(recipe.parent / "out") == fresh(command, recipe) != before
    recipe.write_text(RECIPE)
    said = command("run", recipe, *FAKE)
    assert said.out.splitlines()[-1].startswith("done: 0 edits made, 3 files delivered")
    assert files(recipe.parent / "out") == before


def test_one_that_a_person_changed_is_left_told_and_counted(command: CommandLine, recipe: Path) -> None:
    out = recipe.parent / "out"
    (out / "one_snow.jpg").write_bytes(b"retouched by hand")
    recipe.write_text(RECIPE.replace("make it snow", "make it snow hard"))
    said = command("run", recipe, *FAKE)
    assert said.code == 0
    assert "the file of that name is an earlier picture, and was changed by hand (1 file)" in said.err
    found = files(out)
    assert found.pop("one_snow.jpg") == b"retouched by hand"
    assert set(found) == {"one_snow_2.jpg", "three_snow.png", "day2/two_snow.jpg"}


def test_a_stranger_s_file_and_another_recipe_s_are_not_touched(command: CommandLine, recipe: Path) -> None:
    out = recipe.parent / "out"
    before = files(out)
    other = recipe.with_name("other.yaml")
    other.write_text(RECIPE.replace("name: shoot", "name: other").replace("make it snow", "make it dark"))
    (out / "elsewhere.jpg").write_bytes(b"somebody's")
    assert command("run", other, *FAKE).code == 0
    after = files(out)
    assert after.items() >= before.items()
    assert set(after) - set(before) == {"one_snow_2.jpg", "three_snow_2.png", "day2/two_snow_2.jpg", "elsewhere.jpg"}
    assert command("run", recipe, *FAKE).out.splitlines()[-1].startswith("done: 0 edits made, 0 files delivered")


def test_a_name_that_an_earlier_version_numbered_is_put_right(command: CommandLine, recipe: Path) -> None:
    out = recipe.parent / "out"
    recipe.write_text(RECIPE.replace("make it snow", "make it snow hard"))
    kept = (out / "one_snow.jpg").read_bytes()
    assert command("run", recipe, *FAKE).code == 0
    journal = out / ".ip2pbatch/deliveries.jsonl"
    rows = [json.loads(line) for line in unsealed(journal).splitlines()]
    for row in rows[-6:]:  # as it went before: the old picture kept the name
        if row["path"] == "one_snow.jpg":
            row["path"] = "one_snow_2.jpg"
    journal.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (out / "one_snow.jpg").rename(out / "one_snow_2.jpg")
    (out / "one_snow.jpg").write_bytes(kept)
    assert json.loads(command("status", out, "--json").out)["superseded"] == ["one_snow.jpg"]
    planned = command("plan", recipe, "--json", "--exit-code")
    assert (planned.code, json.loads(planned.out)["files_left"]) == (4, 1)
    said = command("run", recipe, *FAKE)
    assert "still there under older names: 1 file delivered before, such as one_snow_2.jpg" in said.err
    assert command("plan", recipe, "--exit-code").code == 0
    expected = fresh(command, recipe)
    assert files(out) == expected | {"one_snow_2.jpg": expected["one_snow.jpg"]}


def test_a_further_edit_adds_its_cells_and_a_varying_axis_is_in_its_names(command: CommandLine, shoot: Path) -> None:
    out, one = shoot / "out", shoot / "photos/one.jpg"
    edit = ("edit", one, "-o", out, *FAKE)
    assert command(*edit, "-i", "make it winter", "--seed", "1").code == 0
    before = files(out)
    for more, name in (
        (("-i", "make it winter", "--seed", "2"), "one_make-it-winter_s2.jpg"),
        (("-i", "make it night", "--seed", "2"), "one_make-it-night.jpg"),
        (("-i", "make it winter", "--seed", "1", "--text", "3"), "one_make-it-winter_t3_s1.jpg"),
        (("-i", "make it night", "--seed", "2", "--steps", "5"), "one_make-it-night_5steps.jpg"),
        (("-i", "make it night", "--seed", "2", "--sampler", "ddim"), "one_make-it-night_20steps_ddim.jpg"),
        (("-i", "make it night", "--seed", "2", "--size", "256"), "one_make-it-night_20steps_euler_a_256px.jpg"),
        (("-i", "make it night", "--seed", "3"), "one_make-it-night_s3_20steps_euler_a_512px.jpg"),
    ):
        assert command(*edit, *more).code == 0
        after = files(out)
        assert after.items() >= before.items()
        assert set(after) - set(before) == {name}
        before = after
    view = read_run(out)
    assert view.counts()["done"] == len(view.strips) == 8
    page = (out / "report.html").read_text("utf-8")
    assert all(f"./{name}" in page for name in before)
    said = command(*edit, "-i", "make it winter", "--seed", "1")
    assert said.out.splitlines()[-1].startswith("done: 0 edits made, 0 files delivered")
    assert (files(out), read_run(out).counts()["done"]) == (before, 8)


def test_a_further_edit_of_another_photo_of_that_name_and_of_one_that_was_replaced(
    command: CommandLine, shoot: Path
) -> None:
    out, one, other = shoot / "out", shoot / "photos/one.jpg", shoot / "more/one.jpg"
    other.parent.mkdir()
    with Image.open(one) as picture:
        Image.fromarray(255 - np.asarray(picture)).save(other, quality=95)
    for photo in (one, other, one, other):
        assert command("edit", photo, "-i", "make it winter", "-o", out, *FAKE).code == 0
    before = files(out)
    assert set(before) == {"one_make-it-winter.jpg", "more/one_make-it-winter.jpg"}
    command.guarding = False
    one.write_bytes(other.read_bytes())
    assert command("edit", one, "-i", "make it winter", "-o", out, *FAKE).code == 0
    after = files(out)
    assert set(after) == set(before)
    assert after["one_make-it-winter.jpg"] != before["one_make-it-winter.jpg"]
    assert len(read_run(out).strips) == 2
