"""Joins a run to what the photographer gets: names, delivery settings, the numbers beside a cell."""

from __future__ import annotations

import dataclasses
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from ip2pbatch.errors import MissingError
from ip2pbatch.jobs.adding import names_beside
from ip2pbatch.jobs.job import file_names
from ip2pbatch.pictures.deliver import DeliverySettings
from ip2pbatch.pictures.likeness import compare
from ip2pbatch.pictures.marks import certificates, manifests
from ip2pbatch.pictures.marks.signer import Signer
from ip2pbatch.pictures.sizing import LIFT
from ip2pbatch.plan.formats import FORMATS
from ip2pbatch.plan.written.outputs import SIGNER
from ip2pbatch.run.deliveries import Deliverer
from ip2pbatch.run.execute import REDO, Options

if TYPE_CHECKING:
    from ip2pbatch.jobs.job import Job
    from ip2pbatch.plan.edits import Edit
    from ip2pbatch.plan.written.recipe import Recipe
    from ip2pbatch.run.directory.kept import Pixels
    from ip2pbatch.run.directory.ledger import Run
    from ip2pbatch.run.directory.lines import Status


def options_of(
    job: Job, run: Run, redo: frozenset[Status] | None = None, *, queue: bool = False, signer: Signer | None = None,
    swept: set[Path] | None = None,
) -> Options:  # fmt: skip
    """How `run_plan` carries the job out. Raises PlanError where two results would have one name."""
    deliver = deliverer(job, run, queue=queue, signer=signer, swept=swept)
    return Options(deliver=deliver, score=_score, redo=REDO if redo is None else redo)


def picture_options(redo: frozenset[Status]) -> Options:
    """How `run_plan` makes pictures that no file is delivered of yet."""
    return Options(score=_score, redo=redo)


def deliverer(
    job: Job, run: Run, *, queue: bool = False, signer: Signer | None = None, swept: set[Path] | None = None
) -> Deliverer:  # fmt: skip
    """What writes the photographer's files of this job, whose photos may come from a `queue`. Raises MissingError."""
    output = job.recipe.output
    kind = FORMATS.get(output.format)
    if kind is not None and (missing := kind.unwritten()):
        raise MissingError(f"{kind.title} cannot be written: its library is not installed", hint=missing)
    targets = names_beside(job, file_names(job, run.number(job.whole.photos)), run)
    settings = settings_of(job.recipe, run.registers, run.lift)
    run.note_news("delivery", **dataclasses.asdict(settings))
    return Deliverer(run, job.asked, targets, settings, output.on_conflict, queue=queue, signer=signer, swept=swept)


def signer_of(recipe: Recipe) -> Signer | None:
    """What signs this recipe's files, tried once; None where it asks for no signature. To be called before any work.

    Raises MissingError where the library is not installed or a time-stamp authority does not answer, UsageError where
    certificate or key are missing, wrong, expired or not allowed for C2PA.
    """
    signer = untried_signer(recipe)
    if signer is not None:
        signer.rehearse()
    return signer


def untried_signer(recipe: Recipe) -> Signer | None:
    """The same in a further process, where the first has tried."""
    written = recipe.output.sign
    if written is None:
        return None
    manifests.refuse_without()
    who = certificates.identity(written, os.environ.get(SIGNER), datetime.now(UTC))
    return Signer(who, written.timestamp or "")


def settings_of(recipe: Recipe, registers: bool | None, lift: int | None) -> DeliverySettings:
    """How this recipe's pictures become files, in a run that `registers` edits or does not and has this `lift`, or
    is yet to begin.

    Raises UsageError where they are signed and no certificate is there.
    """
    sign = recipe.output.sign
    unsigned = unsigned_settings(recipe, registers, lift)
    return dataclasses.replace(unsigned, sign=certificates.fingerprint(sign) if sign else "")


def unsigned_settings(recipe: Recipe, registers: bool | None, lift: int | None) -> DeliverySettings:
    """The same of the files before they are signed, if they are."""
    output, metadata = recipe.output, recipe.metadata
    register = output.registers(registers)
    return DeliverySettings(
        output.format, output.quality, output.full_resolution, metadata.gps, metadata.prompt,
        chroma=output.chroma, dates=output.dates, raw=output.raw, sidecar=output.sidecar, strength=output.strength,
        register=register, lift=LIFT if lift is None else lift,
    )  # fmt: skip


def _score(edit: Edit, source: Pixels, picture: Pixels) -> dict[str, float]:
    return compare(source, picture)
