"""A watched folder is gone through in parts, and what the system tells of it is seen at once."""

from __future__ import annotations

import itertools
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from runs import LONG

from ip2pbatch.errors import PlanError
from ip2pbatch.plan.written.recipe import PhotoFolder
from ip2pbatch.run.incoming import lookout as module
from ip2pbatch.run.incoming.arrivals import Arrivals
from ip2pbatch.run.incoming.lookout import Lookout
from ip2pbatch.run.incoming.notices import Notices


class Told(Notices):
    """A system that tells what a test says, or not, for a reason."""

    def __init__(self, why: str = "") -> None:
        super().__init__()
        self.paths: set[str] = set()
        self.why, self.opened = why, 0

    def open(self, folder: Path) -> str:
        self.opened += 1
        return self.why

    @property
    def is_open(self) -> bool:
        return self.opened > 0 and not self.why

    def hear(self) -> tuple[set[str], str]:
        told, self.paths = self.paths, set()
        return told, ""


class Watch:
    """A lookout over a folder whose files are whole at once, and what it noted."""

    def __init__(self, folder: Path, notices: Notices | None = None, part: int = 5, **how: Any) -> None:
        self.folder, self.now = folder, 0.0
        self.noted: list[str] = []
        photos = PhotoFolder.model_validate({"folder": folder, **how})
        self.arrivals = Arrivals(0.0, most=1000, pairs=photos.pairs, clock=lambda: self.now)
        self.lookout = Lookout(
            photos, self.arrivals, self.noted.append, notices=notices or Told(), part=part, alone=part
        )  # fmt: skip

    def look(self) -> set[str]:
        """What is handed out after one look."""
        self.lookout.look()
        with self.arrivals.poll() as whole:
            return {name for name, _, _ in whole.files} | {f"{one.name}: {one.reason}" for one in whole.broken}

    def all(self) -> set[str]:
        """What is handed out until the lookout has seen everything."""
        found = self.look()
        while self.lookout.hurries:
            found |= self.look()
        return found

    def until(self, wanted: set[str]) -> None:
        """What is handed out comes to be this; the system needs a moment to tell."""
        found, deadline = set[str](), time.monotonic() + LONG
        while found != wanted:
            assert time.monotonic() < deadline, f"{found} is not {wanted}"
            assert found < wanted, found
            found |= self.all()
            time.sleep(0.005)


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


@pytest.fixture
def heard(folder: Path) -> Iterator[Callable[..., Watch]]:
    """A lookout whom the real system tells, and whose own rounds never get anywhere."""
    pytest.importorskip("watchfiles")
    watches: list[Watch] = []

    def start(**how: Any) -> Watch:
        touch(*(folder / f"old/{number}.jpg" for number in range(50)))
        watch = Watch(folder, Notices(), part=100, **how)
        watches.append(watch)
        assert len(watch.all()) == 50
        watch.lookout._round = itertools.repeat(None)
        return watch

    yield start
    for watch in watches:
        watch.lookout.close()


def test_a_look_at_a_large_folder_is_a_part_of_it_and_each_photo_is_found_once(folder: Path) -> None:
    touch(*(folder / f"{number % 3}/{number}.jpg" for number in range(60)))
    watch = Watch(folder)
    parts = [watch.look() for _ in range(20)]
    assert max(map(len, parts)) <= 5
    assert sum(map(len, parts)) == 60
    touch(folder / "new/late.jpg")
    assert [found for _ in range(26) if (found := watch.look())] == [{"new/late.jpg"}]


def test_what_is_not_dealt_with_stays_in_the_folder(folder: Path) -> None:
    touch(*(folder / f"{number}.jpg" for number in range(60)))
    watch = Watch(folder)
    watch.arrivals = watch.lookout._arrivals = Arrivals(9.0, room=10, clock=lambda: watch.now)
    for _ in range(20):
        watch.look()
    assert watch.arrivals.waiting == 10
    assert not watch.lookout.hurries
    assert not watch.lookout.is_calm


