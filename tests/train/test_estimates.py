"""What a chain will take: the releases' and the paper's figures, rates that are learned, and the table of `plan`."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from safetensors.torch import load_file
from tiny_models import save_text_to_image
from train_pairs import make_dataset

from ip2pbatch.backends import hub
from ip2pbatch.cli.app import app
from ip2pbatch.train import estimates, stages
from ip2pbatch.train.configs import in_order, load_config, stage_of
from ip2pbatch.train.estimates import (
    SD1,
    Estimate,
    Rate,
    estimate,
    hours_of,
    learn,
    model_name,
    model_of,
    rates,
    size_of,
)
from ip2pbatch.train.fit.stable_diffusion import Config as FineTuning
from ip2pbatch.train.pairs import filter as filtering
from ip2pbatch.train.pairs.filter import Config as Filter
from ip2pbatch.train.pairs.filter import Thresholds
from ip2pbatch.train.pairs.prompt_to_prompt import pair_stage as prompt_to_prompt
from ip2pbatch.train.pairs.prompt_to_prompt.pair_stage import Config as Pairs
from ip2pbatch.train.pairs.prompt_to_prompt.pairs_a_second import kept_models, measured_name
from ip2pbatch.train.stage import Stage

PAPER = Path(__file__).parents[2] / "training" / "paper"
COUNTS = Estimate("", prompts=451_990)


def drawn(**settings: object) -> Estimate:
    return prompt_to_prompt.estimate(Pairs(maker="prompt_to_prompt", **settings), COUNTS)  # type: ignore[arg-type]


def stage(name: str, settings: object) -> SimpleNamespace:
    return SimpleNamespace(module=stage_of(f"ip2pbatch.train.{name}"), settings=settings, inputs={})


def test_pictures_take_what_the_released_sets_take_but_for_the_colour() -> None:
    random = drawn(samples=4)
    assert (random.bytes - random.pairs * estimates.LINE) / estimates.FULL_COLOUR == pytest.approx(727e9)
    filtered = drawn(samples=100, thresholds=Thresholds())
    lines = 451_990 * 100 * estimates.LINE
    assert (filtered.bytes - lines) / estimates.FULL_COLOUR == pytest.approx(436e9)
    assert filtered.pairs < 4 * 313_010, "no more than four of each prompt that is in the released set"


def test_work_grows_with_samples_steps_and_area() -> None:
    work = drawn().work
    assert work == 451_990 * 100 * 100
    assert drawn(samples=50).work == drawn(steps=50).work == work / 2
    assert drawn(side=256).work == work / 4
    assert drawn(limit=10).work == 10 * 100 * 100


def test_a_filter_keeps_no_more_than_there_is() -> None:
    there = replace(COUNTS, pairs=1000.0)
    assert filtering.estimate(Filter(), there).pairs == 1000
    plenty = replace(COUNTS, pairs=1e9)
    assert filtering.estimate(Filter(), plenty).pairs == pytest.approx(451_990 * 2.4, rel=0.01)
    assert filtering.estimate(Filter(choose="random"), plenty).pairs == 451_990 * 4


@pytest.fixture
def paper(tmp_path: Path) -> Path:
    """The paper's configs as they ship, beside the data that they name."""
    shutil.copytree(PAPER, tmp_path / "training" / "paper")
    (tmp_path / "data" / "other-methods").mkdir(parents=True)
    (tmp_path / "data" / "improved_aesthetics_6.5plus").mkdir()
    rows = '{"TEXT": "a"}\n' * 502_211
    (tmp_path / "data" / "improved_aesthetics_6.5plus" / "rows.jsonl").write_text(rows)
    return tmp_path / "training" / "paper"


def test_nothing_is_counted_of_a_file_that_is_not_there(paper: Path) -> None:
    shutil.rmtree(paper.parents[1] / "data" / "improved_aesthetics_6.5plus")
    found = {made.stage: made for made in estimate(stages.status(paper / "pack.yaml", out=Path("nowhere"))).values()}
    assert found["captions"].makes.endswith("data/improved_aesthetics_6.5plus is not there")
    assert found["pairs"].makes == "not known: captions is not"
    assert found["captions-finetune"].makes == "16 steps", "what can be known is said"
    assert not found["pack"].bytes


