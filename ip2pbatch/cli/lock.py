"""`lock` and `verify`: is what would be made still what was made, and does it come out the same?"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ip2pbatch import errors, jobs
from ip2pbatch.cli import console
from ip2pbatch.cli.terminal import Terminal
from ip2pbatch.errors import UsageError
from ip2pbatch.run.tolerance import MAX_DIFFERENCE, MAX_RMS, MIN_SSIM, Level

if TYPE_CHECKING:
    from rich.console import Console

    from ip2pbatch.cli.machines import Outlets
    from ip2pbatch.jobs.locking import Locked
    from ip2pbatch.jobs.verifying import Verdict

Json = Annotated[bool, typer.Option("--json", help="JSON lines on stdout, people's text on stderr.")]

_MEANS = {
    Level.BITWISE: "files equal to the bit",
    Level.PIXELS: f"pictures within RMS {MAX_RMS:g} and {MAX_DIFFERENCE} of 255",
    Level.PERCEPTUAL: f"pictures with SSIM {MIN_SSIM} or more",
}


def lock(
    recipe: Annotated[Path, typer.Argument(help="The recipe, a YAML file.", show_default=False)],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The run's output folder.")] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; say what is stale and exit 4 when anything is.")
    ] = False,
    as_json: Json = False,
    junit: Annotated[Path | None, typer.Option(help="With --check: write a JUnit file, a test case a topic.")] = None,
) -> None:
    """Write RECIPE.lock.yaml from a finished run: versions, model, device, photos, and a digest of every picture."""
    from ip2pbatch.cli.machines import Outlets

    outlets = Outlets(as_json, junit)
    if junit is not None and not check:
        raise UsageError("--junit is for lock --check", hint="add --check, or leave it out")
    outlets.check()
    found = jobs.lock(recipe, out=out, check=check, voice=Terminal())
    out_ = console.talk() if as_json else console.out()
    (_show_check if check else _show_lock)(found, outlets, out_)
    raise typer.Exit(found.exit_code)


def _show_lock(made: Locked, outlets: Outlets, out: Console) -> None:
    from ip2pbatch.show import ci

    for broken in made.broken:
        console.warn(f"not locked: {broken.name}: {broken.reason}")
    counts = made.counts
    words = f"{counts['pictures']} pictures and {counts['files']} files of {counts['photos']} photos"
    out.print(f"locked {words} in {made.path}", markup=False)
    outlets.compared([ci.verdict_line(str(made.path), counts, errors.DONE)], "", [])


def _show_check(found: Locked, outlets: Outlets, out: Console) -> None:
    """Say what is stale, to people and machines."""
    from ip2pbatch.show import ci

    number = len(found.differences)
    for difference in found.differences:
        out.print(console.plain(str(difference)), markup=False)
    verdict = f"stale: {console.count(number, 'reason')} in" if number else "up to date:"
    out.print(f"{verdict} {found.path}", markup=False)
    line = ci.verdict_line(str(found.path), {"stale": number}, found.exit_code)
    outlets.stale(str(found.path), found.differences, [line])


def verify(
    what: Annotated[
        Path, typer.Argument(help="A run's output folder, its recipe, or a lock.", show_default=False, metavar="WHAT")
    ],
    against: Annotated[Path | None, typer.Option(help="Compare with this finished run; nothing is made again.")] = None,
    level: Annotated[
        Level | None, typer.Option(help="How equal is equal.", show_default="bitwise for a bitwise run, else pixels")
    ] = None,
    sample: Annotated[int | None, typer.Option(help="Only N pictures, chosen by hash.", min=1)] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder for pictures of what differs.", show_default="within the run"),
    ] = None,
    as_json: Json = False,
    junit: Annotated[Path | None, typer.Option(help="Write a JUnit file: a test case a comparison.")] = None,
) -> None:
    """Make the pictures of a finished run again in a temporary folder, and compare them. Exit 4 where any differs."""
    from ip2pbatch.cli.machines import Outlets

    outlets = Outlets(as_json, junit)
    outlets.check()
    with outlets.telling_stale():
        verdict = jobs.verify(what, against=against, level=level, sample=sample, out=out, voice=Terminal())
    if verdict.stopped:
        console.talk().print("interrupted: nothing was compared")
        outlets.interrupted(verdict.stopped)
    else:
        _show_verdict(verdict, console.talk() if as_json else console.out())
        _tell(verdict, outlets)
    raise typer.Exit(verdict.exit_code)


def _show_verdict(verdict: Verdict, out: Console) -> None:
    """A table of what differs, and a last line that tells the truth."""
    from ip2pbatch.run.verify import titles

    findings = verdict.findings
    said = titles([finding.case for finding in findings])
    wrong = [finding for finding in findings if finding.state != "equal"]
    rows = [(f.state, f.case.photo, said[f.case], f.why) for f in wrong]
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(4)]
    for row in rows:
        line = "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True))
        out.print(console.plain(line.rstrip()), markup=False)
    if shown := verdict.shown:
        out.print(f"expected, actual and difference of {len(shown)}: {next(iter(shown.values())).parent}", markup=False)
    kinds = Counter(finding.state for finding in findings)
    counts = ", ".join(f"{kinds[state]} {state}" for state in ("differs", "absent") if kinds[state])
    words = f"different: {counts} of {len(findings)}" if wrong else f"the same: all {len(findings)} compared"
    means = "pictures equal to the pixel" if verdict.digests_only else _MEANS[verdict.level]
    noun = "file" if verdict.level is Level.BITWISE else "picture"
    more = f"; {console.count(verdict.left, noun)} not there yet" if verdict.left else ""
    out.print(f"{words} ({means}), {verdict.name} {verdict.made}{more}", markup=False)


def _tell(verdict: Verdict, outlets: Outlets) -> None:
    """The same to machines."""
    from ip2pbatch.show import ci

    findings = verdict.findings
    lines = [
        *map(ci.warning_line, verdict.remarks), *map(ci.finding_line, findings),
        ci.verdict_line(verdict.name, verdict.counts, verdict.exit_code),
    ]  # fmt: skip
    suite = ci.junit_of_findings(f"verify {verdict.name}", findings)
    outlets.compared(lines, suite, ci.github_findings(findings))
