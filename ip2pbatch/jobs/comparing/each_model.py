"""Making the pictures of every model that is compared: an ordinary run each, one after another."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ip2pbatch import errors
from ip2pbatch.errors import Ip2pError, ModelError, PlanError, UsageError
from ip2pbatch.jobs.comparing.joint import join
from ip2pbatch.jobs.job import Job, Selection, make_job
from ip2pbatch.jobs.session import MOST_CELLS, carry_out, deliver_again
from ip2pbatch.plan.written.recipe import parse_recipe

if TYPE_CHECKING:
    from ip2pbatch.jobs.comparing.comparison import Comparison
    from ip2pbatch.jobs.drawing import Drawn
    from ip2pbatch.jobs.outcome import Outcome, Picture
    from ip2pbatch.jobs.voice import Voice
    from ip2pbatch.run.directory.lines import Status
    from ip2pbatch.run.machine import Machine


@dataclass(frozen=True, slots=True)
class Compared:
    """How a comparison ended: each model's Outcome, or the error that its run could not go on from, by its name.

    `drawn` is what joins them; None where it was interrupted, or is more than is drawn unasked.
    """

    folder: Path
    runs: Mapping[str, Outcome]
    troubles: Mapping[str, Ip2pError] = field(default_factory=dict)
    left: tuple[str, ...] = ()
    drawn: Drawn | None = None

    @property
    def exit_code(self) -> int:
        """As the command ends with it: the largest of its runs'."""
        codes = [one.exit_code for one in self.runs.values()] + [one.exit_code for one in self.troubles.values()]
        return max([*codes, self.drawn.exit_code if self.drawn else errors.DONE])

    def __iter__(self) -> Iterator[Picture]:
        """The cells of every run, one run after another."""
        return (picture for one in self.runs.values() for picture in one)


def carry_out_models(
    comparison: Comparison, selection: Selection, machine: Machine, voice: Voice, *, fresh: bool = False,
    redo: frozenset[Status] | None = None, told: Callable[[str, Outcome | Ip2pError], None],
) -> Compared:  # fmt: skip
    """Make the pictures of every model that are missing, and draw what joins them; `told` hears how each run ended.

    All are planned first. Raises PlanError, RecipeError, UsageError, NothingMatchedError.
    """
    planned = _planned(comparison, selection, fresh=fresh)
    return _each(
        comparison, planned, partial(carry_out, machine=machine, voice=voice, fresh=fresh, redo=redo), voice, told
    )


def deliver_models(
    comparison: Comparison, output: Mapping[str, object], metadata: Mapping[str, object], voice: Voice, *, tidy: bool,
    told: Callable[[str, Outcome | Ip2pError], None],
) -> Compared:  # fmt: skip
    """Write the files of every model's run again, as `deliver` does of one, and draw what joins them."""
    begun = comparison.views()
    planned = {name: job for name, job in _planned(comparison, Selection(), fresh=False).items() if name in begun}

    def again(job: Job) -> Outcome:
        return deliver_again([job], output, metadata, voice, tidy=tidy)

    return _each(comparison, planned, again, voice, told)


def _each(
    comparison: Comparison, planned: Mapping[str, Job | ModelError], carry: Callable[[Job], Outcome], voice: Voice,
    told: Callable[[str, Outcome | Ip2pError], None],
) -> Compared:  # fmt: skip
    """One model after another, and what joins them."""
    runs: dict[str, Outcome] = {}
    troubles: dict[str, Ip2pError] = {}
    for number, (name, job) in enumerate(planned.items(), start=1):
        voice.note(f"model {number} of {len(planned)}: {name}")
        ended = job if isinstance(job, ModelError) else _ended(carry, job)
        told(name, ended)
        if isinstance(ended, Ip2pError):
            troubles[name] = ended
            continue
        runs[name] = ended
        if ended.summary.stopped:
            break
    left = tuple(name for name in planned if name not in runs and name not in troubles)
    cells = sum(len(strip.edits) for one in runs.values() for strip in one.view.strips)
    drawn = None
    if runs and not left and cells <= MOST_CELLS:
        drawn = join(comparison, voice, known={name: one.view for name, one in runs.items()}, why=troubles)
    return Compared(comparison.out, runs, troubles, left, drawn)


def _ended(carry: Callable[[Job], Outcome], job: Job) -> Outcome | Ip2pError:
    """How one model's run ended; what it could not go on from is its own, and the others are made."""
    try:
        return carry(job)
    except errors.StoppedError:
        raise
    except Ip2pError as error:
        return error


def _planned(comparison: Comparison, selection: Selection, *, fresh: bool) -> dict[str, Job | ModelError]:
    """The job of each model, or that its folder cannot be read. What it cannot do is told by its name."""
    found: dict[str, Job | ModelError] = {}
    for name in comparison.folders:
        try:
            found[name] = job_of(comparison, name, selection, fresh=fresh)
        except ModelError as error:
            found[name] = error
    return found


def job_of(comparison: Comparison, name: str, selection: Selection, *, fresh: bool = False) -> Job:
    """The job of one of the models. Raises ModelError, RecipeError, PlanError, UsageError, NothingMatchedError."""
    if name not in comparison.folders:
        raise UsageError(f"no model is called {name}", hint=f"compared are {', '.join(comparison.folders)}")
    recorded = comparison.recipes()[name]
    recipe = parse_recipe(recorded.text, Path(recorded.file))
    try:
        job = make_job(recipe, recorded, replace(selection, out=None), fresh=fresh)
    except (PlanError, UsageError) as error:
        raise type(error)(f"{name}: {error}", hint=error.hint) from error
    return replace(job, leaves=True, part_of=(comparison.recorded, comparison.before))
