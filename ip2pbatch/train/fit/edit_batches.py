"""Batches of training pairs as a pure function of their number, whatever made it and on however many processes.

Part p of process r of P holds the positions (p · P + r) · batch … of an endless walk through the prompts: a new seeded
permutation an epoch, each prompt once in it, one of its pairs drawn each time (as the original does). All that is
random about a sample hangs on (seed, epoch, prompt) alone, so a resumed training sees what it would have seen, and
eight processes see what one with eight times the parts sees.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from ip2pbatch.errors import RecipeError
from ip2pbatch.train.data.augment import augment
from ip2pbatch.train.data.broken import BrokenSampleError, LeftOut
from ip2pbatch.train.data.hub_rows import MIXED
from ip2pbatch.train.data.pair_sets import PairSet
from ip2pbatch.train.data.row_store import RowStore
from ip2pbatch.train.fit.latents import Encoder, LatentCache, encode_rows, posteriors_of
from ip2pbatch.train.fit.loop import Batch
from ip2pbatch.train.fit.objective import Dropout, dropped

AHEAD = 2  # parts that are read while the network works


@dataclass(frozen=True)
class View:
    """How pictures are augmented: `count` cached views of a pair, 0 for a new one each time; `squash`ed to squares."""

    side: int = 256
    resize: tuple[int, int] = (256, 288)
    flip: float = 0.5
    count: int = 0
    seed: int = 0
    squash: bool = False


@dataclass(frozen=True)
class Draw:
    """One sample of the walk, and its own randomness."""

    prompt: int
    pair: int
    view: int
    rng: np.random.Generator


Whole = tuple[Draw, NDArray[np.floating] | None, NDArray[np.uint8] | None]  # with its row, or else its pictures


@dataclass(frozen=True)
class Prepared:
    """A part of a step without what the networks must make: cached rows, or pictures where there are none."""

    draws: list[Draw]
    rows: list[NDArray[np.floating] | None]
    pictures: list[NDArray[np.uint8] | None]


@dataclass(frozen=True)
class Caches:
    """Latents by pair and view, and text embeddings by a prompt's first pair; None where nothing is cached."""

    latents: LatentCache
    texts: RowStore | None


@dataclass(frozen=True)
class Place:
    """This process among the others, and how many samples it takes at once."""

    batch: int
    process: int = 0
    processes: int = 1


