"""`edit`: photos and instructions in, edited photos out, without a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ip2pbatch import jobs
from ip2pbatch.cli import ending
from ip2pbatch.cli.machine_flags import on_a_machine
from ip2pbatch.cli.run import Fresh, Json, Junit, Limit, MaxFailures, Only, State
from ip2pbatch.cli.terminal import Terminal
from ip2pbatch.plan.formats import listed, lossy_titles, written
from ip2pbatch.run.machine import Machine

Photos = Annotated[
    list[Path], typer.Argument(help="Photos, folders of photos, or s3://bucket/prefix.", show_default=False)
]
Instruction = Annotated[
    list[str], typer.Option("--instruction", "-i", help="What to do, in words; may be given several times.")
]
Out = Annotated[Path, typer.Option("--out", "-o", help="Output folder, or s3://bucket/prefix.")]
Numbers = 'a number, a list 5,7.5,10 or a range "1..2 by 0.25"'
Text = Annotated[str | None, typer.Option(help=f"Text guidance s_T, follows the instruction: {Numbers}.")]
Image = Annotated[str | None, typer.Option(help=f"Image guidance s_I, keeps the photo: {Numbers}.")]
Seed = Annotated[str | None, typer.Option(help="Seeds that every photo gets: 7 or 1,2,3.")]
Steps = Annotated[int | None, typer.Option(help="Network steps a picture.", min=1)]
SamplerFlag = Annotated[
    str | None,
    typer.Option("--sampler", help="euler_a, euler, ddim, dpmpp_2m, unipc or lcm.", show_default="euler_a"),
]
Model = Annotated[str, typer.Option("--model", "-m", help="Hub id, folder, or tiny (the embedded one).")]
Name = Annotated[str | None, typer.Option(help="The name template.", show_default="{folder}/{stem}_{edit}")]
Format = Annotated[str | None, typer.Option(help=f"{listed(['same', *written()], 'or')}.", show_default="same")]
Quality = Annotated[int | None, typer.Option(help=f"Of {lossy_titles()}.", min=1, max=100, show_default="95")]
Dates = Annotated[str | None, typer.Option(help="The files' times: now, or source, the photos'.", show_default="now")]
Strength = Annotated[
    float | None,
    typer.Option(help="How much of the edits is delivered: 0 is the photo, 1 the edit.", show_default="1"),
]
Gps = Annotated[str | None, typer.Option(help="keep or strip where a photo was taken.", show_default="keep")]
RecipeToo = Annotated[
    Path | None, typer.Option("--recipe", help="Write the recipe that OUT/recipe.yaml is to this file too.")
]
Size = Annotated[int | None, typer.Option(help="Long side the model works at, in pixels.", min=64)]


@on_a_machine
def edit(
    photos: Photos,
    instruction: Instruction,
    out: Out,
    state: State = None,
    text: Text = None,
    image: Image = None,
    seed: Seed = None,
    steps: Steps = None,
    sampler: SamplerFlag = None,
    size: Size = None,
    model: Model = "timbrooks/instruct-pix2pix",
    name: Name = None,
    format: Format = None,
    quality: Quality = None,
    dates: Dates = None,
    strength: Strength = None,
    gps: Gps = None,
    machine: Machine = Machine(),
    only: Only = None,
    limit: Limit = None,
    recipe: RecipeToo = None,
    fresh: Fresh = False,
    max_failures: MaxFailures = None,
    as_json: Json = False,
    junit: Junit = None,
) -> None:
    """Edit photos by written instruction, without a recipe."""
    from ip2pbatch.cli.machines import Outlets

    outlets = Outlets(as_json, junit)
    outlets.check()
    outcome = jobs.edit(
        photos, instruction, out, text=text, image=image, seed=seed, steps=steps, sampler=sampler, size=size,
        model=model, name=name, format=format, quality=quality, dates=dates, strength=strength, gps=gps,
        machine=machine, only=only, limit=limit, recipe=recipe, fresh=fresh, max_failures=max_failures,
        state=state, voice=Terminal(outlets),
    )  # fmt: skip
    raise typer.Exit(ending.show(outcome, outlets))


def apply(
    out: Annotated[Path, typer.Argument(help="The output folder of a run.", show_default=False)],
    cell: Annotated[int, typer.Option(help="The number of the cell, as the report says it.", show_default=False)],
    photos: Annotated[
        list[Path] | None,
        typer.Argument(help="Photos or folders of photos; else all that its photo was listed with."),
    ] = None,
    only: Only = None,
    limit: Limit = None,
    max_failures: MaxFailures = None,
    as_json: Json = False,
    junit: Junit = None,
) -> None:
    """Make of other photos what one cell of a run is of its own, into the same run."""
    from ip2pbatch.cli.machines import Outlets

    outlets = Outlets(as_json, junit)
    outlets.check()
    voice = Terminal(outlets)
    outcome = jobs.apply(out, cell, photos or (), only=only, limit=limit, max_failures=max_failures, voice=voice)
    raise typer.Exit(ending.show(outcome, outlets))
