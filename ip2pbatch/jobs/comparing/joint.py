"""What joins the runs of a comparison, drawn once more: its sheets and its report."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from ip2pbatch.jobs.drawing import Drawn, looked_at
from ip2pbatch.jobs.measuring import with_numbers

if TYPE_CHECKING:
    from ip2pbatch.jobs.comparing.comparison import Comparison
    from ip2pbatch.jobs.voice import Voice
    from ip2pbatch.run.directory.view import RunView
    from ip2pbatch.show.cells import Gallery

EMPTY: Mapping[str, RunView] = MappingProxyType({})


def join(
    comparison: Comparison, voice: Voice, *, known: Mapping[str, RunView], why: Mapping[str, Exception]
) -> Drawn:  # fmt: skip
    """Draw sheets and report of all runs of a comparison. `known` are those that were looked at just now, `why` says of
    models what kept their runs from going on.
    """
    views = _looked_at(comparison, voice, known)
    whole = _gallery(comparison, views, why)
    sheets, report = _sheets(comparison, whole, voice), _report(comparison, whole, views, voice)
    return Drawn((*sheets, report), _damaged(views))


def draw_joined_sheets(comparison: Comparison, voice: Voice, *, out: Path | None, cell: int) -> Drawn:
    """The sheets alone, in OUT/sheets or `out`, with cells of `cell` pixels."""
    views = _looked_at(comparison, voice)
    whole = _gallery(comparison, views, {})
    return Drawn(tuple(_sheets(comparison, whole, voice, out=out, cell=cell)), _damaged(views))


def draw_joined_report(comparison: Comparison, voice: Voice, *, out: Path | None) -> Drawn:
    """The report alone, as OUT/report.html or `out`."""
    views = _looked_at(comparison, voice)
    return Drawn((_report(comparison, _gallery(comparison, views, {}), views, voice, out=out),), _damaged(views))


def _looked_at(comparison: Comparison, voice: Voice, known: Mapping[str, RunView] = EMPTY) -> dict[str, RunView]:
    """The runs that were begun, with what of their kept pictures is damaged, and the numbers that are asked for."""
    from ip2pbatch.show.cells import gallery

    views, metrics = {}, comparison.recipe.sheet.metrics
    for name, view in comparison.views().items():
        if name in known:
            views[name] = known[name]
        else:
            views[name] = with_numbers(looked_at(view, gallery(view).cells, voice), metrics, voice)
    return views


def _gallery(comparison: Comparison, views: Mapping[str, RunView], why: Mapping[str, Exception]) -> Gallery:
    from ip2pbatch.show.joined import joined

    absent = {name: str(why.get(name, "not begun")) for name in comparison.folders if name not in views}
    return joined(comparison.recipe.name, views, absent, {name: str(error) for name, error in why.items()})


def _sheets(
    comparison: Comparison, whole: Gallery, voice: Voice, *, out: Path | None = None, cell: int | None = None
) -> list[Path]:
    from ip2pbatch.show.sheet import draw_sheets

    settings = comparison.recipe.sheet
    settings = settings if cell is None else settings.model_copy(update={"cell": cell})
    folder = comparison.out / "sheets" if out is None else out
    root = comparison.out if folder.is_relative_to(comparison.out) else None
    drawing = partial(voice.counting, "drawing the sheets that join the models")
    return draw_sheets(whole, folder, settings, root, drawing)


def _report(
    comparison: Comparison, whole: Gallery, views: Mapping[str, RunView], voice: Voice, *, out: Path | None = None
) -> Path:
    from ip2pbatch.show.picks import origin_of
    from ip2pbatch.show.report import draw_report

    path = comparison.out / "report.html" if out is None else out
    origins = {name: origin_of(view, path.parent, model=name) for name, view in views.items()}
    writing = partial(voice.counting, "writing the report that joins them")
    return draw_report(whole, path, origins, writing)


def _damaged(views: Mapping[str, RunView]) -> dict[Path, str]:
    return {path: why for view in views.values() for path, why in view.damaged.items()}
