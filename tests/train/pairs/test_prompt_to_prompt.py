"""Pairs by Prompt-to-Prompt: shared attention with different captions, one sample alone, and stages that resume."""

from __future__ import annotations

import errno
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention import BasicTransformerBlock
from PIL import Image
from tiny_clip import save_clip
from tiny_models import WIDTH, make_tokenizer, save_model, save_text_to_image
from torch import Tensor

from ip2pbatch.backends import weights
from ip2pbatch.backends.pytorch import backend as pytorch
from ip2pbatch.backends.pytorch.backend import TorchBackend
from ip2pbatch.cli.app import app
from ip2pbatch.disk.atomic import disk_error
from ip2pbatch.errors import Ip2pError, MissingError, ModelError, RecipeError, ResourceError, UsageError
from ip2pbatch.plan.shard import Shard
from ip2pbatch.run.engine import OutOfMemory
from ip2pbatch.train import stages
from ip2pbatch.train.data.released import Prompt, Sample, jpeg, prompt_folders, read_prompt_folder
from ip2pbatch.train.pairs.filter import Thresholds, select
from ip2pbatch.train.pairs.prompt_to_prompt import attention_sharing as sharing_module
from ip2pbatch.train.pairs.prompt_to_prompt import pair_sampler as sampler_module
from ip2pbatch.train.pairs.prompt_to_prompt import pair_stage as stage
from ip2pbatch.train.pairs.prompt_to_prompt import prompt_work as prompt_to_prompt_files
from ip2pbatch.train.pairs.prompt_to_prompt.pair_sampler import (
    NoiseSchedule,
    PairSampler,
    Settings,
    denoised,
    draw,
    is_shared,
    to_bytes,
)
from ip2pbatch.train.pairs.prompt_to_prompt.pairs_a_second import PublishedSampler, settings_of
from ip2pbatch.train.pairs.prompt_to_prompt.prompt_work import PromptWork
from ip2pbatch.train.pairs.prompt_to_prompt.words import align

STEPS = 4
# As many words, a changed word longer than the one before; and an edit that adds words.
SWAPPED = ("a dog on a hill", "a horse on a hill")
ADDED = ("a dog on a hill", "a dog on a snowy hill at night")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_text_to_image(tmp_path_factory.mktemp("model"))


def load(model: Path) -> TorchBackend:
    return pytorch.load(weights.resolve(str(model), kind="text_to_image"))


@pytest.fixture(scope="module")
def backend(model: Path) -> TorchBackend:
    """A random Stable Diffusion whose attention is sharp enough to matter."""
    loaded = load(model)
    for block in loaded.parts.unet.modules():
        if isinstance(block, BasicTransformerBlock):
            for layer in (block.attn1, block.attn2):
                layer.to_q.weight.mul_(6), layer.to_k.weight.mul_(6)
                layer.to_v.weight.mul_(3), layer.to_out[0].weight.mul_(3)
    return loaded


def sampler(backend: TorchBackend, p: float, kind: str = "self", batch: int = 2, **other: object) -> PairSampler:
    settings = Settings(steps=STEPS, side=32, sharing=kind, shared_steps=(p, p), guidance=(3.0, 3.0))  # type: ignore[arg-type]
    return PairSampler(backend, replace(settings, **other), batch)


@pytest.fixture
def maps(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, list[Tensor]]]:
    """Every attention map that a sampler uses, [4 blocks, n, heads, places, seen]: attention is linear in its values,
    so that the identity in their place shows the map itself."""
    seen: dict[str, list[Tensor]] = {"self": [], "cross": []}

    def spy(name: str) -> None:
        attend = getattr(sharing_module, f"attend_{name}")

        def spied(q: Tensor, k: Tensor, v: Tensor, sharing: sharing_module.Sharing) -> Tensor:
            one = torch.eye(k.shape[-2]).expand(*k.shape[:2], -1, -1)
            seen[name].append(attend(q, k, one, sharing).unflatten(0, (4, -1)))
            return attend(q, k, v, sharing)

        monkeypatch.setattr(sharing_module, f"attend_{name}", spied)

    spy("self")
    spy("cross")
    return seen


