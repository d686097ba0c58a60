"""What a lift makes of large photos' edits, at 1:1: by hand the figures of BENCHMARKS.md, "Lifted edits".

python tests/helpers/lifted_edits.py PHOTOS FOLDER [--lift NAME]   # edits each photo once, below FOLDER; minutes
python tests/helpers/lifted_edits.py PHOTOS FOLDER --files OUT     # of files that a run of the same recipe delivered
python tests/helpers/lifted_edits.py --cost [--lift NAME]          # processor time and memory at 24 and 61 megapixels

The floors were set before a lift was tried against them: detail ≥ 0.5, grid ≤ 1.1, open ≥ 50 dB, same ≥ 0.9.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from PIL import Image, ImageFilter
from sklearn.datasets import load_sample_image

from ip2pbatch.pictures import fullres, images
from ip2pbatch.pictures.likeness import ssim
from ip2pbatch.pictures.originals import Original
from ip2pbatch.run.directory.view import read_run

Pixels = np.ndarray
Lift = Callable[[Pixels, Pixels, Pixels], Pixels]
INSTRUCTIONS = {
    "winter": "make it winter", "autumn": "make it autumn", "spring": "make it spring", "rain": "make it rain",
    "sunset": "make it a sunset", "underwater": "make it look underwater", "oil": "turn it into an oil painting",
    "marble": "turn it into a marble statue",
}  # fmt: skip
LIFTS: dict[str, Lift] = {
    "first": lambda edited, seen, photo: fullres.lift(edited, seen, photo, version=1).pixels,
    "second": lambda edited, seen, photo: fullres.lift(edited, seen, photo, version=2).pixels,
}
LUMA = np.array([0.2126, 0.7152, 0.0722], np.float32)
CLOSED, OPEN = 0.1, 0.95  # of k
BESIDE = 2  # model pixels that a closed or an open area is drawn in by, on all sides
WINDOW = 32  # pixels of the photo: a side of the squares whose detail is compared
FEW = 20  # squares: with fewer that are closed a case says nothing of detail and grid
CELLS = (1, 2, 4, 8)  # model pixels: its pixels, and the steps by which a decoder builds them from latents
ASIDE = (0.08, 0.11, 0.14, 0.17)  # by how much of a frequency its neighbours lie below and above it


@dataclass(frozen=True)
class Case:
    """A photo, uint8 [H, W, 3], what the model saw of it and its edit, uint8 [h, w, 3]."""

    name: str
    photo: Pixels
    seen: Pixels
    edited: Pixels
    delivered: Path | None = None


@dataclass(frozen=True)
class Figures:
    """Of one lifted edit. `detail`: the median variance of the Laplacian in closed squares, as a share of that in all
    squares of the photo. `grid`: for each of CELLS the energy of its frequency in the strength of gradients in closed
    areas, as a share of its neighbours'. Both are None where next to nothing is closed. `open`: PSNR to the first lift
    in open areas, in dB, None where nothing is open. `same`: SSIM of the edit and of what was lifted, at model size.
    """

    closed: float
    detail: float | None
    grid: tuple[float, ...] | None
    open: float | None
    same: float


def recipe(photos: Path, out: Path) -> dict[str, object]:
    """Every photo by every instruction."""
    edits = [{"id": name, "instruction": text} for name, text in INSTRUCTIONS.items()]
    return {"name": "lifted", "model": "tiny", "photos": str(photos), "edits": edits, "seeds": [1371],
            "output": {"folder": str(out), "name": "{stem}_{edit}", "full_resolution": "off"}}  # fmt: skip


def cases(photos: Path, folder: Path, files: Path | None = None) -> Iterator[Case]:
    """The edits below `folder`, made where they are missing; with the files that the run `files` delivered of them."""
    out, file = folder / "edits", folder / "edits.yaml"
    folder.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump(recipe(photos.resolve(), out.resolve())))
    subprocess.run([sys.executable, "-m", "ip2pbatch", "run", str(file)], check=True)
    view, other = read_run(out), read_run(files) if files else None
    delivered = {} if other is None else {
        (strip.photo.name, strip.id): other.delivered_path(strip, strip.edits[-1]) for strip in other.strips
    }  # fmt: skip
    for strip in view.strips:
        photo = Original(strip.photo.path).picture.pixels
        picture, source = view.picture_path(strip.edits[0].key), view.source_path(strip)
        assert picture is not None
        assert source is not None
        where = delivered.get((strip.photo.name, strip.id))
        yield Case(f"{strip.photo.name} {strip.id}", photo, pixels_of(source), pixels_of(picture), where)


def pixels_of(path: Path) -> Pixels:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def figures(case: Case, lifted: Pixels, first: Pixels) -> Figures:
    """Of a lifted edit, beside the first lift."""
    k, size = fullres.gate(case.edited, case.seen), case.photo.shape[1::-1]
    closed, opened = enlarged(drawn_in(k < CLOSED), size), enlarged(drawn_in(k > OPEN), size)
    squares = shares(closed) >= 0.9
    enough = squares.sum() >= FEW
    detail = float(np.median(roughness(lifted)[squares]) / np.median(roughness(case.photo))) if enough else None
    grid = tuple(periodic(lifted, closed, cell * size[0] / k.shape[1]) for cell in CELLS) if enough else None
    small = images.resize(lifted, (k.shape[1], k.shape[0]), "lanczos")
    same = ssim(case.edited, small)
    return Figures(float(closed.mean()), detail, grid, psnr(lifted, first, opened), same)


def drawn_in(area: Pixels) -> Pixels:
    """An area without what is within BESIDE pixels of its border."""
    return np.asarray(Image.fromarray(area.astype(np.uint8)).filter(ImageFilter.MinFilter(2 * BESIDE + 1))) > 0


def enlarged(area: Pixels, size: tuple[int, int]) -> Pixels:
    return np.asarray(Image.fromarray(area).resize(size, Image.Resampling.NEAREST))


def shares(area: Pixels) -> Pixels:
    """How much of each square of WINDOW pixels lies in an area."""
    return squares_of(area.astype(np.float32)).mean(axis=(1, 3))


def squares_of(plane: Pixels) -> Pixels:
    """[rows, WINDOW, columns, WINDOW], what is left over at the far sides cut off."""
    rows, columns = (side // WINDOW for side in plane.shape)
    return plane[: rows * WINDOW, : columns * WINDOW].reshape(rows, WINDOW, columns, WINDOW)


def roughness(pixels: Pixels) -> Pixels:
    """The variance of the Laplacian of the luma in each square."""
    luma = np.pad(pixels @ LUMA, 1, mode="edge")
    around = luma[:-2, 1:-1] + luma[2:, 1:-1] + luma[1:-1, :-2] + luma[1:-1, 2:]
    return squares_of(4 * luma[1:-1, 1:-1] - around).var(axis=(1, 3))


def periodic(pixels: Pixels, area: Pixels, period: float) -> float:
    """The energy at 1 / `period` in the strength of gradients, in an area, across and down, beside its neighbours'."""
    luma, found = pixels @ LUMA, []
    for plane, mask in ((luma, area), (luma.T, area.T)):
        strength = np.log1p(np.abs(np.diff(plane, axis=1)))
        inside = (mask[:, 1:] & mask[:, :-1]).astype(np.float32)
        strength = (strength - (strength * inside).sum() / inside.sum()) * inside * np.hanning(inside.shape[1])
        beside = [1 + side * step for step in ASIDE for side in (-1, 1)]
        at, *others = (energy(strength, share / period) for share in (1, *beside))
        found.append(at / np.mean(others))
    return float(np.mean(found))


