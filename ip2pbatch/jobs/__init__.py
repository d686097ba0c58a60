"""What the commands do, without a terminal: one function a command. This is also the Python API.

    from ip2pbatch import jobs

    outcome = jobs.edit("photos", "make it winter", out="winter")
    for picture in outcome:
        print(picture.photo, picture.state, picture.file)

Each takes a `voice` that hears notes, warnings and progress and can ask for a stop; without one it is silent, and in a
notebook a bar. What goes wrong is an Ip2pError of ip2pbatch/errors.py with a hint. Nothing heavy is imported before
it is needed. The modules in here are never called like a function here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ip2pbatch.plan.defaults import DEFAULT_MODEL
from ip2pbatch.run.machine import Machine, Precision, Provider

if TYPE_CHECKING:
    from ip2pbatch.errors import Ip2pError
    from ip2pbatch.jobs.checking import Checkup
    from ip2pbatch.jobs.comparing.each_model import Compared
    from ip2pbatch.jobs.drawing import Drawn
    from ip2pbatch.jobs.exporting import Exported
    from ip2pbatch.jobs.forecast import Forecast
    from ip2pbatch.jobs.job import Selection
    from ip2pbatch.jobs.locking import Locked
    from ip2pbatch.jobs.outcome import Outcome
    from ip2pbatch.jobs.standing import Standing
    from ip2pbatch.jobs.verifying import Verdict
    from ip2pbatch.jobs.voice import Voice
    from ip2pbatch.pictures.marks.marked import Marked
    from ip2pbatch.run.machine import Finding

__all__ = [
    "Machine", "apply", "check", "compare", "compared", "deliver", "doctor", "edit", "export", "lock", "marks", "plan",
    "report", "retry", "run", "sheet", "status", "trial_certificate", "verify", "watch",
]  # fmt: skip

_AGAIN = frozenset[Literal["failed", "skipped", "nan", "flagged"]]({"failed", "skipped", "nan", "flagged"})
AnyPath = str | PathLike[str]
Numbers = float | Sequence[float] | str
"""A number, several, or a text such as "5,7.5" or "1..2 by 0.25"."""


def edit(
    photos: AnyPath | Sequence[AnyPath], instructions: str | Sequence[str], out: AnyPath, *,
    text: Numbers | None = None, image: Numbers | None = None, seed: Numbers | None = None, steps: int | None = None,
    sampler: str | None = None, size: int | None = None, model: str = DEFAULT_MODEL, name: str | None = None,
    format: str | None = None, quality: int | None = None, dates: str | None = None, gps: str | None = None,
    strength: float | None = None,
    machine: Machine | None = None, only: str | None = None, limit: int | None = None, fresh: bool = False,
    recipe: AnyPath | None = None, max_failures: str | int | None = None, state: AnyPath | None = None,
    voice: Voice | None = None,
) -> Outcome:  # fmt: skip
    """Edit photos, or folders of them, by written instruction into the folder `out`, or into a bucket from a run that
    is kept in the folder `state`. Done pictures are not made again.

    `text` and `image` are the two guidance scales, `size` the long side the model works at; `name`, `format`,
    `quality`, `dates`, `strength` and `gps` are a recipe's `output` and `metadata`. All that was asked for in the
    folder lies there as recipe.yaml, and where `recipe` says. Raises UsageError.
    """
    from ip2pbatch.jobs import adding
    from ip2pbatch.jobs import job as jobs
    from ip2pbatch.jobs.session import carry_out
    from ip2pbatch.plan.written.as_text import recipe_text
    from ip2pbatch.plan.written.edit_flags import Flags, recipe_from_flags
    from ip2pbatch.run.directory.lines import RecordedRecipe

    paths = [photos] if isinstance(photos, (str, PathLike)) else photos
    words = [instructions] if isinstance(instructions, str) else instructions
    flags = Flags(
        tuple(map(Path, paths)), tuple(words), Path(out), _text(text), _text(image), _text(seed), steps, sampler, size,
        model, name, format, quality, dates, gps, strength,
    )  # fmt: skip
    asked, elsewhere, voice = recipe_from_flags(flags), None if recipe is None else Path(recipe), _heard(voice)
    if elsewhere is not None:
        adding.refuse_theirs(elsewhere, flags.out)
    recorded = RecordedRecipe(recipe_text(asked))
    job = jobs.make_job(asked, recorded, _selection(None, only, limit, None, max_failures, state), fresh=fresh)
    job = replace(job if fresh else adding.added(job), leaves=True, elsewhere=elsewhere)
    return carry_out(job, machine or Machine(), voice, fresh=fresh)


def apply(
    out: AnyPath, cell: int, photos: AnyPath | Sequence[AnyPath] = (), *, only: str | None = None,
    limit: int | None = None, max_failures: str | int | None = None, voice: Voice | None = None,
) -> Outcome:  # fmt: skip
    """Make of other photos what a cell of a run in `out` is of its own, into the same run and with its machine's
    settings: of `photos`, or of all that its photo was listed with. Cells are counted from 1, as in the report.
    """
    from ip2pbatch.jobs.adding import applied
    from ip2pbatch.jobs.remake import machine_of
    from ip2pbatch.jobs.session import carry_out

    paths = [photos] if isinstance(photos, (str, PathLike)) else photos
    job, view = applied(
        Path(out), cell, [Path(path) for path in paths], _selection(None, only, limit, None, max_failures)
    )
    return carry_out(job, machine_of(view), _heard(voice))


def run(
    recipe: AnyPath, *, out: AnyPath | None = None, only: str | None = None, limit: int | None = None,
    shard: str | None = None, machine: Machine | None = None, fresh: bool = False, locked: bool = False,
    max_failures: str | int | None = None, state: AnyPath | None = None, voice: Voice | None = None,
) -> Outcome:  # fmt: skip
    """Make every picture a recipe asks for that is not made yet; call it again to go on. An output folder in its place
    goes on with what its run was last asked for.

    `shard` is a part such as "2/8"; `locked` refuses where anything differs from the recipe's lock; where more edits
    fail than `max_failures`, or than that share of them ("5%"), it ends early. `state` is the folder of this machine
    where a run is kept that delivers into a bucket.
    """
    from ip2pbatch.jobs import job as jobs
    from ip2pbatch.jobs.session import carry_out, carry_out_each

    voice, machine = _heard(voice), machine or Machine()
    selection = _selection(out, only, limit, shard, max_failures, state)
    if Path(recipe).is_dir() and not locked:
        from ip2pbatch.jobs.adding import jobs_of

        return carry_out_each(jobs_of(Path(recipe), selection, voice, fresh=fresh), machine, voice, fresh=fresh)
    job, held = jobs.read(Path(recipe), selection, fresh=fresh), None
    if locked:
        from ip2pbatch.jobs.locking import refuse_stale

        held = refuse_stale(Path(recipe), job, machine, voice)
    return carry_out(job, machine, voice, fresh=fresh, locked=held)


def retry(
    recipe: AnyPath, *, out: AnyPath | None = None, only: str | None = None, machine: Machine | None = None,
    max_failures: str | int | None = None, voice: Voice | None = None,
) -> Outcome:  # fmt: skip
    """Try the failed, nan and flagged pictures of a recipe again, and whatever is left; an output folder in its place
    is of what its run was last asked for.
    """
    from ip2pbatch.jobs.adding import jobs_of
    from ip2pbatch.jobs.session import carry_out_each

    voice = _heard(voice)
    selection = _selection(out, only, max_failures=max_failures)
    return carry_out_each(jobs_of(Path(recipe), selection, voice), machine or Machine(), voice, redo=_AGAIN)


def compare(
    recipe: AnyPath, *, models: Sequence[str] = (), out: AnyPath | None = None, only: str | None = None,
    limit: int | None = None, shard: str | None = None, machine: Machine | None = None, fresh: bool = False,
    again: bool = False, max_failures: str | int | None = None,
    told: Callable[[str, Outcome | Ip2pError], None] = lambda name, ended: None, voice: Voice | None = None,
) -> Compared:  # fmt: skip
    """Make the pictures of a recipe with several models, an ordinary run each in a folder of its own, and join them on
    sheets and in a report; call it again to go on. The models are those that the recipe compares, and `models`.

    The output folder of a comparison may stand in the recipe's place. `again` tries what failed once more, as `retry`
    does. `told` hears how each model's run ended.
    """
    from ip2pbatch.jobs.comparing.comparison import found
    from ip2pbatch.jobs.comparing.each_model import carry_out_models

    comparison = found(Path(recipe), None if out is None else Path(out), models)
    return carry_out_models(
        comparison, _selection(None, only, limit, shard, max_failures), machine or Machine(), _heard(voice),
        fresh=fresh, redo=_AGAIN if again else None, told=told,
    )  # fmt: skip


def compared(what: AnyPath, *, out: AnyPath | None = None) -> dict[str, Path]:
    """The output folders of the models' runs, by the models' names, that a recipe compares or a comparison in a folder
    has, begun or not; none where it is of one model.
    """
    from ip2pbatch.jobs.comparing.comparison import comparison_of

    comparison = comparison_of(Path(what), None if out is None else Path(out))
    return {} if comparison is None else comparison.folders


def watch(
    folder: AnyPath, recipe: AnyPath, *, settle: float = 2.0, once_idle: float | None = None,
    out: AnyPath | None = None, machine: Machine | None = None, voice: Voice | None = None,
) -> Outcome:  # fmt: skip
    """Edit what arrives in a folder, each photo once, until the voice asks for a stop or nothing came for `once_idle`
    seconds. A file is whole when it did not change for `settle` seconds.
    """
    from ip2pbatch.jobs.watching.shift import keep_watch

    return keep_watch(
        Path(folder), Path(recipe), machine or Machine(), _heard(voice), out=None if out is None else Path(out),
        settle=settle, once_idle=once_idle,
    )  # fmt: skip


def plan(
    recipe: AnyPath, *, out: AnyPath | None = None, only: str | None = None, limit: int | None = None,
    write_manifest: AnyPath | None = None, masks: AnyPath | None = None, model: str | None = None,
    voice: Voice | None = None,
) -> Forecast:  # fmt: skip
    """What a run would make: counts of edits, files and network rows, and the disk it needs. Loads no model. `model` is
    the name of one of those that a recipe compares.

    The photos are written as a manifest into `write_manifest`, for recipes that then need not look at them again, and
    drawn with the regions of their edits into the PNG `masks`.
    """
    from ip2pbatch.jobs.forecast import forecast
    from ip2pbatch.jobs.job import read, write_photos

    if model is None:
        job = read(Path(recipe), _selection(out, only, limit))
    else:
        from ip2pbatch.jobs.comparing.comparison import found
        from ip2pbatch.jobs.comparing.each_model import job_of

        comparison = found(Path(recipe), None if out is None else Path(out))
        job = job_of(comparison, model, _selection(None, only, limit))
    if write_manifest is not None:
        job = write_photos(job, Path(write_manifest))
    if masks is not None:
        from ip2pbatch.jobs.drawing import draw_masks

        job = draw_masks(job, Path(masks), _heard(voice))
    return forecast(job)


def status(run: AnyPath) -> Standing:
    """What of a run is done, failed or left, and why; by its output folder or its recipe."""
    from ip2pbatch.jobs.standing import find, standing

    return standing(find(Path(run)))


def check(run: AnyPath, *, repair: bool = False, voice: Voice | None = None) -> Checkup:
    """Read every byte of a run, by its output folder or its recipe, and say what is not as it was written.

    `repair` sets damaged pictures aside for the next `run`, and makes again what needs no model.
    """
    from ip2pbatch.jobs import checking

    return checking.check(Path(run), _heard(voice), repair=repair)


def deliver(
    recipe: AnyPath, *, out: AnyPath | None = None, format: str | None = None, quality: int | None = None,
    full_resolution: str | None = None, name: str | None = None, dates: str | None = None, gps: str | None = None,
    strength: float | None = None, prompt: bool | None = None, tidy: bool = False, voice: Voice | None = None,
) -> Outcome:  # fmt: skip
    """Write the files of a finished run again, with other settings and without the model; by its recipe or its output
    folder.

    `tidy` removes files that were delivered under other names before, and those of pictures that the recipe no longer
    asks for of its photos, where nobody changed them.
    """
    from ip2pbatch.jobs.adding import jobs_of
    from ip2pbatch.jobs.session import deliver_again

    output = {
        "format": format, "quality": quality, "full_resolution": full_resolution, "name": name, "dates": dates,
        "strength": strength,
    }  # fmt: skip
    voice = _heard(voice)
    jobs = jobs_of(Path(recipe), _selection(out), voice)
    return deliver_again(jobs, output, {"gps": gps, "prompt": prompt}, voice, tidy=tidy)


def marks(what: AnyPath, *, trust: AnyPath | None = None, voice: Voice | None = None) -> Marked:
    """Which marks a picture, or each one in a folder, carries that say that AI edited it, and whether they hold.

    `trust` is a PEM file with the certificates of authorities whose signers are known. Raises UsageError.
    """
    from ip2pbatch.pictures.marks import marked

    folder, trusted = Path(what), marked.trusted_in(None if trust is None else Path(trust))
    paths, found = marked.files_in(folder), []
    with _heard(voice).counting("reading", len(paths)) as advance:
        for path, called in zip(paths, marked.called_in(folder, paths), strict=True):
            found.append(marked.look(path, called, trusted))
            advance()
    return marked.Marked(tuple(found))


def trial_certificate(folder: AnyPath) -> tuple[Path, Path, Path]:
    """Make an authority of your own, a signer's certificate of it, and its key, for trying: their PEM files.

    Raises UsageError where one is there already, MissingError.
    """
    from ip2pbatch.pictures.marks import manifests, trial_authority

    manifests.refuse_without()
    return trial_authority.make(Path(folder))


def sheet(run: AnyPath, *, out: AnyPath | None = None, cell: int = 384, voice: Voice | None = None) -> Drawn:
    """Draw the contact sheets of a run again, with cells `cell` pixels long. Numbers that its recipe asks for and that
    are not known of a picture are measured first. Of a comparison, the sheets that join its runs.
    """
    from ip2pbatch.jobs.comparing.comparison import comparison_of
    from ip2pbatch.jobs.comparing.joint import draw_joined_sheets
    from ip2pbatch.jobs.drawing import draw_sheets

    folder = None if out is None else Path(out)
    if comparison := comparison_of(Path(run)):
        return draw_joined_sheets(comparison, _heard(voice), out=folder, cell=cell)
    return draw_sheets(Path(run), _heard(voice), out=folder, cell=cell)


def report(run: AnyPath, *, out: AnyPath | None = None, voice: Voice | None = None) -> Drawn:
    """Write the HTML report of a run again, or the one that joins a comparison's, after measuring as `sheet` does."""
    from ip2pbatch.jobs.comparing.comparison import comparison_of
    from ip2pbatch.jobs.comparing.joint import draw_joined_report
    from ip2pbatch.jobs.drawing import draw_report

    file = None if out is None else Path(out)
    if comparison := comparison_of(Path(run)):
        return draw_joined_report(comparison, _heard(voice), out=file)
    return draw_report(Path(run), _heard(voice), out=file)


