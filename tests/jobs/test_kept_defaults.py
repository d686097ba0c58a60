"""A run keeps the defaults of its model that it was begun with; `--fresh` takes today's."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
from command import CommandLine

from ip2pbatch.plan.families import ModelDefaults
from ip2pbatch.run.directory.kept_defaults import kept_defaults
from ip2pbatch.run.directory.view import read_run

FAKE = ("--backend", "fake")
BEGUN = {"text": 4.5, "image": 1.25, "long_side": 96, "steps": 9, "sampler": "ddim"}
TODAY = {"text": 6.0, "image": 1.75, "long_side": 128, "steps": 30, "sampler": "euler"}
SAID = "keeps the defaults that it was begun with: text 4.5 (the model's is 6.0 today)"


@pytest.fixture
def recipe(shoot: Path) -> Path:
    """A recipe that leaves everything to its model, a folder with defaults of its own."""
    say(shoot, BEGUN)
    path = shoot / "recipe.yaml"
    path.write_text(f"model: {shoot / 'model'}\nphotos: photos\nedits: [make it winter]\n")
    return path


def say(folder: Path, defaults: dict[str, object]) -> None:
    (folder / "model").mkdir(exist_ok=True)
    (folder / "model" / "ip2pbatch.json").write_text(json.dumps({"defaults": defaults}))


def used(out: Path) -> set[tuple[object, ...]]:
    edits = read_run(out).plan.edits
    return {(e.guidance.text, e.guidance.image, max(e.size), e.steps, e.sampler) for e in edits}


def test_a_model_that_changes_its_mind_makes_nothing_again(command: CommandLine, recipe: Path) -> None:
    out = recipe.parent / "out"
    assert command("run", recipe, *FAKE, "--limit", "2").code == 0
    assert json.loads((out / ".ip2pbatch/run.json").read_text())["defaults"] == asdict(ModelDefaults()) | BEGUN
    say(recipe.parent, TODAY)
    for limited in (("--limit", "2"), ()):
        planned = json.loads(command("plan", recipe, *limited, "--json").out)
        assert planned["edits_done"] == 2
        assert len(planned["notes"]) == 1
        assert SAID in planned["notes"][0]
    said = command("run", recipe, *FAKE)
    assert said.code == 0, said.err
    assert "done: 1 edit made" in said.out
    assert " ".join(said.err.split()).count(SAID) == 1
    assert used(out) == {tuple(BEGUN.values())}
    for again in (("retry", recipe, *FAKE), ("deliver", recipe), ("lock", recipe), ("verify", recipe)):
        assert command(*again).code == 0
    assert command("lock", recipe, "--check").code == 0
    assert "keeps" not in command("run", recipe, *FAKE, "--fresh").err
    assert used(out) == {tuple(TODAY.values())}
    assert json.loads(command("plan", recipe, "--json").out)["notes"] == []


def test_a_header_that_is_lost_comes_back_with_them_and_with_how_photos_are_sized(
    command: CommandLine, recipe: Path
) -> None:
    out = recipe.parent / "out"
    assert command("run", recipe, *FAKE, "--limit", "2").code == 0
    header = out / ".ip2pbatch/run.json"
    before = header.read_bytes()
    assert json.loads(before)["engine"]["sizing"] == "lanczos"
    say(recipe.parent, TODAY)
    for damaged in (b"", before.replace(b"lanczos", b"bicubic"), before.replace(b"4.5", b"6.0")):
        header.write_bytes(damaged)
        assert SAID in json.loads(command("plan", recipe, "--json").out)["notes"][0]
        said = command("run", recipe, *FAKE, "--limit", "2")
        assert said.code == 0, said.err
        assert said.out.splitlines()[-1].startswith("done: 0 edits made, 0 files delivered")
        assert header.read_bytes() == before


def test_a_watched_folder_keeps_them_too(command: CommandLine, recipe: Path) -> None:
    out = recipe.parent / "out"
    assert command("run", recipe, *FAKE, "--limit", "1").code == 0
    say(recipe.parent, TODAY)
    said = command("watch", recipe.parent / "photos", recipe, *FAKE, "--settle", "0", "--once-idle", "0")
    assert said.code == 0, said.err
    assert SAID in " ".join(said.err.split())
    assert used(out) == {tuple(BEGUN.values())}


def test_a_run_from_before_they_were_kept_goes_on_with_those_of_then(command: CommandLine, recipe: Path) -> None:
    out = recipe.parent / "out"
    assert command("run", recipe, *FAKE, "--limit", "2").code == 0
    forget_defaults(out)
    (recipe.parent / "model" / "ip2pbatch.json").write_text(json.dumps({"defaults": TODAY, "formerly": BEGUN}))
    said = command("run", recipe, *FAKE)
    assert said.code == 0, said.err
    assert "done: 1 edit made" in said.out
    assert " ".join(said.err.split()).count(SAID) == 1
    assert used(out) == {tuple(BEGUN.values())}
    assert command("run", recipe, *FAKE, "--fresh").code == 0
    assert used(out) == {tuple(TODAY.values())}


def test_such_a_run_of_the_embedded_model_is_not_made_again_in_fewer_steps(command: CommandLine, shoot: Path) -> None:
    recipe, unsaid = shoot / "recipe.yaml", "model: tiny\nphotos: photos\nedits: [make it winter]\n"
    said = "guidance: {text: 1.15, image: 1}\nsteps: 20\nsampler: euler_a\nsize: {long_side: 256}\n"
    recipe.write_text(unsaid + said)
    assert command("run", recipe, *FAKE).code == 0
    recipe.write_text(unsaid)
    planned = json.loads(command("plan", recipe, "--json").out)
    assert planned["edits_done"] == 0, "a run that keeps its defaults keeps today's, which its recipe did not ask for"
    forget_defaults(shoot / "out")
    done = command("run", recipe, *FAKE)
    assert done.code == 0, done.err
    assert "done: 0 edits made" in done.out


def forget_defaults(out: Path) -> None:
    """The run as it would be from before runs kept their model's defaults."""
    header, sessions = out / ".ip2pbatch/run.json", out / ".ip2pbatch/sessions.jsonl"
    for file in (header, sessions):
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        older = [{name: row[name] for name in row if name not in ("defaults", "crc")} for row in rows]
        file.write_text("".join(json.dumps(row) + "\n" for row in older))


def test_a_folder_that_is_linked_is_the_same_model_and_another_is_not(command: CommandLine, recipe: Path) -> None:
    out, model = recipe.parent / "out", recipe.parent / "model"
    assert command("run", recipe, *FAKE).code == 0
    say(recipe.parent, TODAY)
    (recipe.parent / "link").symlink_to(model)
    assert kept_defaults(out, str(recipe.parent / "link")) == ModelDefaults(**BEGUN)
    assert kept_defaults(out, "tiny") is None
    assert kept_defaults(recipe.parent / "elsewhere", str(model)) is None


@pytest.mark.parametrize("header", ["", "{", '{"defaults": {}}', '{"engine": {"model": "tiny"}, "defaults": {"x": 1}}'])
def test_a_header_that_cannot_be_read_is_left_to_the_run_to_mend(
    command: CommandLine, recipe: Path, header: str
) -> None:
    assert command("run", recipe, *FAKE, "--limit", "1").code == 0
    (recipe.parent / "out/.ip2pbatch/run.json").write_text(header)
    assert command("plan", recipe).code == 0
    said = command("run", recipe, *FAKE)
    assert said.code == 0, said.err
    assert "run.json was damaged or gone, and was written again" in said.err
