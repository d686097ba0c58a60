"""What the journals of a run say, all shards together; readers and the writer look at them alike."""

from __future__ import annotations

import heapq
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ip2pbatch.disk.journal import read_journal
from ip2pbatch.errors import UsageError
from ip2pbatch.run.directory.layout import Layout
from ip2pbatch.run.directory.lines import Delivery, EngineSpec, Record

FORMAT = 1


def read_spec(layout: Layout) -> EngineSpec:
    """The engine that a run was made with. Raises UsageError where the header is of another version or unreadable."""
    try:
        header = json.loads(layout.header.read_text("utf-8"))
        if header["format"] != FORMAT:
            raise ValueError(f"format {header['format']}")
        row = header["engine"]
        return EngineSpec(**{**row, "approximations": tuple(row["approximations"])})
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{layout.header} was not written by this version ({error})", hint="use another --out, or --fresh"
        ) from error


def read_records(
    layout: Layout, complaints: list[str] | None = None, lost: list[Record] | None = None
) -> dict[str, Record]:
    """The last Record of every Edit, all shards together; where two shards differ, the one that is done counts.
    Numbers of one picture are joined: they may be measured later than it is made, and by another process.

    A done Edit whose picture is gone, or is not as large as it was written, is as if it had never been made; it is
    added to `lost`.
    """
    merged: dict[str, Record] = {}
    whole = pictures_on_disk(layout)
    for path in sorted(layout.folder.glob("results*.jsonl")):
        own: dict[str, Record] = {}
        for row in read_journal(path, complaints):
            own[row["edit"]] = Record(**row)
        for key, record in own.items():
            if record.status == "done" and whole.get(key) != record.bytes:
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


def read_deliveries(layout: Layout, complaints: list[str] | None = None) -> dict[tuple[str, str], Delivery]:
    """The last Delivery of every (strip key, edit key), all shards together."""
    return Books.of(layout, complaints).delivered


def delivery_rows(layout: Layout, complaints: list[str] | None = None) -> Iterator[dict[str, Any]]:
    """The lines about delivered files, all shards together, oldest first: `turn` counts the openings of the run."""
    journals = [read_journal(path, complaints) for path in sorted(layout.folder.glob("deliveries*.jsonl"))]
    return heapq.merge(*journals, key=lambda row: row.get("turn", 0))


def last_deliveries(layout: Layout) -> dict[str, Delivery]:
    """What was delivered last under each path, whatever of."""
    last: dict[str, Delivery] = {}
    for row in delivery_rows(layout):
        if not row.pop("begun", False):
            row.pop("turn", None)
            last[row["path"]] = Delivery(**row)
    return last


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
    def of(cls, layout: Layout, complaints: list[str] | None) -> Books:
        books = cls()
        for row in delivery_rows(layout, complaints):
            books.turn = row.pop("turn", 0)
            begun, place = row.pop("begun", False), (row["strip"], row["edit"])
            books.announced.pop(place, None)
            if begun:
                books.announced[place] = Delivery(**row)
                continue
            last = books.delivered.get(place)
            if last is not None and last.path != row["path"]:
                books.earlier.setdefault(place, {})[last.path] = last.sha256
            books.deliver(Delivery(**row))
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
                sizes[entry.name[:-4]] = entry.stat().st_size
    return sizes


def _listing(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except (FileNotFoundError, NotADirectoryError):
        return []
