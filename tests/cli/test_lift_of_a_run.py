"""A run keeps the version of the lift that it began with: files of older runs stay as they are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import skimage.data
import yaml
from command import CommandLine
from PIL import Image

from ip2pbatch.jobs import session

RECIPE = """
model: tiny
photos: photos
edits: [make it winter]
output: {folder: out}
size: {long_side: 64}
"""
FAKE = ("--backend", "fake")


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    Image.fromarray(skimage.data.astronaut()).save(tmp_path / "photos" / "her.png")
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    return path


def lift(recipe: Path, run: str = ".ip2pbatch") -> int:
    """What the header says."""
    return json.loads((recipe.parent / "out" / run / "run.json").read_text()).get("lift", 0)


def test_an_older_run_keeps_its_files_and_a_new_one_has_todays(
    command: CommandLine, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as before:
        before.setattr(session, "LIFT", 0)
        assert command("run", recipe, *FAKE).code == 0
    header = recipe.parent / "out" / ".ip2pbatch" / "run.json"
    assert lift(recipe) == 0
    file = recipe.parent / "out" / "her_make-it-winter.png"
    data = file.read_bytes()
    for again in (("run", recipe, *FAKE), ("deliver", recipe)):
        assert "0 edits made, 0 files delivered" in command(*again).out
    assert json.loads(command("plan", recipe, "--json").out)["files_left"] == 0
    kept = header.read_bytes()
    header.unlink()
    assert "0 files delivered" in command("run", recipe, *FAKE).out
    assert header.read_bytes() == kept
    assert file.read_bytes() == data
    assert "1 file delivered" in command("run", recipe, "--fresh", *FAKE).out
    assert lift(recipe, ".ip2pbatch-2") == 3


def test_a_header_that_is_lost_comes_back_with_it_and_a_lock_says_it(command: CommandLine, recipe: Path) -> None:
    assert command("run", recipe, *FAKE).code == 0
    header = recipe.parent / "out" / ".ip2pbatch" / "run.json"
    before = header.read_bytes()
    header.unlink()
    assert "0 edits made, 0 files delivered" in command("run", recipe, *FAKE).out
    assert header.read_bytes() == before
    assert command("lock", recipe).code == 0
    lock = recipe.with_name("recipe.lock.yaml")
    locked = yaml.safe_load(lock.read_text())
    assert locked["output"]["lift"] == 3
    del locked["output"]["lift"]
    lock.write_text(yaml.safe_dump(locked, sort_keys=False))
    elsewhere = recipe.parent / "elsewhere"
    assert command("run", recipe, "--locked", "-o", elsewhere, *FAKE).code == 0
    assert "lift" not in json.loads((elsewhere / ".ip2pbatch" / "run.json").read_text())
