"""Rows of other people's sets that are no parquet files: lines of JSON beside folders of pictures, and WebDataset tars.

In a tar a sample is all files of one key (the name up to the first dot), and a column is what follows: `src_img.jpg`,
`txt`. A name that is no file of the sample is looked for in its `json`.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ip2pbatch.disk.contents import sha256s
from ip2pbatch.errors import MAY_READ, RecipeError
from ip2pbatch.train.data.released import parse_row

OBJECT = "json"


class _RaggedRows:
    """Rows of files by their number from 0, each with columns of its own."""

    distant = False

    def __init__(self, files: Sequence[Path], counts: Iterable[int]) -> None:
        self.paths = list(files)
        self._rows = np.cumsum([0, *counts])

    @property
    def ragged(self) -> bool:
        """Each row has its own columns."""
        return True

    def __len__(self) -> int:
        return int(self._rows[-1])

    def file_of(self, row: int) -> int:
        """Which of the files a row is in."""
        return int(np.searchsorted(self._rows, row, side="right")) - 1

    def digests(self) -> list[str]:
        """The sha256 of each file."""
        return sha256s(self.paths)

    def _within(self, row: int) -> tuple[int, int]:
        """Which of the files a row is in, and its number there."""
        number = self.file_of(row)
        return number, row - int(self._rows[number])


class LineRows(_RaggedRows):
    """The lines of JSONL files; where each begins is kept, not what it says."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._begins = [np.array(_begins(path), np.int64).reshape(-1, 2) for path in files]
        super().__init__(files, map(len, self._begins))

    def names(self) -> list[Sequence[str]]:
        """The keys of each file's first row."""
        firsts = [self._row(number, 0) if len(one) else {} for number, one in enumerate(self._begins)]
        return [list(first) for first in firsts]

    def read(self, row: int, columns: Sequence[str], heavy: bool) -> dict[str, Any]:
        """Some keys of one row; None where it has one of them not."""
        found = self._row(*self._within(row))
        return {name: found.get(name) for name in columns}

    def place(self, row: int) -> str:
        """split_0001.jsonl line 12 (from 1)."""
        number, place = self._within(row)
        return f"{self.paths[number]} line {self._begins[number][place, 1]}"

    def _row(self, number: int, place: int) -> dict[str, Any]:
        begin, line = self._begins[number][place].tolist()
        with self.paths[number].open("rb") as file:
            file.seek(begin)
            return parse_row(file.readline(), self.paths[number], line)


def _begins(path: Path) -> list[tuple[int, int]]:
    found, begin = [], 0
    try:
        with path.open("rb") as file:
            for line, text in enumerate(file, start=1):
                if text.strip():
                    found.append((begin, line))
                begin += len(text)
    except OSError as error:
        raise RecipeError(f"cannot be read: {error.strerror or error}", file=path, hint=MAY_READ) from error
    return found


class TarRows(_RaggedRows):
    """The samples of WebDataset tars, read by the tars' headers. RecipeError where one is cut short or no tar."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._samples = [list(_samples(path).items()) for path in files]
        super().__init__(files, map(len, self._samples))

    def names(self) -> list[Sequence[str]]:
        """The columns of each tar's first sample."""
        found: list[Sequence[str]] = []
        for number, samples in enumerate(self._samples):
            members = samples[0][1] if samples else {}
            keys = self._object(number, members, samples[0][0]) if OBJECT in members else {}
            found.append([*members, *keys])
        return found

    def read(self, row: int, columns: Sequence[str], heavy: bool) -> dict[str, Any]:
        """Some columns of one sample: bytes, parsed where the name ends with json; None where there is no such file."""
        number, key, members = self._find(row)
        others = any(name not in members for name in columns) and OBJECT in members
        keys = self._object(number, members, key) if others else {}
        return {
            name: self._cell(number, name, members[name], key) if name in members else keys.get(name)
            for name in columns
        }

    def place(self, row: int) -> str:
        """00000.tar sample 12."""
        number, key, _ = self._find(row)
        return f"{self.paths[number]} sample {key}"

    def _find(self, row: int) -> tuple[int, str, dict[str, tuple[int, int]]]:
        number, place = self._within(row)
        return number, *self._samples[number][place]

    def _object(self, number: int, members: dict[str, tuple[int, int]], key: str) -> dict[str, Any]:
        found = self._cell(number, OBJECT, members[OBJECT], key)
        return found if isinstance(found, dict) else {}

    def _cell(self, number: int, name: str, place: tuple[int, int], key: str) -> Any:
        with self.paths[number].open("rb") as file:
            file.seek(place[0])
            data = file.read(place[1])
        if name != OBJECT and not name.endswith(f".{OBJECT}"):
            return data
        try:
            return json.loads(data)
        except ValueError as error:
            said = f"its {name} cannot be read ({error})"
            where = f"{self.paths[number]} sample {key}"
            raise RecipeError(said, file=where, hint="fetch or make the shard again") from error


def _samples(path: Path) -> dict[str, dict[str, tuple[int, int]]]:
    """By key and column, where each file begins and how long it is."""
    found: dict[str, dict[str, tuple[int, int]]] = {}
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                folder, _, file = member.name.rpartition("/")
                key, _, column = file.partition(".")
                if member.isfile() and column:
                    found.setdefault(f"{folder}/{key}" if folder else key, {})[column] = (
                        member.offset_data, member.size,
                    )  # fmt: skip
    except (tarfile.TarError, OSError) as error:
        raise RecipeError(f"is no whole tar ({error})", file=path, hint="fetch or make the shard again") from error
    ends = max((sum(place) for sample in found.values() for place in sample.values()), default=0)
    if ends > path.stat().st_size:
        raise RecipeError("is cut short", file=path, hint="fetch the shard again")
    return found
