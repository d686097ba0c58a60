"""The loop: what it makes, what it never makes twice, and how it takes bad photos, bad pictures and little memory."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import runs
from runs import SPEC, Wrapped, make_photos, make_plan, no_room_for

from ip2pbatch.engine.fake import FakeEngine
from ip2pbatch.errors import ModelError, ResourceError
from ip2pbatch.pictures import images
from ip2pbatch.plan.edits import Edit, Plan
from ip2pbatch.plan.limits import Limits
from ip2pbatch.run.directory.ledger import open_run
from ip2pbatch.run.directory.lines import EngineSpec, Record
from ip2pbatch.run.directory.view import read_run
from ip2pbatch.run.engine import EditEngine, Hook, OutOfMemory, Pending, Preview, Result, Source, Stopped
from ip2pbatch.run.events import Quiet
from ip2pbatch.run.execute import Options, Summary, run_plan
from ip2pbatch.run.pace import Ahead
from ip2pbatch.run.stop import Stop


@pytest.fixture(autouse=True, params=[False, True], ids=["waits", "overlaps"])
def overlaps(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Each test with an engine that is done when it returns, and with one that works on by itself."""
    monkeypatch.setattr(runs, "OVERLAPS", request.param)
    return bool(request.param)


class Heard(Quiet):
    """Events as a list."""

    def __init__(self) -> None:
        self.shrinks: list[Limits] = []
        self.records: dict[str, Record] = {}
        self.begun: tuple[int, int] = (-1, -1)
        self.aheads: list[Ahead] = []

    def started(self, left: int, done: int) -> None:
        self.begun = (left, done)

    def finished(self, edit: Edit, record: Record) -> None:
        self.records[edit.key] = record

    def ahead(self, ahead: Ahead) -> None:
        self.aheads.append(ahead)

    def shrunk(self, limits: Limits) -> None:
        self.shrinks.append(limits)


def run(
    root: Path, plan: Plan, engine: EditEngine, options: Options | None = None, *,
    heard: Heard | None = None, spec: EngineSpec = SPEC,
) -> Summary:  # fmt: skip
    with open_run(root, spec) as ledger:
        return run_plan(plan, ledger, engine, options, heard)


def pictures(root: Path, plan: Plan) -> list[bytes]:
    view = read_run(root)
    return [view.layout.picture(edit.key).read_bytes() for edit in plan.edits]


def test_every_edit_of_a_plan_becomes_a_picture(tmp_path: Path) -> None:
    plan = make_plan(make_photos(tmp_path / "in", 11), ["make it winter", "make it night"])
    heard = Heard()
    summary = run(tmp_path / "out", plan, Wrapped(), heard=heard)
    assert summary.states == {"done": 22}
    assert (summary.made, summary.exit_code, heard.begun) == (22, 0, (22, 0))
    assert [ahead.edits for ahead in heard.aheads[-2:]] == [1, 0]
    assert {record.status for record in heard.records.values()} == {"done"}
    view = read_run(tmp_path / "out")
    assert all(view.is_done(edit.key) for edit in plan.edits)


def test_a_second_run_makes_nothing_and_a_wider_plan_only_what_is_new(tmp_path: Path) -> None:
    photos = make_photos(tmp_path / "in", 9)
    small, large = make_plan(photos[:4]), make_plan(photos)
    run(tmp_path / "out", small, Wrapped())
    again = Wrapped()
    assert run(tmp_path / "out", small, again).made == 0
    assert again.calls == []
    assert run(tmp_path / "out", large, again).made == 5
    made = {key for call in again.calls for key in call}
    assert made == {e.key for e in large.edits} - {e.key for e in small.edits}


