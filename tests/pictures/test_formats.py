"""A format that one line adds to FORMATS is one everywhere: read, planned, written, listed, refused by its own name."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from one_line import with_line
from PIL import Image

from ip2pbatch.cli import console
from ip2pbatch.plan.formats import FORMATS, listed, written

CODEC = """
from ip2pbatch.pictures.codecs.through_pillow import saved
from ip2pbatch.pictures.containers import Blocks


def read_blocks(file):
    return Blocks()


def encode(raster, blocks, quality):
    return saved("PPM", raster, Blocks(), alpha=False)
"""
LINES = """
from ip2pbatch.plan.formats import FORMATS, Format
PPM, BMP = (f"PIL.{name}ImagePlugin:{name}ImageFile" for name in ("Ppm", "Bmp"))
FORMATS["ppm"] = Format("ppm", "PPM", (".ppm", ".pnm"), rb"P6", PPM, "netpbm:read_blocks", "netpbm:encode")
FORMATS["bmp"] = Format("bmp", "BMP", (".bmp",), rb"BM", BMP, "netpbm:read_blocks", written_as="tiff")  # not as ours
"""
RECIPE = """
model: fake
photos: photos
edits: [make it winter]
output: {folder: out, name: "{stem}", format: same}
"""


@pytest.fixture
def shoot(tmp_path: Path) -> Path:
    """A folder with recipes, photos in two formats of the table and two that are not, and a codec of those two."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "netpbm.py").write_text(CODEC)
    for name, wanted in (("recipe", "same"), ("all", "ppm"), ("misspelt", "pmp"), ("unwritten", "bmp")):
        text = RECIPE.replace("same", wanted).replace("folder: out", f"folder: {name}")
        (tmp_path / f"{name}.yaml").write_text(text)
    noise = Image.fromarray(np.random.default_rng(4).integers(0, 256, (48, 64, 3), np.uint8))
    for name, kind in (("a.PNM", "PPM"), ("b.jpg", "JPEG"), ("c.bmp", "BMP")):
        noise.save(tmp_path / "photos" / name, kind)
    (tmp_path / "photos/d.ppm").write_text("no picture")
    return tmp_path


def kind(path: Path) -> str | None:
    """The format that a file is in."""
    with Image.open(path) as image:
        return image.format


def test_formats_that_a_line_adds(shoot: Path) -> None:
    run = ["run", "--backend", "fake"]
    schema, help_, doctor, valid, misspelt, unwritten, same, every = with_line(
        LINES,
        [["schema"], ["deliver", "--help"], ["doctor", "--json"], ["validate", "all.yaml"],
         ["validate", "misspelt.yaml"], ["validate", "unwritten.yaml"], [*run, "recipe.yaml"], [*run, "all.yaml"]],
        shoot,
    )  # fmt: skip
    said = " ".join(console.plain(same.out + same.err).split())
    enum = json.loads(schema.out)["$defs"]["Output"]["properties"]["format"]["enum"]
    assert enum == ["same", *written(), "ppm"]
    assert "**/*.pnm" in schema.out
    assert "same, jpeg, png, tiff, webp, avif, heic, jxl or ppm" in " ".join(help_.out.replace("│", " ").split())
    found = {one["topic"]: (one["value"], one["why"]) for one in json.loads(doctor.out)}
    assert found["format PPM"] == ("read and written", ".ppm .pnm")
    assert found["format BMP"] == ("read; delivered as TIFF", ".bmp")
    assert [valid.code, misspelt.code, unwritten.code, same.code, every.code] == [0, 2, 2, 3, 3]  # d.ppm is no picture
    assert "did you mean 'ppm'" in misspelt.err
    assert "d.ppm: is not a JPEG or another picture that is read here" in said
    assert "BMP is read only: delivered as TIFF" in said
    delivered = {
        path.name: kind(path) for path in (shoot / "recipe").iterdir() if path.is_file() and path.suffix != ".html"
    }
    assert delivered == {"a.PNM": "PPM", "b.jpg": "JPEG", "c.tif": "TIFF"}
    assert [kind(path) for path in (shoot / "all").glob("?.ppm")] == ["PPM"] * 3


def test_the_readme_names_the_formats() -> None:
    readme = " ".join((Path(__file__).parents[2] / "README.md").read_text().split())
    both = listed([one.title for one in FORMATS.values() if one.encode], "and")
    only = listed([one.title for one in FORMATS.values() if not one.encode], "and")
    assert f"**Formats**: {both} are read and written, {only} read" in readme
