"""A run with an editing pipeline of diffusers, on a tiny random model: sizes, regions, chains, lock, verify, resume."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from command import CommandLine
from PIL import Image
from runs import many
from tiny_editors import EDITORS, save_editor

from ip2pbatch.engine import pipelines
from ip2pbatch.engine.pipeline_engine import PipelineEngine
from ip2pbatch.plan.families import FAMILIES
from ip2pbatch.run.directory.view import read_run
from ip2pbatch.run.engine import OutOfMemory
from ip2pbatch.run.machine import Memory

CPU = ("--device", "cpu", "--precision", "fp32")
RECIPE = """
model: {model}
photos: photos
edits:
  - make it winter
  - {{id: sky, chain: [{{instruction: make it night, region: {{box: [0, 0, 50, 100]}}}}, add stars]}}
size: 64
steps: 1
output: {{folder: out, format: png}}
"""


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


EACH = [*EDITORS] if many(0, 1) else ["kontext"]
"""The families of which the whole contract is run: all of them in the soak."""


@pytest.fixture(scope="module")
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny one of FLUX.1 Kontext, or of the family that a test asks for."""
    family = str(getattr(request, "param", "kontext"))
    return save_editor(tmp_path_factory.mktemp("model") / family, family)


@pytest.fixture
def recipe(shoot: Path, model: Path) -> Path:
    for name, size in (("one.jpg", (90, 70)), ("day2/two.jpg", (60, 200))):
        path = shoot / "photos" / name
        with Image.open(path) as photo:
            resized = photo.resize(size)
        resized.save(path)
    (shoot / "photos/three.png").unlink()
    (shoot / "recipe.yaml").write_text(RECIPE.format(model=model))
    return shoot / "recipe.yaml"


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


@pytest.mark.parametrize("model", EACH, indirect=True)
def test_a_recipe_is_run_locked_and_verified(command: CommandLine, shoot: Path, recipe: Path, model: Path) -> None:
    ran = command("run", recipe, *CPU)
    assert ran.code == 0, ran.err
    assert "6 edits made, 4 files delivered" in ran.out
    assert {pixels(path).shape for path in (shoot / "out").glob("*.png")} == {(70, 90, 3)}
    assert {pixels(path).shape for path in (shoot / "out/day2").glob("*.png")} == {(200, 60, 3)}
    view = read_run(shoot / "out")
    family = FAMILIES[model.name]
    tall = round(200 * 64 / 60 / family.defaults.multiple) * family.defaults.multiple
    assert {edit.size for edit in view.plan.edits} == {(80, 64), (64, tall)}
    carried = [edit.carry for edit in view.plan.edits if edit.instruction == "add stars"]
    assert carried == [family.defaults.carry] * 2
    winter = (shoot / "out/one_make-it-winter.png").read_bytes()
    assert f"{family.called} ({model.name})".encode() in winter
    assert "0 edits made" in command("run", recipe, *CPU).out
    assert command("lock", recipe).code == 0
    assert command("run", recipe, *CPU, "--locked").code == 0
    verified = command("verify", shoot / "out", "--level", "bitwise")
    assert verified.code == 0, verified.err


def test_outside_of_a_region_the_file_is_the_photo(command: CommandLine, shoot: Path, recipe: Path) -> None:
    text = recipe.read_text().replace(", add stars]", "]").replace("  - make it winter\n", "")
    recipe.write_text(text)
    assert command("run", recipe, *CPU, "--only", "one.jpg").code == 0
    file, photo = pixels(shoot / "out/one_sky.png"), pixels(shoot / "photos/one.jpg")
    assert np.array_equal(file[:, 60:], photo[:, 60:])
    assert not np.array_equal(file[:, :30], photo[:, :30])


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        (("--memory", "offload"), "--memory offload is for a GPU"),
        (("--guidance-interval", "0.1..0.8"), "--guidance-interval is not for FLUX.1 Kontext"),
        (("--compile", "on"), "--compile on is not for FLUX.1 Kontext"),
        (("--without", "text-memory"), "--without is not for FLUX.1 Kontext"),
    ],
)
def test_flags_that_it_has_no_use_for_are_refused(
    command: CommandLine, shoot: Path, recipe: Path, flags: tuple[str, ...], why: str
) -> None:
    said = command("run", recipe, *CPU, *flags)
    assert (said.code, why in " ".join(said.err.split())) == (2, True), said.err
    assert not (shoot / "out").exists()