def test_self_attention_of_the_second_picture_is_the_firsts_at_every_layer_and_step(
    backend: TorchBackend, maps: dict[str, list[Tensor]]
) -> None:
    sampler(backend, 1.0).latents([SWAPPED, ADDED], [1, 2])
    layers = sum(isinstance(block, BasicTransformerBlock) for block in backend.parts.unet.modules())
    assert len(maps["self"]) == layers * STEPS
    for found in maps["self"]:
        torch.testing.assert_close(found[1], found[0], rtol=0, atol=0)
        torch.testing.assert_close(found[3], found[2], rtol=0, atol=0)
    assert all((found[3] - found[2]).abs().max() > 1e-3 for found in maps["cross"]), "words are not shared"


@pytest.mark.parametrize("kind", ["self", "cross", "both"])
def test_nothing_is_shared_at_0(backend: TorchBackend, maps: dict[str, list[Tensor]], kind: str) -> None:
    sampler(backend, 0.0, kind).latents([SWAPPED, ADDED], [1, 2])
    later = len(maps["self"]) // STEPS  # at the first step the first layers look at the same noise
    for found in maps["self"][later:] + maps["cross"][later:]:
        for one in (0, 1):
            assert (found[3, one] - found[2, one]).abs().max() > 1e-4


def test_the_common_words_maps_are_carried_over_at_every_layer_and_step(
    backend: TorchBackend, maps: dict[str, list[Tensor]]
) -> None:
    sampler(backend, 1.0, "cross").latents([SWAPPED, ADDED], [1, 2])
    assert len(maps["cross"]) == len(maps["self"])
    for found in maps["cross"]:
        for pair, captions in enumerate((SWAPPED, ADDED)):
            carried, own = (torch.from_numpy(part) for part in align(backend.parts.tokenizer, *captions))
            taken = own == 0
            expected = (found[2, pair] @ carried)[..., taken]
            torch.testing.assert_close(found[3, pair][..., taken], expected, rtol=1e-5, atol=1e-6)
        changed = torch.from_numpy(align(backend.parts.tokenizer, *ADDED)[1]) == 1
        assert changed.sum() > 0
        torch.testing.assert_close(found[3, 0].sum(-1), torch.ones(found.shape[2:4]), rtol=0, atol=1e-5)


def by_itself(backend: TorchBackend, caption: str, seed: int) -> Tensor:
    """One picture's latents by diffusers' own attention, the steps written out anew."""
    settings = Settings(steps=STEPS, guidance=(3.0, 3.0))
    _, generator = draw(seed, settings)
    noise = torch.randn((STEPS, 4, 4, 4), generator=generator)
    alphas = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)
    times = np.linspace(999, 0, STEPS)
    sigmas = [*np.exp(np.interp(times, np.arange(1000), np.log(np.sqrt((1 - alphas) / alphas)))), 0.0]
    text = torch.cat([backend.encode_text([""]), backend.encode_text([caption])])
    x = noise[:1] * sigmas[0]
    for i in range(STEPS):
        seen = torch.cat([x, x]) / (sigmas[i] ** 2 + 1) ** 0.5
        with torch.inference_mode():
            without, with_text = backend.parts.unet(seen.float(), torch.tensor(times[i]), text, return_dict=False)[0]
        derivative = without + 3.0 * (with_text - without)
        up = (sigmas[i + 1] ** 2 * (sigmas[i] ** 2 - sigmas[i + 1] ** 2) / sigmas[i] ** 2) ** 0.5
        x = x + derivative * ((sigmas[i + 1] ** 2 - up**2) ** 0.5 - sigmas[i])
        if i + 1 < STEPS:
            x = x + noise[i + 1] * up
    return x[0] / backend.scaling_factor


def test_at_0_the_pictures_are_two_independent_runs_from_the_same_noise(model: Path) -> None:
    backend = load(model)  # sharp attention would make much of the last bits
    maker = sampler(backend, 0.0, "both")
    made = maker.make([SWAPPED], [7])[0]
    for picture, caption in zip(made, SWAPPED, strict=True):
        alone = backend.decode(by_itself(backend, caption, 7)[None])[0].clamp(-1, 1)
        assert (picture - alone).abs().max() < 1e-5
    assert (made[0] - made[1]).abs().max() > 1e-2


