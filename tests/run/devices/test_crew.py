"""Several processes make one run: the same files, nothing lost or twice, whatever ends a worker."""

from __future__ import annotations

import errno
import os
import random
import re
import signal
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from crews import Fault, by_crew
from runs import SPEC, carry_out, digests, exit_of, in_child, lines_of, make_photos, make_plan, many, strays

from ip2pbatch.engine.fake import FakeEngine
from ip2pbatch.errors import UsageError, WorkerError
from ip2pbatch.jobs.standing import standing
from ip2pbatch.plan.edits import Plan
from ip2pbatch.run.devices.crew import Crew
from ip2pbatch.run.devices.member import Member
from ip2pbatch.run.devices.processes import Process
from ip2pbatch.run.directory.ledger import open_run
from ip2pbatch.run.directory.lines import Invocation
from ip2pbatch.run.directory.view import read_run
from ip2pbatch.run.lock import caveats
from ip2pbatch.run.stop import Stop
from ip2pbatch.show.cells import gallery
from ip2pbatch.show.report import write_report

pytestmark = pytest.mark.skipif(os.name == "nt", reason="workers are given a line as POSIX passes descriptors")
soaked = pytest.mark.skipif(many(1, 0) == 1, reason="of the soak: a worker takes half a second of a core to start")
CHAIN = ["make it winter", "make it night"]


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return make_plan(make_photos(tmp_path / "in", 12), CHAIN, keep=(1, 2))


@pytest.fixture
def alone(tmp_path: Path, plan: Plan) -> dict[str, str]:
    """The delivered files of one process."""
    assert carry_out(tmp_path / "alone", plan, FakeEngine()) == 0
    return digests(tmp_path / "alone")


def pid_of(member: Member) -> int:
    assert isinstance(member.link, Process)
    return member.link.process.pid


def assert_whole(out: Path, plan: Plan, files: dict[str, str]) -> None:
    """All is there as one process makes it, each row once, and nothing besides."""
    assert digests(out) == files
    assert strays(out) == []
    assert Counter(lines_of(out / ".ip2pbatch/results.jsonl", "edit")) == {edit.key: 1 for edit in plan.edits}
    with open_run(out, SPEC) as run:
        assert run.done == {edit.key for edit in plan.edits}
        assert run.complaints == []


@soaked
def test_two_workers_make_what_one_process_makes(tmp_path: Path, plan: Plan, alone: dict[str, str]) -> None:
    diary = tmp_path / "diary"
    summary = by_crew(tmp_path / "out", plan, fault=Fault(diary=diary, wait=0.02))
    assert (summary.exit_code, summary.made, summary.delivered) == (0, 24, 24)
    assert_whole(tmp_path / "out", plan, alone)
    assert len(set(re.findall(r" (\d+)$", diary.read_text(), re.M))) == 2
    again = by_crew(tmp_path / "out", plan)
    assert (again.exit_code, again.made, again.delivered) == (0, 0, 0)


def test_a_worker_that_is_killed_is_replaced_and_nothing_is_lost_or_twice(
    tmp_path: Path, plan: Plan, alone: dict[str, str]
) -> None:
    """Full: 20 kills at random moments of 1,200 edits; at most what waits to be written and a batch is made again."""
    kills, chance = many(1, 20), random.Random(15)
    if kills > 1:
        plan = make_plan(make_photos(tmp_path / "in", 600), CHAIN, keep=(1, 2))
        assert carry_out(tmp_path / "whole", plan, FakeEngine()) == 0
        alone = digests(tmp_path / "whole")
    out, diary, notes = tmp_path / "out", tmp_path / "diary", list[str]()
    journal, killed = out / ".ip2pbatch/results.jsonl", list[int]()

    def kill(crew: Crew) -> None:
        def work() -> None:
            for number in range(kills):
                enough = (number + chance.random() * 0.8) * len(plan.edits) / (kills + 1)
                while not journal.exists() or journal.read_bytes().count(b"\n") < enough:
                    time.sleep(0.005)
                at_work = [member for member in crew.members if member.state == "busy"]
                for member in chance.sample(at_work, min(1, len(at_work))):
                    killed.append(pid_of(member))
                    os.kill(pid_of(member), signal.SIGKILL)

        threading.Thread(target=work, daemon=True).start()

    summary = by_crew(out, plan, fault=Fault(diary=diary, wait=0.01), notes=notes, watching=kill)
    assert (summary.exit_code, summary.states["done"]) == (0, len(plan.edits))
    assert len(killed) == len([note for note in notes if "was killed" in note])
    assert killed
    assert_whole(out, plan, alone)
    begun = len(diary.read_text().splitlines())
    assert begun - len(plan.edits) <= len(killed) * (32 + 4)


