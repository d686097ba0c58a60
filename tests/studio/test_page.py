"""The studio's page in headless Chromium, on the fake engine: the whole way, and photos that are dropped."""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import CHROMIUM, DRIVER, MISSING, Browser, browser
from PIL import Image
from runs import LONG, make_photos
from studios import served

from ip2pbatch.run.directory.view import read_run
from ip2pbatch.studio.serving import Address

pytestmark = [
    pytest.mark.chromium,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason=MISSING),
]

FILL = """
const field = document.querySelector(arguments[0]);
field.value = arguments[1];
for (const kind of ["input", "change"]) field.dispatchEvent(new Event(kind, {bubbles: true}));
"""
CLICK = "document.querySelector(arguments[0]).click()"
DONE = "return document.querySelectorAll('.cell.is-done .open img').length"
TEXT = "return document.querySelector(arguments[0]).textContent"
DROP = """
const bytes = Uint8Array.from(atob(arguments[0]), (one) => one.charCodeAt(0));
const files = new DataTransfer();
for (const name of arguments[1]) files.items.add(new File([bytes], name));
dispatchEvent(new DragEvent("drop", {dataTransfer: files, cancelable: true}));
"""


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("browser")) as window:
        yield window


def until(page: Browser, true: str, *values: Any) -> Any:
    """What the page says to `true`, once it says something."""
    end = time.monotonic() + LONG
    while not (said := page.js(true, *values)):
        assert time.monotonic() < end, f"it never came to that: {true}"
        time.sleep(0.05)
    return said


def began(page: Browser, address: Address) -> None:
    page.forget()
    page.log("browser")
    page.open(address.first)
    until(page, "return document.querySelector('#model').textContent !== ''")


def complaints(page: Browser) -> list[str]:
    """What the console holds of refused styles and scripts, and of errors."""
    return [str(one["message"]) for one in page.log("browser") if one["level"] == "SEVERE"]


def test_the_whole_way_from_a_photo_to_the_folder(window: Browser, tmp_path: Path) -> None:
    make_photos(tmp_path / "photos", 3)
    with served(tmp_path / "photos", tmp_path / "out") as address:
        began(window, address)
        until(window, "return document.querySelectorAll('.photo img[src]').length === 3")
        window.js(CLICK, "input[name=many][value=seeds]")
        window.js(FILL, "#count", "2")
        window.type("#links textarea", "make it winter")
        window.press("enter")
        until(window, f"{DONE} === 2")

        window.js("document.querySelector('.cell .open').focus()")
        window.press("x")
        until(window, "return document.querySelectorAll('.cell.picked').length === 1")
        window.press("enter")
        until(window, "return document.querySelector('#after').complete && document.querySelector('#before').complete")
        window.press("right", "right", "right", "4")
        assert window.js("return document.querySelector('#split').value") == "53"
        window.js(FILL, "#note", "the one")
        window.press("escape")
        until(window, "return document.querySelector('.picked .values').textContent.includes('★★★★')")

        window.open(f"http://{address.host}:{address.port}/")  # the cookie lets in, and what was chosen is still there
        until(window, "return document.querySelector('#picked').textContent === '1 picked'")
        assert "★★★★" in until(window, "return document.querySelector('.picked .values')?.textContent")

        window.js(CLICK, "#use-picks")
        until(window, "return !document.querySelector('#start').disabled")
        recipe = window.js("return document.querySelector('#recipe').value")
        window.js(FILL, "#recipe", recipe.replace("instruction", "instuction"))
        line = next(n for n, text in enumerate(recipe.splitlines(), 1) if "instruction" in text)
        until(window, "return document.querySelector('#mistakes button')?.textContent === arguments[0]", f"line {line}")
        assert window.js("return document.querySelector('#start').disabled")
        window.js(FILL, "#recipe", recipe)
        until(window, "return !document.querySelector('#start').disabled")
        window.js(CLICK, "#start")
        until(window, "return document.querySelector('#run-text').textContent.startsWith('Done')")
        asked = {place for place in window.requests() if not place.startswith(("blob:", "chrome"))}
        assert {place.split("/")[2] for place in asked} == {f"{address.host}:{address.port}"}
        assert complaints(window) == []
    assert len(read_run(tmp_path / "out").records) == 4  # two variations, and the picked one of the two other photos


def test_a_photo_that_is_dropped_is_edited_in_a_box(window: Browser, tmp_path: Path) -> None:
    picture = io.BytesIO()
    Image.new("RGB", (90, 60), "teal").save(picture, "JPEG")
    with served(None, tmp_path / "out") as address:
        began(window, address)
        until(window, "return document.querySelector('#empty b')?.textContent === 'No photos yet'")
        window.js(DROP, base64.b64encode(picture.getvalue()).decode(), ["new.jpg"])
        until(window, "return document.querySelectorAll('.photo img[src]').length === 1")
        window.js(CLICK, "input[name=where][value=box]")
        for side, percent in enumerate((10, 20, 60, 80)):
            window.js(FILL, f"#box-{side}", str(percent))
        window.type("#links textarea", "make it night")
        window.press("enter")
        until(window, f"{DONE} === 1")
        assert "in a region" in window.js(TEXT, ".group")
        window.js(DROP, base64.b64encode(b"no picture").decode(), ["broken.jpg"])
        assert "broken.jpg" in until(window, "return document.querySelector('#banners .banner')?.textContent")