def test_what_the_system_tells_of_is_seen_without_a_round(folder: Path, heard: Callable[..., Watch]) -> None:
    watch = heard(exclude=["private"])
    touch(folder / "a.jpg", folder / ".hidden.jpg", folder / ".trash/b.jpg", folder / "private/c.jpg")
    touch(folder / "deep/er/d.jpg", folder / "notes.txt")
    watch.until({"a.jpg", "deep/er/d.jpg"})
    (folder / "a.jpg").rename(folder / "deep/b.jpg")
    (folder / "a.part").write_bytes(b"x")
    (folder / "a.part").rename(folder / "a.jpg")
    watch.until({"a.jpg", "deep/b.jpg"})
    assert not watch.noted


def test_a_folder_that_is_moved_in_is_seen_with_all_that_comes_into_it(
    tmp_path: Path, folder: Path, heard: Callable[..., Watch]
) -> None:
    watch = heard()
    touch(*(tmp_path / f"roll/{number % 2}/{number}.jpg" for number in range(30)))
    (tmp_path / "roll").rename(folder / "roll")
    watch.until({f"roll/{number % 2}/{number}.jpg" for number in range(30)})
    touch(folder / "roll/1/later.jpg")
    watch.until({"roll/1/later.jpg"})
    (folder / "roll").rename(folder / "Roll")
    watch.until({*(f"Roll/{number % 2}/{number}.jpg" for number in range(30)), "Roll/1/later.jpg"})


def test_a_new_folder_is_gone_through_again_for_what_came_before_the_system_watched_it(folder: Path) -> None:
    told = Told()
    watch = Watch(folder, told)
    watch.all()
    watch.lookout._round = itertools.repeat(None)
    touch(folder / "new/a.jpg")
    told.paths = {str(folder / "new")}
    assert watch.all() == {"new/a.jpg"}
    touch(folder / "new/b.jpg")
    watch.now += 1.0
    assert watch.all() == {"new/b.jpg"}


def test_links_are_followed_as_a_walk_follows_them_and_the_system_only_where_none_leads_away(
    tmp_path: Path, folder: Path, heard: Callable[..., Watch]
) -> None:
    watch = heard()
    touch(tmp_path / "other/theirs.jpg")
    (folder / "inside").symlink_to(folder / "old")
    (folder / "outside").symlink_to(tmp_path / "other")
    (folder / "photo.jpg").symlink_to(folder / "old/0.jpg")
    touch(folder / "inside/new.jpg")
    watch.until({"photo.jpg", "old/new.jpg"})
    told = Told()
    later = Watch(folder, told, part=100)
    later.all()
    assert told.opened == 0
    assert "a link leads out of it" in later.noted[0]


