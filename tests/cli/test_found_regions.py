"""`region: faces` and `protect: faces` from the command line: on a photograph of a face, and one without."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from command import CommandLine
from PIL import Image
from runs import many
from tiny_clipseg import save_clipseg

from ip2pbatch.detectors import yunet
from ip2pbatch.run.directory.view import read_run
from ip2pbatch.show.cells import gallery

FAKE = ("--backend", "fake")
SOAK = pytest.mark.skipif(many(1, 0) == 1, reason="of the soak")
HER = skimage.data.astronaut()[:256, 100:356]
FACE = (slice(75, 150), slice(95, 155))  # rows and columns of her face
CORNER = (slice(220, 256), slice(0, 50))


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """Of one photo with a face and one without."""
    (tmp_path / "photos").mkdir()
    Image.fromarray(HER).save(tmp_path / "photos" / "her.png")
    Image.fromarray(skimage.data.coffee()[:192, :192]).save(tmp_path / "photos" / "cup.png")
    return tmp_path / "recipe.yaml"


def write(recipe: Path, edit: str) -> Path:
    recipe.write_text(
        f"model: tiny\nphotos: photos\nedits:\n  - {{id: one, instruction: make it winter, {edit}}}\n"
        "size: {long_side: 64}\noutput: {folder: out, format: png}\n"
    )
    return recipe


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def changed(recipe: Path, name: str) -> np.ndarray:
    """Which pixels of a delivered file are not the photo's."""
    photo = pixels(recipe.parent / "photos" / f"{name}.png")
    return (photo != pixels(recipe.parent / "out" / f"{name}_one.png")).any(axis=2)


def kept(recipe: Path) -> dict[str, bytes]:
    folder = recipe.parent / "out" / ".ip2pbatch" / "masks"
    return {path.name: path.read_bytes() for path in folder.rglob("*.png")}


def states(command: CommandLine, recipe: Path) -> dict[str, int]:
    said = json.loads(command("status", recipe, "--json").out)
    return {state: number for state, number in said["edits"].items() if number}


def test_faces_are_edited_and_a_photo_without_one_is_left_out_with_a_note(command: CommandLine, recipe: Path) -> None:
    said = command("run", write(recipe, "region: faces"), *FAKE)
    assert (said.code, "one: no face was found in cup.png: left out" in said.err) == (0, True), said.out + said.err
    assert "the one edit is there; 1 edit found nothing to edit" in said.out
    assert changed(recipe, "her")[FACE].mean() > 0.9
    assert not changed(recipe, "her")[CORNER].any()
    assert not (recipe.parent / "out" / "cup_one.png").exists()
    shown = next(cell for cell in gallery(read_run(recipe.parent / "out")).cells if cell.photo == "her.png")
    assert shown.proof is not None
    assert shown.source is not None
    assert np.array_equal(np.asarray(shown.proof.open())[52:, :7], shown.source.pixels()[52:, :7])
    assert states(command, recipe) == {"done": 1, "unmatched": 1}
    assert command("plan", recipe, "--exit-code").code == 0