@pytest.mark.parametrize("carry", ["latent", "pixels"])
def test_a_chain_resumed_at_any_link_gives_the_same_pictures(tmp_path: Path, carry: str) -> None:
    chain = ["make it winter", "make it night", "make it rain"]
    plan = make_plan(make_photos(tmp_path / "in", 3), chain, carry=carry)  # type: ignore[arg-type]
    run(tmp_path / "whole", plan, Wrapped())
    for links in (1, 2, 3):
        prefix = make_plan(plan.photos, chain[:links], carry=carry)  # type: ignore[arg-type]
        run(tmp_path / "pieces", prefix, Wrapped(batch=2))
    assert pictures(tmp_path / "pieces", plan) == pictures(tmp_path / "whole", plan)


def test_a_parent_whose_latent_was_not_kept_is_made_again_and_nothing_else_is(tmp_path: Path) -> None:
    photos = make_photos(tmp_path / "in", 2)
    run(tmp_path / "out", make_plan(photos), Wrapped())
    engine = Wrapped()
    longer = make_plan(photos, ["make it winter", "make it night"])
    assert run(tmp_path / "out", longer, engine).states == {"done": 4}
    assert sorted(key for call in engine.calls for key in call) == sorted(e.key for e in longer.edits)
    pixels = make_plan(photos, ["make it winter", "make it rain"], carry="pixels")
    engine = Wrapped()
    run(tmp_path / "out", pixels, engine)
    assert sorted(key for call in engine.calls for key in call) == sorted(s.edits[1].key for s in pixels.strips)


def test_a_bad_photo_is_a_failed_row_and_the_links_after_it_say_why_they_were_not_tried(tmp_path: Path) -> None:
    photos = make_photos(tmp_path / "in", 6)
    photos[2].path.write_bytes(photos[2].path.read_bytes()[:300])
    photos[4].path.unlink()
    plan = make_plan(photos, ["make it winter", "make it night"])
    summary = run(tmp_path / "out", plan, Wrapped())
    assert summary.states == {"done": 8, "failed": 2, "skipped": 2}
    assert summary.exit_code == 3
    view = read_run(tmp_path / "out")
    failed, skipped = (view.record(edit.key) for edit in plan.strips[2].edits)
    assert failed is not None
    assert "damaged" in failed.detail
    assert skipped is not None
    assert "make it winter" in skipped.detail


def test_a_photo_that_was_changed_after_the_scan_is_not_edited_under_its_old_name(tmp_path: Path) -> None:
    photos = make_photos(tmp_path / "in", 3)
    photos[0].path.write_bytes(photos[1].path.read_bytes())
    plan = make_plan(photos)
    assert run(tmp_path / "out", plan, Wrapped()).states == {"done": 2, "failed": 1}
    record = read_run(tmp_path / "out").record(plan.edits[0].key)
    assert record is not None
    assert "day0/0000.jpg has changed" in record.detail


def test_failed_photos_are_tried_again_once_they_are_mended(tmp_path: Path) -> None:
    photos = make_photos(tmp_path / "in", 2)
    whole = photos[0].path.read_bytes()
    photos[0].path.write_bytes(b"not a photo")
    plan = make_plan(photos, ["make it winter", "make it night"])
    assert run(tmp_path / "out", plan, Wrapped()).exit_code == 3
    photos[0].path.write_bytes(whole)
    summary = run(tmp_path / "out", plan, Wrapped())
    assert (summary.states, summary.made) == ({"done": 4}, 2)


def test_nan_flagged_and_flat_pictures_are_rows_with_a_reason_and_stay_so_until_asked(tmp_path: Path) -> None:
    plan = make_plan(make_photos(tmp_path / "in", 5), ["make it winter", "make it night"])
    bad = dict(
        zip((strip.edits[0].key for strip in plan.strips), ("nan", "flagged", "black", "fine", "fine"), strict=True)
    )

    def spoil(edit: Edit, result: Result) -> Result:
        assert result.image is not None
        kind = bad.get(edit.key, "fine")
        if kind == "black":
            return replace(result, image=np.zeros_like(result.image))
        return result if kind == "fine" else Result(None, None, kind)  # type: ignore[arg-type]

    summary = run(tmp_path / "out", plan, Wrapped(after=spoil))
    assert summary.states == {"done": 4, "nan": 2, "flagged": 1, "skipped": 3}
    view = read_run(tmp_path / "out")
    black = view.record(plan.strips[2].edits[0].key)
    assert black is not None
    assert (black.status, black.detail) == ("nan", "the picture came out as one flat colour")
    assert not view.layout.picture(black.edit).exists()
    engine = Wrapped()
    assert run(tmp_path / "out", plan, engine).states == summary.states
    assert engine.calls == []
    everything = frozenset(("failed", "skipped", "nan", "flagged"))
    assert run(tmp_path / "out", plan, engine, Options(redo=everything)).states == {"done": 10}  # type: ignore[arg-type]