def test_a_limit_of_the_system_is_told_and_the_folder_gone_through_instead(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watchfiles = pytest.importorskip("watchfiles")

    def refuse(*_: Any, **__: Any) -> Iterator[Any]:
        raise OSError('OS file watch limit reached. about ["/in"]')
        yield

    monkeypatch.setattr(watchfiles, "watch", refuse)
    watch = Watch(folder, Notices())
    watch.all()
    assert len(watch.noted) == 1
    assert "limit of watched folders is reached (fs.inotify.max_user_watches)" in watch.noted[0]
    touch(folder / "a.jpg")
    assert watch.look() == {"a.jpg"}


def test_a_limit_that_is_reached_later_is_told_too(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watchfiles = pytest.importorskip("watchfiles")

    def tell(*_: Any, **__: Any) -> Iterator[Any]:
        yield set()
        yield {(1, str(folder / "none.jpg"))}
        raise RuntimeError("error in underlying watcher: No space left on device (os error 28)")

    monkeypatch.setattr(watchfiles, "watch", tell)
    watch = Watch(folder, Notices())
    for _ in range(4):
        watch.all()
    assert len(watch.noted) == 1
    touch(folder / "a.jpg")
    assert watch.look() == {"a.jpg"}


def test_without_the_library_a_small_folder_needs_no_word_and_a_large_one_has_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "watchfiles", None)
    touch(*(folder / f"{number}.jpg" for number in range(9)))
    small, large = Watch(folder, Notices(), part=20), Watch(folder, Notices())
    assert len(small.all()) == len(large.all()) == 9
    assert not small.noted
    assert "watchfiles is not installed" in large.noted[0]


def test_more_than_can_be_held_is_gone_through_instead(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_HEARD", 10)
    told = Told()
    watch = Watch(folder, told, part=100)
    watch.all()
    touch(*(folder / f"{number}.jpg" for number in range(30)))
    told.paths = {str(folder / f"{number}.jpg") for number in range(11)}
    assert len(watch.look()) == 30


def test_a_folder_that_goes_and_comes_back_is_waited_for_and_asked_for_anew(tmp_path: Path, folder: Path) -> None:
    told = Told()
    watch = Watch(folder, told, part=100)
    touch(folder / "a.jpg", folder / "b.jpg")
    assert watch.all() == {"a.jpg", "b.jpg"}
    folder.rename(tmp_path / "elsewhere")
    assert watch.all() == set()
    assert watch.all() == set()
    assert watch.lookout.is_calm
    assert watch.noted == [f"{folder} is gone; waiting for it to come back"]
    touch(tmp_path / "elsewhere/c.jpg")
    (tmp_path / "elsewhere").rename(folder)
    assert watch.all() == {"c.jpg"}
    assert told.opened == 2
    shutil.rmtree(folder)
    touch(folder / "d.jpg")  # another folder of that name between two looks, perhaps with the same inode
    told.paths = {str(folder)}
    assert watch.all() == {"d.jpg"}
    assert told.opened == 3


def test_the_system_is_asked_anew_for_a_folder_that_took_the_place_of_the_first(
    folder: Path, heard: Callable[..., Watch]
) -> None:
    watch = heard()
    shutil.rmtree(folder)
    touch(folder / "new/a.jpg")
    watch.until({"new/a.jpg"})
    watch.lookout._round = itertools.repeat(None)
    touch(folder / "new/b.jpg")
    watch.until({"new/b.jpg"})


def test_a_folder_that_never_was_there_is_refused(folder: Path) -> None:
    with pytest.raises(PlanError, match="No such file"):
        Watch(folder / "none").look()


def test_a_folder_without_permission_is_told_until_it_can_be_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(folder / "open/a.jpg", folder / "shut/b.jpg")
    listed, shut = os.scandir, [str(folder / "shut")]

    def scandir(path: Any) -> Any:
        if str(path) in shut:
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    watch = Watch(folder, part=100)
    assert watch.all() == {"open/a.jpg", "shut/: the folder cannot be read: Permission denied"}
    assert watch.all() == set()
    assert watch.lookout.mended == ()
    shut.clear()
    assert watch.all() == {"shut/b.jpg"}
    assert watch.lookout.mended == (str(folder / "shut"),)


@pytest.mark.parametrize(("pairs", "first", "second"), [("jpeg", "1.JPG", "1.cr3"), ("raw", "1.cr3", "1.JPG")])
def test_of_a_shot_the_other_file_is_edited_when_the_first_is_gone(
    folder: Path, pairs: str, first: str, second: str
) -> None:
    touch(folder / second)
    watch = Watch(folder, part=100, pairs=pairs)
    watch.lookout.look()
    touch(folder / first)  # seen by nobody yet, and known by its name
    with watch.arrivals.poll() as whole:
        assert not whole.files
    assert watch.all() == {first}
    watch.all()
    assert [kind.files for kind in watch.lookout.passed] == [1]
    (folder / first).unlink()
    assert watch.all() == {second}
