"""Digests that machines share: one of them reads a photo, wherever its disk is mounted, and takes none for another."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest
from command import CommandLine

from ip2pbatch.disk.shared_findings import SharedFindings
from ip2pbatch.plan import memory
from ip2pbatch.plan import photos as reading
from ip2pbatch.plan.memory import SHARED, Memory, everywhere
from ip2pbatch.plan.photo_digests import Look, look
from ip2pbatch.plan.photos import scan
from ip2pbatch.plan.written.recipe import PhotoFolder


class Machines:
    """Machines with a cache each, which see the photos at a place of their own and share a folder; it is tomorrow."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder, self._read = folder, list[str]()
        monkeypatch.setattr(reading, "look", self._look)

    def _look(self, path: Path) -> Look:
        self._read.append(path.name)
        return look(path)

    def memory(self, name: str, later: float = 86_400) -> Memory:
        return Memory(
            self._folder / f"{name}.sqlite", shared=self._folder / "shared", clock=lambda: time.time() + later
        )  # fmt: skip

    def read(self, name: str, photos: Path, later: float = 86_400) -> list[str]:
        """Which photos a machine has to read."""
        self._read.clear()
        scan([PhotoFolder(folder=photos)], memory=self.memory(name, later))
        return sorted(self._read)


@pytest.fixture
def machines(shoot: Path, monkeypatch: pytest.MonkeyPatch) -> Machines:
    return Machines(shoot, monkeypatch)


ALL = ["one.jpg", "three.png", "two.jpg"]


def test_a_photo_is_read_by_one_machine_wherever_its_disk_is_mounted(shoot: Path, machines: Machines) -> None:
    assert machines.read("one", shoot / "photos") == ALL
    (shoot / "mnt").symlink_to(shoot / "photos")  # the same files at another place
    assert machines.read("two", shoot / "mnt") == []
    assert machines.read("two", shoot / "mnt") == []
    found = scan([PhotoFolder(folder=shoot / "mnt")], memory=machines.memory("three")).photos
    assert [(photo.digest, photo.size) for photo in found] == [
        (now.digest, now.size) for now in (look(photo.path) for photo in found)
    ]  # fmt: skip


def test_what_may_be_another_photo_is_read(shoot: Path, machines: Machines) -> None:
    """A copy, however alike its times; one that was written anew under its size and time; one of the same number."""
    machines.read("one", shoot / "photos")
    shutil.copytree(shoot / "photos", shoot / "copy")
    assert machines.read("two", shoot / "copy") == ALL
    path, status = shoot / "photos" / "one.jpg", (shoot / "photos" / "one.jpg").stat()
    path.write_bytes(path.read_bytes()[:-2] + b"\xff\xd9")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    (shoot / "photos" / "three.png").rename(shoot / "photos" / "four.png")
    assert machines.read("three", shoot / "photos") == ["four.png", "one.jpg"]


def test_others_hear_of_a_photo_when_it_has_been_at_rest(shoot: Path, machines: Machines) -> None:
    """A disk whose clock ticks by seconds shows a file that was written twice in one of them as unchanged."""
    assert machines.read("one", shoot / "photos", later=10) == ALL
    assert machines.read("two", shoot / "photos") == ALL
    assert machines.read("three", shoot / "photos") == []


def test_what_turned_out_to_be_wrong_is_believed_by_nobody(shoot: Path, machines: Machines) -> None:
    path = shoot / "photos" / "one.jpg"
    machines.memory("liar").keep({(str(path), path.stat()): Look("0" * 32, (128, 96))})
    assert machines.read("one", shoot / "photos") == ["three.png", "two.jpg"]
    machines.memory("one").forget(str(path))
    assert machines.read("one", shoot / "photos") == ["one.jpg"]
    assert machines.read("one", shoot / "photos") == []
    assert machines.read("two", shoot / "photos") == ["one.jpg"]


@pytest.mark.parametrize("row", [None, 7, [], ["x", 40, 30], ["0" * 32, 0, 30], ["0" * 32, "40", 30], {"a": 1}])
def test_a_row_of_another_shape_is_no_digest(shoot: Path, machines: Machines, row: object) -> None:
    path = shoot / "photos" / "one.jpg"
    SharedFindings(shoot / "shared", "photo-digests").keep({everywhere(str(path), path.stat()): row})
    assert machines.read("one", shoot / "photos") == ALL


def test_the_environment_names_the_folder(shoot: Path, command: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = shoot / "recipe.yaml"
    recipe.write_text("model: tiny\nphotos: photos\nedits: [make it winter]\noutput: {folder: out}\n")
    monkeypatch.setattr(memory, "_AT_REST", -86_400)
    monkeypatch.setenv(SHARED, str(shoot / "a" / "shared"))
    assert command("plan", recipe).code == 0
    assert len([*(shoot / "a" / "shared").iterdir()]) == 1
    (shoot / "a" / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(shoot / "cache"))
    monkeypatch.setenv(SHARED, str(shoot / "a" / "file"))
    said = command("plan", recipe)
    assert said.code == 0
    assert "what photos' headers say is not shared" in said.err
    monkeypatch.setenv(SHARED, "s3://bucket/digests")
    said = command("plan", recipe)
    assert (said.code, f"{SHARED}: s3://bucket/digests is an address and no path" in said.err) == (2, True)