def energy(rows: Pixels, frequency: float) -> float:
    """Mean power of the rows at a frequency in cycles a pixel."""
    phase = 2 * np.pi * frequency * np.arange(rows.shape[1])
    return float(((rows @ np.cos(phase)) ** 2 + (rows @ np.sin(phase)) ** 2).mean())


def across_borders(pixels: Pixels, borders: Sequence[int], axis: int) -> float:
    """The mean step of the luma over `borders` (the first pixel after each) along an axis, beside that elsewhere."""
    steps = np.abs(np.diff(pixels @ LUMA, axis=axis)).mean(axis=1 - axis)
    at = np.array(borders) - 1
    near = np.setdiff1d((at[:, None] + np.arange(-16, 17)).ravel(), (at[:, None] + np.arange(-1, 2)).ravel())
    return float(steps[at].mean() / steps[near[(near >= 0) & (near < len(steps))]].mean())


def psnr(a: Pixels, b: Pixels, where: Pixels) -> float | None:
    if not where.any():
        return None
    return float(10 * np.log10(255**2 / max(float(((a.astype(np.float32) - b)[where] ** 2).mean()), 1e-9)))


def report(found: dict[str, Figures]) -> None:
    """A line for each case, and what most of them come to."""

    def said(value: float | None) -> str:
        return "–" if value is None else f"{value:.2f}"

    for name, one in found.items():
        grid = " ".join(map(said, one.grid or [None]))
        print(f"{name}: closed {one.closed:.0%}, detail {said(one.detail)}, grid {grid}, open {said(one.open)}, "
              f"same {one.same:.3f}")  # fmt: skip
    details = [one.detail for one in found.values() if one.detail is not None]
    grids = np.array([one.grid for one in found.values() if one.grid is not None])
    opens = [one.open for one in found.values() if one.open is not None]
    same = [one.same for one in found.values()]
    print(f"{len(found)} edits, {len(details)} of them partly closed")
    print(f"detail: median {np.median(details):.2f}, below 0.5 in {sum(one < 0.5 for one in details)}")
    for cell, ratios in zip(CELLS, grids.T, strict=True):
        print(f"grid of {cell}: median {np.median(ratios):.2f}, above 1.1 in {(ratios > 1.1).sum()}")
    print(f"open: at least {min(opens):.1f} dB; same: median {np.median(same):.3f}, at least {min(same):.3f}")


