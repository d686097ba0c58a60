"""The API: photos, cells, jobs, choices, recipes, runs and downloads, on the fake engine."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image
from runs import make_photos
from studios import Studio, studio, until

from ip2pbatch import jobs


@pytest.fixture(scope="module")
def explored(tmp_path_factory: pytest.TempPathFactory) -> Studio:
    """A studio on three photos, in which a few cells were made."""
    folder = tmp_path_factory.mktemp("explored")
    make_photos(folder / "photos", 3)
    with studio(folder / "photos", folder / "out") as opened:
        opened.over(opened.ask("make it winter", "add fog", seeds=[1, 2]))
        yield opened


def test_a_page_begins_with_the_state_and_the_photos(explored: Studio) -> None:
    state = explored.page.get("/api/state").json()
    assert (state["photos"], state["model"], state["loading"]) == (3, "tiny", False)
    said = explored.page.get("/api/photos", params={"limit": 2}).json()
    assert (said["total"], len(said["photos"])) == (3, 2)
    assert {(photo["width"], photo["height"]) for photo in said["photos"]} == {(96, 64)}


def test_a_small_picture_of_a_photo_is_sent_once(explored: Studio) -> None:
    address = f"/api/photos/{explored.photos[0]}/picture"
    said = explored.page.get(address, params={"side": 256})
    assert Image.open(io.BytesIO(said.content)).size == (96, 64)
    assert said.headers["etag"]
    again = explored.page.get(address, params={"side": 256}, headers={"If-None-Match": said.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_a_job_makes_a_cell_of_each_edit_and_seed(explored: Studio) -> None:
    cells = explored.page.get("/api/cells").json()
    made = {(cell["instruction"], cell["seed"], cell["state"]) for cell in cells["cells"]}
    assert {(words, seed, "done") for words in ("make it winter", "add fog") for seed in (1, 2)} <= made
    picture = explored.page.get(cells["cells"][0]["picture"])
    assert picture.headers["content-type"] == "image/png"
    before = explored.page.get(cells["cells"][0]["picture"], params={"at": "before"})
    assert Image.open(io.BytesIO(picture.content)).size == Image.open(io.BytesIO(before.content)).size


def test_what_was_made_before_is_not_made_again(explored: Studio) -> None:
    job = explored.ask("make it winter", seeds=[1])
    assert job["state"] == "done"
    assert job["cells"][0]["state"] == "done"


def test_a_closed_studio_leaves_a_run_that_goes_on_and_verifies(tmp_path: Path) -> None:
    make_photos(tmp_path / "photos", 2)
    out = tmp_path / "out"
    with studio(tmp_path / "photos", out) as opened:
        first, second = opened.photos
        opened.over(opened.ask("make it winter", photos=[first]))
        opened.over(opened.ask("make it winter", "add fog", photos=[second], text=[5, 7.5]))
    assert (out / "recipe.yaml").is_file()
    outcome = jobs.run(out, machine=jobs.Machine(backend="fake"))
    assert outcome.summary.made == 0
    assert outcome.summary.states["done"] == 5
    assert len(list(out.rglob("*.jpg"))) == 5
    assert jobs.verify(out).exit_code == 0


def test_a_run_that_another_command_writes_is_watched(tmp_path: Path) -> None:
    make_photos(tmp_path / "photos", 2)
    out, fake = tmp_path / "out", jobs.Machine(backend="fake")
    jobs.edit(tmp_path / "photos", "make it winter", out, model="tiny", machine=fake)
    with studio(out) as opened:
        assert opened.page.get("/api/cells").json()["total"] == 2
        jobs.edit(tmp_path / "photos", "add fog", out, model="tiny", machine=fake)
        until(lambda: opened.page.get("/api/cells", params={"only": "done"}).json()["total"] == 4)
