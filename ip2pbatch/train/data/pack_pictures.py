"""The pack stage, `maker: pictures`: kept pairs → WebDataset shards with the releases' metadata, and back.

    shards/pairs-00000.tar     0000012-<seed>.0.jpg  0000012-<seed>.1.jpg  0000012-<seed>.json   (before, after, row)
    shards/pairs-00000.index   where each of them begins, its CRC-32, and how long the shard is; written last
    broken.jsonl               pairs that were left out because a file of theirs is damaged

A million small files are slow to list, copy and open; a few hundred shards are not. A tar is not compressed, so a file
in it has an address and training reads just that. Shards of others, without an index, are read by their headers.
"""

from __future__ import annotations

import io
import json
import tarfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from tqdm import tqdm

from ip2pbatch.disk.atomic import disk_error, write_whole
from ip2pbatch.errors import UsageError
from ip2pbatch.plan.shard import Shard
from ip2pbatch.plan.written.yaml_source import Mistake
from ip2pbatch.train.data.broken import BrokenSampleError, LeftOut, flaw
from ip2pbatch.train.data.columns import ColumnsOrPreset, columns_of_data
from ip2pbatch.train.data.pair_sets import PairSet, counted, open_pairs
from ip2pbatch.train.data.shard_store import KINDS, ShardStore, scan
from ip2pbatch.train.estimates import Estimate, pair_bytes
from ip2pbatch.train.model_names import DataSource
from ip2pbatch.train.row_work import Books, OwnBooks, RowWork, make_part, there
from ip2pbatch.train.stage import Stage, misfits, one_source

VERSION = 1
PARTIAL = ".partial"  # of a shard that is being written


class Config(BaseModel):
    """What decides the shards."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    maker: Literal["pictures"]
    source: DataSource | None = None  # a released folder or parquet files instead of an input
    columns: ColumnsOrPreset | None = Field(None, exclude_if=lambda value: value is None)  # how `source` is read
    prompts_per_shard: int = 1000
    broken: float = Field(0.001, ge=0, le=1, exclude=True)  # part of the pairs that may be left out as damaged


def write_shard(
    pairs: PairSet, prompts: Sequence[int], path: Path, left_out: LeftOut, books: Books | None = None
) -> None:
    """One shard and its index, both whole or not there, without broken pairs. ResourceError where the disk is full,
    RecipeError where more pairs are broken than may be left out.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    books = books or OwnBooks(None)
    partial, sums = path.with_suffix(f"{books.mark}{PARTIAL}"), []
    try:
        with partial.open("wb") as file, tarfile.open(fileobj=file, mode="w") as tar:
            for pair in (pair for prompt in prompts for pair in pairs.pairs(prompt)):
                try:
                    files = whole_files(pairs, pair)
                except BrokenSampleError as error:
                    left_out.add(error)
                    continue
                sums.append([zlib.crc32(data) for data in files])
                for kind, data in zip(KINDS, files, strict=True):
                    member = tarfile.TarInfo(f"{pairs.store.key(pair)}.{kind}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise disk_error(error, path) from error
    books.wait()
    partial.replace(path)
    index = scan(path)
    note = {"bytes": path.stat().st_size, "keys": index.keys, "places": index.places.tolist(), "sums": sums}
    write_whole(path.with_suffix(".index"), json.dumps(note).encode())


def whole_files(pairs: PairSet, pair: int) -> tuple[bytes, bytes, bytes]:
    """A pair's pictures and row as they are packed. BrokenSampleError where a picture is cut short or zeroed."""
    before, after = pairs.store.files(pair)
    for data in (before, after):
        if wrong := flaw(data):
            raise BrokenSampleError(wrong, file=pairs.store.place(pair), hint="fetch or make it again")
    return before, after, json.dumps(pairs.store.row(pair), ensure_ascii=False).encode()


class PackRows(RowWork):
    """The shards, by their numbers."""

    gpu = False

    def __init__(self, config: Config, inputs: Mapping[str, Path], folder: Path) -> None:
        super().__init__(folder)
        source = config.source or inputs.get("filter") or inputs.get("pairs")
        if source is None:
            hint = "name an input `filter` or `pairs`, or a folder as `source`"
            raise UsageError("pack has nothing to pack", hint=hint)
        self.pairs, self.size = open_pairs(source, config.columns), config.prompts_per_shard
        self.left_out: LeftOut = LeftOut(folder, sum(map(len, self.pairs.prompts)), config.broken)
        count = -(-len(self.pairs) // self.size)
        self.paths = [folder / "shards" / f"pairs-{number:05d}.tar" for number in range(count)]

    def names(self) -> Iterator[str]:
        return (self.pairs.store.key(pair) for prompt in range(len(self.pairs)) for pair in self.pairs.pairs(prompt))

    def left(self) -> list[int]:
        made = there(self.folder / "shards")
        return [number for number, path in enumerate(self.paths) if path.with_suffix(".index").name not in made]

    def make(self, rows: Sequence[int], books: Books) -> float:
        """In shards."""
        for number in tqdm(rows, desc="pack", unit="shard", mininterval=5, disable=books.quiet):
            begin = number * self.size
            prompts = range(begin, min(begin + self.size, len(self.pairs)))
            write_shard(self.pairs, prompts, self.paths[number], self.left_out, books)
            books.settle([number])
        return len(rows)

    def finish(self, rate: float) -> dict[str, float]:
        for stray in (self.folder / "shards").glob(f"*{PARTIAL}"):
            stray.unlink()
        packed = ShardStore(self.paths)
        size = sum(path.stat().st_size for path in self.paths)
        return {
            "prompts": float(len(packed.groups)), "pairs": float(sum(map(len, packed.groups))),
            "broken": float(self.left_out.found), "shards": float(len(self.paths)), "GB": size / 1e9,
        }  # fmt: skip


def run(
    config: Config, inputs: dict[str, Path], folder: Path, photos: Path | None, shard: Shard | None = None
) -> dict[str, float] | None:
    """Write the shards that are missing; metrics: prompts, pairs, how many were broken, shards, gigabytes. None while
    parts are missing."""
    return make_part(PackRows(config, inputs, folder), shard)


def estimate(settings: Config, counts: Estimate) -> Estimate:
    """The same pictures again, in shards."""
    counts = counted(settings.source, counts, settings.columns)
    return replace(counts, makes=f"{counts.pairs:,.0f} pairs in shards", bytes=counts.pairs * pair_bytes(512))


def check(settings: Config, inputs: Mapping[str, str]) -> Iterator[Mistake]:
    """What does not fit together in a config."""
    yield from misfits(inputs, ("filter", "pairs"))
    yield from one_source("source", settings.source, inputs)
    yield from columns_of_data("source", settings.source, settings.columns)


STAGE = Stage(Config, run, VERSION, rows=PackRows, estimate=estimate, check=check)
