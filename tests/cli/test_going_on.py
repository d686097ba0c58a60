"""`run`, `retry` and `deliver` of an output folder: they go on with what was last asked for there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from command import CommandLine, Said

from ip2pbatch.disk.journal import Journal
from ip2pbatch.disk.one_writer import WriterLock
from ip2pbatch.run.directory.view import read_run

RECIPE = """
model: tiny
photos: photos
edits: [make it winter]
output: {folder: out}
size: {long_side: 96}
sheet: {cell: 64}
"""
FAKE = ("--backend", "fake")


@pytest.fixture
def recipe(shoot: Path) -> Path:
    path = shoot / "recipe.yaml"
    path.write_text(RECIPE)
    return path


def files(out: Path) -> set[str]:
    found = (path.relative_to(out) for path in out.rglob("*") if path.suffix in (".jpg", ".png"))
    return {path.as_posix() for path in found if path.parts[0] not in (".ip2pbatch", "sheets")}


def edit(command: CommandLine, photos: Path, words: str, out: Path, *flags: str) -> Said:
    said = command("edit", photos, "-i", words, "-o", out, "--size", "96", *FAKE, *flags)
    assert said.code == 0, said.err
    return said


def test_a_run_goes_on_from_its_folder_wherever_recipe_and_folder_lie(
    command: CommandLine, recipe: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(recipe.parent)
    assert command("run", "recipe.yaml", *FAKE, "--limit", "1").code == 0
    moved = recipe.parent / "elsewhere" / "moved"
    moved.parent.mkdir()
    (recipe.parent / "out").rename(moved)
    monkeypatch.chdir(moved)
    said = command("run", moved, *FAKE)
    assert (said.code, "2 edits made, 2 files delivered" in said.out) == (0, True), said.err
    going_on = f"going on with {recipe}; of all photos, where the last command was for some only"
    assert going_on in said.err.replace("\n", " ")
    assert not (recipe.parent / "out").exists()
    assert command("deliver", moved, "--format", "png").code == 0
    assert "three_make-it-winter.png" in files(moved)


@pytest.mark.parametrize("devices", [(), ("--devices", "cpu")], ids=["one", "workers"])
def test_a_bitwise_run_goes_on_only_where_its_bits_are_the_same(
    command: CommandLine, recipe: Path, monkeypatch: pytest.MonkeyPatch, devices: tuple[str, ...]
) -> None:
    run = ("run", recipe, *FAKE, "--determinism", "bitwise")
    sessions = recipe.parent / "out/.ip2pbatch/sessions.jsonl"
    with monkeypatch.context() as patched:
        patched.setattr("ip2pbatch.engine.on_fake.device_name", lambda machine: "a CPU, 2 threads")
        assert command(*run, "--limit", "1").code == 0
        patched.setattr("ip2pbatch.engine.on_fake.device_name", lambda machine: "a CPU, 1 threads")
        patched.setattr("ip2pbatch.jobs.engines.versions", lambda backend: {"numpy": "1.0.0", "python": "4.0"})
        assert command(*run, "--limit", "1").code == 0  # nothing is left to make
        before = sessions.read_bytes()
        said = command(*run)
        assert said.code == 2
        assert "device is a CPU, 1 threads, was a CPU, 2 threads; numpy is 1.0.0, was" in said.err.replace("\n", " ")
        assert "python" not in said.err
        assert command("watch", recipe.parent / "photos", recipe, *FAKE, "--determinism", "bitwise").code == 2
    said = command(*run, *devices)
    assert (said.code, "device is cpu, was a CPU, 2 threads" in said.err.replace("\n", " ")) == (2, True)
    assert "--fresh to start a run beside it" in said.err.replace("\n", " ")
    assert sessions.read_bytes() == before


def test_a_changed_recipe_is_told_and_the_run_goes_on_with_what_was_asked(command: CommandLine, recipe: Path) -> None:
    out = recipe.parent / "out"
    assert command("run", recipe, *FAKE).code == 0
    recipe.write_text(RECIPE.replace("winter", "summer"))
    said = command("run", out, *FAKE)
    assert (said.code, "0 edits made" in said.out) == (0, True)
    assert "it was changed since: give the file to run it as it is now" in said.err.replace("\n", " ")
    recipe.unlink()
    assert "it cannot be read any more" in command("run", out, *FAKE).err.replace("\n", " ")


def test_several_edits_go_on_together_each_as_it_was_asked(command: CommandLine, shoot: Path) -> None:
    out = shoot / "out"
    edit(command, shoot / "photos/one.jpg", "make it winter", out)
    edit(command, shoot / "photos", "make it dark", out, "--format", "png")
    edit(command, shoot / "photos/one.jpg", "make it winter", out, "--text", "4")
    before = files(out)
    assert "one_make-it-winter_t4.jpg" in before
    for name in before:
        (out / name).unlink()
    said = command("run", out, *FAKE)
    assert (said.code, "going on with what 3 commands asked for" in said.err) == (0, True), said.err
    assert said.out.splitlines()[-1].endswith("all 5 edits are there")
    assert "0 edits made, 5 files delivered" in said.out
    assert files(out) == before
    assert len(read_run(out).sessions[-1].recipes) == 3
    said = command("deliver", out, "--format", "jpeg", "--tidy")
    assert (said.code, "removed 3 files" in said.out) == (0, True), said.out + said.err
    assert {Path(name).suffix for name in files(out)} == {".jpg"}
    said = command("retry", out, "--only", "three*", *FAKE)
    assert (said.code, said.out.splitlines()[-1].endswith("the one edit is there")) == (0, True), said.out + said.err
    assert command("retry", out, "--only", "nobody", *FAKE).code == 5


def test_what_two_commands_asked_for_keeps_one_name(command: CommandLine, shoot: Path) -> None:
    out, photo = shoot / "out", shoot / "photos/one.jpg"
    edit(command, photo, "make it winter", out, "--text", "5,7.5")
    before = files(out)
    edit(command, photo, "make it winter", out, "--text", "5")
    assert "0 edits made, 0 files delivered" in command("run", out, *FAKE).out
    assert files(out) == before
    edit(command, photo, "make it winter", out, "--text", "5", "--format", "png")
    assert files(out) - before == {"one_make-it-winter.png"}


def test_a_recipe_run_again_is_alone_what_the_folder_is_asked_for(command: CommandLine, recipe: Path) -> None:
    out = recipe.parent / "out"
    assert command("run", recipe, *FAKE).code == 0
    edit(command, recipe.parent / "photos/one.jpg", "make it dark", out, "--model", "tiny")
    assert "all 4 edits are there" in command("run", out, *FAKE).out
    assert command("run", recipe, *FAKE).code == 0
    assert "all 3 edits are there" in command("run", out, *FAKE).out


def test_a_fresh_run_of_the_folder_makes_all_of_it_beside_the_old_one(command: CommandLine, shoot: Path) -> None:
    out = shoot / "out"
    edit(command, shoot / "photos/one.jpg", "make it winter", out)
    edit(command, shoot / "photos/one.jpg", "make it dark", out)
    assert "2 edits made" in command("run", out, *FAKE, "--fresh").out
    assert [path.name for path in sorted(out.glob(".ip2p*"))] == [".ip2pbatch", ".ip2pbatch-2"]
    assert "all 2 edits are there" in command("run", out / ".ip2pbatch", *FAKE).out, "the newest, as for every reader"


def test_photos_that_are_gone_are_named_and_keep_nothing_else_from_going_on(command: CommandLine, recipe: Path) -> None:
    out, photos, others = recipe.parent / "out", recipe.parent / "photos", recipe.parent / "others"
    (photos / "three.png").unlink()
    edit(command, photos, "make it winter", out)
    away = photos.rename(photos.with_name("away"))
    said = command("run", out, *FAKE)
    assert (said.code, f"are gone: {photos}" in said.err.replace("\n", " ")) == (2, True)
    assert "hint: bring them back, or `ip2pbatch edit` them where they are" in said.err.replace("\n", " ")
    others.mkdir()
    shutil.copy(away / "one.jpg", others / "new.jpg")
    edit(command, others, "make it dark", out)
    said = command("run", out, *FAKE)
    assert (said.code, "passed over, because it is gone" in said.err) == (0, True), said.err
    for picture in (out / ".ip2pbatch/edits").rglob("*.png"):
        picture.unlink()
    said = command("run", out, *FAKE)
    assert (said.code, "gone before all of it was edited" in said.err) == (3, True), said.err
    away.rename(photos)
    assert "all 3 edits are there" in command("run", out, *FAKE).out


def test_a_folder_is_a_run_s_or_none_whatever_photos_lie_in_it(command: CommandLine, shoot: Path) -> None:
    photos = shoot / "photos"
    said = command("run", photos, *FAKE)
    assert (said.code, f"{photos} holds no run" in said.err.replace("\n", " ")) == (2, True)
    assert "`ip2pbatch edit` takes photos" in said.err.replace("\n", " ")
    assert [command(name, photos).code for name in ("retry", "deliver")] == [2, 2]
    edit(command, photos / "one.jpg", "make it winter", photos)
    said = command("run", photos, *FAKE)
    assert (said.code, "the one edit is there" in said.out) == (0, True), said.err


def test_a_run_that_does_not_say_its_recipe_is_refused_with_its_last_command(
    command: CommandLine, recipe: Path
) -> None:
    out = recipe.parent / "out"
    assert command("run", recipe, *FAKE).code == 0
    journal = out / ".ip2pbatch/sessions.jsonl"
    rows = [json.loads(line) for line in journal.read_text().splitlines()]
    journal.unlink()
    older = Journal(journal, sealed=True)
    for row in rows:
        older.append({key: value for key, value in row.items() if key not in ("recipes", "crc")})
    older.close()
    for words in (("run", out, *FAKE), ("retry", out, *FAKE), ("deliver", out)):
        said = command(*words)
        assert (said.code, "does not say which recipe" in said.err) == (2, True)
        assert f"its last command was: ip2pbatch run {recipe}" in said.err.replace("\n", " ")
    edit(command, recipe.parent / "photos/one.jpg", "make it dark", out, "--model", "tiny")
    assert command("run", out, *FAKE).code == 2, "what stands beside the edit is still not known"
    assert command("run", recipe, *FAKE).code == 0
    assert command("run", out, *FAKE).code == 0


def test_a_folder_that_another_command_writes_to_is_locked(command: CommandLine, recipe: Path) -> None:
    out = recipe.parent / "out"
    assert command("run", recipe, *FAKE).code == 0
    lock = WriterLock(out / ".ip2pbatch", "")
    with lock.gate():
        lock.acquire()
    try:
        assert [command("run", out, *FAKE).code, command("deliver", out).code] == [11, 11]
    finally:
        lock.release()
    assert command("run", out, "--locked", *FAKE).code == 2, "a lock is a recipe's"
