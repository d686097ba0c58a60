"""`status`, `deliver`, `sheet` and `report`: everything that a finished run gives without the model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from ip2pbatch.cli import console

RunFolder = Annotated[Path, typer.Argument(help="The output folder of a run, or its recipe.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]


def status(run: RunFolder, as_json: Json = False) -> None:
    """Show what of a run is done, failed or left, and why."""
    from ip2pbatch.jobs import standing

    view = standing.find(run)
    if as_json:
        print(json.dumps(standing.as_json(view), indent=2))
    else:
        standing.show(view)


def deliver(
    recipe: Annotated[Path, typer.Argument(help="The recipe of a finished run.", show_default=False)],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The run's output folder.")] = None,
    format: Annotated[str | None, typer.Option(help="same, jpeg, png, tiff or webp.")] = None,
    quality: Annotated[int | None, typer.Option(help="Of JPEG and WebP.", min=1, max=100)] = None,
    full_resolution: Annotated[str | None, typer.Option(help="auto or off.")] = None,
    name: Annotated[str | None, typer.Option(help="The name template.")] = None,
    gps: Annotated[str | None, typer.Option(help="keep or strip.")] = None,
    prompt: Annotated[bool | None, typer.Option(help="Write instruction and scales into the file.")] = None,
    tidy: Annotated[
        bool, typer.Option("--tidy", help="Remove files delivered under other names before, if nobody changed them.")
    ] = False,
) -> None:
    """Write the files of a finished run again, with other settings and without the model."""
    from ip2pbatch.jobs.session import Selection, deliver_again, read

    job = read(recipe, Selection(out=out))
    output = {"format": format, "quality": quality, "full_resolution": full_resolution, "name": name}
    raise typer.Exit(deliver_again(job, output, {"gps": gps, "prompt": prompt}, tidy=tidy))


def sheet(
    run: RunFolder,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for the sheets.", show_default="RUN/sheets")
    ] = None,
    cell: Annotated[int, typer.Option(help="Long side of a cell in pixels.", min=64, max=2048)] = 384,
) -> None:
    """Draw the contact sheets of a run again, with other settings."""
    from ip2pbatch.jobs import standing
    from ip2pbatch.plan.recipe import Sheet
    from ip2pbatch.show.sheet import write_sheets

    view = standing.find(run)
    for page in write_sheets(view, out or view.root / "sheets", Sheet(cell=cell)):
        console.out().print(str(page))


def report(
    run: RunFolder,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The file.", show_default="RUN/report.html")] = None,
) -> None:
    """Write the HTML report of a run again."""
    from ip2pbatch.jobs import standing
    from ip2pbatch.show.report import write_report

    view = standing.find(run)
    console.out().print(str(write_report(view, out or view.root / "report.html")))
