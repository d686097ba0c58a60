"""Delivered files as a person meets them: what is told of them, and what becomes of older names."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from command import CommandLine
from PIL import Image

RECIPE = """
name: shoot
model: tiny
photos: photos
edits: [make it winter]
output: {folder: out}
size: {long_side: 96}
guidance: {text: 5}
"""


@pytest.fixture
def recipe(shoot: Path) -> Path:
    path = shoot / "recipe.yaml"
    path.write_text(RECIPE)
    return path


def files(out: Path) -> set[str]:
    found = (p.relative_to(out) for p in out.rglob("*") if p.suffix in (".jpg", ".png", ".webp"))
    return {str(p) for p in found if p.parts[0] not in (".ip2pbatch", "sheets")}


def test_files_that_now_have_another_name_are_told_and_removed_only_when_asked(
    command: CommandLine, recipe: Path
) -> None:
    out = recipe.parent / "out"
    assert "note:" not in command("run", recipe, "--backend", "fake").err
    before = files(out)
    recipe.write_text(RECIPE.replace("text: 5", "text: [5, 7.5]"))
    said = command("run", recipe, "--backend", "fake")
    assert said.code == 0
    assert "still there under older names: 3 files delivered before, such as day2/two_make-it-winter.jpg" in said.err
    assert f"`ip2pbatch deliver {out} --tidy` removes such files" in said.err.replace("\n", " ")
    assert len(files(out)) == 9
    assert json.loads(command("status", out, "--json").out)["leftovers"] == sorted(before)
    (out / "one_make-it-winter.jpg").write_bytes(b"retouched by hand")
    said = command("deliver", recipe, "--tidy")
    assert said.code == 0
    assert "removed 2 files delivered before under other names" in said.out
    assert files(out) & before == {"one_make-it-winter.jpg"}
    assert len(files(out)) == 7
    assert json.loads(command("status", out, "--json").out)["leftovers"] == []
    assert command("check", out).code == 0, "what was tidied away is nobody's loss"


def test_files_of_what_is_no_longer_asked_for_are_told_with_what_removes_them(
    command: CommandLine, recipe: Path
) -> None:
    out, other = recipe.parent / "out", recipe.with_name("other.yaml")
    recipe.write_text(RECIPE.replace("make it winter", "make it summer, make it winter"))
    assert command("run", recipe, "--backend", "fake").code == 0
    other.write_text(RECIPE.replace("make it winter", "make it dark").replace("name: shoot", "name: other"))
    assert command("run", other, "--backend", "fake").code == 0
    recipe.write_text(RECIPE)
    assert command("run", recipe, "--backend", "fake").code == 0
    (out / "one_make-it-summer.jpg").write_bytes(b"retouched by hand")
    gone = recipe.parent / "photos/three.png"
    gone.rename(recipe.parent / "three.png")
    assert command("run", recipe, "--backend", "fake").code == 0
    said = command("status", out)
    assert "6 files still there of pictures that are no longer asked for, such as day2/two_make-it-dark.jpg" in said.out
    assert (
        "1 file changed since they were delivered, of pictures that are no longer asked for, such as "
        "one_make-it-summer.jpg" in said.out.replace("\n", " ")
    )
    assert "`ip2pbatch deliver RECIPE --tidy` removes files" in said.err.replace("\n", " ")
    before = files(out)
    said = command("deliver", recipe, "--tidy")
    assert said.code == 0
    assert "removed 1 file delivered before" in said.out
    assert before - files(out) == {"day2/two_make-it-summer.jpg"}, "theirs, another recipe's, a photo's that is gone"
    recipe.write_text(RECIPE.replace("make it winter", "make it summer, make it winter"))
    assert "0 edits made, 1 file delivered" in command("run", recipe, "--backend", "fake").out


def test_a_name_that_is_asked_for_again_is_the_file_s_that_was_delivered_under_it(
    command: CommandLine, recipe: Path
) -> None:
    out = recipe.parent / "out"
    assert command("run", recipe, "--backend", "fake").code == 0
    before = {name: (out / name).read_bytes() for name in files(out)}
    assert command("deliver", recipe, "--format", "webp").code == 0
    (out / "one_make-it-winter.jpg").write_bytes(b"retouched by hand")
    assert command("run", recipe, "--backend", "fake").code == 0
    after = {name: (out / name).read_bytes() for name in files(out) if not name.endswith(".webp")}
    assert after.pop("one_make-it-winter_2.jpg") == before["one_make-it-winter.jpg"]
    assert after == before | {"one_make-it-winter.jpg": b"retouched by hand"}


def test_the_detail_that_came_back_is_told_with_the_picture_that_has_least(command: CommandLine, recipe: Path) -> None:
    assert command("run", recipe, "--backend", "fake").code == 0
    out = recipe.parent / "out"
    rows = [json.loads(line) for line in (out / ".ip2pbatch/deliveries.jsonl").read_text().splitlines()]
    gates = {row["path"]: row["gate"] for row in rows if "begun" not in row}
    assert gates.pop("three_make-it-winter.png") is None  # the photo has the model's size: nothing was lifted
    assert len(gates) == 2
    assert all(0 <= gate <= 1 for gate in gates.values())
    kept = json.loads(command("status", out, "--json").out)["detail_kept"]
    assert kept["least"] == min(gates.values()) == gates[kept["least_in"]]
    said = command("status", out).out
    assert f"least {kept['least']:.0%} in {kept['least_in']}" in said
    assert "Detail kept" in (out / "report.html").read_text()
    assert command("deliver", recipe, "--full-resolution", "off").code == 0
    assert json.loads(command("status", out, "--json").out)["detail_kept"] is None


def test_what_a_file_could_not_hold_is_told_once_with_a_count(command: CommandLine, recipe: Path) -> None:
    deep = np.random.default_rng(0).integers(0, 65535, (96, 128, 3), dtype=np.uint16)
    for name in ("x", "y"):
        tifffile.imwrite(recipe.parent / f"photos/{name}.tif", deep, photometric="rgb")
    Image.new("L", (128, 96), 90).save(recipe.parent / "photos" / "grey.png")
    said = command("run", recipe, "--backend", "fake")
    assert "grey converted to sRGB (1 file)" in said.err
    assert "16 bits" not in said.err
    said = command("deliver", recipe, "--format", "jpeg")
    assert "note: 16 bits a channel reduced to 8 (2 files)" in said.err


SIDECAR = """<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmlns:exif="http://ns.adobe.com/exif/1.0/"
 xmlns:crs="http://ns.adobe.com/camera-raw-settings/1.0/" xmlns:my="http://example.com/mine/"
 xmp:Rating="4" my:job="17" exif:GPSLatitude="46,30.0N" crs:Exposure2012="+1.00"/></rdf:RDF></x:xmpmeta>"""


@pytest.mark.parametrize(
    ("photo_s", "file_s"), [("one.xmp", "one_make-it-winter.xmp"), ("one.jpg.XMP", "one_make-it-winter.jpg.XMP")]
)
def test_a_sidecar_comes_along_where_that_is_asked_for(
    command: CommandLine, recipe: Path, photo_s: str, file_s: str
) -> None:
    """Under the kind of name that the photo's has, and without how it was developed; nobody's is replaced."""
    out, photos = recipe.parent / "out", recipe.parent / "photos"
    (photos / photo_s).write_text(SIDECAR, encoding="utf-8")
    assert command("run", recipe, "--backend", "fake").code == 0
    assert not (out / file_s).exists()
    recipe.write_text(RECIPE.replace("out}", "out, sidecar: copy}\nmetadata: {gps: strip}"))
    said = command("deliver", recipe)
    assert (said.code, "how the photo was developed left out of the sidecar" in said.err) == (0, True)
    found = (out / file_s).read_text(encoding="utf-8")
    assert all(text in found for text in ("Rating", "my:job", "compositeWithTrainedAlgorithmicMedia"))
    assert not any(text in found for text in ("Exposure2012", "46,30"))
    assert [path.name for path in out.rglob("*") if path.suffix.lower() == ".xmp"] == [file_s]
    assert (photos / photo_s).read_text(encoding="utf-8") == SIDECAR
    assert "0 files delivered" in command("deliver", recipe).out
    (out / file_s).unlink()
    assert "1 file delivered" in command("deliver", recipe).out
    assert (out / file_s).read_text(encoding="utf-8") == found

    (out / file_s).write_text("rated by somebody since")
    recipe.write_text(recipe.read_text().replace("copy}", "copy, quality: 80}"))
    said = command("deliver", recipe)
    assert (said.code, "lies beside a file already" in said.err) == (0, True)
    assert (out / file_s).read_text() == "rated by somebody since"

    (out / file_s).unlink()
    assert "1 file delivered" in command("deliver", recipe).out
    assert (out / file_s).is_file()
    (photos / "day2" / "two.xmp").write_text("<damaged")
    assert "0 files delivered" in command("deliver", recipe).out
    recipe.write_text(recipe.read_text().replace("text: 5", "text: [5, 7.5]"))
    assert command("run", recipe, "--backend", "fake").code == 0
    assert command("deliver", recipe, "--tidy").code == 0
    assert not (out / file_s).exists(), "it goes with its file"
    assert len([path for path in out.rglob("*") if path.suffix.lower() == ".xmp"]) == 2


def test_how_much_of_the_edits_is_delivered_is_changed_without_the_model_and_asks_for_no_other_picture(
    command: CommandLine, recipe: Path
) -> None:
    out = recipe.parent / "out"
    recipe.write_text(RECIPE.replace("[make it winter]", "[make it winter, {instruction: make it dark, strength: 0}]"))
    assert command("run", recipe, "--backend", "fake").code == 0
    whole = {name: (out / name).read_bytes() for name in files(out)}
    said = command("deliver", recipe, "--strength", "0.6")
    assert (said.code, "3 files delivered" in said.out) == (0, True)
    assert "edits that have a strength of their own in the recipe keep it" in said.err
    changed = {name for name in files(out) if (out / name).read_bytes() != whole[name]}
    assert changed == {name for name in whole if "winter" in name}
    rows = [json.loads(row) for row in (out / ".ip2pbatch/deliveries.jsonl").read_text().splitlines()]
    assert {row["strength"] for row in rows if "winter" in row["path"]} == {1.0, 0.6}
    assert {row["strength"] for row in rows if "dark" in row["path"]} == {0.0}
    with Image.open(out / "three_make-it-dark.png") as dark, Image.open(recipe.parent / "photos/three.png") as photo:
        assert np.array_equal(np.asarray(dark.convert("RGB")), np.asarray(photo.convert("RGB")))
        assert "Strength: 0" in dark.text["parameters"]
    assert "0 files delivered" in command("deliver", recipe, "--strength", "0.6").out
    assert "0 edits made, 3 files delivered" in command("run", recipe, "--backend", "fake").out
    assert {name: (out / name).read_bytes() for name in files(out)} == whole


def test_a_lock_knows_the_strength_of_an_edit_and_of_all(command: CommandLine, recipe: Path) -> None:
    assert command("run", recipe, "--backend", "fake").code == 0
    assert command("lock", recipe).code == 0
    assert "strength" not in recipe.with_name("recipe.lock.yaml").read_text()
    for change, reason in (
        (RECIPE.replace("folder: out", "folder: out, strength: 0.5"), "output strength is 0.5, was none"),
        (RECIPE.replace("[make it winter]", "[{instruction: make it winter, strength: 0.5}]"), "links or strengths"),
    ):
        recipe.write_text(change)
        said = command("lock", recipe, "--check")
        assert (said.code, reason in said.out.replace("\n", " ")) == (4, True), said.out


@pytest.mark.parametrize("strength", ["nan", "1.01", "-0.1", "inf"])
def test_no_other_strength_than_from_0_to_1(command: CommandLine, recipe: Path, strength: str) -> None:
    assert command("run", recipe, "--backend", "fake", "--limit", "1").code == 0
    said = command("deliver", recipe, f"--strength={strength}")
    assert (said.code, "no strength from 0 to 1" in said.err) == (2, True), said.err
    for where in ("output: {strength: X, folder: out}", "edits: [{instruction: make it dark, strength: X}]"):
        key = where.partition(":")[0]
        lines = [line for line in RECIPE.splitlines() if not line.startswith(key)]
        recipe.write_text(
            "\n".join([*lines, where.replace("X", {"nan": ".nan", "inf": ".inf"}.get(strength, strength))])
        )
        said = command("run", recipe, "--backend", "fake")
        assert (said.code, f"recipe.yaml:{len(lines) + 1}" in said.err, "no strength" in said.err) == (2, True, True)


def test_a_link_of_a_chain_has_no_strength_of_its_own(command: CommandLine, recipe: Path) -> None:
    chain = "[{id: both, chain: [{instruction: make it winter, strength: 0.5}, add fog]}]"
    recipe.write_text(RECIPE.replace("[make it winter]", chain))
    said = command("validate", recipe)
    assert (said.code, "a link has no strength" in said.err, "beside chain" in said.err) == (2, True, True), said.err
    recipe.write_text(
        RECIPE.replace("[make it winter]", "[{id: both, chain: [make it winter, add fog], strength: 0.5}]")
    )
    assert command("run", recipe, "--backend", "fake").code == 0
