"""Every command that needs no model, over two drawn photos and the fake engine: on any system, from any installation.

python .ci/light.py                      runs them, and fails where one ends otherwise than it should
python .ci/light.py --photos FOLDER      only writes the photos and their recipe
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

RECIPE = """name: light
model: tiny
photos: shoot
edits: [make it winter]
size: {long_side: 64}
output: {folder: out}
"""
# What is run, and the exit code that it must end with.
COMMANDS = (
    ("validate recipe.yaml", 0),
    ("validate wrong.yaml", 2),
    ("plan recipe.yaml --exit-code", 4),
    ("run recipe.yaml --backend fake --junit junit.xml", 0),
    ("plan recipe.yaml --exit-code", 0),
    ("status out --json", 0),
    ("check out", 0),
    ("sheet out", 0),
    ("report out", 0),
    ("deliver recipe.yaml --format png", 0),
    ("lock recipe.yaml", 0),
    ("lock recipe.yaml --check", 0),
)
MADE = ("out/report.html", "out/sheets/overview.png", "out/one_make-it-winter.png", "recipe.lock.yaml", "junit.xml")


def write_photos(folder: Path) -> None:
    """Two photos with grain, a recipe over them, and one with a mistake."""
    (folder / "shoot").mkdir(parents=True, exist_ok=True)
    for name, shade in (("one", 90), ("two", 160)):
        bands = [Image.new("L", (192, 128), shade), *(Image.effect_noise((192, 128), 90) for _ in range(2))]
        Image.merge("RGB", bands).save(folder / "shoot" / f"{name}.jpg", quality=95)
    (folder / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    (folder / "wrong.yaml").write_text(RECIPE.replace("edits", "edit"), encoding="utf-8")


def main() -> None:
    """Run COMMANDS in a folder of their own."""
    if sys.argv[1:2] == ["--photos"]:
        write_photos(Path(sys.argv[2]))
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "photos of today"
        write_photos(folder)
        for words, code in COMMANDS:
            done = subprocess.run([sys.executable, "-m", "ip2pbatch", *words.split()], cwd=folder, capture_output=True)
            print(f"{words}: {done.returncode}", flush=True)
            if done.returncode != code:
                sys.exit(f"it should end with {code}: {(done.stdout + done.stderr).decode(errors='replace')}")
        if missing := [name for name in MADE if not (folder / name).is_file()]:
            sys.exit(f"not made: {', '.join(missing)}")


if __name__ == "__main__":
    main()
