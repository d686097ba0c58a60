"""What a sheet shows of a cell: its tile and caption, the column it stands in, and what all cells of a sheet share."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

from ip2pbatch.plan.metrics import METRICS
from ip2pbatch.plan.written.outputs import Sheet
from ip2pbatch.show.cells import Cell, number, totals
from ip2pbatch.show.page import Box, Tile

# The guidance that a photo's one cell in the overview is taken nearest to: the paper's defaults.
USUAL = 7.5, 1.5
HOW_TO_READ = (
    "To the right, text guidance grows: the instruction pulls harder.",
    "Downwards, image guidance grows: the photo holds on harder.",
)
IN_THE_PAPER = ("text, image", "the guidance scales s_T, s_I")


def tile_of(cell: Cell, caption: str, second: str, settings: Sheet) -> Tile:
    """A cell's picture, or why there is none, over a caption of two lines."""
    shown = cell.state == "done" and cell.picture is not None
    aside = tuple(
        f"{METRICS[m].caption}  {cell.metrics[m]:.2f}" for m in settings.metrics if shown and m in cell.metrics
    )
    return Tile(
        caption, second, aside, picture=cell.proof if shown else None,
        state="" if shown else ("missing" if cell.state == "done" else cell.state),
        reason="" if shown else (cell.detail or ("not made yet" if cell.state == "missing" else "")),
        mark=cell.mark if shown else "",
    )  # fmt: skip


def source_tile(cell: Cell) -> Tile:
    """The photo that a cell was made from, as the model saw it."""
    missing = cell.source is None
    return Tile(
        cell.photo, "source", picture=cell.source, state="missing" if missing else "",
        reason=cell.unread if missing else "",
    )  # fmt: skip


def values_of(cell: Cell) -> str:
    """The scales of a cell that its model has, and its seed."""
    return "   ".join(filter(None, lines_of(cell)))


def lines_of(cell: Cell) -> tuple[str, str]:
    """The same as a caption of two lines."""
    return (cell.told, f"seed {cell.seed}") if cell.told else (f"seed {cell.seed}", "")


def counted(number: int, noun: str) -> str:
    """ "1 photo", "2 photos"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def instruction_of(cell: Cell) -> str:
    """What was asked for; of a chain all of it."""
    return ", then ".join(cell.chain) if cell.links > 1 else cell.instruction


def column_of(cell: Cell) -> tuple[str, ...]:
    """What makes two cells stand in one column: the edit's id and its instructions."""
    return (cell.edit, *(cell.chain or (cell.instruction,)))


def box_of(cells: Iterable[Cell], cell: int, lines: int) -> Box:
    """One picture area for every cell: as wide as the widest and as tall as the tallest, at `cell` on the long side.

    Where squares or portraits meet landscapes, the height stops at 4/5 of the width: equal rows, nothing squashed.
    """
    sizes = [c.size for c in cells]
    scaled = [(w * cell / max(w, h), h * cell / max(w, h)) for w, h in sizes]
    wide, tall = max(w for w, _ in scaled), max(h for _, h in scaled)
    aspects = [w / h for w, h in sizes]
    if max(aspects) > 1.2 > 1.05 > min(aspects):
        tall = min(tall, 0.8 * cell)
    return Box(math.ceil(max(wide, 0.5 * cell)), math.ceil(max(tall, 0.3 * cell)), lines)


def nearest(group: Sequence[Cell], rank: int, usual: tuple[float, float] = USUAL) -> Cell | None:
    """The cell of the `rank`-th seed whose guidance is nearest to the `usual` one, text and image."""
    seeds = list(dict.fromkeys(cell.seed for cell in group))
    if rank >= len(seeds):
        return None
    own = [cell for cell in group if cell.seed == seeds[rank]]
    text, image = usual

    def distance(cell: Cell) -> float:
        return abs(cell.guidance.text - text) / (abs(text) or 1) + abs(cell.guidance.image - image) / (abs(image) or 1)

    return min(own, key=distance)


def facts_of(cells: Sequence[Cell]) -> tuple[tuple[str, str], ...]:
    """What all cells of a sheet share, and how many of them there are."""
    facts = [("pictures", totals(cells))]
    told = {"sampler": {c.sampler for c in cells}, "negative": {c.negative for c in cells} - {""}}
    told["strength"] = {number(c.strength) for c in cells} - {"1"}
    for name, values in ({"steps": {str(c.steps) for c in cells}} | told).items():
        facts += [(name, ", ".join(sorted(values)))] if values else []
    return tuple(facts)


def slug_of(text: str) -> str:
    """A part of a file name: letters, digits, dot and hyphen; never long, never empty."""
    return re.sub(r"[^\w.-]+", "-", text).strip("-._")[:60] or "x"
