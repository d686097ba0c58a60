"""One session of a job: open its run, make what is missing, deliver, draw what a person looks at."""

from __future__ import annotations

import dataclasses
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from ip2pbatch.disk.files_at import look_again
from ip2pbatch.errors import DamagedError, UsageError
from ip2pbatch.jobs import engines
from ip2pbatch.jobs.finding import is_settled, keep_masks, seeks, settle_unmatched
from ip2pbatch.jobs.job import Job, versions
from ip2pbatch.jobs.measuring import measure, refuse_unready
from ip2pbatch.jobs.outcome import Outcome, as_one
from ip2pbatch.pictures.sizing import LIFT
from ip2pbatch.plan.editors.composed import base_of
from ip2pbatch.run.clock import now
from ip2pbatch.run.directory import renamed
from ip2pbatch.run.directory.layout import refuse_address
from ip2pbatch.run.directory.ledger import Run, open_run
from ip2pbatch.run.directory.lines import EngineSpec, Invocation, Record, RecordedRecipe, Status
from ip2pbatch.run.directory.sessions import says_engine
from ip2pbatch.run.directory.view import read_run
from ip2pbatch.run.execute import run_plan
from ip2pbatch.run.pace import Then
from ip2pbatch.run.patience import Patience
from ip2pbatch.run.states import already_done

if TYPE_CHECKING:
    from ip2pbatch.jobs.locking import AsLocked
    from ip2pbatch.jobs.voice import Voice
    from ip2pbatch.pictures.marks.signer import Signer
    from ip2pbatch.plan.photos import Scan
    from ip2pbatch.plan.written.recipe import Recipe
    from ip2pbatch.run.devices.crew import EditCrew
    from ip2pbatch.run.engine import EditEngine
    from ip2pbatch.run.events import Events
    from ip2pbatch.run.execute import Options, Summary
    from ip2pbatch.run.machine import Machine
    from ip2pbatch.run.stop import Stop

Choose = Callable[..., tuple[EngineSpec, "Callable[[], EditEngine]"]]
"""`engines.choose`, or what gives an engine that is loaded already."""

MOST_CELLS = 4000
"""Drawn at the end of a run; above it sheets take minutes and are drawn when asked for."""

_DRAWN = "sheets and report"

MOST_READ = 4000
"""Pictures from before that are read whole before it is said that they are there; above it only those that are used."""


def carry_out(
    job: Job, machine: Machine, voice: Voice, *, fresh: bool = False, redo: frozenset[Status] | None = None,
    locked: AsLocked | None = None, choose: Choose = engines.choose,
) -> Outcome:  # fmt: skip
    """Make every picture of the job that is missing, deliver it, draw sheets and report: where it is `locked`, as it
    was, or StaleLockError is raised. Whoever has an engine already says so by another `choose`.
    """
    return ended(job, _made(job, machine, voice, fresh=fresh, redo=redo, locked=locked, choose=choose), voice)


def carry_out_each(
    jobs: Iterable[Job], machine: Machine, voice: Voice, *, fresh: bool = False, redo: frozenset[Status] | None = None
) -> Outcome:
    """The same of several jobs in one folder, each as a session of its own; `fresh` is of the first."""
    done: list[tuple[Job, Summary]] = []
    for job in jobs:
        done.append((job, _made(job, machine, voice, fresh=fresh and not done, redo=redo)))
        if done[-1][1].stopped:
            break
    return ended(*as_one(done), voice)


def _made(
    job: Job, machine: Machine, voice: Voice, *, fresh: bool, redo: frozenset[Status] | None,
    locked: AsLocked | None = None, choose: Choose = engines.choose,
) -> Summary:  # fmt: skip
    """One session that makes and delivers."""
    from ip2pbatch.jobs.delivering import signer_of

    refuse_address(job.out)
    if job.files and machine.on is not None:
        hint = "--devices shares it out over this machine's"
        raise UsageError(f"--on {machine.on} cannot deliver into a bucket yet", hint=hint)
    look_again(Path(job.files))  # before a model is loaded: a bucket may not be there
    if machine.has_workers:
        return _made_by_workers(job, machine, voice, fresh=fresh, redo=redo, locked=locked)
    refuse_unready(job.recipe.sheet.metrics, voice)
    signer = signer_of(job.recipe)
    loading = f"loading {Path(base_of(job.recipe.model)).name}"
    with voice.busy(loading):
        spec, open_engine = choose(
            job.recipe.model, machine, safety=job.recipe.safety, edits=job.plan.edits, note=voice.note
        )
    spec = dataclasses.replace(spec, sizing=locked.sizing if locked else spec.sizing)
    spec = spec if fresh else engines.as_known_in(job.out, job.recipe.model, machine, spec)
    with _run_of(job, spec, locked, fresh=fresh) as run:
        options = _begin(job, run, partial(engines.device_name, machine), voice, redo, signer)
        with voice.busy(loading):
            engine = _opened(open_engine, machine, job, run, locked)
        try:
            with _heard(job, voice) as (events, stop):
                return run_plan(job.plan, run, engine, options, events, stop=stop)
        finally:
            engine.close()


