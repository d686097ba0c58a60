"""What a benchmark came to: a table by kind of edit with 95 % intervals, how many were judged, and a chart of it."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from ip2pbatch.disk.atomic import write_whole
from ip2pbatch.errors import MissingError, NothingMatchedError
from ip2pbatch.train.judge.bootstrap import Interval, of_groups

ALL, MEAN = "all edits", "mean of the kinds"
INK, SOFT, BLUE = "#1b1b1b", "#d9d9d9", "#0072B2"


@dataclass(frozen=True, slots=True)
class Scored:
    """One edit with its scores, a value a column, or why it has none. `photo` is the same for edits of one picture;
    `said` is what the judge wrote.
    """

    key: str
    group: str
    photo: str
    instruction: str
    scores: tuple[float, ...] | None
    reason: str = ""
    said: tuple[str, ...] = ()

    def row(self, columns: Sequence[str]) -> dict[str, Any]:
        """Its line of scores.jsonl."""
        found = dict(zip(columns, self.scores, strict=True)) if self.scores is not None else {"reason": self.reason}
        said = {"said": list(self.said)} if self.said else {}
        return {"key": self.key, "group": self.group, "instruction": self.instruction, **found, **said}


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a table: `judged` of `asked` edits, and an interval a column, whose ends are not numbers where all are
    of one photo; None where nothing was judged.
    """

    name: str
    judged: int
    asked: int
    values: tuple[Interval, ...] | None


