"""MagicBrush's test: its layout, both settings, and every metric against a computation of its own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_clip import make_clip, save_clip
from tiny_dino import save_dino
from tiny_models import make_picture, save_model
from transformers import ViTModel

from ip2pbatch.errors import RecipeError
from ip2pbatch.measures.dino import Dino
from ip2pbatch.train.judge import magicbrush
from ip2pbatch.train.judge.magicbrush import (
    METRICS,
    Config,
    Task,
    crop,
    fit,
    fitted_size,
    of_one_size,
    pairs_of,
    pixel_distances,
    read_sessions,
)
from ip2pbatch.train.judge.methods import Sample, to_picture

TURNS = {"30": 1, "139": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A test set of two sessions, three turns in all, and tiny networks."""
    folder = tmp_path_factory.mktemp("magicbrush")
    sessions, descriptions = {}, {}
    for number, (session, turns) in enumerate(TURNS.items()):
        names = [f"{session}-input.png", *(f"{session}-output{turn}.png" for turn in range(1, turns + 1))]
        for place, name in enumerate(names):
            path = folder / "test" / "images" / session / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(make_picture(10 * number + place, (96, 96))).save(path)
        sessions[session] = [
            {"input": names[turn], "mask": "", "output": names[turn + 1], "instruction": f"turn {turn}"}
            for turn in range(turns)
        ]
        descriptions[session] = {name: f"a photo {place}" for place, name in enumerate(names)}
    (folder / "test" / "edit_sessions.json").write_text(json.dumps(sessions))
    (folder / "test" / "local_descriptions.json").write_text(json.dumps(descriptions))
    save_clip(folder / "clip")
    save_dino(folder / "dino")
    save_model(folder / "ip2p")
    return folder


def config(folder: Path, **changed: object) -> Config:
    usual = {
        "maker": "magicbrush", "test": folder / "test", "model": str(folder / "ip2p"), "steps": 1, "resolution": 64,
        "clip": str(folder / "clip"), "dino": str(folder / "dino"), "resamples": 20,
    }  # fmt: skip
    return Config(**(usual | changed))


@pytest.fixture(scope="module")
def made(folder: Path) -> tuple[Path, dict[str, float]]:
    out = folder / "made"
    out.mkdir()
    return out, magicbrush.run(config(folder), {}, out, None)


def test_pictures_lie_where_the_published_script_looks(made: tuple[Path, dict[str, float]]) -> None:
    out, _ = made
    found = sorted(path.relative_to(out / "generated").as_posix() for path in (out / "generated").rglob("*.png"))
    assert found == ["139/139_1.png", "139/139_inde_2.png", "139/139_iter_2.png", "30/30_1.png"]
    scores = json.loads((out / "evaluation_metrics.json").read_text())
    assert {name: set(row) for name, row in scores.items()} == {"all_turn": set(METRICS), "final_turn": set(METRICS)}
    assert "| single turn | 3 |" in (out / "report.md").read_text()
    assert "| multi turn | 2 |" in (out / "report.md").read_text()


def test_a_turn_starts_from_the_truth_or_from_the_turn_before(made: tuple[Path, dict[str, float]]) -> None:
    session = made[0] / "generated" / "139"
    inde, own = (np.asarray(Image.open(session / f"139_{kind}_2.png")) for kind in ("inde", "iter"))
    assert np.abs(inde.astype(int) - own).mean() > 1


class Copies:
    """A method that gives the photo back, but not for the instruction `lost`; it remembers the keys of its calls."""

    def __init__(self, lost: str = "") -> None:
        self.lost, self.calls = lost, []

    def edit(self, samples: Sequence[Sample], value: float) -> list[torch.Tensor | None]:
        self.calls.append([Path(sample.key).name for sample in samples])
        return [None if one.instruction == self.lost else to_picture(one.photo) for one in samples]


def test_pictures_that_wait_for_no_other_share_calls(folder: Path, tmp_path: Path) -> None:
    sessions, method = read_sessions(folder / "test"), Copies()
    assert magicbrush.generate(sessions, method, config(folder), tmp_path) == 0
    assert method.calls == [["30_1.png", "139_1.png", "139_inde_2.png"], ["139_iter_2.png"]]
    (tmp_path / "139" / "139_iter_2.png").unlink()
    assert magicbrush.generate(sessions, method, config(folder), tmp_path) == 0
    assert method.calls[2:] == [["139_iter_2.png"]], "nothing is made twice"
    small = Copies()
    assert magicbrush.generate(sessions, small, config(folder, batch=2), tmp_path / "two") == 0
    assert list(map(len, small.calls)) == [2, 1, 1]


def test_what_could_not_be_made_is_counted_and_nothing_starts_from_it(folder: Path, tmp_path: Path) -> None:
    method = Copies(lost="turn 0")
    assert magicbrush.generate(read_sessions(folder / "test"), method, config(folder), tmp_path) == 2
    assert [path.name for path in tmp_path.rglob("*.png")] == ["139_inde_2.png"]


def test_pictures_of_two_sizes_are_not_in_one_call(folder: Path, tmp_path: Path) -> None:
    turns = [turn for session in read_sessions(folder / "test") for turn in session]
    wide = tmp_path / "wide.png"
    Image.new("RGB", (128, 64)).save(wide)
    sources = [turns[0].before, wide, turns[1].before]
    tasks = [Task(turns[n], source, tmp_path / f"{n}.png") for n, source in enumerate(sources)]
    calls = list(of_one_size(tasks, config(folder, resolution=128)))
    assert [[task.target.name for task in call] for call in calls] == [["0.png", "2.png"], ["1.png"]]