def _made_by_workers(
    job: Job, machine: Machine, voice: Voice, *, fresh: bool, redo: frozenset[Status] | None,
    locked: AsLocked | None,
) -> Summary:  # fmt: skip
    """The same by workers, of this machine or of a cluster. Raises WorkerError where none of them can go on."""
    from ip2pbatch.jobs.delivering import signer_of
    from ip2pbatch.run.devices.foreman import share_out

    refuse_unready(job.recipe.sheet.metrics, voice)
    signer = signer_of(job.recipe)
    loading = f"loading {Path(base_of(job.recipe.model)).name}"
    sizing = locked.sizing if locked else None
    with engines.hired(job, machine, voice, fresh=fresh, sizing=sizing) as crew:
        with voice.busy(loading):
            found = crew.open()
        if locked:
            locked.hold(found.spec, found.device)
        with _run_of(job, found.spec, locked, fresh=fresh) as run:
            options = _begin(job, run, lambda: found.device, voice, redo, signer)
            with voice.busy(loading):
                loaded = _loaded(crew, job, run, options, locked)
            with _heard(job, voice) as (events, stop):
                if loaded:
                    return share_out(job.plan, job.asked, run, crew, options, events, stop)
                # files are due at most, and this process writes them by itself
                return run_plan(job.plan, run, engines.Idle(), options, events, stop=stop)


def _run_of(job: Job, spec: EngineSpec, locked: AsLocked | None, *, fresh: bool) -> Run:
    """The job's run, opened or begun."""
    registers = locked.registers if locked else job.registers is not False
    lift = locked.lift if locked else LIFT if job.lift is None else job.lift
    return open_run(
        job.out, spec, shard=job.shard, fresh=fresh, defaults=job.defaults, registers=registers, lift=lift,
        files=job.files,
    )  # fmt: skip


@contextmanager
def _heard(job: Job, voice: Voice) -> Iterator[tuple[Events, Stop]]:
    """What hears of a session, and what may stop it: a signal, a voice, or too many failures."""
    allowed = job.selection.allowed
    with voice.progress(job.plan) as events, voice.stop() as stop:
        yield events if allowed is None else Patience(events, stop, allowed), stop


def _loaded(crew: EditCrew, job: Job, run: Run, options: Options, locked: AsLocked | None) -> bool:
    """Have workers load what they need, if anything is left to make, and write down which engine all of them are."""
    from ip2pbatch.jobs.delivering import untried_signer
    from ip2pbatch.run.devices.wire import Load

    if _is_made(job, run):
        return False
    ready = crew.load(Load.of(run, options, partial(untried_signer, job.recipe)), [job.plan.photos[0].path])
    described = engines.described(ready.limits, ready.steps, crew.identity.device, job.plan)
    if locked:
        locked.hold_opened(described)
    mixed = {"devices": crew.mixed} if crew.mixed else {}
    run.note("engine", **described, **mixed, safety=job.recipe.safety)
    return True


