"""`region:` from the command line: what is outside of it is the photo, and what is wrong with it is told first."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from command import CommandLine
from PIL import Image

from ip2pbatch.run.directory.view import read_run
from ip2pbatch.show.cells import gallery
from ip2pbatch.show.picks import origin_of, pick_of

FAKE = ("--backend", "fake")
RECIPE = """
model: tiny
photos: photos
edits:
  - {{id: one, instruction: make it winter, region: {region}}}
size: {{long_side: 96}}
output: {{folder: out, format: png}}
"""


def written(shoot: Path, region: str) -> Path:
    path = shoot / "recipe.yaml"
    path.write_text(RECIPE.format(region=region))
    return path


def masks(shoot: Path, edit: tuple[slice, slice] = (slice(None), slice(0, 20))) -> Path:
    """For each photo one whose left half is white."""
    for name, size in {"one.png": (64, 48), "day2/two.png": (48, 64), "three.png": (48, 48)}.items():
        pixels = np.zeros(size[::-1], np.uint8)
        pixels[edit] = 255
        (shoot / "masks" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(shoot / "masks" / name)
    return shoot / "masks"


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def left(command: CommandLine, recipe: Path) -> int:
    """Run it again: how many pictures the model has to make."""
    said = command("run", recipe, *FAKE, "--json")
    assert said.code == 0, said.err
    return int(json.loads(said.out.splitlines()[0])["left"])


def test_a_file_is_the_photo_but_for_the_mask_and_its_feather(command: CommandLine, shoot: Path) -> None:
    masks(shoot)
    assert command("run", written(shoot, "masks"), *FAKE).code == 0
    for name in ("one.jpg", "day2/two.jpg", "three.png"):
        photo = pixels(shoot / "photos" / name)
        file = pixels((shoot / "out" / name).with_name(f"{Path(name).stem}_one.png"))
        changed = (photo != file).any(axis=(0, 2))
        scale = photo.shape[1] / (48 if photo.shape[0] != 96 or photo.shape[1] == 96 else 64)
        edge = round(20 * scale)
        assert changed[: edge - 2].all()
        assert not changed[edge + 5 :].any()


def test_another_feather_is_delivered_without_the_model_and_makes_a_lock_stale(
    command: CommandLine, shoot: Path
) -> None:
    recipe = written(shoot, "{box: [0, 0, 40, 100]}")
    assert command("run", recipe, *FAKE).code == 0
    assert command("lock", recipe).code == 0
    before = pixels(shoot / "out" / "one_one.png")
    assert command("lock", recipe, "--check").code == 0
    assert command("verify", shoot / "out", "--level", "bitwise").code == 0
    written(shoot, "{box: [0, 0, 40, 100], feather: 20}")
    stale = command("lock", recipe, "--check")
    assert (stale.code, "output feather of one is 20, was 2" in stale.out + stale.err) == (4, True)
    assert left(command, recipe) == 0
    assert (before != pixels(shoot / "out" / "one_one.png")).any()
    assert command("verify", shoot / "out", "--level", "bitwise").code == 0


def test_another_mask_is_another_picture(command: CommandLine, shoot: Path) -> None:
    recipe = written(shoot, str(masks(shoot)))
    assert command("run", recipe, *FAKE).code == 0
    assert command("lock", recipe).code == 0
    Image.new("L", (48, 48), 255).save(shoot / "masks" / "three.png")
    assert command("lock", recipe, "--check").code == 4
    assert left(command, recipe) == 1


@pytest.mark.parametrize(
    ("break_it", "why"),
    [
        (lambda folder: (folder / "three.png").unlink(), "there is no mask of three.png"),
        (lambda folder: (folder / "three.png").write_text("no"), "is not a JPEG or another picture"),
        (lambda folder: Image.new("L", (48, 40), 255).save(folder / "three.png"), "another shape"),
        (
            lambda folder: Image.new("L", (48, 48), 5).save(folder / "three.png"),
            "the region of three.png (one) is empty",
        ),
        (
            lambda folder: (folder / "three.png").write_bytes((folder / "one.png").read_bytes()[:60]),
            "three.png",
        ),
    ],
    ids=["missing", "no picture", "another shape", "empty", "cut off"],
)
def test_a_mask_that_will_not_do_is_told_before_anything_is_made(
    command: CommandLine, shoot: Path, break_it: object, why: str
) -> None:
    break_it(masks(shoot))  # type: ignore[operator]
    said = command("run", written(shoot, "masks"), *FAKE)
    assert (said.code, why in said.err) == (2, True), said.err
    assert not [*(shoot / "out").rglob("*_one.*")]


def test_a_cell_that_is_picked_has_its_region(command: CommandLine, shoot: Path) -> None:
    masks(shoot)
    recipe = written(shoot, "{mask: masks, feather: 5, grow: 1}")
    assert command("run", recipe, *FAKE).code == 0
    view = read_run(shoot / "out")
    cell = next(one for one in gallery(view).cells if one.photo == "three.png")
    picked = pick_of([cell], origin_of(view, shoot))
    again = shoot / "again.yaml"
    again.write_text(
        f"model: tiny\nphotos: {{folder: photos, include: three.png}}\nsize: {{long_side: 96}}\n"
        f"edits:\n  - {{{picked['recipe']}}}\noutput: {{folder: out}}\n"
    )
    assert left(command, again) == 0


def test_a_plan_draws_the_photos_with_their_regions(command: CommandLine, shoot: Path) -> None:
    masks(shoot)
    recipe, sheet = written(shoot, "masks"), shoot / "regions.png"
    said = command("plan", recipe, "--masks", sheet)
    assert (said.code, "shows 3 photos with their regions" in said.err) == (0, True), said.err
    drawn = pixels(sheet).astype(int)
    pink = (abs(drawn - (230, 0, 120)).sum(axis=2) == 0).sum(axis=0)
    assert len([x for x in range(1, len(pink)) if pink[x] > 200 and pink[x - 1] <= 200]) == 3  # a line in each photo
    assert not (shoot / "out").exists()
    Image.new("L", (48, 48), 0).save(shoot / "masks" / "three.png")
    assert command("plan", recipe, "--masks", sheet).code == 2
    recipe.write_text("photos: photos\nedits: [make it winter]\n")
    assert command("plan", recipe, "--masks", sheet).code == 5


def test_a_cell_with_a_mask_of_a_folder_is_used_for_others_with_their_own(command: CommandLine, shoot: Path) -> None:
    masks(shoot)
    Image.new("L", (48, 64), 255).save(shoot / "masks" / "day2" / "two.png")
    assert command("run", written(shoot, "masks"), *FAKE, "--only", "three.png").code == 0
    (shoot / "masks" / "one.png").rename(shoot / "one.png")
    said = command("apply", shoot / "out", "--cell", "1")
    assert (said.code, "there is no mask of one.jpg" in said.err) == (2, True), said.err
    (shoot / "one.png").rename(shoot / "masks" / "one.png")
    said = command("apply", shoot / "out", "--cell", "1")
    assert (said.code, "2 edits made" in said.out) == (0, True), said.out + said.err
    digests = {strip.photo.name: strip.edits[0].region for strip in read_run(shoot / "out").strips}
    assert len({region.mask for region in digests.values() if region}) == 3
