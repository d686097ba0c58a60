"""A studio in this process: its server's app over a client, on the fake engine or on one that a test has in hand."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette", reason="starlette is not installed")
pytest.importorskip("uvicorn", reason="uvicorn is not installed")

from runs import LONG
from starlette.testclient import TestClient

from ip2pbatch.jobs import engines
from ip2pbatch.jobs.exploring.setting import setting_of
from ip2pbatch.jobs.exploring.workbench import opened
from ip2pbatch.run.engine import EditEngine
from ip2pbatch.run.machine import Machine
from ip2pbatch.studio.api import app
from ip2pbatch.studio.broadcast import Hub
from ip2pbatch.studio.desk import Desk
from ip2pbatch.studio.guard import Door
from ip2pbatch.studio.serving import Address, bound, serve

HOST, TOKEN = "127.0.0.1:8765", "a-token-that-nobody-guesses"
OVER = ("done", "failed", "cancelled")


class Studio:
    """What a test has in hand: `page` asks as the page does, `desk` is behind it."""

    def __init__(self, page: TestClient, desk: Desk) -> None:
        self.page, self.desk = page, desk

    @property
    def photos(self) -> list[str]:
        return [photo["id"] for photo in self.page.get("/api/photos").json()["photos"]]

    def ask(self, *instructions: str, photos: list[str] | None = None, client: str = "", **more: Any) -> dict[str, Any]:
        """Have cells made; what the server says of the job."""
        edits = [{"instruction": words} for words in instructions]
        body = {"photos": photos or self.photos[:1], "edits": edits, **more}
        said = self.page.post("/api/jobs", json=body, headers={"X-Client": client})
        assert said.status_code == 200, said.text
        return said.json()

    def job(self, job: dict[str, Any] | str) -> dict[str, Any]:
        return self.page.get(f"/api/jobs/{job if isinstance(job, str) else job['id']}").json()

    def over(self, job: dict[str, Any]) -> dict[str, Any]:
        """The job once it is over."""
        until(lambda: self.job(job)["state"] in OVER)
        return self.job(job)


def until(true: Callable[[], object]) -> None:
    """Wait for a state, as long as a machine under load may take for it."""
    end = time.monotonic() + LONG
    while not true():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.02)


@contextmanager
def studio(what: Path | None, out: Path | None = None, *, machine: Machine | None = None) -> Iterator[Studio]:
    """One on `what`, opened and closed as `ip2pbatch studio` does."""
    desk = Desk(Hub())
    setting = setting_of(what, out, "tiny", machine or Machine(backend="fake"))
    with opened(setting, desk) as exploring:
        desk.exploring = exploring
        page = TestClient(app(desk, Door(TOKEN, [HOST])), base_url=f"http://{HOST}")
        page.headers["Authorization"] = f"Bearer {TOKEN}"
        yield Studio(page, desk)


def with_engine(monkeypatch: pytest.MonkeyPatch, engine: EditEngine) -> None:
    """Have every studio of this test load this engine, in the fake's name."""
    real = engines.choose

    def choose(*arguments: Any, **more: Any) -> Any:
        return real(*arguments, **more)[0], lambda: engine

    monkeypatch.setattr(engines, "choose", choose)


@contextmanager
def served(what: Path | None, out: Path | None = None, *, port: int = 0) -> Iterator[Address]:
    """A server of its own on the loopback, at a port that was free where none is named."""
    listening, address = bound("127.0.0.1", port, None)
    setting, begun, ends = setting_of(what, out, "tiny", Machine(backend="fake")), threading.Event(), threading.Event()
    thread = threading.Thread(target=serve, args=(setting, listening, address, begun.set, ends))
    thread.start()
    try:
        assert begun.wait(LONG)
        yield address
    finally:
        ends.set()
        thread.join()


def base(address: Address) -> str:
    """Its address without the token."""
    return f"http://{address.host}:{address.port}"
