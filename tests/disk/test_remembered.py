"""What is remembered between runs: it only saves time, whatever becomes of its file."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import pytest

from ip2pbatch.disk.remembered import Remembered, cache_folder


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "found.sqlite"


def test_what_was_kept_is_recalled_by_topic_and_the_newest_counts(file: Path) -> None:
    sizes, names = Remembered("sizes", file), Remembered("names", file)
    assert sizes.get("a") is None
    assert not file.exists(), "nothing is made before something is kept"
    sizes.keep({"a": [1, 2.5], "b": {"deep": None}, "ü|\0": "ß"})
    names.keep({"a": "another"})
    sizes.keep({"a": [3]})
    assert Remembered("sizes", file).recall(["a", "b", "c", "ü|\0"]) == {"a": [3], "b": {"deep": None}, "ü|\0": "ß"}
    assert sizes.everything() == {"a": [3], "b": {"deep": None}, "ü|\0": "ß"}
    assert names.everything() == {"a": "another"}


def test_it_lies_in_this_users_cache_where_no_file_is_named() -> None:
    Remembered("sizes").keep({"a": 1})
    assert (cache_folder() / "remembered.sqlite").is_file()
    assert Remembered("sizes").get("a") == 1


def test_a_file_that_is_no_database_is_begun_anew(file: Path) -> None:
    file.parent.mkdir()
    file.write_bytes(b"not a database at all" * 100)
    kept = Remembered("sizes", file)
    assert kept.get("a") is None
    kept.keep({"a": 1})
    assert kept.get("a") == 1


def test_values_that_are_no_json_are_as_good_as_none(file: Path) -> None:
    kept = Remembered("sizes", file)
    kept.keep({"a": 1})
    with sqlite3.connect(file) as database:
        database.execute("UPDATE found SET value = '[1'")
    database.close()
    assert kept.get("a") is None
    assert kept.everything() == {}


def test_a_place_that_cannot_be_written_costs_nothing_but_time(tmp_path: Path, file: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    kept = Remembered("sizes", tmp_path / "file" / "below.sqlite")
    kept.keep({"a": 1})
    assert kept.get("a") is None
    Remembered("sizes", file).keep({"a": 1})
    with sqlite3.connect(file) as locked:
        locked.execute("BEGIN EXCLUSIVE")
        other = Remembered("sizes", file)
        other.keep({"a": 2})
        locked.rollback()
    locked.close()
    assert other.get("a") == 1


def test_many_may_keep_at_once(file: Path) -> None:
    def keep(number: int) -> None:
        for row in range(20):
            Remembered("sizes", file).keep({f"{number} {row}": number})

    threads = [threading.Thread(target=keep, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(Remembered("sizes", file).everything()) == 80
