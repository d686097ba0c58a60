"""Headless Chromium for tests of the report and the studio, over chromedriver's HTTP (the W3C WebDriver protocol)."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

DRIVER = shutil.which("chromedriver")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
MISSING = "chromium and chromedriver are not installed (Debian: apt-get install chromium chromium-driver)"
KEYS = {
    "right": "\ue014", "left": "\ue012", "up": "\ue013", "down": "\ue015", "home": "\ue011", "end": "\ue010",
    "escape": "\ue00c", "enter": "\ue007", "tab": "\ue004", "space": " ", "shift": "\ue008",
}  # fmt: skip
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"


class Browser:
    """One window. Elements are found by CSS selector; `js` runs a function body and returns its value."""

    def __init__(self, url: str, size: tuple[int, int], profile: Path, dark: bool) -> None:
        self.url = url
        options = {
            "binary": CHROMIUM,
            "args": [
                "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
                f"--window-size={size[0]},{size[1]}", f"--user-data-dir={profile}", "--no-first-run",
                "--disable-background-networking", "--disable-component-update", "--disable-sync",
                *(["--blink-settings=preferredColorScheme=0", "--force-dark-mode"] if dark else []),
            ],
        }  # fmt: skip
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"}}
        made = self._call("POST", "", {"capabilities": {"alwaysMatch": wanted}}, session=False)
        self.session = made["sessionId"]

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None, session: bool = True) -> Any:
        place = f"{self.url}/session" + (f"/{self.session}" if session else "") + path
        data = json.dumps(body or {}).encode() if method == "POST" else None
        request = urllib.request.Request(place, data, {"Content-Type": "application/json"}, method=method)
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.load(answer)["value"]

    def open(self, page: Path | str) -> None:
        """A file, or an address."""
        self._call("POST", "/url", {"url": page if isinstance(page, str) else page.absolute().as_uri()})

    def js(self, body: str, *values: Any) -> Any:
        return self._call("POST", "/execute/sync", {"script": body, "args": list(values)})

    def _element(self, selector: str) -> str:
        found = self._call("POST", "/element", {"using": "css selector", "value": selector})
        return str(found[ELEMENT])

    def click(self, selector: str) -> None:
        self._call("POST", f"/element/{self._element(selector)}/click")

    def type(self, selector: str, text: str) -> None:
        self._call("POST", f"/element/{self._element(selector)}/value", {"text": text})

    def press(self, *keys: str) -> None:
        """Keys to whatever has the focus, one after another; "shift+tab" are two at once."""
        strokes = []
        for chord in keys:
            held = [KEYS.get(key, key) for key in (chord.split("+") if len(chord) > 1 else [chord])]
            strokes += [{"type": "keyDown", "value": key} for key in held]
            strokes += [{"type": "keyUp", "value": key} for key in reversed(held)]
        self._call("POST", "/actions", {"actions": [{"type": "key", "id": "keys", "actions": strokes}]})

    def area(self, selector: str) -> tuple[float, float, float, float]:
        """Where an element is in the window, brought into sight: left, top, width and height in pixels."""
        body = """
        const element = document.querySelector(arguments[0]);
        element.scrollIntoView({block: "nearest", inline: "nearest"});
        const {x, y, width, height} = element.getBoundingClientRect();
        return [x, y, width, height];
        """
        left, top, width, height = self.js(body, selector)
        return left, top, width, height

    def drag(self, selector: str, *places: tuple[float, float]) -> None:
        """A mouse pressed at the first of `places`, moved over the others and let go; they are shares of an element."""
        left, top, width, height = self.area(selector)
        points = [(round(left + x * width), round(top + y * height)) for x, y in places]
        moves = [{"type": "pointerMove", "x": x, "y": y, "duration": 0} for x, y in points]
        pressed = [moves[0], {"type": "pointerDown", "button": 0}, *moves[1:], {"type": "pointerUp", "button": 0}]
        mouse = {"type": "pointer", "id": "mouse", "parameters": {"pointerType": "mouse"}, "actions": pressed}
        self._call("POST", "/actions", {"actions": [mouse]})

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self._call("GET", "/screenshot")))

    def cdp(self, command: str, **parameters: Any) -> Any:
        """A command of the DevTools protocol, for what WebDriver has no word for."""
        return self._call("POST", "/goog/cdp/execute", {"cmd": command, "params": parameters})

    def log(self, kind: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._call("POST", "/se/log", {"type": kind})
        return found

    def forget(self) -> None:
        """Leave the page and what it asked for: pictures that come late are not those of the next page."""
        self._call("POST", "/url", {"url": "about:blank"})
        self.requests()

    def requests(self) -> list[str]:
        """The addresses asked for since the last call, pictures in the page (data:) left out."""
        events = [json.loads(entry["message"])["message"] for entry in self.log("performance")]
        asked = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
        return [address for address in asked if not address.startswith("data:")]

    def close(self) -> None:
        self._call("DELETE", "")


@contextmanager
def browser(folder: Path, size: tuple[int, int] = (1360, 900), dark: bool = False) -> Iterator[Browser]:
    """A window with a fresh profile in `folder`."""
    assert DRIVER, MISSING
    assert CHROMIUM, MISSING
    process = subprocess.Popen(
        [DRIVER, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True
    )
    try:
        assert process.stdout is not None
        port = next(
            line.split("port ")[1].strip(" .\n") for line in process.stdout if "started successfully on" in line
        )
        window = Browser(f"http://127.0.0.1:{port}", size, folder / f"profile-{time.monotonic_ns()}", dark)
        try:
            yield window
        finally:
            window.close()
    finally:
        process.terminate()
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:  # on a busy machine Chromium takes its time to end
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()
