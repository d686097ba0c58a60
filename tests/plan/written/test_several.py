"""Recipes as text, and several for one folder as one."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ip2pbatch.plan.defaults import model_defaults
from ip2pbatch.plan.expand import expand
from ip2pbatch.plan.photos import scan
from ip2pbatch.plan.written.as_text import recipe_text
from ip2pbatch.plan.written.recipe import Recipe, parse_recipe
from ip2pbatch.plan.written.several import one_recipe

DEFAULTS = dataclasses.replace(model_defaults("tiny"), long_side=96)
WORDS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=30).filter(str.strip)


def recipe_of(text: str, folder: Path) -> Recipe:
    return parse_recipe(text, folder / "recipe.yaml")


def pictures(recipe: Recipe) -> set[tuple[Path, str]]:
    plan = expand(recipe, scan(recipe.photos), DEFAULTS)
    return {(strip.photo.path, edit.key) for strip in plan.strips for edit in strip.edits}


@given(words=WORDS, name=WORDS, folder=WORDS)
def test_any_words_come_back_from_the_text_of_a_recipe(words: str, name: str, folder: str) -> None:
    told = {"name": name, "photos": [f"/{folder}"], "edits": [words, [words, f"{words} 1e5"]]}
    recipe = Recipe.model_validate(told, context=Path("/"))
    assert recipe_of(recipe_text(recipe), Path("/elsewhere")) == recipe


def test_a_recipe_without_a_name_is_not_called_as_its_file(tmp_path: Path) -> None:
    recipe = Recipe.model_validate({"photos": ["/p"], "edits": ["a", "b"]}, context=tmp_path)
    assert recipe_of(recipe_text(recipe), tmp_path).name == recipe.name == "edits"


def test_every_setting_comes_back_from_the_text_of_a_recipe(tmp_path: Path) -> None:
    text = """
name: "1e5"
model: tiny
photos:
  - {folder: p, include: "*.jpg", exclude: [x], pairs: both, follow_links: true}
  - q
edits:
  - make it winter
  - {instruction: "on", id: y, text: 1e-7, image: [1, 1.5], seeds: [3], steps: 7, sampler: ddim, size: 64, photos: "a*"}
  - {chain: [a, {instruction: b, text: 5}], keep: all, carry: pixels}
  - {chain: [{instruction: a, image: 2}]}
guidance: {text: "5..7 by 1", image: 1.5, pair: zip}
seeds: {per_photo: [1, 2]}
steps: 9
size: {megapixels: 0.25}
output: {folder: out, name: "{stem}", format: png, on_conflict: skip, full_resolution: off}
metadata: {gps: strip, prompt: false}
safety: off
sheet: {cell: 100, metrics: [l1]}
"""
    recipe = recipe_of(text, tmp_path)
    assert recipe_of(recipe_text(recipe, head=["of: [a test"]), tmp_path / "elsewhere") == recipe
    assert recipe_of(recipe_text(recipe, folder="."), tmp_path / "o").output.folder == tmp_path / "o"


@pytest.mark.parametrize(
    "texts",
    [
        ("photos: photos\nedits: [a]", "photos: photos\nedits: [b, a]\nsteps: 3\nsize: 64"),
        ("photos: photos\nedits: [a]\nguidance: {text: 5}", "photos: photos/one.jpg\nedits: [a, b]\nseeds: [1]"),
        ("photos: photos/one.jpg\nedits: [a]", "photos: [photos/day2/two.jpg, photos/three.png]\nedits: [a]"),
        ("photos: photos/day2\nedits: [{instruction: a, photos: 't*'}]", "photos: photos/three.png\nedits: [b]"),
        ("photos: {folder: photos, include: '*.jpg'}\nedits: [{instruction: a, photos: 'o*'}]\nguidance: {image: 2}",
         "photos: [photos/day2]\nedits: [a, [a, b]]"),
        ("photos: photos\nedits: [a]\nsize: 128", "photos: photos\nedits: [a]", "photos: photos\nedits: [c]\nsize: 64"),
    ],
)  # fmt: skip
def test_one_recipe_asks_for_what_several_did(shoot: Path, texts: tuple[str, ...]) -> None:
    recipes = [recipe_of(text, shoot) for text in texts]
    text = recipe_text(one_recipe(recipes, DEFAULTS))
    assert pictures(recipe_of(text, shoot)) == set().union(*map(pictures, recipes)), text
