"""What works where torch is not installed, as ip2pbatch-light has it, and how the rest says what it needs."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest
from command import CommandLine

from ip2pbatch import jobs
from ip2pbatch.backends.installed import lacking
from ip2pbatch.errors import MissingError

HEAVY = ("torch", "diffusers", "transformers", "accelerate", "onnxruntime", "onnx", "openvino")
RECIPE = "photos: photos\nedits: [make it winter]\noutput: {folder: out}\n"
FAKE = ("--backend", "fake")


@pytest.fixture
def light(monkeypatch: pytest.MonkeyPatch) -> None:
    """None of the heavy libraries can be found, nor imported where nothing imported it before."""
    version = importlib.metadata.version

    def version_of(name: str) -> str:
        if name in HEAVY:
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(importlib.metadata, "version", version_of)
    for name in HEAVY:
        monkeypatch.setitem(sys.modules, name, None)


@pytest.fixture
def recipe(shoot: Path) -> Path:
    path = shoot / "recipe.yaml"
    path.write_text(RECIPE)
    return path


def test_a_run_is_planned_locked_and_looked_at(command: CommandLine, recipe: Path, light: None) -> None:
    out = recipe.parent / "out"
    lines = (
        ("validate", recipe), ("plan", recipe), ("run", recipe, *FAKE), ("lock", recipe), ("lock", recipe, "--check"),
        ("status", out), ("sheet", out), ("report", out), ("check", out), ("deliver", recipe), ("models", "list"),
    )  # fmt: skip
    assert [(line[0], command(*line).code) for line in lines] == [(line[0], 0) for line in lines]


def test_versions_that_are_not_known_here_make_no_lock_stale(
    command: CommandLine, recipe: Path, request: pytest.FixtureRequest
) -> None:
    command("run", recipe, *FAKE)
    command("lock", recipe)
    lock = recipe.with_name("recipe.lock.yaml")
    request.getfixturevalue("light")
    said = command("lock", recipe, "--check")
    assert said.code == 0, said.err
    assert "torch, diffusers, transformers are not installed here, so their versions were not compared" in said.err
    text = lock.read_text()
    lock.write_text(text.replace(f"pillow: {importlib.metadata.version('pillow')}", "pillow: 1.0.0"))
    assert command("lock", recipe, "--check").code == 4


@pytest.mark.parametrize("backend", ["torch", "onnx", "openvino"])
def test_an_edit_ends_before_any_work_with_the_line_that_brings_the_rest(
    command: CommandLine, recipe: Path, light: None, backend: str
) -> None:
    said = command("run", recipe, "--backend", backend)
    assert said.code == 6
    assert "error: this needs torch, which is not installed\nhint: pip install ip2pbatch\n" in said.err
    assert not (recipe.parent / "out").exists()


def test_it_is_an_error_of_ours_in_python_too(shoot: Path, light: None) -> None:
    with pytest.raises(MissingError, match="torch"):
        jobs.edit(shoot / "photos", "make it winter", shoot / "out", model="tiny")


def test_doctor_says_what_is_missing(command: CommandLine, light: None) -> None:
    said = command("doctor")
    assert said.code == 6
    assert "pip install ip2pbatch brings it" in " ".join(said.out.split())


@pytest.mark.parametrize("line", ["bench cpu-ladder", "train run stage.yaml"])
def test_whatever_imports_a_library_that_is_missing_says_what_brings_it(line: str, tmp_path: Path) -> None:
    program = (
        f"import sys; sys.modules.update(dict.fromkeys({HEAVY!r})); sys.argv = ['ip2pbatch', *{line.split()!r}]\n"
        "from ip2pbatch.cli.app import main\nmain()"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (6, "hint: pip install ip2pbatch"), done.stderr


def test_only_a_library_that_is_missing_itself_is_told_so() -> None:
    assert lacking(ModuleNotFoundError("", name="torch.gone")) is None
    assert str(lacking(ModuleNotFoundError("", name="scipy"))) == "this needs scipy, which is not installed"
