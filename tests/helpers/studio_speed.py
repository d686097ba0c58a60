"""How quick the studio is and what it takes, by its command and headless Chromium: prints a table for BENCHMARKS.md.

python tests/helpers/studio_speed.py                    all of it, some five minutes, in a temporary folder
python tests/helpers/studio_speed.py load scroll        some of: load, scroll, picture, jobs

Times are of the clock, as a person has them, and mean little on a busy machine: the load is printed beside them.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from browser import Browser, browser
from full_runs import full_run
from galleries import draw_photo
from runs import make_photos

WATCH = """
window.marks = {};
window.long = [];
new PerformanceObserver((list) => list.getEntries().forEach((one) => long.push(Math.round(one.duration))))
  .observe({type: "longtask", buffered: true});
const mark = (name, seen) => { if (seen && !(name in marks)) marks[name] = performance.now(); };
new MutationObserver(() => {
  mark("photos", document.querySelector(".photo[title]") && document.querySelector("#model").textContent);
  if (window.since && document.querySelector(".grows img")) mark("grows", true);
}).observe(document, {subtree: true, childList: true, attributes: true, characterData: true});
"""
SCROLL = """
const [list, by, frames] = [document.querySelector(arguments[0]), arguments[1], arguments[2]];
window.scrolled = {most: 0, frames: 0};
long.length = 0;
(function next() {
  list.scrollTop += by;
  scrolled.most = Math.max(scrolled.most, document.getElementsByTagName("*").length);
  scrolled.frames += 1;
  if (scrolled.frames < frames) requestAnimationFrame(next); else scrolled.at = performance.now();
})();
"""
SEEN = """
if (!scrolled.at) return 0;
const frame = document.querySelector(arguments[0]).getBoundingClientRect();
const seen = [...document.querySelectorAll(`${arguments[0]} img`)].filter((image) => {
  const place = image.getBoundingClientRect();
  return place.bottom > frame.top && place.top < frame.bottom;
});
return seen.length && seen.every((image) => image.naturalWidth) ? performance.now() - scrolled.at : 0;
"""
MAKE = """
const [field, words] = [document.querySelector("#links textarea"), arguments[0]];
field.value = words;
field.dispatchEvent(new Event("input", {bubbles: true}));
delete marks.grows;
delete window.done;
window.since = performance.now();
(function look() {
  const image = document.querySelector(`.cell.is-done .open[aria-label*="${words}"] img`);
  if (image?.complete && image.naturalWidth) done = [marks.grows - since, performance.now() - since];
  else requestAnimationFrame(look);
})();
field.dispatchEvent(new KeyboardEvent("keydown", {key: "Enter", bubbles: true, cancelable: true}));
"""


@dataclass(frozen=True)
class Command:
    """`ip2pbatch studio` as it runs: the address that it said, and what its process takes."""

    process: subprocess.Popen[str]
    address: str

    def ask(self, path: str, body: Any = None, client: str = "") -> Any:
        base, _, token = self.address.partition("/?token=")
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json", "X-Client": client}
        data = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(urllib.request.Request(base + path, data, headers)) as answer:
            return json.load(answer)

    def memory(self, kind: str = "VmRSS") -> int:
        """MiB: what is resident now, or the most that was (VmHWM)."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) // 1024 for line in lines if line.startswith(kind))


