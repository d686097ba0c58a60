"""What a person looks at, drawn of a run once more. Pictures are read before it is said how many are there."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from ip2pbatch import errors
from ip2pbatch.disk.remembered import Remembered
from ip2pbatch.errors import DamagedError, NothingMatchedError
from ip2pbatch.jobs.measuring import with_numbers
from ip2pbatch.jobs.standing import find_with_sheet
from ip2pbatch.run.directory.kept import Kept
from ip2pbatch.run.directory.view import RunView

if TYPE_CHECKING:
    from ip2pbatch.jobs.job import Job
    from ip2pbatch.jobs.voice import Voice
    from ip2pbatch.pictures.areas.composing import Area
    from ip2pbatch.pictures.areas.coverage import Found
    from ip2pbatch.plan.edits import Strip
    from ip2pbatch.plan.written.outputs import Sheet
    from ip2pbatch.show.cells import Cell
    from ip2pbatch.show.region_sheet import Panel

SHEETS = "sheets"
_THREADS = min(4, os.cpu_count() or 1)
_RATES = "seconds a cell, the last times it was drawn"
_TIMES = 5  # that are remembered
_USUAL = 0.1  # seconds a cell for sheets and report together, before this machine has drawn any
_SLOWEST, _TELLING = 60.0, 16  # seconds a cell that are no measurement; cells below which it would be of little else


MOST_REGIONS = 200
"""Photos with an edit's regions on one sheet."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """The files that were drawn, and why kept pictures that should be on them are not, by their paths; where the run
    delivers into a bucket, the addresses under which they were `put` there.
    """

    files: tuple[Path, ...]
    damaged: dict[Path, str]
    put: tuple[str, ...] = ()

    @property
    def exit_code(self) -> int:
        """As the command ends with it."""
        return errors.UNFINISHED if self.damaged else errors.DONE

    def __iter__(self) -> Iterator[Path]:
        return iter(self.files)


def draw_sheets(run: Path, voice: Voice, *, out: Path | None, cell: int) -> Drawn:
    """The contact sheets of the run in a folder or of a recipe, in RUN/sheets or `out`, with cells of `cell` pixels."""
    from ip2pbatch.show.cells import gallery
    from ip2pbatch.show.sheet import write_sheets

    view, settings = find_with_sheet(run, voice)
    view = with_numbers(looked_at(view, gallery(view).cells, voice), settings.metrics, voice)
    drawing = partial(voice.counting, "drawing contact sheets")
    settings = settings.model_copy(update={"cell": cell})
    sheets = tuple(write_sheets(view, out or view.root / SHEETS, settings, drawing))
    return Drawn(sheets, dict(view.damaged), () if out else published(view, sheets, None, voice))


def draw_report(run: Path, voice: Voice, *, out: Path | None) -> Drawn:
    """The same of the report, as RUN/report.html or `out`."""
    from ip2pbatch.show.cells import gallery
    from ip2pbatch.show.report import REPORT, chosen, write_report

    view, settings = find_with_sheet(run, voice)
    view = with_numbers(looked_at(view, chosen(gallery(view).cells), voice), settings.metrics, voice)
    writing = partial(voice.counting, "writing the report")
    report = write_report(view, out or view.root / REPORT, writing)
    return Drawn((report,), dict(view.damaged), () if out else published(view, (), report, voice))


def draw_both(view: RunView, settings: Sheet, voice: Voice) -> tuple[tuple[Path, ...], Path]:
    """Contact sheets and report of a run that was just made, where they belong."""
    from ip2pbatch.show.report import REPORT, write_report
    from ip2pbatch.show.sheet import write_sheets

    drawing = partial(voice.counting, "drawing contact sheets (the report follows)")
    sheets = write_sheets(view, view.root / SHEETS, settings, drawing)
    writing = partial(voice.counting, "writing the report")
    return tuple(sheets), write_report(view, view.root / REPORT, writing)


def published(view: RunView, sheets: Sequence[Path], report: Path | None, voice: Voice) -> tuple[str, ...]:
    """Put sheets, where there are some, and a report where there is one, into the bucket that the run delivers into:
    their addresses, but of those whose name somebody else's object has there, which a person is told of.

    Nothing where the run delivers into its own folder. Raises UnreachableError, ResourceError, LockedError.
    """
    if not view.address:
        return ()
    from ip2pbatch.run.in_bucket.published import publish  # brings a store along
    from ip2pbatch.show.report import REPORT

    files, within = {f"{SHEETS}/{path.name}": path for path in sheets}, (f"{SHEETS}/",) if sheets else ()
    if report is not None:
        beside = report.with_name(f"{report.stem}_files")
        files |= {f"{beside.name}/{path.name}": path for path in sorted(beside.glob("*"))}
        files[report.name], within = view.layout.outgoing / REPORT, (*within, f"{beside.name}/")
    with voice.busy(f"putting sheets and report into {view.address}"):
        left = publish(view, files, within)
    for why in left.values():
        voice.warn(f"{why}: it was left as it is; the run's own is in {view.root}")
    return tuple(f"{view.address}/{name}" for name in files if name not in left)


def foreseen(cells: int, size: int) -> float:
    """About how many seconds sheets and report of so many cells of `size` pixels take.

    The median of what they last took here: one slow time, when others used the machine, says nothing.
    """
    return cells * median(_rates(size) or [_USUAL])


def _rates(size: int) -> list[float]:
    """Seconds a cell, of the last times."""
    found = Remembered(_RATES).get(f"{size}")
    return (
        [rate for rate in found if isinstance(rate, float) and 0 < rate < _SLOWEST] if isinstance(found, list) else []
    )


@contextmanager
def timed(cells: int, size: int) -> Iterator[None]:
    """Around drawing them, so that the next run of this machine foresees it."""
    begun = time.monotonic()
    yield
    if cells >= _TELLING:
        last = [*_rates(size), round((time.monotonic() - begun) / cells, 4)]
        Remembered(_RATES).keep({f"{size}": last[-_TIMES:]})


def looked_at(view: RunView, cells: Iterable[Cell], voice: Voice) -> RunView:
    """The run with what of these cells' kept pictures is damaged: they are read, and a person is told.

    Raises ResourceError.
    """
    wanted = list(dict.fromkeys(one for cell in cells for one in (cell.source, cell.picture) if one is not None))
    with voice.counting("reading the pictures", len(wanted)) as advance, ThreadPoolExecutor(_THREADS) as pool:
        damaged: dict[Path, str] = {}
        for one, why in zip(wanted, pool.map(_why_damaged, wanted), strict=True):
            damaged |= {one.path: why} if why else {}
            advance()
    if damaged:
        were = "1 kept picture is" if len(damaged) == 1 else f"{len(damaged):,} kept pictures are"
        voice.warn(
            f"{were} damaged, such as {next(iter(damaged)).name}: hatched on sheets and in the report, and not done; "
            "`ip2pbatch check --repair` names what is damaged, and what it does not make again `ip2pbatch run` does"
        )
    return replace(view, damaged=damaged)


def _why_damaged(one: Kept) -> str:
    try:
        one.read()
    except DamagedError as error:
        return f"{error}: {error.hint}"
    return ""


def draw_masks(job: Job, path: Path, voice: Voice) -> Job:
    """Draw the photos of a plan with the regions of their edits into the PNG `path`; the job with a note of how many.

    What edits seek is found in the photos that are drawn, and told where it is not. Raises PlanError where a region is
    empty, NothingMatchedError where no edit has one, MissingError, ModelError, PhotoError, ResourceError.
    """
    from ip2pbatch.jobs.finding import found_now, refuse_empty, regional, unmatched
    from ip2pbatch.pictures.areas.coverage import unfound
    from ip2pbatch.show.region_sheet import draw_regions

    refuse_empty(regional(job.plan), unfound, voice)
    wanted = {(strip.photo.name, strip.id): strip for strip in job.plan.strips if _area(strip, unfound)}
    if not wanted:
        why = "no edit of the recipe is of a region alone"
        raise NothingMatchedError(why, hint="region: masks/, or region: {box: [0, 0, 100, 40]}")
    strips = [*wanted.values()][:MOST_REGIONS]
    found = found_now(strips, voice)
    edits = [(strip, edit) for strip in strips for edit in strip.edits]
    nothing = tuple(unmatched(edits, refuse_empty(edits, found, voice)))
    with voice.busy("drawing the regions"), ThreadPoolExecutor(_THREADS) as pool:
        panels = [*pool.map(lambda strip: _panel(strip, found), strips)]
    draw_regions(panels, f"{job.recipe.name}: where photos are edited", path)
    cut = f" of {len(wanted):,}; --only and --limit choose others" if len(wanted) > len(strips) else ""
    return replace(job, notes=(*job.notes, *nothing, f"{path} shows {len(strips):,} photos with their regions{cut}"))


def _area(strip: Strip, found: Found) -> Area | None:
    from ip2pbatch.pictures.areas.composing import area_of

    return area_of([edit.region for edit in strip.edits], strip.feathers, found)


def _panel(strip: Strip, found: Found) -> Panel:
    from ip2pbatch.pictures import images
    from ip2pbatch.show.region_sheet import CELL, Panel

    (width, height), area = strip.photo.size, _area(strip, found)
    assert area is not None, "only those are drawn"
    size = max(1, round(CELL * width / max(width, height))), max(1, round(CELL * height / max(width, height)))
    return Panel(strip.photo.name, strip.id, images.load(strip.photo.path, size).pixels, area.share(size))
