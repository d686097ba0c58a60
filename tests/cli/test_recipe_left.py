"""The recipe that every `edit` leaves in its output folder, and what becomes of it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from command import CommandLine, Said

FAKE = ("--backend", "fake", "--model", "tiny")


@pytest.fixture
def shoot_out(shoot: Path) -> tuple[Path, Path]:
    (shoot / "photos/three.png").unlink()
    return shoot / "photos", shoot / "out"


def edit(command: CommandLine, photos: Path, words: str, out: Path, *flags: str | Path) -> Said:
    return command("edit", photos, "-i", words, "-o", out, *FAKE, "--size", "96", *flags)


def names(out: Path) -> set[str]:
    return {path.relative_to(out).as_posix() for path in out.rglob("*_*.jpg") if ".ip2pbatch" not in path.parts}


def test_the_recipe_runs_as_it_stands_wherever_its_folder_lies(
    command: CommandLine, shoot_out: tuple[Path, Path]
) -> None:
    photos, out = shoot_out
    assert edit(command, photos, "make it winter", out, "--seed", "3", "--gps", "strip").code == 0
    assert command("validate", out / "recipe.yaml").code == 0
    moved = out.rename(out.with_name("moved"))
    said = command("run", moved / "recipe.yaml", *FAKE[:2])
    assert (said.code, "0 edits made, 0 files delivered" in said.out) == (0, True), said.out
    assert not out.exists()
    assert command("lock", moved / "recipe.yaml").code == 0
    assert command("run", moved / "recipe.yaml", "--locked", *FAKE[:2]).code == 0


def test_several_edits_leave_what_all_of_them_asked_for(command: CommandLine, shoot_out: tuple[Path, Path]) -> None:
    photos, out = shoot_out
    assert edit(command, photos, "make it winter", out).code == 0
    elsewhere = out.with_name("kept.yaml")
    assert edit(command, photos / "one.jpg", "make it dark", out, "--recipe", elsewhere, "--size", "64").code == 0
    before = names(out)
    said = command("run", out / "recipe.yaml", *FAKE[:2])
    assert "0 edits made, 0 files delivered" in said.out
    assert (said.out.splitlines()[-1].endswith("all 3 edits are there"), names(out)) == (True, before)
    shutil.rmtree(out)
    assert "3 edits made, 3 files delivered" in command("run", elsewhere, *FAKE[:2]).out
    assert names(out) == before


def test_a_recipe_that_a_person_changed_stays_and_is_told(command: CommandLine, shoot_out: tuple[Path, Path]) -> None:
    photos, out = shoot_out
    out.mkdir()
    recipe = out / "recipe.yaml"
    recipe.write_text("mine")
    said = edit(command, photos / "one.jpg", "make it winter", out)
    assert (said.code, "what is asked now is in recipe-2.yaml" in said.err.replace("\n", " ")) == (0, True)
    recipe.unlink()
    assert edit(command, photos / "one.jpg", "make it winter", out).code == 0
    recipe.write_text(recipe.read_text().replace("winter", "summer"))
    changed = recipe.read_bytes()
    said = command("run", out, *FAKE[:2])
    assert f"{recipe} was changed since: give the file to run it as it is now" in said.err.replace("\n", " ")
    assert edit(command, photos / "one.jpg", "make it dark", out).code == 0
    assert recipe.read_bytes() == changed
    assert "make it dark" in (out / "recipe-2.yaml").read_text(), "ours, and as it was left"
    assert not (out / "recipe-3.yaml").exists()
    said = command("edit", out, "-i", "make it red", "-o", out.with_name("second"), *FAKE)
    assert (said.code, "yaml" in said.out) == (0, False), "a run's own files are nothing that was passed over"


def test_a_recipe_goes_over_no_file_but_our_own(command: CommandLine, shoot_out: tuple[Path, Path]) -> None:
    photos, out = shoot_out
    for elsewhere in (photos / "one.jpg", photos, out.with_name("no") / "r.yaml"):
        said = edit(command, photos, "make it winter", out, "--recipe", elsewhere)
        assert (said.code, "--recipe" in said.err, out.exists()) == (2, True, False)
    kept = out.with_name("kept.yaml")
    link = out.with_name("link.yaml")
    link.symlink_to(kept)
    for _ in range(2):
        assert edit(command, photos / "one.jpg", "make it winter", out, "--recipe", kept).code == 0
    assert edit(command, photos / "one.jpg", "make it winter", out, "--recipe", link).code == 2
    kept.write_text(kept.read_text() + "# mine\n")
    assert edit(command, photos / "one.jpg", "make it winter", out, "--recipe", kept).code == 2


def test_what_one_recipe_cannot_say_is_told_in_it_and_goes_on_from_the_folder(
    command: CommandLine, shoot_out: tuple[Path, Path]
) -> None:
    photos, out = shoot_out
    other = out.with_name("other") / "photos"
    other.mkdir(parents=True)
    shutil.copy(photos / "day2/two.jpg", other / "one.jpg")
    assert edit(command, photos, "make it winter", out).code == 0
    said = edit(command, other, "make it winter", out)
    assert (said.code, "holds what is asked now alone" in said.err.replace("\n", " ")) == (0, True), said.err
    assert "`ip2pbatch run` of that folder goes on with all" in (out / "recipe.yaml").read_text()
    assert command("validate", out / "recipe.yaml").code == 0
    assert "all 2 edits are there" in command("run", out, *FAKE[:2]).out, "two photos of one picture"
