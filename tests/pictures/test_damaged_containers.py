"""Damaged files of every container that is only a few years old: each is a picture or a reason, and memory has a bound.

300 mutants here, 5,000 under `make soak`, in a process of their own, so that a decoder's crash would be seen as one.
"""

from __future__ import annotations

import io
import random
import resource
import struct
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import tifffile
from camera_raw import write_dng
from PIL import Image
from runs import many

from ip2pbatch.errors import PhotoError
from ip2pbatch.pictures import images
from ip2pbatch.pictures.codecs import apart
from ip2pbatch.pictures.containers import Blocks, Raster, encode, read_blocks
from ip2pbatch.plan.photo_digests import look

for library in ("pillow_heif", "pillow_jxl", "rawpy"):
    pytest.importorskip(library, reason=f"{library} is not installed")

MIB = 1 << 20


def whole_files(folder: Path) -> dict[str, bytes]:
    """A whole file of each container, with metadata to trip over."""
    import pillow_heif

    y, x = np.mgrid[0:64, 0:96]
    pixels = np.stack([2 * x, 3 * y, 128 + 100 * np.sin(x / 9)], -1).astype(np.uint8)
    image, exif = Image.fromarray(pixels), Image.Exif()
    exif[0x010F] = "Maker"
    files = {"dng": write_dng(folder / "whole.dng", pixels).read_bytes()}
    for name, options in (("gif", {}), ("bmp", {}), ("avif", {"exif": exif.tobytes(), "xmp": b"<x/>"})):
        buffer = io.BytesIO()
        image.save(buffer, name.upper(), **options)  # type: ignore[arg-type]
        files[name] = buffer.getvalue()
    several, buffer = pillow_heif.from_pillow(image), io.BytesIO()
    several.add_from_pillow(image)
    several.save(buffer, quality=60, exif=exif.tobytes(), xmp=b"<x/>")
    files["heic"] = buffer.getvalue()
    files["jxl"] = encode(Raster(pixels), Blocks(exif=exif.tobytes()[6:], xmp=b"<x/>"), "jxl", 80)
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, bigtiff=True, photometric="rgb")
    return files | {"btf": buffer.getvalue()}


def mutant(chance: random.Random, whole: bytes) -> bytes:
    """The file with other bytes, a cut, a hole, a part twice, or large numbers: near its start, or among its pixels."""
    data = bytearray(whole)
    reach = chance.choice([700, len(whole)])
    for _ in range(chance.randint(1, 4)):
        near = min(len(data), reach)
        at, way = chance.randrange(near), chance.randrange(5)
        if way == 0:
            for _ in range(chance.randint(1, 16)):
                data[chance.randrange(near)] ^= 1 << chance.randrange(8)
        elif way == 1:
            del data[chance.randrange(8, len(data)) :]
        elif way == 2:
            del data[at : at + chance.randint(1, 60)]
        elif way == 3:
            data[at:at] = data[at : at + chance.randint(1, 60)]
        else:
            data[at : at + 4] = chance.choice([b"\xff" * 4, b"\x7f\xff\xff\xff", bytes(4), struct.pack(">I", 60_000)])
        if len(data) < 9:
            break
    return bytes(data)


def main(folder: Path, count: int) -> None:
    """Every mutant looked at, loaded and read.

    Prints how many were pictures and reasons, by how many MiB the peak has grown, and the peak of the decoders'.
    """
    warnings.simplefilter("ignore")
    chance, files, fates = random.Random(11), whole_files(folder), {"picture": 0, "reason": 0}
    for kind, data in files.items():
        path = folder / f"whole.{kind}"
        path.write_bytes(data)
        assert images.load(path, (48, 32)).pixels.shape == (32, 48, 3)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(count):
        kind = [*files][number % len(files)]
        path = folder / f"m.{kind}"
        path.write_bytes(mutant(chance, files[kind]))
        read_blocks(path)
        try:
            size = look(path).size
            height, width = images.load(path).pixels.shape[:2]
            assert (width, height) == size, f"{kind} {number}: {width} × {height} pixels, said to be {size}"
            fates["picture"] += 1
        except PhotoError as error:
            fates["reason"] += 1
            if "came to no end" in str(error):
                raise AssertionError(f"{kind} {number}") from error
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    apart.end()
    decoders = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    print(fates["picture"], fates["reason"], (peak - before) // 1024, decoders // 1024)


def test_damaged_containers_are_pictures_or_reasons(tmp_path: Path) -> None:
    count = many(300, 5000)
    done = subprocess.run(
        [sys.executable, "-c", "import sys, pathlib; sys.path[:0] = sys.argv[3:]; import test_damaged_containers as t; "
         "t.main(pathlib.Path(sys.argv[1]), int(sys.argv[2]))", str(tmp_path), str(count), str(Path(__file__).parent),
         str(Path(__file__).parents[1] / "helpers")],
        capture_output=True, text=True, timeout=many(280, 3000),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    pictures, reasons, grown, decoders = map(int, done.stdout.split()[-4:])
    assert pictures + reasons == count
    assert min(pictures, reasons) > count // 20
    assert grown < 400
    assert decoders < 800
