"""Delivered files are derived: due where they are missing or out of date, never written over somebody's."""

from __future__ import annotations

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from runs import SPEC, Wrapped, carry_out, digests, make_photos, make_plan

from ip2pbatch.errors import ResourceError
from ip2pbatch.pictures.deliver import DeliverySettings
from ip2pbatch.pictures.placing import Conflict
from ip2pbatch.plan.edits import Plan
from ip2pbatch.plan.names import output_names
from ip2pbatch.plan.photo_digests import look
from ip2pbatch.plan.written.outputs import Output
from ip2pbatch.run.deliveries import Deliverer
from ip2pbatch.run.directory.ledger import open_run
from ip2pbatch.run.directory.lines import Delivery
from ip2pbatch.run.directory.view import read_run
from ip2pbatch.run.events import Quiet
from ip2pbatch.run.execute import Options, Summary, run_plan
from ip2pbatch.run.pace import Ahead


def again(out: Path, plan: Plan, settings: DeliverySettings | None = None, conflict: Conflict = "unique") -> Summary:
    """Another session on a run whose pictures are made: the engine is never asked."""
    engine = Wrapped()
    with open_run(out, SPEC) as run:
        names = output_names(plan, Output(folder=out), numbers=run.number(plan.photos))
        deliver = Deliverer(run, plan, names, settings or DeliverySettings(), conflict)
        summary = run_plan(plan, run, engine, Options(deliver=deliver))
    assert engine.calls == []
    return summary


class Heard(Quiet):
    """Hears how much is left."""

    def __init__(self) -> None:
        self.aheads: list[Ahead] = []

    def ahead(self, ahead: Ahead) -> None:
        self.aheads.append(ahead)


class SlowCounter(Counter[str]):
    """One in which a thread loses its turn between reading a number and writing the next."""

    def __missing__(self, key: str) -> int:
        time.sleep(0.3)
        return 0


def test_two_threads_that_note_the_same_thing_at_once_are_two(tmp_path: Path) -> None:
    photos = make_photos(tmp_path / "in", 2)
    for photo in photos:
        with Image.open(photo.path) as picture:
            picture.convert("L").save(photo.path)
    plan = make_plan(
        replace(photo, digest=(seen := look(photo.path)).digest, size=seen.size) for photo in photos
    )  # fmt: skip
    out = tmp_path / "out"
    assert carry_out(out, plan, Wrapped()) == 0
    with open_run(out, SPEC) as run:
        deliver = Deliverer(run, plan, output_names(plan, Output(folder=out)), DeliverySettings(quality=60), "unique")
        deliver.notes = SlowCounter()
        with ThreadPoolExecutor(2) as couriers:
            assert all(couriers.map(deliver.deliver, deliver.errands(plan)))
        assert dict(deliver.notes) == {"grey converted to sRGB": 2}


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return make_plan(make_photos(tmp_path / "in", 4), ["make it winter", "make it night"], keep=(1, 2))


def test_every_kept_link_is_delivered_once_under_its_name(tmp_path: Path, plan: Plan) -> None:
    out = tmp_path / "out"
    assert carry_out(out, plan, Wrapped()) == 0
    assert sorted(digests(out)) == sorted(f"day{n % 2}/{n:04d}_edit_{link}.jpg" for n in range(4) for link in (1, 2))
    with Image.open(out / "day0/0000_edit_1.jpg") as picture:
        assert picture.size == (96, 64)  # the photo's own size, not the model's
    view = read_run(out)
    for strip in view.strips:
        for link, edit in view.kept(strip):
            path = view.delivered_path(strip, edit)
            assert path is not None
            assert path.stem.endswith(f"_{link}")
    assert again(out, plan).delivered == 0


def test_a_file_that_vanished_is_written_again_to_the_byte(tmp_path: Path, plan: Plan) -> None:
    out = tmp_path / "out"
    carry_out(out, plan, Wrapped())
    before = digests(out)
    (out / "day0/0000_edit_1.jpg").unlink()
    (out / "day1/0003_edit_2.jpg").unlink()
    assert again(out, plan).delivered == 2
    assert digests(out) == before


def test_other_settings_replace_our_files_without_the_model(tmp_path: Path, plan: Plan) -> None:
    out = tmp_path / "out"
    carry_out(out, plan, Wrapped())
    before = digests(out)
    assert again(out, plan, DeliverySettings(quality=60)).delivered == 8
    after = digests(out)
    assert after.keys() == before.keys()
    assert not set(after.values()) & set(before.values())


def test_a_run_tells_how_many_files_are_left_until_none_is(tmp_path: Path, plan: Plan) -> None:
    names = output_names(plan, Output(folder=tmp_path / "out"))
    for settings, edits in ((DeliverySettings(), 8), (DeliverySettings(quality=60), 0)):
        heard = Heard()
        with open_run(tmp_path / "out", SPEC) as run:
            deliver = Deliverer(run, plan, names, settings, "unique")
            run_plan(plan, run, Wrapped(), Options(deliver=deliver), heard)
        assert heard.aheads[0].edits == max(0, edits - 1)
        assert len(heard.aheads) == edits + 8, "one after each edit and each file"
        assert [ahead.files for ahead in heard.aheads[-2:]] == [1, 0]
        assert heard.aheads[-1].seconds == 0


