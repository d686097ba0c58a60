"""Makes the runs beside this file again, with the code of an earlier version.

    git worktree add OLD d0c1874
    PYTHONPATH=OLD python tests/jobs/old_runs/make.py OLD

They were made by that commit, the last before a run kept its model's defaults. Each is a recipe with its drawn photos,
the run of two sessions (one of a single photo, then all), the delivered files, and for the fake engine the lock. What
would name the machine (its paths, its processor) is replaced: nothing reads it but to show it.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

HERE = Path(__file__).parent
SESSION = "import sys; sys.argv[0] = 'ip2pbatch'; from ip2pbatch.cli import app; app.main()"
MOMENT = "1764115200"  # SOURCE_DATE_EPOCH


def main(code: Path) -> None:
    """Both runs, by the package in the folder `code`."""
    import ip2pbatch

    assert Path(ip2pbatch.__file__).is_relative_to(code.resolve()), f"{ip2pbatch.__file__} is not the old code"
    draw(HERE / "fake" / "photos" / "lake.png", (64, 64))
    draw(HERE / "fake" / "photos" / "day2" / "hut.jpg", (64, 96))
    draw(HERE / "tiny" / "photos" / "lake.png", (64, 64))
    for name in ("fake", "tiny"):
        folder = HERE / name
        flags = ("--backend", "fake") if name == "fake" else ("--device", "cpu", "--precision", "fp32")
        shutil.rmtree(folder / "out", ignore_errors=True)
        command(folder, "run", "recipe.yaml", *flags, "--limit", "1")
        command(folder, "run", "recipe.yaml", *flags)
        if name == "fake":
            command(folder, "lock", "recipe.yaml")
        shutil.rmtree(folder / "out" / "sheets")
        (folder / "out" / "report.html").unlink()
        for path in (folder / "out" / ".ip2pbatch").glob("*.lock"):
            path.unlink()
        forget_the_machine(folder)


def draw(path: Path, size: tuple[int, int]) -> None:
    """A soft sky over a darker ground, with a white sun."""
    down, across = np.mgrid[0 : size[1], 0 : size[0]].astype(np.float32)
    sky = np.stack([90 + down, 140 + down / 2, 220 - down / 3], -1)
    ground = np.stack([60 + across / 3, 90 + 0 * down, 50 + down / 4], -1)
    sun = np.hypot(across - size[0] / 2, down - size[1] / 4) < size[1] / 8
    pixels = np.where((down > size[1] * 0.6)[..., None], ground, sky)
    pixels[sun] = 250
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, quality=90)


def command(folder: Path, *arguments: str) -> None:
    environment = {**os.environ, "SOURCE_DATE_EPOCH": MOMENT, "XDG_CACHE_HOME": str(folder / "cache")}
    subprocess.run([sys.executable, "-c", SESSION, *arguments], cwd=folder, env=environment, check=True)
    shutil.rmtree(folder / "cache", ignore_errors=True)


def forget_the_machine(folder: Path) -> None:
    """Photos lie in /shoot, and what is called after its own digest is called after the new one."""
    run = folder / "out" / ".ip2pbatch"
    (run / "writer.json").write_text('{"process": 4711, "host": "elsewhere"}')
    sessions = (run / "sessions.jsonl").read_text("utf-8")
    for path in sorted((run / "plans").iterdir()):
        rows = path.read_text("utf-8").replace(str(folder), "/shoot").encode()
        name = hashlib.sha256(rows).hexdigest()[:32]
        path.unlink()
        path.with_name(f"{name}.jsonl").write_bytes(rows)
        sessions = sessions.replace(path.stem, name)
    (run / "sessions.jsonl").write_text(
        re.sub(r'"device":\s*"[^"]+ threads"', '"device":"a processor"', sessions), "utf-8"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
