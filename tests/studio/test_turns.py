"""Whose cell is made next, and what comes of many who ask, of cancelling, of an engine that cannot go on."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from runs import make_photos, make_plan
from studios import Studio, studio, until, with_engine

from ip2pbatch import jobs
from ip2pbatch.engine.fake import FakeEngine
from ip2pbatch.jobs.exploring import exploration
from ip2pbatch.jobs.exploring.turns import MOST_WAITING, Turn, Turns
from ip2pbatch.plan.edits import Edit
from ip2pbatch.run.engine import Hook, OutOfMemory, Pending, Source, Stopped
from ip2pbatch.studio import broadcast
from ip2pbatch.studio.broadcast import HELD, Hub


def turn(client: str, number: int, job: str = "job") -> Turn:
    strip = make_plan(())  # no strip is looked at here
    return Turn(f"{client}-{job}", client, strip, (f"{client}{number}",))  # type: ignore[arg-type]


def taken(turns: Turns, most: int = 1) -> list[str]:
    order = []
    while some := turns.take(most):
        order += [cell for one in some for cell in one.cells]
    return order


def test_clients_take_turns_each_in_its_own_order() -> None:
    turns = Turns()
    turns.add([turn("a", number) for number in range(4)])
    turns.add([turn("b", number) for number in range(2)])
    assert taken(turns) == ["a0", "b0", "a1", "b1", "a2", "a3"]


def test_what_somebody_looks_at_comes_first_and_what_was_put_back_comes_next() -> None:
    turns = Turns()
    turns.add([turn("a", number) for number in range(3)])
    turns.add([turn("b", 0)])
    turns.look("a2")
    turns.look("nobody's")
    first = turns.take()
    assert first[0].cells == ("a2",)
    turns.put_back(first)
    assert sorted(taken(turns)) == ["a0", "a1", "a2", "b0"]


def test_lone_edits_of_one_job_share_a_call_where_a_device_takes_several() -> None:
    turns = Turns()
    turns.add([turn("a", 0), turn("a", 1), turn("a", 2, "another")])
    assert [len(turns.take(8)), len(turns.take(8))] == [2, 1]


def test_a_cancelled_job_leaves_the_others(tmp_path: Path) -> None:
    turns = Turns()
    turns.add([turn("a", 0), turn("a", 1, "another"), turn("b", 0)])
    assert [one.cells for one in turns.drop("a-job")] == [("a0",)]
    assert taken(turns) == ["a1", "b0"]
    assert MOST_WAITING >= 1000


class Counting(FakeEngine):
    """Counts how often each Edit is made."""

    def __init__(self) -> None:
        super().__init__()
        self.made: Counter[str] = Counter()

    def begin(self, edits: Sequence[Edit], sources: Sequence[Source], hook: Hook | None = None) -> Pending:
        self.made.update(edit.key for edit in edits)
        return super().begin(edits, sources, hook)


class Stepping(FakeEngine):
    """Takes steps until it is stopped, or may go on."""

    def __init__(self) -> None:
        super().__init__()
        self.at_work, self.go, self.stopped = threading.Event(), threading.Event(), 0

    def begin(self, edits: Sequence[Edit], sources: Sequence[Source], hook: Hook | None = None) -> Pending:
        step = 0
        while not self.go.is_set() or step < 3:
            step += 1
            if hook and not hook.step(step, 1000, lambda: [np.zeros((8, 8, 3), np.uint8) for _ in edits]):
                self.stopped += 1
                raise Stopped
            self.at_work.set()
            time.sleep(0.01)
        return super().begin(edits, sources, hook)


def test_fifty_jobs_of_five_clients_are_each_done_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_photos(tmp_path / "photos", 2)
    with_engine(monkeypatch, engine := Counting())
    with studio(tmp_path / "photos", tmp_path / "out") as opened:
        first, second = opened.photos
        answers: list[dict[str, object]] = []

        def ask(client: int) -> None:
            for number in range(10):  # of which every client asks for the same five, and for five of its own
                words = f"edit {number}" if number < 5 else f"edit {number} of {client}"
                photo = (first, second)[number % 2]
                answers.append(opened.ask(words, photos=[photo], client=f"client-{client}"))

        threads = [threading.Thread(target=ask, args=(client,)) for client in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(answers) == 50
        until(lambda: not len(opened.desk.of.turns) and opened.desk.of.current is None)
        assert {opened.over(job)["state"] for job in answers} == {"done"}
        assert opened.page.get("/api/cells", params={"only": "done"}).json()["total"] == 30
        assert set(engine.made.values()) == {1}
        assert len(engine.made) == 30
        assert len(opened.desk.hub._events) <= HELD
        assert len(opened.desk.of.turns) == 0
    standing = jobs.status(tmp_path / "out")
    assert (standing.edits["done"], standing.edits["left"], standing.sessions) == (30, 0, 1)


def test_requests_that_are_over_are_known_as_far_as_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exploration, "_REMEMBERED", 3)
    monkeypatch.setattr(exploration, "_REMEMBERED_CELLS", 5)
    make_photos(tmp_path / "photos", 1)
    with studio(tmp_path / "photos", tmp_path / "out") as opened:
        small = [opened.over(opened.ask(f"edit {number}")) for number in range(5)]
        assert list(opened.desk.of.requests) == [job["id"] for job in small[2:]]
        assert opened.page.get(f"/api/jobs/{small[0]['id']}").status_code == 404
        large = opened.over(opened.ask(*(f"large {number}" for number in range(5))))
        assert list(opened.desk.of.requests) == [large["id"]]
        assert opened.page.get("/api/state").json()["cells"] == 10


def test_events_are_held_as_far_as_there_is_room_and_who_missed_more_reads_all_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(broadcast, "HELD_BYTES", 1000)
    hub = Hub()
    for number in range(10):
        hub.publish("cell", f'"{number:0298}"')
    assert [number for number, _, _ in hub._events] == [8, 9, 10]

    async def heard(after: int) -> list[bytes]:
        said = hub.listen(after)
        return [await anext(said), await anext(said)]

    assert b"event: reset" in asyncio.run(heard(1))[1]
    assert asyncio.run(heard(8))[1].count(b"event: cell") == 2


def test_cancelling_stops_within_a_step_and_nothing_of_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_photos(tmp_path / "photos", 1)
    with_engine(monkeypatch, engine := Stepping())
    with studio(tmp_path / "photos", tmp_path / "out") as opened:
        job = opened.ask("make it winter", "add fog", "add snow")
        assert engine.at_work.wait(60)
        until(lambda: opened.job(job)["cells"][0]["step"] > 0)
        preview = opened.page.get(f"/api/cells/{job['cells'][0]['key']}/preview")
        assert preview.headers["content-type"] == "image/jpeg"
        assert opened.page.delete(f"/api/jobs/{job['id']}").json()["state"] == "cancelled"
        until(lambda: opened.page.get("/api/cells").json()["total"] == 0)
        assert engine.stopped == 1
        assert opened.desk.of.board.preview(job["cells"][0]["key"]) is None
        engine.go.set()
        opened.over(opened.ask("make it summer"))
    outcome = jobs.run(tmp_path / "out", machine=jobs.Machine(backend="fake"))
    assert (outcome.summary.made, outcome.summary.states["done"]) == (0, 1)


def test_what_is_asked_for_comes_before_the_rest_of_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_photos(tmp_path / "photos", 5)
    with_engine(monkeypatch, engine := Stepping())
    with studio(tmp_path / "photos", tmp_path / "out") as opened:
        text = opened.page.post("/api/recipe/check", json={"text": recipe(opened)}).json()
        assert text["plan"]["edits_left"] == 5
        assert opened.page.post("/api/run", json={"text": recipe(opened)}).status_code == 200
        assert engine.at_work.wait(60)
        job = opened.ask("add fog")
        engine.go.set()
        opened.over(job)
        run = opened.page.get("/api/state").json()["running"]
        assert run["state"] in ("running", "waiting")
        until(lambda: opened.page.get("/api/state").json()["running"]["state"] == "done")
        assert opened.page.get("/api/cells", params={"only": "done"}).json()["total"] == 6


def recipe(opened: Studio) -> str:
    setting = opened.desk.of.setting
    photos, out = setting.photos[0].folder, setting.ground.out
    return f"model: tiny\nphotos: {photos}\nedits: [make it winter]\noutput: {{folder: {out}}}\n"


class Exhausted(FakeEngine):
    """Has no memory."""

    def begin(self, edits: Sequence[Edit], sources: Sequence[Source], hook: Hook | None = None) -> Pending:
        raise OutOfMemory


def test_an_engine_without_memory_is_told_and_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_photos(tmp_path / "photos", 1)
    with_engine(monkeypatch, engine := Exhausted())
    with studio(tmp_path / "photos", tmp_path / "out") as opened:
        job = opened.over(opened.ask("make it winter"))
        assert job["state"] == "failed"
        assert "out of memory" in job["cells"][0]["reason"]
        assert "smaller size" in job["cells"][0]["reason"]
        monkeypatch.setattr(Exhausted, "begin", FakeEngine.begin)
        address = f"/api/cells/{job['cells'][0]['key']}"
        assert opened.page.post(f"{address}/retry").status_code == 200
        until(lambda: opened.page.get(address).json()["state"] == "done")
        assert opened.page.post(f"{address}/retry").status_code == 422
        assert engine.limits.batch >= 1


def test_a_restart_in_the_middle_goes_on_with_what_was_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_photos(tmp_path / "photos", 1)
    with pytest.MonkeyPatch.context() as patch:
        with_engine(patch, engine := Stepping())
        with studio(tmp_path / "photos", tmp_path / "out") as opened:
            opened.ask("make it winter", "add fog")
            assert engine.at_work.wait(60)
    with studio(tmp_path / "photos", tmp_path / "out") as opened:
        left = opened.page.get("/api/cells").json()["cells"]
        assert [cell["state"] for cell in left] == ["left", "left"]
        opened.page.post(f"/api/cells/{left[0]['key']}/retry")
        until(lambda: opened.page.get("/api/cells", params={"only": "done"}).json()["total"] == 1)
    assert jobs.run(tmp_path / "out", machine=jobs.Machine(backend="fake")).summary.made == 1


def test_a_run_that_somebody_else_writes_is_waited_for(tmp_path: Path) -> None:
    from ip2pbatch.disk.one_writer import WriterLock

    make_photos(tmp_path / "photos", 1)
    with studio(tmp_path / "photos", tmp_path / "out") as opened:
        folder = tmp_path / "out" / ".ip2pbatch"
        folder.mkdir(parents=True)
        lock = WriterLock(folder)
        lock.acquire()
        job = opened.ask("make it winter")
        until(lambda: "writing to this run" in opened.job(job)["cells"][0]["reason"])
        lock.release()
        assert opened.over(job)["state"] == "done"
