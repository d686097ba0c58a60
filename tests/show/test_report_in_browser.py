"""The report in headless Chromium: filter, sort, slider, picks, contrast, and that no text of a run ever runs."""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from browser import CHROMIUM, DRIVER, MISSING, Browser, browser
from command import CommandLine
from galleries import make_run, plan_of
from payloads import PAYLOADS
from PIL import Image
from test_report import gallery_of, origin

from ip2pbatch.pictures import mixing
from ip2pbatch.plan.edits import Edit
from ip2pbatch.run.directory.kept import Kept
from ip2pbatch.run.directory.view import RunView
from ip2pbatch.run.engine import Result
from ip2pbatch.show.joined import joined
from ip2pbatch.show.picks import origin_of
from ip2pbatch.show.report import draw_report, encoded, write_report

pytestmark = [
    pytest.mark.chromium,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason=MISSING),
]

BOX = Image.Resampling.BOX
SHOWN = "return [...document.querySelectorAll('#gallery figure[data-cell]')].filter(f => f.checkVisibility()).length"
ROWS = """
return [...document.querySelectorAll(".list tbody tr")].filter(row => row.checkVisibility())
  .map(row => row.querySelector(arguments[0]).textContent);
"""
CHOOSE = """
const field = document.querySelector(arguments[0]);
field.value = arguments[1];
field.dispatchEvent(new Event("input", {bubbles: true}));
"""


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("browser")) as window:
        yield window


@pytest.fixture(scope="module")
def view(tmp_path_factory: pytest.TempPathFactory) -> RunView:
    def dark(edit: Edit, result: Result) -> Result:
        lost = edit.instruction == "make it winter" and edit.size[0] < edit.size[1]
        return replace(result, state="nan", detail="black") if lost else result

    view = make_run(tmp_path_factory.mktemp("run"), after=dark)
    write_report(view, view.root / "report.html")
    return view


@pytest.fixture
def page(window: Browser, view: RunView) -> Browser:
    window.open(view.root / "report.html")
    return window


def test_filters_narrow_what_is_shown(page: Browser) -> None:
    everything = page.js(SHOWN)
    assert everything == 2 * (1 + 9 + 3)
    page.js(CHOOSE, "#photo", "a.jpg")
    assert page.js(SHOWN) == 13
    page.js(CHOOSE, "#instruction", "make it night")
    assert page.js(SHOWN) == 9
    assert page.js("return document.querySelector('#shown').textContent") == "9 of 26 shown"
    page.js(CHOOSE, "#photo", "")
    page.js(CHOOSE, "#instruction", "")
    page.js(CHOOSE, "#state", "nan")
    assert page.js(SHOWN) == 1
    page.js(CHOOSE, "#state", "")
    page.type("#words", "b.jpg dark")
    assert page.js(SHOWN) == 1
    page.type("#words", " nothing like it")
    assert page.js(SHOWN) == 0
    page.click("#reset")
    assert page.js(SHOWN) == everything


def test_every_column_sorts_both_ways(page: Browser) -> None:
    page.click("#as-table")
    for column in range(page.js("return document.querySelectorAll('th[data-key]').length")):
        header = f"document.querySelectorAll('th[data-key]')[{column}]"
        kinds = []
        for _ in range(2):
            page.js(f"{header}.querySelector('button').click()")
            kinds.append(page.js(f"return {header}.getAttribute('aria-sort')"))
        assert kinds == ["ascending", "descending"]
    page.js("document.querySelector('th[data-key=text] button').click()")
    scales = [float(text) for text in page.js(ROWS, "td.num")]
    assert scales == sorted(scales)
    assert len(scales) == 26
    assert scales[0] != scales[-1]
    page.js("document.querySelector('th[data-key=text] button').click()")
    assert [float(text) for text in page.js(ROWS, "td.num")] == sorted(scales, reverse=True)


