"""Picks, stars and notes, what becomes of them: a recipe for the folder, its run, downloads."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from runs import make_photos
from studios import Studio, studio, until, with_engine
from test_turns import Stepping, recipe

from ip2pbatch import jobs
from ip2pbatch.engine.fake import FakeEngine
from ip2pbatch.plan.edits import Edit
from ip2pbatch.plan.written.recipe import parse_recipe
from ip2pbatch.run.engine import Hook, Pending, Result, Source

FAKE = jobs.Machine(backend="fake")
SOFT = {"polygon": [[[0, 0], [50, 0], [50, 100], [0, 100]]], "feather": 3}


@pytest.fixture(scope="module")
def chosen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    """An edit; one with a negative and a strength, in a region, around it; a chain. Three cells are picked."""
    folder = tmp_path_factory.mktemp("chosen")
    make_photos(folder / "photos", 2)
    with studio(folder / "photos", folder / "out") as opened:
        edits = [
            {"instruction": "make it winter"},
            {"instruction": "add fog", "negative": "rain", "strength": 0.5},
            {"instruction": "add snow", "region": SOFT},
            {"instruction": "add rain", "protect": SOFT},
            {"chain": ["make it night", {"instruction": "add stars", "text": 4, "region": SOFT}], "keep": "all"},
        ]
        body = {"photos": opened.photos[:1], "edits": edits, "text": [7], "seeds": [5]}
        job = opened.over(opened.page.post("/api/jobs", json=body).json())
        for cell in job["cells"][1:]:
            opened.page.patch(
                f"/api/cells/{cell['key']}", json={"picked": cell["instruction"] not in ("make it night", "add rain")}
            )
        yield opened


def cells(opened: Studio, **query: Any) -> list[dict[str, Any]]:
    return opened.page.get("/api/cells", params={"order": "oldest", **query}).json()["cells"]


def test_cells_say_what_they_are(chosen: Studio) -> None:
    found = {cell["instruction"]: cell for cell in cells(chosen)}
    assert (found["add fog"]["negative"], found["add fog"]["strength"]) == ("rain", 0.5)
    assert (found["add snow"]["region"], found["add snow"]["protect"]) == (SOFT, None)
    assert (found["add rain"]["region"], found["add rain"]["protect"]) == (None, SOFT)
    assert (found["add stars"]["links"], found["add stars"]["link"]) == (["make it night", "add stars"], 2)
    night = {"instruction": "make it night", "text": 7, "image": 1}
    assert found["add stars"]["chain"] == [night, {"instruction": "add stars", "text": 4, "image": 1, "region": SOFT}]
    assert (found["add stars"]["carry"], found["make it night"]["chain"]) == ("latent", None)
    assert found["make it winter"]["text"] == 7
    assert [cell["instruction"] for cell in cells(chosen, only="picked")] == ["add fog", "add snow", "add stars"]
    assert [cell["instruction"] for cell in cells(chosen, search="STARS")] == ["add stars"]
    assert len(cells(chosen, photo=chosen.photos[1])) == 0
    assert len(cells(chosen, photo=chosen.photos[0], offset=1, limit=2)) == 2


def test_what_a_person_thinks_of_a_cell_stays(chosen: Studio) -> None:
    address = f"/api/cells/{cells(chosen)[0]['key']}"
    said = chosen.page.patch(address, json={"stars": 4, "note": "a <b>note</b>"}).json()
    assert (said["picked"], said["stars"], said["note"]) == (False, 4, "a <b>note</b>")
    assert chosen.page.patch(address, json={"note": ""}).json()["stars"] == 4
    assert chosen.page.patch(address, json={"stars": 6}).status_code == 422
    with studio(chosen.desk.of.setting.ground.out) as again:
        assert again.page.get(address).json()["stars"] == 4
        assert len(cells(again, only="picked")) == 3


def test_the_report_shows_the_same(chosen: Studio) -> None:
    out = chosen.desk.of.setting.ground.out
    first = cells(chosen)[0]
    chosen.page.patch(f"/api/cells/{first['key']}", json={"stars": 3, "note": "<i>soft"})
    page = next(iter(jobs.report(out))).read_text("utf-8")
    assert page.count('"picked": true') + page.count('"picked":true') == 3
    assert "★★★ &lt;i&gt;soft" in page


def test_picked_cells_become_a_recipe_of_the_folder(chosen: Studio) -> None:
    picked = [cell["key"] for cell in cells(chosen, only="picked")]
    text = chosen.page.post("/api/recipe/from", json={"cells": picked}).json()["text"]
    setting = chosen.desk.of.setting
    recipe = parse_recipe(text, setting.recipe_place)
    assert [len(spec.chain) for spec in recipe.edits] == [1, 1, 2]
    assert (recipe.edits[0].negative, recipe.edits[0].strength) == ("rain", 0.5)
    assert recipe.edits[1].region is not None
    assert [photos.folder for photos in recipe.photos] == [setting.photos[0].folder]
    said = chosen.page.post("/api/recipe/check", json={"text": text}).json()
    assert [one for one in said["messages"] if not one["warning"]] == []
    assert (said["plan"]["photos"], said["plan"]["edits_left"]) == (2, 4)  # those of the other photo
    assert chosen.page.get("/api/download/recipe").text == text


def test_picks_of_one_instruction_become_a_recipe_that_runs(tmp_path: Path) -> None:
    """Seeds, scales, and a link of a chain beside the same edit alone."""
    make_photos(tmp_path / "photos", 2)
    with studio(tmp_path / "photos", tmp_path / "out") as opened:
        edits = [{"instruction": "add fog"}, {"chain": ["add fog", "add stars"], "keep": "all"}]
        body = {"photos": opened.photos[:1], "edits": edits, "text": [5, 7], "seeds": [1, 2]}
        made = [cell["key"] for cell in opened.over(opened.page.post("/api/jobs", json=body).json())["cells"]]
        text = opened.page.post("/api/recipe/from", json={"cells": made}).json()["text"]
        said = opened.page.post("/api/recipe/check", json={"text": text}).json()
        assert [one for one in said["messages"] if not one["warning"]] == []
        assert (said["plan"]["edits"], said["plan"]["edits_left"]) == (16, 8)  # (4 + 4 chained) of two photos
        ids = [spec.id for spec in parse_recipe(text, opened.desk.of.setting.recipe_place).edits]
        assert ids[:3] == ["add-fog", "add-fog-2", "add-fog-3"]


def test_downloads_are_at_the_photo_s_size_with_its_mark(chosen: Studio, tmp_path: Path) -> None:
    cell = next(one for one in cells(chosen) if one["instruction"] == "add snow")
    said = chosen.page.get(f"/api/download/picture/{cell['key']}")
    assert "attachment" in said.headers["content-disposition"]
    (tmp_path / "one.jpg").write_bytes(said.content)
    with Image.open(tmp_path / "one.jpg") as picture:
        assert (picture.format, picture.size) == ("JPEG", (96, 64))
    assert "iptc" not in jobs.marks(tmp_path / "one.jpg").files[0].missing
    link = next(one for one in cells(chosen) if one["instruction"] == "make it night")
    named = chosen.page.get(f"/api/download/picture/{link['key']}").headers["content-disposition"]
    assert "make-it-night-then-add-stars_1_" in named
    full = chosen.page.get(cell["picture"], params={"at": "full"})
    assert Image.open(io.BytesIO(full.content)).size == (96, 64)
    with zipfile.ZipFile(io.BytesIO(chosen.page.get("/api/download/picks.zip").content)) as zipped:
        assert len(zipped.namelist()) == len(set(zipped.namelist())) == 3
    sheet = chosen.page.get("/api/download/sheet")
    assert sheet.headers["content-type"] in ("image/png", "application/zip")


def test_without_a_pick_there_is_nothing_to_download(tmp_path: Path) -> None:
    make_photos(tmp_path / "photos", 1)
    with studio(tmp_path / "photos", tmp_path / "out") as opened:
        for what in ("picks.zip", "recipe", "sheet"):
            assert opened.page.get(f"/api/download/{what}").status_code == 422
        assert opened.page.post("/api/run/stop").status_code == 422
        assert opened.page.post("/api/run/pause", json={"paused": True}).status_code == 422


def test_a_run_is_paused_goes_on_is_stopped_and_goes_on_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_photos(tmp_path / "photos", 4)
    with_engine(monkeypatch, engine := Stepping())
    engine.limits = engine.limits.__class__(batch=1)
    with studio(tmp_path / "photos", tmp_path / "out") as opened:
        text = recipe(opened)
        assert opened.page.post("/api/run", json={"text": text}).json()["state"] in ("waiting", "running")
        assert engine.at_work.wait(60)
        assert opened.page.post("/api/run", json={"text": text}).status_code == 422
        assert opened.page.post("/api/run/pause", json={"paused": True}).json()["state"] == "paused"
        engine.go.set()
        until(lambda: opened.desk.of.current is None)
        assert running(opened)["left"] == 3
        engine.go.clear()
        assert opened.page.post("/api/run/pause", json={"paused": False}).json()["state"] in ("waiting", "running")
        until(lambda: running(opened)["state"] == "running" and opened.desk.of.current is not None)
        engine.at_work.clear()
        assert engine.at_work.wait(60)
        opened.page.post("/api/run/stop")
        until(lambda: running(opened)["state"] == "stopped")
        assert engine.stopped == 1
    outcome = jobs.run(tmp_path / "out", machine=FAKE)
    assert (outcome.summary.made, outcome.summary.states["done"]) == (3, 4)


def running(opened: Studio) -> dict[str, Any]:
    return opened.page.get("/api/state").json()["running"]


class Flagging(FakeEngine):
    """Flags the second photo's picture, the first time."""

    flagged = False

    def edit(self, edits: Sequence[Edit], sources: Sequence[Source]) -> list[Result]:
        if len(self.seen | {edit.source for edit in edits}) == 2 and not self.flagged:
            self.flagged = True
            return [Result(None, None, "flagged", "the model's safety checker flagged the picture") for _ in edits]
        self.seen |= {edit.source for edit in edits}
        return super().edit(edits, sources)

    def __init__(self) -> None:
        super().__init__()
        self.seen = set[str]()

    def begin(self, edits: Sequence[Edit], sources: Sequence[Source], hook: Hook | None = None) -> Pending:
        return super().begin(edits, sources, hook)


