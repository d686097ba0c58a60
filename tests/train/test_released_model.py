"""The shipped recipes that score the released model, on stand-ins in the layout and under the names of the hub's."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from PIL import Image
from stand_in_hub import COMMIT, fill_hub
from tiny_clip import save_clip
from tiny_dino import save_dino
from tiny_models import make_picture, save_model, save_text_to_image
from train_pairs import make_dataset

from ip2pbatch.errors import RecipeError
from ip2pbatch.train.configs import load_config
from ip2pbatch.train.stages import StageStatus, plan, run

PAPER = Path(__file__).parents[2] / "training" / "paper"
SMALL = {"side": 32, "steps": 1, "samples": 1, "precision": "fp32", "resolution": 64}
MODELS: Mapping[str, Callable[[Path], object]] = {
    "timbrooks/instruct-pix2pix": lambda path: save_model(path, safety=True),
    "stable-diffusion-v1-5/stable-diffusion-v1-5": save_text_to_image,
    "openai/clip-vit-large-patch14": save_clip,
    "openai/clip-vit-base-patch32": save_clip,
    "facebook/dino-vits16": save_dino,
}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of a hub that cannot be reached, with a tiny stand-in for every model that the recipes name."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    fill_hub(tmp_path / "hub", MODELS)
    return tmp_path / "hub"


def shipped(name: str, tmp_path: Path) -> Path:
    """A shipped recipe with small numbers, where its data lie as the page says."""
    text = (PAPER / name).read_text("utf-8")
    for key, value in SMALL.items():
        text = re.sub(rf"^{key}: \S+", f"{key}: {value}", text, flags=re.MULTILINE)
    path = tmp_path / "project" / "training" / "paper" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")
    return path


def scored(path: Path, tmp_path: Path) -> StageStatus:
    """What is made of a recipe; nothing but the one stage is planned."""
    assert [one.config.path for one in plan(path, out=tmp_path / "work")] == [path]
    (made,) = run(path, out=tmp_path / "work")
    assert made.state == "fresh"
    return made


def test_their_model_is_scored_on_their_pairs(tmp_path: Path, hub: Path) -> None:
    make_dataset(tmp_path / "project" / "data" / "clip-filtered-dataset", prompts=20)
    folder = scored(shipped("evaluate-released.yaml", tmp_path), tmp_path).folder
    curves = json.loads((folder / "tradeoff.json").read_text())["curves"]
    assert [(curve["name"], len(curve["points"])) for curve in curves] == [("InstructPix2Pix", 7), ("SDEdit", 7)]
    started = json.loads((folder / "done.json").read_text())
    assert COMMIT in str(started["settings"]["curves"][0]["model"]), "their model at its commit"


def test_their_model_is_scored_on_magicbrush(tmp_path: Path, hub: Path) -> None:
    test = tmp_path / "project" / "data" / "magicbrush" / "test"
    (test / "images" / "30").mkdir(parents=True)
    for number, name in enumerate(("30-input.png", "30-output1.png")):
        Image.fromarray(make_picture(number, (96, 96))).save(test / "images" / "30" / name)
    turn = {"input": "30-input.png", "mask": "", "output": "30-output1.png", "instruction": "make it snow"}
    (test / "edit_sessions.json").write_text(json.dumps({"30": [turn]}))
    (test / "local_descriptions.json").write_text(json.dumps({"30": {"30-output1.png": "a hill in snow"}}))
    made = scored(shipped("evaluate-magicbrush-released.yaml", tmp_path), tmp_path)
    assert {"all_turn l1", "final_turn dino"} <= made.metrics.keys()
    assert "±" in (made.folder / "report.md").read_text()


@pytest.mark.parametrize("name", ["evaluate.yaml", "evaluate-magicbrush.yaml"])
def test_a_chain_that_no_setting_reads_is_refused(tmp_path: Path, name: str) -> None:
    for config in PAPER.glob("*.yaml"):
        shipped(config.name, tmp_path)
    path = tmp_path / "project" / "training" / "paper" / name
    path.write_text(re.sub(r"\bmodel: model\b", "model: timbrooks/instruct-pix2pix", path.read_text()))
    with pytest.raises(RecipeError, match=rf"{name}:\d+:\d+: inputs.model: model is made for nothing") as caught:
        load_config(path)
    assert caught.value.exit_code == 2
