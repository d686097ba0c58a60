"""What an evaluation found: figures with their floors, and families with what they are taken for; JSON and Markdown."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured number. `ceiling` says that less is better; `count` is the number of things measured; `low` and
    `high` are the ends of its 95 % interval over the photos, None where there are not two of them."""

    name: str
    value: float
    floor: float
    unit: str
    count: int
    ceiling: bool = False
    note: str = ""
    low: float | None = None
    high: float | None = None

    @property
    def interval(self) -> str:
        """ "81.2 – 90.4"; a dash where there is none."""
        return "–" if self.low is None or self.high is None else f"{self.low:.4g} – {self.high:.4g}"

    @property
    def passed(self) -> bool:
        """Whether the value is on the right side of its floor (or ceiling)."""
        return self.value <= self.floor if self.ceiling else self.value >= self.floor


@dataclass(frozen=True, slots=True)
class Outcome:
    """One edit, judged. `nearest` is the family whose target the output is closest to.

    `distance` is LPIPS from the output to the asked family's target, `source` from the unedited photo to that target,
    `structure` the luma-edge correlation of output and photo.
    """

    photo: str
    family: str
    instruction: str
    held_out_wording: bool
    nearest: str
    distance: float
    source: float
    structure: float


@dataclass(frozen=True, slots=True)
class Evaluation:
    """All figures, and every judged edit behind the first of them."""

    figures: tuple[Figure, ...]
    outcomes: tuple[Outcome, ...]

    def to_json(self) -> str:
        """Everything measured; `passed` is spelled out for readers that know no floors."""
        figures = [asdict(f) | {"passed": f.passed} for f in self.figures]
        return json.dumps({"figures": figures, "outcomes": [asdict(o) for o in self.outcomes]}, indent=1)

    def metrics(self) -> dict[str, float]:
        """Figure names to values."""
        return {f.name: f.value for f in self.figures}

    def to_markdown(self) -> str:
        """The table of figures and the confusion table, families with the most mistakes first."""
        lines = ["| figure | measured | 95 % interval | floor | of | |", "|---|---:|---:|---:|---:|---|"]
        for f in self.figures:
            sign = "≤" if f.ceiling else "≥"
            verdict = ("pass" if f.passed else "**below**") + (f" ({f.note})" if f.note else "")
            cells = (
                f.name,
                f"{f.value:.4g} {f.unit}",
                f.interval,
                f"{sign} {f.floor:g} {f.unit}",
                str(f.count),
                verdict,
            )
            lines.append(f"| {' | '.join(cells)} |")
        return "\n".join([*lines, "", *confusion_lines(self.outcomes)]) + "\n"


def confusion_lines(outcomes: Sequence[Outcome]) -> list[str]:
    """One row a family: how often its edits were recognised, with either kind of wording, and what else they looked
    like. Families that were always recognised come last."""
    rows = []
    for family in sorted({o.family for o in outcomes}):
        mine = [o for o in outcomes if o.family == family]
        known, unknown = [o for o in mine if not o.held_out_wording], [o for o in mine if o.held_out_wording]
        taken = Counter(o.nearest for o in mine if o.nearest != family)
        others = ", ".join(f"{name} {n}" for name, n in taken.most_common())
        away, start = median(o.distance for o in mine), median(o.source for o in mine)
        shape = median(o.structure for o in mine)
        cells = (family, recognised(known), recognised(unknown), f"{away:.3f}", f"{start:.3f}", f"{shape:.2f}", others)
        rows.append((-sum(taken.values()), "| " + " | ".join(cells) + " |"))
    head = "| family | trained wordings | held-out wordings | to target | photo to target | structure | taken for |"
    return [head, "|---|---:|---:|---:|---:|---:|---|", *(line for _, line in sorted(rows))]


def recognised(outcomes: Sequence[Outcome]) -> str:
    """ "7/8", or a dash where there is nothing to count."""
    return f"{sum(o.nearest == o.family for o in outcomes)}/{len(outcomes)}" if outcomes else "–"