@pytest.mark.parametrize("kind", ["self", "cross", "both"])
def test_pictures_come_nearer_the_more_steps_are_shared(backend: TorchBackend, kind: str) -> None:
    away = []
    for p in (0.0, 0.25, 1.0):
        made = sampler(backend, p, kind, batch=4).latents([SWAPPED] * 4, [1, 2, 3, 4])
        away.append(float((made[:, 0] - made[:, 1]).square().mean().sqrt()))
    assert away[0] > 1.1 * away[1] > 1.1 * away[2]


def test_a_sample_does_not_depend_on_the_samples_beside_it(backend: TorchBackend) -> None:
    maker = sampler(backend, 0.5, "both", batch=3, shared_steps=(0.1, 0.9), guidance=(2.0, 9.0))
    together = maker.make([SWAPPED, ADDED, SWAPPED], [1, 2, 3])
    assert torch.equal(maker.make([ADDED], [2])[0], together[1])
    assert torch.equal(maker.make([SWAPPED, ADDED], [3, 9])[0], together[2])
    assert not torch.equal(together[0], together[2])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
@pytest.mark.parametrize("compiled", [False, True])
def test_on_a_gpu_in_half_precision_it_does_not_either(model: Path, compiled: bool) -> None:
    loaded = pytorch.load(weights.resolve(str(model), kind="text_to_image"), "cuda", "fp16", stage.STEPS)
    maker = sampler(loaded, 0.5, "both", batch=3, shared_steps=(0.1, 0.9), guidance=(2.0, 9.0))
    if compiled:
        maker.compile()
    together = maker.make([SWAPPED, ADDED, SWAPPED], [1, 2, 3])
    assert together.isfinite().all()
    assert torch.equal(maker.make([ADDED], [2])[0], together[1])


def test_p_and_guidance_of_a_seed_are_the_published_scripts() -> None:
    for seed in (0, 1371, 2**32 - 1):
        torch.manual_seed(seed)
        p = 0.1 + torch.rand(()).item() * (0.9 - 0.1)
        guidance = 7.5 + torch.rand(()).item() * (15.0 - 7.5)
        knobs, _ = draw(seed, Settings())
        assert (knobs.shared_steps, knobs.guidance) == (p, guidance)


def test_a_fraction_of_the_steps_is_shared_all_at_1_and_none_at_0() -> None:
    fixed, original = Settings(steps=10), Settings(steps=10, compat="original")
    assert [sum(is_shared(i, fixed, p / 10) for i in range(10)) for p in range(11)] == list(range(11))
    assert [sum(is_shared(i, original, p) for i in range(10)) for p in (0.0, 0.5, 1.0)] == [0, 5, 9]


def test_bytes_are_rounded_and_cut_off_where_the_original_is_asked_for() -> None:
    picture = torch.tensor([-1.0, 0.0, 0.004, 1.0]).view(1, 1, 1, 4).expand(1, 3, 1, 4)
    assert to_bytes(picture, "fixed")[0, 0, :, 0].tolist() == [0, 128, 128, 255]
    assert to_bytes(picture, "original")[0, 0, :, 0].tolist() == [0, 127, 128, 255]


def test_the_schedule_starts_and_ends_where_stable_diffusions_does() -> None:
    config = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
    schedule = NoiseSchedule.of(config, 100)
    assert schedule.sigmas[0] == pytest.approx(14.614641, abs=1e-4)
    assert schedule.sigmas[-2:] == (pytest.approx(0.029167, abs=1e-5), 0.0)
    assert (schedule.timesteps[0], schedule.timesteps[-1], len(schedule.sigmas)) == (999, 0, 101)


def test_either_prediction_finds_the_latents_below_the_noise() -> None:
    clean, noise = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0))
    sigma = 3.0
    x, alpha = clean + sigma * noise, 1 / (1 + sigma**2) ** 0.5
    v = alpha * noise - sigma * alpha * clean
    torch.testing.assert_close(denoised(x, sigma, noise, "epsilon"), clean, rtol=0, atol=1e-5)
    torch.testing.assert_close(denoised(x, sigma, v, "v_prediction"), clean, rtol=0, atol=1e-5)


