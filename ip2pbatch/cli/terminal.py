"""The voice of a command: what a job says, on the terminal and to machines."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING

from ip2pbatch.cli import console

if TYPE_CHECKING:
    from ip2pbatch.cli.machines import Outlets
    from ip2pbatch.plan.edits import Plan
    from ip2pbatch.run.events import Events
    from ip2pbatch.run.stop import Stop


class Terminal:
    """A jobs.voice.Voice that talks on stderr, and tells `outlets`, where there are any, of a run's progress too."""

    def __init__(self, outlets: Outlets | None = None) -> None:
        self._outlets = outlets

    def note(self, text: str) -> None:
        console.note(text)

    def warn(self, text: str) -> None:
        console.warn(text)

    def busy(self, text: str) -> AbstractContextManager[None]:
        return console.busy(text)

    @contextmanager
    def counting(self, text: str, total: int) -> Iterator[Callable[[], None]]:
        from ip2pbatch.cli.progress import counted
        from ip2pbatch.run.stop import insisting

        with insisting(), counted(console.talk(), text, total, terminal=console.is_terminal()) as advance:
            yield advance

    @contextmanager
    def progress(self, plan: Plan) -> Iterator[Events]:
        from ip2pbatch.cli.progress import watch

        with watch(console.talk(), plan, terminal=console.is_terminal()) as watcher:
            yield watcher if self._outlets is None else self._outlets.events(watcher, plan)

    def stop(self) -> AbstractContextManager[Stop]:
        from ip2pbatch.run.stop import listening

        return listening()
