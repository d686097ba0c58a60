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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict
from tqdm import tqdm

from ip2pbatch.disk.atomic import disk_error, write_whole
from ip2pbatch.errors import UsageError
from ip2pbatch.plan.shard import Shard
from ip2pbatch.plan.written.yaml_source import Mistake
from ip2pbatch.train.data.pair_sets import PairSet, open_pairs
from ip2pbatch.train.data.shard_store import KINDS, scan
from ip2pbatch.train.estimates import Estimate, pair_bytes
from ip2pbatch.train.stage import Stage, misfits, one_source

VERSION = 1


class Config(BaseModel):
    """What decides the shards."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    maker: Literal["pictures"]
    source: Path | None = None  # a released folder or parquet files instead of an input
    prompts_per_shard: int = 1000


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


def estimate(settings: Config, counts: Estimate) -> Estimate:
    """The same pictures again, in shards."""
    return replace(counts, makes=f"{counts.pairs:,.0f} pairs in shards", bytes=counts.pairs * pair_bytes(512))


def check(settings: Config, inputs: Mapping[str, str]) -> Iterator[Mistake]:
    """What does not fit together in a config."""
    yield from misfits(inputs, ("filter", "pairs"))
    yield from one_source("source", settings.source, inputs)


STAGE = Stage(Config, run, VERSION, sharded=True, estimate=estimate, check=check)