def _begin(
    job: Job, run: Run, device: Callable[[], str], voice: Voice, redo: frozenset[Status] | None, signer: Signer | None
) -> Options:
    """A session of the opened run: looks at what is there, says what a person should know, and how it is carried out.

    Raises PlanError, MissingError, and UsageError where pictures are left that a bitwise run cannot have of `device`.
    """
    from ip2pbatch.jobs.adding import leave_recipe
    from ip2pbatch.jobs.delivering import options_of

    _heal(job, run, voice, "to be made again")
    if run.spec.determinism == "bitwise" and not _is_made(job, run):
        engines.refuse_other_bits(run, device())
    run.begin_session(job.asked, _invocation(job, run.spec))
    if job.leaves:
        leave_recipe(job, voice, run)
    note_unedited(run, job.scan)
    options = dataclasses.replace(options_of(job, run, redo, signer=signer), then=_then(job))
    tell_damage(run, voice)
    if seeks(job.recipe):
        keep_masks(job.plan, run, voice)
    done = already_done(job.plan, run)
    if not is_settled(job.plan, run, done):
        settle_unmatched(job.plan, run, voice)
    if not is_settled(job.plan, run, done):
        advise(job.recipe, voice)
        _warn_of_disk(job, run, voice)
    return options


def _warn_of_disk(job: Job, run: Run, voice: Voice) -> None:
    from ip2pbatch.jobs.forecast import why_tight

    left = (job.plan.edits[place] for place in already_done(job.plan, run).lacking())
    if why := why_tight(job, left):
        voice.warn(why)


def _heal(job: Job, run: Run, voice: Voice, then: str) -> dict[str, DamagedError]:
    """Look at the pictures that are there before it is said that they are; those of a large run are left to `check`,
    all but the last ones.

    Those that are damaged come back by their keys, and are told with what comes of them.
    """
    from ip2pbatch.run.directory.healing import heal, last_group
    from ip2pbatch.run.sources import heal_sources

    states = zip(job.plan.keys, run.records.statuses(job.plan.keys), strict=True)
    done = [*islice((key for key, state in states if state == "done"), MOST_READ + 1)]
    many = len(done) > MOST_READ
    if not done:
        return {}
    with voice.busy("looking at the pictures that are there"):
        damaged = heal(run, last_group(run) if many else done)
        strips = () if many else job.plan.strips
        sources = heal_sources(run, ((strip.photo, strip.edits[0].size) for strip in strips))
    if sources:
        were = "1 photo at model size was" if len(sources) == 1 else f"{len(sources):,} photos at model size were"
        voice.warn(f"{were} damaged on the disk, such as {sources[0].path.name}: made again")
    if damaged:
        were = "1 picture was" if len(damaged) == 1 else f"{len(damaged):,} pictures were"
        voice.warn(f"{were} damaged on the disk, such as {next(iter(damaged.values())).path.name}: {then}")
    return damaged


def advise(recipe: Recipe, voice: Voice) -> None:
    """Say what of the instructions will not come out as it was meant, before time is spent on it."""
    from ip2pbatch.jobs.advising import advice

    for one in advice(recipe):
        voice.warn(str(one))


def note_unedited(run: Run, found: Scan) -> None:
    """Write down what of the folders is not edited, so that whoever looks at the run hears of it."""
    for broken in found.broken:
        run.note("broken", photo=broken.name, reason=broken.reason)
    if found.passed:
        run.note_news("passed", kinds=[kind.as_row() for kind in found.passed])


def _opened(
    open_engine: Callable[[], EditEngine], machine: Machine, job: Job, run: Run, locked: AsLocked | None
) -> EditEngine:
    """The engine, written down in the run; one that makes nothing where nothing is left to make, unless the run does
    not say any more which engine made it: that is said again, for locks name it.
    """
    if _is_made(job, run):
        return engines.Idle()
    engine = open_engine()
    try:
        described = engines.describe(engine, machine, job.plan)
        if locked:
            locked.hold_opened(described)
        run.note("engine", **described, safety=job.recipe.safety)
    except BaseException:
        engine.close()
        raise
    return engine


def _is_made(job: Job, run: Run) -> bool:
    """Whether nothing is left to make, and the run still says which engine made it."""
    is_made = is_settled(job.plan, run, already_done(job.plan, run))
    return is_made and (not run.done or says_engine(run.layout))


def deliver_again(
    jobs: Iterable[Job], output: Mapping[str, object], metadata: Mapping[str, object], voice: Voice, *, tidy: bool
) -> Outcome:
    """Write the files of everything done, with those settings that are not None. Loads no model.

    `tidy` removes the files that earlier deliveries left under other names, and those of what is no longer asked for.
    """
    from ip2pbatch.plan.written.edit_flags import change_output

    done: list[tuple[Job, Summary]] = []
    unmade: set[str] = set()
    for job in jobs:
        job = dataclasses.replace(job, recipe=change_output(job.recipe, output, metadata))
        if output.get("strength") is not None and any(strip.strength is not None for strip in job.plan.strips):
            voice.note("edits that have a strength of their own in the recipe keep it")
        summary, left = _delivered(job, voice)
        done.append((job, summary))
        unmade |= left
        if summary.stopped:
            break
    one, summary = as_one(done)
    removed = renamed.tidy(read_run(one.out)) if tidy else None
    return ended(one, summary, voice, unmade=len(unmade), removed=removed)


