"""What the journals of a run say, all shards together; readers and the writer look at them alike."""

from __future__ import annotations

import heapq
import itertools
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from ip2pbatch.disk.journal import Damage, read_rows
from ip2pbatch.run.directory.layout import Layout
from ip2pbatch.run.directory.lines import DELIVERY, NUMBERED, RECORD, Delivery, Record

_TURN = re.compile(rb'"turn":([0-9]{1,15})')


def read_records(
    layout: Layout, damage: list[Damage] | None = None, lost: list[Record] | None = None
) -> dict[str, Record]:
    """The last Record of every Edit, all shards together; where two differ, the one that is done counts.
    Numbers of one picture are joined: they may be measured later than it is made, and by another process.

    A done Edit whose picture is gone, or is not as large as it was written, is as if it had never been made; it is
    added to `lost`.
    """
    merged: dict[str, Record] = {}
    whole = pictures_on_disk(layout)

    def is_done(record: Record) -> bool:
        return record.status == "done" and whole.get(record.edit) == record.bytes

    for path in sorted(layout.folder.glob("results*.jsonl")):
        own: dict[str, Record] = {}
        for record in read_rows(path, RECORD, damage):
            before = own.get(record.edit)
            if before is None or is_done(record) or not is_done(before):
                own[record.edit] = record
        for key, record in own.items():
            if record.status == "done" and not is_done(record):
                if lost is not None:
                    lost.append(record)
                continue
            known = merged.get(key)
            if known is not None and known.status == record.status == "done" and known.digest == record.digest:
                merged[key] = replace(known, metrics=record.metrics | known.metrics)
            elif _says_more(record, known):
                merged[key] = record
    return merged


def _says_more(record: Record, other: Record | None) -> bool:
    """Whether a shard's last word on an Edit counts more than another shard's."""
    if other is None or other.status != "done":
        return True
    return record.status == "done" and bool(record.digest) and not other.digest


def read_deliveries(layout: Layout, damage: list[Damage] | None = None) -> dict[tuple[str, str], Delivery]:
    """The last Delivery of every (strip key, edit key), all shards together."""
    return Books.of(layout, damage).delivered


def delivery_rows(layout: Layout, damage: list[Damage] | None = None) -> Iterator[Delivery]:
    """The lines about delivered files, all shards together, oldest first: `turn` counts the openings of the run."""
    journals = [_in_turn(path, damage) for path in sorted(layout.folder.glob("deliveries*.jsonl"))]
    return heapq.merge(*journals, key=lambda row: row.turn)


def _in_turn(path: Path, damage: list[Damage] | None) -> Iterator[Delivery]:
    """The lines of a file by their turn. Only where they stand in another order, all are held in memory for it."""
    rows = read_rows(path, DELIVERY, damage)
    turns = read_rows(path, lambda line: int(found[1]) if (found := _TURN.search(line)) else 0)
    ordered = all(one <= next_one for one, next_one in itertools.pairwise(turns))
    return rows if ordered else iter(sorted(rows, key=lambda row: row.turn))


def read_numbers(layout: Layout, damage: list[Damage] | None = None) -> dict[str, int]:
    """The `{n}` of each photo. Two photos never share one: where a damaged line says so, the first has it."""
    numbers: dict[str, int] = {}
    taken: set[int] = set()
    for row in read_rows(layout.numbers, NUMBERED, damage):
        if row.photo not in numbers and row.n not in taken:
            numbers[row.photo] = row.n
            taken.add(row.n)
    return numbers


def last_deliveries(layout: Layout) -> dict[str, Delivery]:
    """What was delivered last under each path, whatever of."""
    return {row.path: row for row in delivery_rows(layout) if not row.begun}


@dataclass(slots=True)
class Books:
    """What was delivered last of every (strip key, edit key), as long as no other picture took its place; what was
    announced after that and never confirmed, for a process was killed there; the sha256 of files that have another name
    since, by that name; whose each path is; the last turn.
    """

    delivered: dict[tuple[str, str], Delivery] = field(default_factory=dict)
    announced: dict[tuple[str, str], Delivery] = field(default_factory=dict)
    earlier: dict[tuple[str, str], dict[str, str]] = field(default_factory=dict)
    holders: dict[str, tuple[str, str]] = field(default_factory=dict)
    turn: int = 0

    @classmethod
    def of(cls, layout: Layout, damage: list[Damage] | None) -> Books:
        books = cls()
        for row in delivery_rows(layout, damage):
            books.turn, place = row.turn, (row.strip, row.edit)
            last = books.delivered.get(place)
            if row.begun:
                if last is None or (last.turn, last.path, last.sha256) != (row.turn, row.path, row.sha256):
                    books.announced[place] = row
                continue
            books.announced.pop(place, None)
            if last is not None and last.path != row.path:
                books.earlier.setdefault(place, {})[last.path] = last.sha256
            books.deliver(row)
        return books

    def deliver(self, delivery: Delivery) -> None:
        """A file was delivered: what was under its path before is not there any more."""
        place = delivery.strip, delivery.edit
        before = self.holders.get(delivery.path, place)
        if before != place and before in self.delivered and self.delivered[before].path == delivery.path:
            del self.delivered[before]
        self.holders[delivery.path] = place
        self.delivered[place] = delivery


def pictures_on_disk(layout: Layout) -> dict[str, int]:
    """Size in bytes of every lossless picture in a run, by key: one pass over the folders, no file is opened."""
    sizes: dict[str, int] = {}
    for folder in _listing(layout.edits):
        for entry in _listing(Path(folder.path)):
            if entry.name.endswith(".png"):
                with suppress(OSError):  # a link that leads nowhere is no picture
                    sizes[entry.name[:-4]] = entry.stat().st_size
    return sizes


def _listing(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except (FileNotFoundError, NotADirectoryError):
        return []
