"""Makes the pictures of docs/studio.md: the page on the demo's photos with the embedded model, in headless Chromium.

    make demo && PYTHONPATH=tests/helpers .venv/bin/python docs/studio_pictures.py demo/photos

It needs chromium and chromedriver (Debian: apt-get install chromium chromium-driver). Look at the pictures before
you commit them.
"""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from pathlib import Path

from browser import Browser, browser
from pictures import save
from PIL import Image

from ip2pbatch.jobs.exploring.setting import setting_of
from ip2pbatch.run.machine import Machine
from ip2pbatch.studio.serving import bound, serve

WINDOW = (1360, 1000)
GAP = 40  # pixels between two windows
MAKE = """
const set = (field, value) => { field.value = value; field.dispatchEvent(new Event("input", {bubbles: true})); };
const many = document.querySelector(`input[name=many][value=${arguments[1]}]`);
many.click();
if (arguments[1] === "grid") {
  set(document.querySelector("#grid-text"), "1, 1.4, 2");
  set(document.querySelector("#grid-image"), "1, 1.3");
}
set(document.querySelector("#links textarea"), arguments[0]);
document.querySelector("#make").click();
"""
IDLE = """
return document.querySelector(".cell") && !document.querySelector(".is-waiting, .is-running")
  && [...document.querySelectorAll("#results img, #photos img")].every((image) => image.src && image.complete);
"""


def until(page: Browser, true: str) -> None:
    """Wait for the page to come to it; a model on a busy CPU takes its time."""
    end = time.monotonic() + 1200
    while not page.js(true):
        if time.monotonic() > end:
            sys.exit(f"the page never came to: {true}")
        time.sleep(0.5)


def taken(page: Browser) -> Image.Image:
    """The window as it is seen."""
    with tempfile.TemporaryDirectory() as folder:
        page.screenshot(target := Path(folder) / "page.png")
        with Image.open(target) as picture:
            return picture.convert("RGB")


def chosen(page: Browser, first: str, photo: str) -> None:
    """The page with this photo chosen."""
    page.open(first)
    until(page, "return document.querySelectorAll('.photo img[src]').length > 4")
    page.js("[...document.querySelectorAll('.photo')].find((one) => one.title.includes(arguments[0])).click()", photo)
    until(page, f"return document.querySelector('#of').textContent.includes({photo!r})")


def make(page: Browser, words: str, many: str) -> None:
    """Ask for it, and wait until it is there."""
    page.js(MAKE, words, many)
    until(page, f"return document.querySelector('.group h3')?.textContent === {words!r}")
    until(page, IDLE)


def light(page: Browser, first: str) -> None:
    """A grid beside its photo, two of it picked."""
    chosen(page, first, "china")
    make(page, "make it winter", "grid")
    page.js("[1, 4].forEach((at) => document.querySelectorAll('figcaption input')[at].click())")
    until(page, "return document.querySelectorAll('.picked').length === 2")
    save(taken(page), "studio.jpg")


def dark(page: Browser, first: str) -> None:
    """One picture over its photo, where the system is dark."""
    page.cdp("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    chosen(page, first, "china")
    make(page, "make it night", "one")
    page.js("document.querySelector('.cell .open').click()")
    until(page, "return ['after', 'before'].every((id) => document.getElementById(id).complete)")
    save(taken(page), "studio_dark.jpg")
    page.cdp("Emulation.setEmulatedMedia", features=[])


def phone(page: Browser, first: str) -> None:
    """The form and what came of it, side by side as two windows of a phone's width."""
    page.cdp("Emulation.setDeviceMetricsOverride", width=390, height=844, deviceScaleFactor=2, mobile=True)
    chosen(page, first, "cat")
    page.js("document.querySelector('#unpick').click()")
    until(page, "return document.querySelector('#picks').hidden")
    make(page, "make it a pencil sketch", "seeds")
    results = taken(page)
    page.js("scrollTo(0, 0)")
    windows = [taken(page), results]
    width, height = windows[0].size
    both = Image.new("RGB", (2 * width + GAP, height), "white")
    for place, picture in enumerate(windows):
        both.paste(picture, (place * (width + GAP), 0))
    save(both, "studio_phone.jpg")


def main() -> None:
    """Write the pictures."""
    listening, address = bound("127.0.0.1", 0, None)
    with tempfile.TemporaryDirectory() as folder:
        setting = setting_of(Path(sys.argv[1]), Path(folder) / "out", "tiny", Machine())
        begun, ends = threading.Event(), threading.Event()
        thread = threading.Thread(target=serve, args=(setting, listening, address, begun.set, ends))
        thread.start()
        begun.wait()
        try:
            with browser(Path(folder), WINDOW) as page:
                for take in (light, dark, phone):
                    take(page, address.first)
        finally:
            ends.set()
            thread.join()


if __name__ == "__main__":
    main()
