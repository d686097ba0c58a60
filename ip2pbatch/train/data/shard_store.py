"""Shards of pairs as WebDataset writes them: an index beside each tar, and a Store over them."""

from __future__ import annotations

import hashlib
import json
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ip2pbatch.disk.contents import sha256s
from ip2pbatch.errors import RecipeError
from ip2pbatch.train.data.broken import BrokenSampleError

KINDS = ("0.jpg", "1.jpg", "json")


END = 1024  # bytes of zeros that end a tar


@dataclass(frozen=True)
class Index:
    """The pairs of one shard: their keys, offset and length in bytes of each of KINDS, int64 `[n, 3, 2]`, and their
    CRC-32s, `[n, 3]`, where the index has them."""

    path: Path
    keys: tuple[str, ...]
    places: np.ndarray
    sums: np.ndarray | None = None


def read_index(path: Path) -> Index:
    """A shard's index, from its own file or from the headers. RecipeError where the shard is cut short or no tar."""
    note = path.with_suffix(".index")
    if not note.exists():
        return scan(path)
    try:
        kept = json.loads(note.read_bytes())
        expected, keys = kept["bytes"], tuple(kept["keys"])
        places = np.array(kept["places"], np.int64).reshape(-1, len(KINDS), 2)
        sums = np.array(kept["sums"], np.int64).reshape(-1, len(KINDS)) if "sums" in kept else None
    except (ValueError, KeyError) as error:
        hint = "delete it: the shard is then read by its headers"
        raise RecipeError(f"is no index ({error})", file=note, hint=hint) from error
    size = path.stat().st_size
    if size != expected:
        hint = "fetch the shard again, or delete it and run `train run` for its pack stage"
        raise RecipeError(f"has {size} bytes where its index says {expected}", file=path, hint=hint)
    return Index(path, keys, places, sums)


def scan(path: Path) -> Index:
    """What a tar's headers say. RecipeError where it is cut short, no tar, or a sample is not whole."""
    found: dict[str, dict[str, tuple[int, int]]] = {}
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                key, _, kind = member.name.partition(".")
                if kind in KINDS:
                    found.setdefault(key, {})[kind] = (member.offset_data, member.size)
        with path.open("rb") as file:
            file.seek(-min(END, path.stat().st_size), 2)
            whole = not any(file.read())
    except (tarfile.TarError, OSError) as error:
        raise RecipeError(f"is no whole tar ({error})", file=path, hint="fetch or make the shard again") from error
    if not whole:
        raise RecipeError("is cut short", file=path, hint="fetch or make the shard again")
    for key, kinds in found.items():
        missing = [kind for kind in KINDS if kind not in kinds]
        if missing:
            hint = f"a sample has {', '.join(KINDS)}"
            raise RecipeError(f"sample {key} has no {missing[0]}", file=path, hint=hint)
    places = np.array([[kinds[kind] for kind in KINDS] for kinds in found.values()], np.int64)
    return Index(path, tuple(found), places.reshape(-1, len(KINDS), 2))


class ShardStore:
    """The samples of shards, in the shards' order; samples of one prompt lie together."""

    def __init__(self, shards: Sequence[Path]) -> None:
        self.shards = [read_index(path) for path in shards]
        self.begins = np.cumsum([0, *(len(one.keys) for one in self.shards)])
        self.groups: list[list[int]] = []
        before = None
        for pair, key in enumerate(self._keys()):
            prompt = key.rpartition("-")[0] or key
            if prompt != before:
                self.groups.append([])
            self.groups[-1].append(pair)
            before = prompt

    def _keys(self) -> Iterator[str]:
        for shard in self.shards:
            yield from shard.keys

    def _find(self, pair: int) -> tuple[Index, int]:
        number = int(np.searchsorted(self.begins, pair, side="right")) - 1
        return self.shards[number], pair - int(self.begins[number])

    def _read(self, pair: int, kind: int) -> bytes:
        shard, row = self._find(pair)
        offset, length = shard.places[row, kind].tolist()
        with shard.path.open("rb") as file:
            file.seek(offset)
            data = file.read(length)
        if len(data) != length:
            raise RecipeError("is cut short", file=shard.path, hint="fetch or make the shard again")
        if shard.sums is not None and zlib.crc32(data) != shard.sums[row, kind]:
            said = f"its {KINDS[kind]} does not fit its checksum"
            raise BrokenSampleError(said, file=self.place(pair), hint="fetch or make the shard again")
        return data

    def row(self, pair: int) -> dict[str, Any]:
        """The JSON beside the pictures. RecipeError where it is none."""
        try:
            return dict(json.loads(self._read(pair, KINDS.index("json"))))
        except (ValueError, TypeError) as error:
            said = f"its JSON cannot be read ({error})"
            raise RecipeError(said, file=self.place(pair), hint="fetch or make the shard again") from error

    def files(self, pair: int) -> tuple[bytes, bytes]:
        """Both JPEGs."""
        return self._read(pair, 0), self._read(pair, 1)

    def key(self, pair: int) -> str:
        """0000012-7."""
        shard, row = self._find(pair)
        return shard.keys[row]

    def place(self, pair: int) -> str:
        """pairs-00000.tar sample 0000012-7."""
        return f"{self._find(pair)[0].path} sample {self.key(pair)}"

    def digest(self) -> str:
        """Of the shards in their order, each by the checksums in its index, or by its bytes where it has none."""
        notes = [one.path.with_suffix(".index") if one.sums is not None else one.path for one in self.shards]
        return hashlib.sha256("\n".join(sha256s(notes)).encode()).hexdigest()

    def files_of(self) -> None:
        """All pairs are at hand."""


def shards_below(path: Path) -> list[Path]:
    """The shards of a pack stage's folder, or any tar directly in the folder, or the one file."""
    if path.is_file():
        return [path] if path.suffix == ".tar" else []
    return sorted((path / "shards").glob("pairs-*.tar")) or sorted(path.glob("*.tar"))