def test_memory_is_not_a_flag_of_the_home_model(command: CommandLine, shoot: Path) -> None:
    edit = ("edit", shoot / "photos/one.jpg", "-i", "make it snow", "--model", "tiny", "-o", shoot / "out")
    said = command(*edit, "--memory", "sequential", *CPU)
    assert said.code == 2
    assert "--memory sequential is not for InstructPix2Pix" in " ".join(said.err.split())


def test_a_text_scale_that_its_network_does_not_read_is_refused(
    command: CommandLine, recipe: Path, model: Path
) -> None:
    config = model / "transformer/config.json"
    kept = config.read_text()
    config.write_text(json.dumps(json.loads(kept) | {"guidance_embeds": False}))
    recipe.write_text(recipe.read_text() + "guidance: {text: 5}\n")
    try:
        said = command("run", recipe, *CPU)
    finally:
        config.write_text(kept)
    assert said.code == 6
    assert "has no text scale" in " ".join(said.err.split())


def test_out_of_memory_ends_with_7_and_what_to_do(
    command: CommandLine, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OutOfMemory("no room")

    monkeypatch.setattr(PipelineEngine, "picture", full)
    said = command("run", recipe, *CPU)
    assert said.code == 7
    assert "out of memory with FLUX.1 Kontext" in " ".join(said.err.split())
    assert "--memory sequential" in " ".join(said.err.split())


def test_where_memory_runs_out_parts_leave_the_device_once(monkeypatch: pytest.MonkeyPatch) -> None:
    placed: list[Memory] = []
    said: list[str] = []
    monkeypatch.setattr(pipelines, "place", lambda pipe, device, how: placed.append(how))
    offload = pipelines.Offload(object(), torch.device("cuda:0"), Memory.FULL, said.append)
    assert [offload(), offload()] == [True, False]
    assert placed == [Memory.OFFLOAD]
    assert "a part at a time" in said[0]
    assert not pipelines.Offload(object(), torch.device("cuda:0"), Memory.OFFLOAD, said.append)()


KILLED = """
import os, signal
from ip2pbatch.engine.editor import Editor
from ip2pbatch.engine.pipeline_engine import PipelineEngine
def killed_at_last(engine):
    made = engine.begin
    def begin(self, *given, **named):
        if (left := int(os.environ["LEFT"])) == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        os.environ["LEFT"] = str(left - 1)
        return made(self, *given, **named)
    engine.begin = begin
killed_at_last(Editor)
killed_at_last(PipelineEngine)
from ip2pbatch.cli.app import main
main()
"""


@pytest.mark.skipif(many(0, 1) == 0, reason="a process of its own that loads torch: in the soak")
@pytest.mark.parametrize("model", [*EDITORS], indirect=True)
def test_a_run_that_was_killed_goes_on_to_the_same_bytes(
    command: CommandLine, shoot: Path, recipe: Path, model: Path
) -> None:
    flags = [*CPU, "--determinism", "bitwise", "--batch", "1"]
    assert command("run", recipe, *flags, "-o", shoot / "whole").code == 0
    call = [sys.executable, "-c", KILLED, "run", str(recipe), *flags]
    environment = os.environ | {"LEFT": "3", "OMP_NUM_THREADS": "1"}
    assert subprocess.run(call, env=environment, capture_output=True).returncode == -signal.SIGKILL
    kept = len(read_run(shoot / "out").done)
    assert kept < 4
    said = command("run", recipe, *flags)
    assert said.code == 0
    assert f"{6 - kept} edits made" in said.out
    whole, out = read_run(shoot / "whole"), read_run(shoot / "out")
    assert {key: whole.record(key).digest for key in whole.done} == {key: out.record(key).digest for key in out.done}
