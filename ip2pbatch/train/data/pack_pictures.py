"""The pack stage, `maker: pictures`: kept pairs → WebDataset shards with the releases' metadata, and back.

    shards/pairs-00000.tar     0000012-<seed>.0.jpg  0000012-<seed>.1.jpg  0000012-<seed>.json   (before, after, row)
    shards/pairs-00000.index   where each of them begins, and how long the shard is; written last

A million small files are slow to list, copy and open; a few hundred shards are not. A tar is not compressed, so a file
in it has an address and training reads just that. Shards of others, without an index, are read by their headers.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict
from tqdm import tqdm

from ip2pbatch.disk.atomic import disk_error, write_whole
from ip2pbatch.errors import RecipeError, UsageError
from ip2pbatch.plan.shard import Shard
from ip2pbatch.train.data.pair_sets import PairSet, open_pairs

VERSION = 1
SHARDED = True
KINDS = ("0.jpg", "1.jpg", "json")
END = 1024  # bytes of zeros that end a tar


class Config(BaseModel):
    """What decides the shards."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    maker: Literal["pictures"]
    source: Path | None = None  # a released folder or parquet files instead of an input
    prompts_per_shard: int = 1000


@dataclass(frozen=True)
class Index:
    """The pairs of one shard: their keys, and offset and length in bytes of each of KINDS, int64 `[n, 3, 2]`."""

    path: Path
    keys: tuple[str, ...]
    places: np.ndarray


def write_shard(pairs: PairSet, prompts: Sequence[int], path: Path) -> None:
    """One shard and its index, both whole or not there. ResourceError where the disk is full."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    try:
        with partial.open("wb") as file, tarfile.open(fileobj=file, mode="w") as tar:
            for pair in (pair for prompt in prompts for pair in pairs.pairs(prompt)):
                row = json.dumps(pairs.store.row(pair), ensure_ascii=False).encode()
                for kind, data in zip(KINDS, (*pairs.store.files(pair), row), strict=True):
                    member = tarfile.TarInfo(f"{pairs.store.key(pair)}.{kind}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise disk_error(error, path) from error
    partial.replace(path)
    index = scan(path)
    note = {"bytes": path.stat().st_size, "keys": index.keys, "places": index.places.tolist()}
    write_whole(path.with_suffix(".index"), json.dumps(note).encode())


def read_index(path: Path) -> Index:
    """A shard's index, from its own file or from the headers. RecipeError where the shard is cut short or no tar."""
    note = path.with_suffix(".index")
    if not note.exists():
        return scan(path)
    try:
        kept = json.loads(note.read_bytes())
        expected, keys = kept["bytes"], tuple(kept["keys"])
        places = np.array(kept["places"], np.int64).reshape(-1, len(KINDS), 2)
    except (ValueError, KeyError) as error:
        hint = "delete it: the shard is then read by its headers"
        raise RecipeError(f"is no index ({error})", file=note, hint=hint) from error
    size = path.stat().st_size
    if size != expected:
        hint = "fetch the shard again, or delete it and run `train run` for its pack stage"
        raise RecipeError(f"has {size} bytes where its index says {expected}", file=path, hint=hint)
    return Index(path, keys, places)


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
        return data

    def row(self, pair: int) -> dict[str, Any]:
        """The JSON beside the pictures. RecipeError where it is none."""
        try:
            return dict(json.loads(self._read(pair, KINDS.index("json"))))
        except (ValueError, TypeError) as error:
            raise RecipeError(f"its JSON cannot be read ({error})", file=self.place(pair)) from error

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


def shards_below(path: Path) -> list[Path]:
    """The shards of a pack stage's folder, or any tar directly in the folder, or the one file."""
    if path.is_file():
        return [path] if path.suffix == ".tar" else []
    return sorted((path / "shards").glob("pairs-*.tar")) or sorted(path.glob("*.tar"))


def run(
    config: Config, inputs: dict[str, Path], folder: Path, photos: Path | None, shard: Shard | None = None
) -> dict[str, float] | None:
    """Write the shards that are missing; metrics: prompts, pairs, shards, gigabytes. None while parts are missing."""
    source = config.source or inputs.get("filter") or inputs.get("pairs")
    if source is None:
        raise UsageError("pack has nothing to pack", hint="name an input `filter` or `pairs`, or a folder as `source`")
    pairs = open_pairs(source)
    begins = range(0, len(pairs), config.prompts_per_shard)
    paths = [folder / "shards" / f"pairs-{number:05d}.tar" for number in range(len(begins))]
    for number, begin in enumerate(tqdm(begins, desc="pack", unit="shard", mininterval=5)):
        if (shard is None or shard.owns_row(number)) and not paths[number].with_suffix(".index").exists():
            write_shard(pairs, range(begin, min(begin + config.prompts_per_shard, len(pairs))), paths[number])
    if not all(path.with_suffix(".index").exists() for path in paths):
        return None
    count = sum(len(pairs.pairs(prompt)) for prompt in range(len(pairs)))
    size = sum(path.stat().st_size for path in paths)
    return {"prompts": float(len(pairs)), "pairs": float(count), "shards": float(len(paths)), "GB": size / 1e9}