def test_a_flagged_cell_says_so_and_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_photos(tmp_path / "photos", 2)
    with_engine(monkeypatch, Flagging())
    with studio(tmp_path / "photos", tmp_path / "out") as opened:
        opened.over(opened.ask("make it winter", photos=opened.photos))
        (cell,) = cells(opened, only="failed")
        assert (cell["state"], cell["picture"]) == ("flagged", None)
        assert "safety checker" in cell["reason"]
        assert opened.page.get(f"/api/cells/{cell['key']}/picture").status_code == 404
        opened.page.post(f"/api/cells/{cell['key']}/retry")
        until(lambda: len(cells(opened, only="done")) == 2)


def test_a_model_that_cannot_be_loaded_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ip2pbatch.errors import ModelError
    from ip2pbatch.jobs import engines

    def choose(*arguments: object, **more: object) -> None:
        raise ModelError("there is no such model", hint="name another one")

    make_photos(tmp_path / "photos", 1)
    real = engines.choose
    monkeypatch.setattr(engines, "choose", choose)
    with studio(tmp_path / "photos", tmp_path / "out") as opened:
        until(lambda: opened.page.get("/api/state").json()["problem"])
        body = {"photos": opened.photos, "edits": [{"instruction": "make it winter"}]}
        said = opened.page.post("/api/jobs", json=body)
        assert (said.status_code, said.json()["hint"]) == (503, "name another one")
        monkeypatch.setattr(engines, "choose", real)  # it is there by now: that was not asked in vain
        until(lambda: opened.page.post("/api/jobs", json=body).status_code == 200)
