"""Makes the README's pictures from the demo's own run: the overview, the guidance grid and the report.

    make demo && .venv/bin/python docs/pictures.py demo/out

The report is photographed by headless Chromium (Debian: apt-get install chromium). Look at every picture before you
commit it: they are what a reader believes the program does.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from PIL import Image

from ip2pbatch.plan.written.outputs import Sheet
from ip2pbatch.run.directory.view import read_run
from ip2pbatch.show.cells import gallery
from ip2pbatch.show.sheet import draw_sheets

DOCS = Path(__file__).parent
MOST_BYTES = 150_000
WIDTHS = (1100, 1000, 900, 800, 700, 600)
QUALITIES = range(90, 70, -4)
WINDOW = (1400, 900)
SHOWN = ("astronaut.jpg", "coffee.jpg", "motorcycle.png", "travel/china.jpg")


def save(picture: Image.Image, name: str) -> None:
    """A JPEG beside this file: the widest of WIDTHS, at the best quality of QUALITIES, that is within MOST_BYTES."""
    for width in WIDTHS:
        small = picture.convert("RGB")
        small.thumbnail((width, 2 * width), Image.Resampling.LANCZOS)
        for quality in QUALITIES:
            data = io.BytesIO()
            small.save(data, "JPEG", quality=quality, optimize=True, progressive=True)
            if data.tell() <= MOST_BYTES:
                (DOCS / name).write_bytes(data.getvalue())
                print(f"docs/{name}: {small.width} × {small.height}, quality {quality}, {data.tell() / 1000:.0f} kB")
                return
    sys.exit(f"docs/{name} cannot be made small enough")


def photograph(page: Path) -> Image.Image:
    """The top of an HTML page as a person sees it in a window."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        sys.exit("chromium is not installed (Debian: apt-get install chromium)")
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "page.png"
        subprocess.run(
            [
                chromium, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
                f"--window-size={WINDOW[0]},{WINDOW[1]}", f"--user-data-dir={folder}/profile",
                f"--screenshot={target}", page.absolute().as_uri(),
            ],
            check=True, capture_output=True, timeout=300,
        )  # fmt: skip
        with Image.open(target) as opened:
            return opened.convert("RGB")


def draw_overview(out: Path, folder: Path) -> Path:
    """The overview of SHOWN photos alone: a page of all seven is too small to read here."""
    whole = gallery(read_run(out))
    cells = tuple(cell for cell in whole.cells if cell.photo in SHOWN)
    pages = draw_sheets(replace(whole, cells=cells), folder, Sheet(cell=280))
    return next(page for page in pages if page.name.startswith("overview"))


def main() -> None:
    """Write the three pictures."""
    out = Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as folder, Image.open(draw_overview(out, Path(folder))) as sheet:
        save(sheet, "overview.jpg")
    with Image.open(min((out / "sheets").glob("grid-*.png"))) as sheet:
        save(sheet, "grid.jpg")
    save(photograph(out / "report.html"), "report.jpg")


if __name__ == "__main__":
    main()
