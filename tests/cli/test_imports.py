"""What a quick command may load: torch and its like only where a picture is made."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from runs import many

HEAVY = ("torch", "diffusers", "transformers", "onnxruntime", "scipy", "skimage", "huggingface_hub", "numpy", "ray")
READERS = ("yaml", "pydantic")  # a tenth of a second, which only reading a recipe is worth
RECIPE = """
model: tiny
photos: photos
edits: [make it winter]
output: {folder: out}
"""


def loaded_by(arguments: list[str], folder: Path, heavy: tuple[str, ...] = HEAVY) -> tuple[set[str], int, str]:
    """The `heavy` modules in sys.modules after one command line, its exit code and what it said."""
    program = (
        "import sys\n"
        "from ip2pbatch.cli.app import main\n"
        f"sys.argv = ['ip2pbatch', *{arguments!r}]\n"
        "try:\n    main()\n"
        "except SystemExit as stop:\n    code = stop.code or 0\n"
        "else:\n    code = 0\n"
        f"print('LOADED', [name for name in {heavy!r} if name in sys.modules], file=sys.stderr)\n"
        "sys.exit(code)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True)
    line = next(line for line in done.stderr.splitlines() if line.startswith("LOADED"))
    return {name for name in heavy if repr(name) in line}, done.returncode, done.stdout + done.stderr


@pytest.fixture
def shoot(tmp_path: Path) -> Path:
    """A folder with a recipe and two photos."""
    from PIL import Image

    (tmp_path / "photos").mkdir()
    for name in ("a", "b"):
        Image.linear_gradient("L").convert("RGB").save(tmp_path / f"photos/{name}.jpg")
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return tmp_path


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["run", "--help"], ["validate", "recipe.yaml"], ["plan", "recipe.yaml"], ["schema"], ["--version"]],
    ids=" ".join,
)
def test_quick_commands_load_no_heavy_library(arguments: list[str], shoot: Path) -> None:
    loaded, code, said = loaded_by(arguments, shoot)
    assert code == 0, said
    assert loaded == set()


@pytest.mark.parametrize("argument", ["--help", "--version"])
def test_help_loads_nothing_that_reads_recipes(argument: str, tmp_path: Path) -> None:
    loaded, code, said = loaded_by([argument], tmp_path, (*HEAVY, *READERS))
    assert code == 0, said
    assert loaded == set()


@pytest.mark.skipif(many(1, 0) == 1, reason="of the soak: three processes load torch")
@pytest.mark.parametrize("flags", [[], ["--locked"]], ids=" ".join)
def test_the_parent_of_workers_loads_no_torch(flags: list[str], shoot: Path) -> None:
    (shoot / "recipe.yaml").write_text(RECIPE + "size: {long_side: 64}\nsteps: 1\n")
    assert loaded_by(["run", "recipe.yaml"], shoot)[1] == 0
    assert loaded_by(["lock", "recipe.yaml"], shoot)[1] == 0
    (shoot / "out/.ip2pbatch/results.jsonl").unlink()
    loaded, code, said = loaded_by(["run", "recipe.yaml", *flags, "--devices", "cpu"], shoot)
    assert code == 0, said
    assert "1 edit to make" in said
    assert loaded & {"torch", "diffusers", "transformers", "onnxruntime"} == set()


def test_the_doctor_asks_torch_and_not_what_makes_pictures(tmp_path: Path) -> None:
    loaded, code, said = loaded_by(
        ["doctor"], tmp_path, ("torch", "diffusers", "transformers", "scipy", "torch._dynamo")
    )
    assert code == 0, said
    assert loaded <= {"torch"}, said


def test_importing_the_package_touches_nothing(tmp_path: Path) -> None:
    program = "import ip2pbatch.cli.app, os; print(os.listdir('.'))"
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.skipif(many(1, 0) == 1, reason="of the soak: a test makes a model and two processes read it")
def test_a_plan_knows_what_is_sought_without_what_finds_it(shoot: Path) -> None:
    from tiny_clipseg import save_clipseg

    save_clipseg(shoot / "clipseg")
    recipe = RECIPE.replace(
        "[make it winter]", "[{instruction: a, region: {words: the sky, model: clipseg}, protect: faces}]"
    )
    (shoot / "recipe.yaml").write_text(recipe)
    for command in ("plan", "validate"):
        loaded, code, said = loaded_by([command, "recipe.yaml"], shoot, ("torch", "transformers", "onnxruntime"))
        assert (code, loaded) == (0, set()), said
