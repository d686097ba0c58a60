"""The trade-off curve: what is fed to CLIP, the same noise for every value, intervals, resume, baselines, the plot."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_clip import make_clip, save_clip
from tiny_models import make_picture, save_model, save_text_to_image
from torch.nn import functional
from train_pairs import make_dataset

from ip2pbatch.backends.pytorch.backend import load
from ip2pbatch.backends.weights import resolve
from ip2pbatch.errors import NothingMatchedError, RecipeError, UsageError
from ip2pbatch.train.data.pair_sets import open_pairs
from ip2pbatch.train.judge import tradeoff
from ip2pbatch.train.judge.bootstrap import Interval, intervals, of_groups
from ip2pbatch.train.judge.methods import Instruct, InstructCurve, Sample, Setting, to_picture
from ip2pbatch.train.judge.sdedit import Denoising, sdedit
from ip2pbatch.train.judge.tradeoff import Chosen, Config, Scorer
from ip2pbatch.train.judge.tradeoff_plot import CurvePoints, Point, draw, to_csv, to_markdown

SIDE = 32


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs, CLIP, an editing model, a text-to-image model, and pictures made elsewhere for three of four samples."""
    folder = tmp_path_factory.mktemp("tradeoff")
    make_dataset(folder / "pairs", prompts=4)
    save_clip(folder / "clip")
    save_model(folder / "ip2p")
    save_text_to_image(folder / "sd")
    for name in ("0000000-0", "0000001-0", "0000002-0"):
        path = folder / "results" / "mirror" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(make_picture(int(name[6]), (40, 40))[:, ::-1]).save(path)
    return folder


def config(folder: Path, **changed: object) -> Config:
    usual = {
        "maker": "tradeoff", "data": folder / "pairs", "split": "all", "samples": 4, "side": SIDE, "steps": 2,
        "clip": str(folder / "clip"), "results": folder / "results", "resamples": 50, "keep_pictures": True,
        "curves": [
            {"method": "instruct", "name": "ours", "model": str(folder / "ip2p"), "values": [1.0, 2.2]},
            {"method": "sdedit", "name": "SDEdit", "model": str(folder / "sd"), "values": [0.5]},
            {"method": "folder", "name": "mirror", "folder": "mirror"},
        ],
    }  # fmt: skip
    return Config(**(usual | changed))


@pytest.fixture(scope="module")
def made(folder: Path) -> tuple[Path, dict[str, float]]:
    """The stage, run once."""
    out = folder / "made"
    return out, tradeoff.run(config(folder), {}, out, None)


def sample(key: str = "a", seed: int = 3) -> Sample:
    return Sample(key, make_picture(seed, (SIDE, SIDE)), "make it snow", ("a photo", "a photo of snow"), seed)


def test_the_pair_of_a_prompt_that_is_judged_is_its_first_or_drawn_by_the_seed(folder: Path, tmp_path: Path) -> None:
    make_dataset(tmp_path, prompts=12)
    pairs = open_pairs(tmp_path)
    first = Chosen.of(pairs, config(folder, samples=12))
    drawn = [Chosen.of(pairs, config(folder, samples=12, pair="random", seed=seed)) for seed in (0, 0, 1)]
    assert set(first.numbers.values()) == {pairs.pairs(prompt)[0] for prompt in range(12)}
    assert list(drawn[0].prompts.values()) == list(first.prompts.values()), "the prompts are the same"
    assert drawn[0].numbers == drawn[1].numbers
    assert set(drawn[0].numbers) not in (set(first.numbers), set(drawn[2].numbers))
    for key, pair in drawn[0].numbers.items():
        assert pairs.store.key(pair) == key
        assert pair in pairs.pairs(drawn[0].prompts[key])
    assert "pair" not in config(folder).model_dump()


def test_every_curve_has_its_points_in_every_format(made: tuple[Path, dict[str, float]]) -> None:
    out, metrics = made
    facts = json.loads((out / "tradeoff.json").read_text())
    shape = [(curve["name"], [point["value"] for point in curve["points"]]) for curve in facts["curves"]]
    assert shape == [("ours", [1.0, 2.2]), ("SDEdit", [0.5]), ("mirror", [None])]
    rows = list(csv.DictReader((out / "tradeoff.csv").read_text().splitlines()))
    assert [row["value"] for row in rows] == ["1.0", "2.2", "0.5", ""]
    assert [int(row["samples"]) for row in rows] == [4, 4, 4, 3]
    for row in rows:
        assert float(row["direction_low"]) <= float(row["direction"]) <= float(row["direction_high"])
        assert -1 <= float(row["image"]) <= 1
    assert metrics["samples"] == 4
    assert metrics["left_out"] == 1
    assert "1 left out" in (out / "tradeoff.md").read_text()
    assert (out / "tradeoff.pdf").read_bytes().startswith(b"%PDF")
    assert len((out / "samples.jsonl").read_text().splitlines()) == 4


