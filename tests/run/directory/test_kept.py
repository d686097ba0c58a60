"""What a run keeps is checked before it is used: flipped bits are noticed, and what they spoiled is made again."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from galleries import make_run
from runs import SPEC, Wrapped, carry_out, digests, make_photos, make_plan, unsealed

from ip2pbatch.errors import DamagedError
from ip2pbatch.pictures import lossless
from ip2pbatch.plan.edits import Photo, Plan
from ip2pbatch.plan.schedule import Schedule
from ip2pbatch.run.directory.healing import heal
from ip2pbatch.run.directory.layout import Layout
from ip2pbatch.run.directory.ledger import open_run
from ip2pbatch.run.directory.view import read_run
from ip2pbatch.run.execute import run_plan
from ip2pbatch.show.report import write_report

CHAIN = ["make it winter", "make it night", "make it rain"]


def flip(path: Path, seed: int) -> None:
    """Turn one bit of a file, as a disk does that rots: size and time stay. The same again turns it back."""
    data, before, chance = bytearray(path.read_bytes()), path.stat(), random.Random(seed)
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.fixture
def photos(tmp_path: Path) -> tuple[Photo, ...]:
    return make_photos(tmp_path / "in", 10)


def kept_of(out: Path, plan: Plan) -> list[Path]:
    layout = Layout(out / ".ip2pbatch")
    return [path for edit in plan.edits for path in (layout.picture(edit.key), layout.latent(edit.key))]


def test_forty_flipped_bits_in_pictures_and_latents_are_noticed_before_use_and_made_again(
    tmp_path: Path, photos: Sequence[Photo]
) -> None:
    out, untouched = tmp_path / "out", tmp_path / "untouched"
    plan, longer = make_plan(photos, CHAIN[:2], keep=(1, 2)), make_plan(photos, CHAIN, keep=(1, 2, 3))
    for folder in (out, untouched):
        carry_out(folder, plan, Wrapped())
    kept = kept_of(out, plan)
    as_written = [path.read_bytes() for path in kept]
    for seed, path in enumerate(kept):
        flip(path, seed)
    assert len(kept) == 40
    assert all(path.read_bytes() != data for path, data in zip(kept, as_written, strict=True))

    with open_run(out, SPEC) as run:
        for edit in plan.edits:
            for read in (run.picture, run.latent):
                with pytest.raises(DamagedError):
                    read(edit.key)
        assert len(heal(run, [edit.key for edit in plan.edits])) == 20
    assert carry_out(out, longer, Wrapped()) == 0
    assert carry_out(untouched, longer, Wrapped()) == 0
    assert [path.read_bytes() for path in kept] == as_written
    assert digests(out) == digests(untouched)


@pytest.mark.parametrize("carry", ["latent", "pixels"])
def test_a_link_whose_source_is_damaged_has_it_made_again_in_the_same_run(
    tmp_path: Path, photos: Sequence[Photo], carry: str
) -> None:
    out, whole = tmp_path / "out", tmp_path / "whole"
    plan = make_plan(photos, CHAIN[:2], carry=carry)  # type: ignore[arg-type]
    longer = make_plan(photos, CHAIN, carry=carry)  # type: ignore[arg-type]
    carry_out(out, plan, Wrapped())
    carry_out(whole, longer, Wrapped())
    layout = Layout(out / ".ip2pbatch")
    first, second = plan.strips[3].edits
    for edit in (first, second):  # a link's source, and what that starts from
        flip((layout.latent if carry == "latent" else layout.picture)(edit.key), 5)
    engine = Wrapped()
    assert carry_out(out, longer, engine) == 0
    made = sorted(key for call in engine.calls for key in call)
    assert made == sorted([*(strip.edits[2].key for strip in longer.strips), first.key, second.key])
    pictures = [
        [Layout(root / ".ip2pbatch").picture(e.key).read_bytes() for e in longer.edits] for root in (out, whole)
    ]
    assert pictures[0] == pictures[1]


def test_sisters_that_share_a_damaged_source_wait_for_it_together(photos: Sequence[Photo]) -> None:
    night, rain = (make_plan(photos[:1], ["make it winter", words]) for words in CHAIN[1:])
    plan = Plan("test", "fake", night.photos, (*night.strips, *rain.strips), (*night.edits, rain.edits[1]))
    parent, *sisters = plan.edits
    schedule = Schedule(plan, {parent.key}, (), Wrapped(batch=1).limits)
    (taken,) = schedule.take(1)
    schedule.begin_again(taken)
    assert schedule.take() == [parent]
    assert schedule.take() == []
    schedule.finish(parent.key)
    assert schedule.take(1) + schedule.take(1) == sisters
    for edit in sisters:
        schedule.finish(edit.key)
    assert (schedule.left, schedule.take()) == (0, [])


def test_a_disk_that_spoils_what_was_made_again_fails_the_link_and_ends(
    tmp_path: Path, photos: Sequence[Photo], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, plan = tmp_path / "out", make_plan(photos[:1], CHAIN[:2])
    carry_out(out, make_plan(photos[:1], CHAIN[:1]), Wrapped())
    with open_run(out, SPEC) as run:
        monkeypatch.setattr("ip2pbatch.run.sources.Sources.hold", lambda self, key, source: None)
        monkeypatch.setattr(type(run), "latent", lambda self, key: run.picture("none"))
        summary = run_plan(plan, run, Wrapped())
        assert summary.states == {"done": 1, "failed": 1}
        assert "gone" in run.records[plan.edits[1].key].detail


def test_a_chain_that_grows_by_a_link_pays_for_that_link_alone(tmp_path: Path, photos: Sequence[Photo]) -> None:
    carry_out(tmp_path / "out", make_plan(photos, CHAIN[:2]), Wrapped())
    engine, longer = Wrapped(), make_plan(photos, CHAIN)
    assert carry_out(tmp_path / "out", longer, engine) == 0
    assert sorted(key for call in engine.calls for key in call) == sorted(s.edits[2].key for s in longer.strips)


def test_a_damaged_picture_is_no_longer_done_once_it_could_not_be_delivered(
    tmp_path: Path, photos: Sequence[Photo]
) -> None:
    out, plan = tmp_path / "out", make_plan(photos)
    carry_out(out, plan, Wrapped())
    before, rotten = digests(out), plan.edits[4]
    flip(Layout(out / ".ip2pbatch").picture(rotten.key), 1)
    (out / "day0/0004_edit.jpg").unlink()
    engine = Wrapped()
    assert carry_out(out, plan, engine) == 3  # found by a courier
    assert engine.calls == []
    record = read_run(out).record(rotten.key)
    assert record is not None
    assert record.status == "failed"
    assert "run the recipe again" in record.detail
    assert carry_out(out, plan, engine) == 0
    assert engine.calls == [(rotten.key,)]
    assert digests(out) == before


def test_what_an_earlier_version_kept_gets_its_digest_when_a_writer_reads_it_whole(
    tmp_path: Path, photos: Sequence[Photo]
) -> None:
    out, plan = tmp_path / "out", make_plan(photos[:3], CHAIN[:2])
    carry_out(out, plan, Wrapped())
    journal = out / ".ip2pbatch/results.jsonl"
    rows = [json.loads(line) for line in unsealed(journal).splitlines()]
    known = {row["edit"]: (row["digest"], row["latent"]) for row in rows}
    journal.write_text("".join(json.dumps({**row, "digest": "", "latent": ""}) + "\n" for row in rows))
    keys = [edit.key for edit in plan.edits]
    flip(Layout(out / ".ip2pbatch").picture(keys[0]), 3)  # a PNG tells by itself
    with open_run(out, SPEC) as run:
        assert [error.path.stem for error in heal(run, keys).values()] == keys[:1]
        for key in keys[1:]:
            run.latent(key)
        assert {key: (run.records[key].digest, run.records[key].latent) for key in keys[1:]} == {
            key: known[key] for key in keys[1:]
        }
    lines = len(journal.read_text().splitlines())
    view = read_run(out)
    assert view.records[keys[1]].digest == known[keys[1]][0]
    write_report(view, tmp_path / "report.html")
    with open_run(out, SPEC) as run:
        assert heal(run, keys[1:]) == {}
    assert len(journal.read_text().splitlines()) == lines


def test_sheets_and_report_show_a_damaged_picture_as_missing(tmp_path: Path) -> None:
    view = make_run(tmp_path)
    cell = view.strips[0].edits[0]
    picture = view.picture(cell.key)
    assert picture is not None
    pixels = picture.pixels()
    # another picture of the same size in bytes is as wrong as a flipped bit, and its own check sums do not tell
    other = next(view.layout.picture(e.key) for e in view.plan.edits if e.key != cell.key)
    picture.path.write_bytes(other.read_bytes())
    with pytest.raises(DamagedError):
        picture.pixels()
    page = write_report(view, tmp_path / "report.html").read_text()
    assert "damaged or gone" in page
    picture.path.write_bytes(lossless.encode(pixels))
    assert np.array_equal(picture.pixels(), pixels)


def test_a_png_tells_any_flipped_bit(tmp_path: Path) -> None:
    whole = lossless.encode(np.random.default_rng(0).integers(0, 255, (9, 7, 3), np.uint8))
    assert lossless.is_whole(whole)
    for at in range(len(whole)):
        for bit in range(8):
            assert not lossless.is_whole(whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :])
    for end in range(len(whole)):
        assert not lossless.is_whole(whole[:end])
    assert not lossless.is_whole(whole + b"\0")
