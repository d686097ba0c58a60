"""Numbers that a recipe asks for and that not every picture has: refused before any work, or measured from the stored
pictures before sheets are drawn.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ip2pbatch.errors import LockedError, MissingError, ModelError, ResourceError
from ip2pbatch.plan.metrics import Metric, named_in
from ip2pbatch.run.directory.kept import Kept
from ip2pbatch.run.directory.ledger import Run, open_run
from ip2pbatch.run.directory.lines import Record
from ip2pbatch.run.directory.view import RunView

if TYPE_CHECKING:
    from ip2pbatch.jobs.voice import Voice
    from ip2pbatch.plan.shard import Shard

log = logging.getLogger("ip2pbatch.jobs")


def refuse_unready(wanted: Sequence[str], voice: Voice) -> None:
    """Raises MissingError or ModelError where a number that is asked for cannot be measured on this machine."""
    for metric in named_in(wanted):
        if metric.ready:
            with voice.busy(f"looking for what {metric.caption} needs"):
                metric.check(fetch=True)


def with_numbers(view: RunView, wanted: Sequence[str], voice: Voice) -> RunView:
    """The run with every number of `wanted`. Raises MissingError or ModelError where one cannot be measured here."""
    if any(True for _ in _unmeasured(view, named_in(wanted))):
        refuse_unready(wanted, voice)
    return measure(view, wanted, voice)[0]


@dataclass(frozen=True, slots=True)
class _Unmeasured:
    """A picture that is there, its photo as the model saw it, and what is not known of it."""

    record: Record
    source: Kept
    picture: Kept
    metrics: tuple[Metric, ...]


def measure(
    view: RunView, wanted: Sequence[str], voice: Voice, shard: Shard | None = None
) -> tuple[RunView, tuple[Record, ...]]:
    """The run with every number of `wanted`, and the Records that were lacking some.

    They are kept in the run, but where another process writes to it or the disk refuses: then they are measured again
    the next time. What cannot be measured of a picture is warned of.
    """
    missing = list(_unmeasured(view, named_in(wanted)))
    if not missing:
        return view, ()
    found: dict[str, Record] = {}
    failed: Counter[str] = Counter()
    captions = ", ".join(dict.fromkeys(metric.caption for one in missing for metric in one.metrics))
    with voice.counting(f"measuring {captions}", len(missing)) as advance, _kept(view, shard) as run:
        for one in missing:
            if numbers := _numbers(one, failed):
                record = dataclasses.replace(one.record, metrics=one.record.metrics | numbers)
                found[record.edit] = record
                if run is not None:
                    run.measured(record.edit, numbers)
            advance()
    for caption, pictures in failed.items():
        voice.warn(f"{caption} could not be measured of {_pictures(pictures)}; the log says why")
    return dataclasses.replace(view, records=view.records.plus(found)), tuple(found.values())


def _unmeasured(view: RunView, metrics: Sequence[Metric]) -> Iterator[_Unmeasured]:
    seen: set[str] = set()
    for strip in view.strips if metrics else ():
        source = view.source(strip)
        for edit in strip.edits:
            record, picture = view.record(edit.key), view.picture(edit.key)
            if source is None or record is None or picture is None or edit.key in seen:
                continue
            seen.add(edit.key)
            if lacking := tuple(metric for metric in metrics if metric.key not in record.metrics):
                yield _Unmeasured(record, source, picture, lacking)


def _numbers(one: _Unmeasured, failed: Counter[str]) -> dict[str, float]:
    numbers = {}
    for metric in one.metrics:
        try:
            value = metric.of(one.source.pixels(), one.picture.pixels())
            if not math.isfinite(value):
                raise ValueError(f"{metric.caption} is {value}")
            numbers[metric.key] = value
        except (ModelError, MissingError):
            raise
        except Exception:
            log.exception("measuring %s of %s", metric.key, one.record.edit)  # sheets without a number are better
            failed[metric.caption] += 1
    return numbers


@contextmanager
def _kept(view: RunView, shard: Shard | None) -> Iterator[Run | None]:
    """The run, open for writing numbers; None where they cannot be kept."""
    try:
        run = open_run(view.root, view.spec, shard=shard)
    except (LockedError, ResourceError) as error:
        log.warning("numbers are not kept: %s", error)
        yield None
        return
    with run:  # the newest one of the folder, which need not be the one that is looked at
        yield run if run.layout.folder == view.layout.folder else None


def _pictures(number: int) -> str:
    return "1 picture" if number == 1 else f"{number:,} pictures"
