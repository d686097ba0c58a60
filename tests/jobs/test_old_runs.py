"""Runs, a lock and recipes that an earlier version made: they open, go on, and nothing of them is made again.

These tests stay for ever. The runs in `old_runs/` are never made anew; `old_runs/make.py` says how they were made.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pytest
import yaml
from command import CommandLine
from PIL import Image

from ip2pbatch.backends.weights import resolve
from ip2pbatch.jobs.job import versions
from ip2pbatch.pictures import images, metadata
from ip2pbatch.run.directory.ledger import open_run
from ip2pbatch.run.directory.view import read_run

OLD_RUNS = Path(__file__).parent / "old_runs"
FAKE = ("--backend", "fake")
TORCH = ("--device", "cpu", "--precision", "fp32")


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """The recipe of the fake engine's run, with its photos, run, files and lock, where they may be changed."""
    return copied("fake", tmp_path)


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """The recipe of a run of the embedded model as it then was."""
    return copied("tiny", tmp_path)


def copied(name: str, folder: Path) -> Path:
    shutil.copytree(OLD_RUNS / name, folder / name)
    return folder / name / "recipe.yaml"


def made(recipe: Path) -> dict[str, bytes]:
    """All that the model made, and what was noted of each picture but for what later versions add to a line."""
    run = recipe.parent / "out" / ".ip2pbatch"
    files = {path.relative_to(run).as_posix(): path.read_bytes() for path in (run / "edits").rglob("*.*")}
    rows = map(json.loads, (run / "results.jsonl").read_text("utf-8").splitlines())
    noted = {row["edit"]: {name: row[name] for name in row if name not in ("digest", "latent", "crc")} for row in rows}
    return files | {"results.jsonl": json.dumps(noted).encode()}


def delivered(recipe: Path) -> dict[str, Path]:
    """The photographer's files by name."""
    out = recipe.parent / "out"
    return {file.path: out / file.path for file in read_run(out).deliveries.values()}


def then(recipe: Path) -> dict[str, str]:
    """The versions that the run was made with."""
    return dict(read_run(recipe.parent / "out").sessions[0].versions)


def assert_same_file(file: Path, was: Path, pillow: str) -> None:
    """The same bytes; where another Pillow compresses, the same picture as near as JPEGs come."""
    if pillow == PIL.__version__:
        assert file.read_bytes() == was.read_bytes(), file.name
        return
    with Image.open(file) as now, Image.open(was) as before:
        assert now.size == before.size
        assert np.abs(np.asarray(now, int) - np.asarray(before, int)).max() <= (8 if now.format == "JPEG" else 0)


def test_it_goes_on_and_nothing_is_made_again(command: CommandLine, old: Path) -> None:
    assert_goes_on(command, old, FAKE, 8)


def test_a_run_of_the_embedded_model_goes_on(command: CommandLine, tiny: Path) -> None:
    """Where the package ships a better model by now, no run of the old one can go on, and the run says so."""
    view = read_run(tiny.parent / "out")
    with open_run(view.root, view.spec) as run:
        assert run.latent(view.plan.edits[0].key).shape == (32, 8, 8)
    if resolve("tiny").digest == view.spec.model_digest:
        assert_goes_on(command, tiny, TORCH, 2)
    else:
        said = command("run", tiny, *TORCH)
        assert said.code == 2
        assert "this run was made with model digest" in said.err


def assert_goes_on(command: CommandLine, recipe: Path, flags: tuple[str, ...], all_there: int) -> None:
    before = made(recipe)
    said = command("run", recipe, *flags)
    assert said.code == 0, said.err
    assert "done: 0 edits made, 0 files delivered" in said.out
    assert said.out.endswith(f"all {all_there} edits are there\n")
    assert read_run(recipe.parent / "out").complaints == ()
    said = command("verify", recipe)
    assert said.code == 0, said.err + said.out
    assert f"all {all_there} compared" in said.out
    assert made(recipe) == before


@pytest.mark.parametrize("link", ["make it dark", "make it spring", "make it winter"])
def test_what_was_lost_of_it_is_made_again_and_nothing_else(command: CommandLine, old: Path, link: str) -> None:
    """The link of a chain from the latent that was kept, or from pixels; and a lone edit."""
    before, out = made(old), old.parent / "out"
    view = read_run(out)
    lost = [edit.key for edit in view.plan.edits if edit.instruction == link]
    for key in lost:
        view.layout.picture(key).unlink()
    said = command("run", old, *FAKE)
    assert said.code == 0, said.err
    assert said.out.splitlines()[-1].startswith(f"done: {len(lost)} edit")
    after = made(old)
    assert set(after) ^ set(before) <= {f"edits/{key[:2]}/{key}.safetensors" for key in lost}
    for key in lost:
        was = np.asarray(Image.open(OLD_RUNS / "fake" / "out" / ".ip2pbatch" / "edits" / key[:2] / f"{key}.png"), int)
        assert np.abs(np.asarray(Image.open(view.layout.picture(key)), int) - was).mean() < 2  # the typeface may differ
    assert all(after[name] == data for name, data in before.items() if name.endswith(".safetensors"))


