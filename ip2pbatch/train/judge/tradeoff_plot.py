"""The trade-off curve on paper: a table of its points, and the plot of arXiv 2211.09800, figure 8."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ip2pbatch.errors import MissingError
from ip2pbatch.train.judge.bootstrap import Interval

KNOBS = {"instruct": "s_I", "sdedit": "strength", "folder": "value"}
COLUMNS = ("curve", "method", "value", "samples", "direction", "direction_low", "direction_high",
           "image", "image_low", "image_high")  # fmt: skip
# Okabe and Ito's colours, told apart with any colour vision; markers tell them apart in print.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
INK, SOFT = "#1b1b1b", "#d9d9d9"


@dataclass(frozen=True)
class Point:
    """One value of a knob: means with their 95 % intervals over `samples` samples."""

    value: float | None
    samples: int
    direction: Interval
    image: Interval


@dataclass(frozen=True)
class CurvePoints:
    """A curve; `left_out` samples lack a picture at some value."""

    name: str
    method: str
    points: tuple[Point, ...]
    left_out: int


def rows_of(curves: Sequence[CurvePoints]) -> list[tuple[Any, ...]]:
    """A row a point, as COLUMNS."""
    return [
        (curve.name, curve.method, "" if one.value is None else one.value, one.samples,
         *(round(x, 6) for pair in (one.direction, one.image) for x in (pair.mean, pair.low, pair.high)))
        for curve in curves for one in curve.points
    ]  # fmt: skip


def to_csv(curves: Sequence[CurvePoints]) -> str:
    """The points as CSV."""
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows([COLUMNS, *rows_of(curves)])
    return stream.getvalue()


def to_markdown(curves: Sequence[CurvePoints]) -> str:
    """The points as a table, intervals as ±."""
    lines = ["| curve | knob | samples | direction | image |", "|---|---:|---:|---:|---:|"]
    for curve in curves:
        for one in curve.points:
            knob = "" if one.value is None else f"{KNOBS[curve.method]} {one.value:g}"
            cells = (curve.name, knob, str(one.samples), with_error(one.direction), with_error(one.image))
            lines.append("| " + " | ".join(cells) + " |")
        if curve.left_out:
            lines.append(f"| {curve.name} | | {curve.left_out} left out: no picture | | |")
    return "\n".join(lines) + "\n"


def with_error(interval: Interval) -> str:
    """0.123 ± 0.004."""
    return f"{interval.mean:.4f} ± {(interval.high - interval.low) / 2:.4f}"


def draw(curves: Sequence[CurvePoints], path: Path) -> None:
    """The plot as PNG or PDF: direction similarity to the right, image similarity up, a curve's knob beside its points.

    MissingError without matplotlib.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingError("the plot needs matplotlib", hint="pip install 'ip2pbatch[train]'") from error
    figure = Figure(figsize=(7.2, 5.0), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    counts = {curve.points[0].samples for curve in curves if curve.points}
    for number, curve in enumerate(curve for curve in curves if curve.points):
        label = curve.name if len(counts) == 1 else f"{curve.name} ({curve.points[0].samples:,})"
        draw_curve(axes, curve, label, COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)])
    axes.set_xlabel("CLIP text–image direction similarity  (follows the caption →)")
    axes.set_ylabel("CLIP image similarity  (keeps the photo →)")
    axes.grid(color=SOFT, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(0.08)
    said = f"{min(counts):,} samples" if len(counts) == 1 else "samples in brackets"
    axes.set_title(f"{said}, 95 % intervals", loc="left", fontsize=9)
    axes.legend(frameon=False, fontsize=9)
    known = {"Creator": "ip2pbatch", "CreationDate": None}  # the same figures make the same file
    figure.savefig(path, dpi=200, metadata=known if path.suffix == ".pdf" else None)


def draw_curve(axes: Any, curve: CurvePoints, label: str, colour: str, marker: str) -> None:
    """One line with its intervals, its first and last value named the others by their number."""
    x, y = ([getattr(point, side).mean for point in curve.points] for side in ("direction", "image"))
    bars = {
        f"{axis}err": [[getattr(p, side).mean - getattr(p, side).low for p in curve.points],
                       [getattr(p, side).high - getattr(p, side).mean for p in curve.points]]
        for axis, side in (("x", "direction"), ("y", "image"))
    }  # fmt: skip
    axes.errorbar(x, y, **bars, fmt="none", ecolor=colour, elinewidth=1, alpha=0.45, capsize=2)
    axes.plot(x, y, marker=marker, color=colour, linewidth=1.6, markersize=5.5, label=label)
    for number, point in enumerate(curve.points):
        if point.value is None:
            continue
        ends = number in (0, len(curve.points) - 1)
        knob = KNOBS[curve.method].replace("s_I", "$s_I$")
        text = f"{knob} = {point.value:g}" if ends else f"{point.value:g}"
        axes.annotate(
            text, (x[number], y[number]), xytext=(6, 5), textcoords="offset points", fontsize=7.5, color=colour
        )