def _delivered(job: Job, voice: Voice) -> tuple[Summary, set[str]]:
    """One session that delivers, and the keys of the Edits that are not made."""
    from ip2pbatch.jobs.delivering import options_of, signer_of

    refuse_unready(job.recipe.sheet.metrics, voice)
    signer = signer_of(job.recipe)
    look_again(Path(job.files))
    with open_run(job.out, read_run(job.out).spec) as run:
        run.begin_session(job.asked, _invocation(job, run.spec))
        note_unedited(run, job.scan)
        options = dataclasses.replace(options_of(job, run, signer=signer), then=_then(job))
        tell_damage(run, voice)
        if seeks(job.recipe):
            keep_masks(job.plan, run, voice, lambda edit: edit.key in run.done)
        damaged = _heal(job, run, voice, "run the recipe again")
        if options.deliver:
            options.deliver.refuse(job.plan, damaged)
        made = dataclasses.replace(job.plan, edits=tuple(edit for edit in job.plan.edits if edit.key in run.done))
        with voice.progress(made) as events, voice.stop() as stop:
            summary = run_plan(made, run, engines.Idle(), options, events, stop=stop)
    return summary, set(job.plan.keys) - set(made.keys)


def ended(
    job: Job, summary: Summary, voice: Voice, *, unmade: int = 0, removed: list[str] | None = None
) -> Outcome:  # fmt: skip
    """What a person looks at is drawn, from the run directory as it is now, which is read once for all of it."""
    from ip2pbatch.jobs.drawing import draw_both, looked_at, published, timed
    from ip2pbatch.show.cells import gallery

    measured: tuple[Record, ...] = ()
    with voice.busy("reading the run"):
        view = read_run(job.out)
    drawn = summary.states.get("done", 0) and not summary.stopped and _cells(job) <= MOST_CELLS
    if drawn:
        view = looked_at(view, gallery(view).cells, voice)
        view, measured = measure(view, job.recipe.sheet.metrics, voice, job.shard)
    with timed(_cells(job), job.recipe.sheet.cell) if drawn else nullcontext():
        sheets, report = draw_both(view, job.recipe.sheet, voice) if drawn else ((), None)
    put = published(view, sheets, report, voice) if drawn else ()
    earlier = tuple(renamed.leftovers(view)) if summary.delivered else ()
    tidied = None if removed is None else tuple(removed)
    return Outcome(job, summary, view, sheets, report, earlier, unmade, tidied, measured, put)


def _cells(job: Job) -> int:
    """As many as are drawn are counted, and of more no more than that they are."""
    return sum(len(strip.edits) for strip in islice(job.asked.strips, MOST_CELLS + 1))


def _then(job: Job) -> Then | None:
    """What follows edits and files."""
    from ip2pbatch.jobs.drawing import foreseen

    cells = _cells(job)
    return Then(_DRAWN, foreseen(cells, job.recipe.sheet.cell)) if cells <= MOST_CELLS else None


def tell_damage(run: Run, voice: Voice) -> None:
    """Say what of the run directory could not be read and was mended, once."""
    for text in run.complaints:
        voice.warn(text)
    run.complaints.clear()


def _invocation(job: Job, spec: EngineSpec) -> Invocation:
    return invocation_of(job.text, spec, partial=job.selection.partial, recipes=job.recipes)


def invocation_of(
    recipe: str, spec: EngineSpec, *, partial: bool, recipes: tuple[RecordedRecipe, ...] = ()
) -> Invocation:
    """What a session says of itself; `recipe` is its recipe's text, `partial` says that it is of some photos only, and
    `recipes` are all that the run is asked for, where they are known.
    """
    return Invocation(
        started=now().isoformat(timespec="seconds"), command=shlex.join(sys.argv), recipe=recipe,
        versions=versions(spec.backend), device=spec.provider, partial=partial, recipes=recipes,
    )  # fmt: skip
