"""Runs that are killed, interrupted, starved and crowded, on the fake engine: nothing lost, repeated or half-written.

Reduced sizes here; `make soak` runs the same tests at the sizes that their docstrings name.
"""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from runs import SPEC, Wrapped, carry_out, digests, exit_of, in_child, make_photos, make_plan, many, strays

from ip2pbatch.plan.edits import Edit, Plan
from ip2pbatch.plan.photos import Photo
from ip2pbatch.run.fake import FakeEngine
from ip2pbatch.run.layout import Shard
from ip2pbatch.run.ledger import open_run
from ip2pbatch.run.view import read_run

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="children are forked: POSIX only")
CHAIN = ["make it winter", "make it night"]
LONG = many(200, 3600)  # seconds after which a command hangs


@pytest.fixture
def photos(tmp_path: Path) -> Iterator[Callable[[int], tuple[Photo, ...]]]:
    """Makes photos, and sees to it that whatever the test did, they are as they were."""
    folder = tmp_path / "in"
    before: dict[str, str] = {}

    def make(count: int) -> tuple[Photo, ...]:
        made = make_photos(folder, count)
        before.update(digests(folder))
        return made

    yield make
    assert digests(folder) == before


def uninterrupted(folder: Path, plan: Plan) -> dict[str, str]:
    """The delivered files of a run that nothing disturbs."""
    assert carry_out(folder, plan, FakeEngine()) == 0
    return digests(folder)


def diary(path: Path, seconds: float = 0.0) -> Wrapped:
    """An engine that writes down each Edit it makes, and takes its time."""

    def note(edits: Sequence[Edit]) -> None:
        time.sleep(seconds)
        with path.open("a") as file:
            file.write("".join(f"{edit.key}\n" for edit in edits))

    return Wrapped(before=note, batch=4)


def recorded(out: Path) -> set[str]:
    """The keys that a run says are done, read as `status` reads them."""
    if not (out / ".ip2pbatch/run.json").exists():
        return set()
    view = read_run(out)
    return {key for key, record in view.records.items() if record.status == "done"}


