"""`watch`: edit the photos that arrive in a folder, each once, until told to stop."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ip2pbatch.cli.flags import on_a_machine
from ip2pbatch.cli.run import Out
from ip2pbatch.errors import UsageError
from ip2pbatch.run.machine import Machine

if TYPE_CHECKING:
    from ip2pbatch.plan.recipe import Recipe

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The folder that photos arrive in.", show_default=False)]
RecipeFile = Annotated[Path, typer.Argument(help="The recipe; DIR takes the place of its photos.", show_default=False)]
Settle = Annotated[float, typer.Option(help="Seconds without a change before a file counts as whole.", min=0)]
OnceIdle = Annotated[
    float | None, typer.Option(help="End after so many seconds without a new file.", min=0, show_default="never")
]

_PAUSE = 0.5  # seconds between two looks at the folder at most


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
    from ip2pbatch.plan.recipe import load_recipe

    wanted = watched(load_recipe(recipe), folder, out)
    text = recipe.read_text(encoding="utf-8-sig")
    raise typer.Exit(keep_watch(wanted, text, machine, settle=settle, once_idle=once_idle))


def watched(recipe: Recipe, folder: Path, out: Path | None) -> Recipe:
    """`recipe` with `folder` in the place of its photos; which files are meant stays as it says. Raises UsageError."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is not a folder", hint="watch takes the folder that photos arrive in")
    first = recipe.photos[0]
    if not recipe.edits or any(photos.instructions for photos in recipe.photos):
        raise UsageError(
            "watch edits every photo alike, and this recipe has instructions for single photos",
            hint="use a recipe with edits and without instructions",
        )
    photos = first.model_copy(update={"folder": folder.absolute()})
    output = recipe.output if out is None else recipe.output.model_copy(update={"folder": out.absolute()})
    return recipe.model_copy(update={"photos": (photos,), "output": output})


def keep_watch(recipe: Recipe, text: str, machine: Machine, *, settle: float, once_idle: float | None) -> int:
    """Watch until a signal, or until nothing came for `once_idle` seconds; the exit code."""
    from ip2pbatch.cli.console import busy, talk
    from ip2pbatch.cli.ending import finish
    from ip2pbatch.cli.machines import Outlets
    from ip2pbatch.jobs.engines import choose
    from ip2pbatch.jobs.shift import Shift
    from ip2pbatch.run.arrivals import Arrivals
    from ip2pbatch.run.ledger import open_run
    from ip2pbatch.run.stop import listening

    model, folder = Path(recipe.model).name, recipe.photos[0].folder
    with busy(f"loading {model}"):
        spec, open_engine = choose(recipe.model, machine, safety=recipe.safety)
    with open_run(recipe.output.folder, spec) as run, listening() as stop:
        with busy(f"loading {model}"):
            engine = open_engine()
        talk().print(f"watching {folder}; ^C ends after the batch", markup=False)
        shift = Shift(recipe, text, machine, run, engine)
        try:
            shift.work(Arrivals(settle), stop, once_idle=once_idle, pause=min(_PAUSE, max(settle / 4, 0.02)))
        finally:
            engine.close()
    return finish(shift.job(), shift.summary(stop), Outlets())
