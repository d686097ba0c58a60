"""`status`, `deliver`, `sheet` and `report`: everything that a finished run gives without the model."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ip2pbatch import jobs
from ip2pbatch.cli import console, ending
from ip2pbatch.cli.console import count, plain
from ip2pbatch.cli.terminal import Terminal
from ip2pbatch.plan.formats import listed, lossy_titles, written

if TYPE_CHECKING:
    from ip2pbatch.jobs.drawing import Drawn
    from ip2pbatch.jobs.standing import Standing, Unfinished

_SHOWN = 20  # pictures and photos without a file that are listed before the rest is only counted
_TIDY = (
    "`ip2pbatch deliver RECIPE --tidy` removes files under older names, and those of pictures that RECIPE no longer "
    "asks for; files of another recipe, or of a photo that is gone, are yours to keep or remove (`--json` lists them)"
)
_COLOURS = {
    "done": "green",
    "left": "cyan",
    "failed": "red",
    "nan": "red",
    "flagged": "yellow",
    "skipped": "yellow",
    "unmatched": "cyan",
}

RunFolder = Annotated[Path, typer.Argument(help="The output folder of a run, or its recipe.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]


def status(run: RunFolder, as_json: Json = False) -> None:
    """Show what of a run is done, failed or left, and why; of a comparison, of each model's."""
    if folders := jobs.compared(run):
        _show_models(run, folders, as_json)
    elif as_json:
        print(json.dumps(jobs.status(run).as_json(), indent=2))
    else:
        _show(jobs.status(run))


def _show_models(what: Path, folders: Mapping[str, Path], as_json: bool) -> None:
    """The same of each model's run."""
    found = {name: jobs.status(folder) for name, folder in begun(folders, note=not as_json).items()}
    if as_json:
        each = {name: found[name].as_json() if name in found else None for name in folders}
        print(json.dumps({"comparison": str(what), "models": each}, indent=2))
    for one in found.values() if not as_json else ():
        _show(one)


def begun(folders: Mapping[str, Path], *, note: bool = True) -> dict[str, Path]:
    """Those of the models' runs that were begun; of the others there is a note."""
    from ip2pbatch.run.directory.layout import run_folders

    found = {name: folder for name, folder in folders.items() if run_folders(folder)}
    for name in folders if note else ():
        if name not in found:
            console.note(f"{name} is not begun yet")
    return found


def deliver(
    recipe: Annotated[
        Path,
        typer.Argument(
            help="The output folder of a finished run, or its recipe.", show_default=False, metavar="RECIPE|OUT"
        ),
    ],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The run's output folder.")] = None,
    format: Annotated[str | None, typer.Option(help=f"{listed(['same', *written()], 'or')}.")] = None,
    quality: Annotated[int | None, typer.Option(help=f"Of {lossy_titles()}.", min=1, max=100)] = None,
    full_resolution: Annotated[str | None, typer.Option(help="auto, off or refine.")] = None,
    name: Annotated[str | None, typer.Option(help="The name template.")] = None,
    dates: Annotated[str | None, typer.Option(help="The files' times: now, or source, the photos'.")] = None,
    strength: Annotated[
        float | None, typer.Option(help="How much of the edits is delivered: 0 is the photo, 1 the edit.")
    ] = None,
    gps: Annotated[str | None, typer.Option(help="keep or strip.")] = None,
    prompt: Annotated[bool | None, typer.Option(help="Write instruction and scales into the file.")] = None,
    tidy: Annotated[
        bool,
        typer.Option(
            "--tidy",
            help="Remove files delivered under other names before, and those of pictures that the recipe no longer "
            "asks for of its photos, if nobody changed them.",
        ),
    ] = False,
) -> None:
    """Write the files of a finished run again, with other settings and without the model."""
    from ip2pbatch.cli.machines import Outlets

    output: dict[str, Any] = {
        "format": format, "quality": quality, "full_resolution": full_resolution, "name": name, "dates": dates,
        "strength": strength,
    }  # fmt: skip
    if jobs.compared(recipe, out=out):
        raise typer.Exit(_deliver_models(recipe, out, output, {"gps": gps, "prompt": prompt}, tidy))
    outcome = jobs.deliver(recipe, out=out, **output, gps=gps, prompt=prompt, tidy=tidy, voice=Terminal())
    raise typer.Exit(ending.show(outcome, Outlets()))


