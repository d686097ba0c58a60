"""A run in which too much fails ends early, with what it made, and says so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command import CommandLine
from runs import SPEC, Wrapped, make_photos, make_plan

from ip2pbatch.errors import UsageError
from ip2pbatch.plan.edits import Edit
from ip2pbatch.run.directory.ledger import open_run
from ip2pbatch.run.directory.lines import Invocation
from ip2pbatch.run.engine import Result
from ip2pbatch.run.events import Quiet
from ip2pbatch.run.execute import Summary, run_plan
from ip2pbatch.run.patience import Allowance, Patience
from ip2pbatch.run.stop import Stop


def test_an_allowance_is_a_number_of_edits_or_a_share_of_them() -> None:
    assert [Allowance.parse(text).of(300) for text in ("0", "20", "5%", " 2.5 % ", "100%")] == [0, 20, 15, 7, 300]
    for text in ("", "-1", "many", "101%", "2.5", "%", "1e3"):
        with pytest.raises(UsageError, match="--max-failures takes a number of edits or a percentage"):
            Allowance.parse(text)


class Told(Quiet):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def session(tmp_path: Path, bad: int, allowed: str) -> tuple[Summary, list[str]]:
    """A run of 40 edits, of which the first `bad` come out as no number."""
    plan, told, stop = make_plan(make_photos(tmp_path / "in", 40)), Told(), Stop()
    wrong = {edit.key for edit in plan.edits[:bad]}

    def spoil(edit: Edit, result: Result) -> Result:
        return Result(None, None, "nan") if edit.key in wrong else result

    with open_run(tmp_path / "out", SPEC) as run:
        run.begin_session(plan, Invocation("2026-01-01T00:00:00Z", "run"))
        events = Patience(told, stop, Allowance.parse(allowed))
        return run_plan(plan, run, Wrapped(after=spoil, batch=4), events=events, stop=stop), told.notes


def test_as_many_as_are_allowed_may_fail(tmp_path: Path) -> None:
    summary, notes = session(tmp_path, 8, "20%")
    assert (summary.exit_code, notes) == (3, [])
    assert dict(summary.states) == {"nan": 8, "done": 32}


def test_one_more_ends_the_run_and_what_was_made_is_kept(tmp_path: Path) -> None:
    summary, notes = session(tmp_path, 8, "7")
    assert summary.exit_code == 3
    assert notes == ["8 failed, more than --max-failures 7 allows: ending early"]
    assert summary.states["nan"] == 8
    assert summary.states["left"] >= 24


def test_the_command_ends_early_with_3_and_a_later_one_goes_on(command: CommandLine, tmp_path: Path) -> None:
    photos = make_photos(tmp_path / "in", 12)
    recipe = tmp_path / "r.yaml"
    recipe.write_text("photos: in\nedits: [make it winter]\noutput: {folder: out}\n")
    hidden = [photo.path.read_bytes() for photo in photos]
    command.guarding = False
    for photo in photos:
        data = photo.path.read_bytes()
        photo.path.write_bytes(data[: len(data) // 2])  # its header is whole, its pixels are not
    said = command("run", recipe, "--backend", "fake", "--max-failures", "2", "--json")
    assert said.code == 3
    states = json.loads(said.out.splitlines()[-1])["states"]
    assert 3 <= states["failed"] < 12
    assert "more than --max-failures 2 allows: ending early" in said.err
    assert command("run", recipe, "--backend", "fake", "--max-failures", "x").code == 2
    for photo, data in zip(photos, hidden, strict=True):
        photo.path.write_bytes(data)
    assert command("run", recipe, "--backend", "fake", "--max-failures", "0").code == 0
