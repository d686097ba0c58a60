"""Numbers beside a cell that a recipe asks for: refused before any work, or measured, whenever the picture was made."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from command import CommandLine
from one_line import with_line
from runs import unsealed

from ip2pbatch.errors import ModelError
from ip2pbatch.jobs.measuring import measure
from ip2pbatch.jobs.voice import Silent
from ip2pbatch.pictures import images
from ip2pbatch.plan.metrics import METRICS
from ip2pbatch.plan.shard import Shard
from ip2pbatch.run.directory.ledger import open_run
from ip2pbatch.run.directory.view import RunView, read_run

LINES = """
from ip2pbatch.plan.metrics import METRICS, Metric
METRICS["red"] = Metric("red", "Redder", "own:red", "how much more red there is")
METRICS["moon"] = Metric("moon", "Moon", "own:red", "only on the moon", ready="own:refuse")
"""
OWN = """
from ip2pbatch.errors import MissingError


def red(source, edited):
    return edited[..., 0].mean() - source[..., 0].mean()


def refuse(fetch):
    raise MissingError("this is not the moon", hint="fly there")
"""
RECIPE = """
model: tiny
photos: photos
edits: [make it winter, make it night]
size: {long_side: 64}
output: {folder: out}
sheet: {metrics: METRICS}
"""


def recipe(folder: Path, metrics: str, name: str = "recipe.yaml") -> Path:
    path = folder / name
    path.write_text(RECIPE.replace("METRICS", metrics))
    return path


def results(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in unsealed(folder / "out/.ip2pbatch/results.jsonl").splitlines()]


def test_metrics_that_a_line_adds(shoot: Path) -> None:
    (shoot / "own.py").write_text(OWN)
    for name, metrics in {"plain": "[l1]", "red": "[red, l1]", "moon": "[moon]", "odd": "[read]"}.items():
        recipe(shoot, metrics, f"{name}.yaml")
    run = ["run", "--backend", "fake", "--json"]
    schema, odd, doctor, refused, plain, red, again, report = with_line(
        LINES,
        [["schema"], ["validate", "odd.yaml"], ["doctor", "--json"], [*run, "moon.yaml"], [*run, "plain.yaml"],
         [*run, "red.yaml"], [*run, "red.yaml"], ["report", "out", "-o", "other.html"]],
        shoot,
    )  # fmt: skip
    metrics = json.loads(schema.out)["$defs"]["Sheet"]["properties"]["metrics"]
    assert metrics["items"]["enum"] == ["l1", "ssim", "clip_image", "red", "moon"]
    assert odd.code == 2
    assert "did you mean 'red'" in odd.err
    found = {one["topic"]: (one["state"], one["value"], one["why"]) for one in json.loads(doctor.out)}
    assert found["metric Redder"][:2] == ("ok", "ready")
    assert found["metric Moon"] == ("note", "this is not the moon", "fly there")
    assert (refused.code, plain.code, red.code, again.code, report.code) == (6, 0, 0, 0, 0)
    assert "fly there" in refused.err
    assert json.loads(plain.out.splitlines()[0])["left"] == 6  # so the refused one had made nothing
    lines = [json.loads(line) for line in red.out.splitlines()]
    assert [line["type"] for line in lines] == ["plan", *["measured"] * 6, "summary"]
    assert lines[-1]["made"] == 0
    assert all(list(line["metrics"]) == ["l1", "ssim", "changed", "structure", "red"] for line in lines[1:-1])
    assert "measured" not in again.out
    for name in ("out/report.html", "other.html"):
        page = (shoot / name).read_text()
        assert f"Redder {lines[1]['metrics']['red']:.2f}" in page
        assert "Redder how much more red there is" in page


def test_a_sheet_shows_what_is_asked_for_later(command: CommandLine, shoot: Path) -> None:
    path = recipe(shoot, "[l1]")
    assert command("run", path, "--backend", "fake").code == 0
    drawn = (shoot / "out/sheets/overview.png").read_bytes()
    recipe(shoot, "[ssim]")
    assert command("sheet", path, "-o", shoot / "asked").code == 0
    assert command("sheet", shoot / "out", "-o", shoot / "run").code == 0
    assert (shoot / "run/overview.png").read_bytes() == drawn  # a folder's sheets are as its own last recipe says
    assert (shoot / "asked/overview.png").read_bytes() != drawn


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of a hub that cannot be reached; where CLIP's folder in it would be."""
    from ip2pbatch.measures import clip_image

    cache = tmp_path / "hub"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    clip_image._loaded.cache_clear()
    folder = cache / "models--openai--clip-vit-large-patch14"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs/main").write_text("c0ffee")
    return folder / "snapshots/c0ffee"


