"""Training pairs wherever they come from: a folder of pairs, WebDataset shards, or parquet files, read where they lie.

`open_pairs` looks at what is there. Nothing is unpacked and no picture is opened before it is asked for. Threads may
read at once.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from PIL import Image

from ip2pbatch.disk.contents import digest_of_contents
from ip2pbatch.errors import NothingMatchedError, RecipeError
from ip2pbatch.train.data.broken import BrokenSampleError, flaw
from ip2pbatch.train.data.released import (
    AFTER,
    BEFORE,
    INPUT_KEYS,
    SEEDS,
    PromptFolder,
    dataset_of,
    read_prompt_folder,
    read_seeds,
)
from ip2pbatch.train.estimates import Estimate
from ip2pbatch.train.model_names import HubSet

if TYPE_CHECKING:
    import numpy as np

    from ip2pbatch.train.data.columns import Columns

Split = Literal["train", "val", "test", "all"]
# The released loader's parts of seeds.json, in its order.
SPLITS = {"train": (0.0, 0.9), "val": (0.9, 0.95), "test": (0.95, 1.0), "all": (0.0, 1.0)}


class Store(Protocol):
    """Where pairs lie. A pair is a number from 0."""

    @property
    def groups(self) -> Sequence[Sequence[int]]:
        """The numbers of each prompt's pairs."""
        ...

    def row(self, pair: int) -> dict[str, Any]:
        """`edit`, and as far as known `input`, `output`, `url`, `seed`, `p2p_threshold` and so on."""
        ...

    def files(self, pair: int) -> tuple[bytes, bytes]:
        """The picture files before and after, as they are."""
        ...

    def key(self, pair: int) -> str:
        """The pair's name in a shard: its prompt, a dash, and what tells it from the prompt's other pairs."""
        ...

    def place(self, pair: int) -> str:
        """Where the pair lies, for a message."""
        ...

    def digest(self) -> str:
        """One digest over the bytes of all pictures and texts: what a cache of them hangs on."""
        ...

    def files_of(self) -> np.ndarray | None:
        """By pair, the file that it lies in, where files are fetched one at a time; None where all are at hand."""
        ...


