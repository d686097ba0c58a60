"""Benchmarks that are parquet files: their columns, and their texts without their pictures."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image

from ip2pbatch.disk.atomic import write_whole
from ip2pbatch.errors import RecipeError
from ip2pbatch.train.data.parquet import ParquetRows
from ip2pbatch.train.judge.benchmarks.benchmark_edits import Item


@dataclass(frozen=True, slots=True)
class RowItem(Item):
    """An edit of a parquet file; `row` is its number in the set. Its photo is a file only after `with_photos`."""

    row: int


AnyRow = TypeVar("AnyRow", bound=RowItem)


def refuse_columns(rows: ParquetRows, columns: Sequence[str], test: Path, what: str) -> None:
    """RecipeError names a column that a file lacks; or that there is no file."""
    if not rows.paths:
        raise RecipeError("has no parquet files, nor has its folder data", file=test, hint=f"give {what} as `test`")
    for path, names in zip(rows.paths, rows.names(), strict=True):
        for column in columns:
            if column not in names:
                raise RecipeError(f"has no column {column}", file=path, hint=f"give {what} as `test`")


def read_texts(rows: ParquetRows, columns: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    """These columns of every row. RecipeError where a text is missing."""
    for number in range(len(rows)):
        row = rows.read(number, columns, False)
        if missing := [name for name in columns if row[name] is None]:
            raise RecipeError(f"{missing[0]} is empty", file=rows.place(number), hint="fetch the file again")
        yield tuple(row[name] for name in columns)


def with_photos(rows: ParquetRows, items: Sequence[AnyRow], column: str, folder: Path) -> list[AnyRow]:
    """The edits with the pictures before as files in `folder`, read in the order of the set. RecipeError names a row
    without a picture.
    """
    photos = {}
    for one in sorted(items, key=lambda one: one.row):
        cell = rows.read(one.row, (column,), True)[column]
        data = cell.get("bytes") if isinstance(cell, dict) else cell
        photos[one.key] = keep_picture(data if isinstance(data, bytes) else b"", folder, rows.place(one.row))
    return [replace(one, photo=photos[one.key]) for one in items]


def keep_picture(data: bytes, folder: Path, place: str) -> Path:
    """A picture from a parquet file as a file named by its contents. RecipeError where it is none."""
    try:
        with Image.open(io.BytesIO(data)) as opened:
            suffix = (opened.format or "png").lower().replace("jpeg", "jpg")
    except OSError as error:
        raise RecipeError(f"is no picture ({error})", file=place, hint="fetch the file again") from error
    path = folder / f"{hashlib.sha256(data).hexdigest()[:24]}.{suffix}"
    if not path.exists():
        write_whole(path, data)
    return path
