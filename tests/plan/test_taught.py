"""What the embedded model was never taught is told, and what it was taught is not, whatever the wording."""

from __future__ import annotations

from pathlib import Path

import pytest

from ip2pbatch.plan.defaults import model_folder
from ip2pbatch.plan.written.advice import advise
from ip2pbatch.plan.written.recipe import Recipe
from ip2pbatch.plan.written.taught import TAUGHT_FILE, Taught, taught_by, taught_text
from ip2pbatch.train.pairs.families.wordings import Wordings, load

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def taught() -> Taught:
    found = taught_by("tiny")
    assert found is not None
    return found


@pytest.fixture(scope="module")
def wordings() -> Wordings:
    return load(HERE.parents[1] / "training/tiny/instructions.yaml")


def share_told(taught: Taught, instructions: list[str]) -> float:
    return sum(taught.unlike(words) is not None for words in instructions) / len(instructions)


@pytest.mark.parametrize("file", ["foreign_instructions.txt", "foreign_unseen.txt"])
def test_nine_in_ten_foreign_instructions_are_told(taught: Taught, file: str) -> None:
    assert share_told(taught, (HERE / file).read_text().splitlines()) >= 0.9


def test_of_the_held_out_wordings_at_most_three_in_a_hundred_are_told(taught: Taught, wordings: Wordings) -> None:
    assert share_told(taught, [words for name in wordings.families for words in wordings.held_out(name)]) <= 0.03
    assert share_told(taught, [words for name in wordings.families for words in wordings.trained(name)]) == 0


@pytest.mark.parametrize(
    ("instruction", "words", "nearest"),
    [
        ("add a cat", ("cat",), None),
        ("Put a CASTLE in the snow!", ("castle",), "winter"),
        ("wintr", ("wintr",), "winter"),
    ],
)
def test_the_words_and_the_nearest_family_are_named(
    taught: Taught, instruction: str, words: tuple[str, ...], nearest: str | None
) -> None:
    found = taught.unlike(instruction)
    assert found is not None
    assert found.words == words
    assert nearest in (None, found.nearest)


@pytest.mark.parametrize(
    "instruction",
    [
        "make the dog bronze",
        "Turn my house into a watercolour, please.",
        "snowy!",
        "cold winter with snow on the trees",
    ],
)
def test_what_an_edit_is_done_to_need_not_be_known(taught: Taught, instruction: str) -> None:
    assert taught.unlike(instruction) is None


def test_advice_is_for_models_that_say_what_they_were_taught(tmp_path: Path) -> None:
    def told(model: str) -> list[str]:
        recipe = Recipe.model_validate({"photos": "p", "model": model, "edits": ["add a cat"]})
        return [str(one) for one in advise(recipe)]

    (advice,) = told("tiny")
    assert "“cat” was never taught to the model: it only changes light, colour, weather, material and medium" in advice
    assert "the nearest that it knows is" in advice
    assert told("timbrooks/instruct-pix2pix") == []
    (tmp_path / TAUGHT_FILE).write_text(taught_text({"felines": ["add a {it} cat"], "snow": ["add snow"]}))
    assert told(str(tmp_path)) == []
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / TAUGHT_FILE).write_text("[]")
    assert told(str(tmp_path / "other")) == []


def test_the_shipped_words_are_those_of_the_training(wordings: Wordings) -> None:
    folder = model_folder("tiny")
    assert folder is not None
    again = taught_text({name: wordings.trained(name) for name in wordings.families})
    assert (folder / TAUGHT_FILE).read_text("utf-8") == again
