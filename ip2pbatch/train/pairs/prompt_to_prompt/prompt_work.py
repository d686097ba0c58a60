"""One prompt's folder of pairs while it is made: a sample at a time, so that a kill loses none that has its line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ip2pbatch.disk.atomic import disk_error, strays, sweep, write_whole
from ip2pbatch.disk.journal import Journal, read_journal
from ip2pbatch.train.data.released import AFTER, BEFORE, METADATA, PROMPT, Chroma, Prompt, Sample, jpeg, sample_of
from ip2pbatch.train.pairs.filter import PairFilter


class PromptWork:
    """`dataset/.0000012`, which becomes `dataset/0000012` when each of `seeds` has its line.

    A picture comes before its line, and a picture that a better one displaces goes after the better one's line: what
    the lines say is kept is always there. What a kill leaves besides is removed in the end.
    """

    def __init__(
        self, dataset: Path, prompt: Prompt, seeds: Sequence[int], judge: PairFilter | None, chroma: Chroma = "full"
    ) -> None:
        self._chroma = chroma
        self.prompt, self._seeds, self._judge = prompt, tuple(seeds), judge
        self._final, self._partial = dataset / prompt.folder, dataset / f".{prompt.folder}"
        sweep(strays([self._partial]))
        self._journal: Journal | None = None
        lines = enumerate(read_journal(self._partial / METADATA), start=1)
        found = (sample_of(row, self._partial / METADATA, line) for line, row in lines)
        self._samples = {sample.seed: sample for sample in found}

    def missing(self) -> list[int]:
        """The seeds that have no line yet."""
        return [seed for seed in self._seeds if seed not in self._samples]

    def add(self, sample: Sample, pictures: NDArray[np.uint8]) -> None:
        """Note a sample, its pictures [2, h, w, 3] written first where they are kept; ResourceError where the disk is
        full. The prompt's last sample makes the folder whole."""
        if self._journal is None:
            self._journal = Journal(self._partial / METADATA)
        before = self._kept()
        self._samples[sample.seed] = sample
        after = self._kept()
        if sample.seed in after:
            for suffix, pixels in zip((BEFORE, AFTER), pictures, strict=True):
                write_whole(self._partial / f"{sample.seed}{suffix}", jpeg(pixels, self._chroma))
        self._journal.append(sample.row())
        for seed in before - after:
            for suffix in (BEFORE, AFTER):
                (self._partial / f"{seed}{suffix}").unlink(missing_ok=True)
        if not self.missing():
            self.finish()

    def finish(self) -> None:
        """Every sample having its line: what belongs to no kept pair goes, and the folder gets its name."""
        (self._journal or Journal(self._partial / METADATA)).close()  # which also cuts off a torn line
        names = {f"{seed}{suffix}" for seed in self._kept() for suffix in (BEFORE, AFTER)} | {METADATA}
        try:
            for path in self._partial.iterdir():
                if path.name not in names:
                    path.unlink()
            write_whole(self._partial / PROMPT, (json.dumps(self.prompt.row(), ensure_ascii=False) + "\n").encode())
            self._partial.rename(self._final)
        except OSError as error:
            raise disk_error(error, self._final) from error

    def _kept(self) -> set[int]:
        """The seeds whose pictures belong on the disk, of the samples so far."""
        if self._judge is not None:
            return set(self._judge.keep(list(self._samples.values())))
        return {seed for seed, sample in self._samples.items() if not sample.extra.get("broken")}