def test_points_are_means_of_clip_on_the_kept_pictures(folder: Path, made: tuple[Path, dict[str, float]]) -> None:
    """Computed again from the PNGs, with transformers alone."""
    out, _ = made
    clip = make_clip()
    found = []
    for line in (out / "samples.jsonl").read_text().splitlines():
        row = json.loads(line)
        edit = Image.open(out / "pictures" / "ours" / "2.2" / f"{row['key']}.png")
        number = row["key"].split("-")[0]
        with Image.open(folder / "pairs" / "dataset" / number / "0_0.jpg") as opened:
            photo = opened.convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS)
        vectors = []
        for picture in (photo, edit):
            pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 255
            mean = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(1, 3, 1, 1)
            deviation = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(1, 3, 1, 1)
            with torch.no_grad():
                vectors.append(clip.model.get_image_features(pixel_values=(pixels - mean) / deviation).pooler_output)
        words = clip.tokenizer([row["input"], row["output"]], padding=True, return_tensors="pt")
        with torch.no_grad():
            texts = functional.normalize(clip.model.get_text_features(**words).pooler_output)
        before, after = (functional.normalize(one) for one in vectors)
        found.append((functional.cosine_similarity(after - before, texts[1:] - texts[:1]).item(),
                      functional.cosine_similarity(before, after).item()))  # fmt: skip
    point = json.loads((out / "tradeoff.json").read_text())["curves"][0]["points"][1]
    direction, image = np.mean(found, axis=0)
    assert point["direction"]["mean"] == pytest.approx(direction, abs=1e-4)
    assert point["image"]["mean"] == pytest.approx(image, abs=1e-4)