def test_a_checkpoints_size_is_the_models_own(tmp_path: Path) -> None:
    model = save_text_to_image(tmp_path / "model")
    weights = load_file(model / "unet" / "diffusion_pytorch_model.safetensors")
    expected = 16 * sum(value.numel() for value in weights.values())
    assert estimates.checkpoint_bytes(str(model)) == expected
    settings = FineTuning(maker="stable_diffusion", start=str(model), views=0)
    assert stage_of("ip2pbatch.train.fit.stable_diffusion").estimate(settings, COUNTS).bytes == 3 * expected


def test_a_named_set_is_counted_and_what_is_to_be_fetched_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_dataset(tmp_path / "pairs", prompts=10, side=8)
    text = "{stage: finetune, maker: stable_diffusion, data: pairs, start: owner/name, views: 0}"
    (tmp_path / "finetune.yaml").write_text(text)
    monkeypatch.setattr(hub, "look_up", lambda repo, revision: hub.HubModel("a" * 40, 4_000_000_000))
    (found,) = estimate(stages.status(tmp_path / "finetune.yaml", out=tmp_path / "out")).values()
    assert (found.prompts, found.pairs, found.fetch) == (10, 15, 4e9)


@pytest.mark.parametrize("config", ["paper/evaluate-magicbrush.yaml", "tiny/evaluate.yaml"])
def test_every_stage_says_what_it_will_make(config: str) -> None:
    for one in in_order(load_config(PAPER.parent / config)):
        assert one.module.estimate is not Stage.estimate, one.name


def test_the_papers_chain_as_it_ships(paper: Path) -> None:
    chain = stages.status(paper / "evaluate.yaml", out=Path("nowhere"))
    found = {made.stage: made for made in estimate(chain).values()}
    assert list(found) == ["captions-finetune", "captions", "pairs", "filter", "pack", "finetune", "evaluate"]
    assert 4e7 < found["pairs"].work / 100 < 5e7
    assert 5e11 < found["pairs"].bytes < 8e11
    assert found["finetune"].hours(rates()) == {"NVIDIA A100-SXM4-40GB": pytest.approx(25.5 * 8)}
    assert found["evaluate"].work == 5000 * 14 * 100
    assert hours_of(found["pairs"], rates()) == "no rate measured: `train bench-pairs` does"
    assert hours_of(found["finetune"], rates(), 2.0) == "204 h on NVIDIA A100-SXM4-40GB, 408 in money"


def test_a_rate_is_learned_replaced_and_used() -> None:
    settings = Pairs(maker="prompt_to_prompt", steps=50, side=256)
    config = stage("pairs.prompt_to_prompt.pair_stage", settings)
    learn(config, {"pairs/s": 8.0}, "cpu")
    assert [rate for rate in rates() if rate.device == "cpu"] == [
        Rate("cpu", estimates.PAIR_STEPS, SD1, 8 * 50 / 4, "measured on this machine")
    ]
    learn(config, {"pairs/s": 16.0}, "cpu")
    learn(config, {"pairs/s": 0.0}, "cpu")  # nothing was left to make
    work = replace(drawn(limit=72, samples=100, steps=100), model=SD1)
    assert work.hours(rates())["cpu"] == pytest.approx(72 * 100 * 100 / 200 / 3600)


def test_a_small_models_rate_says_nothing_of_a_large_one() -> None:
    small = Pairs(maker="prompt_to_prompt", model="somebody/tiny")
    learn(stage("pairs.prompt_to_prompt.pair_stage", small), {"pairs/s": 1000.0}, "cpu")
    assert not replace(drawn(), model=SD1).hours(rates())
    assert replace(drawn(), model="tiny").hours(rates())
    learn(stage("pairs.prompt_to_prompt.pair_stage", Pairs(maker="prompt_to_prompt")), {"pairs/s": 0.1}, "cpu")
    assert len([rate for rate in rates() if rate.device == "cpu"]) == 2, "one does not replace the other"


