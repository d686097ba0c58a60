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
from ip2pbatch.train.stage import Stage, misfits, one_source

VERSION = 1


class Config(BaseModel):
    """What decides the shards."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    maker: Literal["pictures"]
    source: DataSource | None = None  # a released folder or parquet files instead of an input
    columns: ColumnsOrPreset | None = Field(None, exclude_if=lambda value: value is None)  # how `source` is read
    prompts_per_shard: int = 1000
    broken: float = Field(0.001, ge=0, le=1, exclude=True)  # part of the pairs that may be left out as damaged


def write_shard(pairs: PairSet, prompts: Sequence[int], path: Path, left_out: LeftOut) -> None:
    """One shard and its index, both whole or not there, without broken pairs. ResourceError where the disk is full,
    RecipeError where more pairs are broken than may be left out.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial, sums = path.with_suffix(".partial"), []
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


def run(
    config: Config, inputs: dict[str, Path], folder: Path, photos: Path | None, shard: Shard | None = None
) -> dict[str, float] | None:
    """Write the shards that are missing; metrics: prompts, pairs, how many were broken, shards, gigabytes. None while
    parts are missing."""
    source = config.source or inputs.get("filter") or inputs.get("pairs")
    if source is None:
        raise UsageError("pack has nothing to pack", hint="name an input `filter` or `pairs`, or a folder as `source`")
    pairs = open_pairs(source, config.columns)
    begins = range(0, len(pairs), config.prompts_per_shard)
    left_out = LeftOut(folder, sum(map(len, pairs.prompts)), config.broken)
    paths = [folder / "shards" / f"pairs-{number:05d}.tar" for number in range(len(begins))]
    for number, begin in enumerate(tqdm(begins, desc="pack", unit="shard", mininterval=5)):
        if (shard is None or shard.owns_row(number)) and not paths[number].with_suffix(".index").exists():
            write_shard(pairs, range(begin, min(begin + config.prompts_per_shard, len(pairs))), paths[number], left_out)
    if not all(path.with_suffix(".index").exists() for path in paths):
        return None
    packed = ShardStore(paths)
    size = sum(path.stat().st_size for path in paths)
    return {
        "prompts": float(len(packed.groups)), "pairs": float(sum(map(len, packed.groups))),
        "broken": float(left_out.found), "shards": float(len(paths)), "GB": size / 1e9,
    }  # fmt: skip


def estimate(settings: Config, counts: Estimate) -> Estimate:
    """The same pictures again, in shards."""
    counts = counted(settings.source, counts, settings.columns)
    return replace(counts, makes=f"{counts.pairs:,.0f} pairs in shards", bytes=counts.pairs * pair_bytes(512))


def check(settings: Config, inputs: Mapping[str, str]) -> Iterator[Mistake]:
    """What does not fit together in a config."""
    yield from misfits(inputs, ("filter", "pairs"))
    yield from one_source("source", settings.source, inputs)
    yield from columns_of_data("source", settings.source, settings.columns)


STAGE = Stage(Config, run, VERSION, sharded=True, estimate=estimate, check=check)
