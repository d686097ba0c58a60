"""What programs read of a run: JSON lines, JUnit, GitHub's own channels."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import jsonschema
import pytest
from command import CommandLine

from ip2pbatch.show.ci import LINE


def lines(text: str) -> list[dict[str, object]]:
    rows = [json.loads(line) for line in text.splitlines()]
    for row in rows:
        jsonschema.validate(row, LINE)
    return rows


def test_json_lines_tell_the_whole_run_and_people_read_stderr(command: CommandLine, shoot: Path) -> None:
    (shoot / "photos" / "torn.jpg").write_bytes(b"\xff\xd8\xff nothing")
    out = shoot / "out"
    said = command("edit", shoot / "photos", "-i", "make it winter", "-o", out, "--backend", "fake", "--json")
    rows = lines(said.out)
    assert [row["type"] for row in rows] == ["plan", "item", "item", "item", "summary"]
    assert rows[0]["left"] == 3
    assert {row["photo"] for row in rows[1:4]} == {"one.jpg", "three.png", "day2/two.jpg"}
    assert rows[-1]["exit_code"] == said.code == 3
    assert "torn.jpg" in said.err
    assert "not complete" in said.err.splitlines()[-1]


def test_an_error_is_a_json_line_too(command: CommandLine, shoot: Path) -> None:
    said = command("edit", shoot / "photos", "-i", "x", "-o", shoot / "out", "--text", "five", "--json")
    (row,) = lines(said.out)
    assert (row["type"], row["exit_code"]) == ("error", 2)
    assert "--text" in str(row["message"])


def test_junit_and_github_hear_of_the_end(command: CommandLine, shoot: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = shoot / "summary.md"
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(step))
    junit = shoot / "reports" / "junit.xml"
    said = command(
        "edit", shoot / "photos", "-i", "make it winter", "-o", shoot / "out", "--backend", "fake", "--junit", junit
    )
    assert said.code == 0, said.err
    suite = ElementTree.parse(junit).getroot()
    assert (suite.get("tests"), suite.get("errors"), suite.get("failures")) == ("3", "0", "0")
    assert "3 done" in step.read_text()


def test_lock_and_verify_tell_machines_what_they_tell_people(
    command: CommandLine, shoot: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    recipe, junit = shoot / "r.yaml", shoot / "reports" / "junit.xml"
    recipe.write_text("model: tiny\nphotos: photos\nedits: [make it winter]\nsize: 64\noutput: {folder: out}\n")
    assert command("run", recipe, "--backend", "fake").code == 0

    said = command("lock", recipe, "--json")
    (verdict,) = lines(said.out)
    assert (verdict["type"], verdict["counts"]) == ("verdict", {"photos": 3, "pictures": 3, "files": 3})
    assert "locked 3 pictures" in said.err
    assert command("lock", recipe, "--junit", junit).code == 2

    said = command("verify", recipe, "--json", "--junit", junit, "--level", "bitwise")
    rows = lines(said.out)
    assert [row["type"] for row in rows] == ["finding"] * 3 + ["verdict"]
    assert {row["state"] for row in rows[:3]} == {"equal"}
    assert rows[-1]["exit_code"] == said.code == 0
    assert "the same: all 3" in said.err
    assert ElementTree.parse(junit).getroot().get("failures") == "0"

    (shoot / "photos/three.png").unlink()
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    said = command("lock", recipe, "--check", "--json", "--junit", junit)
    rows = lines(said.out)
    assert [(row["type"], row.get("topic")) for row in rows] == [("stale", "photos"), ("verdict", None)]
    assert rows[-1]["exit_code"] == said.code == 4
    assert "removed: three.png" in said.err
    assert "::error file=" in said.err
    assert ElementTree.parse(junit).getroot().get("failures") == "1"
    next((shoot / "out").glob("one*.jpg")).write_bytes(b"other")
    said = command("verify", shoot / "out", "--against", shoot / "out", "--level", "bitwise", "--json")
    assert said.code == 0  # against itself: the same bytes on both sides
    refused = command("verify", shoot / "r.lock.yaml", "--against", shoot / "out", "--level", "bitwise", "--json")
    rows = lines(refused.out)
    assert rows[-1]["exit_code"] == refused.code == 4
    assert [row["photo"] for row in rows[:-1] if row["state"] == "differs"] == ["one.jpg"]
    assert "differs%3A one.jpg" in refused.err
