"""What the journals of a run say, all shards together; readers and the writer look at them alike."""

from __future__ import annotations

import heapq
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
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


def read_records(layout: Layout, complaints: list[str] | None = None) -> dict[str, Record]:
    """The last Record of every Edit, all shards together; where two shards differ, the one that is done counts.

    A done Edit whose picture is gone, or is not as large as it was written, is as if it had never been made.
    """
    merged: dict[str, Record] = {}
    whole = pictures_on_disk(layout)
    for path in sorted(layout.folder.glob("results*.jsonl")):
        own: dict[str, Record] = {}
        for row in read_journal(path, complaints):
            own[row["edit"]] = Record(**row)
        for key, record in own.items():
            if record.status == "done" and whole.get(key) != record.bytes:
                continue
            if key not in merged or merged[key].status != "done":
                merged[key] = record
    return merged


def read_deliveries(layout: Layout, complaints: list[str] | None = None) -> dict[tuple[str, str], Delivery]:
    """The last Delivery of every (strip key, edit key), all shards together."""
    return Books.of(layout, complaints).delivered


def delivery_rows(layout: Layout, complaints: list[str] | None = None) -> Iterator[dict[str, Any]]:
    """The lines about delivered files, all shards together, oldest first: `turn` counts the openings of the run."""
    journals = [read_journal(path, complaints) for path in sorted(layout.folder.glob("deliveries*.jsonl"))]
    return heapq.merge(*journals, key=lambda row: row.get("turn", 0))


@dataclass(slots=True)
class Books:
    """What was delivered last of every (strip key, edit key); what was announced after that and never confirmed, for a
    process was killed there; the sha256 of files that have another name since, by that name; the last turn.
    """

    delivered: dict[tuple[str, str], Delivery] = field(default_factory=dict)
    announced: dict[tuple[str, str], Delivery] = field(default_factory=dict)
    earlier: dict[tuple[str, str], dict[str, str]] = field(default_factory=dict)
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
            books.delivered[place] = Delivery(**row)
        return books


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