def test_a_delivered_file_that_somebody_changed_is_theirs_from_then_on(tmp_path: Path, plan: Plan) -> None:
    out = tmp_path / "out"
    carry_out(out, plan, Wrapped())
    theirs = out / "day0/0000_edit_1.jpg"
    theirs.write_bytes(b"retouched by hand")
    assert again(out, plan, DeliverySettings(quality=60)).delivered == 8
    assert theirs.read_bytes() == b"retouched by hand"
    assert (out / "day0/0000_edit_1_2.jpg").is_file()
    assert len(digests(out)) == 9


def test_a_file_in_the_way_is_kept_skipped_or_refused_as_asked(tmp_path: Path, plan: Plan) -> None:
    for conflict, kept, delivered, code in (
        ("unique", True, 8, 0),
        ("skip", True, 7, 0),
        ("overwrite", False, 8, 0),
        ("error", True, 7, 3),
    ):
        out = tmp_path / conflict
        stranger = out / "day0/0000_edit_1.jpg"
        stranger.parent.mkdir(parents=True)
        stranger.write_bytes(b"somebody's")
        with open_run(out, SPEC) as run:
            run_plan(plan, run, Wrapped())
        summary = again(out, plan, conflict=conflict)  # type: ignore[arg-type]
        assert (stranger.read_bytes() == b"somebody's") is kept
        assert (summary.delivered, summary.exit_code) == (delivered, code)
        assert [file for file, _ in summary.undelivered] == (["day0/0000_edit_1.jpg"] if code else [])


def test_a_name_made_unique_never_takes_a_name_that_is_still_to_come(tmp_path: Path) -> None:
    photos = make_photos(tmp_path / "in", 2)
    plan = make_plan(photos, keep=(1,))
    out = tmp_path / "out"
    out.mkdir()
    (out / "a.jpg").write_bytes(b"somebody's")
    with open_run(out, SPEC) as run:
        deliver = Deliverer(run, plan, {(0, 1): "a.jpg", (1, 1): "a_2.jpg"}, DeliverySettings(), "unique")
        run_plan(plan, run, Wrapped(), Options(deliver=deliver))
        where = {row.edit: row.path for row in run.deliveries.values()}
    assert [where[strip.edits[0].key] for strip in plan.strips] == ["a_3.jpg", "a_2.jpg"]


def test_a_file_that_appeared_just_before_a_kill_is_known_for_ours_even_with_other_settings(
    tmp_path: Path, plan: Plan
) -> None:
    out = tmp_path / "out"
    carry_out(out, plan, Wrapped())
    names = digests(out).keys()
    journal = out / ".ip2pbatch/deliveries.jsonl"
    rows = journal.read_text().splitlines(keepends=True)
    assert '"begun":true' not in rows[-1]
    journal.write_text("".join(rows[:-1]))  # the file was there, its last line was not
    assert again(out, plan, DeliverySettings(quality=60)).delivered == 8
    assert digests(out).keys() == names


def test_a_photo_that_went_away_costs_its_own_files_only(tmp_path: Path, plan: Plan) -> None:
    out = tmp_path / "out"
    with open_run(out, SPEC) as run:
        run_plan(plan, run, Wrapped())
    plan.photos[0].path.unlink()
    summary = again(out, plan)
    assert (summary.delivered, summary.exit_code) == (6, 3)
    assert {file for file, _ in summary.undelivered} == {"day0/0000_edit_1.jpg", "day0/0000_edit_2.jpg"}
    assert all("0000.jpg" in reason for _, reason in summary.undelivered)


def test_an_output_folder_swapped_for_a_link_is_not_written_through(tmp_path: Path, plan: Plan) -> None:
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    carry_out(out, plan, Wrapped())
    elsewhere.mkdir()
    for path in (out / "day0").iterdir():
        path.unlink()
    (out / "day0").rmdir()
    (out / "day0").symlink_to(elsewhere, target_is_directory=True)
    with pytest.raises(ResourceError) as caught:
        again(out, plan)
    assert "symbolic link" in f"{caught.value} {caught.value.hint}"
    assert list(elsewhere.iterdir()) == []


def test_deliveries_of_two_photos_with_the_same_bytes_are_two(tmp_path: Path) -> None:
    photos = make_photos(tmp_path / "in", 1)
    copy = tmp_path / "in/day1/copy.jpg"
    copy.parent.mkdir()
    copy.write_bytes(photos[0].path.read_bytes())
    twin = type(photos[0])("day1/copy.jpg", copy, photos[0].digest, photos[0].size)
    plan = make_plan([*photos, twin])
    plan = Plan(plan.name, plan.model, plan.photos, plan.strips, plan.edits[:1])
    out = tmp_path / "out"
    assert carry_out(out, plan, Wrapped()) == 0
    rows: list[Delivery] = list(read_run(out).deliveries.values())
    assert sorted(row.path for row in rows) == ["day0/0000_edit.jpg", "day1/copy_edit.jpg"]
