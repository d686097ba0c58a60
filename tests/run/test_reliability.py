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
from runs import (
    LONG,
    SPEC,
    Wrapped,
    carry_out,
    digests,
    exit_of,
    in_child,
    make_photos,
    make_plan,
    many,
    strays,
    until_killed,
    until_stopped,
)  # fmt: skip

from ip2pbatch.engine.fake import FakeEngine
from ip2pbatch.plan.edits import Edit, Photo, Plan
from ip2pbatch.plan.shard import Shard
from ip2pbatch.run.directory.ledger import open_run
from ip2pbatch.run.directory.view import read_run

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="children are forked: POSIX only")
CHAIN = ["make it winter", "make it night"]


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


def diary(path: Path, pause: Callable[[int], None] = lambda made: None) -> Wrapped:
    """An engine that writes down each Edit it makes, after a `pause` that is told how many it made so far."""
    made = 0

    def note(edits: Sequence[Edit]) -> None:
        nonlocal made
        pause(made)
        made += len(edits)
        with path.open("a") as file:
            file.write("".join(f"{edit.key}\n" for edit in edits))

    return Wrapped(before=note, batch=4)


def recorded(out: Path) -> set[str]:
    """The keys that a run says are done, read as `status` reads them."""
    if not (out / ".ip2pbatch/run.json").exists():
        return set()
    view = read_run(out)
    return {key for key, record in view.records.items() if record.status == "done"}


def wait_until(ready: Callable[[], bool], seconds: float = LONG) -> None:
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
        more = chance.randint(1, len(plan.edits) // (kills + 2))
        enough, pause = lines(results) + more, until_killed(after=more + 4)
        child = in_child(lambda book=book, pause=pause: carry_out(out, plan, diary(book, pause)))
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
    trials, died = many(4, 40), 0
    assert calls >= trials, "this step is not among those that write any more"
    for trial in range(trials):
        fatal = 1 + trial * (calls - 1) // (trials - 1)
        out = tmp_path / f"out{trial}"

        def die(fatal: int = fatal, out: Path = out) -> int:
            _count_calls(step, lambda call: os._exit(77) if call == fatal else None)
            return carry_out(out, plan, FakeEngine(), couriers=1)

        died += exit_of(in_child(die)) == 77
        assert carry_out(out, plan, FakeEngine()) == 0
        assert_whole(out, plan, reference)
    assert died >= trials - 1  # threads may come by with a call less


def _count_calls(step: str, at: Callable[[int], object]) -> Iterator[int]:
    """From now on, in this process, `at(n)` is called before (or after) the n-th call of a writing function. The
    numbers that are left.
    """
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
    return count


def _calls_of(step: str, out: Path, plan: Plan) -> int:
    tally = out.with_suffix(".txt")

    def work() -> int:
        left = _count_calls(step, lambda call: None)
        code = carry_out(out, plan, FakeEngine(), couriers=1)
        tally.write_text(str(next(left) - 1))
        return code

    assert exit_of(in_child(work)) == 0
    return int(tally.read_text())


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_one_signal_drains_the_batch_and_resume_goes_on(
    tmp_path: Path, number: int, code: int, photos: Callable[[int], tuple[Photo, ...]]
) -> None:
    plan = make_plan(photos(40))
    reference = uninterrupted(tmp_path / "whole", plan)
    out, book, begun = tmp_path / "out", tmp_path / "diary", tmp_path / "begun"
    child = in_child(lambda: carry_out(out, plan, diary(book, until_stopped(8, begun))))
    wait_until(begun.exists)
    os.kill(child, number)
    worked = os.times().children_user + os.times().children_system
    assert exit_of(child) == code
    assert os.times().children_user + os.times().children_system - worked < 5  # of processor time: its whole life's
    made = set(book.read_text().split())
    assert len(made) == 12  # the batch at hand is finished, and none is begun
    assert recorded(out) == made  # what was made is kept
    assert strays(out) == []
    assert carry_out(out, plan, diary(tmp_path / "rest")) == 0
    assert not made & set((tmp_path / "rest").read_text().split())
    assert_whole(out, plan, reference)


def test_a_second_interrupt_ends_at_once(tmp_path: Path, photos: Callable[[int], tuple[Photo, ...]]) -> None:
    plan = make_plan(photos(12))
    reference = uninterrupted(tmp_path / "whole", plan)
    out, begun, heard = tmp_path / "out", tmp_path / "begun", tmp_path / "heard"

    def stuck(made: int) -> None:
        until_stopped(8, begun)(made)
        if made == 8:
            heard.touch()
            until_killed(after=8)(made)

    child = in_child(lambda: carry_out(out, plan, diary(tmp_path / "diary", stuck)))
    wait_until(begun.exists)
    wait_until(lambda: lines(out / ".ip2pbatch/results.jsonl") >= 8)
    os.kill(child, signal.SIGINT)
    wait_until(heard.exists)
    assert os.waitpid(child, os.WNOHANG) == (0, 0), "the first interrupt waits for the batch"
    os.kill(child, signal.SIGINT)
    assert exit_of(child) == 130  # though the batch never ends
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
        # The last call of all may be that of the session's end, which nobody misses.
        out, full_from = tmp_path / f"out{trial}", random.Random(trial).randint(1, calls - 1)

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

        def one_first(edits: Sequence[Edit]) -> None:
            """Copies of photos, loaded ahead, could take all the space before the first picture is written."""
            if engine.calls:
                wait_until(lambda: lines(out / ".ip2pbatch/results.jsonl") > 0)

        (disk / "fill").write_bytes(bytes(200 << 10))
        assert carry_out(out, plan, FakeEngine()) == 7  # not even who is writing can be noted
        (disk / "fill").unlink()
        engine = Wrapped(before=one_first)
        assert carry_out(out, plan, engine) == 7
        assert 0 < len(recorded(out)) < 40
        assert digests(out).items() <= reference.items()
        subprocess.run(["mount", "-o", "remount,size=20m", disk], check=True)
        made = recorded(out)
        assert carry_out(out, plan, diary(tmp_path / "rest")) == 0
        assert not made & set((tmp_path / "rest").read_text().split())
        assert_whole(out, plan, reference)
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)  # whoever else looks at the disk now must not matter


