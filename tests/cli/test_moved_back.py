"""What a model moved is laid on its photo again in delivered files, in runs that began with it, and is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
import yaml
from command import CommandLine
from PIL import Image

from ip2pbatch.engine import fake
from ip2pbatch.run.directory.view import read_run
from ip2pbatch.show.cells import gallery

RECIPE = """
model: tiny
photos: photos
edits: [make it winter]
output: {folder: out}
size: {long_side: 256}
"""
FAKE = ("--backend", "fake")


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of one photo, whose edits come out three pixels to the right."""
    (tmp_path / "photos").mkdir()
    Image.fromarray(skimage.data.astronaut()).save(tmp_path / "photos" / "her.png")
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    monkeypatch.setattr(fake, "_caption", lambda pixels, edit: np.roll(pixels, 3, axis=1))
    return path


def delivered(recipe: Path) -> tuple[np.ndarray, dict[str, Any]]:
    """The file, and the last line about it."""
    out = recipe.parent / "out"
    last = json.loads((out / ".ip2pbatch" / "deliveries.jsonl").read_text().splitlines()[-1])
    return np.asarray(Image.open(out / "her_make-it-winter.png").convert("RGB")), last


def edge_likeness(pixels: np.ndarray) -> float:
    """How alike the fine detail of a file and of the photo is."""
    detail = [np.diff(one.mean(axis=2), axis=1)[64:-64, 64:-64].ravel() for one in (pixels, skimage.data.astronaut())]
    return float(np.corrcoef(*detail)[0, 1])


def begun_before(recipe: Path) -> None:
    """As if an earlier version had begun the run."""
    run = recipe.parent / "out" / ".ip2pbatch"
    header = json.loads((run / "run.json").read_text())
    assert header.pop("registers") is True
    del header["crc"]
    (run / "run.json").write_text(json.dumps(header))


def test_a_new_run_lays_it_back_and_tells_so_and_off_leaves_it(command: CommandLine, recipe: Path) -> None:
    assert command("run", recipe, *FAKE).code == 0
    pixels, row = delivered(recipe)
    assert row["moved"] == pytest.approx(3, abs=0.1)
    assert abs(row["scaled"]) < 0.1
    assert edge_likeness(pixels) > 0.95
    (cell,) = gallery(read_run(recipe.parent / "out")).cells
    assert "moved 3.0 model pixels, 0.0 %" in cell.mark
    recipe.write_text(RECIPE.replace("folder: out", "folder: out, register: off"))
    assert "0 edits made, 1 file delivered" in command("run", recipe, *FAKE).out
    pixels, row = delivered(recipe)
    assert (row["moved"], row["scaled"]) == (0, 0)
    assert edge_likeness(pixels) < 0.5
    assert "moved" not in gallery(read_run(recipe.parent / "out")).cells[0].mark


def test_the_model_s_size_is_the_cell_as_it_is(command: CommandLine, recipe: Path) -> None:
    recipe.write_text(RECIPE.replace("folder: out", "folder: out, full_resolution: off"))
    assert command("run", recipe, *FAKE).code == 0
    pixels, row = delivered(recipe)
    kept = next((recipe.parent / "out" / ".ip2pbatch" / "edits").rglob("*.png"))
    assert np.array_equal(pixels, np.asarray(Image.open(kept)))
    assert row["moved"] == 0


def test_an_older_run_keeps_its_files_unless_it_is_asked(command: CommandLine, recipe: Path) -> None:
    recipe.write_text(RECIPE.replace("folder: out", "folder: out, register: off"))
    assert command("run", recipe, *FAKE).code == 0
    begun_before(recipe)
    recipe.write_text(RECIPE)
    for again in (("run", recipe, *FAKE), ("deliver", recipe)):
        assert "0 edits made, 0 files delivered" in command(*again).out
    assert json.loads(command("plan", recipe, "--json").out)["files_left"] == 0
    recipe.write_text(RECIPE.replace("folder: out", "folder: out, register: on"))
    assert "0 edits made, 1 file delivered" in command("run", recipe, *FAKE).out
    assert delivered(recipe)[1]["moved"] > 2
    recipe.write_text(RECIPE)
    assert "1 file delivered" in command("run", recipe, "--fresh", *FAKE).out
    assert delivered(recipe)[1]["moved"] > 2


def test_a_header_that_is_lost_comes_back_with_it(command: CommandLine, recipe: Path) -> None:
    assert command("run", recipe, *FAKE).code == 0
    header = recipe.parent / "out" / ".ip2pbatch" / "run.json"
    before = header.read_bytes()
    header.unlink()
    assert "0 edits made, 0 files delivered" in command("run", recipe, *FAKE).out
    assert header.read_bytes() == before


def test_a_lock_says_it_and_a_run_of_an_older_lock_does_without(command: CommandLine, recipe: Path) -> None:
    lock, elsewhere = recipe.with_name("recipe.lock.yaml"), recipe.parent / "elsewhere"
    assert command("run", recipe, *FAKE).code == 0
    assert command("lock", recipe).code == 0
    assert yaml.safe_load(lock.read_text())["output"]["register"] is True
    assert command("lock", recipe, "--check").code == 0
    assert command("verify", recipe.parent / "out").code == 0
    older = yaml.safe_load(lock.read_text())
    del older["output"]["register"]
    lock.write_text(yaml.safe_dump(older, sort_keys=False))
    said = command("lock", recipe, "--check")
    assert (said.code, "register is on, was none" in said.out.replace("\n", " ")) == (4, True), said.out
    assert command("lock", recipe, "--check", "-o", elsewhere).code == 0
    said = command("run", recipe, "--locked", "-o", elsewhere, *FAKE)
    assert said.code == 0, said.err
    assert read_run(elsewhere).delivery(*first(elsewhere)).moved == 0
    assert "0 files delivered" in command("run", recipe, "-o", elsewhere, *FAKE).out


def first(out: Path) -> tuple[Any, Any]:
    strip = read_run(out).strips[0]
    return strip, strip.edits[0]


@pytest.mark.parametrize("written", ["sometimes", "3", "null"])
def test_no_other_word_is_taken(command: CommandLine, recipe: Path, written: str) -> None:
    recipe.write_text(RECIPE.replace("folder: out", f"folder: out, register: {written}"))
    said = command("validate", recipe)
    assert said.code == 2
    assert "output.register" in said.err
    assert "recipe.yaml:5:" in said.err
