"""What a session tells machines while it runs and when it ends: JSON lines, JUnit, GitHub's annotations and summary."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ip2pbatch.show import ci

if TYPE_CHECKING:
    from ip2pbatch.cli.progress import Watcher
    from ip2pbatch.plan.edits import Edit, Plan
    from ip2pbatch.plan.schedule import Limits
    from ip2pbatch.run.execute import Events, Summary
    from ip2pbatch.run.ledger import Delivery, Record


@dataclass(frozen=True, slots=True)
class Outlets:
    """Where machines want to hear: JSON lines on stdout, a JUnit file; GitHub by its own environment."""

    json: bool = False
    junit: Path | None = None

    def events(self, watcher: Watcher, plan: Plan) -> Events:
        """What hears of a run while it goes on: the person's watcher, and JSON lines where they are asked for."""
        return Lines(watcher, plan) if self.json else watcher

    def finished(self, out: Path, summary: Summary, exit_code: int) -> None:
        """Everything that is told once, at the end of a session of the run in `out`."""
        if self.junit is not None or os.environ.get("GITHUB_ACTIONS") == "true":
            self._show(out)
        if self.json:
            print(ci.summary_line(summary, exit_code), flush=True)

    def compared(self, lines: Iterable[str], suite: str, annotations: Iterable[str]) -> None:
        """Everything that `lock` and `verify` tell at their end: JSON lines, a JUnit suite, GitHub's annotations."""
        if self.json:
            print(*lines, sep="\n", flush=True)
        self._write(suite)
        if os.environ.get("GITHUB_ACTIONS") == "true":
            print(*annotations, sep="\n", file=sys.stderr)

    def _write(self, suite: str) -> None:
        if self.junit is not None:
            self.junit.parent.mkdir(parents=True, exist_ok=True)
            self.junit.write_text(suite, encoding="utf-8")

    def _show(self, out: Path) -> None:
        from ip2pbatch.run.view import read_run
        from ip2pbatch.show.cells import gallery

        cells = gallery(read_run(out))
        self._write(ci.junit(cells))
        if os.environ.get("GITHUB_ACTIONS") == "true":
            # The runner reads commands from both streams; stdout may be somebody's JSON.
            print(*ci.github_annotations(cells), sep="\n", file=sys.stderr)
            if step := os.environ.get("GITHUB_STEP_SUMMARY"):
                with Path(step).open("a", encoding="utf-8") as file:
                    file.write(ci.github_summary(cells))


class Lines:
    """The Events of a run as JSON lines on stdout, passed on to the Watcher that talks to a person."""

    def __init__(self, watcher: Watcher, plan: Plan) -> None:
        self._watcher, self._plan = watcher, plan
        self._photos = {edit.key: strip.photo.name for strip in plan.strips for edit in strip.edits}

    def started(self, left: int, done: int) -> None:
        print(ci.plan_line(self._plan, done), flush=True)
        self._watcher.started(left, done)

    def finished(self, edit: Edit, record: Record) -> None:
        print(ci.item_line(edit, record, self._photos.get(edit.key, "")), flush=True)
        self._watcher.finished(edit, record)

    def delivered(self, delivery: Delivery) -> None:
        self._watcher.delivered(delivery)

    def shrunk(self, limits: Limits) -> None:
        print(ci.warning_line(f"out of memory: going on with {limits.batch} edits a call"), flush=True)
        self._watcher.shrunk(limits)

    def note(self, text: str) -> None:
        print(ci.warning_line(text), flush=True)
        self._watcher.note(text)