@pytest.mark.parametrize("room", [4, 2, 1])
def test_out_of_memory_halves_the_batch_and_loses_no_photo(tmp_path: Path, room: int) -> None:
    plan = make_plan(make_photos(tmp_path / "in", 19))
    run(tmp_path / "whole", plan, Wrapped())
    heard, engine = Heard(), Wrapped(before=no_room_for(room))
    summary = run(tmp_path / "out", plan, engine, heard=heard)
    assert summary.states == {"done": 19}
    assert [limits.batch for limits in heard.shrinks] == [batch for batch in (4, 2, 1) if batch >= room]
    assert max(map(len, engine.calls)) == room
    events = [event for session in read_run(tmp_path / "out").sessions for event in session.events]
    assert pictures(tmp_path / "out", plan) == pictures(tmp_path / "whole", plan)
    assert events == []  # no session was begun in this test: see test_back_off_is_recorded


def test_back_off_is_recorded_in_the_session(tmp_path: Path) -> None:
    from ip2pbatch.run.directory.lines import Invocation

    plan = make_plan(make_photos(tmp_path / "in", 9))
    with open_run(tmp_path / "out", SPEC) as ledger:
        ledger.begin_session(plan, Invocation("2026-01-01T00:00:00Z", "run"))
        run_plan(plan, ledger, Wrapped(before=no_room_for(4)))
    (session,) = read_run(tmp_path / "out").sessions
    assert [event["event"] for event in session.events] == ["shrunk", "end"]
    assert session.events[0]["batch"] == 4
    assert session.events[1]["states"] == {"done": 9}


def test_out_of_memory_at_the_smallest_batch_or_at_bitwise_ends_the_run_and_keeps_what_is_done(tmp_path: Path) -> None:
    plan = make_plan(make_photos(tmp_path / "in", 20))
    calls = 0

    def later(edits: Sequence[Edit]) -> None:
        nonlocal calls
        calls += 1
        if calls > 1:
            no_room_for(0)(edits)

    for name, spec in (("small", SPEC), ("bitwise", replace(SPEC, determinism="bitwise"))):
        calls = 0
        engine = Wrapped(before=later)
        with pytest.raises(ResourceError, match="out of memory"):
            run(tmp_path / name, plan, engine, spec=spec)
        with open_run(tmp_path / name, spec) as ledger:
            assert len(ledger.done) == 8
            assert not ledger.failed
    assert engine.limits.batch == 8  # bitwise never shrank


def test_an_engine_that_breaks_on_one_edit_costs_only_that_one(tmp_path: Path) -> None:
    plan = make_plan(make_photos(tmp_path / "in", 16))
    bad = plan.edits[3].key

    def check(edits: Iterable[Edit]) -> None:
        if any(edit.key == bad for edit in edits):
            raise ValueError("this instruction has 78 tokens")

    summary = run(tmp_path / "out", plan, Wrapped(before=check))
    assert summary.states == {"done": 15, "failed": 1}
    record = read_run_record(tmp_path / "out", bad)
    assert record.detail == "the engine failed: this instruction has 78 tokens"
    log = (tmp_path / "out/.ip2pbatch/log.txt").read_text()
    assert "Traceback" in log
    assert "78 tokens" in log


