"""`edit`: photos and instructions in, files out, without a recipe."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import yaml
from command import CommandLine

from ip2pbatch.run.directory.view import read_run


def test_one_photo_and_one_instruction(command: CommandLine, shoot: Path) -> None:
    out = shoot / "out"
    said = command("edit", shoot / "photos/one.jpg", "-i", "make it winter", "-o", out, "--backend", "fake")
    assert said.code == 0, said.err
    assert [path.name for path in out.glob("*.jpg")] == ["one_make-it-winter.jpg"]


def test_what_files_are_delivered_is_said_in_the_same_line(command: CommandLine, shoot: Path) -> None:
    photo, out = shoot / "photos/one.jpg", shoot / "out"
    os.utime(photo, (1_400_000_000, 1_400_000_000))
    files = ["--name", "{edit}/{stem}", "--format", "png", "--dates", "source", "--gps", "strip", "--quality", "80"]
    said = command("edit", photo, "-i", "make it winter", "-o", out, "--backend", "fake", *files)
    assert said.code == 0, said.err
    (written,) = out.rglob("one.png")
    assert (written.relative_to(out).as_posix(), written.stat().st_mtime) == ("make-it-winter/one.png", 1_400_000_000)
    recipe = yaml.safe_load(read_run(out).sessions[-1].recipe)
    del recipe["output"]["folder"]
    assert recipe["output"] == {"name": "{edit}/{stem}", "format": "png", "quality": 80, "dates": "source"}
    assert recipe["metadata"] == {"gps": "strip"}


def test_scales_as_lists_and_ranges_make_a_grid_with_the_values_in_the_names(command: CommandLine, shoot: Path) -> None:
    out = shoot / "out"
    said = command(
        "edit", shoot / "photos/one.jpg", "-i", "make it winter", "-o", out, "--backend", "fake",
        "--text", "5,7.5", "--image", "1..1.5 by 0.25", "--seed", "7", "--steps", "2", "--size", "64",
    )  # fmt: skip
    assert said.code == 0, said.err
    assert sorted(path.name for path in out.glob("*.jpg")) == sorted(
        f"one_make-it-winter_t{text}_i{image}.jpg" for text in ("5", "7.5") for image in ("1", "1.25", "1.5")
    )
    assert any("guidance" in path.name or "winter" in path.name for path in (out / "sheets").glob("*.png"))


def test_the_session_keeps_a_recipe_that_asks_for_the_same_pictures(command: CommandLine, shoot: Path) -> None:
    out = shoot / "out"
    arguments = ["-i", "make it winter", "-i", "as a mosaic", "--text", "5, 7", "--seed", "3", "--backend", "fake"]
    assert command("edit", shoot / "photos", *arguments, "-o", out).code == 0
    recipe = shoot / "again.yaml"
    recipe.write_text(read_run(out).sessions[-1].recipe)
    again = command("run", recipe, "--backend", "fake")
    assert again.out.splitlines()[-1].startswith("done: 0 edits made, 0 files delivered"), again.err


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--text", "five"], "--text"),
        (["--image", "1..2 by 0"], "--image"),
        (["--seed", "1.5"], "--seed"),
        (["--steps", "0"], "steps"),
        (["--backend", "magic"], "backend"),
        (["--name", "{nobody}"], "--name"),
        (["--format", "psd"], "--format"),
        (["--quality", "0"], "quality"),
        (["--dates", "never"], "--dates"),
        (["--gps", "yes"], "--gps"),
    ],
)
def test_wrong_flags_are_exit_2_and_named(
    command: CommandLine, shoot: Path, arguments: list[str], complaint: str
) -> None:
    said = command("edit", shoot / "photos", "-i", "make it winter", "-o", shoot / "out", *arguments)
    assert said.code == 2
    assert complaint in said.err
    assert not (shoot / "out").exists()


def test_a_photo_that_is_not_there_is_named(command: CommandLine, shoot: Path) -> None:
    said = command("edit", shoot / "no.jpg", "-i", "x", "-o", shoot / "out", "--backend", "fake")
    assert said.code in (2, 5)
    assert "no.jpg" in said.err


def test_without_the_model_the_message_names_the_way_to_it(
    command: CommandLine, shoot: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    said = command("edit", shoot / "photos", "-i", "make it winter", "-o", shoot / "out")
    assert said.code == 6
    assert "ip2pbatch models pull timbrooks/instruct-pix2pix" in said.err
    assert "--model tiny" in said.err


def test_the_models_of_this_machine_are_listed_with_their_digests_and_defaults(command: CommandLine) -> None:
    rows = json.loads(command("models", "list", "--json").out)
    tiny = next(row for row in rows if row["name"] == "tiny")
    assert tiny["digest"] == command("models", "digest", "tiny").out.strip()
    listed = command("models", "list").out
    assert f"digest {tiny['digest'][:12]}  {tiny['path']}" in listed
    assert (tiny["defaults"]["steps"], tiny["defaults"]["sampler"]) == (4, "dpmpp_2m")
    assert "text 1.15, image 1, 4 steps of dpmpp_2m" in listed
