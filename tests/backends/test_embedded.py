"""The models that the program brings along, as they are shipped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from command import CommandLine
from numpy.typing import NDArray
from PIL import Image

from ip2pbatch.backends.pytorch import backend as pytorch
from ip2pbatch.backends.weights import list_models, resolve
from ip2pbatch.engine.editor import Editor
from ip2pbatch.plan.defaults import EMBEDDED, model_defaults, taught_scales
from ip2pbatch.plan.edits import Guidance, make_edit
from ip2pbatch.run.engine import Source

DUSK = Guidance(2.0, 1.0)


def scene() -> NDArray[np.uint8]:
    """A sky over ground with a house on it, [128, 128, 3]."""
    down = np.arange(128)[:, None, None]
    picture = np.where(down < 80, [120, 170, 230] + down // 2, [90, 140, 60]) + np.zeros((1, 128, 1), np.int64)
    picture[50:100, 30:70] = [180, 90, 70]
    return picture.astype(np.uint8)


def edited(model: str, guidance: Guidance) -> tuple[NDArray[np.int16], int]:
    """The scene made winter by a model in its own steps, and how many rows that took."""
    editor, usual = Editor(pytorch.load(resolve(model), "cpu", "fp32"), determinism="fast"), model_defaults(model)
    edit = make_edit("photo", "make it winter", guidance, 1, steps=usual.steps, sampler=usual.sampler, size=(128, 128))
    (result,) = editor.edit([edit], [Source(pixels=scene())])
    assert result.image is not None
    return result.image.astype(np.int16), editor.rows_asked


def test_the_student_makes_in_a_row_a_step_what_its_teacher_makes_in_two() -> None:
    goal, rows = edited("tiny", DUSK)
    found, fewer = edited("tiny-fast", DUSK)
    unguided, _ = edited("tiny", Guidance(1.0, 1.0))
    assert (rows, fewer) == (8, 4)
    assert np.abs(found - goal).mean() < np.abs(unguided - goal).mean() / 2


def test_what_is_shipped_says_what_it_is() -> None:
    assert [one.name for one in list_models()][: len(EMBEDDED)] == list(EMBEDDED)
    for name, folder in EMBEDDED.items():
        card = (folder / "README.md").read_text("utf-8")
        usual = model_defaults(name)
        assert f"s_T {usual.text:g}, s_I {usual.image:g}" in card
    taught = taught_scales("tiny-fast")
    assert taught is not None
    assert taught.hold(7.5, 2.2)
    assert taught_scales("tiny") is None


@pytest.mark.parametrize("asked", [["--text", "9"], ["--image", "3"]], ids=["text", "image"])
def test_what_the_student_was_not_taught_is_refused_by_name(
    tmp_path: Path, command: CommandLine, asked: list[str]
) -> None:
    (tmp_path / "photos").mkdir()
    Image.fromarray(scene()).save(tmp_path / "photos" / "a.png")
    photos, out = tmp_path / "photos", tmp_path / "out"
    found = command("edit", photos, "-i", "make it winter", "-m", "tiny-fast", "-o", out, *asked)
    assert found.code == 2
    assert "tiny-fast" in found.err
    assert not out.exists()
