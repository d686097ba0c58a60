"""The run directory: what is done is on the disk, one writer a shard, and a kill leaves nothing that matters."""

from __future__ import annotations

import errno
import json
import logging
import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock
from numpy.typing import NDArray

from ip2pbatch.disk.journal import Damage, Journal, read_journal, seal
from ip2pbatch.errors import LockedError, ResourceError, UsageError
from ip2pbatch.plan.edits import Edit, Guidance, Photo, Plan, Strip, make_edit
from ip2pbatch.plan.shard import Shard
from ip2pbatch.run import clock
from ip2pbatch.run.directory import ledger
from ip2pbatch.run.directory.layout import Layout, run_folders, strip_key
from ip2pbatch.run.directory.ledger import Run, open_run
from ip2pbatch.run.directory.lines import Delivery, EngineSpec, Invocation
from ip2pbatch.run.directory.photo_numbers import PhotoNumbers, read_numbers
from ip2pbatch.run.directory.view import read_run

SPEC = EngineSpec("tiny", "a1b2", "fake", "cpu", "float32", "stable")
SIZE = (48, 32)
GUIDANCE = Guidance(7.5, 1.5)
OPEN_FILES = Path("/proc/self/fd")


def photo(number: int) -> Photo:
    return Photo(f"shoot/{number:03d} ü.jpg", Path(f"/photos/{number}.jpg"), f"{number:032x}", (480, 320))


def edit(source: str, instruction: str, seed: int = 1, carry: str | None = None) -> Edit:
    return make_edit(
        source, instruction, GUIDANCE, seed, steps=20, sampler="euler_a", size=SIZE,
        carry=carry,  # type: ignore[arg-type]
    )  # fmt: skip


def plan_of(numbers: range, instruction: str = "make it winter") -> Plan:
    photos = tuple(map(photo, numbers))
    strips = []
    for one in photos:
        first = edit(one.digest, instruction)
        strips.append(Strip(one, "winter", GUIDANCE, 1, (first, edit(first.key, "at night", carry="latent")), (2,)))
    return Plan("test", "tiny", photos, tuple(strips), tuple(e for s in strips for e in s.edits))


def picture(seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (SIZE[1], SIZE[0], 3), np.uint8)


def begin(
    run: Run, plan: Plan, *, started: str = "2026-01-01T00:00:00Z", recipe: str = "r", partial: bool = False
) -> None:
    run.begin_session(plan, Invocation(started, "run r.yaml", recipe, {"ip2pbatch": "0"}, "cpu", partial))


def test_what_was_committed_is_there_for_the_next_session_and_for_readers(tmp_path: Path) -> None:
    plan = plan_of(range(2))
    first, second = plan.strips[0].edits
    latent = np.arange(24, dtype=np.float32).reshape(4, 2, 3)
    with open_run(tmp_path, SPEC) as run:
        begin(run, plan)
        run.commit(first.key, picture(), latent, seconds=1.25, metrics={"l1": 0.1, "ssim": float("nan")})
        run.fail(second.key, "nan", "not a number")
        run.keep_source(plan.photos[0].digest, SIZE, picture(7))
    with open_run(tmp_path, SPEC) as run:
        assert run.done == {first.key}
        assert run.failed.keys() == {second.key}
        assert np.array_equal(run.picture(first.key), picture())
        assert np.array_equal(run.latent(first.key), latent)
    view = read_run(tmp_path)
    assert view.plan == plan
    assert view.spec == SPEC
    record = view.record(first.key)
    assert record is not None
    assert record.metrics == {"l1": 0.1}  # a number that is none is left out: JSON has no NaN
    assert view.counts() == {"done": 1, "failed": 0, "nan": 1, "flagged": 0, "skipped": 0, "left": 2}
    assert view.source_path(plan.strips[0]) is not None
    assert view.source_path(plan.strips[1]) is None