def test_its_files_are_delivered_as_they_were(command: CommandLine, old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "SOFTWARE", f"ip2pbatch {then(old)['ip2pbatch']}")  # as the files say
    before = made(old)
    files = delivered(old)
    assert len(files) == 7
    for file in files.values():
        file.unlink()
    said = command("deliver", old)
    assert said.code == 0, said.err
    assert "0 edits made, 7 files delivered" in said.out
    assert made(old) == before
    for name, file in files.items():
        assert_same_file(file, OLD_RUNS / "fake" / "out" / name, then(old)["pillow"])


@pytest.mark.parametrize("name", ["fake", "tiny"])
def test_it_is_shown(command: CommandLine, tmp_path: Path, name: str) -> None:
    """status, sheet and report, of the tiny model's run too, whose model may be another one by now."""
    recipe = copied(name, tmp_path)
    out, cells = recipe.parent / "out", {"fake": 8, "tiny": 2}[name]
    before = made(recipe)
    said = command("status", out, "--json")
    assert said.code == 0, said.err
    standing = json.loads(said.out)
    assert standing["edits"] == {"done": cells} | dict.fromkeys(("failed", "nan", "flagged", "skipped", "left"), 0)
    assert (standing["sessions"], standing["complaints"], standing["delivered"]) == (
        2,
        [],
        {"fake": 7, "tiny": 2}[name],
    )
    assert command("sheet", out).code == 0
    assert len(list((out / "sheets").glob("*.png"))) == {"fake": 4, "tiny": 1}[name]
    assert command("report", out).code == 0
    page = (out / "report.html").read_text("utf-8")
    assert all(name.rpartition("/")[2] in page for name in delivered(recipe))
    assert made(recipe) == before


def test_its_lock_holds(command: CommandLine, old: Path) -> None:
    """Stale for nothing but the versions, which are others with every release; with those of today it holds."""
    lock, before = old.with_name("recipe.lock.yaml"), made(old)
    said = command("lock", old, "--check")
    assert all(line.startswith(("versions: ", "stale: ", "up to date")) for line in said.out.splitlines()), said.out
    data: dict[str, Any] = yaml.safe_load(lock.read_text("utf-8"))
    lock.write_text(yaml.safe_dump(data | {"versions": versions("fake")}, sort_keys=False), "utf-8")
    assert command("lock", old, "--check").code == 0
    said = command("run", old, *FAKE, "--locked")
    assert said.code == 0, said.err
    assert "0 edits made, 0 files delivered" in said.out
    assert made(old) == before
    said = command("verify", lock, "--against", old.parent / "out", "--level", "bitwise")
    assert said.code == 0, said.err + said.out
    assert command("lock", old).code == 0
    assert yaml.safe_load(lock.read_text("utf-8")) == data  # the run's own versions, not today's


def test_its_photos_are_shrunk_as_they_were_and_those_of_a_new_run_as_diffusers_does_it(
    command: CommandLine, old: Path
) -> None:
    shutil.copyfile(old.parent / "photos" / "lake.png", old.parent / "photos" / "pond.png")
    with Image.open(old.parent / "photos" / "pond.png") as photo:
        photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(old.parent / "photos" / "pond.png")
    for out, sizing in ((old.parent / "out", "bicubic"), (old.parent / "new", "lanczos")):
        said = command("run", old, *FAKE, "-o", out)
        assert said.code == 0, said.err
        view = read_run(out)
        assert view.spec.sizing == sizing
        strip = next(strip for strip in view.strips if strip.photo.name == "pond.png")
        with Image.open(view.source_path(strip)) as seen:
            expected = images.load(strip.photo.path, seen.size, sizing=sizing).pixels
            assert np.array_equal(np.asarray(seen), expected)
        said = command("verify", out)
        assert said.code == 0, said.err + said.out


def test_a_new_run_of_its_lock_shrinks_photos_as_it_did(command: CommandLine, old: Path) -> None:
    said = command("run", old, *FAKE, "--locked", "-o", old.parent / "new")
    if "is stale" in said.err:  # other versions of the libraries than those of the lock
        pytest.skip(said.err)
    assert said.code == 0, said.err
    assert read_run(old.parent / "new").spec.sizing == "bicubic"
