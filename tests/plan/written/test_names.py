"""Names of delivered files: templates, safety on every file system, and no two results on one name."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path, PurePosixPath, PureWindowsPath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ip2pbatch.errors import PlanError
from ip2pbatch.plan.edits import Photo, Plan
from ip2pbatch.plan.expand import expand
from ip2pbatch.plan.families import ModelDefaults
from ip2pbatch.plan.names import output_names, safe_path
from ip2pbatch.plan.photos import Scan
from ip2pbatch.plan.written.recipe import Recipe
from ip2pbatch.plan.written.template import Template

RESERVED = {"CON", "PRN", "AUX", "NUL", *(f"{port}{n}" for port in ("COM", "LPT") for n in range(10))}


def photo(name: str) -> Photo:
    return Photo(name, Path(name), f"digest of {name}", (400, 300))


def plan_and_recipe(*names: str, **recipe: object) -> tuple[Plan, Recipe]:
    made = Recipe.model_validate({"photos": "p", "edits": ["make it winter"]} | recipe)
    return expand(made, Scan(tuple(photo(name) for name in names)), ModelDefaults()), made


def named(*names: str, template: str = "{folder}/{stem}_{edit}", format: str = "same", **recipe: object) -> list[str]:
    plan, made = plan_and_recipe(*names, output={"name": template, "format": format}, **recipe)
    return list(output_names(plan, made.output).values())


def test_the_tree_and_the_suffix_are_kept() -> None:
    assert named("a.jpg", "day 1/b.tif") == ["a_make-it-winter.jpg", "day 1/b_make-it-winter.tif"]
    assert named("a.JPEG") == ["a_make-it-winter.JPEG"]
    assert named("a.b.jpg", format="png") == ["a.b_make-it-winter.png"]
    assert named("a.png", format="jpeg") == ["a_make-it-winter.jpg"]


@pytest.mark.parametrize(
    ("template", "name"),
    [
        ("{stem}", "a.jpg"),
        ("{edit}/{n:04d}", "make-it-winter/0001.jpg"),
        ("{stem}_t{text:.2f}_i{image}", "a_t7.50_i1.5.jpg"),
        ("{stem}_{seed:08d}_{link}", "a_00000007_1.jpg"),
        ("{date:%Y-%m-%d}_{stem}", "2024-05-17_a.jpg"),
        ("{date}", "20240517.jpg"),
        ("{{{stem}}}", "{a}.jpg"),
    ],
)
def test_templates(template: str, name: str) -> None:
    plan, recipe = plan_and_recipe("a.jpg", output={"name": template}, seeds=[7])
    names = output_names(plan, recipe.output, {"a.jpg": datetime(2024, 5, 17)}, {"a.jpg": 1})
    assert names == {(0, 1): name}


def test_a_photo_without_a_date_is_undated() -> None:
    assert named("a.jpg", template="{date:%Y}/{stem}") == ["undated/a.jpg"]


@pytest.mark.parametrize(
    "template",
    [
        "{stem.__class__}",
        "{0}",
        "{}",
        "{stem!r}",
        "{stem:x}",
        "{n:.2f}",
        "{text:d}",
        "{date:%Q}",
        "{stem",
        "stem}",
        "{n:{seed}}",
    ],
)
def test_templates_can_do_nothing_else(template: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        Template.parse(template)


def test_what_varies_and_is_not_in_the_template_is_appended() -> None:
    grid = {"text": [5, 7.5], "image": [1, 1.5]}
    assert named("a.jpg", template="{stem}", guidance=grid, seeds=[1, 2])[:3] == [
        "a_t5_i1_s1.jpg",
        "a_t5_i1.5_s1.jpg",
        "a_t7.5_i1_s1.jpg",
    ]
    assert named("a.jpg", template="{stem}_{text:.1f}", guidance=grid)[0] == "a_5.0_i1.jpg"
    assert named("a.jpg", "b.jpg") == ["a_make-it-winter.jpg", "b_make-it-winter.jpg"]  # own seeds, but one each
    chain = [{"id": "c", "chain": ["x", "y", "z"], "keep": [1, 3]}]
    assert named("a.jpg", edits=chain) == ["a_c_1.jpg", "a_c_3.jpg"]
    assert named("a.jpg", edits=[{"id": "c", "chain": ["x", "y"]}]) == ["a_c.jpg"]


def test_close_scales_have_different_names() -> None:
    assert len(set(named("a.jpg", guidance={"text": [7.5, 7.5000001]}))) == 2


@pytest.mark.parametrize(
    ("names", "template"),
    [
        (("a.jpg", "b.jpg"), "{edit}"),
        (("x/a.jpg", "y/a.jpg"), "{stem}"),
        (("straße.jpg", "STRASSE.png"), "{stem}"),
        (("a.jpg", "a.png"), "{stem}"),
    ],
)
def test_two_results_on_one_name_are_refused(names: tuple[str, str], template: str) -> None:
    with pytest.raises(PlanError) as caught:
        named(*names, template=template, format="jpeg")
    assert all(name in str(caught.value) for name in names)


def test_case_and_unicode_form_do_not_tell_names_apart() -> None:
    edits = [{"id": "É", "instruction": "a"}, {"id": "e\u0301", "instruction": "b"}]
    with pytest.raises(PlanError, match="would both be"):
        named("a.jpg", edits=edits)


@pytest.mark.parametrize(
    ("path", "safe"),
    [
        ("../../etc/passwd", "etc/passwd.jpg"),
        ("/etc/passwd", "etc/passwd.jpg"),
        ("a/../b", "a/b.jpg"),
        ("a//./b", "a/b.jpg"),
        ("..", "photo.jpg"),
        ("", "photo.jpg"),
        ("con", "_con.jpg"),
        ("aux/nul.x/a", "_aux/_nul.x/a.jpg"),
        ("a\x00b\nc", "a-b-c.jpg"),
        ('a<b>:"|?*\\c', "a-b-------c.jpg"),
        ("name. ", "name.jpg"),
        ("sheets/a", "_sheets/a.jpg"),
        (".ip2pbatch/run", "_ip2pbatch/run.jpg"),
        ("a\u202egnp.exe", "a-gnp.exe.jpg"),
    ],
)
def test_names_are_safe(path: str, safe: str) -> None:
    assert safe_path(path, ".jpg") == safe


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=400), st.sampled_from([".jpg", "_t7.5_i1.25_s12345.tiff"]))
def test_no_text_becomes_an_unsafe_name(text: str, end: str) -> None:
    path = safe_path(text, end)
    assert not PurePosixPath(path).is_absolute()
    assert not PureWindowsPath(path).drive
    for part in path.split("/"):
        assert part not in ("", ".", "..")
        assert len(part.encode()) <= 255
        assert not set(part) & set('\x00\n<>:"|?*\\')
        assert part.split(".")[0].strip().upper() not in RESERVED
        assert not part.endswith((".", " "))
    assert path.endswith(end)


def test_long_names_stay_different() -> None:
    stem = "x" * 250
    names = named(f"{stem}.jpg", edits=["make it winter", "make it night"])
    assert len(set(names)) == 2
    assert max(len(name.encode()) for name in names) <= 255


def test_values_cannot_leave_their_part_of_the_path() -> None:
    edits = [{"id": "../../x", "instruction": "a"}]
    assert named("d/a.jpg", edits=edits) == ["d/a_..-..-x.jpg"]
