"""`verify`: make the pictures of a finished run again, or take another run's, and compare."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ip2pbatch import errors
from ip2pbatch.cli import console
from ip2pbatch.errors import NothingMatchedError, PlanError, ResourceError, UsageError
from ip2pbatch.run.tolerance import MAX_DIFFERENCE, MAX_RMS, MIN_SSIM, Level

if TYPE_CHECKING:
    from rich.console import Console

    from ip2pbatch.cli.machines import Outlets
    from ip2pbatch.jobs.remake import Recorded
    from ip2pbatch.plan.edits import Plan
    from ip2pbatch.run.lock import Lock
    from ip2pbatch.run.verify import Case, Finding, LockWitness, RunWitness, Witness
    from ip2pbatch.run.view import RunView

_MEANS = {
    Level.BITWISE: "files equal to the bit",
    Level.PIXELS: f"pictures within RMS {MAX_RMS:g} and {MAX_DIFFERENCE} of 255",
    Level.PERCEPTUAL: f"pictures with SSIM {MIN_SSIM} or more",
}


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
        from ip2pbatch.run.verify import RunWitness

        return self.unmade + (self.witness.left(level) if isinstance(self.witness, RunWitness) else 0)

    def tampered(self, cases: Sequence[Case]) -> list[str]:
        """The delivered files of these pictures that are not as they were delivered, where there are any."""
        from ip2pbatch.run.verify import RunWitness

        return self.witness.tampered(cases) if isinstance(self.witness, RunWitness) else []


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
    as_json: Annotated[bool, typer.Option("--json", help="JSON lines on stdout, people's text on stderr.")] = False,
    junit: Annotated[Path | None, typer.Option(help="Write a JUnit file: a test case a comparison.")] = None,
) -> None:
    """Make the pictures of a finished run again in a temporary folder, and compare them. Exit 4 where any differs."""
    from ip2pbatch.cli.machines import Outlets
    from ip2pbatch.run.verify import choose, compare

    outlets = Outlets(as_json, junit)
    outlets.check()
    subject = find(what, outlets, remade=against is None)
    level = level or subject.default_level
    _refuse_impossible(subject, level)
    cases = choose(subject.witness.cases(level), sample)
    if not cases:
        raise NothingMatchedError(f"{subject.name} has no finished picture to compare")
    remarks = [*(subject.caveats if against is None else ()), *_remarks(subject, level, cases)]
    for remark in remarks:
        console.warn(remark)
    with _other(subject, cases, level, against, outlets) as (actual, made):
        findings = list(compare(subject.witness, actual, level, cases))
        shown = _triptychs(subject, actual, findings, out)
    code = errors.DONE if all(finding.state == "equal" for finding in findings) else errors.DIFFERS
    _report(subject, level, findings, shown, made, console.talk() if as_json else console.out())
    _tell(subject, level, findings, remarks, outlets, code)
    raise typer.Exit(code)


def _remarks(subject: Subject, level: Level, cases: Sequence[Case]) -> Iterator[str]:
    """What this level does not compare, though somebody may think so."""
    if level is not Level.BITWISE and (paths := subject.tampered(cases)):
        yield (
            f"{console.count(len(paths), 'delivered file')} changed or gone since, such as {paths[0]}: this level "
            "compares the model's pictures, and --level bitwise the files"
        )


def find(what: Path, outlets: Outlets, *, remade: bool) -> Subject:
    """A run by its folder, a lock by its name, a recipe's run or else its lock. `remade` asks for a lock's recipe too.

    Raises UsageError, StaleError, RecipeError.
    """
    from ip2pbatch.plan.recipe import load_recipe
    from ip2pbatch.run.layout import run_folders
    from ip2pbatch.run.lock import lock_path, read_lock
    from ip2pbatch.run.view import read_run

    if what.is_dir():
        return _of_run(read_run(what))
    if what.name.endswith((".lock.yaml", ".lock.yml")):
        return _of_lock(what, read_lock(what), outlets, remade)
    folder = load_recipe(what).output.folder
    if not run_folders(folder) and lock_path(what).exists():
        return _of_lock(lock_path(what), read_lock(lock_path(what)), outlets, remade)
    subject = _of_run(read_run(folder))
    return replace(subject, unmade=_refuse_another_recipe(what, subject.recorded.plan, outlets))


def _refuse_another_recipe(recipe: Path, made: Plan, outlets: Outlets) -> int:
    """How many pictures the recipe asks for of photos that the run's plan `made` has not. Raises StaleError where it
    asks for others of the same photos: to verify the old ones would say nothing of it.
    """
    from ip2pbatch.cli import lock as locking
    from ip2pbatch.jobs.session import Selection, read
    from ip2pbatch.run.stale import other_recipe

    try:
        plan = read(recipe, Selection()).whole
    except (NothingMatchedError, PlanError):  # the photos are elsewhere now, which their pictures will tell
        return 0
    locking.refuse(
        recipe, other_recipe(made, plan), outlets,
        "run the recipe first, or give the run's folder instead, to verify what it holds",
        "is not what its run was made from",
    )  # fmt: skip
    known = {edit.key for edit in made.edits}
    return sum(edit.key not in known for edit in plan.edits)


def _of_run(view: RunView) -> Subject:
    from ip2pbatch.jobs.remake import Recorded
    from ip2pbatch.pictures.deliver import DeliverySettings
    from ip2pbatch.run.lock import caveats, last_event, made_with
    from ip2pbatch.run.verify import RunWitness

    engine, delivery = last_event(view, "engine"), DeliverySettings(**last_event(view, "delivery"))
    steps = tuple(engine["steps"]) if "steps" in engine else None
    paths = {}
    for strip in view.strips:
        for link, edit in view.kept(strip):
            if (file := view.delivery(strip, edit)) is not None:
                paths[strip.photo.name, strip.id, link, edit.key] = file.path
    recorded = Recorded(
        view.spec, view.plan, engine["batch"], engine["rows"], steps, engine["device"],
        made_with(view), engine["safety"], delivery, paths,
    )  # fmt: skip
    return Subject(str(view.root), RunWitness(view), recorded, caveats=tuple(caveats(view)))


def _of_lock(path: Path, lock: Lock, outlets: Outlets, remade: bool) -> Subject:
    from ip2pbatch.cli import lock as locking
    from ip2pbatch.jobs.files import settings_of
    from ip2pbatch.jobs.remake import Recorded
    from ip2pbatch.jobs.session import Selection, read
    from ip2pbatch.pictures.deliver import DeliverySettings
    from ip2pbatch.plan.edits import Plan
    from ip2pbatch.run.verify import LockWitness

    plan, settings = Plan("", lock.engine.model, (), (), ()), DeliverySettings()
    if remade:
        recipe = path.parent / lock.recipe
        if not recipe.is_file():
            raise UsageError(
                f"the recipe of {path} is not beside it: {recipe}",
                hint="bring it back; --against FOLDER compares the lock with a finished run and needs no recipe",
            )
        job = read(recipe, Selection())
        found = locking.differences(lock, job.whole, locking.surroundings(job, lock.engine.backend))
        # Other versions are what one verifies against; another plan would be other pictures.
        locking.refuse(
            path, [difference for difference in found if difference.topic != "versions"], outlets,
            "undo the change, or make the pictures and lock them again; --against FOLDER compares a finished run",
        )  # fmt: skip
        plan, settings = job.whole, settings_of(job.recipe)
    paths = {(file.photo, file.id, file.link, file.edit): name for name, file in lock.files.items()}
    recorded = Recorded(
        lock.engine.spec, plan, lock.batch.edits, lock.batch.rows, lock.batch.steps, lock.device, lock.versions,
        lock.safety, settings, paths,
    )  # fmt: skip
    return Subject(str(path), LockWitness(lock), recorded)


def _refuse_impossible(subject: Subject, level: Level) -> None:
    from ip2pbatch.run.verify import LockWitness

    if not isinstance(subject.witness, LockWitness) or level is Level.BITWISE:
        return
    if level is Level.PERCEPTUAL:
        raise UsageError(
            "a lock holds digests and no picture, so likeness cannot be measured against it",
            hint="give the run's folder instead, or use --level bitwise or pixels",
        )
    console.warn("a lock holds digests and no picture: only exactly equal pixels count as equal")


@contextmanager
def _other(
    subject: Subject, cases: Sequence[Case], level: Level, against: Path | None, outlets: Outlets
) -> Iterator[tuple[Witness, str]]:
    """What to compare with, and in words where it comes from."""
    from ip2pbatch.jobs.remake import made_again
    from ip2pbatch.run.verify import RunWitness, cut
    from ip2pbatch.run.view import read_run

    if against is not None:
        yield RunWitness(read_run(against)), f"as in {against}"
        return
    recorded = subject.recorded
    with made_again(recorded, cut(recorded.plan, cases), deliver=level is Level.BITWISE) as (view, summary):
        if summary.stopped:
            console.talk().print("interrupted: nothing was compared")
            outlets.interrupted(summary.stopped)
            raise typer.Exit(summary.stopped)
        yield RunWitness(view), f"made again in {summary.seconds:.1f} s"


def _triptychs(subject: Subject, actual: Witness, findings: Sequence[Finding], out: Path | None) -> dict[Case, Path]:
    """A picture of every Finding that has two different ones; those of an earlier verification in the run are gone."""
    from ip2pbatch.run.verify import RunWitness

    folder = out
    try:
        if folder is None and isinstance(subject.witness, RunWitness):
            folder = subject.witness.view.layout.folder / "verify"
            for old in folder.glob("*.png"):
                old.unlink()
        return _draw(subject, actual, findings, folder) if folder is not None else {}
    except (OSError, ResourceError) as error:  # the verdict is worth more than its pictures
        why = error.strerror if isinstance(error, OSError) else error
        console.warn(f"pictures of what differs could not be written: {why}; name another folder with --out")
        return {}


def _draw(subject: Subject, actual: Witness, findings: Sequence[Finding], folder: Path) -> dict[Case, Path]:
    from ip2pbatch.plan.names import safe_path
    from ip2pbatch.run.verify import titles
    from ip2pbatch.show.triptych import draw_triptych

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


def _report(
    subject: Subject, level: Level, findings: Sequence[Finding], shown: dict[Case, Path], made: str, out: Console
) -> None:
    """A table of what differs, and a last line that tells the truth."""
    from ip2pbatch.run.verify import LockWitness, titles

    said = titles([finding.case for finding in findings])
    wrong = [finding for finding in findings if finding.state != "equal"]
    rows = [(f.state, f.case.photo, said[f.case], f.why) for f in wrong]
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(4)]
    for row in rows:
        line = "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True))
        out.print(console.plain(line.rstrip()), markup=False)
    if shown:
        out.print(f"expected, actual and difference of {len(shown)}: {next(iter(shown.values())).parent}", markup=False)
    kinds = Counter(finding.state for finding in findings)
    counts = ", ".join(f"{kinds[state]} {state}" for state in ("differs", "absent") if kinds[state])
    verdict = f"different: {counts} of {len(findings)}" if wrong else f"the same: all {len(findings)} compared"
    exactly = level is Level.PIXELS and isinstance(subject.witness, LockWitness)
    means = "pictures equal to the pixel" if exactly else _MEANS[level]
    left = subject.left(level)
    noun = "file" if level is Level.BITWISE else "picture"
    more = f"; {console.count(left, noun)} not there yet" if left else ""
    out.print(f"{verdict} ({means}), {subject.name} {made}{more}", markup=False)


def _tell(
    subject: Subject, level: Level, findings: Sequence[Finding], remarks: Sequence[str], outlets: Outlets, code: int
) -> None:  # fmt: skip
    """The same to machines."""
    from ip2pbatch.show import ci

    counts: Counter[str] = Counter(finding.state for finding in findings)
    counts = Counter({"equal": 0, "differs": 0, "absent": 0} | counts | {"unfinished": subject.left(level)})
    lines = [
        *map(ci.warning_line, remarks), *map(ci.finding_line, findings), ci.verdict_line(subject.name, counts, code)
    ]  # fmt: skip
    outlets.compared(lines, ci.junit_of_findings(f"verify {subject.name}", findings), ci.github_findings(findings))
