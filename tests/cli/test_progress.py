"""What a person sees while a run goes on, on a terminal and elsewhere."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from runs import make_photos, make_plan

from ip2pbatch.cli import console
from ip2pbatch.cli.progress import Watcher, counted, watch
from ip2pbatch.plan.edits import Plan
from ip2pbatch.run.directory.lines import Record
from ip2pbatch.run.pace import Ahead


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return make_plan(make_photos(tmp_path, 3), ["make it winter", "make it night"])


def watcher_of(plan: Plan, width: int, *, terminal: bool) -> tuple[Watcher, io.StringIO]:
    said = io.StringIO()
    talk = Console(file=said, width=width, force_terminal=terminal, soft_wrap=True, highlight=False)
    return watch(talk, plan, terminal=terminal), said


def test_a_damaged_photo_is_told_once_and_the_links_after_it_not_at_all(plan: Plan) -> None:
    watcher, said = watcher_of(plan, 200, terminal=False)
    watcher.started(6, 0)
    first, second = plan.strips[0].edits
    for _ in range(2):
        watcher.finished(first, Record(first.key, "failed", 0, "0000.jpg: the file is damaged or cut off"))
        watcher.finished(second, Record(second.key, "skipped", 0, "not tried"))
    other = plan.strips[1].edits[0]
    watcher.finished(other, Record(other.key, "nan", 0, "not a number"))
    assert said.getvalue().splitlines() == [
        "6 edits to make",
        "failed day0/0000.jpg: make it winter: the file is damaged or cut off",
        "nan day1/0001.jpg: make it winter: not a number",
    ]


def test_plain_lines_come_now_and_then_with_the_time_that_is_left(plan: Plan) -> None:
    now = [0.0]
    said = io.StringIO()
    watcher = Watcher(Console(file=said, width=80), lambda key: "", clock=lambda: now[0])
    watcher.started(1400, 2)
    for second, ahead in (
        (6, Ahead(1396, None, None)),
        (12, Ahead(1390, 1398, None)),  # nothing was delivered yet, so that nobody knows
        (18, Ahead(1389, 1397, 545.0, "sheets and report")),
        (23, Ahead(1380, 1396, 540.0, "sheets and report")),
        (500, Ahead(0, 3, 1.2, "sheets and report")),
        (520, Ahead(0, 0, 0.0)),
    ):
        now[0] = second
        watcher.ahead(ahead)
    assert said.getvalue().splitlines() == [
        "1,400 edits to make, 2 done before",
        "10 of 1,400 edits, 0 of 1,398 files",
        "20 of 1,400 edits, 2 of 1,398 files, about 9 min with sheets and report",
        "1,400 of 1,400 edits, 1,395 of 1,398 files, about 1 s with sheets and report",
    ]


def test_what_is_counted_tells_how_long_it_takes_and_what_follows() -> None:
    now, said = [0.0], io.StringIO()
    with counted(
        Console(file=said, width=80), "drawing contact sheets", 8, terminal=False, clock=lambda: now[0]
    ) as advance:
        for _ in range(8):
            now[0] += 6
            advance()
    assert said.getvalue().splitlines() == [
        "drawing contact sheets: 2 of 8, about 36 s left",
        "drawing contact sheets: 4 of 8, about 24 s left",
        "drawing contact sheets: 6 of 8, about 12 s left",
    ]


def test_the_bar_shows_a_name_without_what_commands_a_terminal(plan: Plan) -> None:
    (strip, *others), (edit, *_) = plan.strips, plan.edits
    hostile = replace(strip, photo=replace(strip.photo, name="a\x1b]0;owned\x07.jpg"))
    watcher, said = watcher_of(replace(plan, strips=(hostile, *others)), 200, terminal=True)
    with watcher:
        watcher.started(6, 0)
        watcher.finished(edit, Record(edit.key, "done", 1))
        watcher.ahead(Ahead(5, None, None))
        watcher._progress.refresh()  # type: ignore[attr-defined]
    assert "a\ufffd]0;owned\ufffd.jpg: make it winter" in said.getvalue()
    assert "\x1b]0;" not in said.getvalue()


@pytest.mark.parametrize("width", [40, 80, 200])
def test_the_bar_fits_its_terminal(plan: Plan, width: int) -> None:
    watcher, said = watcher_of(plan, width, terminal=True)
    with watcher:
        watcher.started(6, 0)
        for left, edit in zip((5, 4, 3), plan.edits, strict=False):
            watcher.finished(edit, Record(edit.key, "done", 1))
            watcher.ahead(Ahead(left, (6, 5, 4)[5 - left], 545.0, "sheets and report"))
        watcher._progress.refresh()  # type: ignore[attr-defined]
        shown = Console(file=io.StringIO(), width=width)
        shown.print(watcher._progress.get_renderable())  # type: ignore[attr-defined]
        lines = shown.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert len(lines) == 1
    assert len(lines[0].rstrip()) <= width - 3, "a terminal has room for its ^C"
    assert "3/6 edits 2/6 files" in lines[0]
    assert ("9 min with sheets and report" if width >= 80 else "9 min") in lines[0]
    assert (width > 80) == ("make it winter" in lines[0])
    assert "6 edits to make" in said.getvalue()


def test_an_interruption_says_what_it_interrupted(capsys: pytest.CaptureFixture[str]) -> None:
    console.talk.cache_clear()
    with pytest.raises(KeyboardInterrupt), console.busy("loading tiny"):
        raise KeyboardInterrupt
    console.talk.cache_clear()
    assert capsys.readouterr().err == "interrupted while loading tiny\n"


def test_sentences_end_their_lines_between_words_and_paths_stay_whole() -> None:
    path = "/a/folder/with/a/name/that/no/line/of/this/width/holds.jpg"
    said = console.wrapped(f"warning: not delivered: {path}: the disk is full\nand more", 24)
    assert said.splitlines() == ["warning: not delivered:", f"{path}:", "the disk is full", "and more"]


def test_a_terminal_that_cannot_draw_hears_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.delenv("CI", raising=False)
    for term, draws in (("xterm-256color", True), ("dumb", False), ("unknown", False)):
        monkeypatch.setenv("TERM", term)
        assert console.is_terminal() == draws
