"""What machines let each other know: whole whatever happens, by any number of writers, and never believed where it is
damaged or doubtful.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ip2pbatch.disk.shared_findings import SharedFindings
from ip2pbatch.errors import ResourceError


def findings(folder: Path) -> SharedFindings:
    return SharedFindings(folder / "shared", "sizes")


def test_what_one_finds_all_know(tmp_path: Path) -> None:
    findings(tmp_path).keep({"a": [1, "x"], "b": None})
    findings(tmp_path).keep({"c": "ü"})
    assert findings(tmp_path).recall(["a", "b", "c", "d"]) == {"a": [1, "x"], "b": None, "c": "ü"}
    assert SharedFindings(tmp_path / "shared", "dates").recall(["a"]) == {}


def test_any_number_of_writers_lose_nothing_and_leave_few_files(tmp_path: Path) -> None:
    """Also while they put small files together, and others read."""

    def work(writer: int) -> bool:
        for number in range(40):
            findings(tmp_path).keep({f"{writer}-{number}": number})
        own = {f"{writer}-{number}": number for number in range(40)}
        return findings(tmp_path).recall(own) == own

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(4)))
    keys = {f"{writer}-{number}": number for writer in range(4) for number in range(40)}
    assert findings(tmp_path).recall(keys) == keys
    assert len([*(tmp_path / "shared").iterdir()]) <= 70


def test_a_damaged_line_counts_for_nothing_and_the_others_do(tmp_path: Path) -> None:
    findings(tmp_path).keep({"a": 11, "b": 22})
    (path,) = (tmp_path / "shared").iterdir()
    whole = path.read_bytes()
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        found = findings(tmp_path).recall(["a", "b"])
        assert found.items() <= {"a": 11, "b": 22}.items()
        assert at == whole.index(b"\n") or len(found) == 1
    path.write_bytes(whole[:-4] + b"x" * 100_000 + b"\n" + whole)  # a line without end, and a torn one
    assert findings(tmp_path).recall(["a", "b"]) == {"a": 11, "b": 22}
    path.write_bytes(whole[:-3])
    assert findings(tmp_path).recall(["a", "b"]) == {"a": 11}


def test_two_that_say_different_things_are_not_believed(tmp_path: Path) -> None:
    for value in (1, 2, 1):
        findings(tmp_path).keep({"a": value, "b": 3})
    assert findings(tmp_path).recall(["a", "b"]) == {"b": 3}


def test_what_lies_there_otherwise_stops_nothing(tmp_path: Path) -> None:
    findings(tmp_path).keep({"a": 1})
    os.mkfifo(tmp_path / "shared" / "sizes-0.txt")
    (tmp_path / "shared" / "sizes-1.txt").mkdir()
    (tmp_path / "shared" / "sizes-2.txt").write_bytes(os.urandom(5000))
    assert findings(tmp_path).recall(["a"]) == {"a": 1}


def test_a_folder_that_cannot_be_had_is_told_to_who_writes(tmp_path: Path) -> None:
    assert findings(tmp_path).recall(["a"]) == {}
    (tmp_path / "shared").write_text("a file")
    assert findings(tmp_path).recall(["a"]) == {}
    with pytest.raises(ResourceError, match="could not be written"):
        findings(tmp_path).keep({"a": 1})
