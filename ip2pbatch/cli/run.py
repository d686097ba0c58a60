"""`run`, `retry` and `compare`: make the pictures of a recipe, or of a run that is there, with one model or several."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ip2pbatch import jobs
from ip2pbatch.cli import ending
from ip2pbatch.cli.machine_flags import on_a_machine
from ip2pbatch.cli.terminal import Terminal
from ip2pbatch.run.machine import Machine

if TYPE_CHECKING:
    from ip2pbatch.cli.machines import Outlets

RecipeOrRun = Annotated[
    Path,
    typer.Argument(
        help="The recipe, a YAML file; or the output folder of a run, to go on with what it was last asked for.",
        show_default=False, metavar="RECIPE|OUT",
    ),
]  # fmt: skip
Out = Annotated[Path | None, typer.Option("--out", "-o", help="Output folder instead of the recipe's.")]
State = Annotated[
    Path | None, typer.Option("--state", help="Folder here that a run is kept in whose output folder is in a bucket.")
]
Only = Annotated[str | None, typer.Option(help="Only photos whose name matches this glob.")]
Limit = Annotated[int | None, typer.Option(help="Only the first N photos.", min=1)]
ShardFlag = Annotated[str | None, typer.Option("--shard", help="Only part k of n, such as 2/8, by photo.")]
Locked = Annotated[bool, typer.Option("--locked", help="Exit 4 where anything differs from RECIPE.lock.yaml.")]
Json = Annotated[bool, typer.Option("--json", help="JSON lines on stdout, people's text on stderr.")]
Junit = Annotated[Path | None, typer.Option("--junit", help="Write a JUnit file: a test case an edit.")]
MaxFailures = Annotated[
    str | None, typer.Option(metavar="N|N%", help="End early where more edits fail, or more than this share of them.")
]
Models = Annotated[
    list[str] | None,
    typer.Option("--model", "-m", help="A model to compare; give several. Added to those compared already."),
]
Fresh = Annotated[bool, typer.Option("--fresh", help="Start another run beside the old one; nothing is deleted.")]


@on_a_machine
def run(
    recipe: RecipeOrRun,
    out: Out = None,
    state: State = None,
    only: Only = None,
    limit: Limit = None,
    shard: ShardFlag = None,
    machine: Machine = Machine(),
    fresh: Fresh = False,
    locked: Locked = False,
    max_failures: MaxFailures = None,
    as_json: Json = False,
    junit: Junit = None,
) -> None:
    """Make every picture a recipe asks for that is not made yet. Run it again to go on."""
    from ip2pbatch.cli.machines import Outlets

    outlets = Outlets(as_json, junit)
    outlets.check()
    if not locked and jobs.compared(recipe, out=out):
        selected = {"out": out, "only": only, "limit": limit, "shard": shard, "max_failures": max_failures}
        raise typer.Exit(_compared(recipe, outlets, machine=machine, fresh=fresh, **selected))
    with outlets.telling_stale():
        outcome = jobs.run(
            recipe, out=out, only=only, limit=limit, shard=shard, machine=machine, fresh=fresh, locked=locked,
            max_failures=max_failures, state=state, voice=Terminal(outlets),
        )  # fmt: skip
    raise typer.Exit(ending.show(outcome, outlets))


@on_a_machine
def retry(
    recipe: RecipeOrRun,
    out: Out = None,
    only: Only = None,
    machine: Machine = Machine(),
    max_failures: MaxFailures = None,
    as_json: Json = False,
    junit: Junit = None,
) -> None:
    """Try the failed, nan and flagged pictures of a recipe again, and whatever is left."""
    from ip2pbatch.cli.machines import Outlets

    outlets = Outlets(as_json, junit)
    outlets.check()
    if jobs.compared(recipe, out=out):
        selected = {"out": out, "only": only, "max_failures": max_failures}
        raise typer.Exit(_compared(recipe, outlets, machine=machine, again=True, **selected))
    outcome = jobs.retry(
        recipe, out=out, only=only, machine=machine, max_failures=max_failures, voice=Terminal(outlets)
    )
    raise typer.Exit(ending.show(outcome, outlets))


@on_a_machine
def compare(
    recipe: RecipeOrRun,
    models: Models = None,
    out: Out = None,
    only: Only = None,
    limit: Limit = None,
    shard: ShardFlag = None,
    machine: Machine = Machine(),
    fresh: Fresh = False,
    max_failures: MaxFailures = None,
    as_json: Json = False,
    junit: Junit = None,
) -> None:
    """Make a recipe's pictures with several models, a run each, and join them on sheets and in a report."""
    from ip2pbatch.cli.machines import Outlets

    outlets = Outlets(as_json, junit)
    outlets.check()
    selected = {"out": out, "only": only, "limit": limit, "shard": shard, "max_failures": max_failures}
    raise typer.Exit(_compared(recipe, outlets, models=models or (), machine=machine, fresh=fresh, **selected))


def _compared(recipe: Path, outlets: Outlets, **asked: Any) -> int:
    """Make a comparison and say how it went; the exit code."""
    told = partial(ending.show_model, outlets=outlets)
    return ending.show_compared(jobs.compare(recipe, told=told, voice=Terminal(outlets), **asked), outlets)
