"""The disk is asked in groups: who writes faster than it takes waits, and what it refuses is heard by all."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest

from ip2pbatch.disk.atomic import write_atomic
from ip2pbatch.disk.journal import Journal, read_journal
from ip2pbatch.disk.settling import Settling
from ip2pbatch.errors import ResourceError


def test_no_more_lines_than_are_agreed_wait_for_a_slow_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken, written, real = threading.Event(), list[int](), os.fsync

    def slow(descriptor: int) -> None:
        assert taken.wait(20)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", slow)
    journal = Journal(tmp_path / "j.jsonl")
    settling = Settling((journal,), most=8)

    def write() -> None:
        for number in range(20):
            journal.append({"n": number}, lasting=False)
            written.append(number)
            settling.written()

    writer = threading.Thread(target=write)
    writer.start()
    writer.join(0.5)
    assert len(written) == 8
    assert len(list(read_journal(journal.path))) == 8  # a kill takes none of them
    taken.set()
    writer.join(20)
    settling.close()
    assert [row["n"] for row in read_journal(journal.path)] == [*range(20)]


def test_files_are_asked_for_before_the_lines_that_speak_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, real = list[int](), os.fsync
    journal = Journal(tmp_path / "j.jsonl")
    settling = Settling((journal,), seconds=60)
    files = [tmp_path / f"{number}" / "a" for number in range(6)]

    def noted(descriptor: int) -> None:
        real(descriptor)
        asked.append(os.fstat(descriptor).st_ino)

    monkeypatch.setattr(os, "fsync", noted)
    for path in files:
        write_atomic(path, b"picture", root=tmp_path, lasting=False)
        settling.files([path])
        journal.append({"path": path.name}, lasting=False)
        settling.written()
    files[0].unlink()  # whoever takes a file away meanwhile is no trouble
    assert asked == []
    settling.close()
    wanted = {path.stat().st_ino for path in [*files[1:], *(path.parent for path in files), tmp_path]}
    assert set(asked[:-1]) == wanted
    assert asked[-1] == journal.path.stat().st_ino


def test_what_the_disk_refuses_is_raised_to_whoever_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    journal = Journal(tmp_path / "j.jsonl")
    settling = Settling((journal,), most=4, seconds=0.01)
    monkeypatch.setattr(os, "fsync", full)
    journal.append({"n": 1}, lasting=False)
    with pytest.raises(ResourceError, match="the disk is full"):
        settling.written(5)  # more than may wait
    with pytest.raises(ResourceError, match="the disk is full"):
        settling.settle()
    settling.close()  # it was told
