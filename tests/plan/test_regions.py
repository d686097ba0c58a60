"""Regions in a plan: known without a mask being made, in the key where they are set, and whose mask is whose."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from ip2pbatch.errors import PlanError, RecipeError
from ip2pbatch.plan.defaults import model_defaults
from ip2pbatch.plan.edits import Photo, Plan
from ip2pbatch.plan.expand import expand
from ip2pbatch.plan.photos import Scan
from ip2pbatch.plan.regional.regions import fits
from ip2pbatch.plan.written.as_text import recipe_text
from ip2pbatch.plan.written.recipe import Recipe, load_recipe, parse_recipe
from ip2pbatch.run.directory.layout import Layout
from ip2pbatch.run.directory.stored_plans import load_plan, store_plan

NAMES = ("day1/a.jpg", "day1/b.jpg", "day2/c.jpg")


def plan_of(region: object, *, names: tuple[str, ...] = NAMES, **more: object) -> Plan:
    edit = {"id": "one", "instruction": "make it winter", "region": region} | more
    recipe = Recipe.model_validate({"photos": "p", "edits": [{k: v for k, v in edit.items() if v is not None}]})
    scan = Scan(tuple(Photo(name, Path(name), f"digest of {name}", (600, 400)) for name in names))
    return expand(recipe, scan, model_defaults(recipe.model))


def masks(folder: Path, *names: str, size: tuple[int, int] = (60, 40)) -> Path:
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", size, 200 + number).save(path)
    return folder


def keys(plan: Plan) -> list[str]:
    return [edit.key for edit in plan.edits]


def test_a_region_is_in_the_key_where_it_is_set_and_its_feather_is_not(tmp_path: Path) -> None:
    none, box = plan_of(None), plan_of({"box": [0, 0, 100, 40]})
    assert len({*keys(none), *keys(box)}) == 6
    assert keys(plan_of({"box": [0, 0, 100, 40], "feather": 9})) == keys(box)
    assert keys(plan_of({"polygon": [[0, 0], [100, 0], [100, 40], [0, 40]]})) == keys(box)
    for other in (
        {"box": [0, 0, 100, 41]},
        {"box": [0, 0, 100, 40], "grow": 1},
        {"box": [0, 0, 100, 40], "invert": True},
    ):
        assert not {*keys(plan_of(other))} & {*keys(box)}
    here, there = (masks(tmp_path / name, "m.png") / "m.png" for name in ("here", "there"))
    assert keys(plan_of(str(here))) == keys(plan_of(str(there)))
    Image.new("L", (60, 40), 7).save(there)
    assert keys(plan_of(str(here))) != keys(plan_of(str(there)))


def test_edits_share_their_regions() -> None:
    plan = plan_of({"box": [0, 0, 100, 40]}, seeds=[1, 2, 3])
    assert len(plan.edits) == 9
    assert len({id(edit.region) for edit in plan.edits}) == 1


def test_a_mask_has_its_photo_s_name_and_the_nearest_folder_counts(tmp_path: Path) -> None:
    folder = masks(tmp_path, "day1/A.PNG", "b.jpg", "day2/c.webp", "c.png", "notes/c.png")
    plan = plan_of(str(folder))
    paths = [strip.edits[0].region.path for strip in plan.strips if strip.edits[0].region]
    assert paths == [folder / "day1" / "A.PNG", folder / "b.jpg", folder / "day2" / "c.webp"]


@pytest.mark.parametrize(
    ("files", "size", "why"),
    [
        (("day1/a.png", "day2/c.png"), (60, 40), "there is no mask of day1/b.jpg in"),
        (
            ("day1/a.png", "a.png", "b.png", "c.png"),
            (60, 60),
            "has 60 × 60 pixels, which is another shape than the 600",
        ),
        (("a.png", "b.png", "b.jpg", "c.png"), (60, 40), "two masks have the name of day1/b.jpg"),
    ],
)
def test_masks_that_are_missing_twice_there_or_of_another_shape_are_told(
    tmp_path: Path, files: tuple[str, ...], size: tuple[int, int], why: str
) -> None:
    with pytest.raises(PlanError, match=why) as told:
        plan_of(str(masks(tmp_path, *files, size=size)))
    assert "photos" in str(told.value.hint)
    assert told.value.exit_code == 2


def test_two_photos_of_one_name_do_not_share_a_mask_unseen(tmp_path: Path) -> None:
    folder = masks(tmp_path, "a.png")
    with pytest.raises(PlanError, match=r"day1/a.jpg and day2/a.jpg would both have the mask"):
        plan_of(str(folder), names=("day1/a.jpg", "day2/a.jpg"))


def test_a_mask_that_is_no_picture_or_gone_is_told(tmp_path: Path) -> None:
    (tmp_path / "m.png").write_text("no picture")
    for name, why in (("m.png", "is not a JPEG or another picture"), ("gone.png", "No such file")):
        with pytest.raises(PlanError, match=why):
            plan_of(str(tmp_path / name))


@pytest.mark.parametrize(
    ("mask", "same"),
    [
        ((600, 400), True),
        ((512, 344), True),
        ((3, 2), True),
        ((400, 600), False),
        ((600, 420), False),
        ((64, 43), True),
    ],
)
def test_a_mask_fits_but_for_what_rounding_does(mask: tuple[int, int], same: bool) -> None:
    assert fits(mask, (600, 400)) == same


def test_a_link_has_the_chain_s_region_or_its_own() -> None:
    edit = {
        "id": "one", "region": {"box": [0, 0, 50, 100], "feather": 3},
        "chain": ["make it winter", {"instruction": "add fog", "region": {"box": [50, 0, 100, 100], "feather": 7}}],
    }  # fmt: skip
    recipe = Recipe.model_validate({"photos": "p", "edits": [edit]})
    (strip,) = expand(recipe, Scan((Photo("a", Path("a"), "d", (600, 400)),)), model_defaults("tiny")).strips
    assert [edit.region.polygons[0][0] for edit in strip.edits if edit.region] == [(0, 0), (50, 0)]
    assert strip.feathers == (3, 7)


def test_a_stored_plan_has_regions_and_feathers_and_others_have_their_old_lines(tmp_path: Path) -> None:
    folder = masks(tmp_path / "masks", "a.png", "b.png", "c.png")
    for region, more in ((str(folder), {}), ({"box": [1, 2, 3, 4], "invert": True}, {"strength": 0.5}), (None, {})):
        plan = plan_of(region, **more)
        path = Layout(tmp_path).plan(store_plan(Layout(tmp_path), plan))
        again = load_plan(path)
        assert again is not None
        assert (again.edits, again.strips) == (plan.edits, plan.strips)
        assert [edit.region and edit.region.path for edit in again.edits] == [
            edit.region and edit.region.path for edit in plan.edits
        ]
        lengths = [len(json.loads(line)) for line in path.read_text().splitlines()[4:]]
        assert lengths == ([11] * 3 + [7] * 3 if region is None else [12] * 3 + [9] * 3)


@pytest.mark.parametrize(
    ("written", "why"),
    [
        ("3", "should be faces, the path of a mask, or a mapping"),
        ("{feather: 3}", "one of a mask, boxes and polygons, find, and words"),
        ("{mask: m, box: [0, 0, 1, 1]}", "one of a mask, boxes and polygons, find, and words"),
        ("{find: faces, words: the sky}", "one of a mask, boxes and polygons, find, and words"),
        ("{find: dogs}", "'dogs' is not one of faces, subject, background"),
        ("{find: faces, model: a/b}", "model: is for words, subject and background"),
        ("{words: the sky, model: 's3://a/b'}", "is an address and no model"),
        ("{words: ''}", "words"),
        ("{box: [0, 0, 9, 9], missing: whole}", "missing: is of what is looked for"),
        ("{find: faces, missing: never}", "missing"),
        ("{box: [0, 0, 100]}", "a box has four numbers"),
        ("{box: [[0, 0, 9, 9], [0, 0, 0, 9]]}", "the box is empty"),
        ("{box: [0, 0, 100, 101]}", "101 is not a number from 0 to 100"),
        ("{box: sky}", "is not read as one"),
        ("{polygon: [[0, 0], [100, 0]]}", "at least three points"),
        ("{polygon: [[0, 0], [50, 50], [100, 100]]}", "at least three points that are not in one line"),
        ("{polygon: [[0, 0], [50], [100, 100]]}", "a point has two numbers"),
        ("{box: [0, 0, 9, 9], feather: -1}", "feather"),
        ("{box: [0, 0, 9, 9], blur: 1}", "unknown key"),
    ],
)
def test_what_is_no_region_is_told_with_its_place(tmp_path: Path, written: str, why: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(f"photos: p\nedits:\n  - instruction: make it winter\n    region: {written}\n")
    with pytest.raises(RecipeError, match=why) as told:
        load_recipe(path)
    assert told.value.line == 4


def test_a_recipe_that_is_written_down_has_the_same_regions(tmp_path: Path) -> None:
    text = """
