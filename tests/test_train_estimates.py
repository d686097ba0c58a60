"""What a chain will take: the releases' and the paper's figures, rates that are learned, and the table of `plan`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_models import save_text_to_image

from ip2pbatch.cli.app import app
from ip2pbatch.train import estimates, stages
from ip2pbatch.train.estimates import Estimate, Rate, estimate, hours_of, learn, rates, size_of
from ip2pbatch.train.filter import Config as Filter
from ip2pbatch.train.filter import Thresholds
from ip2pbatch.train.prompt_to_prompt_pairs import Config as Pairs

PAPER = Path(__file__).parents[1] / "training" / "paper"
COUNTS = Estimate("", prompts=451_990)


def drawn(**settings: object) -> Estimate:
    return estimates.drawn_pairs(Pairs(maker="prompt_to_prompt", **settings), COUNTS)  # type: ignore[arg-type]


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
    assert estimates.filtered(Filter(), there).pairs == 1000
    plenty = replace(COUNTS, pairs=1e9)
    assert estimates.filtered(Filter(), plenty).pairs == pytest.approx(451_990 * 2.4, rel=0.01)
    assert estimates.filtered(Filter(choose="random"), plenty).pairs == 451_990 * 4


def test_the_papers_chain_as_it_ships() -> None:
    chain = stages.status(PAPER / "evaluate.yaml", out=Path("nowhere"))
    found = {made.stage: made for made in estimate(chain).values()}
    assert list(found) == ["captions", "pairs", "filter", "pack", "finetune", "evaluate"]
    assert 4e7 < found["pairs"].work / 100 < 5e7
    assert 5e11 < found["pairs"].bytes < 8e11
    assert found["finetune"].hours(rates()) == {"NVIDIA A100-SXM4-40GB": pytest.approx(25.5 * 8)}
    assert found["evaluate"].work == 5000 * 14 * 100
    assert hours_of(found["pairs"], rates()) == "no rate measured: `train bench-pairs` does"


def test_a_rate_is_learned_replaced_and_used() -> None:
    settings = Pairs(maker="prompt_to_prompt", steps=50, side=256)
    code = "ip2pbatch.train.prompt_to_prompt_pairs"
    learn(code, settings, {"pairs/s": 8.0}, "cpu")
    assert [rate for rate in rates() if rate.device == "cpu"] == [
        Rate("cpu", estimates.PAIR_STEPS, 8 * 50 / 4, "measured on this machine")
    ]
    learn(code, settings, {"pairs/s": 16.0}, "cpu")
    learn(code, settings, {"pairs/s": 0.0}, "cpu")  # nothing was left to make
    assert drawn(limit=72, samples=100, steps=100).hours(rates())["cpu"] == pytest.approx(72 * 100 * 100 / 200 / 3600)


def test_a_broken_file_of_rates_is_as_good_as_none() -> None:
    estimates.rates_file().parent.mkdir(parents=True, exist_ok=True)
    estimates.rates_file().write_text('[["cpu"')
    assert rates() == list(estimates.PUBLISHED)
    estimates.remember("cpu", estimates.TOKENS, 3.0)
    assert len(rates()) == len(estimates.PUBLISHED) + 1


@pytest.mark.parametrize(("size", "said"), [(0, ""), (250e6, "250 MB"), (436e9, "436 GB"), (26.7e12, "26.7 TB")])
def test_sizes_are_said_as_a_person_would(size: float, said: str) -> None:
    assert size_of(size) == said


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
