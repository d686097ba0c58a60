"""A folder as it is: what lies in it and is not edited is counted, and nothing that happens to it ends a scan."""

from __future__ import annotations

import json
import os
import random
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal
from xml.etree import ElementTree

import jsonschema
import pytest
from command import CommandLine
from PIL import Image

from ip2pbatch.errors import NothingMatchedError
from ip2pbatch.plan.folder_walk import SUFFIXES
from ip2pbatch.plan.memory import Memory
from ip2pbatch.plan.photos import scan
from ip2pbatch.plan.unedited import is_litter, unread_by_head, unread_by_suffix
from ip2pbatch.plan.written.recipe import PhotoFolder
from ip2pbatch.show import ci

FAKE = ("--backend", "fake")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two photos, among all that folders of photos hold."""
    folder = tmp_path / "photos"
    (folder / "old" / ".ip2pbatch").mkdir(parents=True)
    for seed, name in enumerate(("a.jpg", "b.jpg", "old/c.jpg", ".hidden.jpg", "skip.jpg")):
        Image.new("RGB", (64, 48), (40 * seed, 90, 120)).save(folder / name)
    for name in (
        "1.psd",
        "2.PSD",
        "r.jp2",
        "n.txt",
        "a.xmp",
        "noend",
        ".DS_Store",
        "Thumbs.db",
        "desktop.ini",
        "._a.jpg",
    ):
        (folder / name).write_bytes(b"x")
    (folder / "lost.jpg").symlink_to(folder / "nothing.jpg")
    os.mkfifo(folder / "pipe.jpg")
    return folder


@pytest.fixture
def recipe(folder: Path) -> Path:
    path = folder.parent / "recipe.yaml"
    path.write_text(
        "model: tiny\nphotos: {folder: photos, exclude: skip.jpg}\nedits: [make it winter]\nsize: {long_side: 64}\n"
        "output: {folder: out, full_resolution: off}\n"
    )
    return path


KINDS = {
    "JPEG 2000 file": 1, "Photoshop files": 2, "photo": 1, "hidden photo": 1, "folder": 1, "broken link": 1,
    "sidecar": 1, "pipe or device": 1, "other files": 2,
}  # fmt: skip


def counted(told: dict[str, Any]) -> dict[str, int]:
    return {kind["kind"]: kind["files"] for kind in told["passed"]}


def test_all_that_is_not_edited_is_counted_everywhere_and_fails_nothing(command: CommandLine, recipe: Path) -> None:
    planned = json.loads(command("plan", recipe, "--json").out)
    assert counted(planned) == KINDS
    junit = recipe.with_name("junit.xml")
    said = command("run", recipe, *FAKE, "--junit", junit)
    assert said.code == 0
    *before, last = said.out.splitlines()
    assert last.startswith("done: 2 edits made")
    assert "passed over: 2 Photoshop files (1.psd …): not read here; export as JPEG, PNG or TIFF" in before
    assert "passed over: 2 other files (.txt, no suffix): no pictures" in before
    assert "Thumbs" not in said.out + said.err
    cases = ElementTree.parse(junit).iter("testcase")
    skipped = [case.get("name") for case in cases if case.find("skipped") is not None]
    assert skipped == [*KINDS]
    assert "passed over: 2 Photoshop files" in command("status", recipe).out
    assert counted(json.loads(command("status", recipe, "--json").out)) == KINDS
    assert "2 Photoshop files (1.psd …): not read here" in (recipe.parent / "out/report.html").read_text()
    again = command("run", recipe, *FAKE, "--json")
    summary = json.loads(again.out.splitlines()[-1])
    jsonschema.validate(summary, ci.LINE)
    assert counted(summary) == KINDS


def test_watch_counts_too(command: CommandLine, folder: Path, recipe: Path) -> None:
    said = command("watch", folder, recipe, "--settle", "0", "--once-idle", "0", *FAKE)
    assert said.code == 0
    assert "passed over: 2 Photoshop files" in said.out


def test_a_broken_photo_and_a_named_file_that_cannot_be_read_end_with_3(command: CommandLine, folder: Path) -> None:
    out = folder.parent / "out"
    edit = ("-i", "make it winter", "-o", out, *FAKE)
    for name, why in (("1.psd", "Photoshop"), ("n.txt", "is not a JPEG"), ("pipe.jpg", "is a pipe or a device")):
        said = command("edit", folder / "a.jpg", folder / name, *edit)
        assert said.code == 3, said
        assert why in said.err
    (folder / "disguised.jpg").write_bytes(b"8BPS\0\1" + bytes(40))
    said = command("edit", folder, *edit)
    assert said.code == 3
    assert "disguised.jpg: is Photoshop inside, which is not read here" in said.err
    assert command("edit", folder / "1.psd", *edit).code == 3


def test_a_folder_of_nothing_that_is_read_says_what_there_is(command: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "phone").mkdir()
    (tmp_path / "phone" / "1.psd").write_bytes(b"x")
    said = command("edit", tmp_path / "phone", "-i", "make it winter", "-o", tmp_path / "out", *FAKE)
    assert said.code == 5
    assert "passed over: 1 Photoshop file (1.psd): not read here; export as JPEG, PNG or TIFF" in said.err


def test_litter_and_formats_are_told_apart() -> None:
    assert all(map(is_litter, (".DS_Store", "Thumbs.db", "desktop.ini", "._a.jpg", ".Trash-1000")))
    assert not any(map(is_litter, ("a.jpg", ".hidden.jpg", "thumbs.jpg")))
    assert not any(map(unread_by_suffix, SUFFIXES))
    for head, title in (
        (b"8BPS\0\1", "Photoshop"), (b"\0\0\0\x0cjP  ", "JPEG 2000"),

    ):  # fmt: skip
        found = unread_by_head(head)
        assert found is not None
        assert found.title == title
    assert unread_by_head(b"RIFF\x10\0\0\0WEBPVP8 ") is None


@contextmanager
def churned(folder: Path, a_second: float = 100) -> Iterator[None]:
    """Renames, deletions, and files that turn into folders and pipes, while the block goes on."""
    seeds, over = random.Random(7), threading.Event()
    photos = [Image.new("RGB", (48, 32), (50 * n, 80, 90)) for n in range(5)]
    for n in range(12):
        photos[n % 5].save(folder / f"{n}.jpg")

    def stir() -> None:
        while not over.wait(1 / a_second):
            path = folder / f"{seeds.randrange(12)}.jpg"
            with suppress(OSError):
                one_stir(path)

    def one_stir(path: Path) -> None:
        change = seeds.randrange(6)
        if change == 0:
            path.rename(folder / f"{seeds.randrange(12)}.jpg")
        elif change == 1:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        elif change == 2 and not path.exists():
            path.mkdir()
        elif change == 3 and not path.exists():
            os.mkfifo(path)
        elif path.is_file() or not path.exists():
            photos[seeds.randrange(5)].save(path, "JPEG")

    thread = threading.Thread(target=stir)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def test_a_folder_that_changes_all_the_time_is_scanned(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    memory = Memory(tmp_path / "memory.sqlite")
    folders = [PhotoFolder(folder=tmp_path / "in")]
    with churned(tmp_path / "in", 500):
        seen = []
        for _ in range(60):
            with suppress(NothingMatchedError):
                seen.append(scan(folders, memory=memory))
    assert any(found.photos for found in seen)


def test_commands_on_a_folder_that_changes_all_the_time_never_end_as_a_bug(
    command: CommandLine, tmp_path: Path
) -> None:
    command.guarding = False
    (tmp_path / "in").mkdir()
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("model: tiny\nphotos: in\nedits: [make it winter]\nsize: {long_side: 64}\n")
    with churned(tmp_path / "in"):
        codes = {command("plan", recipe).code for _ in range(8)} | {
            command(*arguments).code
            for arguments in (
                ("run", recipe, *FAKE), ("run", recipe, *FAKE),
                ("watch", tmp_path / "in", recipe, "-o", tmp_path / "seen", "--settle", "0", "--once-idle", "0", *FAKE),
            )
        }  # fmt: skip
    assert codes <= {0, 3, 5}


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="there is no /proc here")
def test_proc_is_scanned(tmp_path: Path) -> None:
    started = time.monotonic()
    with pytest.raises(NothingMatchedError):
        scan([PhotoFolder(folder="/proc/self", follow_links=False)], memory=Memory(tmp_path / "memory"))
    assert time.monotonic() - started < 60


@pytest.fixture
def shots(tmp_path: Path) -> Path:
    """Shots as JPEG with raw or HEIC, as HEIC with raw, and files that only look so; none of the raws can be read."""
    folder = tmp_path / "shots"
    (folder / "day").mkdir(parents=True)
    for name in ("1.JPG", "2.jpg", "day/3.jpg", "4.jpg", "4.jpeg"):
        Image.new("RGB", (64, 48), (len(name) * 9, 90, 120)).save(folder / name, "JPEG")
    for name in ("1.cr3", "2.HEIC", "2.dng", "3.nef", "5.heic", "5.dng"):
        (folder / name).write_bytes(b"x")
    return folder


@pytest.mark.parametrize(
    ("pairs", "wanted", "passed"),
    [
        ("jpeg", ["1.JPG", "2.jpg", "3.nef", "4.jpeg", "4.jpg", "5.heic", "day/3.jpg"], 4),
        ("raw", ["1.cr3", "2.dng", "3.nef", "4.jpeg", "4.jpg", "5.dng", "day/3.jpg"], 4),
        ("both", None, 0),
    ],
)
def test_of_a_shots_files_one_is_edited_and_the_others_are_counted(
    shots: Path, tmp_path: Path, pairs: Literal["jpeg", "raw", "both"], wanted: list[str] | None, passed: int
) -> None:
    found = scan([PhotoFolder(folder=shots, pairs=pairs)], memory=Memory(tmp_path / "memory.sqlite"))
    names = sorted([*(photo.name for photo in found.photos), *(one.name for one in found.broken)])
    assert names == (wanted or sorted(path.relative_to(shots).as_posix() for path in shots.rglob("*.*")))
    assert sum(kind.files for kind in found.passed if "of a shot" in kind.reason) == passed


def test_a_raw_beside_its_jpeg_is_no_failure(command: CommandLine, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.new("RGB", (64, 48), (90, 90, 120)).save(folder / "a.jpg")
    (folder / "a.nef").write_bytes(b"x")
    said = command("edit", folder, "-i", "make it winter", "-o", tmp_path / "out", *FAKE)
    assert said.code == 0
    assert "passed over: 1 file (a.nef): of a shot that is edited from another file" in " ".join(said.out.split())
