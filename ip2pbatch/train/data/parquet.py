"""Parquet files, as they are read everywhere: opened with their footer, and a row group at a time.

Walking through the rows in their order is fast and jumping about is not: a set that is trained on for many epochs is
better packed into shards.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ip2pbatch.disk.contents import sha256s
from ip2pbatch.errors import MissingError, RecipeError

if TYPE_CHECKING:
    import pyarrow.parquet


def parquet_below(path: Path) -> list[Path]:
    """The file, or the parquet files of a folder or of its `data`, as the hub lays them out; where some are named after
    the training split, only those. A folder of a million pairs is not searched."""
    if path.is_file():
        return [path]
    found = sorted(path.glob("*.parquet")) or sorted(path.glob("data/*.parquet"))
    return [one for one in found if one.name.startswith("train")] or found


def open_parquet(path: Path, source: Any = None) -> pyarrow.parquet.ParquetFile:
    """A parquet file, its footer read; its bytes are those of `source` where it lies elsewhere. MissingError without
    pyarrow, RecipeError where the file is broken."""
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise MissingError("reading parquet needs pyarrow", hint="pip install 'ip2pbatch[train]'") from error
    try:
        return pyarrow.parquet.ParquetFile(path if source is None else source)
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


class ParquetRows:
    """The rows of parquet files, a row group at a time: two of those with pictures are kept, and eight of texts."""

    distant = False

    def __init__(self, files: Sequence[Path], sources: Sequence[Any] | None = None) -> None:
        self.paths = list(files)
        opened = zip(files, sources or [None] * len(files), strict=True)
        self.files = [open_parquet(path, source) for path, source in opened]
        sizes = [
            (number, group, file.metadata.row_group(group).num_rows)
            for number, file in enumerate(self.files)
            for group in range(file.metadata.num_row_groups)
        ]
        self.parts = [(number, group) for number, group, _ in sizes]
        self.begins = np.cumsum([0, *(rows for _, _, rows in sizes)])
        self._lock = threading.Lock()
        self._light = lru_cache(maxsize=8)(self._read)
        self._heavy = lru_cache(maxsize=2)(self._read)

    @property
    def ragged(self) -> bool:
        """Every row of a file has the same columns."""
        return False

    def __len__(self) -> int:
        return int(self.begins[-1])

    def names(self) -> list[Sequence[str]]:
        """The columns of each file."""
        return [file.schema_arrow.names for file in self.files]

    def file_of(self, row: int) -> int:
        """Which of the files a row is in."""
        return self.parts[self._find(row)[0]][0]

    def read(self, row: int, columns: Sequence[str], heavy: bool) -> dict[str, Any]:
        """Some columns of one row; `heavy` where there are pictures among them."""
        part, place = self._find(row)
        with self._lock:
            found = (self._heavy if heavy else self._light)(part, tuple(columns))
        return found[place]

    def place(self, row: int) -> str:
        """train.parquet row 12 (from 0, of all files together)."""
        return f"{self.paths[self.file_of(row)]} row {row}"

    def digests(self) -> list[str]:
        """The sha256 of each file."""
        return sha256s(self.paths)

    def _find(self, row: int) -> tuple[int, int]:
        part = int(np.searchsorted(self.begins, row, side="right")) - 1
        return part, row - int(self.begins[part])

    def _read(self, part: int, columns: tuple[str, ...]) -> list[dict[str, Any]]:
        number, group = self.parts[part]
        return read_group(self.files[number], group, columns, self.paths[number])
