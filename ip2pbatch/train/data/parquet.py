"""Parquet files with the columns of the Hugging Face sets, read as training pairs.

    input_image · edit_prompt · edited_image          the column names of diffusers' example
    original_image, original_prompt, edited_prompt    as timbrooks/instructpix2pix-clip-filtered has them
    source_img · instruction · target_img             as MagicBrush has them

Rows of one caption, instruction and edited caption are one prompt with as many pairs, as in the releases; where a set
has no captions each row is a prompt. Files are read a row group at a time, so walking through them in their order is
fast and jumping about is not: a set that is trained on for many epochs is better packed into shards.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ip2pbatch.disk.contents import sha256s
from ip2pbatch.errors import MissingError, RecipeError
from ip2pbatch.train.data.broken import BrokenSampleError

if TYPE_CHECKING:
    import pyarrow.parquet

COLUMNS = {
    "before": ("input_image", "original_image", "source_img"),
    "after": ("edited_image", "target_img"),
    "edit": ("edit_prompt", "edit", "instruction"),
}
CAPTIONS = {"input": ("original_prompt", "input", "caption"), "output": ("edited_prompt", "output")}


def parquet_below(path: Path) -> list[Path]:
    """The file, or the parquet files of a folder or of its `data`, as the hub lays them out; where some are named after
    the training split, only those. A folder of a million pairs is not searched."""
    if path.is_file():
        return [path]
    found = sorted(path.glob("*.parquet")) or sorted(path.glob("data/*.parquet"))
    return [one for one in found if one.name.startswith("train")] or found


def open_parquet(path: Path) -> pyarrow.parquet.ParquetFile:
    """A parquet file, its footer read. MissingError without pyarrow, RecipeError where the file is broken."""
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise MissingError("reading parquet needs pyarrow", hint="pip install 'ip2pbatch[train]'") from error
    try:
        return pyarrow.parquet.ParquetFile(path)
    except (OSError, pyarrow.ArrowException) as error:
        hint = "fetch the file again: a parquet file that was cut short has lost its index"
        raise RecipeError(f"is no whole parquet file ({str(error).splitlines()[0]})", file=path, hint=hint) from error


def read_group(
    file: pyarrow.parquet.ParquetFile, group: int, columns: Sequence[str], path: Path
) -> list[dict[str, Any]]:
    """Some columns of a row group. RecipeError where it is damaged."""
    try:
        rows: list[dict[str, Any]] = file.read_row_group(group, columns=list(columns)).to_pylist()
    except (OSError, ValueError) as error:
        said = f"row group {group} cannot be read ({str(error).splitlines()[0]})"
        raise RecipeError(said, file=path, hint="fetch the file again") from error
    return rows


class ParquetStore:
    """Rows of parquet files as pairs. RecipeError where a column is missing, naming the file and its columns."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.paths = list(files)
        self.files_open = [open_parquet(path) for path in files]
        self.columns = [
            columns_of(file.schema_arrow.names, path) for path, file in zip(files, self.files_open, strict=True)
        ]
        sizes = [
            (number, group, file.metadata.row_group(group).num_rows)
            for number, file in enumerate(self.files_open)
            for group in range(file.metadata.num_row_groups)
        ]
        self.parts = [(number, group) for number, group, _ in sizes]
        self.begins = np.cumsum([0, *(rows for _, _, rows in sizes)])
        self._lock = threading.Lock()
        self._texts = lru_cache(maxsize=8)(self._read_texts)
        self._pictures = lru_cache(maxsize=2)(self._read_pictures)
        self.groups = self._group()
        self._keys = {pair: f"{prompt:07d}-{number}" for prompt, group in enumerate(self.groups)
                      for number, pair in enumerate(group)}  # fmt: skip

    def _group(self) -> list[list[int]]:
        """The rows of each prompt, in the order in which prompts first come; texts of all rows are read for it."""
        count = int(self.begins[-1])
        if not all(CAPTIONS.keys() <= columns.keys() for columns in self.columns):
            return [[row] for row in range(count)]
        groups: dict[bytes, list[int]] = {}
        texts = (row for part in range(len(self.parts)) for row in self._read_texts(part))
        for pair, row in enumerate(texts):
            said = json.dumps([row.get(name) for name in ("input", "edit", "output")])
            groups.setdefault(hashlib.blake2b(said.encode(), digest_size=16).digest(), []).append(pair)
        return list(groups.values())

    def _find(self, pair: int) -> tuple[int, int]:
        part = int(np.searchsorted(self.begins, pair, side="right")) - 1
        return part, pair - int(self.begins[part])

    def _read_texts(self, part: int) -> list[dict[str, Any]]:
        return self._rows(part, ("edit", *CAPTIONS))

    def _read_pictures(self, part: int) -> list[dict[str, Any]]:
        return self._rows(part, ("before", "after"))

    def _rows(self, part: int, names: Sequence[str]) -> list[dict[str, Any]]:
        number, group = self.parts[part]
        columns = {name: self.columns[number][name] for name in names if name in self.columns[number]}
        rows = read_group(self.files_open[number], group, list(columns.values()), self.paths[number])
        return [{name: row[column] for name, column in columns.items()} for row in rows]

    def row(self, pair: int) -> dict[str, Any]:
        """The instruction, and the captions where the set has them."""
        part, row = self._find(pair)
        with self._lock:
            return {name: text for name, text in self._texts(part)[row].items() if text is not None}

    def files(self, pair: int) -> tuple[bytes, bytes]:
        """Both picture files. RecipeError where a row has none."""
        part, row = self._find(pair)
        with self._lock:
            found = self._pictures(part)[row]
        return self._bytes(pair, found["before"]), self._bytes(pair, found["after"])

    def _bytes(self, pair: int, value: Any) -> bytes:
        data = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(data, bytes):
            hint = "pictures must lie in the file; a set that only names paths must be saved with its pictures"
            raise BrokenSampleError("has no picture in it", file=self.place(pair), hint=hint)
        return data

    def key(self, pair: int) -> str:
        """0000012-0: the prompt and the place among its pairs."""
        return self._keys[pair]

    def place(self, pair: int) -> str:
        """train.parquet row 12 (from 0, of all files together)."""
        part, _ = self._find(pair)
        return f"{self.paths[self.parts[part][0]]} row {pair}"

    def digest(self) -> str:
        """Of the files' bytes, in their order."""
        return hashlib.sha256("\n".join(sha256s(self.paths)).encode()).hexdigest()


def columns_of(names: Sequence[str], path: Path) -> dict[str, str]:
    """Which of a file's columns has what. RecipeError where one that is needed is missing."""
    found = {}
    for wanted, known in (COLUMNS | CAPTIONS).items():
        column = next((name for name in known if name in names), None)
        if column is not None:
            found[wanted] = column
        elif wanted in COLUMNS:
            hint = f"rename one of its columns: {', '.join(names)}"
            raise RecipeError(f"has no column {' or '.join(known)}", file=path, hint=hint)
    return found
