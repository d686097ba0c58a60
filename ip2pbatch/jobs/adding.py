"""A further `edit` into the same folder: what it asks for is added to what earlier ones asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

from ip2pbatch.errors import PlanError, UsageError
from ip2pbatch.jobs.job import Job, file_names
from ip2pbatch.plan.edits import Plan
from ip2pbatch.plan.names import Place
from ip2pbatch.plan.together import apart, beside
from ip2pbatch.run.directory.layout import run_folders
from ip2pbatch.run.directory.ledger import Run
from ip2pbatch.run.directory.superseded import places
from ip2pbatch.run.directory.view import read_run


def added(job: Job) -> Job:
    """The job beside what the newest run in its output folder was asked for before."""
    if not run_folders(job.out):
        return job
    try:
        earlier = read_run(job.out).plan
    except UsageError:  # what is wrong with it is told when it is opened
        return job
    plan = apart(job.plan, earlier)
    return replace(job, whole=apart(job.whole, earlier), asked=beside(plan, earlier), plan=plan, earlier=earlier)


def names_beside(job: Job, targets: dict[Place, str], run: Run) -> dict[Place, str]:
    """The names of a job that adds: where an earlier picture has one, the axis in which they differ is appended."""
    if job.earlier is None:
        return targets
    own = {place for strip in job.plan.strips for place in places(strip)}
    before = (place for strip in job.asked.strips for place in places(strip) if place not in own)
    taken = {run.deliveries[place].path for place in before if place in run.deliveries}
    if not taken.intersection(targets.values()):
        return targets
    longer: dict[tuple[str, str], str] = {}
    with suppress(PlanError):  # they differ in what no name says, as a chain's carry: then a number tells them apart
        numbers = run.number(job.asked.photos)
        found = file_names(replace(job, plan=job.asked, whole=job.asked), numbers)
        longer = {place: found[at] for at, place in _places(job.asked)}
    return {
        at: longer.get(place, targets[at]) if targets[at] in taken else targets[at] for at, place in _places(job.plan)
    }


def _places(plan: Plan) -> Iterator[tuple[Place, tuple[str, str]]]:
    """Each kept link as names call it, and as deliveries do."""
    for index, strip in enumerate(plan.strips):
        yield from zip(((index, link) for link in strip.keep), places(strip), strict=True)
