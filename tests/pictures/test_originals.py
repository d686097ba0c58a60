"""Photos at full size while files are delivered: decoded once for all their edits, and let go."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from runs import Wrapped, carry_out, make_photos, make_plan

from ip2pbatch.errors import PhotoError
from ip2pbatch.pictures import images
from ip2pbatch.pictures.originals import Originals


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the photos that were decoded at full size, in order."""
    names: list[str] = []
    load, lock = images.load, threading.Lock()

    def counted(path: Path, size: tuple[int, int] | None = None, **options: object) -> images.Picture:
        if size is None and path.suffix == ".jpg":
            with lock:
                names.append(path.name)
        return load(path, size, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(images, "load", counted)
    return names


def photo(folder: Path, name: str, size: tuple[int, int] = (100, 80)) -> Path:
    Image.new("RGB", size, (10, 200, 30)).save(folder / name)
    return folder / name


def test_a_photo_is_decoded_once_for_all_its_deliveries(tmp_path: Path, decoded: list[str]) -> None:
    plan = make_plan(make_photos(tmp_path / "in", 2), ["a", "b", "c", "d", "e"], keep=(1, 2, 3, 4, 5))
    assert carry_out(tmp_path / "out", plan, Wrapped()) == 0
    assert sorted(decoded) == ["0000.jpg", "0001.jpg"]


def test_threads_that_want_one_photo_at_once_decode_it_once(tmp_path: Path, decoded: list[str]) -> None:
    originals, path = Originals(), photo(tmp_path, "a.jpg", (1500, 1000))
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: originals.at(path).picture, range(8)))
    assert decoded == ["a.jpg"]
    assert all(picture is found[0] for picture in found)


def test_no_more_than_the_bytes_allowed_are_kept(tmp_path: Path, decoded: list[str]) -> None:
    originals = Originals(most_bytes=2 * 100 * 80 * 3)
    paths = [photo(tmp_path, f"{name}.jpg") for name in "abc"]
    for path in (*paths, paths[2], paths[1], paths[0]):
        assert originals.at(path).picture.pixels.shape == (80, 100, 3)
        originals.trim()
    assert decoded == ["a.jpg", "b.jpg", "c.jpg", "a.jpg"]
    originals.clear()
    assert originals.at(paths[0]).bytes == 0


def test_a_photo_larger_than_all_that_is_not_kept(tmp_path: Path, decoded: list[str]) -> None:
    originals, path = Originals(most_bytes=1000), photo(tmp_path, "a.jpg")
    for _ in range(2):
        assert originals.at(path).picture is not None
        originals.trim()
    assert decoded == ["a.jpg", "a.jpg"]


def test_a_file_that_was_written_anew_is_read_anew(tmp_path: Path) -> None:
    originals, path = Originals(), photo(tmp_path, "a.png")
    before = originals.at(path).picture.pixels
    Image.new("RGB", (100, 80), (250, 0, 0)).save(path)
    os.utime(path, ns=(1, 1))
    assert not np.array_equal(originals.at(path).picture.pixels, before)


def test_a_photo_that_is_gone_says_so_each_time(tmp_path: Path) -> None:
    originals = Originals()
    for _ in range(2):
        with pytest.raises(PhotoError, match="cannot be opened"):
            _ = originals.at(tmp_path / "gone.jpg").picture