def _deliver_models(
    recipe: Path, out: Path | None, output: Mapping[str, object], metadata: Mapping[str, object], tidy: bool
) -> int:
    """The same of every model's run, and of what joins them; the exit code."""
    from ip2pbatch.cli.machines import Outlets
    from ip2pbatch.jobs.comparing import comparison, each_model

    told, outlets = partial(ending.show_model, outlets=Outlets()), Outlets()
    ended = each_model.deliver_models(
        comparison.found(recipe, out), output, metadata, Terminal(), tidy=tidy, told=told
    )  # fmt: skip
    return ending.show_compared(ended, outlets)


def sheet(
    run: RunFolder,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for the sheets.", show_default="RUN/sheets")
    ] = None,
    cell: Annotated[int, typer.Option(help="Long side of a cell in pixels.", min=64, max=2048)] = 384,
) -> None:
    """Draw the contact sheets of a run again, with other settings. Exit 3 where a picture of it is damaged."""
    _show_drawn(jobs.sheet(run, out=out, cell=cell, voice=Terminal()))


def report(
    run: RunFolder,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The file.", show_default="RUN/report.html")] = None,
) -> None:
    """Write the HTML report of a run again. Exit 3 where a picture of it is damaged."""
    _show_drawn(jobs.report(run, out=out, voice=Terminal()))


def _show_drawn(drawn: Drawn) -> None:
    for path in (*drawn, *drawn.put):
        console.out().print(str(path))
    raise typer.Exit(drawn.exit_code)


def _show(found: Standing) -> None:
    """The same for a person."""
    from rich.markup import escape

    out = console.out()
    out.print(f"[bold]{escape(found.name) or 'a run'}[/] in {escape(found.run)}")
    out.print(f"{found.model} on {found.backend} in {found.precision}, {count(found.sessions, 'session')}")
    states = [f"[{_COLOURS[state]}]{number} {state}[/]" for state, number in found.edits.items() if number]
    delivered = count(found.delivered, "file")
    into = f" into {escape(found.files)}" if found.files else ""
    out.print(f"{count(found.photos, 'photo')}, edits: {', '.join(states) or 'none'}; {delivered} delivered{into}")
    if len(found.devices) > 1:
        out.print(f"made on {escape(' and '.join(found.devices))}")
    if kept := found.detail_kept:
        out.print(
            f"the photos' own fine detail in these files: {kept.median:.0%} (median), "
            f"least {kept.least:.0%} in {escape(kept.least_in)}"
        )
    kind = "ETag" if found.files else "time"
    for words, files in (
        ("deleted since they were delivered, and written again by the next run", found.deleted),
        ("changed since they were delivered, and left as they are", found.changed),
        (f"with another {kind} than they were delivered with (`ip2pbatch check` compares their bytes)", found.touched),
        ("still there of pictures that are no longer asked for", found.superseded),
        ("changed since they were delivered, of pictures that are no longer asked for", found.superseded_changed),
    ):
        if files:
            out.print(f"{count(len(files), 'file')} {words}, such as {escape(files[0])}")
    if earlier := found.leftovers:
        out.print(f"still there under older names: {count(len(earlier), 'file')}, such as {escape(earlier[0])}")
    if found.superseded or earlier:
        console.note(_TIDY)
    for text in found.complaints:
        console.warn(text)
    for words, rest in found.unread.items():
        console.warn(f"{words!r}: {rest!r} was more than the text encoder reads, and had no effect")
    passed = (f"  passed over: {kind}" for kind in found.passed)
    for line in [*_failures(found.unfinished), *_unread(found.broken), *passed]:
        out.print(escape(plain(line)))


def _unread(broken: Mapping[str, str]) -> list[str]:
    """A line for a photo that cannot be read."""
    lines = [f"  not edited: {name}: {reason}" for name, reason in list(broken.items())[:_SHOWN]]
    return lines + ([f"  and {len(broken) - _SHOWN} more that cannot be read"] if len(broken) > _SHOWN else [])


def _failures(rows: Sequence[Unfinished]) -> list[str]:
    """A line for what a photo's instruction came to: it fails alike with every seed and every scale."""
    alike = Counter((row.state, row.photo, row.instruction, row.reason) for row in rows)
    shown = list(alike.items())[:_SHOWN]
    lines = []
    for (state, photo, instruction, reason), times in shown:
        why = reason.removeprefix(f"{photo.rpartition('/')[2]}: ")
        lines.append(f"  {state}: {photo}: {instruction}: {why}" + (f" ({times} times)" if times > 1 else ""))
    rest = Counter(row.state for row in rows)
    rest.subtract({state: sum(n for (own, *_), n in shown if own == state) for state in rest})
    if left := {state: number for state, number in rest.items() if number}:
        lines.append("  and " + ", ".join(f"{number} more {state}" for state, number in left.items()))
    return lines
