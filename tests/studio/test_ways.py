"""What a person does on the studio's page, by pointer and keyboard: draw, choose, look, and what it says meanwhile."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import CHROMIUM, DRIVER, MISSING, Browser, browser
from PIL import Image
from runs import Wrapped, make_photos, no_room_for
from studios import base, served, with_engine
from test_page import DONE, DROP, TEXT, began, complaints, until
from test_turns import Stepping

from ip2pbatch import jobs
from ip2pbatch.errors import ModelError
from ip2pbatch.jobs import engines
from ip2pbatch.run.directory.view import read_run

pytestmark = [
    pytest.mark.chromium,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason=MISSING),
]

HOLD_BACK_THE_PHOTOS = """
const held = new Promise((release) => { window.release = release; });
const ask = window.fetch;
window.fetch = async (path, ...more) => {
  if (String(path).startsWith("/api/photos")) await held;
  return ask(path, ...more);
};
"""
CELL = """
const {cells} = await (await fetch("/api/cells")).json();
return cells[0];
"""
MIXED = """
const canvas = document.querySelector("#mixed");
if (canvas.hidden) return null;
return [canvas.width, canvas.height, ...canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data];
"""
OPEN = """
const ids = ["after", "before"];
return document.querySelector("#viewer").open && ids.every((id) => document.getElementById(id).complete);
"""
PLACE = "const {scrollLeft, scrollTop} = document.querySelector('#frame'); return [scrollLeft, scrollTop]"
SPLIT = "return document.querySelector('#split').value"
SAID = "return document.querySelector('#banners')?.textContent ?? ''"


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("browser")) as window:
        yield window


FAKE = jobs.Machine(backend="fake")
RUN = "return document.querySelector('#run-text').textContent"


def cell(page: Browser) -> dict[str, Any]:
    """The newest cell, as the API says it."""
    found: dict[str, Any] = page.js(f"return (async () => {{ {CELL} }})()")
    return found


def jpeg(width: int, height: int, colour: str = "teal") -> bytes:
    held = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(held, "JPEG")
    return held.getvalue()


def photos_are_there(page: Browser, number: int) -> None:
    until(page, f"return document.querySelectorAll('.photo img[src]').length === {number}")


def made(page: Browser, words: str, number: int = 1) -> None:
    """Write an instruction, press Enter, and wait until so many pictures are there."""
    page.type("#links textarea", words)
    page.press("enter")
    until(page, f"{DONE} === {number}")


def test_a_region_is_drawn_with_the_pointer(window: Browser, tmp_path: Path) -> None:
    make_photos(tmp_path / "photos", 1)
    with served(tmp_path / "photos", tmp_path / "out") as address:
        began(window, address)
        photos_are_there(window, 1)
        until(window, "return document.querySelector('#photo').naturalWidth")
        window.js("document.querySelector('input[name=where][value=box]').click()")
        window.drag("#photo", (0.75, 0.9), (0.5, 0.5), (0.25, 0.1))
        made(window, "make it night")
        box = np.array(cell(window)["region"]["polygon"][0])
        assert [*box.min(axis=0), *box.max(axis=0)] == pytest.approx([25, 10, 75, 90], abs=1)
        window.js("document.querySelector('input[name=where][value=brush]').click()")
        window.drag("#photo", (0.2, 0.5), (0.5, 0.5), (0.8, 0.5))
        window.click("#make")
        until(window, f"{DONE} === 2")
        painted = np.array(cell(window)["region"]["polygon"][0])
        assert painted[:, 0].min() == pytest.approx(17, abs=4)
        assert painted[:, 0].max() == pytest.approx(83, abs=4)
        assert np.ptp(painted[:, 1]) == pytest.approx(10, abs=3)  # the brush is as wide as a tenth of the short side
        window.click(".cell .open")
        window.js("document.querySelector('input[name=where][value=all]').click()")
        window.click("#again")  # its settings, with what was painted
        window.type("#links textarea", " and snow")
        window.press("enter")
        until(window, f"{DONE} === 3")
        assert np.abs(np.array(cell(window)["region"]["polygon"][0]) - painted).max() < 0.2
        assert complaints(window) == []


def test_chosen_photos_stay_chosen_when_others_come_and_when_some_are_searched(window: Browser, tmp_path: Path) -> None:
    photos = make_photos(tmp_path / "photos", 3)
    with served(tmp_path / "photos", tmp_path / "out") as address:
        began(window, address)
        photos_are_there(window, 3)
        window.drag(".photo:nth-of-type(2)", (0.5, 0.5))
        name = window.js("return document.querySelectorAll('.photo')[1].title")
        until(window, "return document.querySelector('#of').textContent === arguments[0]", name)
        window.js(DROP, base64.b64encode(jpeg(90, 60)).decode(), ["0.jpg"])
        photos_are_there(window, 4)
        until(window, "return document.querySelector('.photo.is-chosen')?.title === arguments[0]", name)
        window.type("#search", "0.jpg")
        until(window, "return document.querySelector('.photo')?.getAttribute('aria-setsize') !== '4'")
        made(window, "make it winter")
        assert name.endswith(cell(window)["photo_name"])
        window.js("document.querySelector('#search').focus()")
        window.press("down")
        until(window, "return document.querySelector('#of').textContent !== arguments[0]", name)
        assert window.js("return document.activeElement.id") == "photos"
    assert len(photos) == 3


def test_what_is_asked_before_the_photos_are_there_is_made_when_they_are(window: Browser, tmp_path: Path) -> None:
    make_photos(tmp_path / "photos", 1)
    with served(tmp_path / "photos", tmp_path / "out") as address:
        began(window, address)
        window.cdp("Page.enable")
        script = window.cdp("Page.addScriptToEvaluateOnNewDocument", source=HOLD_BACK_THE_PHOTOS)
        try:
            window.open(base(address))
        finally:
            window.cdp("Page.removeScriptToEvaluateOnNewDocument", **script)
        window.click("#make")
        assert "Write what should change" in window.js(TEXT, "#lack")
        window.type("#links textarea", "make it winter")
        window.press("enter")
        assert "being read" in window.js(TEXT, "#lack")
        window.js("release()")
        until(window, f"{DONE} === 1")


def test_the_full_size_is_lifted_and_moved(window: Browser, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "wide.jpg").write_bytes(jpeg(1800, 1200))
    with served(tmp_path / "photos", tmp_path / "out") as address:
        began(window, address)
        photos_are_there(window, 1)
        made(window, "make it winter")
        window.click(".cell .open")
        until(window, OPEN)
        window.drag("#stage", (0.5, 0.5), (0.8, 0.5))
        dragged = int(window.js(SPLIT))
        assert dragged == pytest.approx(80, abs=2)
        window.press("left", "left")
        assert int(window.js(SPLIT)) == dragged - 2
        window.press("f")
        until(window, "return document.querySelector('#viewer').classList.contains('is-whole')")
        assert window.js("return document.querySelector('#after').getBoundingClientRect().width") == 1800
        until(window, f"{PLACE.replace('return', 'const at =')}; return at[1] > 0")
        left, top = window.js(PLACE)
        window.press("shift+right", "shift+down")
        until(window, f"{PLACE.replace('return', 'const at =')}; return at[0] > {left} && at[1] > {top}")
        before = window.js(PLACE)
        window.drag("#frame", (0.2, 0.5), (0.3, 0.6))  # beside the line
        after = window.js(PLACE)
        assert after[0] < before[0]
        assert after[1] < before[1]
        assert int(window.js(SPLIT)) == dragged - 2
        (tmp_path / "photos" / "wide.jpg").unlink()
        window.press("f")
        until(window, "return !document.querySelector('#viewer').classList.contains('is-whole')")


@pytest.mark.parametrize("chain", [False, True], ids=["an edit", "a chain"])
def test_a_kept_strength_keeps_where_the_cell_was_edited(window: Browser, tmp_path: Path, *, chain: bool) -> None:
    """What no form of the page can say comes from a recipe or the API, and stays."""
    make_photos(tmp_path / "photos", 1)
    protect = {"polygon": [[[0, 0], [50, 0], [50, 100], [0, 100]]], "feather": 3}
    with served(tmp_path / "photos", tmp_path / "out") as address:
        began(window, address)
        photos_are_there(window, 1)
        edit = {"instruction": "add snow", "protect": protect}
        edits = [{"chain": [{"instruction": "add fog", "text": 3, "image": 1.2}, edit]} if chain else edit]
        window.js(f"""
            return (async () => {{
              const {{photos}} = await (await fetch("/api/photos")).json();
              const body = JSON.stringify({{photos: [photos[0].id], edits: {json.dumps(edits)}}});
              const headers = {{"Content-Type": "application/json", "X-Client": "a-test"}};
              return (await fetch("/api/jobs", {{method: "POST", headers, body}})).ok;
            }})()
        """)
        links = 2 if chain else 1
        until(window, f"{DONE} === {links}")
        window.click(".cell .open")
        until(window, OPEN)
        window.js("document.querySelector('#mix').focus()")
        window.press("home", *["right"] * 40)
        until(window, "return !document.querySelector('#keep-mix').hidden")
        window.click("#keep-mix")
        until(window, f"{DONE} > {links}")
        assert (cell(window)["strength"], cell(window)["protect"]) == (0.4, protect)
        if chain:
            fog = {"instruction": "add fog", "text": 3, "image": 1.2}
            assert cell(window)["chain"][0] == fog
            assert cell(window)["chain"][1]["protect"] == protect


def test_a_full_size_that_cannot_be_lifted_says_why(window: Browser, tmp_path: Path) -> None:
    (photo,) = make_photos(tmp_path / "photos", 1)
    with served(tmp_path / "photos", tmp_path / "out") as address:
        began(window, address)
        photos_are_there(window, 1)
        made(window, "make it winter")
        photo.path.write_bytes(jpeg(96, 64, "red"))
        window.click(".cell .open")
        until(window, OPEN)
        window.press("f")
        assert "another" in until(
            window, "return document.querySelector('#doing').textContent.replace(/^Bringing.*/, '')"
        )
        assert window.js("return document.querySelector('#whole').getAttribute('aria-pressed')") == "false"


def test_a_moved_strength_is_within_2_of_255_of_the_file(window: Browser, tmp_path: Path) -> None:
    """A photo of the model's own size, and PNG: what is delivered is neither lifted nor compressed."""
    down, across = np.mgrid[0:168, 0:256]
    (tmp_path / "photos").mkdir()
    photo = np.stack([across, 255 - across, 255 * down // 168], axis=-1).astype(np.uint8)
    Image.fromarray(photo).save(tmp_path / "photos" / "0.png")
    with served(tmp_path / "photos", tmp_path / "out") as address:
        began(window, address)
        photos_are_there(window, 1)
        made(window, "make it winter")
        window.click(".cell .open")
        until(window, OPEN)
        window.js("document.querySelector('#mix').focus()")
        window.press("home", *["right"] * 40)
        until(window, "return document.querySelector('#mix-value').value === '0.40'")
        width, height, *values = until(window, MIXED)
        window.click("#keep-mix")
        until(window, f"{DONE} === 2")
        kept = cell(window)
        assert kept["strength"] == 0.4
    text = (
        f"model: tiny\nphotos: {tmp_path / 'photos'}\nedits: [{{instruction: make it winter, strength: 0.4}}]\n"
        f"seeds: [{kept['seed']}]\noutput: {{folder: {tmp_path / 'out'}, format: png}}\n"
    )
    (tmp_path / "recipe.yaml").write_text(text)
    jobs.run(tmp_path / "recipe.yaml", machine=FAKE)
    (file,) = (one for one in (tmp_path / "out").rglob("*.png") if not {".ip2pbatch", "sheets"} & set(one.parts))
    mixed = np.array(values, np.int16).reshape(height, width, 4)[..., :3]
    with Image.open(file) as delivered:
        pixels = np.asarray(delivered.convert("RGB"), np.int16)
    assert pixels.shape == mixed.shape
    assert np.abs(pixels - mixed).max() <= 2


def test_a_link_of_a_chain_is_called_what_it_is(window: Browser, tmp_path: Path) -> None:
    make_photos(tmp_path / "photos", 1)
    with served(tmp_path / "photos", tmp_path / "out") as address:
        began(window, address)
        photos_are_there(window, 1)
        window.type("#links textarea", "make it winter")
        window.click("#then")
        window.js("document.activeElement.value = 'make it night'")
        window.press("enter")
        until(window, f"{DONE} === 2")
        window.js("document.querySelector('input[name=show][value=all]').click()")
        until(window, "return document.querySelector('#title').textContent.startsWith('All')")
        until(window, f"{DONE} === 2 && document.querySelector('.what').textContent.includes(': ')")
        said = window.js("return [...document.querySelectorAll('.cell .what')].map((one) => one.textContent)")
        assert {one.partition(": ")[2] for one in said} == {"make it winter", "make it winter → make it night"}
        window.type("#find", "night")
        until(window, f"{DONE} === 1")
        window.type("#find", " and day")
        assert until(window, "return document.querySelector('#empty b')?.textContent") == "No such picture"


def test_a_page_whose_studio_has_another_token_now_says_so_and_goes_on(window: Browser, tmp_path: Path) -> None:
    make_photos(tmp_path / "photos", 1)
    with served(tmp_path / "photos", tmp_path / "out") as address:
        began(window, address)
        photos_are_there(window, 1)
        made(window, "make it winter")
    assert "does not answer" in until(window, SAID)
    with served(tmp_path / "photos", tmp_path / "out", port=address.port) as another:
        until(window, f"{SAID.replace('return', 'return (')}).includes('lost its key')")
        window.js(
            "return fetch(arguments[0]).then((answer) => answer.status)", another.first
        )  # as another tab opens it
        until(window, f"{SAID.replace('return', 'return !(')}).includes('key')")
        made(window, " and snow", 2)


def test_no_memory_is_a_failed_cell_that_is_tried_again(
    window: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_photos(tmp_path / "photos", 1)
    room = [0]
    with_engine(monkeypatch, Wrapped(before=lambda edits: no_room_for(room[0])(edits)))
    with served(tmp_path / "photos", tmp_path / "out") as address:
        began(window, address)
        photos_are_there(window, 1)
        window.type("#links textarea", "make it winter")
        window.press("enter")
        said = until(window, "return document.querySelector('.cell.is-failed .none p')?.textContent")
        assert "out of memory" in said
        assert "smaller size" in said
        window.js("document.querySelector('input[name=show][value=failed]').click()")
        until(window, "return document.querySelector('#title').textContent.startsWith('Failed')")
        room[0] = 8
        until(window, "return document.querySelector('.again')")
        window.click(".again")
        until(window, "return document.querySelector('#empty b')?.textContent === 'Nothing has failed'")


def test_a_model_that_cannot_be_loaded_is_said_once(
    window: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def choose(*arguments: object, **more: object) -> None:
        raise ModelError("there is no such model", hint="name another one")

    make_photos(tmp_path / "photos", 1)
    monkeypatch.setattr(engines, "choose", choose)
    with served(tmp_path / "photos", tmp_path / "out") as address:
        began(window, address)
        photos_are_there(window, 1)
        assert "no such model – name another one" in until(window, SAID)
        window.type("#links textarea", "make it winter")
        window.press("enter")
        until(window, "return !document.querySelector('#make').hasAttribute('aria-busy')")
        assert window.js("return document.querySelectorAll('.banner').length") == 1


def test_cells_and_photos_of_a_command_that_runs_appear(window: Browser, tmp_path: Path) -> None:
    make_photos(tmp_path / "photos", 1)
    recipe = f"model: tiny\nphotos: {tmp_path / 'photos'}\nedits: [add fog]\noutput: {{folder: {tmp_path / 'out'}}}"
    (tmp_path / "recipe.yaml").write_text(recipe)
    jobs.run(tmp_path / "recipe.yaml", machine=FAKE)
    with served(tmp_path / "out") as address:
        began(window, address)
        photos_are_there(window, 1)
        until(window, f"{DONE} === 1")
        window.js("document.querySelector('input[name=show][value=all]').click()")
        make_photos(tmp_path / "photos", 3)
        jobs.run(tmp_path / "recipe.yaml", machine=FAKE)
        until(window, f"{DONE} === 3")
        photos_are_there(window, 3)
        window.click("#use-recipe")
        until(window, "return !document.querySelector('#start').disabled")
        assert window.js("return document.querySelector('#recipe').value") == recipe
        assert "0 still to make" in window.js(TEXT, "#cost")


def test_a_run_is_paused_goes_on_and_is_stopped_from_the_page(
    window: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_photos(tmp_path / "photos", 3)
    with_engine(monkeypatch, engine := Stepping())
    engine.limits = engine.limits.__class__(batch=1)
    with served(tmp_path / "photos", tmp_path / "out") as address:
        began(window, address)
        photos_are_there(window, 3)
        engine.go.set()
        made(window, "make it winter")
        engine.go.clear()
        window.js("document.querySelector('figcaption input').click()")
        until(window, "return !document.querySelector('#picks').hidden")
        window.click("#use-picks")
        until(window, "return !document.querySelector('#start').disabled")
        assert "3 photos, 3 pictures, 2 still to make" in window.js(TEXT, "#cost")
        window.click("#start")
        until(window, f"{RUN}.includes('1 of 3')")
        window.click("#run-pause")
        until(window, f"{RUN}.startsWith('Paused')")
        engine.go.set()
        until(window, f"{RUN} === 'Paused · 2 of 3'")
        engine.go.clear()
        window.click("#run-pause")
        until(window, f"{RUN} === '2 of 3'")
        window.click("#run-stop")
        until(window, f"{RUN} === 'Stopped · 2 of 3'")
        window.click("#run-close")
        assert window.js("return document.querySelector('#run').hidden")
        window.js("document.querySelector('input[name=show][value=all]').click()")
        assert until(window, "return document.querySelector('.is-left .none')?.textContent") == "not made yetMake it"
    assert jobs.run(tmp_path / "out", machine=FAKE).summary.made == 1


def tab_to(page: Browser, selector: str) -> None:
    """Press Tab until an element has the focus."""
    for _ in range(80):
        if page.js("return document.activeElement.matches(arguments[0])", selector):
            return
        page.press("tab")
    raise AssertionError(f"{selector} is not reached")


def test_the_whole_way_by_keyboard_alone(window: Browser, tmp_path: Path) -> None:
    make_photos(tmp_path / "photos", 2)
    with served(tmp_path / "photos", tmp_path / "out") as address:
        began(window, address)
        photos_are_there(window, 2)
        tab_to(window, "#photos")
        window.press("right")
        until(window, "return document.querySelector('#of').textContent.startsWith('day1')")
        tab_to(window, "#links textarea")
        window.press(*"add fog", "enter")
        until(window, f"{DONE} === 1")
        tab_to(window, ".cell .open")
        window.press("x", "3", "enter")
        until(window, OPEN)
        window.press("right", "f")
        until(window, "return document.querySelector('#viewer').classList.contains('is-whole')")
        tab_to(window, "#note")
        window.press(*"soft", "escape")
        until(window, "return document.querySelector('.picked .rank')?.textContent === '★★★✎'")
        assert window.js("return document.activeElement.matches('.cell .open')")
        tab_to(window, "#use-picks")
        window.press("enter")
        until(window, "return !document.querySelector('#start').disabled")
        tab_to(window, "#start")
        window.press("enter")
        until(window, f"{RUN}.startsWith('Done')")
        assert complaints(window) == []
    assert len(read_run(tmp_path / "out").records) == 2


def test_a_phone_s_width_holds_all_of_it(window: Browser, tmp_path: Path) -> None:
    make_photos(tmp_path / "photos", 2)
    with served(tmp_path / "photos", tmp_path / "out") as address:
        window.cdp("Emulation.setDeviceMetricsOverride", width=360, height=740, deviceScaleFactor=2, mobile=True)
        try:
            began(window, address)
            photos_are_there(window, 2)
            window.type("#links textarea", "make it winter")
            window.press("enter")
            until(window, f"{DONE} === 1")  # it was brought into sight
            window.js("document.querySelector('figcaption input').click()")
            until(window, "return !document.querySelector('#picks').hidden")
            assert window.js("return document.documentElement.scrollWidth") == 360
            left, _, width, _ = window.area("#unpick")
            assert left + width <= 360
            window.click(".cell .open")
            until(window, OPEN)
            assert window.js("return document.querySelector('#viewer').scrollWidth") <= 360
        finally:
            window.cdp("Emulation.clearDeviceMetricsOverride")