photos: p
edits:
  - {instruction: a, region: masks/sky.png}
  - {instruction: b, region: {box: [0, 0, 100, 40], grow: 2, invert: true}}
  - {instruction: c, region: {polygon: [[[0, 0], [100, 0], [50, 60]], [[1, 1], [2, 1], [2, 2]]], feather: 0}}
  - {chain: [d, {instruction: e, region: {box: [0, 0, 50, 50]}}]}
  - {instruction: f, region: faces, protect: masks/}
  - {instruction: g, protect: {find: faces, grow: 1, feather: 3}}
  - {instruction: h, region: {words: the sky, model: ./segmenter, missing: whole}}
"""
    recipe = parse_recipe(text, tmp_path / "r.yaml")
    assert recipe.edits[0].region is not None
    assert recipe.edits[0].region.mask == tmp_path / "masks" / "sky.png"
    assert parse_recipe(recipe_text(recipe), Path("/elsewhere/r.yaml")).edits == recipe.edits


@pytest.mark.parametrize(
    ("written", "why"),
    [
        ("{find: faces, invert: true}", "protect.invert: unknown key"),
        ("{find: faces, missing: whole}", "protect.missing: unknown key"),
        ("{find: faces, feather: 3}", "protect.feather: region says it for the whole edit"),
        ("7", "protect: should be faces"),
    ],
)
def test_what_cannot_be_protected_is_told_with_its_place(tmp_path: Path, written: str, why: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(
        "photos: p\nedits:\n  - instruction: make it winter\n    region: {box: [0, 0, 9, 9]}\n"
        f"    protect: {written}\n"
    )
    with pytest.raises(RecipeError, match=why) as told:
        load_recipe(path)
    assert told.value.line == 5


def test_what_is_sought_and_protected_is_in_the_key_and_faces_are_known_without_their_detector() -> None:
    plans = [
        plan_of("faces"), plan_of({"find": "faces", "missing": "whole"}), plan_of(None), plan_of(None, protect="faces"),
        plan_of({"box": [0, 0, 9, 9]}, protect="faces"), plan_of({"box": [0, 0, 9, 9]}),
        plan_of({"find": "faces", "invert": True}), plan_of("faces", protect={"box": [0, 0, 9, 9]}),
    ]  # fmt: skip
    assert len({key for plan in plans for key in keys(plan)}) == 3 * len(plans)
    assert keys(plan_of({"find": "faces", "feather": 9})) == keys(plans[0])
    first = plans[0].edits[0].region
    assert first is not None
    assert first.sought is not None
    assert (first.sought.by.split()[2], first.photo) == ("8f2383e4dd3cfbb4,", "digest of day1/a.jpg")
    assert plan_of(None, protect={"find": "faces", "feather": 7}).strips[0].feathers == (7,)


def test_another_commit_of_what_finds_words_is_another_picture_and_a_whole_one_needs_no_model() -> None:
    old, new = (plan_of({"words": "the sky", "model": f"a/b@{letter * 40}"}) for letter in "ab")
    assert not {*keys(old)} & {*keys(new)}
    assert not {*keys(old)} & {*keys(plan_of({"words": "the sea", "model": f"a/b@{'a' * 40}"}))}


def test_a_stored_plan_has_what_is_sought_and_protected(tmp_path: Path) -> None:
    folder = masks(tmp_path / "masks", "a.png", "b.png", "c.png")
    words = {"words": "the sky", "model": f"a/b@{'a' * 40}", "missing": "whole"}
    for region, protect in (("faces", str(folder)), (words, {"box": [1, 2, 3, 4]}), (None, "faces")):
        plan = plan_of(region, protect=protect)
        again = load_plan(Layout(tmp_path).plan(store_plan(Layout(tmp_path), plan)))
        assert again is not None
        assert again.edits == plan.edits
        for one, other in zip(again.edits, plan.edits, strict=True):
            assert one.region is not None
            assert other.region is not None
            assert one.region.written == other.region.written
            assert one.region.protect
            assert other.region.protect
            assert one.region.protect.written == other.region.protect.written
