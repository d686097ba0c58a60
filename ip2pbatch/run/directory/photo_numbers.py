"""The numbers of a run's photos, which readers and the writer look at alike."""

from __future__ import annotations

from ip2pbatch.disk.journal import Damage, read_rows
from ip2pbatch.run.directory.layout import Layout
from ip2pbatch.run.directory.lines import NUMBERED


def read_numbers(layout: Layout, damage: list[Damage] | None = None) -> dict[str, int]:
    """The `{n}` of each photo. Two photos never share one: where a damaged line says so, the first has it."""
    numbers: dict[str, int] = {}
    taken: set[int] = set()
    for row in read_rows(layout.numbers, NUMBERED, damage):
        if row.photo not in numbers and row.n not in taken:
            numbers[row.photo] = row.n
            taken.add(row.n)
    return numbers