def test_a_read_only_output_is_said_to_be_one(tmp_path: Path, photos: Callable[[int], tuple[Photo, ...]]) -> None:
    (tmp_path / "out").write_bytes(b"a file where the folder should be")
    assert carry_out(tmp_path / "out", make_plan(photos(1)), FakeEngine()) == 7


def test_two_processes_on_one_run(tmp_path: Path, photos: Callable[[int], tuple[Photo, ...]]) -> None:
    plan = make_plan(photos(16))
    out, begun, go = tmp_path / "out", tmp_path / "begun", tmp_path / "go"

    def wait(made: int) -> None:
        if made == 4:
            begun.touch()
            wait_until(go.exists)

    child = in_child(lambda: carry_out(out, plan, diary(tmp_path / "diary", wait)))
    wait_until(begun.exists)
    assert carry_out(out, plan, FakeEngine()) == 11
    go.touch()
    assert exit_of(child) == 0
    made = (tmp_path / "diary").read_text().split()
    assert sorted(made) == sorted(edit.key for edit in plan.edits)


def test_eight_shards_two_killed_rerun_as_three(tmp_path: Path, photos: Callable[[int], tuple[Photo, ...]]) -> None:
    plan = make_plan(photos(many(40, 200)), CHAIN)
    reference = uninterrupted(tmp_path / "whole", plan)
    out = tmp_path / "out"
    for k in range(1, 9):
        pause = until_killed(after=4 if k in (2, 5) else len(plan.edits))
        engine = diary(tmp_path / f"diary{k}", pause)
        child = in_child(lambda k=k, engine=engine: carry_out(out, plan, engine, shard=Shard(k, 8)))
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


HELD = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from ip2pbatch.engine.fake import FakeEngine
from runs import until_stopped
edit, pause, made = FakeEngine.edit, until_stopped(2, Path({marker!r})), 0
def held(self, edits, sources):
    global made
    pause(made)
    made += len(edits)
    return edit(self, edits, sources)
FakeEngine.edit = held
"""  # a command that cannot end before its signal comes: the second call of its engine waits for one


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

    def start(out: str, held: str = "") -> subprocess.Popen[bytes]:
        code = "from ip2pbatch.cli.app import main; main()"
        if held:
            code = HELD.format(tests=str(Path(__file__).parents[1] / "helpers"), marker=str(tmp_path / held)) + code
        flags = ["run", str(recipe), "--backend", "fake", "--batch", "2", "--out", str(tmp_path / out)]
        return subprocess.Popen([sys.executable, "-c", code, *flags], env=environment, stdout=subprocess.DEVNULL)

    def stopped(number: int) -> int:
        before, held = progress(), f"held{number}"
        child = start("out", held)
        try:
            wait_until((tmp_path / held).exists)
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