def wait_until(ready: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end, "the child made no progress"
        time.sleep(0.002)


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def assert_whole(out: Path, plan: Plan, reference: dict[str, str]) -> None:
    """Every file is there and byte-identical to the uninterrupted run's, and there is no other."""
    assert digests(out) == reference
    assert strays(out) == []
    with open_run(out, SPEC) as run:
        assert run.done == {edit.key for edit in plan.edits}
        assert run.complaints == []


def test_kill_at_random_moments_then_resume(tmp_path: Path, photos: Callable[[int], tuple[Photo, ...]]) -> None:
    """Full: kill -9 at 20 moments of a 200-photo run. Byte-identical, 0 lost, 0 corrupt, 0 repeated, 0 stray files."""
    plan = make_plan(photos(many(24, 200)), CHAIN, keep=(1, 2))
    reference = uninterrupted(tmp_path / "whole", plan)
    out, kills, chance = tmp_path / "out", many(4, 20), random.Random(20)
    results = out / ".ip2pbatch/results.jsonl"
    done_before: set[str] = set()
    for kill in range(kills):
        book = tmp_path / f"diary{kill}"
        child = in_child(lambda book=book: carry_out(out, plan, diary(book)))
        enough = lines(results) + chance.randint(1, len(plan.edits) // (kills + 2))
        wait_until(lambda enough=enough: lines(results) >= enough)
        time.sleep(chance.uniform(0, 0.02))
        os.kill(child, signal.SIGKILL)
        assert exit_of(child) == -signal.SIGKILL
        assert not done_before & set(book.read_text().split())
        done_before = recorded(out)
        assert {key for key in done_before if not read_run(out).is_done(key)} == set()
    assert len(done_before) < len(plan.edits), "the last kill came too late to test anything"
    assert carry_out(out, plan, diary(tmp_path / "last")) == 0
    assert not done_before & set((tmp_path / "last").read_text().split())
    assert_whole(out, plan, reference)


@pytest.mark.parametrize("step", ["os.fsync", "os.write", "os.fdopen", "os.replace", "after os.replace"])
def test_a_fault_at_each_write_step(tmp_path: Path, step: str, photos: Callable[[int], tuple[Photo, ...]]) -> None:
    """Full: 40 faults at each of 5 steps, the process gone in the middle of each. 200 of 200 recover."""
    plan = make_plan(photos(many(2, 10)), CHAIN)
    reference = uninterrupted(tmp_path / "whole", plan)
    calls = _calls_of(step, tmp_path / "count", plan)
    trials = min(many(4, 40), calls)
    for trial in range(trials):
        fatal = 1 + trial * (calls - 1) // max(1, trials - 1)
        out = tmp_path / f"out{trial}"

        def die(fatal: int = fatal, out: Path = out) -> int:
            _count_calls(step, lambda call: os._exit(77) if call == fatal else None)
            return carry_out(out, plan, FakeEngine(), couriers=1)

        assert exit_of(in_child(die)) in (77, 0)
        assert carry_out(out, plan, FakeEngine()) == 0
        assert_whole(out, plan, reference)


def _count_calls(step: str, at: Callable[[int], object]) -> None:
    """From now on, in this process, `at(n)` is called before (or after) the n-th call of a writing function."""
    name = step.rpartition(".")[2]
    real, count = getattr(os, name), iter(range(1, 1_000_000))

    def counted(*args: object, **kwargs: object) -> object:
        if step.startswith("after"):
            value = real(*args, **kwargs)
            at(next(count))
            return value
        at(next(count))
        return real(*args, **kwargs)

    setattr(os, name, counted)


def _calls_of(step: str, out: Path, plan: Plan) -> int:
    tally = out.with_suffix(".txt")

    def work() -> int:
        _count_calls(step, lambda call: tally.write_bytes(str(call).encode()))
        return carry_out(out, plan, FakeEngine(), couriers=1)

    assert exit_of(in_child(work)) == 0
    return int(tally.read_text())


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_one_signal_drains_the_batch_and_resume_goes_on(
    tmp_path: Path, number: int, code: int, photos: Callable[[int], tuple[Photo, ...]]
) -> None:
    plan = make_plan(photos(40))
    reference = uninterrupted(tmp_path / "whole", plan)
    out, book = tmp_path / "out", tmp_path / "diary"
    child = in_child(lambda: carry_out(out, plan, diary(book, seconds=0.2)))
    wait_until(lambda: lines(out / ".ip2pbatch/results.jsonl") >= 8)
    begun = set(book.read_text().split())
    os.kill(child, number)
    asked = time.monotonic()
    assert exit_of(child) == code
    assert time.monotonic() - asked < 5
    made = set(book.read_text().split())
    assert len(made - begun) <= 2 * 4  # the batch at hand, and one that began while the signal was on its way
    assert recorded(out) == made  # what was made is kept
    assert strays(out) == []
    assert carry_out(out, plan, diary(tmp_path / "rest")) == 0
    assert not made & set((tmp_path / "rest").read_text().split())
    assert_whole(out, plan, reference)


def test_a_second_interrupt_ends_at_once(tmp_path: Path, photos: Callable[[int], tuple[Photo, ...]]) -> None:
    plan = make_plan(photos(12))
    reference = uninterrupted(tmp_path / "whole", plan)
    out, begun = tmp_path / "out", tmp_path / "begun"
    calls = 0

    def stuck(edits: Sequence[Edit]) -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            begun.touch()
            for _ in range(3000):
                time.sleep(0.01)

    child = in_child(lambda: carry_out(out, plan, Wrapped(before=stuck, batch=4)))
    wait_until(begun.exists)
    wait_until(lambda: lines(out / ".ip2pbatch/results.jsonl") >= 8)
    os.kill(child, signal.SIGINT)
    time.sleep(0.3)
    assert os.waitpid(child, os.WNOHANG) == (0, 0), "the first interrupt waits for the batch"
    os.kill(child, signal.SIGINT)
    asked = time.monotonic()
    assert exit_of(child) == 130
    assert time.monotonic() - asked < 5
    assert len(recorded(out)) == 8
    assert carry_out(out, plan, FakeEngine()) == 0
    assert_whole(out, plan, reference)


@pytest.mark.parametrize("step", ["os.fsync", "os.write", "os.replace"])
def test_a_full_disk_ends_with_7_and_the_run_goes_on_once_there_is_space(
    tmp_path: Path, step: str, photos: Callable[[int], tuple[Photo, ...]]
) -> None:
    plan = make_plan(photos(6), CHAIN)
    reference = uninterrupted(tmp_path / "whole", plan)
    calls = _calls_of(step, tmp_path / "count", plan)
    for trial in range(many(3, 40)):
        out, full_from = tmp_path / f"out{trial}", random.Random(trial).randint(1, calls)

        def starve(full_from: int = full_from, out: Path = out) -> int:
            _count_calls(step, lambda call: _full() if call >= full_from else None)
            return carry_out(out, plan, FakeEngine())

        assert exit_of(in_child(starve)) == 7
        assert digests(out).items() <= reference.items()  # what is there is whole
        assert carry_out(out, plan, FakeEngine()) == 0
        assert_whole(out, plan, reference)


def _full() -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_really_full_disk(tmp_path: Path, photos: Callable[[int], tuple[Photo, ...]]) -> None:
    plan = make_plan(photos(40))
    reference = uninterrupted(tmp_path / "whole", plan)
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=200k", "none", disk], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        out = disk / "out"
        assert carry_out(out, plan, FakeEngine()) == 7
        assert 0 < len(recorded(out)) < 40
        assert digests(out).items() <= reference.items()
        subprocess.run(["mount", "-o", "remount,size=20m", disk], check=True)
        made = recorded(out)
        assert carry_out(out, plan, diary(tmp_path / "rest")) == 0
        assert not made & set((tmp_path / "rest").read_text().split())
        assert_whole(out, plan, reference)
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_read_only_output_is_said_to_be_one(tmp_path: Path, photos: Callable[[int], tuple[Photo, ...]]) -> None:
    (tmp_path / "out").write_bytes(b"a file where the folder should be")
    assert carry_out(tmp_path / "out", make_plan(photos(1)), FakeEngine()) == 7


def test_two_processes_on_one_run(tmp_path: Path, photos: Callable[[int], tuple[Photo, ...]]) -> None:
    plan = make_plan(photos(16))
    out = tmp_path / "out"
    child = in_child(lambda: carry_out(out, plan, diary(tmp_path / "diary", seconds=0.1)))
    wait_until(lambda: lines(out / ".ip2pbatch/results.jsonl") >= 1)
    assert carry_out(out, plan, FakeEngine()) == 11
    assert exit_of(child) == 0
    made = (tmp_path / "diary").read_text().split()
    assert sorted(made) == sorted(edit.key for edit in plan.edits)


def test_eight_shards_two_killed_rerun_as_three(tmp_path: Path, photos: Callable[[int], tuple[Photo, ...]]) -> None:
    plan = make_plan(photos(many(40, 200)), CHAIN)
    reference = uninterrupted(tmp_path / "whole", plan)
    out = tmp_path / "out"
    for k in range(1, 9):
        shard, book = Shard(k, 8), tmp_path / f"diary{k}"
        child = in_child(lambda shard=shard, book=book: carry_out(out, plan, diary(book, 0.05), shard=shard))
        if k in (2, 5):
            wait_until(lambda k=k: lines(out / f".ip2pbatch/results-{k}of8.jsonl") >= 1)
            os.kill(child, signal.SIGKILL)
        assert exit_of(child) == (-signal.SIGKILL if k in (2, 5) else 0)
    done = recorded(out)
    assert len(done) < len(plan.edits)
    children = [
        in_child(lambda k=k: carry_out(out, plan, diary(tmp_path / f"rerun{k}"), shard=Shard(k, 3))) for k in (1, 2, 3)
    ]
    assert [exit_of(child) for child in children] == [0, 0, 0]
    again = [key for k in (1, 2, 3) if (book := tmp_path / f"rerun{k}").exists() for key in book.read_text().split()]
    assert sorted(again) == sorted({edit.key for edit in plan.edits} - done)
    assert carry_out(out, plan, FakeEngine()) == 0  # alone now, it may sweep up after the killed ones
    assert_whole(out, plan, reference)
    assert len(read_run(out).strips) == len(plan.strips)
    assert len({delivery.path for delivery in read_run(out).deliveries.values()}) == len(plan.strips)


def test_the_command_line_interrupted_killed_and_resumed(
    tmp_path: Path, photos: Callable[[int], tuple[Photo, ...]]
) -> None:
    """As a person lives it: the real command in its own process, from a recipe file. Full: 200 photos."""
    photos(many(8, 200))
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        "photos: in\nedits: [{id: c, chain: [make it rain, make it night], keep: all}]\nsize: {long_side: 96}\n"
    )
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache")}

    def progress() -> int:
        return sum(lines(tmp_path / "out/.ip2pbatch" / name) for name in ("results.jsonl", "deliveries.jsonl"))

    def start(out: str) -> subprocess.Popen[bytes]:
        code = "from ip2pbatch.cli.app import main; main()"
        flags = ["run", str(recipe), "--backend", "fake", "--out", str(tmp_path / out)]
        return subprocess.Popen([sys.executable, "-c", code, *flags], env=environment, stdout=subprocess.DEVNULL)

    def stopped(number: int) -> int:
        before = progress()
        child = start("out")
        try:
            wait_until(lambda: progress() > before)
            child.send_signal(number)
            return child.wait(LONG)
        finally:
            child.kill()

    assert start("whole").wait(LONG) == 0
    assert stopped(signal.SIGINT) == 130
    assert stopped(signal.SIGKILL) == -signal.SIGKILL
    done = recorded(tmp_path / "out")
    assert start("out").wait(LONG) == 0
    assert done <= recorded(tmp_path / "out")
    expected, got = (
        {name: sha for name, sha in digests(tmp_path / out).items() if name.startswith("day")}
        for out in ("whole", "out")
    )
    assert len(expected) == 2 * many(8, 200)
    assert got == expected
    assert strays(tmp_path / "out") == []
