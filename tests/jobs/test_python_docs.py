"""The Python API: every example of docs/python.md runs, one after another, on photos drawn here."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from ip2pbatch import jobs
from ip2pbatch.jobs.outcome import Outcome
from ip2pbatch.jobs.voice import Bars

ROOT = Path(__file__).parents[2]
EXAMPLES = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs/python.md").read_text(), re.MULTILINE | re.DOTALL)
RECIPE = """
name: day
model: tiny
photos: photos
output: {folder: out}
steps: 2
seeds: {fixed: [1]}
edits: [make it winter]
"""
FAKE = jobs.Machine(backend="fake")


@pytest.fixture
def beside_photos(shoot: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (shoot / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    monkeypatch.chdir(shoot)
    return shoot


def made(folder: Path, **more: object) -> Outcome:
    return jobs.edit(folder / "photos", "make it winter", folder / "out", machine=FAKE, **more)  # type: ignore[arg-type]


def test_every_example_runs(beside_photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, object] = {"__name__": "examples"}
    for number, example in enumerate(EXAMPLES, start=1):
        exec(compile(example, f"docs/python.md, example {number}", "exec"), names)
    said = capsys.readouterr().out
    assert "three.png make it winter done" in said
    assert "3 pictures to make" in said
    assert "no such file" in said
    assert "(1, 4, (" in said  # the preview after the first of 4 steps
    assert list((beside_photos / "out").glob("one*.png"))  # delivered again


def test_importing_it_brings_no_torch_and_no_numpy() -> None:
    code = "import sys; from ip2pbatch import jobs; sys.exit(bool({'torch', 'numpy', 'PIL'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_no_module_in_the_room_is_called_like_a_function_of_it() -> None:
    folder = Path(jobs.__file__).parent
    assert not {path.stem for path in folder.glob("*.py")} & set(jobs.__all__)


def test_pictures_can_be_iterated_and_numbers_given_as_numbers(shoot: Path) -> None:
    outcome = made(shoot, text=(5, 7.5), image=1.25, seed=[3])
    cells = [(picture.photo, picture.text, picture.image, picture.seed, picture.state) for picture in outcome]
    assert cells[:2] == [("day2/two.jpg", 5.0, 1.25, 3, "done"), ("day2/two.jpg", 7.5, 1.25, 3, "done")]
    assert len(cells) == 6
    assert all(picture.file and picture.file.is_file() and picture.path for picture in outcome)


def test_a_notebook_shows_the_first_sheet_and_the_states(shoot: Path) -> None:
    shown = made(shoot)._repr_html_()
    assert "3 done" in shown
    assert 'src="data:image/png;base64,iVBOR' in shown


def test_bars_count_the_edits_and_keep_what_is_said(shoot: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (shoot / "photos/broken.jpg").write_bytes(b"no photo")
    voice = Bars()
    outcome = made(shoot, voice=voice)
    assert outcome.exit_code == 3
    assert [one.name for one in outcome.broken] == ["broken.jpg"]
    assert "3/3" in capsys.readouterr().err
