"""`check`: is every byte of a run as it was written, and what can be put right."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ip2pbatch import jobs
from ip2pbatch.cli import console
from ip2pbatch.cli.console import count, plain
from ip2pbatch.cli.looking import Json, RunFolder, begun
from ip2pbatch.cli.terminal import Terminal

if TYPE_CHECKING:
    from ip2pbatch.jobs.checking import Checkup, Trouble

_SHOWN = 20  # of what is wrong, before the rest is only counted
_NOUNS = {
    "picture": "picture", "latent": "latent", "source": "source", "mask": "mask", "file": "delivered file",
    "line": "line", "journal": "journal",
}  # fmt: skip


def check(
    run: RunFolder,
    repair: Annotated[
        bool,
        typer.Option(
            "--repair", help="Set damaged pictures aside for the next run, and make again what needs no model."
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Read every byte of a run, and say what is not as it was written. Exit 4 where anything is wrong."""
    if folders := jobs.compared(run):
        raise typer.Exit(_check_models(run, folders, repair, as_json))
    found = jobs.check(run, repair=repair, voice=Terminal())
    if as_json:
        print(json.dumps(found.as_json(), indent=2))
    else:
        _show(found)
    raise typer.Exit(found.exit_code)


def _check_models(what: Path, folders: Mapping[str, Path], repair: bool, as_json: bool) -> int:
    """The same of each model's run of a comparison; the exit code."""
    there = begun(folders, note=not as_json)
    found = {name: jobs.check(folder, repair=repair, voice=Terminal()) for name, folder in there.items()}
    if as_json:
        each = {name: one.as_json() for name, one in found.items()}
        print(json.dumps({"comparison": str(what), "models": each}, indent=2))
    for name, one in found.items() if not as_json else ():
        console.out().print(f"{name}:", markup=False)
        _show(one)
    return max((one.exit_code for one in found.values()), default=0)


def _show(found: Checkup) -> None:
    """The same for a person."""
    out = console.out()
    for trouble in found.troubles[:_SHOWN]:
        out.print(plain(_line(trouble)), markup=False)
    if len(found.troubles) > _SHOWN:
        out.print(f"and {len(found.troubles) - _SHOWN:,} more")
    if changed := found.changed:
        out.print(
            f"changed since, and left as they are: {count(len(changed), 'delivered file')}, such as {changed[0]}",
            markup=False,
        )
    if found.undigested:
        out.print(
            f"kept without a digest: {count(found.undigested, 'file')} of an earlier version; --repair notes them"
        )
    listed = (
        f"; {found.listed:,} of them not, for the bucket still has the version that was put" if found.listed else ""
    )
    read = f"{count(sum(found.files.values()), 'file')}, {found.bytes / 1e6:,.1f} MB"
    kinds = Counter(_NOUNS[trouble.fault.kind] for trouble in found.troubles)
    wrong = ", ".join(count(number, noun) for noun, number in kinds.items())
    out.print(f"wrong: {wrong}; {read} read{listed}" if wrong else f"as written: {read} read{listed}")
    if found.troubles:
        console.note(_advice(found))


def _line(trouble: Trouble) -> str:
    fault = trouble.fault
    whose = f" ({trouble.photo}: {trouble.instruction})" if trouble.photo else ""
    remedy = f": {trouble.remedy}" if trouble.remedy else ""
    return f"{fault.kind}: {fault.path}{whose}: {fault.why}{remedy}"


def _advice(found: Checkup) -> str:
    if not found.repaired:
        return "`ip2pbatch check --repair` makes again what needs no model; `ip2pbatch run` makes the rest again"
    if found.exit_code:
        return "run the recipe again: what is for the next run is made again then"
    return "all of it is put right; a latent that was set aside is made again where a link starts from it"
