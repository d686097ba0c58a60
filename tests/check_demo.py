"""After `make demo`: every delivered file exists, has its source's size and metadata, and differs from it.

Run by .ci/run as a script, with Pillow alone and none of the project's own code, so that a mistake in the project
cannot hide itself here.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from PIL import Image, ImageChops, ImageOps, ImageStat

DEMO = Path(__file__).parent.parent / "demo"
DESCRIPTION, ARTIST, COPYRIGHT, ORIENTATION = 0x010E, 0x013B, 0x8298, 0x0112


def source_of(delivered: Path) -> Path:
    """The photo a delivered file was made from: same folder below, and its stem begins with the photo's."""
    folder = DEMO / "photos" / delivered.relative_to(DEMO / "out").parent
    matches = [photo for photo in folder.iterdir() if photo.is_file() and delivered.stem.startswith(photo.stem + "_")]
    assert len(matches) == 1, f"{delivered}: {len(matches)} photos could be its source"
    return matches[0]


def check(delivered: Path) -> None:
    """Raise AssertionError where a delivered file is not what a photographer should get back."""
    photo = source_of(delivered)
    with Image.open(photo) as before, Image.open(delivered) as after:
        old, new = before.getexif(), after.getexif()
        for tag in (DESCRIPTION, ARTIST, COPYRIGHT):
            assert new.get(tag) == old.get(tag), f"{delivered}: EXIF {tag:#06x} is {new.get(tag)!r}"
        assert new.get(ORIENTATION, 1) == 1, f"{delivered}: orientation {new.get(ORIENTATION)}"
        assert after.info.get("icc_profile") == before.info.get("icc_profile"), f"{delivered}: other colours"
        assert b"compositeWithTrainedAlgorithmicMedia" in delivered.read_bytes(), (
            f"{delivered}: not marked as AI-edited"
        )
        upright = ImageOps.exif_transpose(before).convert("RGB")
        assert after.size == upright.size, f"{delivered}: {after.size}, the photo has {upright.size}"
        change = sum(ImageStat.Stat(ImageChops.difference(upright, after.convert("RGB"))).mean) / 3
        assert change > 2, f"{delivered}: hardly differs from the photo (mean difference {change:.2f} of 255)"


def main() -> int:
    """Check everything the demo's ledger says was delivered, and that sheets and report are there."""
    lines = (DEMO / "out/.ip2pbatch/deliveries.jsonl").read_text().splitlines()
    delivered = sorted({DEMO / "out" / json.loads(line)["path"] for line in lines})
    assert len(delivered) >= 20, f"only {len(delivered)} files were delivered"
    for path in delivered:
        check(path)
    sheets = list((DEMO / "out/sheets").glob("*.png"))
    assert sheets, "no contact sheet"
    assert (DEMO / "out/report.html").stat().st_size > 10_000, "no report"
    print(f"demo: {len(delivered)} delivered files, {len(sheets)} contact sheets and the report are as they should be")
    return 0


if __name__ == "__main__":
    sys.exit(main())