def test_the_slider_moves_by_keyboard(page: Browser) -> None:
    page.click("[data-open='1']")
    cut = "return getComputedStyle(document.querySelector('#before')).clipPath"
    middle = page.js(cut)
    assert page.js("return document.activeElement.id") == "split"
    page.press("right", "right", "right")
    assert page.js("return document.querySelector('#split').value") == "53"
    assert page.js(cut) != middle
    page.press("home")
    assert page.js("return document.querySelector('#split').getAttribute('aria-valuetext')").startswith("0 percent")
    first = page.js(
        "return document.querySelector('#viewer-title').textContent + document.querySelector('#right').textContent"
    )
    page.press("n")
    assert first != page.js(
        "return document.querySelector('#viewer-title').textContent + document.querySelector('#right').textContent"
    )
    page.press("p", "escape")
    assert page.js("return document.querySelector('#viewer').open") is False
    assert page.js("return document.activeElement.dataset.open") == "1"


def test_two_edits_of_a_photo_are_compared_with_each_other(page: Browser) -> None:
    page.click("[data-open='1']")
    source = page.js("return document.querySelector('#before').src")
    page.js("const s = document.querySelector('#against'); s.value = '2'; s.dispatchEvent(new Event('change'))")
    other = page.js("return document.querySelector('#before').src")
    assert other != source
    assert other == page.js("return document.querySelector('figure[data-cell=\"2\"] img').src")


def test_picked_cells_make_a_recipe_of_just_those(page: Browser, view: RunView, tmp_path: Path) -> None:
    wanted = [0, 3, 7, 12, 22]  # a single, two of a grid, a whole chain; and one of the other photo's grid
    for number in wanted:
        page.click(f"figcaption [data-pick='{number}']")
    assert page.js("return document.querySelector('#picked').textContent") == "5 picked"
    page.click("#recipe")
    text = page.js("return document.querySelector('#yaml').value")
    assert page.js("return document.querySelector('#yaml').selectionEnd") == len(text)

    assert picked(text, tmp_path) == keys_of(view, wanted)
    assert text.count('"b.jpg"') == 1


def test_a_photo_is_named_once_with_all_that_is_picked_of_it(page: Browser, view: RunView, tmp_path: Path) -> None:
    wanted = [0, 3, 7]
    for number in wanted:
        page.click(f"figcaption [data-pick='{number}']")
    page.click("#recipe")
    text = page.js("return document.querySelector('#yaml').value")
    assert picked(text, tmp_path) == keys_of(view, wanted)
    assert text.count("a.jpg") == 1


def picked(text: str, folder: Path) -> set[str]:
    """What a recipe asks for that is saved in `folder`."""
    (folder / "picked.yaml").write_text(text, encoding="utf-8")
    plan = plan_of(folder / "picked.yaml")
    return {strip.edits[link - 1].key for strip in plan.strips for link in strip.keep}


def keys_of(view: RunView, cells: list[int]) -> set[str]:
    edits = [edit for strip in view.strips for edit in strip.edits]
    return {edits[number].key for number in cells}


def test_a_link_within_a_chain_is_picked_with_those_before_it(page: Browser, view: RunView) -> None:
    page.click("figcaption [data-pick='11']")
    page.click("#recipe")
    (view.root / "picked.yaml").write_text(page.js("return document.querySelector('#yaml').value"), encoding="utf-8")
    (strip,) = plan_of(view.root / "picked.yaml").strips
    assert [edit.instruction for edit in strip.edits] == ["make it rain", "make it dark"]
    assert strip.keep == (2,)


def test_a_pick_in_the_table_is_a_pick_in_the_gallery(page: Browser) -> None:
    page.click("#as-table")
    page.click("tr[data-row='4'] [data-pick]")
    page.click("#as-gallery")
    assert page.js("return document.querySelector('figure[data-cell=\"4\"]').classList.contains('picked')")
    page.click("#unpick")
    assert page.js("return document.querySelectorAll('[data-pick]:checked').length") == 0