def test_an_edit_whose_picture_is_gone_or_cut_off_is_not_done(tmp_path: Path) -> None:
    keys = [edit(photo(n).digest, "x").key for n in range(3)]
    with open_run(tmp_path, SPEC) as run:
        for key in keys:
            run.commit(key, picture(), seconds=1)
        layout = run.layout
    layout.picture(keys[0]).unlink()
    layout.picture(keys[1]).write_bytes(layout.picture(keys[1]).read_bytes()[:100])
    with open_run(tmp_path, SPEC) as run:
        assert run.done == {keys[2]}
        begin(run, plan_of(range(0)))
    assert read_run(tmp_path).records.keys() == {keys[2]}


@pytest.mark.parametrize("field", ["model_digest", "backend", "provider", "precision", "determinism"])
def test_another_engine_is_refused_by_the_name_of_what_differs(tmp_path: Path, field: str) -> None:
    open_run(tmp_path, SPEC).close()
    other = EngineSpec(**{**{f: getattr(SPEC, f) for f in EngineSpec.__slots__}, field: "other"})
    with pytest.raises(UsageError, match=f"{field.replace('_', ' ')} .*, not other") as caught:
        open_run(tmp_path, other)
    assert "--fresh" in (caught.value.hint or "")
    open_run(tmp_path, SPEC).close()  # and the refusal let go of the lock


def test_a_model_is_known_by_its_digest_and_keeps_its_first_name(tmp_path: Path) -> None:
    open_run(tmp_path, replace(SPEC, model="/models/winter")).close()
    with open_run(tmp_path, replace(SPEC, model="/other/disk/winter")) as run:
        assert run.spec.model == "/models/winter"
    nameless = tmp_path / "fake"  # an engine without weights is known by the name it was given
    open_run(nameless, replace(SPEC, model_digest="")).close()
    with pytest.raises(UsageError, match="model tiny, not other"):
        open_run(nameless, replace(SPEC, model_digest="", model="other"))


def test_fresh_starts_a_run_beside_and_readers_use_it(tmp_path: Path) -> None:
    key = edit(photo(0).digest, "x").key
    with open_run(tmp_path, SPEC) as run:
        begin(run, plan_of(range(1)))
        run.commit(key, picture(), seconds=1)
        old = run.layout
    with open_run(tmp_path, EngineSpec("other", "", "fake", "cpu", "float32", "fast"), fresh=True) as run:
        begin(run, plan_of(range(1)))
        assert run.done == set()
    assert [path.name for path in run_folders(tmp_path)] == [".ip2pbatch", ".ip2pbatch-2"]
    assert old.picture(key).is_file()
    assert read_run(tmp_path).spec.model == "other"
    assert read_run(old.folder).spec == SPEC
    with pytest.raises(UsageError, match="--fresh and --shard"):
        open_run(tmp_path, SPEC, shard=Shard(1, 2), fresh=True)


def test_a_second_writer_is_told_who_holds_the_run(tmp_path: Path) -> None:
    with open_run(tmp_path, SPEC), pytest.raises(LockedError, match=f"process {os.getpid()} on"):
        open_run(tmp_path, SPEC)
    open_run(tmp_path, SPEC).close()


