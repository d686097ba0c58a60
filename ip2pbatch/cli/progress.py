"""What a person sees while a run goes on: a bar on a terminal, plain lines now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.table import Column
from rich.text import Text

from ip2pbatch.cli.console import count, plain, roughly, wrapped
from ip2pbatch.plan.edits import Edit, Plan
from ip2pbatch.plan.large.holders import Holders
from ip2pbatch.plan.limits import Limits
from ip2pbatch.run.directory.lines import Delivery, Record
from ip2pbatch.run.engine import Preview
from ip2pbatch.run.pace import Ahead

_EVERY = 10.0  # seconds between two plain lines


class Watcher:
    """The Events of a run for a person; `photo` tells the name of an Edit's photo by its key, "" where it has none."""

    def __init__(
        self, console: Console, photo: Callable[[str], str], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._console, self._photo, self._clock = console, photo, clock
        self._told: set[tuple[str, str]] = set()
        self._edits = self._files = 0
        self._said = clock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def started(self, left: int, done: int) -> None:
        self._edits = left
        before = f", {done:,} done before" if done else ""
        self._console.print(f"{count(left, 'edit')} to make{before}")

    def finished(self, edit: Edit, record: Record) -> None:
        if record.status not in ("done", "skipped", "unmatched"):
            self._tell_failure(edit, record)

    def _tell_failure(self, edit: Edit, record: Record) -> None:
        """One line for a photo and a reason: a damaged photo fails in every one of its edits."""
        photo = self._photo(edit.key)
        reason = record.detail.removeprefix(f"{photo.rpartition('/')[2]}: ")
        if (photo, reason) in self._told:
            return
        self._told.add((photo, reason))
        line = plain(f"{record.status} {photo}: {edit.instruction}: {reason}")
        said = Text(wrapped(line, self._console.width) if self._console.is_terminal else line)
        said.stylize("red", 0, len(record.status))
        self._console.print(said)

    def ahead(self, ahead: Ahead) -> None:
        """Say how far it is, where enough time has passed since the last line."""
        self._files = max(self._files, ahead.files or 0)
        now = self._clock()
        if now - self._said < _EVERY or not (ahead.edits or ahead.files):
            return
        self._said = now
        parts = [f"{self._edits - ahead.edits:,} of {count(self._edits, 'edit')}"] if self._edits else []
        if ahead.files is not None and self._files:
            parts.append(f"{self._files - ahead.files:,} of {count(self._files, 'file')}")
        rate = [f"{ahead.rate:.2g} edits a second"] if ahead.rate and ahead.edits else []
        self._console.print(", ".join([*parts, *rate, *filter(None, [self._time(ahead)])]) + _each(ahead))

    def _time(self, ahead: Ahead) -> str:
        """ "about 3 min with sheets and report", in a bar's room; "" before anything is measured."""
        if ahead.seconds is None:
            return ""
        return f"about {roughly(ahead.seconds)}{f' with {ahead.then}' if ahead.then else ' left'}"

    def delivered(self, delivery: Delivery) -> None:
        """Nothing: a delivered file is seen where it is."""

    def stepped(self, done: int, of: int, preview: Preview) -> None:
        """Nothing: an edit is soon made."""

    def shrunk(self, limits: Limits) -> None:
        self._console.print(f"[yellow]out of memory:[/] going on with calls of {limits.default_rows} rows")

    def note(self, text: str) -> None:
        self._console.print(escape(text))

    def close(self) -> None:
        """Leave the screen as it is."""


def _each(ahead: Ahead) -> str:
    """ "; cuda:0: day1/a.jpg, cuda:1: loading", where several processes are at work."""
    said = ", ".join(f"{name}: {plain(doing)}" for name, doing in ahead.workers.items())
    return f"; {said}" if said else ""


class _Room:
    """Leaves the end of its lines free: a terminal writes ^C there, and at a full line's end it would begin another,
    so that the bar's own stayed on the screen."""

    def __init__(self, inner: RenderableType) -> None:
        self._inner = inner

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from console.render(self._inner, options.update_width(max(1, options.max_width - 3)))


class _RoomyProgress(Progress):
    def get_renderable(self) -> RenderableType:
        return _Room(super().get_renderable())


class Bar(Watcher):
    """The same on a terminal, with a bar of edits and files together below the lines: one line, as `run.stop` wants."""

    def __init__(self, console: Console, photo: Callable[[str], str]) -> None:
        super().__init__(console, photo)
        self._name = ""
        self._progress = _RoomyProgress(
            SpinnerColumn(),
            TextColumn("{task.description}", table_column=Column(ratio=4, no_wrap=True, overflow="ellipsis")),
            BarColumn(None, table_column=Column(ratio=1)),
            TextColumn("{task.fields[counts]}", style="progress.download", table_column=Column(no_wrap=True)),
            console=console, transient=True, expand=True,
        )  # fmt: skip
        self._task = self._progress.add_task("editing", total=None, counts="")
        self._progress.start()

    def finished(self, edit: Edit, record: Record) -> None:
        photo = self._photo(edit.key)
        self._name = plain(f"{photo}: {edit.instruction}") if photo else ""
        super().finished(edit, record)

    def ahead(self, ahead: Ahead) -> None:
        """The time that is left, the picture that was made last where there is room, and the counts."""
        self._files = max(self._files, ahead.files or 0)
        counts = [f"{self._edits - ahead.edits}/{self._edits} edits"] if self._edits else []
        if self._files and ahead.files is not None:
            counts.append(f"{self._files - ahead.files}/{self._files} files")
        total = self._edits + self._files
        self._progress.update(
            self._task, total=total, completed=total - ahead.edits - (ahead.files or 0), counts=" ".join(counts),
            description=escape(
                " · ".join(filter(None, [self._time(ahead).removeprefix("about "), _each(ahead)[2:] or self._name]))
            ),
        )  # fmt: skip

    def close(self) -> None:
        self._progress.stop()


def watch(console: Console, plan: Plan, *, terminal: bool) -> Watcher:
    """The Watcher that fits: a bar where a person watches a terminal."""
    photo = Holders(plan).photo
    return Bar(console, photo) if terminal else Watcher(console, photo)


@contextmanager
def counted(
    console: Console, text: str, total: int, *, terminal: bool, clock: Callable[[], float] = time.monotonic
) -> Iterator[Callable[[], None]]:  # fmt: skip
    """Tells how far work on `total` things is: a bar on a terminal, elsewhere a line every ten seconds."""
    if terminal:
        named = TextColumn("{task.description}", table_column=Column(no_wrap=True, overflow="ellipsis"))
        columns = named, BarColumn(None), MofNCompleteColumn(), TimeRemainingColumn()
        with _RoomyProgress(*columns, console=console, transient=True, expand=True) as progress:
            task = progress.add_task(text, total=total)
            yield lambda: progress.advance(task)
        return
    done, begun = 0, clock()
    said = begun

    def advance() -> None:
        nonlocal done, said
        done, now = done + 1, clock()
        if now - said >= _EVERY and done < total:
            said = now
            left = roughly((now - begun) / done * (total - done))
            console.print(f"{text}: {done:,} of {total:,}, about {left} left")

    yield advance