@pytest.mark.parametrize("count", [len(PAYLOADS)])
def test_no_text_of_a_run_runs_or_asks(window: Browser, tmp_path: Path, count: int) -> None:
    assert count >= 30
    gallery = gallery_of(tmp_path, count)
    cells = [
        replace(
            cell, photo=f"{payload}.jpg", edit=payload, instruction=payload, detail=payload, mark=payload,
            sampler=payload, chain=(payload,), state="failed" if at % 3 == 2 else "done", delivered=tmp_path / "a.jpg",
        )
        for at, (cell, payload) in enumerate(zip(gallery.cells, PAYLOADS, strict=True))
    ]  # fmt: skip
    bad = replace(gallery, name=PAYLOADS[1], model=PAYLOADS[2], cells=tuple(cells))
    report = draw_report(
        bad, tmp_path / "report.html", {"": replace(origin(tmp_path)[""], name=PAYLOADS[1], model=PAYLOADS[7])}
    )
    window.forget()

    window.open(report)
    window.click("#as-table")
    window.click("#as-gallery")
    window.js("""
        document.querySelectorAll("[data-open]").forEach(b => { b.click(); document.querySelector("#close").click(); });
        document.querySelectorAll("figcaption [data-pick]").forEach(b => b.click());
        document.querySelector("#recipe").click();
    """)

    assert window.js("return window.ran ?? null") is None
    assert window.js("return document.querySelectorAll('figure[data-cell]').length") == count
    foreign = "iframe, object, embed, form[action], base, link, svg:not(#viewer > svg)"
    assert window.js("return document.querySelectorAll(arguments[0]).length", foreign) == 0
    assert [address for address in window.requests() if not address.startswith(report.as_uri())] == []


def test_no_file_name_exif_or_csv_of_a_shoot_runs_or_asks(
    window: Browser, command: CommandLine, tmp_path: Path
) -> None:
    """The same texts on the way that they really come: from the disk, through a recipe and a run, into the report."""
    shoot = tmp_path / "shoot"
    shoot.mkdir()
    rows = [["photo", "instruction"]]
    for at, payload in enumerate(PAYLOADS):
        exif = Image.Exif()
        for tag in (0x010E, 0x013B, 0x8298):  # description, artist, copyright
            exif[tag] = payload
        name = f"{at:02d}{payload}.jpg".replace("/", "\u2215").replace("\\", "\u2216")  # a CSV's \\ is a /
        Image.new("RGB", (64, 48), (at * 7, 90, 200 - at)).save(shoot / name, exif=exif)
        rows.append([name, payload])
    with (tmp_path / "notes.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    (tmp_path / "r.yaml").write_text(
        f"name: {json.dumps(PAYLOADS[0])}\nphotos: {{folder: shoot, instructions: notes.csv}}\nsize: 64\n"
        "output: {folder: out, full_resolution: off}\nedits: [make it winter]\n"
    )
    said = command("run", tmp_path / "r.yaml", "--backend", "fake")
    assert said.code == 0, said.err
    window.forget()
    window.open(tmp_path / "out/report.html")
    window.click("#as-table")
    assert window.js("return document.querySelectorAll('figure[data-cell]').length") == 2 * len(PAYLOADS)
    assert window.js("return window.ran ?? null") is None
    page = (tmp_path / "out/report.html").as_uri()
    assert [address for address in window.requests() if not address.startswith(page)] == []


