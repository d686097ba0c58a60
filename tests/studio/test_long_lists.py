"""Lists of any length in the studio's page: what is in it, what is asked for, what is left out."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import CHROMIUM, DRIVER, MISSING, Browser, browser
from full_runs import full_run
from runs import LONG, make_photos, many
from studio_speed import weight
from studios import served
from test_page import CLICK, began, complaints, until

from ip2pbatch.jobs.exploring import board, shelf
from ip2pbatch.studio.api import page_files

pytestmark = [
    pytest.mark.chromium,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason=MISSING),
]

SCROLL = """
const [list, by, frames] = [document.querySelector(arguments[0]), arguments[1], arguments[2]];
window.scrolled = {most: 0, frames: 0};
(function next() {
  list.scrollTop += by;
  scrolled.most = Math.max(scrolled.most, document.getElementsByTagName("*").length);
  scrolled.frames += 1;
  if (scrolled.frames < frames) requestAnimationFrame(next); else scrolled.over = true;
})();
"""
LISTED = "return document.querySelector('.photo[title]')?.getAttribute('aria-setsize') === arguments[0]"


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("browser")) as window:
        yield window


def alike(folder: Path, count: int) -> Path:
    """A folder of photos that are one file by many names."""
    make_photos(folder, 1)
    (photo,) = folder.rglob("*.jpg")
    for number in range(1, count):
        (folder / f"{number:05}.jpg").hardlink_to(photo)
    return folder


def test_a_long_list_is_in_the_page_only_as_far_as_it_is_seen(window: Browser, tmp_path: Path) -> None:
    total = many(400, 10_000)
    with served(alike(tmp_path / "photos", total), tmp_path / "out") as address:
        began(window, address)
        until(window, LISTED, str(total))
        window.js(SCROLL, "#rail", 900, many(20, 60))
        until(window, "return scrolled.over")
        assert window.js("return scrolled.most") < 1000
        assert window.js("return document.querySelector('#rail').scrollTop") > 10_000
        until(window, "return document.querySelectorAll('.photo img[src]').length > 4")
        assert complaints(window) == []


def test_pictures_that_are_scrolled_past_are_waited_for_no_longer(
    window: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, goes_on, made = shelf._jpeg, threading.Event(), list[str]()

    def slow(path: Path, side: int | None) -> bytes:
        assert goes_on.wait(LONG)
        made.append(path.name)
        return real(path, side)

    monkeypatch.setattr(shelf, "_jpeg", slow)
    with served(alike(tmp_path / "photos", 300), tmp_path / "out") as address:
        began(window, address)
        until(window, LISTED, "300")
        until(window, "return document.querySelectorAll('.photo img[src]').length > 8")
        window.js("window.passed = [...document.querySelectorAll('.photo img')]; rail.scrollTop = 9000")
        until(window, "return passed.every((image) => !image.isConnected && !image.hasAttribute('src'))")
        until(window, "return document.querySelectorAll('.photo img[src]').length > 8")
        goes_on.set()
        until(window, "return [...document.querySelectorAll('.photo img[src]')].every((one) => one.naturalWidth)")
        seen: list[Any] = window.js("return [...document.querySelectorAll('.photo')].map((one) => one.title)")
        assert set(seen) <= set(made)


def test_the_page_comes_in_few_bytes_and_names_its_modules_at_once(window: Browser, tmp_path: Path) -> None:
    modules = {name for name in page_files() if name.endswith(".js")} - {"studio.js"}
    with served(alike(tmp_path / "photos", 120), tmp_path / "out") as address:
        began(window, address)
        until(window, LISTED, "120")
        assert 50_000 < weight(window) < 500_000
        named = window.js("return [...document.querySelectorAll('link[rel=modulepreload]')].map((one) => one.href)")
        assert {place.rpartition("/")[2] for place in named} == modules


TITLE = "return document.querySelector('#title small')?.textContent === arguments[0]"
ASK = """
const [headers, body] = [{"Content-Type": "application/json"}, {
  photos: [arguments[0]], edits: [{instruction: "add fog"}], text: arguments[1], image: arguments[2],
}];
return fetch("/api/jobs", {method: "POST", headers, body: JSON.stringify(body)}).then((answer) => answer.status);
"""


def grid(across: int, down: int) -> tuple[list[float], list[float]]:
    return [2 + column / 10 for column in range(across)], [1 + row / 50 for row in range(down)]


def test_very_many_cells_are_in_the_page_only_as_far_as_they_are_seen(window: Browser, tmp_path: Path) -> None:
    """All of one photo, in grids; then the same without their grids; and more are asked for meanwhile."""
    text, image = grid(10, many(4, 200))
    words = [f"make it {word}" for word in ("winter", "night", "rain", "dry", "old")]
    make_photos(tmp_path / "photos", 1)
    out = full_run(tmp_path, edits=words, guidance={"text": text, "image": image})
    total = len(words) * len(text) * len(image)
    with served(out) as address:
        began(window, address)
        until(window, TITLE, f"{total:,} pictures")
        photo = window.js("return fetch('/api/photos').then((a) => a.json()).then((said) => said.photos[0].id)")
        assert window.js(ASK, photo, *grid(10, 4)) == 200
        until(window, TITLE, f"{total + 40:,} pictures")
        for shown in ("photo", "all"):
            window.js(CLICK, f"input[name=show][value={shown}]")
            until(window, TITLE, f"{total + 40:,} pictures")
            window.js("document.querySelector('#wall').scrollTop = 0")
            window.js(SCROLL, "#wall", 300, 40)
            until(window, "return scrolled.over")
            assert window.js("return scrolled.most") < 1000
            assert window.js("return document.querySelector('#wall').scrollTop") > 1000
            until(window, "return document.querySelectorAll('.cell.is-done .open img[src]').length > 4")
        assert complaints(window) == []


def test_a_run_of_more_cells_than_a_studio_shows_says_so(
    window: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(board, "MOST", 3)
    make_photos(tmp_path / "photos", 5)
    with served(full_run(tmp_path, edits=["make it winter"])) as address:
        began(window, address)
        said = until(window, "const note = document.querySelector('#cut'); return !note.hidden && note.textContent")
        assert "more than the 3 pictures" in said
        cells = window.js("return fetch('/api/cells').then((answer) => answer.json())")
        assert (cells["total"], cells["cut"], len(cells["cells"])) == (3, True, 3)
