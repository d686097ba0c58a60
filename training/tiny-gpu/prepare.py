"""Make a folder of photos small enough to travel: 256 px on the short side, each on its own side of the split.

    python training/tiny-gpu/prepare.py PHOTOS work/photos

Which photos are kept out of training is decided by a file's digest, and a smaller copy is another file. So each copy
gets a number for XMP, counted up until its digest decides the same: nothing that was held out is trained on.
"""

from __future__ import annotations

import hashlib
import io
import sys
from itertools import count
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from ip2pbatch.train.data.crops import TrainingPhoto, find_photos, held_out, load_rgb

SHORT_SIDE = 256
QUALITY = 80


def small_copy(photo: TrainingPhoto) -> bytes:
    """The WebP of `photo` at 256 px, held out if and only if `photo` is."""
    picture = Image.fromarray(load_rgb(photo.path, SHORT_SIDE))
    for number in count():
        stream = io.BytesIO()
        picture.save(stream, "WEBP", quality=QUALITY, xmp=str(number).encode())
        copy = stream.getvalue()
        if held_out(hashlib.sha256(copy).hexdigest()) == held_out(photo.digest):
            return copy
    raise AssertionError("count() does not end")


def main(source: Path, target: Path) -> None:
    """Copy every photo below `source`; what is there already stays."""
    for photo in tqdm(find_photos(source), desc="photos"):
        path = (target / photo.name).with_suffix(".webp")
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(small_copy(photo))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
