"""The paper's six stages in sequence, with tiny random models of the real classes; and the shipped configs."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny_clip import save_clip
from tiny_language import save_language_model
from tiny_models import save_text_to_image

from ip2pbatch.train.captions.completion import completion_text, prompt_text
from ip2pbatch.train.configs import in_order, load_config
from ip2pbatch.train.data.released import Prompt
from ip2pbatch.train.stages import StageStatus, run

PAPER = Path(__file__).parents[2] / "training" / "paper"
TRIPLETS = [("a cat", "make it a dog", "a dog"), ("a red car", "make the car blue", "a blue car")]
CHAIN = {
    "triplets.yaml": """
stage: captions
maker: finetune
triplets: triplets.jsonl
model: MODELS/lm
lora: null
epochs: 60
batch: 2
lr: 3.0e-3
""",
    "captions.yaml": """
stage: captions
maker: generate
inputs: {captions: triplets.yaml}
captions: laion.jsonl
sampling: {temperature: 0.05, max_tokens: 40}
precision: fp32
""",
    "pairs.yaml": """
stage: pairs
maker: prompt_to_prompt
inputs: {captions: captions.yaml}
model: MODELS/sd
samples: 3
steps: 2
side: 32
precision: fp32
clip: MODELS/clip
thresholds: {caption: -1, direction: -1, image: -1, keep: 3}
batch: 2
""",
    "filter.yaml": """
stage: filter
inputs: {pairs: pairs.yaml}
thresholds: {caption: -1, direction: -1, image: -1, keep: 2}
""",
    "pack.yaml": "{stage: pack, maker: pictures, inputs: {filter: filter.yaml}}",
    "finetune.yaml": """
stage: finetune
maker: stable_diffusion
inputs: {pack: pack.yaml}
start: MODELS/sd
side: 32
resize: [32, 36]
views: 2
effective_batch: 2
batch: 2
readers: 1
loop: {steps: 3, lr: 1.0e-3, precision: "no", sample_every: 100}
look: {pairs: 0}
""",
    "evaluate.yaml": """
stage: evaluate
maker: tradeoff
inputs: {data: pack.yaml, model: finetune.yaml}
split: all
samples: 2
side: 32
steps: 2
clip: MODELS/clip
resamples: 20
curves:
  - {method: instruct, name: InstructPix2Pix, model: model, values: [1.0, 2.2]}
  - {method: sdedit, name: SDEdit, model: MODELS/sd, values: [0.5]}
""",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The chain's configs, its models with random weights, two triplets and three captions."""
    folder = tmp_path_factory.mktemp("paper")
    prompts = [Prompt(number, *texts) for number, texts in enumerate(TRIPLETS)]
    texts = [prompt_text(one.input) + completion_text(one) for one in prompts]
    save_language_model(folder / "models" / "lm", texts)
    save_text_to_image(folder / "models" / "sd")
    save_clip(folder / "models" / "clip")
    (folder / "triplets.jsonl").write_text("".join(json.dumps(one.row()) + "\n" for one in prompts))
    rows = [{"TEXT": text, "URL": f"http://example.org/{text}.jpg"} for text in ("a cat", "a red car", "a cat")]
    (folder / "laion.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, text in CHAIN.items():
        (folder / name).write_text(text.replace("MODELS", str(folder / "models")))
    return folder


@pytest.fixture(scope="module")
def made(folder: Path) -> dict[str, StageStatus]:
    """The chain, run once by its last config."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        found = run(folder / "evaluate.yaml", out=folder / "out")
    finally:
        torch.set_num_threads(threads)
    return {one.config.name: one for one in found}


def test_all_stages_run_from_triplets_to_the_curve(made: dict[str, StageStatus]) -> None:
    assert {name: one.state for name, one in made.items()} == {Path(name).stem: "fresh" for name in CHAIN}
    lines = (made["captions"].folder / "captions.jsonl").read_text().splitlines()
    assert [(row["input"], row["edit"], row["output"]) for row in map(json.loads, lines)] == TRIPLETS
    shard = next((made["pack"].folder / "shards").glob("pairs-*.tar"))
    assert shard.stat().st_size > 4 * 1024
    assert made["finetune"].metrics["steps"] == 3
    rows = list(csv.DictReader((made["evaluate"].folder / "tradeoff.csv").read_text().splitlines()))
    assert [(row["curve"], row["value"], row["samples"]) for row in rows] == [
        ("InstructPix2Pix", "1.0", "2"), ("InstructPix2Pix", "2.2", "2"), ("SDEdit", "0.5", "2"),
    ]  # fmt: skip
    with Image.open(made["evaluate"].folder / "tradeoff.png") as plot:
        assert plot.width > 1000


def test_a_second_run_makes_nothing(folder: Path, made: dict[str, StageStatus]) -> None:
    times = {name: (one.folder / "done.json").stat().st_mtime_ns for name, one in made.items()}
    again = run(folder / "evaluate.yaml", out=folder / "out")
    assert {one.config.name: (one.folder / "done.json").stat().st_mtime_ns for one in again} == times


def test_a_smaller_batch_is_no_other_training(folder: Path, made: dict[str, StageStatus]) -> None:
    config = folder / "finetune.yaml"
    text = config.read_text()
    config.write_text(text.replace("\nbatch: 2", "\nbatch: 1").replace("readers: 1", "cache: elsewhere"))
    try:
        again = {one.config.name: one for one in run(folder / "evaluate.yaml", out=folder / "out")}
    finally:
        config.write_text(text)
    assert again["finetune"].fingerprint == made["finetune"].fingerprint


@pytest.mark.parametrize("path", sorted(PAPER.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_shipped_config_is_valid(path: Path) -> None:
    assert list(in_order(load_config(path)))[-1].path == path.resolve()
