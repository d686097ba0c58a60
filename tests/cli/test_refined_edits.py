"""`full_resolution: refine` from the command line: what is made for it, what is not made again, what is refused."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command import CommandLine
from PIL import Image
from runs import exit_of, in_child

from ip2pbatch.engine.fake import FakeEngine
from ip2pbatch.plan.edits import Edit
from ip2pbatch.run.directory.view import RunView, read_run
from ip2pbatch.run.engine import Pending

FAKE = ("--backend", "fake")
RECIPE = """
model: tiny
photos: photos
edits:
  - {{id: one, instruction: make it winter{more}}}
size: {{long_side: {side}}}
steps: 20
guidance: {{text: 7.5, image: 1.5}}
output: {{folder: out, format: png, full_resolution: {full}{how}}}
"""


def written(
    shoot: Path, full: str = "refine", how: str = ", refine: {tiles: all}", side: int = 64, more: str = ""
) -> Path:
    path = shoot / "recipe.yaml"
    path.write_text(RECIPE.format(full=full, how=how, side=side, more=more))
    return path


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def left(command: CommandLine, recipe: Path) -> int:
    said = command("run", recipe, *FAKE, "--json")
    assert said.code == 0, said.err
    return int(json.loads(said.out.splitlines()[0])["left"])


def kept(view: RunView) -> dict[Path, tuple[int, bytes]]:
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in view.layout.edits.rglob("*.png")}


def test_a_run_goes_on_with_it_and_keeps_its_cells(command: CommandLine, shoot: Path) -> None:
    assert left(command, written(shoot, "auto", "")) == 3
    cells, file = kept(read_run(shoot / "out")), shoot / "out" / "one_one.png"
    lifted = pixels(file)
    cast = json.loads(command("plan", written(shoot), "--json").out)
    assert (cast["edits"], cast["edits_left"], cast["refined"], cast["files_left"]) == (6, 3, 3, 3)
    assert cast["tiles"] > 3
    assert cast["tile_rows"] == cast["tiles"] * 6 * 3  # 0.3 of 20 steps
    assert "at most" in command("plan", written(shoot)).out

    assert left(command, written(shoot)) == 3
    view = read_run(shoot / "out")
    assert {path: kept(view)[path] for path in cells} == cells
    assert len(kept(view)) == 6
    refined = pixels(file)
    assert refined.shape == lifted.shape
    assert np.abs(refined - lifted).mean() > 1
    assert not list((shoot / "out").glob("*-2.png"))
    assert left(command, written(shoot)) == 0
    assert command("verify", "--against", shoot / "out", shoot / "out").code == 0

    assert command("deliver", written(shoot), "--full-resolution", "auto").code == 0
    assert np.array_equal(pixels(file), lifted)
    assert left(command, written(shoot)) == 0
    assert np.array_equal(pixels(file), refined)


def test_after_a_kill_only_what_was_not_made_is_made(command: CommandLine, shoot: Path) -> None:
    recipe, begin, refined = written(shoot), FakeEngine.begin, list[Edit]()

    def dies(self: FakeEngine, edits: Sequence[Edit], *rest: Any) -> Pending:
        refined.extend(edit for edit in edits if edit.refine is not None)
        if len(refined) == 3:
            while len(read_run(shoot / "out").done) < 4:  # a refined one among them
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGKILL)
        return begin(self, edits, *rest)

    def work() -> int:
        FakeEngine.begin = dies  # type: ignore[method-assign]
        return command("run", recipe, *FAKE).code

    assert exit_of(in_child(work)) == -signal.SIGKILL
    done = set(read_run(shoot / "out").done)
    before = {path: one for path, one in kept(read_run(shoot / "out")).items() if path.stem in done}
    made = len(before)
    assert 4 <= made < 6
    assert left(command, recipe) == 6 - made
    view = read_run(shoot / "out")
    assert {path: kept(view)[path] for path in before} == before
    assert len(view.done) == len(kept(view)) == 6
    assert len(list((shoot / "out").rglob("*_one.png"))) == 3


def test_another_start_is_another_picture_and_the_cell_stays(command: CommandLine, shoot: Path) -> None:
    assert left(command, written(shoot)) == 6
    assert left(command, written(shoot, how=", refine: {tiles: all, start: 0.5}")) == 3


def test_a_chain_refines_its_last_link_alone(command: CommandLine, shoot: Path) -> None:
    recipe = written(shoot)
    recipe.write_text(
        recipe.read_text().replace("instruction: make it winter", "chain: [make it winter, make it night]")
    )
    assert left(command, recipe) == 9
    strip = read_run(shoot / "out").strips[0]
    assert strip.refined is not None
    assert strip.refined.source == strip.edits[1].key
    assert strip.refined.refine is not None
    assert strip.refined.refine.before == strip.edits[0].key


def test_outside_of_a_region_nothing_is_refined(command: CommandLine, shoot: Path) -> None:
    assert left(command, written(shoot, more=", region: {box: [0, 0, 40, 100], feather: 0}")) == 6
    view = read_run(shoot / "out")
    (strip,) = (strip for strip in view.strips if strip.photo.name == "one.jpg")
    assert strip.refined is not None
    picture = view.picture(strip.refined.key)
    assert picture is not None
    share = picture.patch()[..., 3]
    assert share[:, :40].min() == 255
    assert not share[:, 60:].any()
    assert np.array_equal(pixels(shoot / "out" / "one_one.png")[:, 60:], pixels(strip.photo.path)[:, 60:])


@pytest.mark.parametrize("side", [128, 256])
def test_a_photo_that_is_no_larger_than_the_model_has_nothing_to_refine(
    command: CommandLine, shoot: Path, side: int
) -> None:
    said = command("run", written(shoot, side=side), *FAKE)
    assert said.code == 0
    assert "3 photos, such as" in said.err
    assert "nothing to refine" in said.err
    assert all(strip.refined is None for strip in read_run(shoot / "out").strips)


@pytest.mark.parametrize("how", ["{tiles: some}", "{start: 0}", "{start: 1.5}", "{start: yes}", "{steps: 3}"])
def test_what_is_wrong_with_it_is_told_where_it_stands(command: CommandLine, shoot: Path, how: str) -> None:
    said = command("validate", written(shoot, how=f", refine: {how}"))
    assert said.code == 2
    assert "recipe.yaml:9:" in said.err


def test_a_family_that_cannot_is_refused_by_name(command: CommandLine, shoot: Path) -> None:
    model = shoot / "model"
    model.mkdir()
    (model / "model_index.json").write_text(json.dumps({"_class_name": "Flux2KleinPipeline"}))
    recipe = written(shoot)
    text = recipe.read_text().replace("model: tiny", "model: ./model").replace("guidance: {text: 7.5, image: 1.5}", "")
    recipe.write_text(text)
    said = command("plan", recipe)
    assert said.code == 2
    assert "FLUX.2 klein" in said.err
    assert "refine" in said.err