def test_a_model_that_predicts_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="predicts 'sample'"):
        load(save_text_to_image(tmp_path / "model", prediction_type="sample"))


class TestAlignment:
    """The carried maps against google/prompt-to-prompt's own definitions, written out for these words."""

    tokenizer = make_tokenizer()

    def tokens(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False).input_ids

    def test_a_word_of_one_token_shares_out_to_the_tokens_of_the_new_one(self) -> None:
        carried, own = align(self.tokenizer, "make it", "make xyz")
        assert [len(self.tokens(word)) for word in ("make", "it", "xyz")] == [1, 1, 3]
        assert not own.any()
        assert carried[2, 2:5].tolist() == pytest.approx([1 / 3] * 3)
        assert carried[1, 1] == carried[0, 0] == 1
        assert carried[3, 5] == 1, "the mark at the end follows the words, not the places"
        np.testing.assert_allclose(carried.sum(1), 1, atol=1e-6)

    def test_tokens_of_a_longer_word_are_added_up_in_the_new_one(self) -> None:
        carried, _ = align(self.tokenizer, "make xyz it", "make it it")
        assert carried[2:5, 2].tolist() == [1, 1, 1]
        assert carried[5, 3] == 1, "the word after it is carried from itself"
        np.testing.assert_allclose(carried.sum(1), 1, atol=1e-6)

    def test_added_words_keep_their_own_attention(self) -> None:
        carried, own = align(self.tokenizer, "make it", "make snow it")
        assert own[:5].tolist() == [0, 0, 1, 0, 0]
        assert np.argwhere(carried[:4]).tolist() == [[0, 0], [1, 1], [2, 3], [3, 4]]
        assert set((carried.sum(0) + own).tolist()) == {1.0}

    def test_removed_words_leave_the_others_where_they_were(self) -> None:
        carried, own = align(self.tokenizer, "make snow it", "make it")
        assert carried[1, 1] == carried[3, 2] == carried[4, 3] == 1
        assert not own[:4].any()
        assert set((carried.sum(0) + own).tolist()) == {1.0}

    def test_captions_with_as_many_words_but_other_ones_are_no_replacement(self) -> None:
        _, own = align(self.tokenizer, "make it snow", "snow x y")
        assert own[1:4].tolist() == [0, 1, 1]

    @pytest.mark.parametrize("captions", [("", "snow"), ("snow", ""), ("it " * 40, "it " * 40 + "x"), ("a", "x " * 60)])
    def test_captions_of_any_length_are_aligned(self, captions: tuple[str, str]) -> None:
        carried, own = align(self.tokenizer, *captions)
        assert carried.shape == (16, 16)
        assert np.isfinite(carried).all()
        assert (carried.sum(0) + own).max() > 0


CAPTIONS = [
    {"input": "a dog on a hill", "edit": "make it a horse", "output": "a horse on a hill", "url": "http://x/1.jpg"},
    {"caption": "it", "edit": "make it snow", "output": "it, snow"},
    {"input": "snow", "edit": "melt it", "output": "grass"},
]


def write_config(folder: Path, model: Path, rows: list[dict[str, str]] | None = None, **other: object) -> Path:
    """A config of the stage with its captions beside it."""
    folder.mkdir(exist_ok=True)
    lines = "".join(json.dumps(row) + "\n" for row in (CAPTIONS if rows is None else rows))
    (folder / "captions.jsonl").write_text(lines)
    keys = {
        "stage": "pairs", "maker": "prompt_to_prompt", "model": str(model), "captions": "captions.jsonl", "samples": 3,
        "steps": 2, "side": 32, "precision": "fp32", "batch": 2,
    } | other  # fmt: skip
    (folder / "pairs.yaml").write_text(json.dumps(keys))
    return folder / "pairs.yaml"


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch, backend: TorchBackend) -> list[int]:
    """The seeds that were drawn, of every run of the stage; the model is loaded only once for all of them."""
    seeds: list[int] = []

    class Watched(PairSampler):
        def make(self, captions: list[tuple[str, str]], of: list[int]) -> Tensor:
            seeds.extend(of)
            return super().make(captions, of)

    def load_sampler(config: stage.Config, device: str) -> tuple[PairSampler, str]:
        return Watched(backend, config.settings(), config.batch), "the digest"

    monkeypatch.setattr(stage, "load_sampler", load_sampler)
    return seeds


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a dataset, by name."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def run(config: Path, out: Path, shard: Shard | None = None) -> stages.StageStatus:
    return stages.run(config, out=out, shard=shard)[-1]


