"""The studio's page in headless Chromium, on the fake engine: the whole way, hostile text, axe-core."""

from __future__ import annotations

import base64
import io
import shutil
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import CHROMIUM, DRIVER, MISSING, Browser, browser
from payloads import PAYLOADS
from PIL import Image
from runs import LONG, make_photos, many
from studios import base, served

from ip2pbatch.run.directory.view import read_run
from ip2pbatch.studio.serving import Address

pytestmark = [
    pytest.mark.chromium,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason=MISSING),
]

AXE = "axe-core@4.14.1"
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
MAKE_AND_NOTE = """
const headers = {"Content-Type": "application/json"};
const send = (method, path, body) => fetch(path, {method, body: JSON.stringify(body), headers});
return (async (texts) => {
  const {photos} = await (await fetch("/api/photos?limit=1")).json();
  const edits = texts.map((instruction) => ({instruction}));
  const job = await (await send("POST", "/api/jobs", {photos: [photos[0].id], edits})).json();
  for (const cell of job.cells) await send("PATCH", `/api/cells/${cell.key}`, {picked: true, note: cell.instruction});
  return job.cells.length;
})(arguments[0]);
"""
HOLD_BACK_THE_STATE = """
const held = new Promise((release) => { window.release = release; });
const ask = window.asked = window.fetch;
window.fetch = async (path, ...more) => {
  const answer = await ask(path, ...more);
  if (path === "/api/state") await held;
  return answer;
};
"""
RUN = """
const [headers, body] = [{"Content-Type": "application/json"}, JSON.stringify({text: arguments[0]})];
return fetch("/api/run", {method: "POST", headers, body}).then((answer) => answer.status);
"""
RUN_IS_DONE = """
return asked("/api/state").then((answer) => answer.json()).then(({running}) => running.state === "done");
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
        until(window, "return document.querySelector('.picked .rank')?.textContent.includes('★★★★')")

        window.open(base(address))  # the cookie lets in, and what was chosen is still there
        until(window, "return document.querySelector('#picked').textContent === '1 picked'")
        assert "★★★★" in until(window, "return document.querySelector('.picked .rank')?.textContent")

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


def test_an_answer_that_comes_late_does_not_undo_what_was_heard_since(window: Browser, tmp_path: Path) -> None:
    make_photos(tmp_path / "photos", 1)
    with served(tmp_path / "photos", tmp_path / "out") as address:
        began(window, address)
        window.cdp("Page.enable")
        script = window.cdp("Page.addScriptToEvaluateOnNewDocument", source=HOLD_BACK_THE_STATE)
        try:
            window.open(base(address))
        finally:
            window.cdp("Page.removeScriptToEvaluateOnNewDocument", **script)
        recipe = f"model: tiny\nphotos: {tmp_path / 'photos'}\nedits: [winter]\noutput: {{folder: {tmp_path / 'out'}}}"
        assert window.js(RUN, recipe) == 200
        until(window, RUN_IS_DONE)
        window.js("release()")
        until(window, "return document.querySelector('#run-text').textContent.startsWith('Done')")
        assert complaints(window) == []


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


@pytest.mark.skipif(not many(0, 1), reason="of the soak: make soak")
def test_no_text_of_anybody_runs(window: Browser, tmp_path: Path) -> None:
    make_photos(tmp_path / "photos", 1)
    (photo,) = (tmp_path / "photos").rglob("*.jpg")
    names = [name.replace("/", "∕") for name in PAYLOADS]
    for name in names[:10]:
        shutil.copy(photo, photo.with_name(f"{name}.jpg"))
    with served(tmp_path / "photos", tmp_path / "out") as address:
        began(window, address)
        until(window, "return document.querySelectorAll('.photo[title]').length === 11")
        window.js(DROP, base64.b64encode(photo.read_bytes()).decode(), [f"{name}.jpg" for name in names[10:20]])
        window.js(DROP, base64.b64encode(b"none").decode(), names[20:])
        until(window, "return document.querySelectorAll('#banners .banner li').length > 0")
        assert window.js(MAKE_AND_NOTE, PAYLOADS) == len(PAYLOADS)
        window.js(CLICK, "input[name=show][value=all]")
        until(window, f"{DONE} > 4")
        window.js(CLICK, "#compare")
        window.js(CLICK, "#beside-close")
        window.js(CLICK, "#use-picks")
        until(window, "return document.querySelector('#recipe').value !== ''")
        assert window.js("return window.ran === undefined")
        assert not [place for place in window.requests() if "127.0.0.1:9/" in place]


@pytest.fixture(scope="session")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """axe-core's script, from npm's registry or npm's own cache of it."""
    folder = tmp_path_factory.mktemp("axe")
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not installed: axe-core is fetched by it")
    fetch = [npm, "pack", "--prefer-offline", "--fetch-retries=0", "--fetch-timeout=20000", AXE]
    if subprocess.run(fetch, cwd=folder, capture_output=True, timeout=LONG).returncode:
        pytest.skip(f"{AXE} cannot be fetched")
    with tarfile.open(next(folder.glob("*.tgz"))) as archive, archive.extractfile("package/axe.min.js") as script:  # type: ignore[union-attr]
        return script.read().decode()


@pytest.mark.skipif(not many(0, 1), reason="of the soak: make soak")
def test_axe_finds_nothing_serious(window: Browser, axe: str, tmp_path: Path) -> None:
    make_photos(tmp_path / "photos", 2)
    with served(tmp_path / "photos", tmp_path / "out") as address:
        began(window, address)
        until(window, "return document.querySelectorAll('.photo img[src]').length === 2")
        window.type("#links textarea", "make it winter")
        window.press("enter")
        until(window, f"{DONE} === 1")
        window.js(CLICK, "figcaption input")
        until(window, "return !document.querySelector('#picks').hidden")
        findings = []
        for scheme in ("light", "dark"):
            window.cdp("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
            for opens in ("input[name=show][value=photo]", ".cell .open", "#use-picks", "input[name=show][value=all]"):
                until(window, "return document.querySelector(arguments[0])", opens)
                window.js(CLICK, opens)
                found = window.js(f"{axe}; return axe.run({{resultTypes: ['violations']}})")["violations"]
                findings += [
                    f"{scheme}, {opens}: {one['id']}: {[node['target'] for node in one['nodes']]}"
                    for one in found
                    if one["impact"] in ("serious", "critical")
                ]
                window.js("document.querySelectorAll('dialog[open]').forEach((one) => one.close())")
        window.cdp("Emulation.setEmulatedMedia", features=[])
        assert findings == []
