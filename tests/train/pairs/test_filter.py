"""The filter: what is kept, from stored similarities, in parts, in the released layout; and the scores of files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_clip import make_clip, save_clip
from tiny_models import make_picture

from ip2pbatch.errors import RecipeError, UsageError
from ip2pbatch.measures.clip import Similarities, to_unit_range
from ip2pbatch.plan.shard import Shard
from ip2pbatch.train.data.pair_sets import open_pairs
from ip2pbatch.train.data.released import Prompt, Sample, prompt_folders, read_prompt_folder, read_seeds, write_prompt
from ip2pbatch.train.pairs import filter as filtering
from ip2pbatch.train.pairs import scores
from ip2pbatch.train.pairs.filter import Config, PairFilter, Thresholds, select

ALL = Thresholds(caption=-1, direction=-1, image=-1)


def sample(seed: int, direction: float = 0.3, image: float = 0.9, caption: float = 0.3) -> Sample:
    return Sample(seed, 0.5, 9.0, Similarities(caption, caption, direction, image))


def make_pairs(root: Path, prompts: int = 5, judged: bool = True) -> Path:
    """Prompts with six samples of all sorts, all of them with pictures."""
    rng = np.random.default_rng(0)
    for number in range(prompts):
        samples = [
            sample(seed, float(rng.uniform(0, 0.4)), float(rng.uniform(0.5, 1)), float(rng.uniform(0.15, 0.35)))
            for seed in range(number, number + 6)
        ]
        samples = samples if judged else [replace(one, similarities=None) for one in samples]
        pictures = {one.seed: (make_picture(number), make_picture(number + one.seed)) for one in samples}
        words = ("a boat on a lake", "make it a stormy evening", "a boat on a lake on a stormy evening")
        write_prompt(root / "dataset", Prompt(number, *words), samples, pictures)
    return root


def kept_in(folder: Path) -> list[tuple[str, int]]:
    rows = [json.loads(line) for line in (folder / "kept.jsonl").read_text().splitlines()]
    return [(row["folder"], row["seed"]) for row in rows]


def test_thresholds_are_the_released_codes_and_ties_go_to_the_larger_seed() -> None:
    edge = Sample(1, similarities=Similarities(0.2, 0.2, 0.2, 0.7))
    assert select([edge], Thresholds()) == [1]
    for name, why in (("clip_sim_0", 0.19), ("clip_sim_1", 0.19), ("clip_sim_dir", 0.19), ("clip_sim_image", 0.69)):
        below = replace(edge, similarities=replace(edge.similarities, **{name: why}))
        assert select([below], Thresholds()) == []
        assert Thresholds().failed(below.similarities) == name
    unknown = replace(edge, similarities=Similarities(0.3, 0.3, float("nan"), 0.9))
    assert select([unknown], Thresholds()) == []
    many = [sample(3, 0.25), sample(9, 0.3), sample(4, 0.3), sample(5, 0.4), sample(6, 0.21), Sample(7)]
    assert select(many, Thresholds()) == [5, 9, 4, 3]


def test_judging_batch_by_batch_keeps_what_judging_at_once_keeps() -> None:
    rng = np.random.default_rng(1)
    samples = [sample(int(seed), float(d)) for seed, d in enumerate(rng.choice([0.1, 0.2, 0.25, 0.3], 40))]
    beside = PairFilter(make_clip(), Thresholds())
    held: set[int] = set()
    for end in range(4, 41, 4):
        held = (held | {one.seed for one in samples[end - 4 : end]}) & set(beside.keep(samples[:end]))
    assert held == set(select(samples, Thresholds()))


def test_a_pair_is_judged_the_same_beside_the_generator_and_from_files(tmp_path: Path) -> None:
    make_pairs(tmp_path, prompts=2, judged=False)
    clip = make_clip()
    config = scores.Config(model=str(save_clip(tmp_path / "clip")), batch=5)
    metrics = scores.run(config, {"pairs": tmp_path}, tmp_path / "scores", None)
    assert (metrics["prompts"], metrics["pairs"]) == (2, 12)
    found = scores.read_scores(tmp_path / "scores")
    folder = read_prompt_folder(tmp_path / "dataset" / "0000001")
    pictures = [np.asarray(Image.open(folder.picture(3, side))) for side in (0, 1)]
    before, after = (to_unit_range([one]) for one in pictures)
    (expected,) = PairFilter(clip, ALL).score(before, after, [folder.prompt])
    for name in ("clip_sim_0", "clip_sim_1", "clip_sim_dir", "clip_sim_image"):
        assert getattr(found["0000001"][3], name) == pytest.approx(getattr(expected, name), abs=1e-4)
    assert torch.isfinite(torch.tensor([one.clip_sim_dir for one in found["0000000"].values()])).all()


def test_the_filter_writes_the_released_layout_and_takes_no_space(tmp_path: Path) -> None:
    make_pairs(tmp_path / "pairs")
    metrics = filtering.run(Config(), {"pairs": tmp_path / "pairs"}, tmp_path / "filter", None)
    expected = [
        (path.name, seed)
        for path in prompt_folders(tmp_path / "pairs" / "dataset")
        for seed in select(read_prompt_folder(path).samples, Thresholds())
    ]
    assert expected
    assert kept_in(tmp_path / "filter") == expected
    assert metrics["pairs"] == len(expected)
    dataset = tmp_path / "filter" / "dataset"
    assert sorted((name, seed) for name, seeds in read_seeds(dataset) for seed in seeds) == sorted(expected)
    for name, seed in expected:
        for side in (0, 1):
            file = dataset / name / f"{seed}_{side}.jpg"
            assert file.samefile(tmp_path / "pairs" / "dataset" / name / file.name)
        assert len((dataset / name / "metadata.jsonl").read_text().splitlines()) <= 4
    pairs = open_pairs(tmp_path / "filter")
    assert sum(len(pairs.pairs(prompt)) for prompt in range(len(pairs))) == len(expected)
    with Image.open(tmp_path / "filter" / "report.png") as page:
        assert page.width > 1000
        assert len(page.convert("RGB").getcolors(1 << 24)) > 100


def test_new_thresholds_need_no_pictures_and_no_model(tmp_path: Path) -> None:
    make_pairs(tmp_path / "pairs", judged=False)
    config = scores.Config(model=str(save_clip(tmp_path / "clip")))
    scores.run(config, {"pairs": tmp_path / "pairs"}, tmp_path / "scores", None)
    inputs = {"pairs": tmp_path / "pairs", "scores": tmp_path / "scores"}
    with pytest.raises(RecipeError, match=r"metadata.jsonl: sample 0 has no similarities") as caught:
        filtering.run(Config(), {"pairs": tmp_path / "pairs"}, tmp_path / "a", None)
    assert "stage: scores" in str(caught.value.hint)
    filtering.run(Config(thresholds=ALL), inputs, tmp_path / "b", None)
    assert len(kept_in(tmp_path / "b")) == 5 * 4
    row = json.loads((tmp_path / "b" / "kept.jsonl").read_text().splitlines()[0])
    assert row["clip_sim_dir"] == scores.read_scores(tmp_path / "scores")["0000000"][row["seed"]].clip_sim_dir
    middle = sorted(one.clip_sim_dir for found in scores.read_scores(tmp_path / "scores").values()
                    for one in found.values())[15]  # fmt: skip
    filtering.run(
        Config(thresholds=ALL.model_copy(update={"direction": middle, "keep": 9})), inputs, tmp_path / "c", None
    )
    assert len(kept_in(tmp_path / "c")) == 15


def test_shards_of_changing_count_make_the_whole_once(tmp_path: Path) -> None:
    make_pairs(tmp_path / "pairs", prompts=9, judged=False)
    inputs = {"pairs": tmp_path / "pairs"}
    config = scores.Config(model=str(save_clip(tmp_path / "clip")), batch=2)
    out = tmp_path / "scores"
    for index in (1, 2, 4):
        assert scores.run(config, inputs, out, None, Shard(index, 4)) is None
    path = out / "scores-1of4.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]) + lines[-1][:50])  # killed in the middle of a line
    assert scores.run(config, inputs, out, None, Shard(2, 2)) is None
    assert scores.run(config, inputs, out, None, Shard(1, 2))["prompts"] == 9
    rows = [json.loads(line)["folder"] for file in out.glob("*.jsonl") for line in file.read_text().splitlines()
            if line.endswith("}")]  # fmt: skip
    assert sorted(rows) == [f"{number:07d}" for number in range(9)]
    inputs["scores"], out = out, tmp_path / "filter"
    assert filtering.run(Config(thresholds=ALL), inputs, out, None, Shard(3, 4)) is None
    assert filtering.run(Config(thresholds=ALL), inputs, out, None, Shard(1, 2)) is None
    metrics = filtering.run(Config(thresholds=ALL), inputs, out, None, Shard(2, 2))
    filtering.run(Config(thresholds=ALL), inputs, tmp_path / "whole", None)
    assert kept_in(out) == kept_in(tmp_path / "whole")
    assert metrics["pairs"] == len(kept_in(out)) == 36


def test_random_pairs_are_kept_whatever_their_similarities(tmp_path: Path) -> None:
    make_pairs(tmp_path / "pairs", judged=False)
    config = Config(choose="random", thresholds=Thresholds(keep=2))
    filtering.run(config, {"pairs": tmp_path / "pairs"}, tmp_path / "a", None)
    filtering.run(config.model_copy(update={"seed": 1}), {"pairs": tmp_path / "pairs"}, tmp_path / "b", None)
    assert len(kept_in(tmp_path / "a")) == len(kept_in(tmp_path / "b")) == 10
    assert kept_in(tmp_path / "a") != kept_in(tmp_path / "b")
    assert not (tmp_path / "a" / "report.png").exists()


def test_pairs_that_were_dropped_while_they_were_made_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    samples = [sample(1, 0.5), sample(2, 0.25), sample(3, 0.1)]
    pictures = {2: (make_picture(1), make_picture(2))}
    write_prompt(tmp_path / "pairs" / "dataset", Prompt(0, "a", "b", "c"), samples, pictures)
    metrics = filtering.run(Config(), {"pairs": tmp_path / "pairs"}, tmp_path / "filter", None)
    assert kept_in(tmp_path / "filter") == [("0000000", 2)]
    assert metrics["without_picture"] == 1
    assert "run the pairs stage with these thresholds" in caplog.text


def test_the_first_that_each_threshold_drops_are_shown_in_the_report(tmp_path: Path) -> None:
    thresholds = Thresholds(caption=-1, direction=0.99, image=-1)
    prompt = Prompt(4, "a boat", "make it night", "a boat at night")
    pictures = to_unit_range([make_picture(seed) for seed in range(8)])
    for _ in range(2):  # a restart goes on counting
        beside = PairFilter(make_clip(), thresholds, tmp_path / "pairs" / "dropped")
        found = beside.score(pictures[:6], pictures[2:], [prompt] * 6)
    shown = list(filtering.dropped_while_made(tmp_path / "pairs" / "dropped"))
    assert len(shown) == len(list((tmp_path / "pairs" / "dropped").glob("*_0.jpg"))) == 4
    assert {one.why for one in shown} == {"clip_sim_dir"}
    assert {one.prompt for one in shown} == {prompt}
    assert {one.similarities["clip_sim_dir"] for one in shown} <= {one.clip_sim_dir for one in found}
    samples = [Sample(seed, similarities=one) for seed, one in enumerate(found)]
    samples.append(Sample(9, extra={"broken": True}))
    write_prompt(tmp_path / "pairs" / "dataset", prompt, samples, {})
    metrics = filtering.run(Config(thresholds=thresholds), {"pairs": tmp_path / "pairs"}, tmp_path / "filter", None)
    assert metrics["pairs"] == 0
    with Image.open(tmp_path / "filter" / "report.png") as page:
        assert len(page.convert("RGB").getcolors(1 << 24)) > 1000, "with pictures of what was dropped"


def test_what_is_wrong_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="filter has no pairs"):
        filtering.run(Config(), {}, tmp_path / "filter", None)
    make_pairs(tmp_path / "pairs", prompts=1, judged=False)
    config = scores.Config(model=str(save_clip(tmp_path / "clip")), broken=0)
    file = tmp_path / "pairs" / "dataset" / "0000000" / "4_1.jpg"
    file.write_bytes(file.read_bytes()[:900])
    with pytest.raises(RecipeError, match=r"4_1.jpg: 1 of 4 samples are broken"):
        scores.run(config, {"pairs": tmp_path / "pairs"}, tmp_path / "scores", None)
    (tmp_path / "pairs" / "dataset" / "0000000" / "prompt.json").write_text('{"edit": "b"}')
    with pytest.raises(RecipeError, match=r"prompt.json: has no captions"):
        scores.run(config, {"pairs": tmp_path / "pairs"}, tmp_path / "scores", None)