def test_made_elsewhere_scores_the_same_and_nothing_is_made_twice(
    folder: Path, made: tuple[Path, dict[str, float]], tmp_path: Path
) -> None:
    out, metrics = made
    elsewhere = config(folder, model=None, generated=out / "generated")
    assert magicbrush.run(elsewhere, {}, tmp_path, None) == pytest.approx(metrics)
    picture = out / "generated" / "30" / "30_1.png"
    before = picture.stat().st_mtime_ns
    assert magicbrush.run(config(folder), {}, out, None) == pytest.approx(metrics)
    assert picture.stat().st_mtime_ns == before


def test_the_scores_are_the_published_scripts(folder: Path, made: tuple[Path, dict[str, float]]) -> None:
    """Written down from image_eval.py: torch losses, scipy's cosines, one picture at a time."""
    from scipy.spatial.distance import cosine

    out, metrics = made
    clip, dino = make_clip(), ViTModel.from_pretrained(folder / "dino", add_pooling_layer=False).eval()
    rows = []
    for made_name, true_name, text in (
        ("30/30_1.png", "30/30-output1.png", "a photo 1"),
        ("139/139_iter_2.png", "139/139-output2.png", "a photo 2"),
    ):
        one = Image.open(out / "generated" / made_name).convert("RGB")
        true = Image.open(folder / "test" / "images" / true_name).convert("RGB")
        a, b = (torch.from_numpy(np.array(p)).float() / 255 for p in (one.resize(true.size), true))
        l1, l2 = torch.nn.L1Loss()(a, b).item(), torch.nn.MSELoss()(a, b).item()
        with torch.no_grad():
            seen = [clip.images(crop(p, 32, 32)[None])[0].numpy() for p in (one, true)]
            words = clip.texts([text])[0].numpy()
            mean, deviation = (torch.tensor(x).view(1, 3, 1, 1) for x in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
            tokens = [dino((crop(p, 256, 224)[None] - mean) / deviation).last_hidden_state[0, 0].numpy()
                      for p in (one, true)]  # fmt: skip
        rows.append(
            (l1, l2, 1 - cosine(*seen), 1 - cosine(*tokens), 1 - cosine(seen[0], words), 1 - cosine(seen[1], words))
        )
    for metric, value in zip(METRICS, np.mean(rows, axis=0), strict=True):
        assert metrics[f"final_turn {metric}"] == pytest.approx(value, abs=1e-5), metric


def test_pixel_distances_by_hand() -> None:
    black, grey = Image.new("RGB", (4, 4)), Image.new("RGB", (8, 8), (51, 51, 51))
    assert pixel_distances(black, grey) == pytest.approx((0.2, 0.04))


def test_the_crop_is_torchvisions() -> None:
    # Resize(20) of 40 × 31 gives 25 × 20 (25.8 cut off), CenterCrop(20) begins at round(2.5) = 2.
    picture = Image.fromarray(make_picture(0, (40, 31)))
    expected = np.asarray(picture.resize((25, 20), Image.Resampling.BICUBIC))[:, 2:22]
    assert np.array_equal((crop(picture, 20, 20) * 255).round().permute(1, 2, 0).numpy(), expected)


@pytest.mark.parametrize(
    ("size", "expected"), [((1024, 1024), (512, 512)), ((4000, 3000), (512, 384)), ((6000, 4000), (576, 384)),
                           ((1920, 1080), (512, 320)), ((7360, 4912), (512, 320)),
                           ((303, 485), (256, 512)), ((485, 303), (512, 256))],
)  # fmt: skip
def test_the_size_is_the_published_scripts_with_the_block_that_its_floats_lose(
    size: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert fitted_size(size, 512) == expected


def test_what_does_not_fit_is_cropped_from_both_ends() -> None:
    picture = Image.new("RGB", (300, 128), "red")
    picture.paste((0, 0, 255), (22, 0, 278, 128))
    assert fitted_size(picture.size, 128) == (128, 64)
    assert (fit(picture, 128)[:, 6:-6] == (0, 0, 255)).all()


def test_dino_is_the_class_token_after_the_last_norm(tmp_path: Path) -> None:
    pictures = torch.rand(2, 3, 224, 224)
    found = Dino.load(str(save_dino(tmp_path)), "cpu").images(pictures)
    assert found.shape == (2, 16)
    assert found.norm(dim=1).tolist() == pytest.approx([1, 1])


def test_what_is_missing_is_named(folder: Path, made: tuple[Path, dict[str, float]], tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="edit_sessions"):
        read_sessions(tmp_path)
    with pytest.raises(RecipeError, match=r"139_1\.png.*is missing|30_1\.png.*is missing"):
        pairs_of(read_sessions(folder / "test"), tmp_path)
    with pytest.raises(RecipeError, match="neither a model nor generated"):
        magicbrush.run(config(folder, model=None), {}, tmp_path, None)
    (tmp_path / "edit_sessions.json").write_text((folder / "test" / "edit_sessions.json").read_text())
    (tmp_path / "local_descriptions.json").write_text("{}")
    with pytest.raises(RecipeError, match="has no description of 30-output1"):
        read_sessions(tmp_path)
