"""The language model: the authors' format, what learning it does, and how completions are drawn."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_language import save_language_model
from transformers import AutoModelForCausalLM

from ip2pbatch.errors import ModelError, RecipeError, ResourceError, StoppedError
from ip2pbatch.train.captions import finetune as language
from ip2pbatch.train.captions.completion import RejectedError, completion_text, parse, prompt_text
from ip2pbatch.train.captions.language_model import LanguageModel, RowSampler, Sampling, load_language_model
from ip2pbatch.train.data.released import Prompt, read_prompts

TRIPLETS = [
    ("a house", "make it snow", "a house in snow"),
    ("a boat at sea", "as a drawing", "a drawing of a boat at sea"),
    ("two cats", "add a hat", "two cats with a hat"),
    ("a road", "at night", "a road at night"),
]
EXAMPLES = Path(__file__).parents[3] / "training" / "paper" / "triplets.jsonl"


def write_triplets(path: Path, key: str = "input") -> Path:
    rows = [{key: before, "edit": edit, "output": after} for before, edit, after in TRIPLETS]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    texts = [prompt_text(before) + completion_text(Prompt(0, before, edit, after)) for before, edit, after in TRIPLETS]
    return save_language_model(tmp_path_factory.mktemp("lm"), texts * 3)


def learn(tmp_path: Path, tiny: Path, **settings: object) -> tuple[Path, dict[str, float]]:
    tmp_path.mkdir(exist_ok=True)
    triplets = write_triplets(tmp_path / "triplets.jsonl")
    config = language.Config(maker="finetune", triplets=triplets, model=str(tiny), **settings)
    return tmp_path / "out" / "model", language.run(config, {}, tmp_path / "out", None)


def test_the_format_is_the_authors() -> None:
    triplet = Prompt(0, "a house", "make it snow", "a house in snow")
    assert prompt_text("a house") == "a house\n##\n"
    assert completion_text(triplet) == "make it snow\n%%\na house in snow\nEND"
    assert parse("a house", completion_text(triplet)) == ("make it snow", "a house in snow")
    assert prompt_text("b", [triplet]) == "a house\n##\nmake it snow\n%%\na house in snow\nEND\n\nb\n##\n"


@pytest.mark.parametrize(
    ("completion", "why"),
    [
        ("make it snow", "unparsable"),
        ("a\n%%\nb\n%%\nc", "unparsable"),
        ("a\nb\n%%\nc", "unparsable"),
        ("\n%%\na house in snow", "empty"),
        ("make it snow\n%%\n", "empty"),
        ("make it snow\n%%\n A House!", "unchanged"),
    ],
)
def test_answers_that_are_no_edit_are_rejected(completion: str, why: str) -> None:
    with pytest.raises(RejectedError, match=why):
        parse("a house.", completion)


def test_a_taught_model_writes_the_edits_that_it_was_taught(tmp_path: Path, tiny: Path) -> None:
    folder, metrics = learn(tmp_path, tiny, lora=None, epochs=70, lr=8e-3, prompt_weight=0.0)
    assert metrics["loss_last"] < 0.1 < 2 < metrics["loss_first"]
    assert (metrics["triplets"], metrics["steps"]) == (4, 70)
    model = LanguageModel.load(str(folder), "fp32", Sampling(max_tokens=40))
    answers = model.complete([prompt_text(before) for before, _, _ in TRIPLETS], [1, 2, 3, 4])
    assert all(answer.finished for answer in answers)
    found = [parse(before, answer.text) for (before, _, _), answer in zip(TRIPLETS, answers, strict=True)]
    assert found == [(edit, after) for _, edit, after in TRIPLETS]


def test_lora_learns_with_all_but_the_adapters_frozen_and_is_merged(tmp_path: Path, tiny: Path) -> None:
    folder, metrics = learn(tmp_path, tiny, epochs=8, lr=1e-2, held_out=0.25, checkpointing=True)
    assert metrics["loss_last"] < metrics["loss_first"]
    assert metrics["triplets"] == 3
    assert metrics["held_out_before"] > 0
    before, after = (AutoModelForCausalLM.from_pretrained(one).state_dict() for one in (tiny, folder))
    assert before.keys() == after.keys(), "merged: a model like any other"
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(name.endswith(".weight") and before[name].ndim == 2 for name in changed)
    assert "transformer.wte.weight" not in changed
    change = after["transformer.h.0.attn.c_attn.weight"] - before["transformer.h.0.attn.c_attn.weight"]
    assert np.linalg.matrix_rank(change.numpy(), tol=1e-4) <= 16


@pytest.mark.parametrize(("settings", "terminated"), [({"lr": 1e-2}, False), ({"lora": None, "lr": 1e-3}, True)])
def test_an_interrupted_training_goes_on_as_if_nothing_had_been(
    tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, object], terminated: bool
) -> None:
    settings = {"epochs": 3, "batch": 1, "save_minutes": 0} | settings  # 12 steps, and LoRA's dropout in all of them
    folder, whole = learn(tmp_path / "whole", tiny, **settings)
    loss_of, asked = language.loss_of, []

    def cut(*about: Any) -> torch.Tensor:
        asked.append(about)
        if len(asked) == 6 and not terminated:
            raise KeyboardInterrupt
        if len(asked) == 5 and terminated:
            os.kill(os.getpid(), signal.SIGTERM)
        return loss_of(*about)

    monkeypatch.setattr(language, "loss_of", cut)
    with pytest.raises((KeyboardInterrupt, StoppedError)) as caught:
        learn(tmp_path / "cut", tiny, **settings | ({"save_minutes": 60} if terminated else {}))
    assert getattr(caught.value, "exit_code", None) == (143 if terminated else None)
    resumed, after = learn(tmp_path / "cut", tiny, **settings)
    assert len(asked) == (5 if terminated else 6) + 7, "five steps were kept"
    assert {**after, "seconds": 0} == {**whole, "seconds": 0}
    one, other = (AutoModelForCausalLM.from_pretrained(path).state_dict() for path in (folder, resumed))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert sorted(path.name for path in (tmp_path / "cut" / "out").iterdir()) == ["model"]


def test_a_state_that_cannot_be_read_or_written_is_named(
    tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / language.LEARNING).write_bytes(b"PK\3\4 cut off")
    with pytest.raises(ModelError, match=r"learning\.pt cannot be read"):
        learn(tmp_path, tiny)
    (tmp_path / "out" / language.LEARNING).unlink()

    def full(state: object, file: Any) -> None:
        file.write(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(ResourceError, match=r"the state after step 1 could not be written.*No space"):
        learn(tmp_path, tiny, batch=1, save_minutes=0)
    assert not list((tmp_path / "out").iterdir())


def test_prompts_and_padding_count_as_the_config_says(tmp_path: Path, tiny: Path) -> None:
    model, tokenizer = load_language_model(str(tiny), "fp32", "cpu")
    prompts = read_prompts(write_triplets(tmp_path / "triplets.jsonl", key="caption"))
    config = language.Config(maker="finetune", triplets=tmp_path, model="", prompt_weight=0.25)
    examples = language.tokenize(prompts, tokenizer, config)
    assert tokenizer.decode(examples[0].tokens) == "a house\n##\nmake it snow\n%%\na house in snow\nEND<end>"
    total, weight = 0.0, 0.0
    for one in examples:
        logits = model(input_ids=torch.tensor([one.tokens])).logits[0].detach().double()
        asked = len(tokenizer(prompt_text(prompts[examples.index(one)].input)).input_ids)
        for place in range(1, len(one.tokens)):
            share = 0.25 if place < asked else 1.0
            total -= share * float(logits[place - 1].log_softmax(-1)[one.tokens[place]])
            weight += share
    assert float(language.loss_of(model, examples, 0).detach()) == pytest.approx(total / weight, rel=1e-4)


def test_tokens_are_drawn_from_the_models_distribution_less_the_penalty() -> None:
    rng = np.random.default_rng(0)
    scores = torch.from_numpy(rng.normal(size=(1, 6))).float().repeat(4000, 1)
    uniforms = torch.from_numpy(rng.random((4000, 2)))
    sampler = RowSampler(uniforms, Sampling(temperature=0.7, frequency_penalty=1.5))
    first = sampler(torch.zeros(4000, 3, dtype=torch.long), scores).argmax(-1)
    second = sampler(torch.cat([torch.zeros(4000, 3, dtype=torch.long), first[:, None]], 1), scores).argmax(-1)
    logits = scores[0].double().numpy()

    def probabilities(values: np.ndarray) -> np.ndarray:
        whole = np.exp(values / 0.7)
        return whole / whole.sum()

    assert np.bincount(first, minlength=6) / 4000 == pytest.approx(probabilities(logits), abs=0.03)
    for token in (0, 3):
        after = second[first == token]
        expected = probabilities(logits - 1.5 * (np.arange(6) == token))
        assert np.bincount(after, minlength=6) / len(after) == pytest.approx(expected, abs=0.1)
    greedy = RowSampler(uniforms, Sampling(temperature=0, frequency_penalty=0))
    assert (greedy(torch.zeros(4000, 1, dtype=torch.long), scores).argmax(-1) == int(logits.argmax())).all()


def test_a_completion_depends_on_its_seed_and_no_neighbour(tiny: Path) -> None:
    model = LanguageModel.load(str(tiny), "fp32", Sampling(max_tokens=12))
    prompts = [prompt_text(before) for before, _, _ in TRIPLETS]
    together = model.complete(prompts, [1, 2, 3, 4])
    assert [model.complete([prompt], [seed])[0] for prompt, seed in zip(prompts, (1, 2, 3, 4), strict=True)] == together
    assert model.complete(prompts[:1], [5]) != together[:1]
    assert not together[0].finished
    assert together[0].tokens == 12


def test_what_is_wrong_is_named(tmp_path: Path, tiny: Path) -> None:
    with pytest.raises(RecipeError, match=r"triplets.jsonl:1:.*more than max_tokens"):
        learn(tmp_path, tiny, max_tokens=10)
    with pytest.raises(ModelError, match="no language model") as caught:
        load_language_model(str(tmp_path / "nowhere"), "fp32", "cpu")
    assert "safetensors" in str(caught.value.hint)


def test_the_shipped_triplets_are_edits_of_captions() -> None:
    triplets = read_prompts(EXAMPLES)
    assert len(triplets) >= 60
    assert len({one.edit for one in triplets}) == len(triplets)
    for one in triplets:
        assert parse(one.input, completion_text(one)) == (one.edit, one.output)
