"""What people write where something else is meant: addresses, dates, decimals with a comma, one instruction twice; and
what of an instruction no model hears of.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command import CommandLine
from PIL import Image

from ip2pbatch import jobs
from ip2pbatch.backends.tokens import load_tokenizer, words_read
from ip2pbatch.errors import RecipeError, UsageError
from ip2pbatch.plan.written.instructions import read_instructions
from ip2pbatch.plan.written.recipe import load_recipe
from ip2pbatch.run.directory.view import read_run
from ip2pbatch.show.cells import gallery

FAKE = ("--backend", "fake")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    Image.new("RGB", (64, 48), (90, 120, 60)).save(tmp_path / "in/a.jpg")
    (tmp_path / "recipe.yaml").write_text("model: tiny\nphotos: in\nedits: [make it winter]\nsize: {long_side: 64}\n")
    return tmp_path


@pytest.mark.parametrize(
    "arguments",
    [
        ("edit", "https://example.org/photos", "-i", "sepia", "-o", "out"),
        ("edit", "in", "-i", "sepia", "-o", "https://b/out"),
        ("edit", "in", "-i", "sepia", "-o", "s3://b/out", "--state", "s3://b/state"),
        ("retry", "recipe.yaml", "--out=gs://b/out"),
        ("run", "file:///recipe.yaml"),
        ("watch", "s3://b/in", "recipe.yaml"),
        ("status", "s3://b/out"),
        ("sheet", "out", "-o", "s3://b/sheets"),
        ("verify", "out", "--against", "s3://b/out"),
        ("lock", "recipe.yaml", "-o", "s3://b/out"),
        ("init", "s3://b/recipe.yaml"),
        ("train", "run", "stage.yaml", "--photos", "s3://b/photos"),
    ],
    ids=" ".join,
)
def test_addresses_are_refused_by_name_everywhere(command: CommandLine, here: Path, arguments: tuple[str, ...]) -> None:
    before = sorted(here.rglob("*"))
    said = command(*arguments)
    assert said.code == 2
    assert "is an address and no path" in said.err
    assert sorted(here.rglob("*")) == before


def test_addresses_in_recipes_and_from_python_are_refused(command: CommandLine, here: Path) -> None:
    (here / "s3.yaml").write_text("photos: https://b/in\nedits: [sepia]\n")
    said = command("validate", "s3.yaml")
    assert said.code == 2
    assert "s3.yaml:1:9: photos: 'https://b/in' is an address and no path" in said.err
    with pytest.raises(UsageError, match="is an address"):
        jobs.run("recipe.yaml", out="https://b/out")
    with pytest.raises(UsageError, match="is an address"):
        jobs.edit("in", "sepia", "https://b/out")


@pytest.mark.parametrize(
    ("model", "hint"),
    [
        ("s3://b/model", "name a folder of this machine, or owner/name@revision of the hub"),
        ("hf://owner/name@main", "the hub's are written owner/name: owner/name@main"),
        ("https://huggingface.co/owner/name/", "the hub's are written owner/name: owner/name"),
    ],
)
def test_an_address_is_no_model(command: CommandLine, here: Path, model: str, hint: str) -> None:
    (here / "recipe.yaml").write_text(f"photos: in\nedits: [sepia]\nmodel: {model}\n")
    said = command("validate", "recipe.yaml")
    assert said.code == 2
    assert f"recipe.yaml:3:1: model: '{model}' is an address and no model\nhint: {hint}" in said.err
    said = command("edit", "in", "-i", "sepia", "-o", "out", "-m", model, *FAKE)
    assert said.code == 2
    assert f"--model: '{model}' is an address and no model\nhint: {hint}" in said.err
    for name in ("where", "digest", "pull"):
        said = command("models", name, model)
        assert said.code == 6
        assert said.err == f"error: {model} is an address and no model\nhint: {hint}\n"


def test_an_address_in_an_instruction_is_words(command: CommandLine, here: Path) -> None:
    assert command("edit", "in", "-i", "https://example.org", "-o", "out", "--model", "tiny", *FAKE).code == 0


@pytest.mark.parametrize("words", ["2001-99-99", "2026-02-30", "12:30:61", "no", "1_000"])
def test_words_that_look_like_something_else_are_words(command: CommandLine, here: Path, words: str) -> None:
    recipe = here / "recipe.yaml"
    recipe.write_text(f"name: {words}\nmodel: tiny\nphotos: in\nedits: [{words}]\nsize: {{long_side: 64}}\n")
    assert command("run", recipe, *FAKE).code == 0
    assert json.loads(command("status", recipe, "--json").out)["name"] == words
    assert (here / "out/report.html").is_file()
    assert command("report", here / "out").code == 0


@pytest.mark.parametrize("words", ["7", "0x1F", "1e5", "true", "~"])
def test_what_is_no_word_is_refused_with_its_place(command: CommandLine, here: Path, words: str) -> None:
    (here / "recipe.yaml").write_text(f"photos: in\nedits:\n  - {words}\n")
    said = command("validate", "recipe.yaml")
    assert said.code == 2
    assert "recipe.yaml:3:5: edits.0: " in said.err


@pytest.mark.parametrize(
    ("cell", "scales"),
    [("7,5", (7.5,)), ("7.5", (7.5,)), ("5, 7.5", (5, 7.5)), ("1,0..2,0 by 0,5", (1, 1.5, 2)), ("5,7,10", (5, 7, 10))],
)
def test_a_decimal_comma_beside_semicolons(tmp_path: Path, cell: str, scales: tuple[float, ...]) -> None:
    (tmp_path / "notes.csv").write_text(f"photo;instruction;text\na.jpg;make it winter;{cell}\n")
    (row,) = read_instructions(tmp_path / "notes.csv")
    assert row.edit.text == scales


def test_a_comma_beside_commas_or_tabs_is_asked_back(tmp_path: Path) -> None:
    for text in (
        'photo,instruction,text\na.jpg,make it winter,"7,5"\n',
        "photo\tinstruction\ttext\na.jpg\tsnow\t7,5\n",
    ):
        (tmp_path / "notes.csv").write_text(text)
        with pytest.raises(RecipeError, match=r"notes\.csv:2:1: text: '7,5' may be 7\.5, and may be the list 7, 5"):
            read_instructions(tmp_path / "notes.csv")
    (tmp_path / "notes.csv").write_text('photo,instruction,text\na.jpg,make it winter,"7, 5"\n')
    (row,) = read_instructions(tmp_path / "notes.csv")
    assert row.edit.text == (7, 5)


@pytest.mark.parametrize(
    ("line", "place"),
    [
        ("guidance: {text: '7,5'}", "3:18: guidance.text"),
        ("guidance: {image: [1.5, '1,2']}", "3:25: guidance.image.1"),
        ("edits: [{instruction: snow, text: '7,5'}]", "3:35: edits.0.text"),
        ("edits: [[{instruction: snow, image: '1,5'}]]", "3:37: edits.0.0.image"),
    ],
)
def test_a_decimal_comma_in_a_recipe_is_asked_back(command: CommandLine, here: Path, line: str, place: str) -> None:
    edits = "" if line.startswith("edits") else "edits: [snow]\n"
    (here / "recipe.yaml").write_text(f"photos: in\nmodel: tiny\n{line}\n{edits}")
    said = command("validate", "recipe.yaml")
    assert said.code == 2
    assert f"recipe.yaml:{place}: " in said.err
    assert "and may be the list" in said.err


@pytest.mark.parametrize("flag", ["--text", "--image"])
def test_a_decimal_comma_in_a_flag_is_asked_back(command: CommandLine, here: Path, flag: str) -> None:
    said = command("edit", "in", "-i", "snow", "-o", "out", flag, "7,5", *FAKE)
    assert said.code == 2
    assert f"{flag}: '7,5' may be 7.5, and may be the list 7, 5" in said.err
    assert not (here / "out").exists()


def test_seeds_are_whole_and_their_commas_a_list(command: CommandLine, here: Path) -> None:
    assert command("edit", "in", "-i", "snow", "-o", "out", "--seed", "1,2", "--model", "tiny", *FAKE).code == 0
    assert len(list((here / "out").glob("*.jpg"))) == 2


def test_instructions_that_differ_in_case_or_punctuation_are_numbered(command: CommandLine, here: Path) -> None:
    words = ("-i", "make it winter", "-i", "Make it winter!", "-i", "MAKE IT WINTER")
    assert command("edit", "in", *words, "-o", "out", "--model", "tiny", *FAKE).code == 0
    names = sorted(path.name for path in (here / "out").glob("*.jpg"))
    assert names == ["a_make-it-winter-2.jpg", "a_make-it-winter-3.jpg", "a_make-it-winter.jpg"]
    (here / "recipe.yaml").write_text(
        "photos: in\nedits: [snow, {id: snow-2, instruction: add snow}, Snow!, [snow, fog], [Snow, fog]]\n"
    )
    ids = [spec.id for spec in load_recipe(here / "recipe.yaml").edits]
    assert ids == ["snow", "snow-2", "snow-3", "snow-then-fog", "snow-then-fog-2"]
    (here / "recipe.yaml").write_text("photos: in\nedits: [snow, snow]\n")
    assert command("validate", "recipe.yaml").code == 2


def test_what_was_not_read_and_never_taught_is_told_everywhere(command: CommandLine, here: Path) -> None:
    long = "make it winter " + "and then snow " * 12 + "and at last add fog"
    (here / "recipe.yaml").write_text(
        f"model: tiny\nphotos: in\nsteps: 1\nsize: {{long_side: 64}}\nedits: [{long}, add a cat]\n"
    )
    told = command("validate", "recipe.yaml", "--strict")
    assert told.code == 4
    assert "at last add fog': more than the text encoder reads" in told.err
    assert "“cat” was never taught to the model" in told.err
    said = command("run", "recipe.yaml")
    assert said.code == 0
    assert "at last add fog': more than the text encoder reads" in said.err
    assert "“cat” was never taught to the model" in said.err
    assert "more than the text encoder reads" not in command("run", "recipe.yaml").err  # nothing is left to make
    assert "at last add fog' was more than the text encoder reads" in command("status", "out").err
    (unread,) = json.loads(command("status", "out", "--json").out)["unread"].values()
    assert unread.endswith("and at last add fog")
    first, second = gallery(read_run(here / "out")).cells
    assert first.mark.startswith(f"not read: “{unread}”")
    assert second.mark.startswith("“cat” was never taught; nearest: ")
    assert "“cat” was never taught" in (here / "out/report.html").read_text()


def test_edit_and_watch_give_the_advice_of_validate(command: CommandLine, here: Path) -> None:
    words = ("-i", "add three birds to the left", "-i", "(snow:1.3)")
    said = command("edit", "in", *words, "-o", "out", *FAKE)
    for advice in ("the model cannot count", "does not know left from right", "read here as plain words"):
        assert advice in said.err
    (here / "recipe.yaml").write_text("photos: in\nedits: [zoom in]\nsize: {long_side: 64}\n")
    said = command("watch", "in", "recipe.yaml", "-o", "seen", "--settle", "0", "--once-idle", "0", *FAKE)
    assert "keeps the viewpoint of the photo" in said.err


def test_what_was_not_read_begins_with_a_whole_word() -> None:
    tokenizer = load_tokenizer(Path(jobs.__file__).parents[1] / "tiny")
    words = [f"{'very ' * count}extraordinarily cold and windy" for count in range(40)]
    read = [words_read(tokenizer, instruction) for instruction in words]
    cut = [(whole, part) for whole, part in zip(words, read, strict=True) if part != whole]
    assert 10 < len(cut) < len(words)
    for whole, part in cut:
        assert whole.startswith(part)
        assert not (part[-1].isalpha() and whole[len(part)].isalpha())
    assert words_read(tokenizer, "x" * 500)