@dataclass(frozen=True)
class PairSet:
    """Prompts with one or more pairs each; `prompts` are the pairs' numbers, which a part of a set keeps."""

    store: Store
    prompts: Sequence[Sequence[int]]

    def __len__(self) -> int:
        return len(self.prompts)

    def instruction(self, prompt: int) -> str:
        """What is asked. RecipeError where a pair has no instruction."""
        pair = self.prompts[prompt][0]
        text = self.store.row(pair).get("edit")
        if not isinstance(text, str):
            raise RecipeError("has no instruction", file=self.store.place(pair), hint="a row has a text under `edit`")
        return text

    def captions(self, prompt: int) -> tuple[str, str] | None:
        """What the pictures show before and after; None where the set has no captions."""
        row = self.store.row(self.prompts[prompt][0])
        before, after = next((row[key] for key in INPUT_KEYS if row.get(key)), None), row.get("output")
        if isinstance(before, str) and isinstance(after, str) and before and after:
            return before, after
        return None

    def pairs(self, prompt: int) -> Sequence[int]:
        """The numbers of its pairs, unique over all prompts."""
        return self.prompts[prompt]

    def pictures(self, pair: int) -> tuple[Image.Image, Image.Image]:
        """Before and after. BrokenSampleError with the place where one is no whole picture."""
        before, after = self.store.files(pair)
        return self._open(pair, 0, before), self._open(pair, 1, after)

    def _open(self, pair: int, side: int, data: bytes) -> Image.Image:
        which, hint = ("before", "after")[side], "fetch or make it again; the training goes on from its last checkpoint"
        try:
            with Image.open(io.BytesIO(data)) as opened:
                picture = opened.convert("RGB")
            wrong = flaw(data)
        except (OSError, ValueError, SyntaxError) as error:
            said = f"its picture {which} cannot be read ({error})"
            raise BrokenSampleError(said, file=self.store.place(pair), hint=hint) from error
        if wrong:
            raise BrokenSampleError(f"its picture {which} {wrong}", file=self.store.place(pair), hint=hint)
        return picture

    def part(self, split: Split) -> PairSet:
        """Training, validation or test prompts as the released loader splits them: by their order, rounded down."""
        begin, end = (math.floor(share * len(self)) for share in SPLITS[split])
        return PairSet(self.store, self.prompts[begin:end])

    def each_pair(self) -> PairSet:
        """Every pair as a prompt of its own: it is then drawn as often as any other, and not as often as its prompt."""
        return PairSet(self.store, [[pair] for group in self.prompts for pair in group])

    def fraction(self, share: float) -> PairSet:
        """Evenly spread prompts, `share` of all: the paper's ablation by 10 % and 1 % of the data."""
        count = max(1, round(share * len(self)))
        return PairSet(self.store, [self.prompts[index * len(self) // count] for index in range(count)])


class FolderStore:
    """The released layout. Prompts are read when they are asked for: half a million small files take minutes."""

    def __init__(self, dataset: Path) -> None:
        self.dataset = dataset
        self.pairs: list[tuple[str, int]] = []
        self.groups: list[range] = []
        for name, seeds in read_seeds(dataset):
            self.groups.append(range(len(self.pairs), len(self.pairs) + len(seeds)))
            self.pairs += [(name, seed) for seed in seeds]
        self._folder = lru_cache(maxsize=64)(self._read_folder)  # pairs of a prompt are mostly asked for in a row

    def _read_folder(self, name: str) -> PromptFolder:
        return read_prompt_folder(self.dataset / name)

    def row(self, pair: int) -> dict[str, Any]:
        """The prompt's row and the sample's."""
        name, seed = self.pairs[pair]
        found = self._folder(name)
        sample = next((one for one in found.samples if one.seed == seed), None)
        return found.prompt.row() | (sample.row() if sample else {"seed": seed})

    def files(self, pair: int) -> tuple[bytes, bytes]:
        """Both JPEGs."""
        name, seed = self.pairs[pair]
        try:
            before, after = ((self.dataset / name / f"{seed}{suffix}").read_bytes() for suffix in (BEFORE, AFTER))
        except OSError as error:
            hint = f"fetch it again, or delete {SEEDS}: it is then read from the folders"
            said = f"cannot be read: {error.strerror or error}"
            raise BrokenSampleError(said, file=error.filename, hint=hint) from error
        return before, after

    def key(self, pair: int) -> str:
        """0000012-7."""
        return "{}-{}".format(*self.pairs[pair])

    def place(self, pair: int) -> str:
        """dataset/0000012/7."""
        name, seed = self.pairs[pair]
        return str(self.dataset / name / str(seed))

    def digest(self) -> str:
        """Of the folder's contents, by size and time once they were read."""
        return digest_of_contents(self.dataset)

    def files_of(self) -> None:
        """All pairs are at hand."""


def open_pairs(path: Path | HubSet, columns: Columns | None = None) -> PairSet:
    """The pairs of a stage's folder (pairs, filter, pack), of a released folder, of shards or parquet files in it, or
    of a set of the hub; with `columns`, of any set that they describe.

    NothingMatchedError where there are none.
    """
    from ip2pbatch.train.data.columns import open_columns
    from ip2pbatch.train.data.parquet import parquet_below
    from ip2pbatch.train.data.shard_store import ShardStore, shards_below

    if columns is not None or isinstance(path, HubSet):
        store: Store = open_columns(path, columns)
    elif shards := shards_below(path):
        store = ShardStore(shards)
    elif parquet_below(path):
        store = open_columns(path, None)
    else:
        store = FolderStore(dataset_of(path))
    if not store.groups:
        raise NothingMatchedError(f"{path} has no pair", hint="every pair was dropped, or its pictures are elsewhere")
    return PairSet(store, store.groups)


def counted(path: Path | HubSet | None, counts: Estimate, columns: Columns | None = None) -> Estimate:
    """The counts of a set that a config names, in the place of those of its inputs; unknown of one of the hub, whose
    rows are counted when they are first read."""
    if path is None:
        return counts
    if isinstance(path, HubSet):
        return replace(counts, unknown=f"the rows of {path.hub[0]} are counted when it is read")
    pairs = open_pairs(path, columns)
    return replace(counts, prompts=float(len(pairs)), pairs=float(sum(map(len, pairs.prompts))))
