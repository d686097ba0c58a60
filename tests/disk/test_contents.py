"""What lies below a folder: digests by contents alone, a second look that reads nothing, and what changed in words."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ip2pbatch.disk import contents as module
from ip2pbatch.disk.contents import Contents, contents, digest_of_contents
from ip2pbatch.disk.digests import digest_of, file_sha256
from ip2pbatch.disk.remembered import cache_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three files in two folders whose names sort otherwise as text than as paths."""
    for name in ("a-b/x.jpg", "a/y.jpg", "z.txt"):
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / name).write_text(name)
    return tmp_path / "set"


def test_a_folder_is_its_names_and_bytes_wherever_it_lies(folder: Path, tmp_path: Path) -> None:
    before, names = digest_of_contents(folder), ("a/y.jpg", "a-b/x.jpg", "z.txt")
    assert before == contents(folder).digest == digest_of({name: file_sha256(folder / name) for name in names})
    assert digest_of_contents(folder / "z.txt") == contents(folder / "z.txt").digest == file_sha256(folder / "z.txt")
    folder.rename(tmp_path / "moved")
    assert digest_of_contents(tmp_path / "moved") == before
    (tmp_path / "moved" / "z.txt").rename(tmp_path / "moved" / "w.txt")
    assert digest_of_contents(tmp_path / "moved") != before


def test_hidden_files_do_not_count_and_links_do(folder: Path, tmp_path: Path) -> None:
    before = digest_of_contents(folder)
    (folder / ".cache").mkdir()
    (folder / ".cache" / "lock").write_text("x")
    (folder / ".DS_Store").write_text("x")
    assert digest_of_contents(folder) == before
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "more.jpg").write_text("x")
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    (folder / "linked" / "round").symlink_to(folder)  # a circle ends
    assert "linked/more.jpg" in contents(folder).files


def test_only_what_has_another_size_or_time_is_read_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    monkeypatch.setattr(module, "file_sha256", lambda path: read.append(path.name) or file_sha256(path))
    first = contents(folder)
    assert sorted(read) == ["x.jpg", "y.jpg", "z.txt"]
    assert contents(folder) == first
    assert len(read) == 3
    (folder / "z.txt").write_text("other")
    assert contents(folder).digest != first.digest
    assert read[3:] == ["z.txt"]
    next((cache_folder() / "manifests").glob("*.gz")).write_bytes(b"rotten")
    assert contents(folder).files.keys() == first.files.keys()
    assert len(read) == 7, "a damaged manifest is made again"


def test_what_changed_is_said_by_name(folder: Path) -> None:
    before = Contents.of(contents(folder).to_bytes())
    assert before == contents(folder)
    (folder / "z.txt").unlink()
    (folder / "a" / "y.jpg").write_text("other")
    for number in range(5):
        (folder / f"new-{number}").write_text("x")
    assert contents(folder).differences(before) == [
        "1 file is changed (a/y.jpg)", "5 files are new (new-0, new-1, new-2, …)", "1 file is gone (z.txt)",
    ]  # fmt: skip
    os.utime(folder / "a-b" / "x.jpg")
    assert not any("x.jpg" in said for said in contents(folder).differences(before)), "a new time alone is no change"
