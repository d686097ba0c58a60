"""Do the pictures of a finished run come out the same? Makes them again, or takes another run's, and compares."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ip2pbatch import errors
from ip2pbatch.errors import NothingMatchedError, PlanError, ResourceError, UsageError
from ip2pbatch.jobs import job as jobs
from ip2pbatch.jobs import locking
from ip2pbatch.jobs.delivering import unsigned_settings
from ip2pbatch.jobs.remake import Recorded, made_again
from ip2pbatch.jobs.standing import look
from ip2pbatch.pictures.deliver import DeliverySettings
from ip2pbatch.plan.edits import Plan
from ip2pbatch.plan.names import safe_path
from ip2pbatch.plan.written.recipe import load_recipe
from ip2pbatch.run.directory.layout import run_folders
from ip2pbatch.run.directory.view import RunView
from ip2pbatch.run.lock import Lock, caveats, last_event, lock_path, made_with, read_lock
from ip2pbatch.run.tolerance import Level
from ip2pbatch.run.verify import Case, Finding, LockWitness, RunWitness, Witness, choose, compare, cut, titles
from ip2pbatch.show.triptych import draw_triptych

if TYPE_CHECKING:
    from ip2pbatch.jobs.voice import Voice


@dataclass(frozen=True, slots=True)
class Subject:
    """What is verified: what it testifies, how it was made, and how it is called. `unmade` pictures are asked for by
    the recipe and not by the run's plan, as of photos that came later; `caveats` say which pictures were not all made
    as `recorded` says.
    """

    name: str
    witness: RunWitness | LockWitness
    recorded: Recorded
    unmade: int = 0
    caveats: tuple[str, ...] = ()

    @property
    def default_level(self) -> Level:
        """As much as the run's determinism promised."""
        return Level.BITWISE if self.recorded.spec.determinism == "bitwise" else Level.PIXELS

    def left(self, level: Level) -> int:
        """How many pictures, or files at bitwise, are asked for and not there to be compared."""
        return self.unmade + (self.witness.left(level) if isinstance(self.witness, RunWitness) else 0)

    def tampered(self, cases: Sequence[Case]) -> list[str]:
        """The delivered files of these pictures that are not as they were delivered, where there are any."""
        return self.witness.tampered(cases) if isinstance(self.witness, RunWitness) else []


@dataclass(frozen=True, slots=True)
class Verdict:
    """What `verify` found of a run or lock called `name`, at a level. `made` says where the other pictures came from,
    `shown` has a picture of each that differs, `left` counts what was not there to be compared. `digests_only` says
    that no picture was known, so that only equal ones count as equal. Where a stop was asked for, `stopped` is its
    exit code and nothing was compared.
    """

    name: str
    level: Level
    findings: tuple[Finding, ...]
    shown: dict[Case, Path]
    made: str
    remarks: tuple[str, ...]
    left: int
    digests_only: bool
    stopped: int = 0

    @property
    def same(self) -> bool:
        """Whether everything that was compared is the same."""
        return not self.stopped and all(finding.state == "equal" for finding in self.findings)

    @property
    def exit_code(self) -> int:
        """As the command ends with it."""
        return self.stopped or (errors.DONE if self.same else errors.DIFFERS)

    @property
    def counts(self) -> Counter[str]:
        """By state, with those that were not there yet."""
        found = Counter(finding.state for finding in self.findings)
        return Counter({"equal": 0, "differs": 0, "absent": 0} | found | {"unfinished": self.left})


def verify(
    what: Path, voice: Voice, *, against: Path | None, level: Level | None, sample: int | None, out: Path | None
) -> Verdict:
    """Compare `what`, a run's folder, a recipe or a lock, with the run in `against` or with itself made again.

    Raises UsageError, StaleError, RecipeError, NothingMatchedError.
    """
    subject = find(what, voice, remade=against is None)
    level = level or subject.default_level
    _refuse_impossible(subject, level, voice)
    cases = choose(subject.witness.cases(level), sample)
    if not cases:
        raise NothingMatchedError(f"{subject.name} has no finished picture to compare", hint="run the recipe first")
    remarks = (*(subject.caveats if against is None else ()), *_remarks(subject, level, cases))
    for remark in remarks:
        voice.warn(remark)
    exactly = level is Level.PIXELS and isinstance(subject.witness, LockWitness)
    with _other(subject, cases, level, against, voice) as (actual, made, stopped):
        findings = () if stopped else tuple(compare(subject.witness, actual, level, cases))
        shown = _triptychs(subject, actual, findings, out, voice) if findings else {}
    return Verdict(subject.name, level, findings, shown, made, remarks, subject.left(level), exactly, stopped)


def _remarks(subject: Subject, level: Level, cases: Sequence[Case]) -> Iterator[str]:
    """What this level does not compare, though somebody may think so."""
    if level is not Level.BITWISE and (paths := subject.tampered(cases)):
        files = "1 delivered file" if len(paths) == 1 else f"{len(paths):,} delivered files"
        yield (
            f"{files} changed or gone since, such as {paths[0]}: this level "
            "compares the model's pictures, and --level bitwise the files"
        )


def find(what: Path, voice: Voice, *, remade: bool) -> Subject:
    """A run by its folder, a lock by its name, a recipe's run or else its lock. `remade` asks for a lock's recipe too.

    Raises UsageError, StaleError, RecipeError.
    """
    if what.is_dir():
        return _of_run(look(what, voice))
    if what.name.endswith((".lock.yaml", ".lock.yml")):
        return _of_lock(what, read_lock(what), voice, remade)
    folder = load_recipe(what).output.folder
    if not run_folders(folder) and lock_path(what).exists():
        return _of_lock(lock_path(what), read_lock(lock_path(what)), voice, remade)
    subject = _of_run(look(folder, voice))
    return replace(subject, unmade=_refuse_another_recipe(what, subject.recorded.plan, voice))