class EditBatches:
    """The batches of one training: call it with a part's number. `close` ends its threads."""

    def __init__(
        self,
        pairs: PairSet,
        encoder: Encoder,
        view: View,
        caches: Caches,
        place: Place,
        readers: int = 4,
        left_out: LeftOut | None = None,
    ) -> None:
        self.left_out = left_out  # who counts broken samples; without it the first one is an error
        self.pairs, self.encoder, self.view, self.caches, self.place = pairs, encoder, view, caches, place
        self.dropout, self.levels = Dropout(), 1000
        self._null = encoder.texts([""])[0].astype(encoder.kept)
        self._order = lru_cache(maxsize=2)(self._permutation)
        files = pairs.store.files_of()
        self._files = None if files is None else np.array([files[group[0]] for group in pairs.prompts])
        self._readers = ThreadPoolExecutor(readers, "pictures")
        self._ahead: dict[int, Future[Prepared]] = {}
        self._planner = ThreadPoolExecutor(1, "parts")

    def __call__(self, part: int) -> Batch:
        """Latents, conditioning, noise `[n, c, h, w]`, timesteps `[n]` and what the encoder says of the texts."""
        return self.finish(self.prepared(part))

    def prepared(self, part: int) -> Prepared:
        """`prepare`, with the next parts begun in the background."""
        for number in range(part, part + AHEAD + 1):
            if number not in self._ahead:
                self._ahead[number] = self._planner.submit(self.prepare, number)
        for stale in [number for number in self._ahead if number < part]:
            self._ahead.pop(stale).cancel()
        return self._ahead.pop(part).result()

    def close(self) -> None:
        """Let the threads go."""
        for pool in (self._planner, self._readers):
            pool.shutdown(wait=True, cancel_futures=True)

    def draw(self, position: int) -> Draw:
        """The sample at `position` of the walk."""
        epoch, place = divmod(position, len(self.pairs))
        prompt = int(self._order(epoch)[place])
        rng = np.random.default_rng([self.view.seed, 1, epoch, prompt])
        choices = self.pairs.pairs(prompt)
        pair = int(choices[int(rng.integers(len(choices)))])
        return Draw(prompt, pair, epoch % self.view.count if self.view.count else epoch, rng)

    def _permutation(self, epoch: int) -> NDArray[np.int64]:
        """All prompts, or, where files are fetched one at a time, those of a few files after those of a few others."""
        rng = np.random.default_rng([self.view.seed, 0, epoch])
        if self._files is None:
            return rng.permutation(len(self.pairs))
        files = rng.permutation(np.unique(self._files))
        windows = (files[begin : begin + MIXED] for begin in range(0, len(files), MIXED))
        return np.concatenate([rng.permutation(np.flatnonzero(np.isin(self._files, window))) for window in windows])

    def prepare(self, part: int) -> Prepared:
        """All of a part that needs no network; pictures are read in several threads."""
        begin = (part * self.place.processes + self.place.process) * self.place.batch
        draws = [self.draw(position) for position in range(begin, begin + self.place.batch)]
        places = range(begin, begin + self.place.batch)
        found = list(self._readers.map(self.whole, draws, places))
        return Prepared([one[0] for one in found], [one[1] for one in found], [one[2] for one in found])

    def whole(self, draw: Draw, position: int) -> Whole:
        """A sample with its latents or its pictures. In the place of a broken one stands the next pair of its prompt,
        or of the prompts that follow in the walk: the same ones whoever reads them, and however often."""
        for stand_in in self._instead(draw, position):
            row = self.caches.latents.get(stand_in.pair, stand_in.view)
            if row is not None:
                return stand_in, row, None
            try:
                return stand_in, None, self.read(stand_in)
            except BrokenSampleError as error:
                if self.left_out is None:
                    raise
                self.left_out.add(error)
        raise RecipeError(
            "every pair of the set is broken",
            file=self.pairs.store.place(draw.pair),
            hint="fetch or make the set again",
        )

    def _instead(self, draw: Draw, position: int) -> Iterator[Draw]:
        epoch, place = divmod(position, len(self.pairs))
        for step in range(len(self.pairs)):
            prompt = int(self._order(epoch)[(place + step) % len(self.pairs)])
            choices = list(self.pairs.pairs(prompt))
            first = choices.index(draw.pair) if step == 0 else 0
            for pair in choices[first:] + choices[:first]:
                yield replace(draw, prompt=prompt, pair=int(pair))

    def read(self, draw: Draw) -> NDArray[np.uint8]:
        """A pair's pictures in the sample's view, uint8 `[2, side, side, 3]`."""
        view, rng = self.view, np.random.default_rng([self.view.seed, 2, draw.view, draw.pair])
        return augment(self.pairs.pictures(draw.pair), view.side, view.resize, view.flip, rng, squash=view.squash)

    def finish(self, prepared: Prepared) -> Batch:
        """Encode what is missing, and draw noise, timesteps and dropout."""
        draws = prepared.draws
        found = posteriors_of(self.rows(prepared))
        shape = found.mean.shape[1:]
        uniform = np.array([draw.rng.random() for draw in draws])
        timesteps = np.array([draw.rng.integers(self.levels) for draw in draws])
        noises = np.stack([draw.rng.standard_normal((2, *shape), dtype=np.float32) for draw in draws], axis=1)
        latents = (found.mean + np.exp(0.5 * found.log_variance) * noises[0]) * np.float32(self.encoder.scaling_factor)
        no_text, no_image = dropped(uniform, self.dropout)
        text, image = self.texts([draw.prompt for draw in draws]), found.image
        text[no_text], image[no_image] = self._null, 0
        arrays = {"latents": latents, "image": image, "noise": noises[1], "timesteps": timesteps}
        arrays |= self.encoder.conditioning(text, self.view.side)
        return {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in arrays.items()}

    def rows(self, prepared: Prepared) -> list[NDArray[np.floating]]:
        """The part's latents, those that were missing encoded together and kept."""
        missing = [index for index, row in enumerate(prepared.rows) if row is None]
        rows = list(prepared.rows)
        if missing:
            pictures = [picture for index in missing if (picture := prepared.pictures[index]) is not None]
            made = encode_rows(self.encoder, np.stack(pictures))
            for index, row in zip(missing, made, strict=True):
                rows[index] = row
                self.caches.latents.put(prepared.draws[index].pair, prepared.draws[index].view, row)
        return [row for row in rows if row is not None]

    def texts(self, prompts: Sequence[int]) -> NDArray[np.float32]:
        """The instructions' embeddings, from the cache where they are."""
        store = self.caches.texts
        keys = [self.pairs.pairs(prompt)[0] for prompt in prompts]
        rows = [store.get(key) if store else None for key in keys]
        missing = [index for index, row in enumerate(rows) if row is None]
        if missing:
            made = self.encoder.texts([self.pairs.instruction(prompts[index]) for index in missing])
            for index, row in zip(missing, made.astype(self.encoder.kept), strict=True):
                rows[index] = row
                if store:
                    store.put(keys[index], row)
        return np.stack([row for row in rows if row is not None]).astype(np.float32)
