"""The evaluate stage, `maker: emu_edit`: Emu Edit's test set and its five metrics (arXiv 2311.10089, section 5).

    TEST/data/test-*.parquet   a snapshot of facebook/emu_edit_test_set: instruction, image, task, split, idx, hash,
                               input_caption, output_caption; `split: validation` reads those files instead
    GENERATED/<idx>.png        the pictures after, where they were made elsewhere
    scores.journal.jsonl       a line a picture: what resumes

    CLIPdir = cos(I1 − I0, T1 − T0)   CLIPim = cos(I0, I1)   CLIPout = cos(I1, T1)   DINO = cos(D0, D1)
    L1 = mean |before − after| of pixels in 0…1

I are CLIP's vectors of the pictures before and after, T of the captions, D is DINO's. The paper names no sizes and
released no script: the judges (ViT-B/32, dino_vits16), their preprocessing and the pixels are those of MagicBrush's
published script (see magicbrush.py), whose figures the paper reports too. Compare only what was measured alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from PIL import Image
from tqdm import tqdm

from ip2pbatch.disk.journal import Journal, read_journal
from ip2pbatch.errors import PhotoError, RecipeError
from ip2pbatch.measures.clip import Clip, similarities
from ip2pbatch.measures.dino import Dino
from ip2pbatch.pictures.images import load
from ip2pbatch.train.data.parquet import ParquetRows, parquet_below
from ip2pbatch.train.estimates import Estimate
from ip2pbatch.train.judge.benchmarks.benchmark_edits import (
    EditSettings,
    Pictures,
    drawn,
    pictures_of,
)
from ip2pbatch.train.judge.benchmarks.benchmark_rows import RowItem, read_texts, refuse_columns, with_photos
from ip2pbatch.train.judge.benchmarks.benchmark_table import Scored, table_of, write_results
from ip2pbatch.train.judge.benchmarks.benchmark_work import can_be_counted, check_source, rate, work_of_editing
from ip2pbatch.train.judge.magicbrush import VIT_B_32, VIT_S_16, crop, pixel_distances
from ip2pbatch.train.model_names import ModelName
from ip2pbatch.train.stage import Stage

VERSION = 1
TEXTS, PICTURE = ("idx", "task", "split", "instruction", "input_caption", "output_caption"), "image"
COLUMNS = ("CLIPim", "CLIPout", "L1", "DINO", "CLIPdir")
JOURNAL = "scores.journal.jsonl"
MOST = 0.25  # the end of the chart's axis, of CLIPdir


class Config(EditSettings):
    """What is edited, and what measures it."""

    maker: Literal["emu_edit"]
    test: Path  # the snapshot
    split: Literal["test", "validation"] = "test"
    clip: ModelName = ModelName(VIT_B_32)
    dino: ModelName = ModelName(VIT_S_16)


@dataclass(frozen=True, slots=True)
class EmuItem(RowItem):
    """One edit; `captions` say what is seen before and after."""

    captions: tuple[str, str]


def read_items(config: Config) -> tuple[ParquetRows, list[EmuItem]]:
    """The set and its edits, by task. Their photos are not there yet."""
    files = [
        path for folder in (config.test, config.test / "data") for path in folder.glob(f"{config.split}-*.parquet")
    ]
    rows = ParquetRows(sorted(files) or parquet_below(config.test))
    refuse_columns(rows, (*TEXTS, PICTURE), config.test, "a snapshot of facebook/emu_edit_test_set")
    items, seen = [], set[str]()
    for number, (idx, task, split, instruction, before, after) in enumerate(read_texts(rows, TEXTS)):
        if split != config.split:
            continue
        key = str(idx)
        if key in seen:
            raise RecipeError(f"idx {key} is there twice", file=rows.place(number), hint="keep one snapshot in `test`")
        seen.add(key)
        items.append(EmuItem(key, task, instruction, Path(), number, (before, after)))
    return rows, sorted(items, key=lambda one: one.group)


@dataclass(frozen=True)
class Measures:
    """The networks, and what they make of an edit."""

    clip: Clip
    dino: Dino

    def score(self, item: EmuItem, after: Path) -> tuple[float, ...]:
        """COLUMNS of one edit. PhotoError where a picture cannot be read."""
        pair = [Image.fromarray(load(path).pixels) for path in (item.photo, after)]
        distance = pixel_distances(pair[1], pair[0])[0]
        side = self.clip.side
        seen = self.clip.images(torch.stack([crop(picture, side, side) for picture in pair]))
        features = self.dino.images(torch.stack([crop(picture, 256, 224) for picture in pair]))
        (found,) = similarities(seen[:1], seen[1:], *self.clip.texts(item.captions).split(1))
        dino = float(features[0] @ features[1])
        return found.clip_sim_image, found.clip_sim_1, distance, dino, found.clip_sim_dir


def measure(
    items: Sequence[EmuItem], made: Pictures, config: Config, journal: Path
) -> tuple[dict[str, tuple[float, ...]], dict[str, str]]:
    """By key, the scores of every picture and why another has none; what the journal has is not measured again."""
    known = {str(row["key"]): tuple(row["scores"]) for row in read_journal(journal)}
    reasons = {key: f"no picture: {one.reason}" for key, one in made.made.items() if one.path is None}
    left = [(one, path) for one in items if one.key not in known and (path := made[one.key].path)]
    if not left:
        return known, reasons
    measures, lines = Measures(Clip.load(config.clip), Dino.load(config.dino)), Journal(journal, sealed=True)
    try:
        for one, path in tqdm(left, "measuring", mininterval=5):
            try:
                known[one.key] = measures.score(one, path)
            except PhotoError as error:
                reasons[one.key] = str(error)
            else:
                lines.append({"key": one.key, "scores": list(known[one.key])})
    finally:
        lines.close()
    return known, reasons


def run(config: Config, inputs: dict[str, Path], folder: Path, photos: Path | None) -> dict[str, float]:
    """Edit what is missing, measure it, and write report.md, report.png and scores.jsonl."""
    rows, found = read_items(config)
    items = with_photos(rows, drawn(found, config), PICTURE, folder.parent / "edits" / "photos")
    made = pictures_of(items, config, inputs, folder.parent, {one.key: f"{one.key}.png" for one in items})
    values, reasons = measure(items, made, config, folder / JOURNAL)
    scored = [
        Scored(one.key, one.group, str(one.photo), one.instruction, values.get(one.key), reasons.get(one.key, ""))
        for one in items
    ]
    table = table_of(f"Emu Edit, {config.split}", COLUMNS, scored, MOST, config.resamples)
    head = [
        "Means with 95 % intervals (bootstrap over the photos). CLIPdir, CLIPout: more is better; CLIPim, DINO: more",
        "of the photo is kept; L1: less of it is changed.",
    ]
    return write_results(folder, [table], scored, head) | made.figures


def estimate(settings: Config, counts: Estimate) -> Estimate:
    """An edit of each, and a look at it."""
    if not can_be_counted(settings.test):
        return counts
    edits = len(drawn(read_items(settings)[1], settings))
    return replace(counts, **work_of_editing(settings, edits, f"{edits:,} measured"))


STAGE = Stage(Config, run, VERSION, check=check_source, estimate=estimate, rate=rate)