def test_a_record_names_its_device_where_there_are_several(tmp_path: Path, plan: Plan) -> None:
    out = tmp_path / "out"
    assert by_crew(out, plan, ["cuda:0", "cuda:1"], fault=Fault(wait=0.02)).exit_code == 0
    with open_run(out, SPEC) as run:
        assert {record.device for record in run.records.values()} == {"cuda:0", "cuda:1"}
        run.begin_session(plan, Invocation("2026-01-02T00:00:00Z", "run"))
        run.note("engine", batch=4, rows={}, device="cuda:0", safety=True, devices={"a": "cuda:0", "b": "cuda:1"})
    view = read_run(out)
    assert standing(view).as_json()["devices"] == ("cuda:0", "cuda:1")
    assert caveats(view) == ["the run was made on cuda:0 and cuda:1; the last counts"]
    assert {cell.device for cell in gallery(view).cells} == {"cuda:0", "cuda:1"}
    assert " · cuda:1" in write_report(view, out / "report.html").read_text("utf-8")
    assert by_crew(tmp_path / "alike", plan, ["cuda:0"]).exit_code == 0
    assert "device" not in (tmp_path / "alike/.ip2pbatch/results.jsonl").read_text()


def test_a_photo_that_three_workers_end_over_is_a_failed_row(tmp_path: Path, plan: Plan) -> None:
    bad, notes = plan.strips[4], list[str]()
    fault = Fault(kills=frozenset({bad.edits[0].key}))
    summary = by_crew(tmp_path / "out", plan, ["cpu"], fault=fault, notes=notes)
    assert dict(summary.states) == {"done": 22, "failed": 1, "skipped": 1}
    assert summary.exit_code == 3
    with open_run(tmp_path / "out", SPEC) as run:
        detail = run.failed[bad.edits[0].key].detail
    assert detail.startswith("3 workers ended over this photo: cpu was killed")
    assert detail.count("was killed (signal 9, as the system does where memory runs out)") == 3
    assert sum("was killed" in note for note in notes) == 3  # a busy machine has others: a worker that says nothing


@soaked
def test_one_in_the_place_of_another_may_end_before_it_begins_but_not_for_ever(
    tmp_path: Path, plan: Plan, alone: dict[str, str]
) -> None:
    notes, keys = list[str](), frozenset(edit.key for edit in plan.edits)
    faults = {"cuda:0": Fault(kills=keys, spoilt=tmp_path / "spoilt"), "cuda:1": Fault(wait=0.3)}
    assert by_crew(tmp_path / "out", plan, list(faults), faults=faults, notes=notes).exit_code == 0
    replaced = "cuda:0 was killed (signal 9, as the system does where memory runs out): another worker takes its place"
    assert notes[:3] == [replaced] * 3
    assert notes[3].endswith("as 2 workers before it did that had not begun; the others go on without it")
    assert_whole(tmp_path / "out", plan, alone)


@soaked
def test_a_worker_that_cannot_load_its_model_is_named_and_the_others_go_on(
    tmp_path: Path, plan: Plan, alone: dict[str, str]
) -> None:
    notes: list[str] = []
    faults = {"cuda:1": Fault(unloadable=True)}
    assert by_crew(tmp_path / "out", plan, ["cuda:0", "cuda:1"], faults=faults, notes=notes).exit_code == 0
    assert notes == ["cuda:1: the weights cannot be read; the others go on without it"]
    assert_whole(tmp_path / "out", plan, alone)


@soaked
def test_where_no_worker_can_load_the_first_reason_ends_the_run(tmp_path: Path, plan: Plan) -> None:
    with pytest.raises(WorkerError, match=r"^cpu-\d: the weights cannot be read$") as caught:
        by_crew(tmp_path / "out", plan, fault=Fault(unloadable=True))
    assert (caught.value.exit_code, caught.value.hint) == (6, "fetch the model again")


@soaked
def test_memory_for_one_worker_only_leaves_the_rest_to_the_other(
    tmp_path: Path, plan: Plan, alone: dict[str, str]
) -> None:
    notes: list[str] = []
    faults = {"cuda:1": Fault(cramped=True)}
    assert by_crew(tmp_path / "out", plan, ["cuda:0", "cuda:1"], faults=faults, notes=notes).exit_code == 0
    assert notes == ["cuda:1: out of memory at the smallest batch; the others go on without it"]
    assert_whole(tmp_path / "out", plan, alone)
    with pytest.raises(WorkerError, match="out of memory at the smallest batch") as caught:
        by_crew(tmp_path / "none", plan, fault=Fault(cramped=True))
    assert caught.value.exit_code == 7


@soaked
def test_a_full_disk_of_one_worker_is_named_and_the_other_goes_on_by_another_clock(
    tmp_path: Path, plan: Plan, alone: dict[str, str]
) -> None:
    """What the one could not write is dealt again; the other's clock is a day ahead."""
    notes: list[str] = []
    faults = {"cuda:0": Fault(ahead=86_400.0, wait=0.05), "cuda:1": Fault(full=5, ahead=-86_400.0, wait=0.02)}
    assert by_crew(tmp_path / "out", plan, list(faults), faults=faults, notes=notes).exit_code == 0
    (note,) = notes
    assert re.fullmatch(r"cuda:1: .*the disk is full.*; the others go on without it", note), note
    assert_whole(tmp_path / "out", plan, alone)


