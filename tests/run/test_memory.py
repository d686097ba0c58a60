"""A run's memory hangs on its largest photo and not on how many there are. Full sizes under `make soak`."""

from __future__ import annotations

import re
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from runs import carry_out, exit_of, in_child, make_plan, many

from ip2pbatch.engine.fake import FakeEngine
from ip2pbatch.plan.edits import Photo
from ip2pbatch.plan.photo_digests import look

STATUS = Path("/proc/self/status")
pytestmark = pytest.mark.skipif(not STATUS.exists(), reason="resident memory is read from /proc: Linux only")
MIB = 1 << 20


def large_photo(path: Path, megapixels: float, seed: int) -> Photo:
    """A JPEG of waves and grain with as many pixels."""
    width = int((megapixels * 1.5e6) ** 0.5)
    height = int(width / 1.5)
    down, across = np.arange(height, dtype=np.float32)[:, None], np.arange(width, dtype=np.float32)[None]
    waves = 127 + 60 * np.sin(down / 37 + seed) + 50 * np.cos(across / 53)
    grain = np.random.default_rng(seed).integers(0, 18, (height, width), np.uint8)
    plane = waves.astype(np.uint8) + grain
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.merge("RGB", [Image.fromarray(plane), Image.fromarray(255 - plane), Image.fromarray(plane)]).save(path)
    seen = look(path)
    return Photo(path.name, path, seen.digest, seen.size)


def resident(what: str = "VmRSS") -> int:
    """Bytes of memory that this process has now, or (VmHWM) at most had so far; a fork begins with what there is."""
    found = re.search(rf"{what}:\s+(\d+) kB", STATUS.read_text())
    assert found, what
    return int(found[1]) * 1024


def course(tmp_path: Path, photos: list[Photo]) -> list[tuple[int, int]]:
    """(files delivered, the most bytes it had so far) over the time of a run, taken in a process of its own.

    One courier in CI: whether two lift their photos at the same moment hangs on the machine.
    """
    trace = tmp_path / "trace"
    out = tmp_path / "out"

    def work() -> int:
        over = threading.Event()

        def sample() -> None:
            with trace.open("w") as file:
                while not over.is_set():
                    file.write(f"{len(list(out.glob('*.jpg')))} {resident('VmHWM')}\n")
                    time.sleep(0.01)

        sampler = threading.Thread(target=sample)
        sampler.start()
        try:
            return carry_out(out, make_plan(photos), FakeEngine(), couriers=many(1, 2))
        finally:
            over.set()
            sampler.join(30)

    assert exit_of(in_child(work)) == 0
    return [(int(files), int(size)) for files, size in (line.split() for line in trace.read_text().splitlines())]


def test_memory_does_not_grow_with_the_number_of_photos(tmp_path: Path) -> None:
    """Full: 500 photos of 24 megapixels; growth under 50 MiB over the last 400."""
    count, settled = many(14, 500), many(6, 100)
    photos = [large_photo(tmp_path / "in" / f"{n:04d}.jpg", many(1, 24), n) for n in range(count)]
    trace = course(tmp_path, photos)
    early = max(size for files, size in trace if files <= settled)
    late = max(size for files, size in trace if files > settled)
    assert late - early < 50 * MIB


def test_memory_of_one_very_large_photo(tmp_path: Path) -> None:
    """Full: 61 megapixels in under 6 GiB. A tenth of it here, in a tenth of the memory above what python has."""
    megapixels = many(6, 61)
    before = resident()
    trace = course(tmp_path, [large_photo(tmp_path / "in" / "large.jpg", megapixels, 1)])
    assert max(size for _, size in trace) - before < 6 * 1024 * MIB * megapixels / 61
