"""`lock`, `run --locked` and `verify` as a CI job uses them; bitwise runs come out the same to the byte."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from command import CommandLine
from PIL import Image
from runs import digests, exit_of, in_child, many, unsealed
from tiny_models import save_model

from ip2pbatch.cli import app
from ip2pbatch.errors import ResourceError
from ip2pbatch.jobs import remake, session
from ip2pbatch.plan.edits import Plan
from ip2pbatch.run import execute
from ip2pbatch.run.directory import ledger
from ip2pbatch.run.directory.ledger import open_run
from ip2pbatch.run.directory.lines import Record
from ip2pbatch.run.directory.view import read_run
from ip2pbatch.run.stop import Stop

RECIPE = """
model: tiny
photos: photos
edits: [make it winter, {id: storm, chain: [make it rain, make it night], keep: all}]
size: {long_side: 96}
output: {folder: out, full_resolution: off}
"""
FAKE = ("--backend", "fake")

# What `--backend` takes that runs a model, the library that it needs, and where.
NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
SOAKED = pytest.mark.skipif(not many(0, 1), reason="compiling takes a while: `make soak`")
WITH_A_MODEL = [
    ("torch", "torch", "cpu"), ("onnx", "onnxruntime", "cpu"), pytest.param("torch", "torch", "cuda", marks=NO_GPU),
    pytest.param("openvino", "openvino", "cpu", marks=SOAKED),
]  # fmt: skip


@pytest.fixture
def recipe(shoot: Path) -> Path:
    path = shoot / "recipe.yaml"
    path.write_text(RECIPE)
    return path


@pytest.fixture
def locked(command: CommandLine, recipe: Path) -> Path:
    assert command("run", recipe, *FAKE).code == 0
    said = command("lock", recipe)
    assert said.code == 0, said.err
    assert "locked 9 pictures and 9 files of 3 photos" in said.out
    return recipe


def alter(out: Path, instruction: str, by: int) -> None:
    """Make the first picture of an instruction brighter, as another engine might."""
    view = read_run(out)
    edit = next(edit for edit in view.plan.edits if edit.instruction == instruction)
    with open_run(out, view.spec) as run:
        run.commit(edit.key, (run.picture(edit.key).astype(int) + by).clip(0, 255).astype(np.uint8), seconds=0.0)


def test_a_lock_is_refused_before_the_run_is_finished(command: CommandLine, recipe: Path) -> None:
    assert command("lock", recipe).code == 2
    assert command("run", recipe, *FAKE, "--limit", "1").code == 0
    said = command("lock", recipe)
    assert said.code == 4
    assert "6 left of 9" in said.err
    missing = command("lock", recipe, "--check")
    assert missing.code == 4
    assert "there is no lock" in missing.err
    assert not list(recipe.parent.glob("*.lock.yaml"))


def test_check_and_locked_name_what_is_stale_and_change_nothing(command: CommandLine, locked: Path) -> None:
    lock = locked.with_name("recipe.lock.yaml")
    before = lock.read_bytes()
    assert command("lock", locked, "--check").code == 0
    assert command("run", locked, *FAKE, "--locked").code == 0
    locked.write_text("# a comment asks for nothing\n" + RECIPE)
    assert command("lock", locked, "--check").code == 0
    locked.write_text(RECIPE.replace("make it winter", "make it snow"))
    (locked.parent / "photos/three.png").unlink()
    files = digests(locked.parent / "out")
    said = command("lock", locked, "--check")
    assert said.code == 4
    assert said.out.splitlines() == [
        "photos: removed: three.png",
        "recipe: asks for “make it snow” (2 pictures), which is not locked",
        "recipe: does not ask for “make it winter” any more (2 pictures)",
        f"stale: 3 reasons in {lock}",
    ]
    refused = command("run", locked, *FAKE, "--locked", "--determinism", "bitwise")
    assert refused.code == 4
    for words in ("three.png", "make it snow", "determinism is bitwise, was stable", "hint:"):
        assert words in refused.err
    assert digests(locked.parent / "out") == files
    assert lock.read_bytes() == before


def test_workers_are_held_to_the_lock_that_their_parent_compares_without_an_engine(
    command: CommandLine, locked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ip2pbatch.jobs.engines.choose", lambda *_, **__: pytest.fail("the parent chose an engine"))
    assert command("run", locked, *FAKE, "--locked", "--devices", "cpu").code == 0
    said = command("run", locked, *FAKE, "--locked", "--devices", "cpu", "--determinism", "bitwise")
    assert (said.code, "engine: determinism is bitwise, was stable" in said.err) == (4, True)


def test_another_version_is_stale(command: CommandLine, locked: Path) -> None:
    lock = locked.with_name("recipe.lock.yaml")
    written = yaml.safe_load(lock.read_text())["versions"]["numpy"]
    lock.write_text(lock.read_text().replace(f"numpy: {written}", "numpy: 1.0.0"))
    said = command("lock", locked, "--check")
    assert said.code == 4
    assert f"versions: numpy is {written}, was 1.0.0" in said.out


def test_verify_makes_the_pictures_again_and_leaves_nothing_behind(
    command: CommandLine, locked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    before = digests(locked.parent)
    for what in (locked, locked.parent / "out", locked.with_name("recipe.lock.yaml")):
        said = command("verify", what, "--level", "bitwise")
        assert said.code == 0, said.err
        assert said.out.splitlines()[-1].startswith("the same: all 9 compared (files equal to the bit)")
    said = command("verify", locked, "--sample", "2")
    assert said.code == 0, said.err
    assert "all 2 compared" in said.out
    assert digests(locked.parent) == before
    assert not list((tmp_path / "scratch").iterdir())


def test_verify_finds_what_differs_and_shows_it(command: CommandLine, locked: Path) -> None:
    out, other = locked.parent / "out", locked.parent / "other"
    shutil.copytree(out, other)
    assert command("verify", out, "--against", other, "--level", "bitwise").code == 0
    alter(other, "make it rain", 2)
    said = command("verify", out, "--against", other, "--level", "pixels")
    assert said.code == 0, said.out
    alter(other, "make it rain", 30)
    said = command("verify", out, "--against", other, "--out", locked.parent / "shown")
    assert said.code == 4
    assert said.out.splitlines()[0].startswith("differs")
    assert "make it rain" in said.out.splitlines()[0]
    assert said.out.splitlines()[-1].startswith("different: 1 differs of 9")
    (page,) = (locked.parent / "shown").glob("*.png")
    with Image.open(page) as picture:
        assert picture.width > 3 * 96
    within = command("verify", other)  # the altered run against itself made again: shown within the run
    assert within.code == 4
    assert len(list((other / ".ip2pbatch/verify").glob("*.png"))) == 1
    shutil.rmtree(other / ".ip2pbatch/edits")
    gone = command("verify", out, "--against", other)
    assert gone.code == 4
    assert "different: 9 absent of 9" in gone.out


def test_a_lock_alone_compares_digests_and_says_so(command: CommandLine, locked: Path) -> None:
    lock, out = locked.with_name("recipe.lock.yaml"), locked.parent / "out"
    said = command("verify", lock, "--against", out, "--level", "pixels")
    assert said.code == 0
    assert "only exactly equal pixels" in said.err
    assert command("verify", lock, "--against", out, "--level", "perceptual").code == 2
    alter(out, "make it winter", 1)
    said = command("verify", lock, "--against", out, "--level", "pixels")
    assert said.code == 4
    assert "a lock cannot say how far" in said.out
    locked.write_text(RECIPE.replace("winter", "snow"))
    stale = command("verify", lock)
    assert stale.code == 4
    assert "make it snow" in stale.err
    locked.rename(locked.with_name("moved.yaml"))
    lonely = command("verify", lock)
    assert lonely.code == 2
    assert "is not beside it" in lonely.err
    assert command("verify", lock, "--against", out, "--level", "bitwise").code == 0
    shutil.rmtree(out)
    assert command("verify", locked.parent / "nowhere").code == 2


def kill_on_the_way(arguments: list[str]) -> None:
    """A command line in another process, killed when it has recorded its second picture."""

    def work() -> int:
        commit = ledger.Run.commit

        def kill(run: ledger.Run, *of: Any, **more: Any) -> Record:
            record = commit(run, *of, **more)
            if len(run.done) >= 2:  # or more: two threads write
                os.kill(os.getpid(), signal.SIGKILL)
            return record

        ledger.Run.commit = kill
        sys.argv = ["ip2pbatch", *arguments]
        app.main()
        return 0

    assert exit_of(in_child(work)) == -signal.SIGKILL


def test_bitwise_does_not_hang_on_order_subset_batch_or_a_kill(
    command: CommandLine, recipe: Path, tmp_path: Path
) -> None:
    """With the engine that needs no model; the same with a model below."""
    bitwise = (*FAKE, "--determinism", "bitwise")
    assert command("run", recipe, *bitwise, "--out", tmp_path / "one").code == 0
    expected = delivered(tmp_path / "one")
    assert len(expected) == 9

    kill_on_the_way(["run", str(recipe), *bitwise, "--out", str(tmp_path / "killed")])
    assert len(delivered(tmp_path / "killed")) < 9
    assert command("run", recipe, *bitwise, "--out", tmp_path / "killed").code == 0
    assert delivered(tmp_path / "killed") == expected
    assert command("run", recipe, *bitwise, "--batch", "1", "--out", tmp_path / "single").code == 0
    assert delivered(tmp_path / "single") == expected
    assert command("run", recipe, *bitwise, "--only", "t*.png", "--out", tmp_path / "part").code == 0
    part = delivered(tmp_path / "part")
    assert len(part) == 3
    assert part.items() <= expected.items()
    edits = "[{id: storm, chain: [make it rain, make it night], keep: all}, make it winter]"
    lines = [f"edits: {edits}" if line.startswith("edits:") else line for line in RECIPE.splitlines()]
    recipe.write_text("\n".join(lines))
    assert command("run", recipe, *bitwise, "--out", tmp_path / "shuffled").code == 0
    assert delivered(tmp_path / "shuffled") == expected


def delivered(out: Path) -> dict[str, str]:
    """sha256 of every delivered file by its name."""
    return {name: digest for name, digest in digests(out).items() if not name.startswith(("sheets", "report"))}


@pytest.fixture
def calm_torch() -> object:
    """Bitwise sets torch's global switches; other tests in this process are to find them as they were."""
    yield
    torch.use_deterministic_algorithms(False)
    os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)


