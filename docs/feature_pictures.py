"""Makes the README's pictures of a region, a strength, a negative, a registered edit and a cell that is used for a
folder, with the embedded model:

    make demo && .venv/bin/python docs/feature_pictures.py demo/photos

Look at every picture before you commit it. Each is delivered as a command would; only the shift of the registered one
is put in, because the embedded model has none.
"""

from __future__ import annotations

import io
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from ip2pbatch import jobs
from ip2pbatch.pictures import fullres, images, registration
from ip2pbatch.run.directory.view import read_run
from ip2pbatch.show.cells import gallery

DOCS = Path(__file__).parent
MOST_BYTES = 60_000
HIGH, GAP = 200, 4
RECIPE = """
model: tiny
photos: "{photos}"
edits:
  - {{id: sky, instruction: make it a sunset, region: {{box: [0, 0, 100, 46], feather: 6}}, photos: "**/china.jpg"}}
  - {{id: garden, instruction: make it winter, region: {{box: [0, 50, 100, 100], feather: 6}}, photos: "**/china.jpg"}}
  - {{id: dusk, instruction: make it a sunset, photos: "**/china.jpg"}}
  - {{id: dark, instruction: make it a sunset, text: 2, photos: "**/china.jpg"}}
  - {{id: bright, instruction: make it a sunset, text: 2, negative: make it night, photos: "**/china.jpg"}}
seeds: 1371
output: {{folder: "{out}", name: "{{stem}}_{{edit}}"}}
"""
SHIFT, LARGER = (4.0, -3.0), 0.01
WHOLE = ("astronaut.jpg", "cat.jpg", "motorcycle.png", "travel/flower.jpg")


def save(pictures: Sequence[Image.Image], name: str) -> None:
    """A row of pictures as a JPEG beside this file, at the best quality that is within MOST_BYTES."""
    row = [picture.resize((round(picture.width * HIGH / picture.height), HIGH)) for picture in pictures]
    page = Image.new("RGB", (sum(one.width + GAP for one in row) - GAP, HIGH), "white")
    left = 0
    for one in row:
        page.paste(one, (left, 0))
        left += one.width + GAP
    for quality in range(90, 60, -4):
        data = io.BytesIO()
        page.save(data, "JPEG", quality=quality, optimize=True, progressive=True)
        if data.tell() <= MOST_BYTES:
            (DOCS / name).write_bytes(data.getvalue())
            print(f"docs/{name}: {page.width} × {page.height}, quality {quality}, {data.tell() / 1000:.0f} kB")
            return
    sys.exit(f"docs/{name} cannot be made small enough")


def opened(path: Path) -> Image.Image:
    return Image.fromarray(images.load(path).pixels)


def strengths(out: Path, photo: Path) -> list[Image.Image]:
    """The photo, and its sunset delivered at three strengths."""
    found = [opened(photo)]
    for strength in (0.25, 0.5, 1.0):
        jobs.deliver(out, strength=strength)
        found.append(opened(out / "china_dusk.jpg"))
    return found


def registered(out: Path, photo: Path) -> list[Image.Image]:
    """A part of the photo, of a moved edit lifted as it came, and of the same laid on its photo first."""
    (cell,) = (cell for cell in gallery(read_run(out)).cells if cell.edit == "dusk")
    assert cell.picture is not None
    assert cell.source is not None
    seen, full = cell.source.pixels(), images.load(photo).pixels
    edit = Image.fromarray(cell.picture.pixels())
    width, height = edit.width * (1 - LARGER), edit.height * (1 - LARGER)
    left, top = (edit.width - width) / 2 - SHIFT[0], (edit.height - height) / 2 - SHIFT[1]
    padded = Image.fromarray(np.pad(np.asarray(edit), ((16, 16), (16, 16), (0, 0)), mode="edge"))
    box = (left + 16, top + 16, left + width + 16, top + height + 16)
    moved = np.asarray(padded.resize(edit.size, Image.Resampling.LANCZOS, box=box))
    back, motion = registration.register(moved, seen)
    print(f"moved {motion.distance:.1f} model pixels" if motion else "not found to have moved")
    lifted = [Image.fromarray(fullres.lift(one, seen, full).pixels.astype(np.uint8)) for one in (moved, back)]
    return [one.crop((60, 90, 330, 270)) for one in (Image.fromarray(full), *lifted)]


def used(out: Path, photos: Path) -> list[Image.Image]:
    """What one cell is of its photo, and what `apply` makes of others."""
    (number,) = (cell.number for cell in gallery(read_run(out)).cells if cell.edit == "dusk")
    jobs.apply(out, number, [photos / name for name in WHOLE])
    names = [out / f"{Path(name).stem}_dusk{Path(name).suffix}" for name in WHOLE]
    return [opened(path) for path in (out / "china_dusk.jpg", *names)]


def main() -> None:
    """Write the pictures."""
    photos = Path(sys.argv[1]).absolute()
    china = photos / "travel" / "china.jpg"
    with tempfile.TemporaryDirectory() as folder:
        recipe, out = Path(folder) / "recipe.yaml", Path(folder) / "out"
        recipe.write_text(RECIPE.format(photos=photos, out=out), encoding="utf-8")
        jobs.run(recipe)
        save([opened(china), opened(out / "china_sky.jpg"), opened(out / "china_garden.jpg")], "region.jpg")
        save([opened(china), opened(out / "china_dark.jpg"), opened(out / "china_bright.jpg")], "negative.jpg")
        save(strengths(out, china), "strength.jpg")
        save(registered(out, china), "registered.jpg")
        save(used(out, photos), "apply.jpg")


if __name__ == "__main__":
    main()