@dataclass(frozen=True, slots=True)
class Table:
    """A title over rows; the last but one is of all edits, the last the mean of the rows before. `best` is the highest
    value that there can be, where the chart's axis ends.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    best: float

    @property
    def digits(self) -> int:
        """Behind the point."""
        return 2 if self.best >= 2 else 4

    def row(self, name: str) -> Row:
        """The row of that name."""
        return next(row for row in self.rows if row.name == name)


def table_of(title: str, columns: Sequence[str], scored: Sequence[Scored], best: float, resamples: int) -> Table:
    """A row a kind, in the order in which the kinds are met, then ALL and MEAN."""
    kinds: dict[str, list[Scored]] = defaultdict(list)
    for one in scored:
        kinds[one.group].append(one)
    rows = [row_of(name, found, resamples) for name, found in kinds.items()]
    rows += [row_of(ALL, scored, resamples), row_of(MEAN, scored, resamples, by_kind=True)]
    return Table(title, tuple(columns), tuple(rows), best)


def row_of(name: str, scored: Sequence[Scored], resamples: int, *, by_kind: bool = False) -> Row:
    """Means with intervals over the photos, whose edits are drawn again together; `by_kind` gives the mean of the
    kinds' means, where a kind that a resample has nothing of is left out of it.
    """
    judged = [one for one in scored if one.scores is not None]
    if not judged:
        return Row(name, 0, len(scored), None)
    values = np.array([one.scores for one in judged], np.float64)
    kinds = np.unique([one.group for one in judged], return_inverse=True)[1]
    photos: dict[str, list[int]] = defaultdict(list)
    for number, one in enumerate(judged):
        photos[one.photo].append(number)

    def statistics(numbers: Sequence[int]) -> list[float]:
        drawn = np.asarray(numbers)
        if not by_kind:
            return list(values[drawn].mean(axis=0).tolist())
        own = kinds[drawn]
        return list(np.mean([values[drawn[own == kind]].mean(axis=0) for kind in np.unique(own)], axis=0).tolist())

    if len(photos) < 2:
        found = [Interval(mean, math.nan, math.nan) for mean in statistics(range(len(judged)))]
    else:
        found = of_groups(list(photos.values()), statistics, resamples)
    return Row(name, len(judged), len(scored), tuple(found))


def to_markdown(tables: Iterable[Table], head: Sequence[str] = ()) -> str:
    """All tables, under what is to be known of them."""
    lines = list(head)
    for table in tables:
        lines += ["", f"## {table.title}", "", f"| edits | judged | {' | '.join(table.columns)} |"]
        lines.append("|---|---:|" + "---:|" * len(table.columns))
        for row in table.rows:
            cells = [said(one, table.digits) for one in row.values] if row.values else ["–"] * len(table.columns)
            lines.append(f"| {row.name} | {row.judged:,} of {row.asked:,} | {' | '.join(cells)} |")
    return "\n".join(lines).strip() + "\n"


def said(one: Interval, digits: int) -> str:
    """3.21 (3.10 – 3.32); a mean alone where it has no interval."""
    ends = "" if math.isnan(one.low) else f" ({one.low:.{digits}f} – {one.high:.{digits}f})"
    return f"{one.mean:.{digits}f}{ends}"


def write_results(
    folder: Path, tables: Sequence[Table], scored: Sequence[Scored], head: Sequence[str]
) -> dict[str, float]:
    """report.md, report.png and scores.jsonl; the stage's figures.

    NothingMatchedError where nothing was judged.
    """
    lines = [json.dumps(one.row(tables[0].columns), ensure_ascii=False) for one in scored]
    write_whole(folder / "scores.jsonl", ("\n".join(lines) + "\n").encode())
    judged = sum(one.scores is not None for one in scored)
    if not judged:
        why = scored[0].reason
        raise NothingMatchedError(f"none of {len(scored):,} edits was judged: {why}", hint=f"see {folder}/scores.jsonl")
    write_whole(folder / "report.md", to_markdown(tables, [*head, *reasons_of(scored)]).encode())
    draw(tables, folder / "report.png")
    return {"edits": float(len(scored)), "judged": float(judged), **figures_of(tables)}


def figures_of(tables: Sequence[Table]) -> dict[str, float]:
    """Every column over all edits of the first table, and the last one as the mean of the kinds of every table."""
    first = tables[0]
    found = dict(zip(first.columns, first.row(ALL).values or (), strict=False))
    for table in tables:
        if values := table.row(MEAN).values:
            found[MEAN if table is first else f"{MEAN}, {table.title}"] = values[-1]
    return {name: one.mean for name, one in found.items()}


def reasons_of(scored: Iterable[Scored]) -> list[str]:
    """Why edits were not judged, the most frequent reason first; nothing where all were."""
    found = [one.reason for one in scored if one.scores is None]
    counts = sorted({reason: found.count(reason) for reason in found}.items(), key=lambda pair: -pair[1])
    lines = [f"- {count:,}: {reason.replace('|', '/')[:200]}" for reason, count in counts[:10]]
    many = "1 edit was" if len(found) == 1 else f"{len(found):,} edits were"
    return ["", f"{many} not judged:", "", *lines] if found else []


def draw(tables: Sequence[Table], path: Path) -> None:
    """The last column of every table as bars with their intervals. MissingError without matplotlib."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingError("the chart needs matplotlib", hint="pip install 'ip2pbatch[train]'") from error
    across = min(2, len(tables))
    down = -(-len(tables) // across)
    inches = 0.7 + 0.26 * max(len(table.rows) for table in tables)
    figure = Figure(figsize=(5.6 * across, inches * down), layout="constrained")
    FigureCanvasAgg(figure)
    for number, table in enumerate(tables, start=1):
        draw_table(figure.add_subplot(down, across, number), table)
    figure.savefig(path, dpi=150)


def draw_table(axes: Any, table: Table) -> None:
    """One table's bars, from above downwards, the number behind each."""
    for place, row in enumerate(table.rows):
        if row.values is None:
            continue
        one = row.values[-1]
        own = row.name in (ALL, MEAN)
        axes.barh(-place, one.mean, height=0.62, color=SOFT if own else BLUE)
        if not math.isnan(one.low):
            axes.plot([one.low, one.high], [-place, -place], color=INK, linewidth=1.2, marker="|", markersize=6)
        end = max(0.0, one.mean, 0.0 if math.isnan(one.high) else one.high)
        text = f"{one.mean:.{table.digits}f}"
        axes.text(end + table.best * 0.02, -place, text, va="center", fontsize=7.5, color=INK)
    names = [row.name if row.judged == row.asked else f"{row.name} ({row.judged}/{row.asked})" for row in table.rows]
    axes.set_yticks([-place for place in range(len(table.rows))], names, fontsize=8)
    lowest = min((row.values[-1].mean for row in table.rows if row.values), default=0.0)
    axes.set_xlim(min(0.0, lowest * 1.5), table.best * 1.12)
    axes.set_title(f"{table.title}: {table.columns[-1]}", loc="left", fontsize=9)
    axes.grid(axis="x", color=SOFT, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(length=0)


def mean_of(values: Sequence[float]) -> float:
    """The mean, rounded to two digits as the published scripts do."""
    return round(fmean(values), 2)
