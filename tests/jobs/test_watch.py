"""Watching a folder: what arrives is edited once, whole, whatever way it came, and over restarts."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from command import CommandLine
from PIL import Image
from runs import LONG, make_photos, many, strays

from ip2pbatch.disk.journal import read_journal
from ip2pbatch.engine.fake import FakeEngine
from ip2pbatch.plan.unedited import Tally
from ip2pbatch.run.devices.processes import Process, Processes
from ip2pbatch.run.engine import Result
from ip2pbatch.run.incoming.arrivals import Arrivals

RECIPE = """
model: tiny
photos: nowhere
edits: [make it winter]
size: {long_side: 64}
output: {folder: out, full_resolution: off}
"""
FAKE = ("--backend", "fake")


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    return path


def files(tmp_path: Path, count: int) -> list[bytes]:
    """The bytes of `count` photos, each another one."""
    return [photo.path.read_bytes() for photo in make_photos(tmp_path / "elsewhere", count)]


def made(out: Path) -> Counter[str]:
    """How often each Edit was recorded as done."""
    return Counter(row["edit"] for row in read_journal(out / ".ip2pbatch/results.jsonl") if row["status"] == "done")


@contextlib.contextmanager
def meanwhile(work) -> Iterator[None]:
    """`work` in a thread; its end is waited for and its error raised."""
    trouble: list[BaseException] = []

    def attempt() -> None:
        try:
            work()
        except BaseException as error:
            trouble.append(error)

    thread = threading.Thread(target=attempt)
    thread.start()
    yield
    thread.join(many(120, 3600))
    assert not thread.is_alive(), "what was to go on meanwhile never ended"
    assert not trouble, trouble[0]


def sessions(out: Path) -> str:
    return (out / ".ip2pbatch/sessions.jsonl").read_text()


def wait_until(ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LONG
    while not ready():
        assert time.monotonic() < deadline, "watch made no progress"
        time.sleep(0.02)


def interrupt(number: signal.Signals, when: Callable[[], bool]) -> None:
    """Send the signal to this process as soon as `when`, if somebody listens: it would end the tests otherwise."""
    wait_until(when)
    assert getattr(signal.getsignal(number), "__module__", "") == "ip2pbatch.run.stop", "nobody listens"
    os.kill(os.getpid(), number)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def ready(arrivals: Arrivals, *paths: Path) -> set[str]:
    """What is handed out after a look at these files."""
    for path in paths:
        arrivals.see(path.name, str(path), path.stat(), Tally())
    with arrivals.poll() as whole:
        return {name for name, _, _ in whole.files}


def test_a_file_is_ready_once_and_only_when_it_has_stopped_growing(tmp_path: Path) -> None:
    clock, path = Clock(), tmp_path / "a"
    arrivals = Arrivals(2.0, clock=clock)
    for size in range(1, 6):  # a slow copy: never 2 s without a change
        path.write_bytes(b"x" * size)
        assert not ready(arrivals, path)
        clock.now += 1.5
    assert not ready(arrivals)  # nobody told of the last change, and it is seen
    assert arrivals.waiting == 1
    clock.now += 2.0
    assert ready(arrivals, path) == {"a"}
    clock.now += 10.0
    assert not ready(arrivals, path)
    assert arrivals.idle == 10.0
    path.write_bytes(b"x" * 9)  # written again: it is another photo now
    assert not ready(arrivals, path)
    clock.now += 2.0
    assert ready(arrivals, path) == {"a"}


def test_a_burst_is_handed_out_in_parts_and_a_failed_look_gives_them_back(tmp_path: Path) -> None:
    clock, paths = Clock(), [tmp_path / name for name in "abcde"]
    arrivals = Arrivals(1.0, most=2, room=4, clock=clock)
    for path in paths:
        path.write_bytes(b"xyz")
    ready(arrivals, *paths)
    assert not arrivals.has_room
    clock.now = 1.0
    with contextlib.suppress(OSError), arrivals.poll() as whole:
        assert [name for name, _, _ in whole.files] == ["a", "b"]
        raise OSError("the share is away")
    parts = [ready(arrivals, *paths) for _ in range(4)]
    assert [len(part) for part in parts] == [2, 2, 1, 0]
    assert set().union(*parts) == set("abcde")
    assert arrivals.waiting == 0


def test_a_file_that_went_before_it_was_whole_is_not_waited_for(tmp_path: Path) -> None:
    clock, path = Clock(), tmp_path / "a"
    arrivals = Arrivals(1.0, clock=clock)
    path.write_bytes(b"x")
    ready(arrivals, path)
    path.unlink()
    clock.now = 1.0
    assert not ready(arrivals)
    assert arrivals.waiting == 0


def test_what_arrives_slowly_in_bursts_renamed_or_deleted_is_edited_once(
    command: CommandLine, recipe: Path, tmp_path: Path
) -> None:
    count = many(40, 500)
    photos, folder = files(tmp_path, count), tmp_path / "in"

    def drop() -> None:
        for number, data in enumerate(photos):
            way = number % 4
            path = folder / f"roll{number % 3}" / f"{number:04d}.jpg"
            path.parent.mkdir(exist_ok=True)
            if way == 0:  # in pieces
                with path.open("wb", buffering=0) as file:
                    for start in range(0, len(data), 400):
                        file.write(data[start : start + 400])
                        time.sleep(0.005)
            elif way == 1:  # under another name first
                path.with_suffix(".part").write_bytes(data)
                path.with_suffix(".part").rename(path)
            else:
                path.write_bytes(data)
            if way == 3:  # bursts, with silence between them
                time.sleep(0.02 if number % 20 else 1.2)
        (folder / "gone.jpg").write_bytes(photos[0][:300])
        (folder / "gone.jpg").unlink()
        interrupt(signal.SIGTERM, lambda: len(list(out.glob("roll*/*.jpg"))) == count)

    out = tmp_path / "out"
    command.guarding = False
    with meanwhile(drop):
        said = command("watch", folder, recipe, *FAKE, "--settle", "1")
    assert said.code == 143, said.err
    assert sorted(made(out).values()) == [1] * count
    assert len(list(out.glob("roll*/*.jpg"))) == count
    assert said.out.splitlines()[-1].startswith(f"interrupted: {count} edits made, {count} files delivered")
    assert said.out.count("make-it-winter.jpg\n") == count  # each is told on stdout when it is there
    assert not strays(out)
    again = command("watch", folder, recipe, *FAKE, "--settle", "0", "--once-idle", "0")
    assert again.code == 0, again.err
    assert again.out.splitlines()[-1].startswith("done: 0 edits made, 0 files delivered")
    assert f"all {count} edits" in again.out
    assert sorted(made(out).values()) == [1] * count


@pytest.mark.skipif(os.name == "nt", reason="workers are given a line as POSIX passes descriptors")
def test_workers_stay_between_batches_and_one_that_ends_meanwhile_is_replaced(
    command: CommandLine, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos, folder, out = files(tmp_path, 6), tmp_path / "in", tmp_path / "out"
    started: list[Process] = []
    start = Processes.start
    monkeypatch.setattr(Processes, "start", lambda *given: started.append(start(*given)) or started[-1])

    def drop() -> None:
        for batch in range(3):
            for number in (2 * batch, 2 * batch + 1):
                (folder / f"{number}.jpg").write_bytes(photos[number])
            wait_until(lambda there=2 * batch + 2: len(list(out.glob("*.jpg"))) == there)
            if batch == 1:
                started[0].kill()
                started[0].process.wait()
        interrupt(signal.SIGINT, lambda: len(list(out.glob("*.jpg"))) == 6)

    command.guarding = False
    with meanwhile(drop):
        said = command("watch", folder, recipe, *FAKE, "--settle", "0.05", "--devices", "cpu:2")
    assert said.code == 130, said.err
    assert "cpu-1 was killed" in said.err
    assert "another worker takes its place" in said.err
    assert len(started) == 3
    assert all(one.process.returncode is not None for one in started), "no process is left"
    assert sorted(made(out).values()) == [1] * 6
    assert not strays(out)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_drains_and_a_restart_goes_on(
    command: CommandLine, recipe: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    photos, folder, out = files(tmp_path, 6), tmp_path / "in", tmp_path / "out"
    for place, data in enumerate(photos[:3]):
        (folder / f"{place}.jpg").write_bytes(data)

    with meanwhile(lambda: interrupt(number, lambda: bool(list(out.glob("*.jpg"))))):
        said = command("watch", folder, recipe, *FAKE, "--settle", "0.05")
    assert said.code == code, said.err
    assert said.out.splitlines()[-1].startswith("interrupted: ")
    for place, data in enumerate(photos[3:], start=3):
        (folder / f"{place}.jpg").write_bytes(data)
    said = command("watch", folder, recipe, *FAKE, "--settle", "0", "--once-idle", "0.2")
    assert said.code == 0, said.err
    assert sorted(made(out).values()) == [1] * 6
    assert len(list(out.glob("*.jpg"))) == 6
    assert not strays(out)


def test_a_photo_that_cannot_be_edited_stops_no_other_and_is_told_at_the_end(
    command: CommandLine, recipe: Path, tmp_path: Path
) -> None:
    recipe.write_text(RECIPE.replace("full_resolution: off", "full_resolution: off, format: png"))
    folder, (good, other) = tmp_path / "in", files(tmp_path, 2)
    (folder / "twin.jpg").write_bytes(good)
    (folder / "torn.jpg").write_bytes(other[: len(other) // 2])
    (folder / "empty.jpg").write_bytes(b"")
    Image.linear_gradient("L").convert("RGB").save(folder / "twin.png")  # the recipe gives both twins one name
    said = command("watch", folder, recipe, *FAKE, "--settle", "0", "--once-idle", "0.3")
    assert said.code == 3
    assert "2 edits made, 2 files delivered" in said.out
    assert len(list((tmp_path / "out").glob("twin*.png"))) == 2
    assert "a name with a number, because another file already had the name (1 file)" in said.err
    assert "failed: make it winter: torn.jpg" in said.err
    assert said.err.count("not edited: empty.jpg") == 2  # when it came, and at the end
    (folder / "torn.jpg").write_bytes(other)  # the camera sends it again
    (folder / "empty.jpg").unlink()
    said = command("watch", folder, recipe, *FAKE, "--settle", "0", "--once-idle", "0.3")
    assert said.code == 0, said.err
    assert "all 3 edits are there" in said.out


@pytest.mark.parametrize(("first", "second"), [("A.jpg", "a.jpg"), ("ü.jpg", "u\u0308.jpg")])
def test_of_two_files_of_one_name_the_first_is_edited_and_the_other_when_it_is_alone(
    command: CommandLine, recipe: Path, tmp_path: Path, first: str, second: str
) -> None:
    photos, folder, out = files(tmp_path, 3), tmp_path / "in", tmp_path / "out"
    (folder / first).write_bytes(photos[0])
    (folder / second).write_bytes(photos[1])
    if len(list(folder.iterdir())) < 2:
        pytest.skip("this file system takes them for one file")
    while (folder / second).stat().st_ctime_ns <= (folder / first).stat().st_ctime_ns:
        os.utime(folder / second)  # there for less long
    (folder / "z.jpg").write_bytes(photos[2])
    said = command("watch", folder, recipe, *FAKE, "--settle", "0", "--once-idle", "0.2")
    assert said.code == 3
    assert "2 edits made, 2 files delivered" in said.out
    assert "would have one name" in said.err

    def make_room() -> None:
        wait_until(lambda: '"reason"' in sessions(out)[before:])
        (folder / first).unlink()
        interrupt(signal.SIGINT, lambda: len(list(out.glob("*.jpg"))) == 3)

    before = len(sessions(out))
    command.guarding = False
    with meanwhile(make_room):
        said = command("watch", folder, recipe, *FAKE, "--settle", "0")
    assert said.code == 130
    assert said.err.count("would have one name") == 1
    assert sorted(made(out).values()) == [1] * 3


def test_a_photo_that_went_before_its_file_was_written_and_came_back_is_missing_nothing(
    command: CommandLine, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (data,) = files(tmp_path, 1)
    photo, out, make = tmp_path / "in/a.jpg", tmp_path / "out", FakeEngine.edit
    photo.write_bytes(data)

    def take_away(*call: Any) -> list[Result]:
        photo.unlink()
        return make(*call)

    def bring_back() -> None:
        wait_until(lambda: (out / ".ip2pbatch/sessions.jsonl").exists() and '"event":"end"' in sessions(out))
        photo.write_bytes(data)
        interrupt(signal.SIGINT, lambda: bool(list(out.glob("*.jpg"))))

    monkeypatch.setattr(FakeEngine, "edit", take_away)
    with meanwhile(bring_back):
        said = command("watch", photo.parent, recipe, *FAKE, "--settle", "0")
    assert said.code == 130
    assert "not delivered" not in said.out + said.err
    assert said.out.splitlines()[-1].startswith("interrupted: 1 edit made, 1 file delivered")
    assert f"watching {photo.parent}" in said.err


def test_a_file_that_cannot_even_be_named_is_told_once_and_keeps_nobody_busy(
    command: CommandLine, recipe: Path, tmp_path: Path
) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    try:
        Path(os.fsdecode(bytes(folder) + b"/bad\xff.jpg")).write_bytes(b"")
    except OSError:
        pytest.skip("this file system has no such names")
    (folder / "good.jpg").write_bytes(files(tmp_path, 1)[0])
    said = command("watch", folder, recipe, *FAKE, "--settle", "0", "--once-idle", "0.5")
    assert said.code == 3
    assert "1 edit made" in said.out
    assert sessions(out).count('"broken"') == 1


def test_what_is_refused_before_anything_is_edited_is_in_status(
    command: CommandLine, recipe: Path, tmp_path: Path
) -> None:
    (tmp_path / "in/none.jpg").write_bytes(b"no photo")
    assert command("watch", tmp_path / "in", recipe, *FAKE, "--settle", "0", "--once-idle", "0.2").code == 3
    said = command("status", tmp_path / "out")
    assert said.code == 0
    assert "0 photos, edits: none; 0 files delivered" in said.out
    assert "not edited: none.jpg: is not a JPEG" in said.out


def test_a_recipe_for_single_photos_or_a_folder_that_is_not_there_is_refused(
    command: CommandLine, recipe: Path, tmp_path: Path
) -> None:
    said = command("watch", tmp_path / "none", recipe, *FAKE)
    assert said.code == 2
    assert "none" in said.err
    said = command("watch", recipe, recipe, *FAKE)
    assert said.code == 2
    assert "is not a folder" in said.err
    (tmp_path / "notes.csv").write_text("photo,instruction\na.jpg,make it snow\n")
    recipe.write_text(RECIPE.replace("photos: nowhere", "photos: {folder: nowhere, instructions: notes.csv}"))
    said = command("watch", tmp_path / "in", recipe, *FAKE)
    assert said.code == 2
    assert "instructions" in said.err


def test_a_later_photo_of_the_same_name_is_another_photo(command: CommandLine, recipe: Path, tmp_path: Path) -> None:
    first, second = files(tmp_path, 2)
    folder, out = tmp_path / "in", tmp_path / "out"
    command.guarding = False
    for data in (first, second):  # as a scanner writes
        (folder / "scan.jpg").write_bytes(data)
        assert command("watch", folder, recipe, *FAKE, "--settle", "0", "--once-idle", "0.2").code == 0
    shown = [(out / name).read_bytes() for name in ("scan_make-it-winter.jpg", "scan_make-it-winter_2.jpg")]
    assert shown[0] != shown[1]


def test_a_photo_changed_under_its_old_inode_size_and_time_is_edited_again(
    command: CommandLine, recipe: Path, tmp_path: Path
) -> None:
    """As `exiftool -P` and `rsync --inplace --times` leave one; new permissions alone are no new photo."""
    folder, out = tmp_path / "in", tmp_path / "out"
    photo = folder / "a.png"
    command.guarding = False

    def change() -> None:
        Image.new("RGB", (64, 48), "red").save(photo, compress_level=0)
        wait_until(lambda: len(delivered(out)) == 1)
        before = photo.stat()
        photo.chmod(0o600)
        Image.new("RGB", (64, 48), "blue").save(photo, compress_level=0)
        os.utime(photo, ns=(before.st_atime_ns, before.st_mtime_ns))
        after = photo.stat()
        assert (after.st_ino, after.st_size, after.st_mtime_ns) == (before.st_ino, before.st_size, before.st_mtime_ns)
        wait_until(lambda: len(delivered(out)) == 2)
        photo.chmod(0o644)

    def delivered(out: Path) -> list[Path]:
        return list(out.glob("*.png"))

    with meanwhile(change):
        assert command("watch", folder, recipe, *FAKE, "--settle", "0.05", "--once-idle", "1").code == 0
    assert sorted(made(out).values()) == [1, 1]
    assert len(delivered(out)) == 2
