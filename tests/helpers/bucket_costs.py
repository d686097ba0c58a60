"""What photos in a bucket cost: BENCHMARKS.md, "Photos in a bucket".

python tests/helpers/bucket_costs.py FOLDER      # one that may be emptied; two minutes

The store is moto's in a process of its own, on this machine: what it takes is not counted, and there is no line to
wait for. Processor time is of this process alone.
"""

from __future__ import annotations

import os
import resource
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

import numpy as np
from PIL import Image
from store_server import KEYS, Bucket, serving

OBJECTS, PHOTOS, PICTURES = 3000, 60, 100


def costs(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds of this process, and by the clock."""
    before, begun = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    work()
    after = resource.getrusage(resource.RUSAGE_SELF)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return spent, time.perf_counter() - begun


def listing(bucket: Bucket) -> None:
    from ip2pbatch.disk.buckets.locations import location
    from ip2pbatch.disk.buckets.stores import store_of

    for number in range(OBJECTS):
        bucket.put(f"many/day{number % 30}/{number:05}.jpg", b"no photo")
    place = location(f"s3://{bucket.name}/many")
    spent, took = costs(lambda: print(f"{sum(1 for _ in store_of(place).listing(place.key)):,} objects listed", end=""))
    print(f" in {took:.2f} s by the clock, {spent:.2f} s of processor time")


def planning(bucket: Bucket, folder: Path) -> None:
    """Photos of twelve megapixels: looked at in a folder, in a bucket, in a bucket when they are here, when known."""
    from ip2pbatch.disk.buckets.objects import objects
    from ip2pbatch.plan.memory import Memory
    from ip2pbatch.plan.photos import scan
    from ip2pbatch.plan.written.recipe import PhotoFolder

    noise = np.random.default_rng(0).integers(0, 255, (300, 400, 3), np.uint8)
    image = Image.fromarray(noise).resize((4000, 3000))
    for number in range(PHOTOS):
        image.putpixel((0, 0), (number, 0, 0))
        image.save(folder / f"{number:03}.jpg", quality=90)
    size = sum(path.stat().st_size for path in folder.iterdir())
    bucket.put_folder(folder, "photos")
    here, there = (PhotoFolder.model_validate(place) for place in (str(folder), f"s3://{bucket.name}/photos"))
    print(f"{PHOTOS} photos of {size / PHOTOS / 1e6:.1f} MB:")
    memory = folder.parent / "memory.sqlite"
    for what, photos, forget in (
        ("in a folder", here, True), ("in a bucket, not here yet", there, True), ("copied here", there, True),
        ("known", there, False),
    ):  # fmt: skip
        if forget:
            memory.unlink(missing_ok=True)
        spent, took = costs(lambda photos=photos: scan([photos], memory=Memory(memory)))  # type: ignore[misc]
        print(f"  {what}: {PHOTOS / took:.0f} photos a second by the clock, {spent / PHOTOS * 1000:.1f} ms each")
    print(f"  {sum(one.stat().st_size for one in objects().folder.rglob('*') if one.is_file()) / 1e6:.0f} MB kept")


def overhead(bucket: Bucket, folder: Path) -> None:
    """An edit and its file by the fake engine, of photos in a folder and in a bucket that are copied here already."""
    from runs import make_photos

    from ip2pbatch import jobs
    from ip2pbatch.run.machine import Machine

    names = [photo.name for photo in make_photos(folder / "small", PICTURES)]
    bucket.put_folder(folder / "small", "small")
    took: dict[str, list[float]] = {"here": [], "there": []}
    for turn in range(6):
        ways = ("here", "there") if turn % 2 else ("there", "here")
        for way in ways:
            photos = folder / "small" if way == "here" else f"s3://{bucket.name}/small"
            out = folder / f"{way}{turn}"
            spent, _ = costs(
                lambda photos=photos, out=out: jobs.edit(  # type: ignore[misc]
                    photos, "make it winter", out, size=64, machine=Machine(backend="fake")
                )
            )
            shutil.rmtree(out)
            if turn:  # the first copies and remembers
                took[way].append(spent / PICTURES * 1000)
    asked, _ = costs(lambda: [_opened(f"s3://{bucket.name}/small/{name}") for name in names * 10])
    print(f"to ask for a photo that is copied here, and open it: {asked / len(names) * 100:.2f} ms")
    here, there = (sorted(took[way])[len(took[way]) // 2] for way in ("here", "there"))
    print(f"an edit and its file: {here:.1f} ms from a folder, {there:.1f} ms from a bucket (medians of five)")


def _opened(address: str) -> None:
    from ip2pbatch.disk.buckets.objects import objects

    objects().doubt()
    objects().open(address).close()


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    with serving() as store:
        os.environ |= KEYS | {
            "AWS_ENDPOINT_URL": "http://{}:{}".format(*store.behind), "XDG_CACHE_HOME": str(folder / "cache"),
        }  # fmt: skip
        bucket = Bucket(store, "costs")
        (folder / "photos").mkdir(exist_ok=True)
        print("load", *os.getloadavg())
        overhead(bucket, folder)
        planning(bucket, folder / "photos")
        listing(bucket)
        print("load", *os.getloadavg())


if __name__ == "__main__":
    main()
