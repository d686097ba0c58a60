"""What a session tells machines while it runs and when it ends: JSON lines, JUnit, GitHub's annotations and summary."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ip2pbatch.cli import console
from ip2pbatch.errors import ResourceError
from ip2pbatch.plan.large.holders import Holders
from ip2pbatch.show import ci

if TYPE_CHECKING:
    from ip2pbatch.cli.progress import Watcher
    from ip2pbatch.errors import Ip2pError
    from ip2pbatch.jobs.comparing.each_model import Compared
    from ip2pbatch.jobs.outcome import Outcome
    from ip2pbatch.plan.edits import Edit, Plan
    from ip2pbatch.plan.limits import Limits
    from ip2pbatch.run.directory.lines import Delivery, Record
    from ip2pbatch.run.engine import Preview
    from ip2pbatch.run.events import Events
    from ip2pbatch.run.pace import Ahead
    from ip2pbatch.run.stale import Difference


@dataclass(frozen=True, slots=True)
class Outlets:
    """Where machines want to hear: JSON lines on stdout, a JUnit file; GitHub by its own environment."""

    json: bool = False
    junit: Path | None = None

    def check(self) -> None:
        """Raises ResourceError where the JUnit file cannot be written: sooner is better than after hours of work."""
        path = self.junit
        if path is None or (path.exists() and not path.is_file() and not path.is_dir()):
            return  # nobody, or a pipe: to open and close it would end it
        there = path.exists()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.open("a", encoding="utf-8").close()
            if not there:
                path.unlink()
        except OSError as error:
            raise _unwritable(path, error) from error

    def events(self, watcher: Watcher, plan: Plan) -> Events:
        """What hears of a run while it goes on: the person's watcher, and JSON lines where they are asked for."""
        return Lines(watcher, plan) if self.json else watcher

    def finished(self, outcome: Outcome) -> None:
        """Everything that is told once, at the end of a session. Raises ResourceError."""
        if self.junit is not None or _on_github():
            self._show(outcome)
        if self.json:
            for record in outcome.measured:
                console.data(ci.measured_line(record))
            console.data(
                ci.summary_line(
                    outcome.summary, outcome.exit_code, outcome.broken, outcome.passed,
                    {path.relative_to(outcome.view.root).as_posix(): why for path, why in outcome.view.damaged.items()},
                )
            )  # fmt: skip

    def without(self, name: str, error: Ip2pError) -> None:
        """Why the run of one of the models that are compared could not go on."""
        if self.json:
            console.data(ci.error_line(f"{name}: {error}", error.hint, error.exit_code))

    def compared_models(self, ended: Compared) -> None:
        """Everything that is told once of a comparison of models, after its runs: a JUnit suite, JSON's last line."""
        if self.junit is not None:
            from ip2pbatch.show.joined import joined

            whole = joined(ended.folder.name, {name: one.view for name, one in ended.runs.items()}, {})
            wrong = [one for run in ended.runs.values() for one in ci.beside(run.summary, run.broken)]
            wrong += [ci.Beside("model", name, str(error)) for name, error in ended.troubles.items()]
            self._write(ci.junit(whole, wrong, whole.passed))
        if self.json:
            counts = {"models": len(ended.runs), "without": len(ended.troubles), "left": len(ended.left)}
            console.data(ci.verdict_line(str(ended.folder), counts, ended.exit_code))

    def compared(self, lines: Iterable[str], suite: str, annotations: Iterable[str]) -> None:
        """Everything that `lock` and `verify` tell at their end: JSON lines, a JUnit suite, GitHub's annotations.

        Raises ResourceError.
        """
        self._write(suite)
        _annotate(annotations)
        if self.json:
            console.data(*lines)

    @contextmanager
    def telling_stale(self) -> Iterator[None]:
        """Around a job that refuses what its lock or recipe does not agree with: machines hear each reason."""
        from ip2pbatch.jobs.locking import StaleLockError

        try:
            yield
        except StaleLockError as error:
            self.stale(str(error.path), error.differences, [])
            raise

    def stale(self, subject: str, found: Sequence[Difference], more: Sequence[str]) -> None:
        """Why `subject` is not what it should be; `more` are JSON lines that follow."""
        lines = [*map(ci.stale_line, found), *more]
        self.compared(lines, ci.junit_of_lock(subject, found), ci.github_stale(found, subject))

    def interrupted(self, exit_code: int) -> None:
        """The last line of what was stopped before it had anything to tell."""
        if self.json:
            console.data(ci.error_line("interrupted", None, exit_code))

    def _write(self, suite: str) -> None:
        if self.junit is None:
            return
        try:
            self.junit.parent.mkdir(parents=True, exist_ok=True)
            self.junit.write_text(suite, encoding="utf-8")
        except OSError as error:
            raise _unwritable(self.junit, error) from error

    def _show(self, outcome: Outcome) -> None:
        from ip2pbatch.show.cells import gallery

        cells, beside = gallery(outcome.view), ci.beside(outcome.summary, outcome.broken)
        self._write(ci.junit(cells, beside, outcome.passed))
        _annotate(ci.github_annotations(cells, beside=beside))
        step = os.environ.get("GITHUB_STEP_SUMMARY")
        if step and _on_github():
            _summarise(Path(step), lambda room: ci.github_summary(cells, beside, room=room))


def _on_github() -> bool:
    return os.environ.get("GITHUB_ACTIONS") == "true"


def _annotate(annotations: Iterable[str]) -> None:
    """The runner reads commands from both streams; stdout may be somebody's JSON."""
    if _on_github():
        for line in annotations:
            print(line, file=sys.stderr)


def _summarise(path: Path, draw: Callable[[int], str]) -> None:
    """Add to a step's summary, which earlier commands of the step may have begun: the limit is of them all."""
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(draw(ci.MOST_SUMMARY_BYTES - path.stat().st_size))
    except OSError as error:
        console.warn(f"the step summary {path} cannot be written: {error.strerror}")


def _unwritable(path: Path, error: OSError) -> ResourceError:
    return ResourceError(f"cannot write {path}: {error.strerror}", hint="name another file with --junit")


class Lines:
    """The Events of a run as JSON lines on stdout, passed on to the Watcher that talks to a person."""

    def __init__(self, watcher: Watcher, plan: Plan) -> None:
        self._watcher, self._plan = watcher, plan
        self._holders = Holders(plan)

    def started(self, left: int, done: int) -> None:
        console.data(ci.plan_line(self._plan, done))
        self._watcher.started(left, done)

    def finished(self, edit: Edit, record: Record) -> None:
        console.data(ci.item_line(edit, record, self._holders.photo(edit.key)))
        self._watcher.finished(edit, record)

    def delivered(self, delivery: Delivery) -> None:
        self._watcher.delivered(delivery)

    def ahead(self, ahead: Ahead) -> None:
        self._watcher.ahead(ahead)

    def stepped(self, done: int, of: int, preview: Preview) -> None:
        self._watcher.stepped(done, of, preview)

    def shrunk(self, limits: Limits) -> None:
        console.data(ci.warning_line(f"out of memory: going on with {limits.batch} edits a call"))
        self._watcher.shrunk(limits)

    def note(self, text: str) -> None:
        console.data(ci.warning_line(text))
        self._watcher.note(text)