@pytest.mark.parametrize("error", [ValueError("the picture has no end"), OutOfMemory("full")], ids=["broken", "memory"])
def test_what_goes_wrong_when_results_are_asked_for_is_answered_in_the_same_way(
    tmp_path: Path, error: Exception
) -> None:
    plan = make_plan(make_photos(tmp_path / "in", 20))
    bad, raised = plan.edits[9].key, 0

    def after(edit: Edit, result: Result) -> Result:
        nonlocal raised
        if edit.key == bad and (isinstance(error, ValueError) or not raised):
            raised += 1
            raise error
        return result

    summary = run(tmp_path / "out", plan, Wrapped(after=after))
    assert raised
    assert summary.states == ({"done": 19, "failed": 1} if isinstance(error, ValueError) else {"done": 20})
    assert summary.shrunk == (0 if isinstance(error, ValueError) else 1)


def test_the_next_batch_is_begun_before_the_last_one_is_asked_for(tmp_path: Path, overlaps: bool) -> None:
    happened: list[str] = []
    plan = make_plan(make_photos(tmp_path / "in", 24))
    engine = Wrapped(
        before=lambda edits: happened.append("begin"),
        after=lambda edit, result: happened.append("read") or result,  # type: ignore[func-returns-value]
    )
    run(tmp_path / "out", plan, engine)
    order = [what for place, what in enumerate(happened) if what == "begin" or happened[place - 1] == "begin"]
    assert order == (["begin", "begin", "read", "begin", "read"] if overlaps else ["begin", "read"] * 3)
    assert happened.count("read") == 24


def test_links_wait_for_what_is_under_way(tmp_path: Path) -> None:
    plan = make_plan(make_photos(tmp_path / "in", 3), ["make it winter", "make it night", "make it red"])
    assert run(tmp_path / "out", plan, Wrapped()).states == {"done": 9}


def test_a_stop_keeps_what_is_under_way(tmp_path: Path) -> None:
    plan, begun = make_plan(make_photos(tmp_path / "in", 40)), 0

    def ask(edits: Sequence[Edit]) -> None:
        nonlocal begun
        begun += len(edits)
        if begun > 8:
            os.kill(os.getpid(), signal.SIGTERM)

    summary = run(tmp_path / "out", plan, Wrapped(before=ask))
    assert summary.stopped == 143
    assert summary.states == {"done": 16, "left": 24}


def read_run_record(root: Path, key: str) -> Record:
    with open_run(root, SPEC) as ledger:
        return ledger.records[key]


def test_an_engine_that_breaks_on_everything_does_not_fail_a_thousand_photos(tmp_path: Path) -> None:
    def broken(edits: Iterable[Edit]) -> None:
        raise RuntimeError("device-side assert triggered")

    plan = make_plan(make_photos(tmp_path / "in", 60))
    with pytest.raises(RuntimeError, match="device-side"):
        run(tmp_path / "out", plan, Wrapped(before=broken))
    with open_run(tmp_path / "out", SPEC) as ledger:
        assert 0 < len(ledger.failed) < 30
    assert run(tmp_path / "out", plan, FakeEngine()).states == {"done": 60}


def test_an_engine_that_says_what_is_wrong_ends_the_run(tmp_path: Path) -> None:
    def gone(edits: Iterable[Edit]) -> None:
        raise ModelError("the device was lost")

    with pytest.raises(ModelError, match="the device was lost"):
        run(tmp_path / "out", make_plan(make_photos(tmp_path / "in", 3)), Wrapped(before=gone))