def dataset(made: stages.StageStatus) -> Path:
    return made.folder / "dataset"


def test_the_stage_writes_the_released_layout_and_each_sample_can_be_made_again_alone(
    tmp_path: Path, model: Path
) -> None:
    config = write_config(tmp_path, model)
    made = run(config, tmp_path / "out")
    assert made.state == "fresh"
    assert {name: made.metrics[name] for name in ("prompts", "samples", "pairs")} == {
        "prompts": 3, "samples": 9, "pairs": 9,
    }  # fmt: skip
    folders = sorted(path for path in dataset(made).iterdir() if path.is_dir())
    assert [path.name for path in folders] == ["0000000", "0000001", "0000002"]
    assert json.loads((folders[0] / "prompt.json").read_text()) == CAPTIONS[0]
    assert json.loads((folders[1] / "prompt.json").read_text())["input"] == "it"
    listed = dict(json.loads((dataset(made) / "seeds.json").read_text()))
    loaded = stage.load_sampler(stages.load_config(config).settings, "cpu")[0]  # type: ignore[arg-type]
    for folder in folders:
        rows = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
        assert sorted(row["seed"] for row in rows) == listed[folder.name]
        assert all(0.1 <= row["p2p_threshold"] <= 0.9 and 7.5 <= row["cfg_scale"] <= 15 for row in rows)
        prompt, seed = json.loads((folder / "prompt.json").read_text()), rows[1]["seed"]
        alone = to_bytes(loaded.make([(prompt["input"], prompt["output"])], [seed]), "fixed")[0]
        for side in (0, 1):
            assert (folder / f"{seed}_{side}.jpg").read_bytes() == jpeg(alone[side])
    assert len({seed for seeds in listed.values() for seed in seeds}) == 9


def test_a_killed_run_goes_on_with_the_sample_it_was_at(tmp_path: Path, model: Path, drawn: list[int]) -> None:
    config = write_config(tmp_path, model)
    whole = run(config, tmp_path / "whole")
    asked = sorted(drawn)
    drawn.clear()
    with killed_after(4):
        run(config, tmp_path / "out")
    (state,) = stages.status(config, out=tmp_path / "out")
    assert (state.state, state.reason) == ("missing", "was interrupted and will go on")
    half = contents(dataset(state))
    finished = sum(text.count(b"\n") for name, text in half.items() if name.endswith("metadata.jsonl"))
    assert finished == 4
    (dataset(state) / ".0000001" / "123_0.jpg").write_bytes(b"left by the kill")
    before = len(drawn)
    made = run(config, tmp_path / "out")
    assert len(drawn) - before == len(asked) - finished
    assert contents(dataset(made)) == contents(dataset(whole))


def test_four_shards_one_killed_and_restarted_with_another_count_make_everything_once(
    tmp_path: Path, model: Path, drawn: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [CAPTIONS[0] | {"input": f"a dog on a hill {number}"} for number in range(6)]
    config = write_config(tmp_path, model, rows)
    whole = run(config, tmp_path / "whole")
    asked = sorted(drawn)
    drawn.clear()
    for index in (1, 3, 4):
        assert run(config, tmp_path / "out", Shard(index, 4)).state == "missing"
    with killed_after(4):
        run(config, tmp_path / "out", Shard(2, 4))
    lost = len(drawn)
    for index in (1, 2, 3):
        made = run(config, tmp_path / "out", Shard(index, 3))
    assert made.state == "fresh"
    assert contents(dataset(made)) == contents(dataset(whole))
    # The samples of the batch that the kill fell into were drawn but have no line: they alone are drawn again.
    assert sorted(set(drawn)) == asked
    assert len(drawn) - len(asked) <= 4
    assert lost < len(drawn)
    drawn.clear()
    run(config, tmp_path / "out", Shard(2, 2))
    assert not drawn


@contextmanager
def killed_after(samples: int) -> Iterator[None]:
    """Kill the stage when so many samples have their line."""
    left, add = samples, PromptWork.add

    def killed(self: PromptWork, sample: Sample, pictures: np.ndarray) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        add(self, sample, pictures)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PromptWork, "add", killed)
        with pytest.raises(KeyboardInterrupt):
            yield