def test_an_evaluation_goes_on_where_it_stopped(
    folder: Path, made: tuple[Path, dict[str, float]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, metrics = made
    lines = (out / "scores.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "scores.jsonl").write_text("".join(lines[:9]) + lines[9][:20])  # the tenth was torn by a kill
    asked: list[tuple[str, float]] = []
    edit = Instruct.edit

    def counted(self: Instruct, samples: list[Sample], value: float) -> list[torch.Tensor | None]:
        asked.extend((one.key, value) for one in samples)
        return edit(self, samples, value)

    monkeypatch.setattr(Instruct, "edit", counted)
    again = tradeoff.run(config(folder), {}, tmp_path, None)
    assert again.pop("edits/s") > 0
    # on some machines a call of three samples is rounded otherwise than one of four
    assert again == pytest.approx({name: value for name, value in metrics.items() if name != "edits/s"}, abs=1e-3)
    assert asked == [], "both values of the first curve were there"
    tables = [(one / "tradeoff.csv").read_text().splitlines() for one in (tmp_path, out)]
    assert [row.split(",")[:4] for row in tables[0]] == [row.split(",")[:4] for row in tables[1]]


def test_a_sample_has_the_same_noise_at_every_value(folder: Path) -> None:
    method = Instruct(str(folder / "ip2p"), 1.0, Setting(steps=2))
    drawn: list[torch.Tensor] = []
    predict = method.backend.predict_noise

    def noted(latents: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        drawn.append(latents[0].clone())
        return predict(latents, *rest)

    method.backend.predict_noise = noted  # type: ignore[method-assign]
    for value in (1.0, 2.2):
        method.edit([sample()], value)
    assert torch.equal(drawn[0], drawn[2]), "the first call of either value"


def test_clip_gets_the_right_range_and_the_published_one_where_asked() -> None:
    clip, one = make_clip(), sample()
    edited = to_picture(255 - one.photo) * 1.2  # beyond the range, as an autoencoder does
    fixed, original = (Scorer(clip, compat).score([one], [edited])[0] for compat in ("fixed", "original"))
    unit = torch.stack([to_picture(one.photo), edited.clamp(-1, 1)]) / 2 + 0.5
    signed = torch.stack([to_picture(one.photo), edited])
    for found, pictures in ((fixed, unit), (original, signed)):
        before, after = clip.images(pictures)
        assert found.clip_sim_image == pytest.approx(float(before @ after), abs=2e-3)
    assert abs(fixed.clip_sim_image - original.clip_sim_image) > 0.01


def test_raw_pictures_are_not_clamped(folder: Path) -> None:
    raw, shown = (Instruct(str(folder / "ip2p"), 1.0, Setting(steps=1, raw=kind)).edit([sample()], 1.0)[0]
                  for kind in (True, False))  # fmt: skip
    assert raw is not None
    assert shown is not None
    assert (raw.clamp(-1, 1) - shown).abs().max() <= 1 / 127


def test_sdedit_at_no_strength_is_the_photo_and_at_full_strength_forgets_it(folder: Path) -> None:
    backend = load(resolve(str(folder / "sd"), kind="text_to_image"))
    photos = [make_picture(seed, (SIDE, SIDE)) for seed in (1, 2)]
    backend_vae = backend.parts.vae

    def edit(strength: float, photos: list[np.ndarray] = photos, seed: int = 5) -> torch.Tensor:
        return sdedit(backend, photos, ["a cat", "a cat"], strength, [seed, seed], Denoising(4, 2.0))

    with torch.no_grad():
        pixels = torch.stack([to_picture(photo) for photo in photos])
        reconstructed = backend_vae.decode(backend_vae.encode(pixels).latent_dist.mode()).sample
    torch.testing.assert_close(edit(0.0), reconstructed, atol=1e-4, rtol=1e-4)
    one, other = edit(1.0)
    away = (edit(0.25)[0] - edit(0.25)[1]).abs().mean()
    assert (one - other).abs().mean() < 0.1 * away, "at full strength only noise and caption are left"
    assert torch.equal(edit(0.5), edit(0.5))
    assert not torch.equal(edit(0.5), edit(0.5, seed=6))


def test_intervals_hold_the_mean_of_what_they_were_drawn_from() -> None:
    rng = np.random.default_rng(0)
    inside = 0
    for seed in range(60):
        (found,) = intervals(rng.normal(3.0, 2.0, (100, 1)), resamples=200, seed=seed)
        inside += found.low <= 3.0 <= found.high
        assert found.high - found.low == pytest.approx(2 * 1.96 * 2.0 / 10, rel=0.4)
    assert inside >= 50


def test_columns_of_a_sample_are_drawn_together() -> None:
    values = np.random.default_rng(1).normal(size=(50, 1))
    one, other = intervals(np.concatenate([values, -values], axis=1), resamples=100)
    assert one.low == pytest.approx(-other.high)


def test_what_belongs_together_is_drawn_together() -> None:
    values = np.random.default_rng(2).normal(size=40)
    groups = [[float(value)] * (3 if number % 2 else 1) for number, value in enumerate(values)]
    (found,) = of_groups(groups, lambda drawn: [float(np.mean(drawn))])
    assert found.mean == pytest.approx(np.mean([one for group in groups for one in group]))
    assert found.low < found.mean < found.high
    (apart,) = intervals(np.array([[one] for group in groups for one in group]))
    assert found.high - found.low > 1.2 * (apart.high - apart.low), "copies of a value are no further evidence"


def test_what_is_missing_is_said(folder: Path, tmp_path: Path) -> None:
    nowhere = [{"method": "folder", "name": "theirs", "folder": "theirs"}]
    with pytest.raises(NothingMatchedError, match="no folder"):
        tradeoff.run(config(folder, curves=nowhere), {}, tmp_path / "a", None)
    with pytest.raises(UsageError, match="reads a folder"):
        tradeoff.run(config(folder, curves=nowhere, results=None), {}, tmp_path / "b", None)
    with pytest.raises(RecipeError, match="has no pairs"):
        tradeoff.run(config(folder, data=None), {}, tmp_path / "c", None)


def test_the_papers_values_are_the_defaults() -> None:
    curve = InstructCurve(method="instruct", name="ours", model="m")
    assert curve.text == 7.5
    assert curve.values == (1.0, 1.2, 1.4, 1.6, 1.8, 2.0, 2.2)


def test_the_plot_and_the_tables_show_what_they_are_given(tmp_path: Path) -> None:
    points = tuple(
        Point(value, 2000, Interval(x, x - 0.004, x + 0.004), Interval(y, y - 0.006, y + 0.006))
        for value, x, y in ((1.0, 0.21, 0.78), (1.4, 0.19, 0.85), (2.2, 0.12, 0.93))
    )
    curves = [CurvePoints("ours", "instruct", points, 3)]
    draw(curves, tmp_path / "plot.png")
    with Image.open(tmp_path / "plot.png") as plot:
        pixels = np.asarray(plot.convert("RGB")).reshape(-1, 3)
    assert (np.abs(pixels.astype(int) - (0, 114, 178)).max(axis=1) < 12).sum() > 1000, "a blue line is on it"
    assert to_csv(curves).splitlines()[1].startswith("ours,instruct,1.0,2000,0.21,")
    assert "| s_I 2.2 | 2000 | 0.1200 ± 0.0040 | 0.9300 ± 0.0060 |" in to_markdown(curves)
