"""What the API does not do: read or write elsewhere, take too much, or fall over what it is sent."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from runs import make_photos, many
from studios import Studio, base, served, studio

from ip2pbatch.jobs.exploring import shelf
from ip2pbatch.studio.api import ENDPOINTS
from ip2pbatch.studio.openapi import schema
from ip2pbatch.studio.tables import MOST_JSON


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Studio:
    folder = tmp_path_factory.mktemp("safety")
    make_photos(folder / "photos", 2)
    make_photos(folder / "elsewhere", 1)
    (folder / "photos" / "link.jpg").symlink_to(folder / "elsewhere" / "day0" / "0000.jpg")
    (folder / "photos" / "links").symlink_to(folder / "elsewhere", target_is_directory=True)
    (folder / "photos" / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 and no more")
    (folder / "photos" / "empty.jpg").touch()
    with studio(folder / "photos", folder / "out") as one:
        yield one


def jpeg(size: tuple[int, int] = (64, 48)) -> bytes:
    held = io.BytesIO()
    Image.effect_noise(size, 40).convert("RGB").save(held, "JPEG")
    return held.getvalue()


def test_a_link_out_of_the_folder_is_no_photo(opened: Studio) -> None:
    names = {photo["name"] for photo in opened.page.get("/api/photos").json()["photos"]}
    assert names == {"day0/0000.jpg", "day1/0001.jpg", "broken.jpg", "empty.jpg"}


def test_a_photo_that_became_a_link_since_is_gone(tmp_path: Path) -> None:
    (photo, other) = make_photos(tmp_path / "photos", 2)
    (elsewhere,) = make_photos(tmp_path / "elsewhere", 1)
    with studio(tmp_path / "photos", tmp_path / "out") as one:
        first = one.photos[0]
        photo.path.unlink()
        photo.path.symlink_to(elsewhere.path)
        assert one.page.get(f"/api/photos/{first}/picture").status_code == 404
        body = {"photos": [first], "edits": [{"instruction": "make it winter"}]}
        assert one.page.post("/api/jobs", json=body).status_code == 422
    assert other.path.is_file()


@pytest.mark.parametrize(
    "path",
    [
        "/static/../api.py", "/static/..%2fapi.py", "/static/%2e%2e/%2e%2e/errors.py", "/static//etc/passwd",
        "/api/photos/..%2f..%2fetc%2fpasswd/picture", "/api/photos/0000000000000000/picture", "/api/nothing",
        "/api/cells/..%2f..%2fchoices.json/picture", "/api/cells/" + "0" * 32 + "/picture", "/api/jobs/000fff",
        "/api/download/picture/" + "a" * 32, "/api/photos/%00/picture",
    ],
)  # fmt: skip
def test_nothing_lies_outside_of_the_lists(opened: Studio, path: str) -> None:
    said = opened.page.get(path)
    assert said.status_code == 404
    assert {"error", "hint"} <= set(said.json())


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("photos: /etc\nedits: [a]\noutput: {folder: OUT}", "in none of the folders"),
        ("photos: PHOTOS\nedits: [a]\noutput: {folder: /tmp/elsewhere}", "writes elsewhere"),
        ("photos: PHOTOS/../elsewhere\nedits: [a]\noutput: {folder: OUT}", "in none of the folders"),
        ("photos: PHOTOS/links\nedits: [a]\noutput: {folder: OUT}", "in none of the folders"),
        ("model: /some/model\nphotos: PHOTOS\nedits: [a]\noutput: {folder: OUT}", "another model"),
        ("photos: PHOTOS\nedits: [a]\noutput: {folder: OUT, sign: {key: k.pem, certificate: c.pem}}", "command line"),
        ("compare: [tiny, other]\nphotos: PHOTOS\nedits: [a]\noutput: {folder: OUT}", "another model"),
        ("photos: {folder: PHOTOS, instructions: /etc/passwd}\noutput: {folder: OUT}", "in none of the folders"),
        ("photos: PHOTOS\nedits: [{instruction: a, region: {mask: /etc/x.png}}]\noutput: {folder: OUT}", "in none"),
    ],
)  # fmt: skip
def test_a_recipe_reads_and_writes_where_the_studio_was_opened_alone(opened: Studio, text: str, why: str) -> None:
    setting = opened.desk.of.setting
    text = text.replace("PHOTOS", str(setting.photos[0].folder)).replace("OUT", str(setting.ground.out))
    text = text if text.startswith(("model", "compare")) else f"model: tiny\n{text}"
    said = opened.page.post("/api/recipe/check", json={"text": text}).json()
    assert why in said["messages"][0]["error"]
    assert said["messages"][0]["hint"]
    assert said["plan"] is None
    assert opened.page.post("/api/run", json={"text": text}).status_code == 422


def test_a_mistake_in_a_recipe_has_its_place_and_a_hint(opened: Studio) -> None:
    said = opened.page.post("/api/recipe/check", json={"text": "photos: x\nedit: [a]\nedits: [{}]\n"}).json()
    assert {(one["line"], bool(one["hint"])) for one in said["messages"]} == {(2, True), (3, True)}
    assert all("recipe.yaml" not in one["error"] for one in said["messages"])


def test_a_photo_that_cannot_be_read_says_why_and_takes_no_other_with_it(opened: Studio) -> None:
    photos = {photo["name"]: photo for photo in opened.page.get("/api/photos").json()["photos"]}
    assert photos["broken.jpg"]["error"]
    assert photos["empty.jpg"]["error"] == "is empty"
    assert opened.page.get(f"/api/photos/{photos['broken.jpg']['id']}/picture").status_code == 415
    both = [photos["broken.jpg"]["id"], photos["day0/0000.jpg"]["id"]]
    job = opened.over(opened.ask("make it winter", photos=both))
    assert [cell["state"] for cell in job["cells"]] == ["done"]
    assert "broken.jpg" in job["broken"]
    body = {"photos": [photos["empty.jpg"]["id"]], "edits": [{"instruction": "make it winter"}]}
    assert opened.page.post("/api/jobs", json=body).status_code == 422


def test_a_studio_without_photos_takes_what_is_dropped_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with studio(None) as one:
        assert one.page.get("/api/photos").json() == {"total": 0, "photos": []}
        assert one.page.get("/api/cells").json()["total"] == 0
        said = one.page.post("/api/photos", params={"name": "../../a b<script>.JPG"}, content=jpeg())
        assert said.status_code == 200
        assert (said.json()["name"], said.json()["width"]) == ("a b_script_.jpg", 64)
        assert one.page.post("/api/photos", params={"name": "a b<script>.JPG"}, content=jpeg()).status_code == 200
        assert one.over(one.ask("make it winter"))["state"] == "done"
    assert [path.parent.name for path in tmp_path.rglob("a b_script_*.jpg")] == ["uploads"] * len(
        list(tmp_path.rglob("a b_script_*.jpg"))
    )


@pytest.mark.parametrize(
    ("content", "status"),
    [(b"", 415), (b"no photo", 415), (b"<svg onload=alert(1)>", 415), (b"GIF89a", 415), (jpeg()[:200], 415)],
)
def test_what_is_no_photo_is_not_taken(opened: Studio, content: bytes, status: int) -> None:
    said = opened.page.post("/api/photos", params={"name": "a.jpg"}, content=content)
    assert said.status_code == status
    assert said.json()["error"]
    assert not list(opened.desk.of.setting.uploads.glob("*"))


def test_an_upload_is_bounded_in_bytes_and_in_pixels(opened: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    length = {"Content-Length": str(shelf.MOST_BYTES + 1)}
    assert opened.page.post("/api/photos", content=b"x", headers=length).status_code == 413
    header = bytearray(jpeg())
    at = header.index(b"\xff\xc0") + 5  # height and width of a JPEG's frame
    header[at : at + 4] = (60_000).to_bytes(2, "big") * 2
    said = opened.page.post("/api/photos", params={"name": "bomb.jpg"}, content=bytes(header))
    assert said.status_code == 415
    assert "megapixels at most" in said.json()["error"]


def test_a_body_is_bounded_wherever_it_says_its_length(opened: Studio) -> None:
    parts = (b"x" * 65536 for _ in range(MOST_JSON // 65536 + 2))
    said = opened.page.post("/api/jobs", content=parts, headers={"Content-Type": "application/json"})
    assert said.status_code == 413
    assert opened.page.post("/api/jobs", content=b"{}", headers={"Content-Type": "text/plain"}).status_code == 415


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ({}, "photos"),
        ({"photos": ["x"], "edits": [{"instruction": "a"}]}, "photos.0"),
        ({"photos": ["0" * 16], "edits": [{"instruction": "a"}]}, "photos.0"),
        ({"edits": [{}]}, "edits.0"),
        ({"edits": [{"instruction": "a", "chain": ["b"]}]}, "edits.0"),
        ({"edits": [{"instruction": "a", "strength": 2}]}, "edits.0.strength"),
        ({"edits": [{"instruction": "a", "region": {"polygon": "x"}}]}, "edits.0.region.polygon"),
        ({"edits": [{"instruction": "a"}], "text": ["NaN"]}, "text.0"),
        ({"edits": [{"instruction": "a"}], "seeds": [-1]}, "seeds.0"),
        ({"edits": [{"instruction": "a"}], "seeds": list(range(100)), "text": [*range(1, 51)]}, "edits"),
        ({"edits": [{"instruction": "a"}], "unknown": 1}, "unknown"),
    ],
)
def test_what_is_asked_wrongly_is_refused_with_its_place(opened: Studio, body: dict[str, object], where: str) -> None:
    body = {"photos": opened.photos[1:2], **body} if body else body
    said = opened.page.post("/api/jobs", json=body)
    assert said.status_code == 422
    assert said.json()["where"].startswith(where)
    assert said.json()["error"]


def test_a_region_is_read_from_the_given_folders_alone(opened: Studio) -> None:
    edit = {"instruction": "a", "region": {"mask": "/etc/passwd"}}
    said = opened.page.post("/api/jobs", json={"photos": opened.photos[1:2], "edits": [edit]})
    assert said.status_code == 422
    assert "in none of the folders" in said.json()["error"]


def test_the_schema_is_that_of_the_routes(opened: Studio) -> None:
    said = opened.page.get("/api/openapi.json").json()
    served = {(one.path, one.method.lower()) for one in ENDPOINTS}
    assert {(path, method) for path, methods in said["paths"].items() for method in methods} == served
    assert len({one.name for one in ENDPOINTS}) == len(ENDPOINTS)
    assert said == json.loads(json.dumps(schema(ENDPOINTS)))


@pytest.mark.skipif(not many(0, 1), reason="a minute, under `make soak`")
def test_the_api_holds_what_its_schema_says(tmp_path: Path) -> None:
    """Whatever is sent: no answer that is not described, and no fault of the server."""
    schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")
    from hypothesis import HealthCheck, Phase, given, settings
    from schemathesis.specs.openapi.checks import positive_data_acceptance

    make_photos(tmp_path / "photos", 1)
    with served(tmp_path / "photos", tmp_path / "out") as address:
        key = {"Authorization": f"Bearer {address.token}"}
        api = schemathesis.openapi.from_url(f"{base(address)}/api/openapi.json", headers=key)
        operations = api.exclude(path="/api/events").get_all_operations()
        for found in operations:
            operation = found.ok()

            @settings(
                max_examples=40, deadline=None, suppress_health_check=list(HealthCheck),
                phases=(Phase.explicit, Phase.generate), database=None,
            )  # fmt: skip
            @given(case=operation.as_strategy())
            def holds(case: Any) -> None:
                # what is well-formed may still be no photo, or no recipe
                case.call_and_validate(headers=key, excluded_checks=[positive_data_acceptance])

            holds()
