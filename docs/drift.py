"""How far a chain drifts, carried as latents and as pixels: writes the figures and the picture of docs/chains.md.

    python docs/drift.py demo/photos/travel work/drift

Eight links that change the light back and forth, so that a chain without drift would end where it began. `sharpness`
is the variance of the picture's Laplacian against the photo's: what each decoding and encoding smooths away is gone.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from ip2pbatch.pictures.likeness import ssim
from ip2pbatch.run.directory.view import RunView, read_run

LINKS = ["make it warmer", "make it cooler"] * 4
CARRIES = ("latent", "pixels")
HERE = Path(__file__).parent
CELL = 150


def recipe(photos: Path, carry: str, out: Path) -> dict[str, object]:
    """The eight-link chain over a folder."""
    chain = {"id": "tides", "chain": LINKS, "keep": "all", "carry": carry}
    return {"name": carry, "model": "tiny", "photos": str(photos), "edits": [chain], "seeds": [1371],
            "output": {"folder": str(out), "full_resolution": "off"}}  # fmt: skip


def run(photos: Path, carry: str, folder: Path) -> RunView:
    """Make the chain, or what of it is missing."""
    out = folder / carry
    file = folder / f"{carry}.yaml"
    folder.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump(recipe(photos.resolve(), carry, out.resolve())))
    subprocess.run([sys.executable, "-m", "ip2pbatch", "run", str(file)], check=True)
    return read_run(out)


def sharpness(pixels: np.ndarray) -> float:
    """Variance of the Laplacian of the luma."""
    luma = pixels.astype(np.float32) @ np.array([0.2126, 0.7152, 0.0722], np.float32)
    around = luma[:-2, 1:-1] + luma[2:, 1:-1] + luma[1:-1, :-2] + luma[1:-1, 2:]
    return float(np.var(4 * luma[1:-1, 1:-1] - around))


def load(path: Path | None) -> np.ndarray:
    """The pixels of one kept picture."""
    assert path is not None
    return np.asarray(Image.open(path).convert("RGB"))


def figures(view: RunView) -> list[tuple[float, float]]:
    """For each link the median over photos of (SSIM with the photo, sharpness against the photo's)."""
    rows = []
    for link in range(len(LINKS)):
        values = []
        for strip in view.strips:
            photo, picture = load(view.source_path(strip)), load(view.picture_path(strip.edits[link].key))
            values.append((ssim(photo, picture), sharpness(picture) / sharpness(photo)))
        rows.append(tuple(np.median(np.array(values), axis=0)))
    return rows


def draw(views: dict[str, RunView]) -> Image.Image:
    """The first photo through both chains: source, then every second link."""
    rows = []
    for view in views.values():
        strip = view.strips[0]
        paths = [view.source_path(strip), *(view.picture_path(strip.edits[link].key) for link in (0, 1, 3, 5, 7))]
        rows.append([Image.fromarray(load(path)) for path in paths])
    width, height = rows[0][0].size
    size = (CELL, round(CELL * height / width))
    sheet = Image.new("RGB", (len(rows[0]) * (CELL + 4) - 4, len(rows) * (size[1] + 4) - 4), "white")
    for down, row in enumerate(rows):
        for across, picture in enumerate(row):
            sheet.paste(picture.resize(size, Image.Resampling.LANCZOS), (across * (CELL + 4), down * (size[1] + 4)))
    return sheet


def main() -> None:
    """Run both chains, print the table, save the picture."""
    photos, folder = Path(sys.argv[1]), Path(sys.argv[2])
    views = {carry: run(photos, carry, folder) for carry in CARRIES}
    table = {carry: figures(view) for carry, view in views.items()}
    print("| link | SSIM, latent | SSIM, pixels | sharpness, latent | sharpness, pixels |\n|---|---|---|---|---|")
    for link, words in enumerate(LINKS):
        a, b = table["latent"][link], table["pixels"][link]
        print(f"| {link + 1} {words} | {a[0]:.2f} | {b[0]:.2f} | {a[1]:.2f} | {b[1]:.2f} |")
    draw(views).save(HERE / "drift.jpg", quality=88)


if __name__ == "__main__":
    main()
