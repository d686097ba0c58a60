"""Every recipe in recipes/ loads, fits the schema, and asks for as many pictures as its comments promise."""

from __future__ import annotations

from pathlib import Path

import jsonschema
import pytest

from ip2pbatch.jobs.comparing.comparison import comparison_of
from ip2pbatch.plan.defaults import model_defaults
from ip2pbatch.plan.edits import Photo
from ip2pbatch.plan.expand import expand
from ip2pbatch.plan.names import output_names
from ip2pbatch.plan.photos import Scan
from ip2pbatch.plan.written.recipe import Recipe, load_recipe, parse_recipe
from ip2pbatch.plan.written.schema import schema
from ip2pbatch.plan.written.yaml_source import read_yaml

FOLDER = Path(__file__).parents[3] / "recipes"

# pictures to make for the seven photos of the demo
PICTURES = {
    "demo": 37,
    "seasons": 28,
    "weather": 42,
    "materials": 35,
    "styles": 42,
    "backgrounds": 112,
    "hair": 70,
    "makeup": 70,
    "clothes": 210,
    "grid": 140,
    "chain": 21,
    "regions": 21,
    "compare-editors": 147,
}
DEMO_PHOTOS = ("astronaut.jpg", "cat.jpg", "coffee.jpg", "motorcycle.png", "rocket.jpg", "travel/china.jpg")
DEMO = Scan(
    tuple(
        Photo(name, FOLDER / name, f"digest of {name}", (640, 427))
        for name in sorted((*DEMO_PHOTOS, "travel/flower.jpg"))
    )
)


def test_every_recipe_is_counted_here() -> None:
    assert sorted(path.stem for path in FOLDER.glob("*.yaml")) == sorted(PICTURES)


@pytest.mark.parametrize("name", PICTURES)
def test_a_recipe_asks_for_its_pictures(name: str) -> None:
    path = FOLDER / f"{name}.yaml"
    recipe = load_recipe(path)
    assert recipe.name == name
    edits = 0
    for one in each_model(path, recipe):
        plan = expand(one, DEMO, model_defaults(one.model))
        assert len(set(output_names(plan, one.output).values())) == sum(len(strip.keep) for strip in plan.strips)
        edits += len(plan.edits)
    assert edits == PICTURES[name]


def each_model(path: Path, recipe: Recipe) -> list[Recipe]:
    """The recipe, or where it compares that of each model."""
    compared = comparison_of(path)
    if compared is None:
        return [recipe]
    return [parse_recipe(one.text, Path(one.file)) for one in compared.recipes().values()]


@pytest.mark.parametrize("name", PICTURES)
def test_a_recipe_fits_the_schema(name: str) -> None:
    data, _ = read_yaml(FOLDER / f"{name}.yaml")
    jsonschema.Draft202012Validator(schema()).validate(data)


def test_the_demo_is_small_enough() -> None:
    assert PICTURES["demo"] <= 40
