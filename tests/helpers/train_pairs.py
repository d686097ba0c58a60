"""Small sets of training pairs in the released layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tiny_models import make_picture

from ip2pbatch.train.data.released import DATASET, Prompt, Sample, write_prompt, write_seeds


def make_dataset(folder: Path, prompts: int = 20, side: int = 40) -> Path:
    """`folder/dataset` with one or two pairs a prompt: pictures, and the same inverted."""
    seeds = {}
    for number in range(prompts):
        prompt = Prompt(number, f"a photo of {number}", f"invert {number}", f"a negative of {number}")
        pairs = {}
        for seed in range(1 + number % 2):
            before = make_picture(10 * number + seed, (side, side))
            pairs[seed] = (before, np.asarray(255 - before))
        write_prompt(folder / DATASET, prompt, [Sample(seed) for seed in pairs], pairs)
        seeds[prompt.folder] = sorted(pairs)
    write_seeds(folder / DATASET, seeds)
    return folder
