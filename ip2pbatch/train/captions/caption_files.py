"""Caption files as they are found: JSONL, CSV or parquet, one or a folder of them, in LAION's columns or ours."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ip2pbatch.errors import MAY_READ, NothingMatchedError, RecipeError
from ip2pbatch.train.data.parquet import open_parquet, read_group
from ip2pbatch.train.data.released import read_jsonl

SUFFIXES = (".jsonl", ".csv", ".parquet")
TEXTS, URLS = ("caption", "input", "TEXT", "text"), ("url", "URL")


@dataclass(frozen=True, slots=True)
class Row:
    """One caption. `number` is its place in the file, from 0, over all files of a folder."""

    number: int
    caption: str
    url: str | None


def read_rows(path: Path) -> Iterator[Row]:
    """Every row in order; the caption is "" where a row has none. RecipeError with the place of what is wrong."""
    files = sorted(one for one in path.rglob("*") if one.suffix in SUFFIXES) if path.is_dir() else [path]
    if not files:
        raise NothingMatchedError(f"no captions in {path}", hint=f"give a file or a folder of {', '.join(SUFFIXES)}")
    number = 0
    for file in files:
        for caption, url in READERS.get(file.suffix, read_jsonl_rows)(file):
            yield Row(number, " ".join(caption.split()) if isinstance(caption, str) else "", url or None)
            number += 1


def read_jsonl_rows(path: Path) -> Iterator[tuple[Any, Any]]:
    """(caption, url) of each line; rows may differ in their keys."""
    for line, row in read_jsonl(path):
        text, url = columns(list(row), path, line)
        yield row[text], row.get(url)


def read_csv_rows(path: Path) -> Iterator[tuple[Any, Any]]:
    """(caption, url) of each row below the header."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            text, url = columns(reader.fieldnames or [], path, 1)
            for row in reader:
                if row[text] is None or None in row:
                    said = f"has {'fewer' if row[text] is None else 'more'} fields than the header"
                    raise RecipeError(said, file=path, line=reader.line_num, column=1, hint="mend or remove this line")
                yield row[text], row.get(url)
    except (csv.Error, UnicodeDecodeError) as error:
        raise RecipeError(f"is no CSV in UTF-8 ({error})", file=path, hint="mend it, or fetch it again") from error
    except OSError as error:
        raise RecipeError(f"cannot be read: {error.strerror or error}", file=path, hint=MAY_READ) from error


def read_parquet_rows(path: Path) -> Iterator[tuple[Any, Any]]:
    """(caption, url) of each row, a row group at a time."""
    file = open_parquet(path)
    text, url = columns(file.schema_arrow.names, path, 1)
    wanted = [name for name in (text, url) if name in file.schema_arrow.names]
    for group in range(file.metadata.num_row_groups):
        for row in read_group(file, group, wanted, path):
            yield row[text], row.get(url)


READERS = {".jsonl": read_jsonl_rows, ".csv": read_csv_rows, ".parquet": read_parquet_rows}


def columns(names: Sequence[str], path: Path, line: int) -> tuple[str, str]:
    """Which columns have the caption and the URL (which may be missing)."""
    text = next((name for name in TEXTS if name in names), None)
    if text is None:
        hint = f"a caption stands under {', '.join(TEXTS)}; there is {', '.join(names) or 'nothing'}"
        raise RecipeError("has no column of captions", file=path, line=line, column=1, hint=hint)
    return text, next((name for name in URLS if name in names), URLS[0])


def choose(path: Path, limit: int | None, seed: int) -> tuple[list[Row], Mapping[str, int]]:
    """The rows to ask about, permuted by the seed as the authors' generator does, at most `limit` of them; and how many
    were left out as `empty` or `duplicate`. A caption or a URL counts where it first comes, alike for every shard.

    What follows splits prompts into training and test by their order, which must not be that of the source.
    """
    every = list(read_rows(path))
    rows: list[Row] = []
    captions: set[str] = set()
    urls: set[str] = set()
    left_out = {"empty": 0, "duplicate": 0}
    for row in (every[number] for number in np.random.RandomState(seed).permutation(len(every)).tolist()):
        if not row.caption:
            left_out["empty"] += 1
        elif row.caption in captions or row.url in urls:
            left_out["duplicate"] += 1
        else:
            rows.append(row)
            captions.add(row.caption)
            if row.url:
                urls.add(row.url)
    if not rows:
        raise NothingMatchedError(f"no captions in {path}", hint="its rows are empty or were left out as duplicates")
    return rows[:limit], left_out