def test_pairs_that_are_judged_beside_are_the_ones_that_a_filter_keeps_afterwards(
    tmp_path: Path, model: Path, drawn: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    thresholds = {"caption": -1, "direction": -1, "image": -1, "keep": 2}
    beside = {"thresholds": thresholds, "clip": str(save_clip(tmp_path / "clip")), "samples": 5}
    plain = run(write_config(tmp_path / "plain", model, samples=5), tmp_path / "out")
    config = write_config(tmp_path / "beside", model, **beside)
    with killed_after(7):
        run(config, tmp_path / "out")
    judged = run(config, tmp_path / "out")
    assert judged.metrics["samples"] == 15
    assert judged.metrics["pairs"] == 6
    for folder in prompt_folders(dataset(judged)):
        found = read_prompt_folder(folder)
        assert len(found.samples) == 5
        assert all(sample.similarities for sample in found.samples), "every sample has its scores"
        assert found.pictured == set(select(found.samples, Thresholds(**thresholds)))
        assert len(list(folder.glob("*.jpg"))) == 4
        for picture in folder.glob("*.jpg"):
            assert picture.read_bytes() == (dataset(plain) / folder.name / picture.name).read_bytes()


def test_another_autoencoder_decodes_and_counts_as_other_weights(tmp_path: Path, model: Path) -> None:
    other = save_text_to_image(tmp_path / "other", seed=5) / "vae"
    plain = stages.load_config(write_config(tmp_path, model)).settings
    ours, digest = stage.load_sampler(plain, "cpu")  # type: ignore[arg-type]
    changed, changed_digest = stage.load_sampler(plain.model_copy(update={"autoencoder": str(other)}), "cpu")
    assert digest != changed_digest
    latents = ours.latents([SWAPPED], [1])
    assert torch.equal(changed.latents([SWAPPED], [1]), latents)
    assert not torch.equal(changed.make([SWAPPED], [1]), ours.make([SWAPPED], [1]))


def test_a_prompt_killed_before_its_folder_has_its_name_is_finished_next_time(tmp_path: Path) -> None:
    prompt, pictures = Prompt(12, "a dog", "make it a cat", "a cat"), np.zeros((2, 8, 8, 3), np.uint8)
    work = PromptWork(tmp_path, prompt, [1, 2], None)
    work.add(Sample(1, 0.5, 9.0), pictures)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "rename", killed)
        with pytest.raises(KeyboardInterrupt):
            work.add(Sample(2, 0.5, 9.0), pictures)
    assert not (tmp_path / "0000012").exists()
    with (tmp_path / ".0000012" / "metadata.jsonl").open("a") as file:
        file.write('{"seed": 3, "p2p')
    again = PromptWork(tmp_path, prompt, [1, 2], None)
    assert again.missing() == []
    again.finish()
    found = read_prompt_folder(tmp_path / "0000012")
    assert (found.prompt, found.pictured) == (prompt, {1, 2})


def test_pictures_have_all_of_the_colour_or_half_of_it_as_the_originals(tmp_path: Path) -> None:
    layers = {}
    for chroma in ("full", "half"):
        folder, pictures = tmp_path / chroma, np.zeros((2, 32, 32, 3), np.uint8)
        PromptWork(folder, Prompt(0, "a", "b", "c"), [1], None, chroma).add(Sample(1, 0.5, 9.0), pictures)
        with Image.open(folder / "0000000" / "1_0.jpg") as opened:
            layers[chroma] = [layer[1:3] for layer in opened.layer]
    assert layers == {"full": [(1, 1)] * 3, "half": [(2, 2), (1, 1), (1, 1)]}
    assert "chroma" not in stage.Config(maker="prompt_to_prompt", model="m").model_dump()


def killed(*_: object) -> None:
    raise KeyboardInterrupt


