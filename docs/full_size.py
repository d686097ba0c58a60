"""Makes the sheet of what edits add at full size: parts of eight edits at 1:1, each as the photo, as the first and as
today's lift made it, and refined; with the embedded model, minutes on a CPU:

    make demo && .venv/bin/python docs/full_size.py demo/photos

Look at it at 1:1 before you commit it. Of each edit it shows the part of which the edit put in most.
"""

from __future__ import annotations

import io
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from ip2pbatch import jobs
from ip2pbatch.pictures import fullres, images, registration
from ip2pbatch.plan.edits import Strip
from ip2pbatch.run.directory.view import RunView, read_run
from ip2pbatch.show import lettering

DOCS = Path(__file__).parent
MOST_BYTES = 300_000
SIDE, GAP, HIGH, TYPE = 176, 4, 22, 14
NAMES = "photo", "first lift", "today's lift", "refined"
RECIPE = """
model: tiny
photos: "{photos}"
edits:
  - {{id: winter, instruction: make it winter, photos: ["astronaut.jpg", "**/china.jpg"]}}
  - {{id: autumn, instruction: make it autumn, photos: ["cat.jpg", "**/flower.jpg"]}}
  - {{id: rain, instruction: make it rain, photos: ["motorcycle.png", "rocket.jpg"]}}
  - {{id: spring, instruction: make it spring, photos: "coffee.jpg"}}
  - {{id: underwater, instruction: make it look underwater, photos: "**/china.jpg"}}
seeds: 1371
output: {{folder: "{out}", name: "{{stem}}_{{edit}}", format: png, full_resolution: refine}}
"""


def main() -> None:
    """Write the sheet."""
    photos = Path(sys.argv[1]).absolute()
    with tempfile.TemporaryDirectory() as folder:
        recipe, out = Path(folder) / "recipe.yaml", Path(folder) / "out"
        recipe.write_text(RECIPE.format(photos=photos, out=out), encoding="utf-8")
        jobs.run(recipe)
        view = read_run(out)
        rows = [row(view, strip) for strip in view.strips]
    save(sheet(rows))


def row(view: RunView, strip: Strip) -> tuple[str, list[Image.Image]]:
    """What an edit is called, and its parts."""
    (edit,) = strip.edits
    picture, source, file = view.picture(edit.key), view.source(strip), view.delivered_path(strip, edit)
    assert picture is not None
    assert source is not None
    assert file is not None
    photo, seen = images.load(strip.photo.path).pixels, source.pixels()
    own = registration.register(picture.pixels(), seen)[0]
    lifts = (fullres.lift(own, seen, photo, version=version).pixels for version in (1, 2))
    box = newest(fullres.gate(own, seen), photo.shape[1::-1])
    parts = [Image.fromarray(one.astype(np.uint8)).crop(box) for one in (photo, *lifts, images.load(file).pixels)]
    return f"{strip.photo.name}: {edit.instruction}", parts


def newest(gate: np.ndarray, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """The square of SIDE pixels in which most is new."""
    new = np.asarray(Image.fromarray(1 - gate).resize(size, Image.Resampling.BILINEAR))
    whole = np.pad(new.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    sums = whole[SIDE:, SIDE:] - whole[:-SIDE, SIDE:] - whole[SIDE:, :-SIDE] + whole[:-SIDE, :-SIDE]
    top, left = (int(at) for at in np.unravel_index(np.argmax(sums), sums.shape))
    return left, top, left + SIDE, top + SIDE


def sheet(rows: list[tuple[str, list[Image.Image]]]) -> Image.Image:
    """Rows side by side in two columns, under their names."""
    wide, high = len(NAMES) * (SIDE + GAP) + 3 * GAP, HIGH + SIDE + 2 * GAP
    page = Image.new("RGB", (2 * wide, HIGH + high * -(-len(rows) // 2)), "white")
    for place, name in places(wide):
        lettering.draw_line(page, (place, 2), name, size=TYPE, fill="black")
    for at, (said, parts) in enumerate(rows):
        left, top = wide * (at % 2), HIGH + high * (at // 2)
        lettering.draw_line(page, (left, top + 2), said, size=TYPE, fill="#565656")
        for number, part in enumerate(parts):
            page.paste(part, (left + number * (SIDE + GAP), top + HIGH))
    return page


def places(wide: int) -> Iterator[tuple[int, str]]:
    """Where the names of both columns of rows begin."""
    for left in (0, wide):
        for number, name in enumerate(NAMES):
            yield left + number * (SIDE + GAP), name


def save(page: Image.Image) -> None:
    for quality in range(92, 70, -4):
        data = io.BytesIO()
        page.save(data, "JPEG", quality=quality, subsampling="4:4:4", optimize=True, progressive=True)
        if data.tell() <= MOST_BYTES:
            (DOCS / "full_size.jpg").write_bytes(data.getvalue())
            print(f"docs/full_size.jpg: {page.width} × {page.height}, quality {quality}, {data.tell() / 1000:.0f} kB")
            return
    sys.exit("docs/full_size.jpg cannot be made small enough")


if __name__ == "__main__":
    main()
