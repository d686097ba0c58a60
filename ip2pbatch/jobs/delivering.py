"""Joins a run to what the photographer gets: names, delivery settings, the numbers beside a cell."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from ip2pbatch.errors import MissingError
from ip2pbatch.jobs.adding import names_beside
from ip2pbatch.jobs.job import file_names
from ip2pbatch.pictures.deliver import DeliverySettings
from ip2pbatch.pictures.likeness import compare
from ip2pbatch.plan.formats import FORMATS
from ip2pbatch.run.deliveries import Deliverer
from ip2pbatch.run.execute import REDO, Options

if TYPE_CHECKING:
    from ip2pbatch.jobs.job import Job
    from ip2pbatch.plan.edits import Edit
    from ip2pbatch.plan.written.recipe import Recipe
    from ip2pbatch.run.directory.kept import Pixels
    from ip2pbatch.run.directory.ledger import Run
    from ip2pbatch.run.directory.lines import Status


def options_of(job: Job, run: Run, redo: frozenset[Status] | None = None, *, queue: bool = False) -> Options:
    """How `run_plan` carries the job out. Raises PlanError where two results would have one name."""
    return Options(deliver=deliverer(job, run, queue=queue), score=_score, redo=REDO if redo is None else redo)


def deliverer(job: Job, run: Run, *, queue: bool = False) -> Deliverer:
    """What writes the photographer's files of this job, whose photos may come from a `queue`. Raises MissingError."""
    output = job.recipe.output
    kind = FORMATS.get(output.format)
    if kind is not None and (missing := kind.missing()):
        raise MissingError(f"{kind.title} cannot be written: its library is not installed", hint=missing)
    targets = names_beside(job, file_names(job, run.number(job.whole.photos)), run)
    settings = settings_of(job.recipe)
    run.note("delivery", **dataclasses.asdict(settings))
    return Deliverer(run, job.asked, targets, settings, output.on_conflict, queue=queue)


def settings_of(recipe: Recipe) -> DeliverySettings:
    """How this recipe's pictures become files."""
    output, metadata = recipe.output, recipe.metadata
    return DeliverySettings(
        output.format, output.quality, output.full_resolution, metadata.gps, metadata.prompt,
        chroma=output.chroma, dates=output.dates, raw=output.raw,
    )  # fmt: skip


def _score(edit: Edit, source: Pixels, picture: Pixels) -> dict[str, float]:
    return compare(source, picture)
