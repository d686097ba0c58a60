"""Photos of 24 megapixels in every newer container: read, written as JPEG, and written as themselves; time and memory.

python tests/helpers/containers_24mp.py

Prints a table for BENCHMARKS.md. Each row is a process of its own, so that its seconds and its peak are its own. The
lift is left out. Processor time stands beside the clock's seconds, because a busy machine's clock lies.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from resource import RUSAGE_CHILDREN, RUSAGE_SELF, getrusage

import numpy as np
from camera_raw import write_dng
from PIL import Image

from ip2pbatch.plan.formats import FORMATS

SIZE = (6000, 4000)
KINDS = ("jpeg", "heic", "avif", "jxl", "dng")


def draw() -> np.ndarray:
    """Gradients, edges and grain, so that no coder has it easy."""
    y, x = np.mgrid[0 : SIZE[1], 0 : SIZE[0]].astype(np.float32)
    waves = [127 + 60 * np.sin(x / (40 + 9 * c)) + 50 * np.cos(y / (31 + 7 * c)) for c in range(3)]
    grain = np.random.default_rng(3).normal(0, 5, (SIZE[1], SIZE[0], 1)).astype(np.float32)
    return (np.stack(waves, -1) + grain).clip(0, 255).astype(np.uint8)


def write(folder: Path) -> None:
    """One photo in each container."""
    import pillow_heif

    from ip2pbatch.pictures.containers import Blocks, Raster, encode

    pixels = draw()
    write_dng(folder / "photo.dng", pixels)
    Image.fromarray(pixels).save(folder / "photo.jpeg", quality=92)
    pillow_heif.from_pillow(Image.fromarray(pixels)).save(
        folder / "photo.heic", quality=80, enc_params={"preset": "ultrafast"}
    )
    for kind in ("avif", "jxl"):
        (folder / f"photo.{kind}").write_bytes(encode(Raster(pixels), Blocks(), kind, 85))


def convert(path: Path, kind: str) -> None:
    """Read a photo and write it in a format, as a delivery does without the lift; prints seconds and peaks."""
    from ip2pbatch.pictures import images
    from ip2pbatch.pictures.codecs import apart
    from ip2pbatch.pictures.containers import Raster, encode, read_blocks

    start = time.perf_counter()
    picture = images.load(path, colours="own")
    read = time.perf_counter()
    encode(Raster(picture.pixels, picture.alpha, picture.icc), read_blocks(path), kind, 95)
    end = time.perf_counter()
    apart.end()
    own, child = getrusage(RUSAGE_SELF), getrusage(RUSAGE_CHILDREN)
    cpu = sum(one.ru_utime + one.ru_stime for one in (own, child))
    print(read - start, end - read, cpu, own.ru_maxrss / 1024, child.ru_maxrss / 1024)


def main() -> None:
    """Print a row a conversion."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        subprocess.run([sys.executable, __file__, "write", folder], check=True)
        print("| 24 megapixels | read, s | written, s | processor time, s | peak, MiB | its decoder's, MiB |")
        print("|---|---|---|---|---|---|", flush=True)
        themselves = [(kind, kind) for kind in ("heic", "avif", "jxl") if FORMATS[kind].encode]
        for source, kind in [*((one, "jpeg") for one in KINDS), *themselves]:
            done = subprocess.run(
                [sys.executable, __file__, folder / f"photo.{source}", kind], check=True, capture_output=True, text=True
            )
            read, written, cpu, peak, decoder = map(float, done.stdout.split())
            row = f"| {source.upper()} as {kind.upper()} | {read:.1f} | {written:.1f} | {cpu:.1f} | {peak:.0f} |"
            print(row, f"{decoder:.0f} |", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["write"]:
        write(Path(sys.argv[2]))
    elif sys.argv[1:]:
        convert(Path(sys.argv[1]), sys.argv[2])
    else:
        main()
