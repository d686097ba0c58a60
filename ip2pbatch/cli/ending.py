"""How a session ends: sheets and report drawn, where things are, and a last line that tells the truth."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ip2pbatch import errors
from ip2pbatch.cli import console
from ip2pbatch.cli.console import count, duration

if TYPE_CHECKING:
    from ip2pbatch.cli.machines import Outlets
    from ip2pbatch.jobs.session import Job
    from ip2pbatch.run.execute import Summary

_MOST_CELLS = 4000  # drawn at the end of a run; above it sheets take minutes and are drawn when asked for
_LONG, _BUSY = 60, 0.95  # a run of so many seconds whose model was busy for less than this share says why
_NOT_DONE = ("failed", "nan", "flagged", "skipped", "left")


def finish(job: Job, summary: Summary, outlets: Outlets) -> int:
    """Draw what a person looks at and say how it went, to people and machines; the exit code."""
    done, broken = summary.states.get("done", 0), job.scan.broken
    cells = sum(len(strip.edits) for strip in job.asked.strips)
    with console.busy("drawing contact sheets and report"):
        sheets, report = _draw(job) if done and not summary.stopped and cells <= _MOST_CELLS else ([], None)
    for name, reason in summary.undelivered:
        console.warn(f"not delivered: {name}: {reason}")
    for one in broken:
        console.warn(f"not edited: {one.name}: {one.reason}")
    _notes(job, summary)
    out = console.talk() if outlets.json else console.out()
    if done:
        out.print(f"edited photos:   {job.out}", markup=False)
    if report:
        out.print(f"contact sheets:  {sheets[0].parent}  ({count(len(sheets), 'page')})", markup=False)
        out.print(f"report:          {report}", markup=False)
    elif done and not summary.stopped:
        out.print(f"no sheets of {cells:,} pictures unasked: see `ip2pbatch sheet` and `ip2pbatch report`")
    code = errors.UNFINISHED if summary.exit_code == errors.DONE and broken else summary.exit_code
    outlets.finished(job.out, summary, code, broken)
    out.print(last_line(summary, len(broken), job.selection.shard), markup=False)
    return code


def _notes(job: Job, summary: Summary) -> None:
    """What delivered files could not hold, earlier files that now have another name, and a model that had to wait."""
    from ip2pbatch.run.renamed import leftovers
    from ip2pbatch.run.view import read_run

    busy = summary.busy
    if summary.seconds > _LONG and busy and busy["model"] < _BUSY:
        console.note(
            f"once warm, the model worked {busy['model']:.0%} of the time; it waited {busy['photos']:.0%} for photos "
            f"to be read and {busy['disk']:.0%} for pictures to be written"
        )
    for text in job.scan.notes:
        console.note(text)
    for text, files in summary.notes.items():
        console.note(f"{text} ({count(files, 'file')})")
    if summary.delivered and (earlier := leftovers(read_run(job.out))):
        console.note(
            f"still there under older names: {count(len(earlier), 'file')} delivered before, such as {earlier[0]}; "
            "`ip2pbatch deliver RECIPE --tidy` removes such files"
        )


def last_line(summary: Summary, broken: int = 0, shard: str | None = None) -> str:
    """One line: what was made and delivered now, and everything that is not there, of this shard where it is one."""
    states: Mapping[str, int] = summary.states
    missing = [f"{states[state]} {state}" for state in _NOT_DONE if states.get(state)]
    missing += [f"{count(len(summary.undelivered), 'file')} not delivered"] if summary.undelivered else []
    missing += [f"{count(broken, 'photo')} that cannot be read"] if broken else []
    delivered = f"{count(summary.delivered, 'file')} delivered in {duration(summary.seconds)}"
    made = f"{count(summary.made, 'edit')} made, {delivered}"
    if summary.stopped:
        return f"interrupted: {made}; {', '.join(missing) or 'nothing is missing'}; run again to go on"
    if missing:
        return f"not complete: {made}; {', '.join(missing)}"
    return f"done: {made}; {_all(states.get('done', 0), f' of shard {shard}' if shard else '')}"


def _all(done: int, of: str) -> str:
    if not done:
        return f"no photo{of} was there to edit"
    return f"the one edit{of} is there" if done == 1 else f"all {done:,} edits{of} are there"


def _draw(job: Job) -> tuple[list[Path], Path]:
    from ip2pbatch.run.view import read_run
    from ip2pbatch.show.report import write_report
    from ip2pbatch.show.sheet import write_sheets

    view = read_run(job.out)
    sheets = write_sheets(view, job.out / "sheets", job.recipe.sheet)
    return sheets, write_report(view, job.out / "report.html")
