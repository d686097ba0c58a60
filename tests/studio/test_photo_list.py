"""The photos of a studio: listed behind the page that asks, back after a folder was gone, small for whoever waits."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from pathlib import Path

import pytest
from runs import LONG, make_photos
from studios import served, studio, until

from ip2pbatch.jobs.exploring import exploration, shelf


def test_the_folder_is_looked_at_anew_behind_whoever_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exploration, "_LISTED_AGAIN", 0.0)
    folder = tmp_path / "photos"
    make_photos(folder, 2)
    with studio(folder, tmp_path / "out") as opened:
        (folder / "day0" / "0000.jpg").rename(folder / "new.jpg")
        until(lambda: "new.jpg" in [one["name"] for one in opened.page.get("/api/photos").json()["photos"]])
        assert len(opened.photos) == 2

        folder.rename(tmp_path / "elsewhere")
        until(lambda: opened.page.get("/api/photos").status_code == 422)
        assert "photos" in opened.page.get("/api/photos").json()["error"]
        (tmp_path / "elsewhere").rename(folder)
        until(lambda: opened.page.get("/api/photos").status_code == 200)
        assert len(opened.photos) == 2


def test_a_recipe_s_photos_are_listed_and_none_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_photos(tmp_path / "photos", 2)
    (tmp_path / "photos" / "broken.jpg").write_bytes(b"none")
    (tmp_path / "more").mkdir()
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("model: tiny\nphotos: [photos, {folder: more}]\nedits: [make it winter]\noutput: {folder: out}\n")
    monkeypatch.setattr("ip2pbatch.plan.photos.look", lambda path: pytest.fail(f"{path} is read"))
    with studio(recipe) as opened:
        found = opened.page.get("/api/photos").json()["photos"]
        assert [one["name"] for one in found] == ["photos/broken.jpg", "photos/day0/0000.jpg", "photos/day1/0001.jpg"]
        assert [bool(one["error"]) for one in found] == [True, False, False]


def test_a_picture_that_nobody_waits_for_is_not_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    goes_on, begun, made = threading.Event(), threading.Semaphore(0), list[str]()
    real = shelf._jpeg

    def slow(path: Path, side: int | None) -> bytes:
        made.append(path.name)
        begun.release()
        assert goes_on.wait(LONG)
        return real(path, side)

    make_photos(tmp_path / "photos", 9)
    with served(tmp_path / "photos", tmp_path / "out") as address:
        asked = http.client.HTTPConnection(address.host, address.port)

        def get(path: str, over: http.client.HTTPConnection) -> http.client.HTTPResponse:
            over.request("GET", path, headers={"Authorization": f"Bearer {address.token}"})
            return over.getresponse()

        photos = [one["id"] for one in json.loads(get("/api/photos", asked).read())["photos"]]
        monkeypatch.setattr(shelf, "_jpeg", slow)
        lines = []
        for photo in photos:
            line = socket.create_connection((address.host, address.port))
            line.sendall(
                f"GET /api/photos/{photo}/picture?side=256 HTTP/1.1\r\nHost: {address.host}:{address.port}\r\n"
                f"Authorization: Bearer {address.token}\r\n\r\n".encode()
            )
            lines.append(line)
        for _ in range(3):  # as many as are made at a time
            assert begun.acquire(timeout=LONG)
        for line in lines:
            line.close()
        for _ in range(2):  # by the second answer the server has heard of all that was closed before the first
            get("/api/state", asked).read()
        goes_on.set()
        assert get(f"/api/photos/{photos[-1]}/picture?side=1024", asked).status == 200
        assert len(made) == 4
        asked.close()