def test_a_fine_tunings_rate_is_that_of_its_last_session_and_of_one_process() -> None:
    settings = FineTuning(maker="stable_diffusion", start="a/stable-diffusion-v1-5")
    metrics = {"steps": 10_000.0, "seconds": 10.0, "samples_a_second": 8.0}  # nearly all steps were before a restart
    learn(stage("fit.stable_diffusion", settings), metrics, "cpu", 4)
    assert rates()[-1] == Rate("cpu", estimates.SAMPLES, SD1, 2.0, "measured on this machine")


def test_models_are_known_by_what_tells_their_size() -> None:
    assert model_name("stable-diffusion-v1-5/stable-diffusion-v1-5@abc") == SD1
    assert model_name("/models/instruct-pix2pix") == SD1
    assert model_name("Qwen/Qwen2.5-7B") == "Qwen2.5-7B"
    assert model_name("work/finetune/1/model") == "work/finetune/1/model"
    assert measured_name(str(kept_models() / "sd15-random-1-text")) == SD1
    assert measured_name(str(kept_models() / "small-random-1-text")) == "small"
    evaluate, captions = load_config(PAPER / "evaluate.yaml"), load_config(PAPER / "captions.yaml")
    assert model_of(evaluate) == SD1, "that of the fine-tuning, and SDEdit's"
    assert model_of(captions) == "Qwen2.5-7B", "that of the taught model"


@pytest.mark.parametrize(("size", "said"), [(0, ""), (250e6, "250 MB"), (436e9, "436 GB"), (26.7e12, "26.7 TB")])
def test_sizes_are_said_as_a_person_would(size: float, said: str) -> None:
    assert size_of(size) == said


def test_validate_looks_at_the_files_after_a_wrong_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("stage: pack\nmaker: pictures\nshard_bites: 5\n")
    (tmp_path / "right.yaml").write_text("stage: pack\nmaker: pictures\nsource: .\n")
    with pytest.raises(SystemExit) as ended:
        app(["train", "validate", str(wrong), str(tmp_path / "right.yaml")])
    said = capsys.readouterr()
    assert ended.value.code == 2
    assert f"{wrong}:3:1: shard_bites: unknown key" in said.err
    assert "right.yaml: ok, right" in said.out


def test_plan_prints_estimates_and_after_a_run_the_hours(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = save_text_to_image(tmp_path / "model")
    (tmp_path / "captions.jsonl").write_text('{"input": "a dog", "edit": "a cat", "output": "a cat"}\n' * 3)
    keys = {
        "stage": "pairs", "maker": "prompt_to_prompt", "model": str(model), "captions": "captions.jsonl", "samples": 2,
        "steps": 1, "side": 32, "precision": "fp32",
    }  # fmt: skip
    (tmp_path / "pairs.yaml").write_text(json.dumps(keys))
    (tmp_path / "pack.yaml").write_text("stage: pack\nmaker: pictures\ninputs: {pairs: pairs.yaml}\n")

    def say(*words: str) -> str:
        with pytest.raises(SystemExit) as ended:
            app(["train", *words, "--out", str(tmp_path / "out")])
        assert not ended.value.code
        return capsys.readouterr().out

    told = " ".join(say("plan", str(tmp_path / "pack.yaml")).split())
    assert "6 samples, 6 pairs written" in told
    assert "no rate measured" in told
    assert "together" in told
    say("run", str(tmp_path / "pairs.yaml"))
    (row,) = json.loads(say("plan", str(tmp_path / "pack.yaml"), "--json"))
    assert row["stage"] == "pack"
    assert row["estimate"]["pairs"] == 6
    (tmp_path / "pairs.yaml").write_text(json.dumps(keys | {"steps": 2}))
    pairs, _ = json.loads(say("plan", str(tmp_path / "pack.yaml"), "--json"))
    assert pairs["estimate"]["hours"]["cpu"] > 0