def _refuse_another_recipe(recipe: Path, made: Plan, voice: Voice) -> int:
    """How many pictures the recipe asks for of photos that the run's plan `made` has not. Raises StaleLockError where
    it asks for others of the same photos: to verify the old ones would say nothing of it.
    """
    from ip2pbatch.run.stale import other_recipe

    try:
        plan = jobs.read(recipe, jobs.Selection()).whole
    except (NothingMatchedError, PlanError):  # the photos are elsewhere now, which their pictures will tell
        return 0
    locking.refuse(
        recipe, other_recipe(made, plan), voice,
        "run the recipe first, or give the run's folder instead, to verify what it holds",
        "is not what its run was made from",
    )  # fmt: skip
    known = {edit.key for edit in made.edits}
    return sum(edit.key not in known for edit in plan.edits)


def _of_run(view: RunView) -> Subject:
    engine, delivery = last_event(view, "engine"), DeliverySettings(**last_event(view, "delivery"))
    delivery = replace(delivery, sign="")  # what was signed is compared, and nobody's key is asked for
    steps = tuple(engine["steps"]) if "steps" in engine else None
    paths = {}
    for strip in view.strips:
        for link, edit in view.kept(strip):
            if (file := view.delivery(strip, edit)) is not None:
                paths[strip.photo.name, strip.id, link, edit.key] = file.path
    recorded = Recorded(
        view.spec, view.plan, engine["batch"], engine["rows"], steps, engine["device"],
        made_with(view), engine["safety"], delivery, paths, view.layout,
    )  # fmt: skip
    return Subject(str(view.root), RunWitness(view), recorded, caveats=tuple(caveats(view)))


def _of_lock(path: Path, lock: Lock, voice: Voice, remade: bool) -> Subject:
    plan, settings = Plan("", lock.engine.model, (), (), ()), DeliverySettings()
    if remade:
        recipe = path.parent / lock.recipe
        if not recipe.is_file():
            raise UsageError(
                f"the recipe of {path} is not beside it: {recipe}",
                hint="bring it back; --against FOLDER compares the lock with a finished run and needs no recipe",
            )
        job = locking.as_locked(jobs.read(recipe, jobs.Selection()), lock)
        found = locking.differences(lock, job.whole, locking.surroundings(job, lock.engine.backend), voice)
        # Other versions are what one verifies against; another plan would be other pictures.
        locking.refuse(
            path, [difference for difference in found if difference.topic != "versions"], voice,
            "undo the change, or make the pictures and lock them again; --against FOLDER compares a finished run",
        )  # fmt: skip
        plan, settings = job.whole, unsigned_settings(job.recipe, job.registers, job.lift)
    paths = {(file.photo, file.id, file.link, file.edit): name for name, file in lock.files.items()}
    recorded = Recorded(
        lock.engine.spec, plan, lock.batch.edits, lock.batch.rows, lock.batch.steps, lock.device, lock.versions,
        lock.safety, settings, paths,
    )  # fmt: skip
    return Subject(str(path), LockWitness(lock), recorded)


def _refuse_impossible(subject: Subject, level: Level, voice: Voice) -> None:
    if not isinstance(subject.witness, LockWitness) or level is Level.BITWISE:
        return
    if level is Level.PERCEPTUAL:
        raise UsageError(
            "a lock holds digests and no picture, so likeness cannot be measured against it",
            hint="give the run's folder instead, or use --level bitwise or pixels",
        )
    voice.warn("a lock holds digests and no picture: only exactly equal pixels count as equal")


@contextmanager
def _other(
    subject: Subject, cases: Sequence[Case], level: Level, against: Path | None, voice: Voice
) -> Iterator[tuple[Witness, str, int]]:
    """What to compare with, in words where it comes from, and the exit code of a stop that was asked for."""
    if against is not None:
        yield RunWitness(look(against, voice)), f"as in {against}", 0
        return
    part = cut(subject.recorded.plan, cases)
    with made_again(subject.recorded, part, voice, deliver=level is Level.BITWISE) as (view, summary):
        yield RunWitness(view), f"made again in {summary.seconds:.1f} s", summary.stopped


def _triptychs(
    subject: Subject, actual: Witness, findings: Sequence[Finding], out: Path | None, voice: Voice
) -> dict[Case, Path]:
    """A picture of every Finding that has two different ones; those of an earlier verification in the run are gone."""
    folder = out
    try:
        if folder is None and isinstance(subject.witness, RunWitness):
            folder = subject.witness.view.layout.folder / "verify"
            for old in folder.glob("*.png"):
                old.unlink()
        return _draw(subject, actual, findings, folder) if folder is not None else {}
    except (OSError, ResourceError) as error:  # the verdict is worth more than its pictures
        why = error.strerror if isinstance(error, OSError) else error
        voice.warn(f"pictures of what differs could not be written: {why}; name another folder with --out")
        return {}


def _draw(subject: Subject, actual: Witness, findings: Sequence[Finding], folder: Path) -> dict[Case, Path]:
    said = titles([finding.case for finding in findings])
    drawn: dict[Case, Path] = {}
    for finding in findings:
        case = finding.case
        if finding.state != "differs" or finding.distance is None:
            continue
        before, after = subject.witness.picture(case.key), actual.picture(case.key)
        if before is not None and after is not None:
            name = safe_path(case.photo.rpartition("/")[2], f"-{case.key[:8]}.png")
            drawn[case] = folder / name
            draw_triptych(before, after, f"{case.photo}: {said[case]}", finding.why, drawn[case])
    return drawn
