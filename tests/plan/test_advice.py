"""Advice fires on what the model is known to be bad at, and on nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from ip2pbatch.errors import RecipeError
from ip2pbatch.plan.written.advice import Advice, advise
from ip2pbatch.plan.written.recipe import Recipe, load_recipe

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))


def advice(*instructions: str) -> list[Advice]:
    edits = [{"id": str(place), "instruction": words} for place, words in enumerate(instructions)]
    return advise(Recipe.model_validate({"photos": "p", "edits": edits}))


@pytest.mark.parametrize(
    ("topic", "instruction"),
    [
        ("counting", "add three birds to the sky"),
        ("counting", "put two cups on the table and one on the chair"),
        ("counting", "add 5 red balloons"),
        ("counting", "double the number of trees"),
        ("places", "add a hat to the left"),
        ("places", "move it to the left of the image"),
        ("places", "close her right eye"),
        ("places", "put a vase next to the lamp"),
        ("places", "add a logo in the top-right corner"),
        ("places", "Move the boat"),
        ("swapping", "swap their positions"),
        ("swapping", "swap the cat and the dog"),
        ("swapping", "let them switch places"),
        ("viewpoint", "make it seen from above"),
        ("viewpoint", "zoom in"),
        ("viewpoint", "show a bird's-eye view"),
        ("viewpoint", "turn her around"),
        ("viewpoint", "make him look at the camera"),
        ("isolating", "paint only the door red"),
        ("isolating", "turn one of the cats into a tiger"),
        ("isolating", "make the woman in red smile"),
        ("isolating", "give the second man a hat"),
        ("isolating", "make everything except the car grey"),
        ("professions", "make them look like doctors"),
        ("professions", "turn her into a flight attendant"),
        ("gender", "turn him into a woman"),
        ("gender", "make her look like an old man"),
        ("gender", "make it more feminine"),
    ],
)
def test_known_weaknesses_are_named(topic: str, instruction: str) -> None:
    assert topic in {one.topic for one in advice(instruction)}


@pytest.mark.parametrize(
    "instruction",
    [
        "make it winter",
        "make it black and white",
        "turn it into a black and white photo from the 1920s",
        "swap sunflowers with roses",
        "make it right out of a fairy tale",
        "make her look 20 years older",
        "turn the leaves into two colors",
        "add fireworks to the sky",
        "add mountains in the background",
        "replace the background with a beach",
        "have the sun come out from behind the clouds",
        "give the woman a red dress",
        "give him a leather jacket",
        "put her in a suit",
        "turn him into a cyborg",
        "make it look like a painting by Van Gogh",
        "as a watercolor",
        "make the man older",
        "what would it look like if it were snowing?",
        "add a mirror",
        "make his hair blond",
        "put on sunglasses",
        "turn off the lights",
        "switch on the lights",
        "make the sky look dramatic",
        "make it underwater",
        "make it a bus",
        "have it leave a trail of smoke",
    ],
)
def test_what_the_model_does_well_is_left_alone(instruction: str) -> None:
    assert advice(instruction) == []


@pytest.mark.parametrize(
    ("instruction", "words"),
    [
        ("make it (snowy:1.3)", "(snowy:1.3)"),
        ("a ((very)) cold day", "((very))"),
        ("winter [ugly]", "[ugly]"),
        ("winter <lora:snow_v2:0.8>", "<lora:snow_v2:0.8>"),
        ("make it winter BREAK add snow", "BREAK"),
        ("{winter|summer} light", "{winter|summer}"),
        ("snow++ everywhere", "snow++"),
    ],
)
def test_the_syntax_of_other_programs_is_named(instruction: str, words: str) -> None:
    (found,) = [one for one in advice(instruction) if one.topic == "syntax"]
    assert found.words == words
    assert "read here as plain words" in str(found)


@pytest.mark.parametrize(
    "instruction", ["make it winter (with snow)", "break the ice", "at 12:30", "use C++ colours: red", "ratio 16:9"]
)
def test_plain_words_are_no_syntax(instruction: str) -> None:
    assert [one for one in advice(instruction) if one.topic == "syntax"] == []


def test_advice_says_where_why_and_what_instead() -> None:
    (one,) = advice("add three birds")
    assert str(one) == (
        "0: 'add three birds': 'three birds': the model cannot count; "
        "say what there should be more of, without a number"
    )


def test_every_link_and_every_csv_row_is_read(tmp_path: Path) -> None:
    (tmp_path / "notes.csv").write_text("photo,instruction\na.jpg,add four suns\nb.jpg,make it night\n")
    (tmp_path / "r.yaml").write_text(
        "photos: {folder: p, instructions: notes.csv}\nedits:\n - {id: c, chain: [make it night, zoom out]}\n"
    )
    assert [(one.edit, one.topic) for one in advise(load_recipe(tmp_path / "r.yaml"))] == [
        ("c", "viewpoint"),
        ("a.jpg", "counting"),
    ]
    (tmp_path / "notes.csv").write_text("photo,instrction\n")
    with pytest.raises(RecipeError, match=r"notes\.csv:1:7"):
        advise(load_recipe(tmp_path / "r.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_our_own_recipes_need_no_advice(path: Path) -> None:
    assert [str(one) for one in advise(load_recipe(path))] == []


def test_a_warning_shows_all_foreign_syntax_and_the_beginning_of_a_long_instruction(tmp_path: Path) -> None:
    long = "make it winter (snow:1.3), " + "with a lot of frost on every single branch and roof " * 2 + "[ugly] BREAK"
    (tmp_path / "r.yaml").write_text(f"photos: p\nmodel: m\nedits: ['{long}']\n")
    (one,) = advise(load_recipe(tmp_path / "r.yaml"))
    assert one.words == "(snow:1.3) [ugly] BREAK"
    assert one.instruction == long
    assert "'make it winter (snow:1.3), with a lot of frost on every single branch …': '(snow" in str(one)
