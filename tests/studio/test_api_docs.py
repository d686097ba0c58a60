"""The examples of docs/studio-api.md, as they stand there, against a server of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from runs import LONG, make_photos
from studios import base, served

PAGE = (Path(__file__).parents[2] / "docs" / "studio-api.md").read_text("utf-8")


def example(language: str, words: str) -> str:
    """The one example of the page that has these words."""
    (found,) = [text for text in re.findall(rf"```{language}\n(.*?)```", PAGE, re.S) if words in text]
    return found


@pytest.mark.parametrize(
    ("command", "made"),
    [
        (["sh", "-e", "-c", example("sh", "json()")], ("cell.png", "edited.jpg")),
        (
            [sys.executable, "-c", example("python", "urlopen")],
            ("out/day0/0000_add-fog.jpg", "out/day1/0001_add-fog.jpg"),
        ),
    ],
    ids=["curl", "python"],
)
def test_an_example_runs(command: list[str], made: tuple[str, ...], tmp_path: Path) -> None:
    make_photos(tmp_path / "photos", 2)
    with served(tmp_path / "photos", tmp_path / "out") as address:
        environment = os.environ | {"STUDIO": base(address), "TOKEN": address.token}
        ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=LONG)
    assert ended.returncode == 0, ended.stderr
    for name in made:
        with Image.open(tmp_path / name) as picture:
            assert max(picture.size) >= 64
