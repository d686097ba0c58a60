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

from ip2pbatch.cli.console import count, duration, plain
from ip2pbatch.plan.edits import Edit, Strip
from ip2pbatch.plan.limits import Limits
from ip2pbatch.run.directory.lines import Delivery, Record
from ip2pbatch.run.engine import Preview

_EVERY = 10.0  # seconds between two plain lines


class Watcher:
    """The Events of a run for a person; `names` tells (photo, instruction) of an Edit by its key."""

    def __init__(
        self, console: Console, names: dict[str, tuple[str, str]], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._console, self._names, self._clock = console, names, clock
        self._told: set[tuple[str, str]] = set()
        self._total = self._count = 0
        self._begun = self._said = clock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def started(self, left: int, done: int) -> None:
        self._total, self._begun = left, self._clock()
        before = f", {done:,} done before" if done else ""
        self._console.print(f"{count(left, 'edit')} to make{before}")

    def finished(self, edit: Edit, record: Record) -> None:
        self._count += 1
        if record.status not in ("done", "skipped"):
            self._tell_failure(edit, record)
        self.advance()

    def _tell_failure(self, edit: Edit, record: Record) -> None:
        """One line for a photo and a reason: a damaged photo fails in every one of its edits."""
        photo, instruction = self._names.get(edit.key, ("", edit.instruction))
        reason = record.detail.removeprefix(f"{photo.rpartition('/')[2]}: ")
        if (photo, reason) in self._told:
            return
        self._told.add((photo, reason))
        self._console.print(f"[red]{record.status}[/] {escape(plain(f'{photo}: {instruction}: {reason}'))}")

    def advance(self) -> None:
        """Say how far it is, where enough time has passed since the last line."""
        now = self._clock()
        if now - self._said >= _EVERY and self._count < self._total:
            self._said = now
            left = (now - self._begun) / self._count * (self._total - self._count)
            self._console.print(f"{self._count} of {self._total} edits, about {duration(left, decimals=0)} left")

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
    """The same on a terminal, with a bar below the lines."""

    def __init__(self, console: Console, names: dict[str, tuple[str, str]]) -> None:
        super().__init__(console, names)
        self._progress = _RoomyProgress(
            SpinnerColumn(),
            TextColumn("{task.description}", table_column=Column(ratio=3, no_wrap=True, overflow="ellipsis")),
            BarColumn(None, table_column=Column(ratio=2)), MofNCompleteColumn(), TimeRemainingColumn(),
            console=console, transient=True, expand=True,
        )  # fmt: skip
        self._task = self._progress.add_task("editing", total=None)
        self._progress.start()

    def started(self, left: int, done: int) -> None:
        super().started(left, done)
        self._progress.update(self._task, total=left)

    def finished(self, edit: Edit, record: Record) -> None:
        name = plain(": ".join(self._names.get(edit.key, ())))
        self._progress.update(self._task, advance=1, description=escape(name))
        super().finished(edit, record)

    def advance(self) -> None:
        """The bar says it."""

    def close(self) -> None:
        self._progress.stop()


def watch(console: Console, strips: tuple[Strip, ...], *, terminal: bool) -> Watcher:
    """The Watcher that fits: a bar where a person watches a terminal."""
    names = {edit.key: (strip.photo.name, edit.instruction) for strip in strips for edit in strip.edits}
    return Bar(console, names) if terminal else Watcher(console, names)


@contextmanager
def counted(console: Console, text: str, total: int, *, terminal: bool) -> Iterator[Callable[[], None]]:
    """Tells how far work on `total` things is: a bar on a terminal, elsewhere a line every ten seconds."""
    if terminal:
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        with Progress(*columns, console=console, transient=True) as progress:
            task = progress.add_task(text, total=total)
            yield lambda: progress.advance(task)
        return
    done, said = 0, time.monotonic()

    def advance() -> None:
        nonlocal done, said
        done += 1
        if time.monotonic() - said >= _EVERY and done < total:
            said = time.monotonic()
            console.print(f"{text}: {done:,} of {total:,}")

    yield advance