def cost(lift: Lift) -> None:
    """Of an edit half of which is new, at 24 and at 61 megapixels."""
    china = load_sample_image("china.jpg")
    for width, height in ((6000, 4000), (9504, 6336)):
        photo = np.tile(china, (-(-height // 427), -(-width // 640), 1))[:height, :width]
        seen = images.resize(photo, (768, 512), "lanczos")
        edited = seen.copy()
        edited[:, 384:] = images.resize(china[::-1], (384, 512))
        lift(edited[:64, :64], seen[:64, :64], photo[:128, :128])
        began = time.process_time()
        lift(edited, seen, photo)
        took = time.process_time() - began
        tracemalloc.start()
        lift(edited, seen, photo)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        print(f"{width} × {height}: {took:.1f} s of processor time, {peak / 1e6:.0f} MB beside the photo")


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("photos", type=Path, nargs="?")
    words.add_argument("folder", type=Path, nargs="?")
    words.add_argument("--lift", choices=LIFTS, default=list(LIFTS)[-1])
    words.add_argument("--files", type=Path)
    words.add_argument("--cost", action="store_true")
    asked = words.parse_args()
    lift = LIFTS[asked.lift]
    if asked.cost:
        return cost(lift)
    found = {}
    for case in cases(asked.photos, asked.folder, asked.files):
        first = LIFTS["first"](case.edited, case.seen, case.photo)
        lifted = pixels_of(case.delivered) if case.delivered else lift(case.edited, case.seen, case.photo)
        found[case.name] = figures(case, lifted, first)
    return report(found)


if __name__ == "__main__":
    main()