@contextmanager
def command(*arguments: str | Path) -> Iterator[Command]:
    call = [sys.executable, "-m", "ip2pbatch", "studio", *map(str, arguments), "--no-browser"]
    process = subprocess.Popen(call, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        yield Command(process, process.stdout.readline().strip())
    finally:
        process.terminate()
        process.communicate()


@contextmanager
def page(folder: Path, at: Command) -> Iterator[Browser]:
    """A browser that has seen nothing before, on the studio's first address."""
    with browser(folder) as window:
        window.cdp("Page.enable")
        window.cdp("Page.addScriptToEvaluateOnNewDocument", source=WATCH)
        window.requests()
        window.open(at.address)
        until(lambda: window.js("return marks.photos"))
        yield window


def until(true: Callable[[], Any], seconds: float = 600) -> Any:
    end = time.monotonic() + seconds
    while not (said := true()):
        assert time.monotonic() < end, f"it never came to that, at a load of {os.getloadavg()[0]:.0f}"
        time.sleep(0.05)
    return said


def row(what: str, seen: str) -> None:
    print(f"| {what} | {seen} | {os.getloadavg()[0]:.1f} |", flush=True)


def alike(folder: Path, count: int) -> Path:
    """Photos that are one file by many names."""
    make_photos(folder, 1)
    (photo,) = folder.rglob("*.jpg")
    for number in range(1, count):
        (folder / f"{number:05}.jpg").hardlink_to(photo)
    return folder


def load(folder: Path) -> None:
    """A fresh browser's first sight of the page: until its photos are listed, and what came over the line."""
    for count in (10, 10_000):
        with command(alike(folder / str(count), count), "--model", "tiny", "--backend", "fake") as at:
            times, weights = [], []
            for _ in range(5):
                with page(folder, at) as window:
                    time.sleep(1)
                    times.append(window.js("return marks.photos"))
                    weights.append(weight(window))
            middle, size = statistics.median(times), max(weights) / 1000
            seen = f"{middle:.0f} ms ({min(times):.0f} to {max(times):.0f}), {size:.0f} kB"
            row(f"first load, {count:,} photos: until they are listed; without pictures", seen)


def weight(window: Browser) -> int:
    """Bytes that came since the last look, pictures left out."""
    events = [json.loads(entry["message"])["message"] for entry in window.log("performance")]
    said = [(one["method"].removeprefix("Network."), one["params"]) for one in events]
    pictures = {told["requestId"] for kind, told in said if kind == "responseReceived" and told["type"] == "Image"}
    ended = [told for kind, told in said if kind == "loadingFinished" and told["requestId"] not in pictures]
    return sum(int(told["encodedDataLength"]) for told in ended)


def scroll(folder: Path) -> None:
    """Through 10,000 photos and 10,000 cells, slowly and quickly."""
    with (
        command(alike(folder / "list", 10_000), "--model", "tiny", "--backend", "fake") as at,
        page(folder, at) as window,
    ):
        _scrolled(window, "10,000 photos", "#rail")
    axes = {"text": [1 + n / 10 for n in range(50)], "image": [1 + n / 50 for n in range(50)]}
    make_photos(folder / "run" / "photos", 1)
    out = full_run(folder / "run", edits=["make it winter", "make it night", "make it rain", "snow"], guidance=axes)
    with command(out) as at, page(folder, at) as window:
        until(lambda: window.js("return document.querySelector('#title small')?.textContent === '10,000 pictures'"))
        time.sleep(2)
        _scrolled(window, "10,000 cells of a photo, in grids", "#wall")
        window.js("document.querySelector('input[name=show][value=all]').click()")
        until(lambda: window.js("return document.querySelectorAll('.cell .what').length > 4"))
        _scrolled(window, "all 10,000 cells", "#wall")


def _scrolled(window: Browser, what: str, which: str) -> None:
    for by, frames in ((100, 200), (900, 100), (20_000, 40)):
        window.js(SCROLL, which, by, frames)
        rest = until(lambda: window.js(SEEN, which))
        most, longest = window.js("return [scrolled.most, Math.max(0, ...long)]")
        task = f"longest task {longest} ms" if longest else "no task of 50 ms"
        row(f"{what}, {by:,} px a frame", f"{most} elements, {task}, all pictures in sight after {rest:.0f} ms")


def picture(folder: Path) -> None:
    """From Enter to the first sight of it growing, and to the picture, on the warm embedded model."""
    draw_photo(folder / "few" / "photo.jpg", (1500, 1000))
    with command(folder / "few", "--model", "tiny", "--device", "cpu") as at:
        until(lambda: not at.ask("/api/state")["loading"])
        with page(folder, at) as window:
            times = []
            for number, words in enumerate(
                ["make it winter", "add fog", "make it night", "add rain", "add snow", "as a sketch"]
            ):
                window.js(MAKE, words)
                grows, done = until(lambda: window.js("return window.done"))
                if number:  # the first one opens the run
                    times.append((grows, done))
                else:
                    row("first picture of a studio, from Enter", f"{done / 1000:.2f} s")
            middle = statistics.median(done for _, done in times) / 1000
            seen = [grows for grows, _ in times if grows is not None]
            growing = f", growing after {statistics.median(seen) / 1000:.2f} s" if seen else ""
            row("from Enter to the picture, median of five", f"{middle:.2f} s{growing}")
        row("… the process, at the most", f"{at.memory('VmHWM'):,} MiB")


def jobs(folder: Path) -> None:
    """Fifty jobs at once from five clients, again and again: memory before, at the most and afterwards."""
    make_photos(folder / "jobs", 5)
    for backend, rounds in (("fake", 20), ("torch", 2)):
        out = folder / f"jobs-{backend}"
        with command(folder / "jobs", "--model", "tiny", "--backend", backend, "--out", out) as at:
            until(lambda: not at.ask("/api/state")["loading"])
            photos = [one["id"] for one in at.ask("/api/photos")["photos"]]
            at.ask("/api/jobs", _job(photos[0], "warm up", 1))
            until(lambda: not at.ask("/api/state")["waiting"])
            before, after = at.memory(), []
            for number in range(rounds):
                _fifty(at, photos, f"round {number}")
                after.append(at.memory())
            done = at.ask("/api/cells?only=done&limit=1")["total"]
            lines = sum(len(path.read_bytes().splitlines()) for path in (out / ".ip2pbatch").glob("results*.jsonl"))
            made, growth = f"{done} pictures, {lines} records", " ".join(map(str, after))
            row(
                f"{backend}: 50 jobs of five clients at once, {rounds} times",
                f"{made}; {before} MiB before, {at.memory('VmHWM')} at the most; after each time {growth}",
            )


def _job(photo: str, words: str, seeds: int) -> dict[str, object]:
    return {"photos": [photo], "edits": [{"instruction": words}], "seeds": [*range(seeds)]}


def _fifty(at: Command, photos: list[str], words: str) -> None:
    def ask(client: int) -> None:
        for number in range(10):
            own = f"{words}, {number} of {client if number % 2 else 'all'}"  # half of them are the others' too
            at.ask("/api/jobs", _job(photos[number % len(photos)], own, 1), f"client-{client}")

    threads = [threading.Thread(target=ask, args=(client,)) for client in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    until(lambda: not at.ask("/api/state")["waiting"] and not at.ask("/api/cells?only=running")["total"])


STAGES: dict[str, Callable[[Path], None]] = {"load": load, "scroll": scroll, "picture": picture, "jobs": jobs}


def main() -> None:
    print("| what | seen | load |\n|---|---|---|")
    for name in sys.argv[1:] or STAGES:
        with tempfile.TemporaryDirectory() as folder:
            STAGES[name](Path(folder))


if __name__ == "__main__":
    main()