def lock(
    recipe: AnyPath, *, out: AnyPath | None = None, check: bool = False, voice: Voice | None = None
) -> Locked:  # fmt: skip
    """Write the lock of a recipe's finished run, or with `check` only compare it with what would be made now."""
    from ip2pbatch.jobs import locking
    from ip2pbatch.jobs.job import read

    job = read(Path(recipe), _selection(out))
    return (locking.check if check else locking.write)(job, Path(recipe), _heard(voice))


def verify(
    what: AnyPath, *, against: AnyPath | None = None, level: str | None = None, sample: int | None = None,
    out: AnyPath | None = None, voice: Voice | None = None,
) -> Verdict:  # fmt: skip
    """Make the pictures of a finished run, a recipe or a lock again in a temporary folder, and compare them.

    `against` is another finished run to compare with instead, `level` bitwise, pixels or perceptual, `sample` how many
    pictures, `out` the folder for pictures of what differs.
    """
    from ip2pbatch.jobs import verifying
    from ip2pbatch.run.tolerance import Level

    return verifying.verify(
        Path(what), _heard(voice), against=None if against is None else Path(against),
        level=None if level is None else Level(level), sample=sample, out=None if out is None else Path(out),
    )  # fmt: skip


def export(
    model: str, out: AnyPath, *, provider: str = "cpu", precision: str = "auto", opset: int = 17,
    voice: Voice | None = None,
) -> Exported:  # fmt: skip
    """Write a model as ONNX to a folder that `--backend onnx --model` takes, compared with PyTorch first."""
    from ip2pbatch.jobs import exporting

    return exporting.export(model, Path(out), Provider(provider), Precision(precision), opset, _heard(voice))


