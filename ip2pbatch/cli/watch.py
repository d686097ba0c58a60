"""`watch`: edit the photos that arrive in a folder, each once, until told to stop."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ip2pbatch import jobs
from ip2pbatch.cli import console, ending
from ip2pbatch.cli.machine_flags import on_a_machine
from ip2pbatch.cli.run import Out
from ip2pbatch.cli.terminal import Terminal
from ip2pbatch.run.machine import Machine

if TYPE_CHECKING:
    from ip2pbatch.plan.edits import Edit, Plan
    from ip2pbatch.plan.limits import Limits
    from ip2pbatch.run.directory.lines import Delivery, Record
    from ip2pbatch.run.engine import Preview
    from ip2pbatch.run.events import Events
    from ip2pbatch.run.pace import Ahead
    from ip2pbatch.run.stop import Stop

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The folder that photos arrive in.", show_default=False)]
RecipeFile = Annotated[Path, typer.Argument(help="The recipe; DIR takes the place of its photos.", show_default=False)]
Settle = Annotated[float, typer.Option(help="Seconds without a change before a file counts as whole.", min=0)]
OnceIdle = Annotated[
    float | None, typer.Option(help="End after so many seconds without a new file.", min=0, show_default="never")
]


@on_a_machine
def watch(
    folder: Folder,
    recipe: RecipeFile,
    settle: Settle = 2.0,
    once_idle: OnceIdle = None,
    out: Out = None,
    machine: Machine = Machine(),
) -> None:
    """Edit what arrives in a folder, after it stopped growing. ^C ends after the batch; start it again to go on."""
    from ip2pbatch.cli.machines import Outlets

    outcome = jobs.watch(
        folder, recipe, settle=settle, once_idle=once_idle, out=out, machine=machine, voice=_Watching(folder)
    )
    raise typer.Exit(ending.show(outcome, Outlets()))


class _Watching(Terminal):
    """Says what is watched, and tells of each delivered file on stdout, for whoever waits for it."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder

    @contextmanager
    def progress(self, plan: Plan) -> Iterator[Events]:
        yield _Arrived()

    @contextmanager
    def stop(self) -> Iterator[Stop]:
        with super().stop() as stop:
            console.talk().print(f"watching {self._folder.absolute()}; ^C ends after the batch", markup=False)
            yield stop


class _Arrived:
    """Each delivered file on stdout, each failure on stderr."""

    def started(self, left: int, done: int) -> None:
        """Nothing: a file that arrives is not worth a line before it is edited."""

    def finished(self, edit: Edit, record: Record) -> None:
        if record.status != "done":
            console.warn(f"{record.status}: {edit.instruction}: {record.detail}")

    def delivered(self, delivery: Delivery) -> None:
        console.out().print(delivery.path, markup=False)

    def ahead(self, ahead: Ahead) -> None:
        """Nothing: nobody knows what will arrive."""

    def stepped(self, done: int, of: int, preview: Preview) -> None:
        """Nothing."""

    def shrunk(self, limits: Limits) -> None:
        console.warn(f"out of memory: going on with calls of {limits.default_rows} rows")

    def note(self, text: str) -> None:
        console.warn(text)