def test_numbers_compare_each_picture_with_its_photo_and_their_failure_costs_no_picture(tmp_path: Path) -> None:
    plan = make_plan(make_photos(tmp_path / "in", 3), ["make it winter", "make it night"])
    broken = plan.edits[0].key

    def score(edit: Edit, photo: np.ndarray, image: np.ndarray) -> dict[str, float]:  # type: ignore[type-arg]
        if edit.key == broken:
            raise ZeroDivisionError
        return {"l1": float(np.abs(photo.astype(float) - image).mean() / 255), "photo": float(photo.mean())}

    run(tmp_path / "out", plan, FakeEngine(), Options(score=score))
    with open_run(tmp_path / "out", SPEC) as ledger:
        assert ledger.records[broken].metrics == {}
        for strip in plan.strips[1:]:
            first, second = (ledger.records[edit.key].metrics for edit in strip.edits)
            assert first["photo"] == second["photo"]  # a link is compared with the photo, not with the link before
            assert second["l1"] > 0


def test_photos_with_the_same_bytes_share_one_edit(tmp_path: Path) -> None:
    photos = make_photos(tmp_path / "in", 2)
    copy = replace(photos[0], name="copy.jpg", path=tmp_path / "in/copy.jpg")
    copy.path.write_bytes(photos[0].path.read_bytes())
    plan = make_plan([*photos, copy])
    plan = replace(plan, edits=tuple({edit.key: edit for edit in plan.edits}.values()))
    photos[0].path.unlink()  # and the copy serves where the first is gone
    engine = Wrapped()
    assert run(tmp_path / "out", plan, engine).states == {"done": 2}
    assert sum(map(len, engine.calls)) == 2


def test_a_signal_that_comes_while_a_run_is_being_closed_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan(make_photos(tmp_path / "in", 2))
    with open_run(tmp_path / "out", SPEC) as ledger:
        note = ledger.note

        def interrupted(event: str, **detail: object) -> None:
            note(event, **detail)
            os.kill(os.getpid(), signal.SIGTERM)

        monkeypatch.setattr(ledger, "note", interrupted)
        summary = run_plan(plan, ledger, FakeEngine())
    assert (summary.states, summary.exit_code) == ({"done": 2}, 143)


def test_a_run_that_ends_early_leaves_no_thread_that_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load, begun, over = images.load, threading.Event(), []
    photos = make_photos(tmp_path / "in", 12)

    def slow(path: Path, size: tuple[int, int] | None = None, **options: object) -> images.Picture:
        if path in [photo.path for photo in photos[8:]]:  # not of the first batch
            begun.set()
            time.sleep(0.3)
            over.append(path)
        return load(path, size, **options)  # type: ignore[arg-type]

    def gone(edits: Iterable[Edit]) -> None:
        assert begun.wait(200)
        raise ModelError("the device was lost")

    monkeypatch.setattr(images, "load", slow)
    with open_run(tmp_path / "out", SPEC) as ledger:
        with pytest.raises(ModelError):
            run_plan(make_plan(photos), ledger, Wrapped(before=gone))
        assert over
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("load")]


def test_a_stop_between_two_steps_leaves_what_was_under_way_to_the_next_session(tmp_path: Path) -> None:
    """An engine with steps asks its hook between them; what it had begun before is kept."""
    plan, stop = make_plan(make_photos(tmp_path / "photos", 6)), Stop()

    class Stepping(Wrapped):
        def begin(self, edits: Sequence[Edit], sources: Sequence[Source], hook: Hook | None = None) -> Pending:
            for step in (1, 2, 3):
                if hook is not None and not hook.step(step, 3, list):
                    raise Stopped
            return super().begin(edits, sources, hook)

    class Impatient(Quiet):
        def __init__(self) -> None:
            self.heard: list[tuple[int, int]] = []

        def stepped(self, done: int, of: int, preview: Preview) -> None:
            self.heard.append((done, of))
            if len(self.heard) == 5:
                stop.ask(now=True)

    heard = Impatient()
    with open_run(tmp_path / "out", SPEC) as ledger:
        summary = run_plan(plan, ledger, Stepping(batch=2), None, heard, stop=stop)
    assert heard.heard == [(1, 3), (2, 3), (3, 3), (1, 3), (2, 3)]
    assert (summary.made, summary.states["left"], summary.exit_code) == (2, 4, 130)
    assert run(tmp_path / "out", plan, Stepping(batch=2)).made == 4
