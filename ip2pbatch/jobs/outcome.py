"""How a session that made or delivered pictures ended: its numbers, its files, and its pictures one by one."""

from __future__ import annotations

import base64
import html
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path

from ip2pbatch import errors
from ip2pbatch.jobs.job import Job
from ip2pbatch.plan.edits import Plan
from ip2pbatch.plan.together import beside
from ip2pbatch.plan.unedited import Broken, Passed
from ip2pbatch.run.directory.lines import Record
from ip2pbatch.run.directory.view import RunView, read_run
from ip2pbatch.run.execute import Summary


@dataclass(frozen=True, slots=True)
class Picture:
    """One cell of a run: what was asked of which photo, and what became of it.

    `path` is the lossless picture at model size, `file` what was delivered of it; None where there is none. `detail`
    says why a picture is not there.
    """

    photo: str
    instruction: str
    text: float
    image: float
    seed: int
    state: str
    detail: str
    path: Path | None
    file: Path | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """The end of a session. `view` is the run directory as it is now; `earlier` are files of it under older names.

    `unmade` are edits of the recipe that were not made, where pictures are only delivered; `removed` the files that
    were tidied away, None where nobody asked; `measured` are pictures, whenever made, that got a number they lacked.
    Of sheets and report, `put` are those that are in the run's bucket too, by their addresses.
    """

    job: Job
    summary: Summary
    view: RunView
    sheets: tuple[Path, ...]
    report: Path | None
    earlier: tuple[str, ...] = ()
    unmade: int = 0
    removed: tuple[str, ...] | None = None
    measured: tuple[Record, ...] = ()
    put: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        """The output folder."""
        return self.job.out

    @property
    def broken(self) -> tuple[Broken, ...]:
        """Photos that cannot be read."""
        return self.job.scan.broken

    @property
    def passed(self) -> tuple[Passed, ...]:
        """What lies in the photos' folders and is nothing to edit, by kind."""
        return self.job.scan.passed

    @property
    def exit_code(self) -> int:
        """As the command ends with it."""
        code = self.summary.exit_code
        return errors.UNFINISHED if code == errors.DONE and (self.broken or self.view.damaged) else code

    def __iter__(self) -> Iterator[Picture]:
        return self.pictures()

    def pictures(self) -> Iterator[Picture]:
        """Every cell that this session was about, in the plan's order."""
        for strip in self.job.plan.strips:
            for edit in strip.edits:
                record, damaged = self.view.record(edit.key), self.view.why_damaged(edit.key)
                yield Picture(
                    strip.photo.name, edit.instruction, edit.guidance.text, edit.guidance.image, edit.seed,
                    "damaged" if damaged else record.status if record else "left",
                    damaged or (record.detail if record else ""),
                    self.view.picture_path(edit.key), self.view.delivered_path(strip, edit),
                )  # fmt: skip

    def _repr_html_(self) -> str:
        """What a notebook shows: the states, and the first contact sheet."""
        states = ", ".join(f"{count:,} {state}" for state, count in self.summary.states.items() if count)
        name, folder = html.escape(self.job.recipe.name), html.escape(str(self.folder))
        head = f"<p><b>{name}</b>: {states or 'nothing to make'} in {folder}</p>"
        if not self.sheets or not self.sheets[0].is_file():
            return head
        data = base64.b64encode(self.sheets[0].read_bytes()).decode()
        more = f"<p>and {len(self.sheets) - 1} more sheets</p>" if len(self.sheets) > 1 else ""
        return f'{head}<img style="max-width:100%" src="data:image/png;base64,{data}" alt="contact sheet">{more}'


def as_one(done: Sequence[tuple[Job, Summary]]) -> tuple[Job, Summary]:
    """Jobs in one folder and how each ended, as one job that made and delivered what all of them did."""
    if len(done) == 1:
        return done[0]
    jobs, summaries = [job for job, _ in done], [summary for _, summary in done]
    plan = reduce(lambda earlier, job: beside(job.plan, earlier), jobs[1:], jobs[0].plan)
    scans = [job.scan for job in jobs]
    scan = replace(
        scans[-1], broken=tuple(dict.fromkeys(one for scan in scans for one in scan.broken)),
        passed=tuple(dict.fromkeys(one for scan in scans for one in scan.passed)),
    )  # fmt: skip
    notes = tuple(dict.fromkeys(note for job in jobs for note in job.notes))
    return replace(jobs[-1], plan=plan, scan=scan, notes=notes), _sum(summaries, plan, read_run(jobs[-1].out))


def _sum(summaries: Sequence[Summary], plan: Plan, view: RunView) -> Summary:
    """Of several sessions; an Edit that two of them are about counts once, as it stands now."""
    records = (view.record(edit.key) for edit in plan.edits)
    return Summary(
        Counter(record.status if record else "left" for record in records),
        sum(one.made for one in summaries), sum(one.delivered for one in summaries),
        tuple(dict.fromkeys(file for one in summaries for file in one.undelivered)),
        sum(one.shrunk for one in summaries), sum(one.seconds for one in summaries), summaries[-1].stopped,
        notes=sum((Counter(one.notes) for one in summaries), Counter()),
    )  # fmt: skip