def test_nothing_is_made_or_looked_for_again(
    command: CommandLine, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert command("run", write(recipe, "region: faces"), *FAKE).code == 0
    before = kept(recipe)
    assert len(before) == 2
    monkeypatch.setattr(yunet, "_PACKAGE", "a package that is not here")
    again = command("run", recipe, *FAKE, "--json")
    assert (again.code, json.loads(again.out.splitlines()[-1])["made"], kept(recipe)) == (0, 0, before)
    write(recipe, "region: {find: faces, feather: 9}")
    assert command("run", recipe, *FAKE).code == 0
    (recipe.parent / "out" / "her_one.png").unlink()
    assert command("deliver", recipe).code == 0
    assert command("retry", recipe, *FAKE).code == 0
    assert command("lock", recipe).code == 0
    assert command("lock", recipe, "--check").code == 0
    assert command("verify", recipe, "--level", "bitwise").code == 0
    assert command("check", recipe.parent / "out").code == 0
    write(recipe, "region: {find: faces, missing: whole}")
    assert command("lock", recipe, "--check").code == 4
    assert command("run", recipe, *FAKE).code == 0
    assert changed(recipe, "cup").mean() > 0.9
    assert not changed(recipe, "her")[CORNER].any()
    assert kept(recipe) == before


@pytest.mark.parametrize("devices", [(), pytest.param(("--devices", "cpu"), marks=SOAK)], ids=["one", "workers"])
def test_what_is_protected_is_the_photo_to_the_bit_also_where_the_edit_fades_out(
    command: CommandLine, recipe: Path, devices: tuple[str, ...]
) -> None:
    assert command("run", write(recipe, "protect: {find: faces, feather: 8}"), *FAKE, *devices).code == 0
    assert not changed(recipe, "her")[FACE].any()
    assert changed(recipe, "her")[CORNER].mean() > 0.9
    assert changed(recipe, "cup").mean() > 0.9


@SOAK
def test_a_chain_whose_first_link_finds_nothing_is_left_out(command: CommandLine, recipe: Path) -> None:
    write(recipe, "region: faces")
    recipe.write_text(
        recipe.read_text().replace("instruction: make it winter,", "chain: [make it winter, add fog], keep: all,")
    )
    assert command("run", recipe, *FAKE).code == 0
    assert states(command, recipe) == {"done": 2, "unmatched": 2}


def test_a_plan_draws_what_is_found_and_tells_what_is_not(command: CommandLine, recipe: Path) -> None:
    sheet = recipe.parent / "regions.png"
    said = command("plan", write(recipe, "region: faces"), "--masks", sheet)
    assert (said.code, "one: no face was found in cup.png" in said.err) == (0, True), said.err
    drawn = pixels(sheet).astype(int)
    assert 300 < (abs(drawn - (230, 0, 120)).sum(axis=2) == 0).sum() < 3000  # a line about her head, none in the other
    assert not (recipe.parent / "out").exists()


@SOAK
def test_a_damaged_mask_is_told_and_made_again(command: CommandLine, recipe: Path) -> None:
    assert command("run", write(recipe, "region: faces"), *FAKE).code == 0
    before = kept(recipe)
    path = next((recipe.parent / "out" / ".ip2pbatch" / "masks").rglob("*.png"))
    path.write_bytes(path.read_bytes()[:-20])
    said = command("check", recipe.parent / "out")
    assert (said.code, "mask" in said.out) == (4, True)
    assert command("run", recipe, *FAKE).code == 0
    assert kept(recipe) == before


def test_without_the_extra_a_run_ends_before_anything_is_made(
    command: CommandLine, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(yunet, "_PACKAGE", "a package that is not here")
    write(recipe, "region: faces")
    assert command("plan", recipe).code == 0
    for arguments in (("run", recipe, *FAKE), ("plan", recipe, "--masks", recipe.parent / "m.png")):
        said = command(*arguments)
        assert (said.code, 'pip install "ip2pbatch[faces]"' in said.err) == (6, True), said.err
    assert not [*(recipe.parent / "out").rglob("*_one.*")]


def test_words_that_match_nothing_and_words_that_match_all(command: CommandLine, recipe: Path) -> None:
    save_clipseg(recipe.parent / "none", bias=-3000.0)
    said = command("run", write(recipe, "region: {words: the sky, model: none}"), *FAKE)
    assert (said.code, "nothing was found that is “the sky” in cup.png and 1 more: left out" in said.err) == (0, True)
    save_clipseg(recipe.parent / "all", bias=3000.0)
    assert command("run", write(recipe, "region: {words: the sky, model: all}"), *FAKE).code == 0
    assert changed(recipe, "her").mean() > 0.9


def test_words_without_their_model_are_refused_by_its_name(command: CommandLine, recipe: Path) -> None:
    said = command("plan", write(recipe, "region: {words: the sky}"))
    assert (said.code, "hf download CIDAS/clipseg-rd64-refined" in said.err) == (6, True), said.err


def test_a_watched_photo_without_a_face_is_left_out(command: CommandLine, recipe: Path) -> None:
    write(recipe, "region: faces")
    said = command("watch", recipe.parent / "photos", recipe, *FAKE, "--once-idle", "0.2", "--settle", "0.05")
    assert (said.code, "no face was found in cup.png" in said.err) == (0, True), said.out + said.err
    assert changed(recipe, "her")[FACE].mean() > 0.9


def test_a_cell_is_used_for_others_with_what_it_seeks_and_protects(command: CommandLine, recipe: Path) -> None:
    write(recipe, "region: {box: [0, 0, 100, 60], feather: 3}, protect: {find: faces, grow: 1}")
    assert command("run", recipe, *FAKE, "--only", "her.png").code == 0
    said = command("apply", recipe.parent / "out", "--cell", "1")
    assert (said.code, "1 edit made" in said.out) == (0, True), said.out + said.err
    assert not changed(recipe, "cup")[160:].any()
    assert changed(recipe, "her")[:40, :40].mean() > 0.9
    assert not changed(recipe, "her")[FACE].any()
    assert not changed(recipe, "her")[200:].any()