def test_a_killed_writer_leaves_no_lock(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from ip2pbatch.run.directory.ledger import *;"
        f"run = open_run(Path({str(tmp_path)!r}), EngineSpec('tiny', 'a1b2', 'fake', 'cpu', 'float32', 'stable'));"
        "print('open', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"open\n"
        with pytest.raises(LockedError, match=f"process {child.pid} on"):
            open_run(tmp_path, SPEC)
        child.kill()
        child.wait(60)
    open_run(tmp_path, SPEC).close()


def test_shards_of_one_count_write_together_and_overlapping_ones_do_not(tmp_path: Path) -> None:
    with open_run(tmp_path, SPEC, shard=Shard(1, 2)), open_run(tmp_path, SPEC, shard=Shard(2, 2)):
        for other in (None, Shard(1, 3), Shard(2, 2)):
            with pytest.raises(LockedError):
                open_run(tmp_path, SPEC, shard=other)


def test_shards_are_disjoint_whole_and_stable_under_more_photos() -> None:
    small, large = plan_of(range(40)), plan_of(range(60))
    parts = [Shard(k, 4).take(large) for k in range(1, 5)]
    assert sorted(e.key for part in parts for e in part.edits) == sorted(e.key for e in large.edits)
    assert all(len(part.edits) == 2 * len(part.photos) and part.photos for part in parts)
    for k, part in enumerate(parts, start=1):
        assert set(Shard(k, 4).take(small).photos) <= set(part.photos)


@pytest.mark.parametrize("text", ["0/2", "3/2", "a/b", "1/", "", "1/0", "-1/2"])
def test_a_shard_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is not a shard"):
        Shard.parse(text)
    assert Shard.parse(" 2/8 ") == Shard(2, 8)


def test_who_is_writing_cannot_be_noted_and_nothing_stays_locked(tmp_path: Path) -> None:
    holder = tmp_path / ".ip2pbatch/writer.json"
    holder.mkdir(parents=True)
    with pytest.raises(ResourceError, match=r"writer\.json"):
        open_run(tmp_path, SPEC)
    holder.rmdir()
    open_run(tmp_path, SPEC).close()


def test_readers_see_all_shards_as_one(tmp_path: Path) -> None:
    plan = plan_of(range(6))
    for k in (1, 2):
        shard = Shard(k, 2)
        with open_run(tmp_path, SPEC, shard=shard) as run:
            begin(run, plan, started=f"2026-01-01T00:00:0{k}Z")
            for one in shard.take(plan).edits:
                run.commit(one.key, picture(), seconds=1)
    view = read_run(tmp_path)
    assert view.strips == plan.strips
    assert view.counts()["done"] == 12
    with open_run(tmp_path, SPEC, shard=Shard(1, 3)) as run:
        assert run.done == {e.key for e in plan.edits}  # another split does none of it again


def test_the_view_shows_what_the_newest_recipe_asks_for(tmp_path: Path) -> None:
    old, new = plan_of(range(3)), plan_of(range(3), "make it summer")
    with open_run(tmp_path, SPEC) as run:
        begin(run, old, started="2026-01-01T00:00:01Z")
        begin(run, new, started="2026-01-01T00:00:02Z", recipe="r2")
        begin(run, plan_of(range(1), "make it summer"), started="2026-01-01T00:00:03Z", recipe="r2", partial=True)
    assert read_run(tmp_path).strips == new.strips


def test_a_folder_without_a_run_is_said_to_be_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no run"):
        read_run(tmp_path / "nowhere")


def test_numbers_are_given_once_and_kept(tmp_path: Path) -> None:
    with open_run(tmp_path, SPEC) as run:
        assert run.number([photo(5), photo(3)]) == {photo(5).name: 1, photo(3).name: 2}
        assert run.number([photo(3), photo(7)]) == {photo(5).name: 1, photo(3).name: 2, photo(7).name: 3}
    with open_run(tmp_path, SPEC) as run:
        numbers = run.number([photo(1), photo(3)])
        assert numbers[photo(3).name] == 2
        assert numbers[photo(1).name] == 4
    assert read_run(tmp_path).numbers == numbers


def test_shards_that_give_numbers_at_the_same_time_agree_and_nobody_waits_for_who_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos, others = [photo(n) for n in range(4)], open_run(tmp_path, SPEC, shard=Shard(2, 2))
    given: list[PhotoNumbers | dict[str, int]] = []

    def read_meanwhile(layout: Layout, damage: list[Damage], earlier: PhotoNumbers | None) -> PhotoNumbers:
        known = read_numbers(layout, damage, earlier)
        if not given:
            given.append({})
            given[0] = others.number(photos[::-1])
        return known

    with open_run(tmp_path, SPEC, shard=Shard(1, 2)) as run, others:
        monkeypatch.setattr(ledger, "read_numbers", read_meanwhile)
        assert run.number(photos) == given[0]
        with FileLock(run.layout.folder / "gate.lock"):
            assert run.number(photos) == given[0]


def test_the_same_failure_twice_is_one_line(tmp_path: Path) -> None:
    with open_run(tmp_path, SPEC) as run:
        for _ in range(3):
            run.fail("k", "failed", "the photo cannot be read")
        run.fail("k", "failed", "something else")
        path = run.layout.results(None)
    assert len(path.read_text().splitlines()) == 2


def test_deliveries_are_remembered_by_strip_and_edit(tmp_path: Path) -> None:
    plan = plan_of(range(1))
    strip = plan.strips[0]
    last = strip.edits[1]
    delivery = Delivery(last.key, strip_key(strip), "a/b.jpg", "5e", "00")
    with open_run(tmp_path, SPEC) as run:
        begin(run, plan)
        run.deliver(delivery)
    view = read_run(tmp_path)
    assert view.delivery(strip, last) == delivery
    assert view.delivered_path(strip, last) is None
    (tmp_path / "a").mkdir()
    (tmp_path / "a/b.jpg").touch()
    assert view.delivered_path(strip, last) == tmp_path / "a/b.jpg"


def test_temp_files_of_killed_processes_are_swept(tmp_path: Path) -> None:
    key = edit(photo(0).digest, "x").key
    with open_run(tmp_path, SPEC) as run:
        run.commit(key, picture(), seconds=1)
        stray = run.layout.picture(key).with_name(".ip2p-0123.tmp")
    stray.write_bytes(b"half")
    with open_run(tmp_path, SPEC, shard=Shard(1, 2)), open_run(tmp_path, SPEC, shard=Shard(2, 2)):
        pass
    assert not stray.exists()
    with open_run(tmp_path, SPEC, shard=Shard(1, 2)):
        stray.write_bytes(b"half")
        open_run(tmp_path, SPEC, shard=Shard(2, 2)).close()
        assert stray.exists()  # shard 1 may be writing it at this moment


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_a_torn_last_line_is_as_if_it_had_never_been(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "j.jsonl"
    journal = Journal(path)
    for number in range(3):
        journal.append({"number": number, "text": "ü" * 20})
    journal.close()
    path.write_bytes(path.read_bytes()[:-cut])
    whole = 3 if cut == 1 else 2  # where only the newline is gone, the line is whole
    assert [row["number"] for row in read_journal(path)] == list(range(whole))
    journal = Journal(path)
    journal.append({"number": 9})
    journal.close()
    complaints: list[str] = []
    assert [row["number"] for row in read_journal(path, complaints)] == [*range(whole), 9]
    assert complaints == []


def test_zeros_after_a_power_cut_and_a_broken_line_in_the_middle_cost_only_themselves(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    path.write_bytes(b'{"n":1}\n{"n":2,,}\n[3]\n{"n":4}\n' + b"\0" * 70_000)
    complaints: list[str] = []
    assert [row["n"] for row in read_journal(path, complaints)] == [1, 4]
    assert complaints == ["j.jsonl: lines 2, 3 cannot be read and were passed over"]
    journal = Journal(path)
    journal.append({"n": 5})
    journal.close()
    assert path.read_bytes().endswith(b'{"n":4}\n{"n":5}\n')


@pytest.mark.parametrize("call", ["write", "fsync"])
def test_a_full_disk_leaves_no_half_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    def full(descriptor: int, *data: bytes) -> int:
        if data:
            real(descriptor, data[0][:5])  # a full disk takes a part
        raise OSError(errno.ENOSPC, "No space left on device")

    journal = Journal(tmp_path / "j.jsonl")
    journal.append({"n": 1})
    real = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        with pytest.raises(ResourceError, match="the disk is full"):
            journal.append({"n": 2})
    assert journal.path.read_bytes() == b'{"n":1}\n'
    journal.append({"n": 3})
    journal.close()
    assert [row["n"] for row in read_journal(journal.path)] == [1, 3]


def test_a_header_of_another_version_is_refused(tmp_path: Path) -> None:
    open_run(tmp_path, SPEC).close()
    header = Layout(tmp_path / ".ip2pbatch").header
    row = {"format": 99, "engine": json.loads(header.read_text())["engine"]}
    header.write_bytes(seal(json.dumps(row).encode()))
    with pytest.raises(UsageError, match="format 99"):
        open_run(tmp_path, SPEC)


def test_the_log_holds_what_the_package_says_while_the_run_is_open(tmp_path: Path) -> None:
    logging.getLogger("ip2pbatch.engine").info("before")
    with open_run(tmp_path, SPEC) as run:
        logging.getLogger("ip2pbatch.engine").info("the VAE was run again in float32")
        path = run.layout.log(None)
    logging.getLogger("ip2pbatch.engine").warning("afterwards")
    assert "run again in float32" in path.read_text()
    assert "before" not in path.read_text()
    assert "afterwards" not in path.read_text()


def test_with_a_source_date_nothing_in_a_run_tells_the_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    with open_run(tmp_path, SPEC):
        logging.getLogger("ip2pbatch.run").info("made")
    assert (tmp_path / ".ip2pbatch/log.txt").read_text() == "2023-11-14 22:13:20 INFO made\n"


@pytest.mark.parametrize("epoch", ["soon", "1.5", "99999999999999999999"])
def test_an_epoch_that_is_no_time_is_refused(monkeypatch: pytest.MonkeyPatch, epoch: str) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", epoch)
    with pytest.raises(UsageError, match="which is no time"):
        clock.now()


def test_the_newest_session_is_the_last_one_whatever_its_clock_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for epoch, words in (("1800000000", "make it winter"), ("1700000000", "make it night")):
        monkeypatch.setenv("SOURCE_DATE_EPOCH", epoch)
        with open_run(tmp_path / "out", SPEC) as run:
            run.begin_session(plan_of(range(1), words), Invocation(clock.now().isoformat(), "run"))
    assert read_run(tmp_path / "out").plan.edits[0].instruction == "make it night"


@pytest.mark.skipif(not OPEN_FILES.is_dir(), reason="counts open files as Linux lists them")
@pytest.mark.parametrize("name", ["results.jsonl", "sessions.jsonl", "results.jsonl.bad"])
def test_a_run_that_cannot_be_opened_holds_nothing_open(tmp_path: Path, name: str) -> None:
    with open_run(tmp_path, SPEC) as run:
        begin(run, plan_of(range(1)))
    folder = tmp_path / ".ip2pbatch"
    if name.endswith(".bad"):
        (folder / "results.jsonl").write_bytes(b"damaged\n")
    (folder / name).unlink(missing_ok=True)
    (folder / name).mkdir()
    before = sorted(OPEN_FILES.iterdir())
    with pytest.raises(ResourceError):
        open_run(tmp_path, SPEC)
    assert sorted(OPEN_FILES.iterdir()) == before


def test_what_is_learned_of_an_earlier_picture_is_not_written_over_a_later_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of(range(1))
    key = plan.edits[0].key
    with open_run(tmp_path, SPEC) as run:
        begin(run, plan)
        run.commit(key, picture(1), seconds=1)
        run.records.update({key: replace(run.records[key], digest="")})  # as an earlier version left it
        later = threading.Thread(target=lambda: run.commit(key, picture(2), seconds=2))
        append, begun = Journal.append, list[float]()

        def slowly(journal: Journal, *rows: dict[str, Any], **how: bool) -> None:
            append(journal, *rows)
            if not begun and rows[0].get("digest") == "aa":
                begun.append(1)
                later.start()
                later.join(0.3)

        monkeypatch.setattr(Journal, "append", slowly)
        run.learn({key: ("aa", "")})
        later.join()
        assert begun
        assert run.records[key].seconds == 2
    assert read_run(tmp_path).records[key] == run.records[key]