def test_clip_is_refused_before_any_work_where_it_is_not(command: CommandLine, shoot: Path, hub: Path) -> None:
    path = recipe(shoot, "[clip_image]")
    for arguments in (["run", path], ["retry", path], ["watch", shoot / "photos", path, "--once-idle", "0"]):
        said = command(*arguments, "--backend", "fake")
        assert said.code == 6, arguments
        assert "hf download openai/clip-vit-large-patch14 config.json" in " ".join(said.err.split())
        assert not (shoot / "out").exists()
    recipe(shoot, "[l1]")
    assert command("run", path, "--backend", "fake").code == 0
    recipe(shoot, "[clip_image]")
    for arguments in (["sheet", path], ["report", path], ["deliver", path]):
        assert command(*arguments).code == 6, arguments
    with pytest.raises(ModelError, match="not in the cache"):
        METRICS["clip_image"].check(fetch=False)


def test_clip_is_measured_of_pictures_that_are_there(command: CommandLine, shoot: Path, hub: Path) -> None:
    from tiny_clip import save_clip

    from ip2pbatch.measures.clip import Clip, to_unit_range

    save_clip(hub)
    path = recipe(shoot, "[l1, ssim]")
    assert command("run", path, "--backend", "fake").code == 0
    recipe(shoot, "[clip_image]")
    said = command("run", path, "--backend", "fake", "--json")
    assert (said.code, said.out.count('"measured"')) == (0, 6), said.err
    view, clip = read_run(shoot / "out"), Clip.load(str(hub))
    for strip in view.strips:
        pair = [images.load(p).pixels for p in (view.source_path(strip), view.picture_path(strip.edits[0].key)) if p]
        before, after = (clip.images(to_unit_range([one])) for one in pair)
        value = view.records[strip.edits[0].key].metrics["clip_image"]
        assert value == pytest.approx(float((before * after).sum()), abs=1e-5)
    assert "CLIP-I" in (shoot / "out/report.html").read_text()
    assert len(results(shoot)) == 12
    assert command("run", path, "--backend", "fake").code == 0
    assert len(results(shoot)) == 12  # and is not measured again


def test_a_metric_that_needs_captions_is_refused_with_a_hint(command: CommandLine, shoot: Path) -> None:
    said = command("validate", recipe(shoot, "[l1, clip_direction]"))
    assert said.code == 2
    assert "recipe.yaml:7:23: sheet.metrics.1" in said.err
    assert "clip_image says how alike" in said.err


@pytest.fixture
def run(command: CommandLine, shoot: Path) -> RunView:
    """A run without the number that is asked for later."""
    assert command("run", recipe(shoot, "[l1]"), "--backend", "fake").code == 0
    rows = results(shoot)
    for row in rows:
        row["metrics"].pop("ssim")  # type: ignore[attr-defined]
    (shoot / "out/.ip2pbatch/results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    view = read_run(shoot / "out")
    assert len(view.records) == 6
    return view


def numbers(view: RunView) -> dict[str, float | None]:
    return {key: record.metrics.get("ssim") for key, record in view.records.items()}


def test_numbers_are_shown_and_not_kept_while_another_process_writes(run: RunView) -> None:
    with open_run(run.root, run.spec):
        seen, measured = measure(run, ["ssim"], Silent())
    assert len(measured) == len(run.records)
    assert None not in numbers(seen).values()
    assert numbers(read_run(run.root)) == numbers(run)


def test_numbers_count_whichever_shard_keeps_them(run: RunView) -> None:
    folder = run.layout.folder
    (folder / "results.jsonl").rename(folder / "results-1of2.jsonl")
    seen, _ = measure(read_run(run.root), ["ssim"], Silent())
    assert None not in numbers(seen).values()
    assert read_run(run.root).records == seen.records
    assert measure(read_run(run.root), ["ssim"], Silent(), Shard(1, 2))[1] == ()


def test_a_picture_that_cannot_be_read_is_told_of_and_takes_no_other_along(run: RunView) -> None:
    first = next(iter(run.records))
    path = run.layout.picture(first)
    path.write_bytes(bytes(path.stat().st_size))
    voice = Silent()
    seen, measured = measure(run, ["ssim"], voice)
    assert len(measured) == len(run.records) - 1
    assert numbers(seen)[first] is None
    assert voice.warnings == ["SSIM could not be measured of 1 picture; the log says why"]
    assert np.isfinite([one.metrics["ssim"] for one in measured]).all()
