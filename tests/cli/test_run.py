"""`run`, `retry` and what they leave behind, with the engine that needs no model."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from command import CommandLine
from PIL import Image

RECIPE = """
name: two
model: tiny
photos: photos
edits: [make it winter, {id: sketch, instruction: as a pencil sketch}]
size: {long_side: 96}
output: {folder: out}
"""


@pytest.fixture
def recipe(shoot: Path) -> Path:
    path = shoot / "recipe.yaml"
    path.write_text(RECIPE)
    return path


def delivered(folder: Path) -> dict[str, bytes]:
    """Every delivered file below `folder` by its name."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.suffix in (".jpg", ".png") and not {".ip2pbatch", "sheets"} & set(path.relative_to(folder).parts)
    }


def originals(shoot: Path) -> dict[Path, str]:
    return {p: hashlib.sha256(p.read_bytes()).hexdigest() for p in (shoot / "photos").rglob("*") if p.is_file()}


def test_a_run_delivers_every_edit_at_the_photos_own_size_and_tree(command: CommandLine, recipe: Path) -> None:
    before = originals(recipe.parent)
    said = command("run", recipe, "--backend", "fake")
    assert said.code == 0, said.err
    out = recipe.parent / "out"
    assert set(delivered(out)) == {
        f"{stem}_{edit}{suffix}"
        for stem, suffix in (("one", ".jpg"), ("three", ".png"), ("day2/two", ".jpg"))
        for edit in ("make-it-winter", "sketch")
    }
    for name in delivered(out):
        photo = recipe.parent / "photos" / name.replace("_make-it-winter", "").replace("_sketch", "")
        with Image.open(photo) as old, Image.open(out / name) as new:
            assert new.size == old.size
    assert (out / "sheets" / "overview.png").exists()
    assert "<html" in (out / "report.html").read_text()
    assert said.out.splitlines()[-1].startswith("done: 6 edits made, 6 files delivered")
    assert originals(recipe.parent) == before


def test_a_second_run_makes_nothing_and_a_new_instruction_only_itself(command: CommandLine, recipe: Path) -> None:
    assert command("run", recipe, "--backend", "fake").code == 0
    files = delivered(recipe.parent / "out")
    again = command("run", recipe, "--backend", "fake")
    assert again.out.splitlines()[-1].startswith("done: 0 edits made, 0 files delivered")
    recipe.write_text(RECIPE.replace("[make it winter", "[make it night, make it winter"))
    more = command("run", recipe, "--backend", "fake")
    assert more.out.splitlines()[-1].startswith("done: 3 edits made, 3 files delivered")
    after = delivered(recipe.parent / "out")
    assert {name: after[name] for name in files} == files
    assert len(after) == 9


def test_photos_that_are_the_same_picture_are_said_to_be(command: CommandLine, recipe: Path) -> None:
    photos = recipe.parent / "photos"
    (photos / "z.jpg").write_bytes((photos / "one.jpg").read_bytes())
    said = "note: z.jpg is the same picture as one.jpg: edited once, delivered under each name"
    planned, made = command("plan", recipe), command("run", recipe, "--backend", "fake")
    assert said in planned.err
    assert said in made.err
    assert "6 edits made, 8 files delivered" in made.out
    (photos / "zz.jpg").write_bytes((photos / "one.jpg").read_bytes())
    many = "2 photos, such as z.jpg, are the same picture as another one, one.jpg: edited once"
    assert many in command("plan", recipe).err