def test_pictures_beside_the_page_are_shown(window: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ip2pbatch.show.report.INLINE", 5)
    window.open(draw_report(gallery_of(tmp_path, 6), tmp_path / "report.html", origin(tmp_path)))
    loaded = """
        const images = [...document.querySelectorAll("#gallery img")];
        images.forEach(image => { image.loading = "eager"; });
        await Promise.all(images.map(image => image.decode()));
        return images.every(image => image.naturalWidth === 24) && images.length;
    """
    assert window.js(f"return (async () => {{ {loaded} }})()") == 8


def test_it_shows_before_and_after_without_a_script(window: Browser, view: RunView) -> None:
    window.cdp("Emulation.setScriptExecutionDisabled", value=True)
    try:
        window.open(view.root / "report.html")
        assert window.js("return document.documentElement.classList.contains('js')") is False
        assert window.js("return document.querySelector('#tools').checkVisibility()") is False
        place = """
            const box = document.querySelector(arguments[0]).getBoundingClientRect();
            return [box.left, box.top, box.width, box.height];
        """
        before, after = (window.js(place, q) for q in ("[data-source='0']", "figure[data-cell='0'] img"))
        assert before[0] + before[2] <= after[0]
        assert min(before[2], before[3], after[2], after[3]) > 50
        assert abs(before[1] - after[1]) < 5
    finally:
        window.cdp("Emulation.setScriptExecutionDisabled", value=False)


CONTRAST = """
const parse = (text) => {
  const n = text.match(/[\\d.]+/g).map(Number);
  const scaled = text.startsWith("color(srgb") ? [...n.slice(0, 3).map(v => v * 255), ...n.slice(3)] : n;
  return scaled.length < 4 ? [...scaled, 1] : scaled;
};
const light = (c) => c.slice(0, 3).map(v => { v /= 255; return v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4; })
  .reduce((sum, v, at) => sum + v * [.2126, .7152, .0722][at], 0);
const behind = (element) => {
  for (let e = element; e; e = e.parentElement) {
    const colour = parse(getComputedStyle(e).backgroundColor);
    if (colour[3] > .9) return colour;
  }
  return [255, 255, 255, 1];
};
const weak = [];
for (const element of document.querySelectorAll("body *")) {
  const own = [...element.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
  if (!own || !element.checkVisibility() || ["SCRIPT", "STYLE", "OPTION"].includes(element.tagName)) continue;
  const style = getComputedStyle(element);
  const [a, b] = [light(parse(style.color)), light(behind(element))].sort((x, y) => y - x);
  const ratio = (a + .05) / (b + .05);
  if (ratio < 4.5) weak.push(`${element.tagName}.${element.className} ${ratio.toFixed(2)} ${element.textContent}`);
}
return weak;
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_has_contrast(window: Browser, tmp_path: Path, scheme: str) -> None:
    gallery = gallery_of(tmp_path, 8)
    states = ["done", "failed", "nan", "flagged", "skipped", "missing", "done", "done"]
    cells = tuple(replace(c, state=s, mark="hardly changed", detail="why", metrics={"l1": 0.1, "ssim": 0.5})
                  for c, s in zip(gallery.cells, states, strict=True))  # fmt: skip
    report = draw_report(replace(gallery, cells=cells), tmp_path / "report.html", origin(tmp_path))
    window.cdp("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    window.open(report)
    assert window.js("return matchMedia('(prefers-color-scheme: dark)').matches") is (scheme == "dark")
    window.js("document.querySelector('figcaption [data-pick]').click()")
    found = window.js(CONTRAST)
    window.click("#as-table")
    found += window.js(CONTRAST)
    window.js("document.querySelector('.thumb button').click()")
    found += window.js(CONTRAST)
    assert found == []


def test_every_control_has_a_name(page: Browser) -> None:
    nameless = """
        const named = e => e.ariaLabel || e.hasAttribute("aria-labelledby") || e.labels?.length || e.textContent.trim();
        return [...document.querySelectorAll("button, input, select, textarea")].filter(e => !named(e))
          .map(e => e.outerHTML.slice(0, 80));
    """
    assert page.js(nameless) == []


def test_the_delivered_file_and_the_photo_are_shown_pixel_for_pixel_when_asked_for(
    window: Browser, tmp_path: Path
) -> None:
    gallery, size = gallery_of(tmp_path, 2), (2400, 1800)
    for name in ("0 a.jpg", "file, #1.png"):
        Image.new("RGB", size, "teal").save(tmp_path / name)
    first, second = (replace(one, original=tmp_path / "0 a.jpg") for one in gallery.cells)
    cells = replace(first, delivered=tmp_path / "file, #1.png"), replace(second, delivered=tmp_path / "gone.png")
    report = draw_report(replace(gallery, cells=cells), tmp_path / "report.html", origin(tmp_path))
    window.open(report)
    window.forget()
    window.open(report)
    window.click("[data-open='0']")
    assert window.requests() == [report.as_uri()]
    window.click("#real")
    loaded = """
        return (async () => { const both = ["after", "before"].map(id => document.getElementById(id));
        await Promise.all(both.map(image => image.decode()));
        return both.map(image => [image.naturalWidth, image.naturalHeight, getComputedStyle(image).objectFit]); })()
    """
    assert window.js(loaded) == [[*size, "none"]] * 2
    assert window.js("return document.querySelector('#strengths').hidden") is True
    window.js("document.querySelector('#split').focus()")
    where = "return document.querySelector('#stage').style.getPropertyValue('--x')"
    room = window.js("return 2400 - document.querySelector('#after').clientWidth")
    window.js("document.querySelector('#viewer').dispatchEvent("
              "new KeyboardEvent('keydown', {key: 'ArrowRight', shiftKey: true, bubbles: true}))")  # fmt: skip
    assert float(window.js(where).rstrip("%")) == pytest.approx(50 + 100 * 100 / room)

    window.press("n")  # whose file is gone
    said = """
        return new Promise(done => { const look = () => {
          const text = document.querySelector("#applied").textContent;
          text ? done(text) : setTimeout(look, 20); }; look(); })
    """
    assert "cannot be shown" in window.js(said)
    assert window.js("return document.querySelector('#real').ariaPressed") == "false"
    assert window.js("return document.querySelector('#after').naturalWidth") == 24


STRONG = """
const [at, share] = arguments;
document.querySelector("#viewer").open || document.querySelector(`[data-open="${at}"]`).click();
const slider = document.querySelector("#strength");
slider.value = String(share);
slider.dispatchEvent(new Event("input", {bubbles: true}));
"""
MIXED = """
const canvas = document.querySelector("#mixed");
return canvas.hidden || canvas.dataset.strength !== String(arguments[0]) ? null :
  [...canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data];
"""


def test_the_strength_s_slider_shows_what_a_delivery_at_that_strength_does(page: Browser, view: RunView) -> None:
    """Within 2 of 255 of the mixture of what the page shows, and on average of the kept pictures' as well."""
    strip = view.strips[4]
    (edit,) = strip.edits
    source, picture = (mended(kept) for kept in (view.source(strip), view.picture(edit.key)))
    (cell,) = (at for at, key in enumerate(edit.key for s in view.strips for edit in s.edits) if key == edit.key)
    for share in (0, 0.3, 0.6):
        page.js(STRONG, cell, share)
        shown = waited(page, share).reshape(*source.shape[:2], 4)[..., :3].astype(float)
        expected = mixing.mix(as_shown(source), as_shown(picture), share, None)
        assert np.abs(shown - expected).max() <= 2
        assert np.abs(shown - mixing.mix(source, picture, share, None)).mean() <= 2
    page.js(STRONG, cell, 1)
    assert page.js("return document.querySelector('#mixed').hidden") is True
    assert page.js("return document.querySelector('#strong').textContent") == "1.00"


def mended(kept: Kept | None) -> np.ndarray:
    assert kept is not None
    return np.asarray(Image.open(io.BytesIO(kept.read())).convert("RGB"))


def as_shown(pixels: np.ndarray) -> np.ndarray:
    """As the page has it."""
    data = io.BytesIO(encoded(Image.fromarray(pixels)))
    return np.asarray(Image.open(data).convert("RGB"))


def waited(page: Browser, share: float) -> np.ndarray:
    """The mixed picture's numbers, as soon as it is drawn."""
    for _ in range(100):
        if (found := page.js(MIXED, share)) is not None:
            return np.asarray(found, np.uint8)
        time.sleep(0.05)
    raise AssertionError("nothing was mixed")


def test_a_picked_cell_takes_the_slider_s_strength_along(page: Browser, tmp_path: Path) -> None:
    page.js(STRONG, 3, 0.35)
    page.click("#close")
    for number in (3, 4):
        page.js("document.querySelector(`figcaption [data-pick='${arguments[0]}']`).click()", number)
    page.click("#recipe")
    (tmp_path / "picked.yaml").write_text(page.js("return document.querySelector('#yaml').value"), encoding="utf-8")
    assert [strip.strength for strip in plan_of(tmp_path / "picked.yaml").strips] == [0.35, None]


SEEN = """
const box = document.querySelector("#after").getBoundingClientRect();
return [box.x, box.y, box.width, box.height];
"""


def test_pictures_beside_a_page_from_the_disk_are_mixed_by_a_filter(
    window: Browser, view: RunView, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ip2pbatch.show.report.INLINE", 5)
    window.open(write_report(view, tmp_path / "report.html"))
    strip = view.strips[4]
    kept = (mended(one) for one in (view.source(strip), view.picture(strip.edits[0].key)))
    source, picture = (np.asarray(Image.open(io.BytesIO(encoded(Image.fromarray(one))))) for one in kept)
    (cell,) = (at for at, key in enumerate(e.key for s in view.strips for e in s.edits) if key == strip.edits[0].key)
    seen = {}
    for share in (1, 0.3):
        window.js(STRONG, cell, share)
        time.sleep(0.3)
        window.screenshot(tmp_path / "seen.png")
        left, top, wide, high = window.js(SEEN)
        box = (left + wide / 2 + 4, top + 4, left + wide - 4, top + high - 4)
        seen[share] = np.asarray(Image.open(tmp_path / "seen.png").convert("RGB").crop(box).resize((8, 16), BOX), float)
    for share, shown in seen.items():
        mixed = Image.fromarray(mixing.mix(source, picture, share, None))
        right = mixed.crop((mixed.width / 2, 0, mixed.width, mixed.height)).resize((8, 16), BOX)
        assert np.abs(shown - np.asarray(right, float)).mean() <= 4, share
    assert np.abs(seen[1] - seen[0.3]).mean() > 8, "another picture, then"
    assert window.js("return document.querySelector('#strong').textContent") == "0.30"


def test_a_cell_is_used_for_the_whole_folder_by_a_command_that_is_copied(page: Browser, view: RunView) -> None:
    page.click("[data-open='3']")
    assert page.js("return document.querySelector('#viewer-facts').textContent").count("cell 4 ") == 1
    page.click("#whole")
    assert page.js("return document.querySelector('#applied').textContent").removeprefix("Copied: ") == (
        f"ip2pbatch apply {view.root} --cell 4"
    )
    page.press("n")
    assert page.js("return document.querySelector('#applied').textContent") == ""


def test_several_models_are_filtered_and_each_one_s_picks_are_a_recipe_of_its_own(
    window: Browser, tmp_path: Path
) -> None:  # fmt: skip
    recipe = (
        "name: seasons\nmodel: tiny\nphotos: photos\nedits: [{instruction: make it winter, text: [5, 7]}]\nsize: 64\n"
    )
    photos = {"a.jpg": (120, 80)}
    views = {name: make_run(tmp_path / name, recipe, photos) for name in ("first", "second")}
    origins = {name: origin_of(view, tmp_path, name) for name, view in views.items()}
    window.open(draw_report(joined("both", views, {}), tmp_path / "report.html", origins))
    window.js(CHOOSE, "#model", "second")
    assert window.js(SHOWN) == 2
    rows = "return [...document.querySelectorAll('.models tbody tr')].map(row => row.checkVisibility())"
    assert window.js(rows) == [False, True]
    window.js(CHOOSE, "#model", "")
    for cell in (0, 3):
        window.js("document.querySelector(`figcaption [data-pick='${arguments[0]}']`).click()", cell)
    window.click("#recipe")
    written = "return document.querySelector('#yaml').value"
    first = window.js(written)
    window.js(
        "const one = document.getElementById('of-model'); one.value = '1'; one.dispatchEvent(new Event('change'))"
    )
    second = window.js(written)
    for name, text, scale in (("first", first, 5), ("second", second, 7)):
        (tmp_path / name / "picked.yaml").write_text(text, encoding="utf-8")
        (edit,) = plan_of(tmp_path / name / "picked.yaml").edits
        assert (edit.key, edit.guidance.text) == (views[name].plan.edits[scale == 7].key, scale)
        assert f'folder: "picked-{name}"' in text
    window.click("#made-close")
    window.click("[data-open='3']")
    window.click("#whole")
    said = window.js("return document.querySelector('#applied').textContent").removeprefix("Copied: ")
    assert said == f"ip2pbatch apply {views['second'].root} --cell 2"
