"""How a session ends, for a person: where things are, and a last line that tells the truth."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ip2pbatch.cli import console
from ip2pbatch.cli.console import count, duration
from ip2pbatch.disk.buckets.locations import shown
from ip2pbatch.errors import Ip2pError

if TYPE_CHECKING:
    from ip2pbatch.cli.machines import Outlets
    from ip2pbatch.jobs.comparing.each_model import Compared
    from ip2pbatch.jobs.outcome import Outcome
    from ip2pbatch.run.execute import Summary

_LONG, _BUSY = 60, 0.95  # a run of so many seconds whose model was busy for less than this share says why
_NOT_DONE = ("failed", "nan", "flagged", "skipped", "left")


def show(outcome: Outcome, outlets: Outlets) -> int:
    """Say how it went, to people and machines; the exit code."""
    job, summary = outcome.job, outcome.summary
    _delivered(outcome)
    for name, reason in summary.undelivered:
        console.warn(f"not delivered: {name}: {reason}")
    for one in outcome.broken:
        console.warn(f"not edited: {one.name}: {one.reason}")
    _notes(outcome)
    out, done = console.talk() if outlets.json else console.out(), summary.states.get("done", 0)
    if done:
        out.print(f"edited photos:   {shown(outcome.view.files)}", markup=False)
    if outcome.report:
        folder = outcome.sheets[0].parent
        pages = f"({count(len(outcome.sheets), 'page')}){_put(f'{folder.name}/', outcome)}"
        out.print(f"contact sheets:  {folder}  {pages}", markup=False)
        out.print(f"report:          {outcome.report}{_put(outcome.report.name, outcome)}", markup=False)
    elif done and not summary.stopped:
        cells = sum(len(strip.edits) for strip in job.asked.strips)
        out.print(f"no sheets of {cells:,} pictures unasked: see `ip2pbatch sheet` and `ip2pbatch report`")
    for kind in outcome.passed:
        out.print(console.plain(f"passed over: {kind}"), markup=False)
    outlets.finished(outcome)
    damaged = len(outcome.view.damaged)
    out.print(last_line(summary, len(outcome.broken), job.selection.shard, outcome.unmade, damaged), markup=False)
    return outcome.exit_code


def _put(name: str, outcome: Outcome) -> str:
    """That what begins so was put into the run's bucket too."""
    there = f"{outcome.view.address}/{name}"
    return ", and in the bucket" if any(put.startswith(there) for put in outcome.put) else ""


def _delivered(outcome: Outcome) -> None:
    """What `deliver` says besides: what there is no file of, and what it tidied away."""
    if outcome.unmade:
        console.note(f"{count(outcome.unmade, 'edit')} of the recipe not made yet, so there is no file to write")
    if outcome.removed is not None:
        removed = count(len(outcome.removed), "file")
        console.out().print(f"removed {removed} delivered before under other names or no longer asked for")


def show_model(name: str, ended: Outcome | Ip2pError, outlets: Outlets) -> None:
    """How the run of one of the models that are compared ended, to people and machines."""
    from ip2pbatch.cli.machines import Outlets

    if isinstance(ended, Ip2pError):
        console.warn(f"{name}: {ended}" + (f" (hint: {ended.hint})" if ended.hint else ""))
        outlets.without(name, ended)
    else:
        show(ended, Outlets(outlets.json))


def show_compared(ended: Compared, outlets: Outlets) -> int:
    """The same of all of them, and of what joins them; the exit code."""
    out, drawn = console.talk() if outlets.json else console.out(), ended.drawn
    if drawn:
        *sheets, report = drawn.files
        out.print(f"compared:        {ended.folder}", markup=False)
        out.print(f"contact sheets:  {ended.folder / 'sheets'}  ({count(len(sheets), 'page')})", markup=False)
        out.print(f"report:          {report}", markup=False)
    elif ended.runs and not ended.left:
        out.print("no sheets of so many pictures unasked: see `ip2pbatch sheet` and `ip2pbatch report`")
    outlets.compared_models(ended)
    out.print(_last_line_of(ended), markup=False)
    return ended.exit_code


def _last_line_of(ended: Compared) -> str:
    undone = [name for name, one in ended.runs.items() if one.exit_code]
    parts = [f"{', '.join(undone)} not complete"] if undone else []
    parts += [f"{name}: {error}" for name, error in ended.troubles.items()]
    parts += [f"{', '.join(ended.left)} not begun"] if ended.left else []
    models = count(len(ended.runs) + len(ended.troubles) + len(ended.left), "model")
    if parts:
        return f"not complete: {models} compared; {'; '.join(parts)}"
    edits = sum(one.summary.states.get("done", 0) for one in ended.runs.values())
    return f"done: {models} compared, {count(edits, 'edit')}"


def _notes(outcome: Outcome) -> None:
    """What delivered files could not hold, earlier files that now have another name, and a model that had to wait."""
    summary, busy = outcome.summary, outcome.summary.busy
    if summary.seconds > _LONG and busy and busy["model"] < _BUSY:
        console.note(
            f"once warm, the model worked {busy['model']:.0%} of the time; it waited {busy['photos']:.0%} for photos "
            f"to be read and {busy['disk']:.0%} for pictures to be written"
        )
    for text in outcome.job.notes:
        console.note(text)
    for text, files in summary.notes.items():
        console.note(f"{text} ({count(files, 'file')})")
    if earlier := outcome.earlier:
        what = shlex.quote(str(outcome.folder)) if outcome.job.recipes else "RECIPE"
        console.note(
            f"still there under older names: {count(len(earlier), 'file')} delivered before, such as {earlier[0]}; "
            f"`ip2pbatch deliver {what} --tidy` removes such files"
        )


def last_line(
    summary: Summary, broken: int = 0, shard: str | None = None, unmade: int = 0, damaged: int = 0
) -> str:  # fmt: skip
    """One line: what was made and delivered now, and everything that is not there, of this shard where it is one.

    `unmade` edits were asked for and left out, where pictures are only delivered; `damaged` are kept pictures of the
    run that sheets and report cannot show.
    """
    states: Mapping[str, int] = summary.states
    missing = [f"{states[state]} {state}" for state in _NOT_DONE if states.get(state)]
    missing += [f"{count(len(summary.undelivered), 'file')} not delivered"] if summary.undelivered else []
    missing += [f"{count(broken, 'photo')} that cannot be read"] if broken else []
    missing += [f"{count(damaged, 'kept picture')} damaged"] if damaged else []
    delivered = f"{count(summary.delivered, 'file')} delivered in {duration(summary.seconds)}"
    made = f"{count(summary.made, 'edit')} made, {delivered}"
    if summary.stopped:
        return f"interrupted: {made}; {', '.join(missing) or 'nothing is missing'}; run again to go on"
    if missing:
        return f"not complete: {made}; {', '.join(missing)}"
    from ip2pbatch.jobs.session import MOST_READ

    done = states.get("done", 0)
    unread = ", as far as their sizes tell: `ip2pbatch check` reads them" if done - summary.made > MOST_READ else ""
    unmatched = states.get("unmatched", 0)
    nothing = f"; {count(unmatched, 'edit')} found nothing to edit" if unmatched else ""
    return f"done: {made}; {_all(done, f' of shard {shard}' if shard else '', unmade)}{unread}{nothing}"


def _all(done: int, of: str, unmade: int) -> str:
    if unmade:
        return f"{done:,} of {count(done + unmade, 'edit')} {'is' if done == 1 else 'are'} there"
    if not done:
        return f"no photo{of} was there to edit"
    return f"the one edit{of} is there" if done == 1 else f"all {done:,} edits{of} are there"
