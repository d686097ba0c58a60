"""What a run would do, counted without a model: edits, network rows, files, disk."""

from __future__ import annotations

import math
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ip2pbatch.disk.buckets.locations import shown
from ip2pbatch.disk.files_at import is_taken
from ip2pbatch.jobs.job import Job, file_names
from ip2pbatch.plan.defaults import family_for
from ip2pbatch.plan.large.holders import Holders
from ip2pbatch.plan.limits import cpu_limits, gpu_limits
from ip2pbatch.plan.rows import count_rows, refined_rows
from ip2pbatch.plan.schedule import padding
from ip2pbatch.plan.tiling import count_tiles
from ip2pbatch.plan.unedited import Passed

if TYPE_CHECKING:
    from ip2pbatch.plan.edits import Edit
    from ip2pbatch.plan.names import Place
    from ip2pbatch.run.directory.view import RunView

# Bytes a pixel, as measured on edited photos: the lossless picture, the kept latent, a delivered JPEG at quality 95.
_LOSSLESS, _LATENT, _DELIVERED = 1.9, 2.0, 0.9


@dataclass(frozen=True, slots=True)
class Forecast:
    """Counts of a plan. A row is one pass of one picture at one step; `rows_plain` is three an edit and step, `padding`
    the share of all rows that only fill calls, on a CPU and on a GPU of 24 GB and more; of a family
    that a pipeline of diffusers calls, no rows are counted. `files_left` are those of
    `files` that a run would write, with pictures that are there or are still to be made. Of the edits `refined` are
    pictures once more at their photo's size, of which those that are left have so many `tiles` and `tile_rows` at most,
    which the other rows do not count: `auto` takes tiles by what the edit shows.
    """

    name: str
    model: str
    out: str
    photos: int
    broken: tuple[str, ...]
    passed: tuple[Passed, ...]
    notes: tuple[str, ...]
    edits: int
    edits_done: int
    files: int
    files_left: int
    rows: int
    rows_plain: int
    padding: dict[str, float]
    sizes: dict[str, int]
    disk: int
    disk_free: int
    refined: int
    tiles: int
    tile_rows: int

    @property
    def edits_left(self) -> int:
        """Edits that a run would make."""
        return self.edits - self.edits_done

    def as_json(self) -> dict[str, Any]:
        """All of it for `plan --json`."""
        return asdict(self) | {"edits_left": self.edits_left}


_DEVICES = {"cpu": cpu_limits(), "gpu": gpu_limits(24 << 30)}


def forecast(job: Job) -> Forecast:
    """The counts of one job; what is done is read from its run directory, where there is one.

    Raises PlanError where a run would, as for two results on one name.
    """
    plan, view = job.plan, _view(job.out)
    names = file_names(job, _numbers(view, job) if view else None)
    done, unmatched = _over(view) if view else (set[str](), set[str]())
    left = _Left(job, done)
    by_rows = family_for(job.recipe.model).call is None
    return Forecast(
        name=plan.name, model=plan.model, out=job.files or shown(job.out), photos=len(plan.photos),
        broken=tuple(f"{one.name}: {one.reason}" for one in job.scan.broken), passed=job.scan.passed,
        notes=job.notes,
        edits=len(plan.edits), edits_done=len(plan.edits) - left.edits,
        files=len(names), files_left=_files_left(view, job, names, done, unmatched) if view else len(names),
        rows=left.rows if by_rows else 0, rows_plain=left.rows_plain if by_rows else 0,
        padding={kind: round(padding(plan, limits, done), 4) for kind, limits in _DEVICES.items() if by_rows},
        sizes=dict(left.sizes.most_common()),
        disk=round(left.disk), disk_free=_free(job.out),
        refined=left.refined, tiles=left.tiles, tile_rows=left.tile_rows,
    )  # fmt: skip


