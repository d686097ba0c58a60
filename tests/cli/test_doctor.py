"""`doctor --model`: whether a model can be used here, and which speed-ups do not hold for it, from its folder alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from command import CommandLine
from tiny_models import save_model


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model") / "kl", safety=True)


def changed(original: Path, tmp_path: Path, **changes: object) -> Path:
    folder = Path(shutil.copytree(original, tmp_path / "model"))
    file = folder / "unet" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    return folder


def test_it_names_the_speed_ups_that_do_not_hold_for_a_model(
    command: CommandLine, original: Path, tmp_path: Path
) -> None:
    model = changed(original, tmp_path, only_cross_attention=True)
    said = command("doctor", "--model", model, "--json")
    assert said.code == 0, said.err
    found = {row["topic"]: row for row in json.loads(said.out)}
    assert found[f"model {model}"]["value"] == "can be used"
    assert "time-table" in found[f"model {model}"]["why"]
    assert found["speed-up text-memory"]["why"] == "its self-attention reads the text as well"


def test_a_model_that_cannot_be_used_is_a_problem_with_its_reason(
    command: CommandLine, original: Path, tmp_path: Path
) -> None:
    model = changed(original, tmp_path, dual_cross_attention=True)
    said = command("doctor", "--model", model, "--json")
    assert said.code == 6
    (row,) = (row for row in json.loads(said.out) if row["topic"] == f"model {model}")
    assert (row["value"], row["state"]) == ("cannot be used", "problem")
    assert "diffusers cannot run this UNet" in row["why"]
