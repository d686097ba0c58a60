"""A session that is asked for more and more: few plans are kept, readers see all of it, and memory holds places."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from runs import SPEC, make_photos, make_plan

from ip2pbatch.errors import DamagedError
from ip2pbatch.plan.edits import Photo, Plan
from ip2pbatch.run.directory import stored_plans
from ip2pbatch.run.directory.gaps import gaps
from ip2pbatch.run.directory.layout import strip_key
from ip2pbatch.run.directory.ledger import Run, open_run
from ip2pbatch.run.directory.lines import Delivery, Invocation
from ip2pbatch.run.directory.superseded import Superseded
from ip2pbatch.run.directory.view import RunView, read_run

ASKED = Invocation("2026-01-01T00:00:00+00:00", "watch", "a recipe", partial=True)
NOTHING = make_plan([])


def photo(number: int, version: str = "") -> Photo:
    return Photo(f"{number:04d}.jpg", Path(f"/photos/{number:04d}.jpg"), f"{number:032x}{version}", (96, 64))


def stored(run: Run | RunView) -> set[str]:
    return {path.name for path in (run.layout.folder / "plans").iterdir()}


def shown(root: Path) -> dict[str, str]:
    return {strip.photo.name: strip.photo.digest for strip in read_run(root).strips}


@pytest.fixture(autouse=True)
def pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four are joined, so that a test needs few."""
    monkeypatch.setattr(stored_plans, "TOGETHER", 4)


def test_of_many_parts_few_plans_are_kept_and_all_is_shown(tmp_path: Path) -> None:
    numbers = {photo(number).name: photo(number).digest for number in range(70)}
    with open_run(tmp_path, SPEC) as run:
        run.begin_session(NOTHING, ASKED)
        for number in range(70):
            run.ask_more(make_plan([photo(number)]))
            assert shown(tmp_path) == dict([*numbers.items()][: number + 1]), "a reader beside the writer sees all"
            assert len(stored(run)) <= 1 + 4 + 2 * 4 + 4
    view = read_run(tmp_path)
    assert not view.complaints
    assert not [*gaps(view)]
    assert len(stored(view)) == 1 + 70 // 16 + (70 % 16) // 4 + 70 % 4
    with open_run(tmp_path, SPEC) as run:  # the next watch: both count
        run.begin_session(NOTHING, ASKED)
        run.ask_more(make_plan([photo(99)]))
    assert len(shown(tmp_path)) == 71


def test_a_photo_that_came_again_under_its_name_is_shown_and_the_first_is_not_forgotten(tmp_path: Path) -> None:
    first, last = make_plan([photo(1)]), make_plan([photo(1, "b")])
    with open_run(tmp_path, SPEC) as run:
        run.begin_session(NOTHING, ASKED)
        for plan in (first, make_plan([photo(2)]), last, make_plan([photo(3)])):
            run.ask_more(plan)
        delivery = Delivery(first.edits[0].key, strip_key(first.strips[0]), "a.jpg", "5e", "00")
        run.deliver(delivery)
        assert len(stored(run)) == 1 + 4 + 1
        assert Superseded(run.layout, last).file("a.jpg", last.photos[0]) == delivery
    assert len(stored(read_run(tmp_path))) == 2
    assert shown(tmp_path)[photo(1).name] == photo(1, "b").digest
    with open_run(tmp_path, SPEC) as run:
        run.begin_session(NOTHING, ASKED)
        for plan in (first, last, first, make_plan([photo(4)]), make_plan([photo(5)])):
            run.ask_more(plan)
    assert shown(tmp_path)[photo(1).name] == photo(1).digest


def test_a_plan_of_another_session_and_one_that_cannot_be_read_stay(tmp_path: Path) -> None:
    others, plans = make_plan([photo(0)]), [make_plan([photo(number)]) for number in range(9)]
    with open_run(tmp_path, SPEC) as run:
        run.begin_session(others, replace(ASKED, recipe="another recipe", partial=False))
        run.begin_session(NOTHING, ASKED)
        for plan in plans[:4]:
            run.ask_more(plan)
    before = stored(read_run(tmp_path))
    assert len(before) == 3
    with open_run(tmp_path, SPEC) as run:
        run.begin_session(NOTHING, ASKED)
        for plan in plans[4:7]:
            run.ask_more(plan)
        new = (stored(run) - before).pop()
        (run.layout.folder / "plans" / new).write_bytes(b"rot")
        run.ask_more(plans[7])
        run.ask_more(plans[8])
    view = read_run(tmp_path)
    assert before < stored(view)
    assert len(view.complaints) == 1
    assert len(view.strips) == 8


def fold(run: Run) -> None:
    run.records.fold(run.layout.results(None))
    run.deliveries.fold(run.layout.deliveries(None))


def test_what_is_folded_is_what_a_reader_finds(tmp_path: Path) -> None:
    plan = make_plan(make_photos(tmp_path / "photos", 12))
    keys, pixels = [edit.key for edit in plan.edits], np.zeros((8, 8, 3), np.uint8)

    def work(run: Run, part: Plan) -> None:
        for number, strip in enumerate(part.strips):
            key = strip.edits[0].key
            run.fail(key, "failed", "at first")
            if number % 3:
                run.commit(key, pixels, seconds=1.0)
            for name in ("a.jpg", f"{key}.jpg"):
                run.announce(Delivery(key, strip_key(strip), name, "5e", "00"))
                run.deliver(Delivery(key, strip_key(strip), name, "5e", "00"))

    halves = [make_plan(plan.photos[:6]), make_plan(plan.photos[6:])]
    with open_run(tmp_path / "out", SPEC) as run:
        run.begin_session(plan, ASKED)
        work(run, halves[0])
        for half in (*halves, *halves):
            work(run, half)
            before = dict(run.records), dict(run.deliveries), set(run.done), [*run.records.failed()]
            fold(run)
            assert run.records.newer == run.deliveries.newer == 0
            assert (dict(run.records), dict(run.deliveries), set(run.done), [*run.records.failed()]) == before
            assert len(run.records) == len(before[0])
            assert len(run.deliveries) == len(before[1])
        found = read_run(tmp_path / "out")
        assert dict(found.records) == dict(run.records)
        assert dict(found.deliveries) == dict(run.deliveries)
        run.layout.picture(keys[2]).write_bytes(b"rot")
        with pytest.raises(DamagedError):
            run.picture(keys[2])