class _Left:
    """Counts what is left of a job's plan, a photo at a time where it is large: those Edits whose keys are not in
    `done`. Of all Edits, left or not, `refined` are counted too.
    """

    def __init__(self, job: Job, done: Set[str]) -> None:
        self.edits = self.rows = self.rows_plain = self.refined = self.tiles = self.tile_rows = 0
        self.sizes: Counter[str] = Counter()
        self.disk = 0.0
        self._multiple, self._room, self._shared = job.defaults.multiple, _Room(job), set[object]()
        for edits in job.plan.by_photo():
            self.refined += sum(edit.refine is not None for edit in edits)
            self._add([edit for edit in edits if edit.key not in done])

    def _add(self, left: Sequence[Edit]) -> None:
        self.edits += len(left)
        self.rows += count_rows(left, self._shared)
        self.disk += sum(map(self._room.of, left))
        for edit in left:
            if edit.refine is None:
                self.rows_plain += 3 * edit.steps
                self.sizes[f"{edit.size[0]} × {edit.size[1]}"] += 1
                continue
            tiles = count_tiles(edit.size, edit.refine.full, self._multiple)
            self.tiles += tiles
            self.tile_rows += refined_rows(edit, tiles)


def _view(out: Path) -> RunView | None:
    """What was made before, None where nothing was."""
    from ip2pbatch.run.directory.layout import run_folders

    if not run_folders(out):  # most plans are of something new: numpy need not come for that
        return None
    from ip2pbatch.errors import UsageError
    from ip2pbatch.run.directory.view import read_run

    try:
        return read_run(out)
    except UsageError:
        return None


def _numbers(view: RunView, job: Job) -> Mapping[str, int]:
    """The `{n}` that a run would give."""
    given = dict(view.numbers.given(photo.name for photo in job.whole.photos))
    return {**view.numbers, **given} if given else view.numbers


def _over(view: RunView) -> tuple[Set[str], Set[str]]:
    """The keys of which nothing is left to make, and those among them whose region has nothing in their photo."""
    unmatched = {record.edit for record in view.records.failed() if record.status == "unmatched"}
    return (view.done | unmatched if unmatched else view.done), unmatched


def _files_left(view: RunView, job: Job, names: Mapping[Place, str], done: Set[str], unmatched: Set[str]) -> int:
    """How many files a run would write: of edits that are left, and those due of edits that are done."""
    from ip2pbatch.jobs.delivering import settings_of
    from ip2pbatch.run.deliveries import is_due
    from ip2pbatch.run.directory.superseded import Superseded

    superseded = Superseded(view.layout, job.asked)
    settings, skips, due = settings_of(job.recipe, job.registers, job.lift), job.recipe.output.on_conflict == "skip", 0
    for (at, link), target in names.items():
        strip = job.plan.strips[at]
        edit = strip.edits[link - 1]
        if edit.key in unmatched:
            continue
        last, how = view.delivery(strip, edit), settings.of(strip, link)
        refined = strip.refined_at(link) if how.full_resolution == "refine" else None
        somebodys = skips and last is None and is_taken(view.files, target)
        is_left = (refined or edit).key not in done
        due += is_left or (not somebodys and is_due(last, view.files, how, target, strip, superseded))
    return due


def why_tight(job: Job, left: Iterable[Edit]) -> str:
    """That the disk may be too small for the Edits that are `left`, "" where it is not. Told, and never a reason
    to refuse: pictures take more or less room by what is on them.
    """
    needed, free = round(sum(map(_Room(job).of, left))), _free(job.out)
    if needed <= free:
        return ""
    return (
        f"what is left may need about {_said(needed)}, and the disk of {job.out} has {_said(free)} free: "
        "free some space, or name another folder with --out; if the disk fills up, what was finished is kept"
    )


def _said(size: int) -> str:
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:,.1f} MB"


class _Room:
    """Bytes that an Edit's picture, its latent and its delivered files will need here, within about a half."""

    def __init__(self, job: Job) -> None:
        self._carried, self._holders = job.plan.latents, Holders(job.plan)
        self._full, self._delivers = job.recipe.output.full_resolution != "off", not job.files

    def of(self, edit: Edit) -> float:
        needed = math.prod(_kept_size(edit)) * (_LOSSLESS + _LATENT * (edit.key in self._carried))
        for _, strip in self._holders.of(edit.key) if self._delivers else ():
            width, height = strip.photo.size if self._full else strip.edits[0].size
            needed += width * height * _DELIVERED * sum(strip.edits[link - 1].key == edit.key for link in strip.keep)
        return needed


def _kept_size(edit: Edit) -> tuple[int, int]:
    return edit.size if edit.refine is None else edit.refine.full


def _free(out: Path) -> int:
    existing = next(folder for folder in (out, *out.parents) if folder.is_dir())
    return shutil.disk_usage(existing).free
