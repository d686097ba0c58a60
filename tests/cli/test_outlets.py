"""What machines are told when something is in the way: readers that go away, files that cannot be written, photos that
cannot be read.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import jsonschema
import pytest
from command import CommandLine

from ip2pbatch.run.directory.view import read_run
from ip2pbatch.show import ci

FAKE = ("--backend", "fake")


@pytest.fixture
def recipe(shoot: Path) -> Path:
    path = shoot / "recipe.yaml"
    path.write_text(
        "model: tiny\nphotos: photos\nedits: [make it winter, make it night]\n"
        "size: {long_side: 96}\noutput: {folder: out, full_resolution: off}\n"
    )
    return path


@pytest.fixture
def on_github(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """GitHub's environment; the file of the step's summary."""
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    return tmp_path / "summary.md"


def lines(text: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in text.splitlines()]
    for line in found:
        jsonschema.validate(line, ci.LINE)
    return found


def read_one_line(*arguments: str | Path) -> tuple[int, str, str]:
    """A command in another process whose stdout is closed after its first line: exit code, that line, stderr."""
    process = subprocess.Popen(
        [sys.executable, "-m", "ip2pbatch", *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stderr is not None
    first = process.stdout.readline()
    process.stdout.close()
    said = process.stderr.read()
    process.stderr.close()
    return process.wait(), first, said


def test_a_reader_that_goes_away_ends_no_run(recipe: Path) -> None:
    code, first, said = read_one_line("run", recipe, *FAKE, "--json")
    assert code == 0, said
    assert json.loads(first)["type"] == "plan"
    assert "all 6 edits are there" in said
    assert read_run(recipe.parent / "out").counts()["done"] == 6
    code, first, said = read_one_line("verify", recipe, "--json")
    assert code == 0, said
    assert json.loads(first)["type"] == "finding"


def test_a_junit_file_that_cannot_be_written_is_told_before_the_work(command: CommandLine, recipe: Path) -> None:
    (recipe.parent / "a file").touch()
    for path in (recipe.parent, recipe.parent / "a file/junit.xml"):
        said = command("run", recipe, *FAKE, "--json", "--junit", path)
        assert said.code == 7
        assert f"cannot write {path}" in said.err
        assert "--junit" in said.err
        assert lines(said.out)[-1]["exit_code"] == 7
    assert not (recipe.parent / "out").exists()
    assert command("run", recipe, *FAKE, "--junit", recipe.parent / "reports/junit.xml").code == 0
    assert command("lock", recipe).code == 0
    for arguments in (("verify", recipe), ("lock", recipe, "--check"), ("run", recipe, *FAKE, "--locked")):
        said = command(*arguments, "--junit", recipe.parent)
        assert said.code == 7, said.err
        assert "the same" not in said.out


def test_a_summary_that_cannot_be_written_is_a_warning(
    command: CommandLine, recipe: Path, on_github: Path
) -> None:  # fmt: skip
    on_github.mkdir()
    said = command("run", recipe, *FAKE)
    assert said.code == 0
    assert f"warning: the step summary {on_github} cannot be written" in said.err
    assert "" not in said.err.splitlines()  # no annotation, so no line for them


def test_the_commands_of_a_step_share_the_room_of_its_summary(
    command: CommandLine, recipe: Path, on_github: Path
) -> None:
    for number in range(40):
        (recipe.parent / f"photos/{number:02}.jpg").write_bytes(b"no picture")
    assert command("run", recipe, *FAKE).code == 3
    alone = on_github.stat().st_size
    assert "39.jpg" in on_github.read_text()
    on_github.write_text("x" * (ci.MOST_SUMMARY_BYTES - alone // 2))
    assert command("run", recipe, *FAKE).code == 3
    text = on_github.read_text()
    assert "39.jpg" not in text
    assert "more of 46: see the report" in text
    assert on_github.stat().st_size < ci.MOST_SUMMARY_BYTES + 100
    on_github.write_text("x" * ci.MOST_SUMMARY_BYTES)
    assert command("run", recipe, *FAKE).code == 3
    assert on_github.stat().st_size == ci.MOST_SUMMARY_BYTES


def test_photos_that_cannot_be_read_are_no_success_to_machines(
    command: CommandLine, recipe: Path, on_github: Path
) -> None:
    (recipe.parent / "photos/text.jpg").write_text("no picture")
    junit = recipe.parent / "junit.xml"
    said = command("run", recipe, *FAKE, "--json", "--junit", junit)
    assert said.code == 3
    last = lines(said.out)[-1]
    why = "is not a JPEG or another picture that is read here"
    assert (last["exit_code"], last["broken"]) == (3, [{"file": "text.jpg", "reason": why}])
    suite = ElementTree.fromstring(junit.read_text())
    assert (suite.get("tests"), suite.get("errors")) == ("7", "1")
    assert f"::error title=broken%3A text.jpg::{why}" in said.err.splitlines()
    assert "6 done, 1 broken" in on_github.read_text()
    assert f"| text.jpg |  | broken | {why} |" in on_github.read_text()
    locked = command("lock", recipe)
    assert locked.code == 0
    assert f"not locked: text.jpg: {why}" in locked.err


def test_files_that_were_not_delivered_are_no_success_to_machines(
    command: CommandLine, recipe: Path, on_github: Path
) -> None:
    recipe.write_text(recipe.read_text().replace("folder: out", "folder: out, on_conflict: error"))
    taken = recipe.parent / "out/one_make-it-night.jpg"
    taken.parent.mkdir()
    taken.write_text("somebody's")
    said = command("run", recipe, *FAKE, "--json", "--junit", recipe.parent / "junit.xml")
    assert said.code == 3
    (row,) = lines(said.out)[-1]["undelivered"]
    assert row["file"] == taken.name
    suite = ElementTree.fromstring((recipe.parent / "junit.xml").read_text())
    assert [case.get("classname") for case in suite if case.find("error") is not None] == [taken.name]
    assert "::error title=undelivered%3A one_make-it-night.jpg::" in said.err
    assert "1 undelivered" in on_github.read_text()


def test_the_last_line_of_a_bug_has_its_exit_code(
    command: CommandLine, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ip2pbatch.jobs.session.run_plan", lambda *of, stop: 1 / 0)
    said = command("run", recipe, *FAKE, "--json")
    assert said.code == 1
    assert lines(said.out)[-1]["exit_code"] == 1


def test_a_stale_lock_names_its_reasons_to_machines_too(
    command: CommandLine, recipe: Path, on_github: Path
) -> None:  # fmt: skip
    assert command("run", recipe, *FAKE).code == 0
    assert command("lock", recipe).code == 0
    recipe.write_text(recipe.read_text().replace("night", "dusk"))
    junit, lock = recipe.parent / "junit.xml", recipe.with_name("recipe.lock.yaml")
    for arguments in (("run", recipe, *FAKE, "--locked"), ("verify", lock)):
        said = command(*arguments, "--json", "--junit", junit)
        assert said.code == 4
        assert [(line["type"], line.get("topic", "")) for line in lines(said.out)] == [
            ("stale", "recipe"), ("stale", "recipe"), ("error", ""),
        ]  # fmt: skip
        assert ElementTree.fromstring(junit.read_text()).get("failures") == "1"
        assert f"::error file={lock},title=stale%3A recipe::" in said.err
        assert ("--locked" in said.err) == ("run" in arguments)
        junit.unlink()