def doctor(model: str | None = None) -> list[Finding]:
    """Versions, devices and providers of this machine, and what an edit would use and why; of a `model` whether it can
    be used here, and which speed-ups do not hold for it. Loads no weights.
    """
    from ip2pbatch.jobs.examination import examine

    return examine(model)


def _heard(voice: Voice | None) -> Voice:
    """The voice that was given; without one bars for a person at a notebook, and silence elsewhere."""
    if voice is not None:
        return voice
    from ip2pbatch.jobs.voice import Bars, Silent, in_notebook

    return Bars() if in_notebook() else Silent()


def _selection(
    out: AnyPath | None = None, only: str | None = None, limit: int | None = None, shard: str | None = None,
    max_failures: str | int | None = None, state: AnyPath | None = None,
) -> Selection:  # fmt: skip
    from ip2pbatch.jobs.job import Selection
    from ip2pbatch.plan.written.addresses import refuse_addresses
    from ip2pbatch.run.patience import Allowance

    refuse_addresses(["run", *([] if out is None else ["--out", str(out)])])
    refuse_addresses([] if state is None else ["--state", str(state)])
    allowed = None if max_failures is None else Allowance.parse(str(max_failures))
    kept = None if state is None else Path(state)
    return Selection(None if out is None else Path(out), only, limit, shard, allowed, kept)


def _text(numbers: Numbers | None) -> str | None:
    if numbers is None or isinstance(numbers, str):
        return numbers
    return ",".join(f"{number}" for number in (numbers if isinstance(numbers, Sequence) else (numbers,)))