class TestTrouble:
    """What can go wrong has a sentence and a hint, and what was finished stays."""

    def test_a_full_disk(self, tmp_path: Path, model: Path, drawn: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
        config, whole = (
            write_config(tmp_path, model),
            contents(dataset(run(write_config(tmp_path, model), tmp_path / "whole"))),
        )
        room = [9]
        write = prompt_to_prompt_files.write_whole

        def full(path: Path, data: bytes) -> None:
            room[0] -= 1
            if room[0] < 0:
                raise disk_error(OSError(errno.ENOSPC, "No space left on device"), path)
            write(path, data)

        with monkeypatch.context() as patch:
            patch.setattr(prompt_to_prompt_files, "write_whole", full)
            with pytest.raises(ResourceError, match="disk is full") as caught:
                run(config, tmp_path / "out")
        assert "nothing is lost" in str(caught.value.hint)
        before = len(drawn)
        assert contents(dataset(run(config, tmp_path / "out"))) == whole
        assert len(drawn) - before < 9

    def test_too_little_memory(
        self, tmp_path: Path, model: Path, drawn: list[int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        config, allowed = write_config(tmp_path, model, batch=4), PairSampler.latents

        def short(self: PairSampler, captions: list[tuple[str, str]], seeds: list[int]) -> Tensor:
            if self.batch > 2:
                raise OutOfMemory("CUDA out of memory")
            return allowed(self, captions, seeds)

        monkeypatch.setattr(PairSampler, "latents", short)
        with pytest.raises(ResourceError, match="4 pairs a call") as caught:
            run(config, tmp_path / "out")
        assert "`batch` below 4" in str(caught.value.hint)
        begun = stages.status(config, out=tmp_path / "out")[0].folder
        assert run(write_config(tmp_path, model, batch=2), tmp_path / "out").folder == begun, "the batch is no setting"

    def test_pictures_that_come_out_as_nan(
        self, tmp_path: Path, model: Path, drawn: list[int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        config, allowed = write_config(tmp_path, model), PairSampler.latents
        settings = stages.load_config(config).settings
        broken = stage.seeds_of(stage.prompts_to_make(settings, {})[0], settings)[1:2]  # type: ignore[arg-type]

        def nan(self: PairSampler, captions: list[tuple[str, str]], seeds: list[int]) -> Tensor:
            made = allowed(self, captions, seeds).clone()
            for place, seed in enumerate(seeds):
                if seed in broken:
                    made[place] = torch.nan
            return made

        monkeypatch.setattr(PairSampler, "latents", nan)
        made = run(config, tmp_path / "out")
        assert (made.metrics["samples"], made.metrics["pairs"]) == (9, 8)
        lines = (dataset(made) / "0000000" / "metadata.jsonl").read_text().splitlines()
        assert [json.loads(line).get("broken", False) for line in lines] == [False, True, False]
        broken = range(2**32)  # type: ignore[assignment]
        with pytest.raises(ModelError, match="nan") as caught:
            run(write_config(tmp_path, model, seed=1), tmp_path / "out")
        assert "bf16" in str(caught.value.hint)

    def test_other_weights_under_the_same_name(
        self, tmp_path: Path, model: Path, drawn: list[int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        config = write_config(tmp_path, model)
        with killed_after(1):
            run(config, tmp_path / "out")
        known = stage.load_sampler
        monkeypatch.setattr(stage, "load_sampler", lambda *a: (known(*a)[0], "another digest"))
        with pytest.raises(UsageError, match="other weights"):
            run(config, tmp_path / "out")

    def test_a_model_that_edits_draws_nothing(self, tmp_path: Path) -> None:
        config = write_config(tmp_path, save_model(tmp_path / "edits"))
        with pytest.raises(ModelError, match="takes 8 channels") as caught:
            run(config, tmp_path / "out")
        assert "4 channels" in str(caught.value.hint)
        assert not list((tmp_path / "out").rglob("*.jpg"))

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ('{"input": "a", "edit": "b"}\n', ":1:1: output"),
            ('{"text": "a", "edit": "b", "output": "c"}\n', ":1:1: input"),
            ('{"input": "a", "edit": "b", "output": "c"}\n{"input": "a", "ed', ":2:1: .*cut short"),
        ],
    )
    def test_captions_that_are_none(self, tmp_path: Path, model: Path, text: str, said: str) -> None:
        config = write_config(tmp_path, model)
        (tmp_path / "captions.jsonl").write_text(text)
        with pytest.raises(RecipeError, match=said):
            run(config, tmp_path / "out")

    @pytest.mark.parametrize(
        ("other", "said"),
        [
            ({"shared_steps": [0.9, 0.1]}, "shared_steps"),
            ({"guidance": [15, 7.5]}, "guidance"),
            ({"side": 33}, "multiples of 16 px, not 33"),
            ({"sharing": "none"}, "sharing"),
            ({"autoencoder": "nowhere"}, "autoencoder: nowhere is no input"),
            ({"captions": "nowhere.jsonl"}, "nowhere.jsonl"),
        ],
    )
    def test_settings_that_cannot_be(self, tmp_path: Path, model: Path, other: dict[str, object], said: str) -> None:
        with pytest.raises(Ip2pError, match=re.escape(said)):
            run(write_config(tmp_path, model, **other), tmp_path / "out")


class TestAgainstThePublishedScheme:
    """One pair a call with whole maps: another computation of the same pictures, and what speed is compared with."""

    @pytest.mark.parametrize("p", [0.0, 0.5, 1.0])
    def test_it_makes_the_same_pictures(self, model: Path, p: float) -> None:
        backend = load(model)
        ours = sampler(backend, p, batch=2).make([SWAPPED, ADDED], [1, 2])
        alone = PublishedSampler(backend, sampler(backend, p).settings, 1)
        for captions, seed, pair in zip((SWAPPED, ADDED), (1, 2), ours, strict=True):
            torch.testing.assert_close(alone.make([captions], [seed])[0], pair, rtol=0, atol=1e-4)

    def test_the_command_compares_rates_and_pictures(
        self, tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        config = write_config(tmp_path, model, precision="bf16")
        with pytest.raises(SystemExit) as ended:
            app(["train", "bench-pairs", str(config), "--batch", "2", "--steps", "1", "--json"])
        assert not ended.value.code
        found = json.loads(capsys.readouterr().out)
        assert [(rate["scheme"], rate["batch"]) for rate in found["rates"]] == [("published", 1), ("ours", 2)]
        assert all(rate["pairs_per_second"] > 0 for rate in found["rates"])
        assert found["gain"] > 0
        assert found["likeness"] > 30

    def test_a_config_of_another_maker_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "pairs.yaml").write_text("stage: pairs\nmaker: procedural\n")
        with pytest.raises(UsageError, match="no pairs by Prompt-to-Prompt"):
            settings_of(tmp_path / "pairs.yaml")


def test_a_compiled_network_is_one_graph_and_makes_the_same_pairs(
    backend: TorchBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    graphs: list[torch.fx.GraphModule] = []

    def keep(graph: torch.fx.GraphModule, _: list[Tensor]) -> object:
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=keep))
    small = copy(backend)
    small.parts = replace(backend.parts, unet=one_block_unet())
    maker = sampler(small, 0.5, "both")
    plain = maker.latents([SWAPPED, ADDED], [1, 2])
    maker.compile()
    torch.testing.assert_close(maker.latents([SWAPPED, ADDED], [1, 2]), plain, rtol=1e-5, atol=1e-4)
    assert len(graphs) == 1, "sharing or not is a matter of numbers, not of code"


def one_block_unet() -> UNet2DConditionModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return UNet2DConditionModel(
            in_channels=4, out_channels=4, block_out_channels=(16,), layers_per_block=1, norm_num_groups=8,
            down_block_types=("CrossAttnDownBlock2D",), mid_block_type=None, up_block_types=("UpBlock2D",),
            cross_attention_dim=WIDTH, attention_head_dim=4,
        ).eval()  # fmt: skip


def test_compiling_where_there_is_no_compiler_says_so(backend: TorchBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampler_module, "why_no_compiler", lambda device: "Triton is not installed")
    with pytest.raises(MissingError, match="Triton is not installed") as caught:
        sampler(backend, 0.5).compile()
    assert caught.value.hint == "set `compile: false`"