@soaked
def test_a_device_that_is_not_there_ends_it_before_anything_is_made(tmp_path: Path, plan: Plan) -> None:
    with pytest.raises(WorkerError, match=r"^cuda:7: this machine has no cuda:7$") as caught:
        by_crew(tmp_path / "out", plan, ["cuda:0", "cuda:7"], faults={"cuda:7": Fault(missing=True)})
    assert caught.value.exit_code == 6
    assert not (tmp_path / "out").exists()


def test_another_engine_is_refused_by_name(tmp_path: Path, plan: Plan) -> None:
    with pytest.raises(UsageError, match=r"^cuda:1 is another engine: its precision is fp16, not float32$"):
        by_crew(tmp_path / "out", plan, ["cuda:0", "cuda:1"], faults={"cuda:1": Fault(another=True)})
    with pytest.raises(
        UsageError, match=r"^cuda:1 is another engine: it is cuda:1, not cuda:0, and bits hang on that$"
    ):
        by_crew(tmp_path / "out", plan, ["cuda:0", "cuda:1"], fault=Fault(determinism="bitwise"))
    assert not (tmp_path / "out").exists()


@soaked
def test_a_full_disk_ends_it_with_that_and_what_was_reported_is_kept(
    tmp_path: Path, plan: Plan, alone: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, write, full = tmp_path / "out", os.write, [False]

    def refuse(descriptor: int, data: bytes) -> int:
        if full[0] and b'"status":"done"' in data:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        full[0] = full[0] or b'"status":"done"' in data
        return write(descriptor, data)

    monkeypatch.setattr("ip2pbatch.disk.journal.os.write", refuse)
    with pytest.raises(WorkerError, match="the disk is full") as caught:
        by_crew(out, plan)
    assert caught.value.exit_code == 7
    monkeypatch.undo()
    kept = len(lines_of(out / ".ip2pbatch/results.jsonl", "edit"))
    assert kept >= 1
    summary = by_crew(out, plan)
    assert (summary.exit_code, summary.made) == (0, 24 - kept)
    assert_whole(out, plan, alone)


@soaked
def test_a_worker_that_is_silent_is_named_and_ended(tmp_path: Path, plan: Plan, alone: dict[str, str]) -> None:
    notes: list[str] = []

    def freeze(crew: Crew) -> None:
        def work() -> None:
            while (member := crew.members[1]).state != "busy":
                time.sleep(0.005)
            os.kill(pid_of(member), signal.SIGSTOP)

        threading.Thread(target=work, daemon=True).start()

    fault = Fault(wait=0.05)
    assert (
        by_crew(tmp_path / "out", plan, fault=fault, notes=notes, lost=4.0, quiet=3.0, watching=freeze).exit_code == 0
    )
    said = "\n".join(notes)
    assert re.search(r"^cpu-2 has said nothing for \d s(, at .*)?$", said, re.M)
    assert re.search(r"^cpu-2 was silent for \d s and was ended: another worker takes its place$", said, re.M)
    assert_whole(tmp_path / "out", plan, alone)


@soaked
def test_a_stop_drains_all_workers_and_a_later_run_goes_on(tmp_path: Path, plan: Plan, alone: dict[str, str]) -> None:
    stop, out = Stop(), tmp_path / "out"
    journal = out / ".ip2pbatch/results.jsonl"

    def ask(crew: Crew) -> None:
        def work() -> None:
            while not journal.exists() or journal.read_bytes().count(b"\n") < 4:
                time.sleep(0.005)
            stop.ask(signal.SIGTERM)

        threading.Thread(target=work, daemon=True).start()

    summary = by_crew(out, plan, fault=Fault(wait=0.03), stop=stop, watching=ask)
    assert summary.exit_code == 143
    assert 4 <= summary.states["done"] < 24
    assert strays(out) == []
    assert summary.states["done"] == len(lines_of(journal, "edit"))
    assert by_crew(out, plan).made == 24 - summary.states["done"]
    assert_whole(out, plan, alone)


@soaked
def test_a_killed_parent_leaves_no_worker_and_the_lock_is_free(
    tmp_path: Path, plan: Plan, alone: dict[str, str]
) -> None:
    out, pids = tmp_path / "out", tmp_path / "pids"

    def run() -> int:
        def note(crew: Crew) -> None:
            pids.write_text("\n".join(str(pid_of(member)) for member in crew.members))

        return by_crew(out, plan, fault=Fault(wait=60), watching=note).exit_code

    child = in_child(run)
    while not pids.exists() or len(pids.read_text().splitlines()) < 2:
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    assert exit_of(child) == -signal.SIGKILL
    workers = [int(line) for line in pids.read_text().splitlines()]
    end = time.monotonic() + 20
    while any(map(is_running, workers)):
        assert time.monotonic() < end, "a worker outlived its parent"
        time.sleep(0.02)
    assert by_crew(out, plan).exit_code == 0
    assert_whole(out, plan, alone)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