def test_a_plan_that_is_expanded_as_it_is_asked_for_is_counted_as_one_that_is_held(
    command: CommandLine, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert command("run", recipe, "--backend", "fake", "--limit", "1").code == 0
    held = json.loads(command("plan", recipe, "--json").out)
    monkeypatch.setattr("ip2pbatch.plan.large.expansion.MOST_HELD", 0)
    assert json.loads(command("plan", recipe, "--json").out) | {"disk_free": 0} == held | {"disk_free": 0}
    assert held["edits_left"] > held["edits_done"] > 0


def test_limit_and_only_cut_down_and_the_rest_goes_on_later(command: CommandLine, recipe: Path) -> None:
    assert command("run", recipe, "--backend", "fake", "--limit", "1").code == 0
    assert {name.split("_")[0] for name in delivered(recipe.parent / "out")} == {"day2/two"}
    assert command("run", recipe, "--backend", "fake", "--only", "*.png").code == 0
    plan = json.loads(command("plan", recipe, "--json").out)
    assert (plan["edits"], plan["edits_done"], plan["edits_left"]) == (6, 4, 2)
    assert command("plan", recipe, "--exit-code").code == 4
    assert command("run", recipe, "--backend", "fake").out.splitlines()[-1].startswith("done: 2 edits made")
    assert command("plan", recipe, "--exit-code").code == 0


def test_files_that_a_run_would_write_are_work_left(command: CommandLine, recipe: Path) -> None:
    assert command("run", recipe, "--backend", "fake").code == 0
    said = command("plan", recipe, "--exit-code")
    assert said.code == 0
    assert "6 files, 0 to deliver" in said.out
    gone = next((recipe.parent / "out").glob("one_*.jpg"))
    gone.unlink()
    assert json.loads(command("plan", recipe, "--json").out)["files_left"] == 1
    assert "6 files, 1 to deliver" in command("plan", recipe).out
    assert command("plan", recipe, "--exit-code").code == 4
    assert command("run", recipe, "--backend", "fake").code == 0
    assert command("plan", recipe, "--exit-code").code == 0
    recipe.write_text(recipe.read_text() + "metadata: {prompt: false}\n")
    assert json.loads(command("plan", recipe, "--json").out)["files_left"] == 6
    assert command("plan", recipe, "--exit-code").code == 4


def test_a_broken_photo_is_named_and_the_others_are_edited(command: CommandLine, recipe: Path) -> None:
    (recipe.parent / "photos" / "torn.jpg").write_bytes((recipe.parent / "photos/one.jpg").read_bytes()[:700])
    (recipe.parent / "photos" / "empty.jpg").write_bytes(b"")
    said = command("run", recipe, "--backend", "fake")
    assert said.code == 3
    assert "torn.jpg" in said.err
    assert "empty.jpg" in said.err
    assert said.out.splitlines()[-1].startswith("not complete: 6 edits made, 6 files delivered")


def test_status_names_the_photos_that_cannot_be_read(command: CommandLine, recipe: Path) -> None:
    (recipe.parent / "photos/torn.jpg").write_bytes(b"no photo")
    assert command("run", recipe, "--backend", "fake").code == 3
    said = command("status", recipe.parent / "out")
    assert "not edited: torn.jpg: is not a JPEG" in said.out
    (row,) = json.loads(command("status", recipe.parent / "out", "--json").out)["broken"]
    assert row["file"] == "torn.jpg"
    (recipe.parent / "photos/torn.jpg").unlink()
    assert command("run", recipe, "--backend", "fake").code == 0
    assert "torn.jpg" not in command("status", recipe.parent / "out").out


def test_a_replaced_photo_s_picture_takes_the_earlier_one_s_place_unless_a_person_changed_that(
    command: CommandLine, recipe: Path
) -> None:
    command("run", recipe, "--backend", "fake")
    before = delivered(recipe.parent / "out")
    with Image.open(recipe.parent / "photos/one.jpg") as photo:
        photo.rotate(180).save(recipe.parent / "photos/one.jpg")
    touched = recipe.parent / "out/one_sketch.jpg"
    touched.write_bytes(touched.read_bytes() + b"mine")
    said = command("run", recipe, "--backend", "fake")
    assert said.code == 0
    after = delivered(recipe.parent / "out")
    assert after.keys() - before.keys() == {"one_sketch_2.jpg"}
    assert after["one_make-it-winter.jpg"] != before["one_make-it-winter.jpg"]
    assert after["one_sketch.jpg"] == before["one_sketch.jpg"] + b"mine"
    assert "the file of that name is an earlier picture, and was changed by hand (1 file)" in said.err


def test_another_engine_than_the_runs_is_refused_naming_the_field(command: CommandLine, recipe: Path) -> None:
    assert command("run", recipe, "--backend", "fake").code == 0
    said = command("run", recipe, "--backend", "fake", "--determinism", "bitwise")
    assert said.code == 2
    assert "determinism" in said.err
    assert "hint:" in said.err
    fresh = command("run", recipe, "--backend", "fake", "--determinism", "bitwise", "--fresh")
    assert fresh.code == 0, fresh.err
    assert (recipe.parent / "out" / ".ip2pbatch" / "results.jsonl").exists()


def test_output_inside_the_photos_folder_is_refused(command: CommandLine, recipe: Path) -> None:
    said = command("run", recipe, "--backend", "fake", "--out", recipe.parent / "photos" / "out")
    assert said.code == 2
    assert not (recipe.parent / "photos" / "out").exists()


def test_nothing_matched_is_exit_5(command: CommandLine, recipe: Path) -> None:
    assert command("run", recipe, "--backend", "fake", "--only", "*.gif").code == 5
    (recipe.parent / "none").mkdir()
    recipe.write_text(RECIPE.replace("photos: photos", "photos: none"))
    assert command("run", recipe, "--backend", "fake").code == 5


def test_a_mistake_in_a_recipe_has_its_place_and_a_hint(command: CommandLine, recipe: Path) -> None:
    recipe.write_text(RECIPE.replace("size: {long_side: 96}", "sise: {long_side: 96}"))
    said = command("run", recipe, "--backend", "fake")
    assert said.code == 2
    assert f"{recipe}:6:1: sise" in said.err
    assert "size" in said.err.split("hint:")[1]


def test_two_results_on_one_name_are_refused_before_anything_runs(command: CommandLine, recipe: Path) -> None:
    recipe.write_text(RECIPE.replace("output: {folder: out}", 'output: {folder: out, name: "all"}'))
    for words in (["run", recipe, "--backend", "fake"], ["plan", recipe]):
        said = command(*words)
        assert said.code == 2
        assert "would both be" in said.err
    assert not list((recipe.parent / "out").glob("*.jpg"))


def test_validate_shows_every_mistake_of_every_file(command: CommandLine, recipe: Path) -> None:
    wrong = recipe.with_name("wrong.yaml")
    wrong.write_text(RECIPE + "stepz: 5\nseed: 2\n")
    inside = recipe.with_name("inside.yaml")
    inside.write_text(RECIPE.replace("{folder: out}", "{folder: photos/out}"))
    said = command("validate", wrong, inside, recipe)
    assert said.code == 2
    for told in (f"{wrong}:8:1: stepz", "did you mean 'steps'?", f"{wrong}:9:1: seed", f"{inside}: the output folder"):
        assert told in said.err
    assert said.out == f"{recipe}: ok, 2 edits\n"


def test_a_locked_run_is_exit_11(command: CommandLine, recipe: Path) -> None:
    from ip2pbatch.run.directory.ledger import open_run
    from ip2pbatch.run.directory.view import read_run

    assert command("run", recipe, "--backend", "fake").code == 0
    out = recipe.parent / "out"
    with open_run(out, read_run(out).spec):
        assert command("run", recipe, "--backend", "fake").code == 11
    assert command("run", recipe, "--backend", "fake").code == 0


def test_deliver_writes_other_files_without_the_model(command: CommandLine, recipe: Path) -> None:
    assert command("run", recipe, "--backend", "fake").code == 0
    said = command("deliver", recipe, "--format", "webp", "--full-resolution", "off")
    assert said.code == 0, said.err
    files = sorted((recipe.parent / "out").rglob("*.webp"))
    assert len(files) == 6
    with Image.open(recipe.parent / "out" / "one_sketch.webp") as picture:
        assert picture.size == (96, 72)
    assert command("deliver", recipe, "--format", "gif").code == 2


def test_status_says_once_what_fails_alike(command: CommandLine, recipe: Path) -> None:
    broken = recipe.parent / "photos" / "broken.jpg"
    broken.write_bytes(next((recipe.parent / "photos").rglob("*.jpg")).read_bytes()[:2000])
    recipe.write_text(RECIPE + "seeds: [1, 2, 3]\n")
    assert command("run", recipe, "--backend", "fake").code == 3
    lines = [line for line in command("status", recipe).out.splitlines() if "broken.jpg" in line]
    assert [line.partition(": the file")[0] for line in lines] == [
        "  failed: broken.jpg: make it winter", "  failed: broken.jpg: as a pencil sketch"
    ]  # fmt: skip
    assert all(line.endswith("(3 times)") for line in lines)


def test_status_sheet_and_report_need_only_the_run(command: CommandLine, recipe: Path, tmp_path: Path) -> None:
    assert command("run", recipe, "--backend", "fake").code == 0
    for photo in (recipe.parent / "photos").rglob("*.*"):
        photo.unlink()
    out = recipe.parent / "out"
    facts = json.loads(command("status", out, "--json").out)
    assert facts["edits"]["done"] == 6
    assert facts["photos"] == 3
    assert "6 done" in command("status", recipe).out
    pages = command("sheet", out, "--cell", "128", "--out", tmp_path / "small").out.split()
    assert pages
    assert all(Path(page).exists() for page in pages)
    assert command("report", out, "--out", tmp_path / "r.html").code == 0
    assert (tmp_path / "r.html").exists()
    assert command("status", tmp_path / "nowhere").code == 2


def test_a_disk_that_may_be_too_small_is_told_before_the_work_and_refuses_nothing(
    command: CommandLine, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ip2pbatch.jobs.forecast.shutil.disk_usage", lambda path: SimpleNamespace(free=1000))
    said = command("run", recipe, "--backend", "fake")
    assert said.code == 0
    assert "what is left may need about 0.1 MB, and the disk of" in said.err.replace("\n", " ")
    assert "may need" not in command("run", recipe, "--backend", "fake").err, "nothing is left"
