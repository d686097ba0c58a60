"""Writes the demo's photographs into a folder: real photos that scikit-image and scikit-learn ship.

    python recipes/demo_photos.py demo/photos

Each is written with a credit in its EXIF, as a photographer's file has one; one is stored lying on its side with an
orientation flag, as a camera held upright stores it. Files that are there already stay as they are.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import skimage
import sklearn
from PIL import Image

SKIMAGE = Path(skimage.__file__).parent / "data"
SKLEARN = Path(sklearn.__file__).parent / "datasets" / "images"

DESCRIPTION, ARTIST, COPYRIGHT, ORIENTATION = 0x010E, 0x013B, 0x8298, 0x0112

# file, what it shows, who made it, licence: from the packages' own notes.
PHOTOS = {
    "astronaut.jpg": (SKIMAGE / "astronaut.png", "Eileen Collins, astronaut", "NASA", "Public domain"),
    "cat.jpg": (SKIMAGE / "chelsea.png", "Chelsea the cat", "Stefan van der Walt", "CC0"),
    "coffee.jpg": (SKIMAGE / "coffee.png", "Espresso", "Rachel Michetti", "CC0"),
    "motorcycle.png": (SKIMAGE / "motorcycle_left.png", "Motorcycle", "D. Scharstein et al.", "CC0"),
    "rocket.jpg": (SKIMAGE / "rocket.jpg", "Launch of DSCOVR", "SpaceX", "CC0"),
    "travel/china.jpg": (SKLEARN / "china.jpg", "Summer Palace, Beijing", "danielbuechele", "CC BY 2.0"),
    "travel/flower.jpg": (SKLEARN / "flower.jpg", "Flower", "vultilion", "CC BY 2.0"),
}


def write(source: Path, target: Path, credit: tuple[str, str, str]) -> None:
    """Save one photo as `target` with `credit` (what, who, licence) in its EXIF and its colour profile kept."""
    image = Image.open(source).convert("RGB")
    exif = Image.Exif()
    exif[DESCRIPTION], exif[ARTIST], exif[COPYRIGHT] = credit
    if target.stem == "coffee":
        image = image.transpose(Image.Transpose.ROTATE_90)
        exif[ORIENTATION] = 6
    target.parent.mkdir(parents=True, exist_ok=True)
    options: dict[str, Any] = {"quality": 95, "subsampling": "4:4:4"} if target.suffix == ".jpg" else {}
    image.save(target, exif=exif, icc_profile=image.info.get("icc_profile"), **options)


def main() -> None:
    """Write every photo that is not there yet."""
    folder = Path(sys.argv[1])
    for name, (source, what, who, licence) in PHOTOS.items():
        if not (folder / name).exists():
            write(source, folder / name, (what, who, licence))
    print(f"{len(PHOTOS)} photos from scikit-image and scikit-learn are in {folder}")


if __name__ == "__main__":
    main()