def stop_short(command: CommandLine, monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> None:
    """A command line that breaks off when it has recorded its fourth picture."""
    commit = ledger.Run.commit

    def limited(run: ledger.Run, *of: Any, **more: Any) -> Record:
        if len(run.done) >= 4:  # two writers may finish at once
            raise ResourceError("the power went")
        return commit(run, *of, **more)

    with monkeypatch.context() as patched:
        patched.setattr(ledger.Run, "commit", limited)
        assert command(*arguments).code == 7


@pytest.mark.parametrize(("backend", "library", "device"), WITH_A_MODEL)
def test_bitwise_with_a_model_does_not_hang_on_order_subset_batch_or_a_resume(
    command: CommandLine, recipe: Path, tmp_path: Path, calm_torch: object, monkeypatch: pytest.MonkeyPatch,
    backend: str, library: str, device: str,
) -> None:  # fmt: skip
    pytest.importorskip(library)
    model = save_model(tmp_path / "model", "taesd")
    text = RECIPE.replace("model: tiny", f"model: {model}\nsteps: 2").replace("long_side: 96", "long_side: 64")
    recipe.write_text(text)
    bitwise = ("--backend", backend, "--determinism", "bitwise", "--device", device)
    assert command("run", recipe, *bitwise, "--batch", "8").code == 0
    expected = delivered(tmp_path / "out")
    assert len(expected) == 9

    assert command("run", recipe, *bitwise, "--only", "t*.png", "--out", tmp_path / "part").code == 0
    part = delivered(tmp_path / "part")
    assert len(part) == 3
    assert part.items() <= expected.items()
    stop_short(command, monkeypatch, "run", recipe, *bitwise, "--out", tmp_path / "short")
    assert len(delivered(tmp_path / "short")) < 9
    assert command("run", recipe, *bitwise, "--batch", "3", "--out", tmp_path / "short").code == 0
    assert delivered(tmp_path / "short") == expected
    edits = "[{id: storm, chain: [make it rain, make it night], keep: all}, make it winter]"
    recipe.write_text("\n".join(f"edits: {edits}" if row.startswith("edits:") else row for row in text.splitlines()))
    assert command("run", recipe, *bitwise, "--batch", "1", "--out", tmp_path / "shuffled").code == 0
    assert delivered(tmp_path / "shuffled") == expected


def test_a_lock_with_a_model_names_its_weights_and_verify_makes_the_same_files(
    command: CommandLine, recipe: Path, tmp_path: Path, calm_torch: object
) -> None:
    model = save_model(tmp_path / "model", "taesd")
    recipe.write_text(
        RECIPE.replace("model: tiny", f"model: {model}\nsteps: 1").replace("long_side: 96", "long_side: 64")
    )
    bitwise = ("--determinism", "bitwise", "--device", "cpu")
    assert command("run", recipe, *bitwise).code == 0
    assert command("lock", recipe).code == 0
    weights = yaml.safe_load(recipe.with_name("recipe.lock.yaml").read_text())["weights"]
    assert any(name.startswith("unet/") and name.endswith(".safetensors") for name in weights)
    assert command("run", recipe, *bitwise, "--locked", "--batch", "1", "--out", tmp_path / "single").code == 0
    said = command("verify", recipe, "--sample", "2")
    assert said.code == 0, said.out + said.err
    assert "files equal to the bit" in said.out

    with (model / "model_index.json").open("a") as index:
        index.write("\n")
    changed = command("verify", recipe)
    assert changed.code == 4
    assert "model digest" in changed.err
    stale = command("lock", recipe, "--check")
    assert stale.code == 4
    assert "model: other files: model_index.json" in stale.out


@pytest.fixture
def with_a_model(recipe: Path, tmp_path: Path) -> Path:
    """The recipe for a picture a photo of a tiny random model."""
    model = save_model(tmp_path / "model", "taesd")
    text = RECIPE.replace("model: tiny", f"model: {model}\nsteps: 1").replace("long_side: 96", "long_side: 64")
    edits = [line for line in text.splitlines() if not line.startswith("edits:")]
    recipe.write_text("\n".join(["edits: [make it winter]", *edits]))
    return recipe


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> list[tuple[tuple[str, ...], int]]:
    """The speed-ups and the rows of a call of every engine at work, in order."""
    seen = []

    def spied(plan: Plan, run: ledger.Run, engine: Any, *more: Any, stop: Stop) -> execute.Summary:
        seen.append((engine.steps, engine.limits.row_bucket(plan.edits[0].size)))
        return run_plan(plan, run, engine, *more, stop=stop)

    run_plan = execute.run_plan
    for module in (session, remake):
        monkeypatch.setattr(module, "run_plan", spied)
    return seen


@pytest.fixture
def three_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where calls of three rows are found to be the best; unmeasured it would be six."""
    monkeypatch.setattr("ip2pbatch.engine.tuning.seconds_of_step", lambda editor, backend, size, rows: float(rows))


CPU = ("--device", "cpu", "--precision", "fp32")


def test_verify_makes_the_pictures_with_the_settings_of_their_run(
    command: CommandLine, with_a_model: Path, engines: list[tuple[tuple[str, ...], int]], three_rows: None,
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
) -> None:  # fmt: skip
    unlike = ("--batch", "auto", "--without", "time-table", "--without", "text-memory")
    assert command("run", with_a_model, *CPU, *unlike).code == 0
    assert command("lock", with_a_model).code == 0
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))  # nor is the measurement remembered there
    monkeypatch.delattr("ip2pbatch.engine.tuning.seconds_of_step")
    for what in (with_a_model, with_a_model.with_name("recipe.lock.yaml")):
        said = command("verify", what, "--level", "bitwise")
        assert said.code == 0, said.out + said.err
        assert "warning" not in said.err
    assert engines[0] == engines[1] == engines[2]
    steps, rows = engines[0]
    assert rows == 3
    assert "shared-head" in steps
    assert not {"time-table", "text-memory"} & set(steps)


def test_verify_says_what_is_not_as_it_was(
    command: CommandLine, with_a_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert command("run", with_a_model, *CPU).code == 0
    (sessions,) = (with_a_model.parent / "out/.ip2pbatch").glob("sessions*.jsonl")
    text = unsealed(sessions)
    assert '"steps":["' in text
    text = text.replace('"steps":["', '"steps":["compiled","').replace(f'"numpy":"{np.__version__}"', '"numpy":"1.0.0"')
    sessions.write_text(re.sub('"device":"[^"]*threads"', '"device":"an older processor, 2 threads"', text))
    monkeypatch.setattr("ip2pbatch.backends.pytorch.steps.compiled.why_no_compiler", lambda device: "no compiler here")
    said = command("verify", with_a_model)
    assert said.code == 0, said.out + said.err
    assert "made on an older processor, 2 threads and are made again on" in said.err
    assert f"made with numpy 1.0.0 and are made again with {np.__version__}" in said.err
    assert "made again without compiled" in said.err


def test_a_run_of_several_settings_is_said_to_be_one(
    command: CommandLine, with_a_model: Path, three_rows: None
) -> None:  # fmt: skip
    assert command("run", with_a_model, *CPU, "--only", "three.png").code == 0
    assert command("run", with_a_model, *CPU, "--batch", "auto", "--without", "rowwise").code == 0
    for words in ("lock", "verify"):
        said = command(words, with_a_model)
        assert said.code == 0, said.err
        assert "other speed-ups in other sessions" in said.err
        assert "3 and 6 at 64x64 rows" in said.err


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (("--without", "text-memory"), "engine: speed-ups are left out: text-memory"),
        (("--batch", "auto"), "network rows, had 6"),
    ],
)
def test_locked_refuses_another_shape_of_calls_and_other_speed_ups(
    command: CommandLine, with_a_model: Path, three_rows: None, flags: tuple[str, ...], reason: str
) -> None:
    assert command("run", with_a_model, *CPU).code == 0
    assert command("lock", with_a_model).code == 0
    other = with_a_model.parent / "other"
    said = command("run", with_a_model, *CPU, *flags, "--locked", "--out", other)
    assert said.code == 4
    assert reason in said.err
    assert delivered(other) == {}
    assert command("run", with_a_model, *CPU, "--batch", "1", "--locked", "--out", other).code == 0


def test_a_lock_from_before_speed_ups_were_noted_is_read(command: CommandLine, locked: Path) -> None:
    lock = locked.with_name("recipe.lock.yaml")
    assert "  steps: []\n" in lock.read_text()
    lock.write_text(lock.read_text().replace("  steps: []\n", ""))
    assert command("lock", locked, "--check").code == 0
    assert command("run", locked, *FAKE, "--locked").code == 0
    assert command("verify", lock).code == 0


def test_a_run_of_shards_is_locked_and_verified_as_one(command: CommandLine, recipe: Path, tmp_path: Path) -> None:
    for number in range(6):
        Image.linear_gradient("L").rotate(60 * number).convert("RGB").save(recipe.parent / f"photos/more{number}.png")
    for k in (1, 2, 3):
        said = command("run", recipe, *FAKE, "--shard", f"{k}/3")
        assert said.code in (0, 5), said.err
    said = command("verify", recipe.parent / "out", "--level", "bitwise")
    assert said.code == 0, said.out + said.err
    assert "the same: all 27 compared" in said.out
    assert command("lock", recipe).code == 0
    assert command("verify", recipe.with_name("recipe.lock.yaml")).code == 0
    assert command("run", recipe, *FAKE, "--out", tmp_path / "whole").code == 0
    said = command("verify", tmp_path / "whole", "--against", recipe.parent / "out", "--level", "bitwise")
    assert said.code == 0, said.out
    assert "all 27 compared" in said.out


def test_a_recipe_that_was_changed_since_its_run_is_not_verified_by_the_old_pictures(
    command: CommandLine, locked: Path
) -> None:
    locked.write_text(RECIPE.replace("make it winter", "make it snow"))
    for more in ((), ("--against", locked.parent / "out")):
        said = command("verify", locked, *more)
        assert said.code == 4
        assert "asks for “make it snow” (3 pictures), which its run was not asked for" in said.err
        assert "the same" not in said.out
    assert command("verify", locked.parent / "out").code == 0
    locked.write_text("# the same pictures\n" + RECIPE)
    assert command("verify", locked).code == 0
    Image.new("RGB", (64, 48)).save(locked.parent / "photos/later.png")
    said = command("verify", locked)
    assert said.code == 0
    assert said.out.splitlines()[-1].endswith("; 3 pictures not there yet")


def test_delivered_files_that_were_changed_are_told_at_every_level(command: CommandLine, locked: Path) -> None:
    out = locked.parent / "out"
    (out / "three_make-it-winter.png").unlink()
    with Image.open(out / "three_storm_2.png") as picture:
        picture.putpixel((5, 5), (255, 0, 0))
        picture.save(out / "three_storm_2.png")
    said = command("verify", out, "--json")
    assert said.code == 0
    assert "2 delivered files changed or gone since, such as three_" in said.err
    assert json.loads(said.out.splitlines()[0])["type"] == "warning"
    assert "delivered file" not in command("verify", out, "--level", "pixels", "--sample", "1", "--against", out).out
    said = command("verify", out, "--level", "bitwise")
    assert said.code == 4
    assert said.out.splitlines()[:2] == [
        "absent   three.png  make-it-winter  its file is gone",
        "differs  three.png  storm, link 2   the file differs, the picture in it does not",
    ]
    refused = command("lock", locked)
    assert refused.code == 4
    assert "its file three_make-it-winter.png is gone" in refused.err


def test_what_was_never_delivered_is_not_called_gone(command: CommandLine, locked: Path) -> None:
    journal = locked.parent / "out/.ip2pbatch/deliveries.jsonl"
    rows = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(rows[: len(rows) // 2]))  # as after a kill
    said = command("verify", locked, "--level", "bitwise", "--json")
    assert said.code == 0, said.err
    counts = json.loads(said.out.splitlines()[-1])["counts"]
    assert counts["unfinished"] == 9 - counts["equal"] > 0
    assert f"{counts['unfinished']} files not there yet" in said.err.splitlines()[-1]


def test_pictures_that_cannot_be_made_again_say_why(command: CommandLine, locked: Path, tmp_path: Path) -> None:
    (locked.parent / "photos/three.png").unlink()
    said = command("verify", locked, "--junit", tmp_path / "junit.xml")
    assert said.code == 4
    rows = said.out.splitlines()
    assert rows[-1].startswith("different: 3 absent of 9")
    assert "there is none to compare with: three.png: cannot be opened" in rows[0]
    assert "not tried: it starts from “make it rain”" in rows[2]
    assert "cannot be opened" in (tmp_path / "junit.xml").read_text()


def test_the_cells_of_a_grid_are_told_apart(command: CommandLine, recipe: Path) -> None:
    grid = "guidance: {text: [5, 7.5], image: [1, 1.5]}\nseeds: [1, 2]\n"
    recipe.write_text(RECIPE.replace("{id: storm", "make it night, {id: storm") + grid)
    assert command("run", recipe, *FAKE, "--only", "three.png").code == 0
    out, other = recipe.parent / "out", recipe.parent / "other"
    shutil.copytree(out, other)
    alter(other, "make it winter", 40)
    said = command("verify", out, "--against", other)
    assert said.out.startswith("differs  three.png  make it winter (text 5, image 1, seed 1)  RMS")
    alter(other, "make it winter", -40)
    assert command("lock", recipe, "--check").code == 4


def test_a_verdict_does_not_need_its_pictures(command: CommandLine, locked: Path) -> None:
    out, other = locked.parent / "out", locked.parent / "other"
    shutil.copytree(out, other)
    alter(other, "make it rain", 30)
    said = command("verify", out, "--against", other, "--out", locked)
    assert said.code == 4
    assert "pictures of what differs could not be written: File exists" in said.err
    assert said.out.splitlines()[-1].startswith("different: 1 differs of 9")


def test_a_lock_beside_its_recipe_is_no_wrong_recipe(command: CommandLine, locked: Path) -> None:
    lock = locked.with_name("recipe.lock.yaml")
    said = command("validate", locked, lock)  # as the shell makes of *.yaml
    assert said.code == 0, said.err
    assert "a lock, passed over" in said.out
    assert command("validate", locked, lock, "--strict").code == 0
    said = command("run", lock, *FAKE)
    assert said.code == 2
    assert "this is a lock and no recipe" in said.err
    assert "give recipe.yaml instead" in said.err


def test_a_lock_that_is_none_is_said_to_be_none(command: CommandLine, locked: Path) -> None:
    lock = locked.with_name("recipe.lock.yaml")
    good = lock.read_text()
    for text, words in (("", "is no lock"), ("[]", "is no lock"), (good.replace("lock: 1", "lock: 2"), "lock is 2")):
        lock.write_text(text)
        said = command("lock", locked, "--check")
        assert said.code == 4
        assert words in said.err
        assert "Input should" not in said.err
    lock.unlink()
    lock.mkdir()
    for arguments in (("lock", locked, "--check"), ("run", locked, *FAKE, "--locked"), ("verify", lock / "..")):
        said = command(*arguments)
        assert said.code in (2, 4)
        assert "bug" not in said.err
    assert "cannot be read: Is a directory" in command("lock", locked, "--check").err


def test_a_session_that_made_nothing_does_not_say_what_pictures_were_made_with(
    command: CommandLine, recipe: Path
) -> None:
    assert command("run", recipe, *FAKE).code == 0
    (sessions,) = (recipe.parent / "out/.ip2pbatch").glob("sessions*.jsonl")
    sessions.write_text(unsealed(sessions).replace(f'"numpy":"{np.__version__}"', '"numpy":"1.0.0"'))
    assert command("run", recipe, *FAKE).code == 0  # nothing left to make, with a newer library
    said = command("lock", recipe)
    assert said.code == 0
    assert f"files may have been delivered with numpy {np.__version__}; the pictures were made with 1.0.0" in said.err
    stale = command("lock", recipe, "--check")
    assert stale.code == 4
    assert f"versions: numpy is {np.__version__}, was 1.0.0" in stale.out
    assert "made with numpy 1.0.0 and are made again with" in command("verify", recipe).err


def test_an_engine_that_no_session_names_any_more_is_named_by_the_next_run(command: CommandLine, locked: Path) -> None:
    sessions = locked.parent / "out/.ip2pbatch/sessions.jsonl"
    lines = sessions.read_bytes().splitlines(keepends=True)
    sessions.write_bytes(b"".join(line for line in lines if b'"event":"engine"' not in line))
    for words in (("lock", locked), ("verify", locked)):
        assert "does not say what its engine was" in command(*words).err
    said = command("run", locked, *FAKE)
    assert said.out.splitlines()[-1].startswith("done: 0 edits made, 0 files delivered")
    for words in (("lock", locked), ("verify", locked)):
        assert command(*words).code == 0
