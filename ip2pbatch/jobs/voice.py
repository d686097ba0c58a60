"""Whom a job tells what happens while it works, and who may stop it: the terminal, a notebook, a page, or nobody."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Never, Protocol

from ip2pbatch.plan.edits import Edit, Plan
from ip2pbatch.run.directory.lines import Record
from ip2pbatch.run.events import Events, Quiet
from ip2pbatch.run.pace import Ahead
from ip2pbatch.run.stop import Stop, insisting, listening

if TYPE_CHECKING:
    from tqdm import tqdm

log = logging.getLogger("ip2pbatch.jobs")


class Voice(Protocol):
    """What a job says, in plain sentences. Called from the thread that the job works in."""

    def note(self, text: str) -> None:
        """Something worth knowing that is nobody's mistake."""
        ...

    def warn(self, text: str) -> None:
        """A warning that stops nothing."""
        ...

    def busy(self, text: str) -> AbstractContextManager[None]:
        """Around what takes a moment: "loading tiny"."""
        ...

    def counting(self, text: str, total: int) -> AbstractContextManager[Callable[[], None]]:
        """Around work on `total` things of one kind, such as "reading"; what comes back is called after each."""
        ...

    def progress(self, plan: Plan) -> AbstractContextManager[Events]:
        """Around a run of `plan`: what hears of each edit and file."""
        ...

    def stop(self) -> AbstractContextManager[Stop]:
        """Around work that can be asked to stop after the batch at hand."""
        ...


class Silent:
    """Says nothing, and keeps what was said: `notes` and `warnings`. ^C and SIGTERM stop it as they stop a command."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.warnings: list[str] = []

    def note(self, text: str) -> None:
        log.info("%s", text)
        self.notes.append(text)

    def warn(self, text: str) -> None:
        log.warning("%s", text)
        self.warnings.append(text)

    @contextmanager
    def busy(self, text: str) -> Iterator[None]:
        with insisting():
            yield

    @contextmanager
    def counting(self, text: str, total: int) -> Iterator[Callable[[], None]]:
        with insisting():
            yield lambda: None

    @contextmanager
    def progress(self, plan: Plan) -> Iterator[Events]:
        yield Quiet()

    def stop(self) -> AbstractContextManager[Stop]:
        return listening()


class Bars(Silent):
    """A bar of tqdm's in a notebook or on a terminal, notes and warnings beside it."""

    def note(self, text: str) -> None:
        super().note(text)
        _line(f"note: {text}")

    def warn(self, text: str) -> None:
        super().warn(text)
        _line(f"warning: {text}")

    @contextmanager
    def counting(self, text: str, total: int) -> Iterator[Callable[[], None]]:
        from tqdm.auto import tqdm

        with insisting(), tqdm(desc=text, total=total, unit="file") as bar:

            def advance() -> None:
                bar.update()

            yield advance

    @contextmanager
    def progress(self, plan: Plan) -> Iterator[Events]:
        from tqdm.auto import tqdm

        # tqdm's own estimate would be of edits alone
        shape = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]"
        with tqdm(desc=plan.name, unit="edit", bar_format=shape) as bar:
            yield _OnBar(bar)


class _OnBar(Quiet):
    """The Events of a run on a bar."""

    def __init__(self, bar: tqdm[Never]) -> None:
        self._bar = bar

    def started(self, left: int, done: int) -> None:
        self._bar.reset(total=left)

    def finished(self, edit: Edit, record: Record) -> None:
        self._bar.update()
        if record.status not in ("done", "skipped", "unmatched"):
            _line(f"{record.status}: {edit.instruction}: {record.detail}")

    def ahead(self, ahead: Ahead) -> None:
        files = f"{ahead.files:,} files to write" if ahead.files else ""
        left = "" if ahead.seconds is None else f"{self._bar.format_interval(ahead.seconds)} left"
        then = f"with {ahead.then}" if left and ahead.then else ""
        self._bar.set_postfix_str(", ".join(filter(None, [files, left, then])))

    def note(self, text: str) -> None:
        _line(text)


def _line(text: str) -> None:
    from tqdm.auto import tqdm

    tqdm.write(text, file=sys.stderr)


def in_notebook() -> bool:
    """Whether a person works at a prompt of IPython, as in a notebook."""
    shell = sys.modules.get("IPython")
    return shell is not None and shell.get_ipython() is not None
