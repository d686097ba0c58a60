"""The filter's report, one picture: how the similarities are spread, where the thresholds cut, and pairs to look at."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageOps

from ip2pbatch.show.lettering import draw_line, draw_line_to, line_height, wrap
from ip2pbatch.show.page import AMBER, DIM, INK, MAT, PAGE, RULE
from ip2pbatch.train.data.released import Prompt

WIDTH, MARGIN, GAP, COLUMNS = 1680, 48, 24, 4
CELL = (WIDTH - 2 * MARGIN - (COLUMNS - 1) * GAP) // COLUMNS
SIDE = (CELL - 4) // 2
TEXT, HEADING = 15, 21
CHART, BINS = 150, 60
# The released names in words, and the threshold that each has.
NAMES = {
    "clip_sim_0": ("caption, before", "caption"),
    "clip_sim_1": ("caption, after", "caption"),
    "clip_sim_dir": ("direction", "direction"),
    "clip_sim_image": ("image", "image"),
}
REASONS = {
    "kept": "Kept",
    "clip_sim_0": "Dropped: the picture before is not what its caption says",
    "clip_sim_1": "Dropped: the picture after is not what its caption says",
    "clip_sim_dir": "Dropped: the pictures do not change as the captions do",
    "clip_sim_image": "Dropped: before and after have too little in common",
    "surplus": "Passed, but others of the same prompt were chosen",
}


@dataclass(frozen=True)
class Judged:
    """One pair: its similarities by released name, whether it is kept, why not, and its two picture files if any."""

    prompt: Prompt
    similarities: Mapping[str, float]
    kept: bool
    why: str
    pictures: tuple[Path, Path] | None

    @property
    def group(self) -> str:
        """The heading of REASONS that it belongs under."""
        return "kept" if self.kept else self.why


@dataclass
class Collected:
    """Similarities `[n, 4]` with who is kept, the count of every group, and a few examples of each."""

    rows: list[tuple[float, ...]] = field(default_factory=list)
    kept: list[bool] = field(default_factory=list)
    prompts: set[int] = field(default_factory=set)
    counts: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    examples: dict[str, list[tuple[bytes, Judged]]] = field(default_factory=lambda: defaultdict(list))

    def add(self, one: Judged) -> None:
        """Count a pair; the examples are those of the smallest hashes, which is a fair draw and always the same."""
        self.rows.append(tuple(one.similarities[name] for name in NAMES))
        self.kept.append(one.kept)
        self.prompts.add(one.prompt.number)
        self.counts[one.group] += 1
        self.show(one)

    def show(self, one: Judged) -> None:
        """Take a pair that has pictures for an example."""
        if one.pictures:
            place = hashlib.sha256("/".join(one.pictures[0].parts[-2:]).encode()).digest()
            others = self.examples[one.group]
            others.append((place, one))
            others.sort(key=lambda pair: pair[0])
            del others[(2 if one.kept else 1) * COLUMNS :]


def draw_report(
    path: Path, judged: Iterable[Judged], thresholds: Mapping[str, float], shown: Iterable[Judged] = ()
) -> None:
    """Write the page of all judged pairs; nothing where there is none. `shown` are examples that are not counted."""
    found = Collected()
    for one in judged:
        found.add(one)
    if not found.rows:
        return
    for one in shown:
        found.show(one)
    parts = [draw_head(found), draw_charts(found, thresholds)]
    for group, title in REASONS.items():
        if found.counts[group]:
            share = f"{found.counts[group]:,} pairs, {found.counts[group] / len(found.rows):.1%}"
            parts += [draw_heading(title, share), draw_examples([one for _, one in found.examples[group]])]
    page = Image.new("RGB", (WIDTH, sum(part.height for part in parts) + MARGIN), PAGE)
    top = 0
    for part in parts:
        page.paste(part, (0, top))
        top += part.height
    path.parent.mkdir(parents=True, exist_ok=True)
    page.save(path, optimize=True)


def blank(height: int) -> Image.Image:
    """A strip of the page."""
    return Image.new("RGB", (WIDTH, height), PAGE)


def draw_head(found: Collected) -> Image.Image:
    """What was judged, in one line."""
    strip = blank(MARGIN + line_height(30) + GAP)
    kept = sum(found.kept)
    said = f"{kept:,} of {len(found.rows):,} pairs kept ({kept / len(found.rows):.1%})"
    draw_line(strip, (MARGIN, MARGIN), said, size=30, fill=INK, bold=True)
    draw_line_to(
        strip, (WIDTH - MARGIN, MARGIN + 10), f"{len(found.prompts):,} prompts", size=HEADING, fill=DIM
    )  # fmt: skip
    return strip


def draw_heading(title: str, share: str) -> Image.Image:
    """A rule, a title, and how many pairs it is about."""
    strip = blank(GAP + line_height(HEADING) + 14)
    ImageDraw.Draw(strip).line((MARGIN, GAP // 2, WIDTH - MARGIN, GAP // 2), fill=RULE)
    draw_line(strip, (MARGIN, GAP), title, size=HEADING, fill=INK, bold=True)
    draw_line_to(strip, (WIDTH - MARGIN, GAP + 3), share, size=TEXT + 2, fill=DIM)
    return strip


def draw_charts(found: Collected, thresholds: Mapping[str, float]) -> Image.Image:
    """A histogram of each similarity: all pairs, and in front those that are kept."""
    strip = blank(line_height(HEADING) + CHART + 2 * line_height(TEXT) + 14)
    values, kept = np.array(found.rows), np.array(found.kept)
    for column, (title, key) in enumerate(NAMES.values()):
        left = MARGIN + column * (CELL + GAP)
        draw_line(strip, (left, 0), title, size=HEADING, fill=INK, bold=True)
        place = (left, line_height(HEADING) + 6)
        draw_chart(strip, place, values[:, column], kept, thresholds[key])
    return strip


def draw_chart(
    strip: Image.Image, place: tuple[int, int], values: np.ndarray, kept: np.ndarray, least: float
) -> None:  # fmt: skip
    """One histogram at `place`, its threshold as a line, its range and the passing part below."""
    pen, (left, top) = ImageDraw.Draw(strip), place
    low = np.floor(min(values.min(), least) * 20) / 20
    high = max(np.ceil(max(values.max(), least) * 20) / 20, low + 0.05)
    every, edges = np.histogram(values, BINS, (low, high))
    chosen, _ = np.histogram(values[kept], BINS, (low, high))
    pen.rectangle((left, top, left + CELL, top + CHART), fill=MAT)
    for counts, colour in ((every, "#9a9a9a"), (chosen, "#2f6f4f")):
        for number, count in enumerate(counts):
            x0, x1 = (left + round((edges[number + k] - low) / (high - low) * CELL) for k in (0, 1))
            height = round(count / max(1, every.max()) * (CHART - 6))
            if height:
                pen.rectangle((x0, top + CHART - height, max(x0, x1 - 1), top + CHART), fill=colour)
    x = left + round((least - low) / (high - low) * CELL)
    pen.line((x, top - 4, x, top + CHART), fill=AMBER, width=3)
    below = top + CHART + 5
    draw_line(strip, (left, below), f"{low:.2f}", size=TEXT, fill=DIM)
    draw_line_to(strip, (left + CELL, below), f"{high:.2f}", size=TEXT, fill=DIM)
    said = f"{(values >= least).mean():.0%} reach {least:g}"
    draw_line(strip, (left + CELL // 2 - 60, below), said, size=TEXT, fill=INK)


def draw_examples(examples: Sequence[Judged]) -> Image.Image:
    """Pairs side by side with their words; a line instead where none has pictures."""
    if not examples:
        strip = blank(line_height(TEXT) + GAP)
        said = "No pictures: these pairs were dropped while they were made."
        draw_line(strip, (MARGIN, 0), said, size=TEXT, fill=DIM)
        return strip
    height = SIDE + 6 * line_height(TEXT) + GAP
    strip = blank(height * -(-len(examples) // COLUMNS))
    for number, one in enumerate(examples):
        row, column = divmod(number, COLUMNS)
        draw_example(strip, (MARGIN + column * (CELL + GAP), row * height), one)
    return strip


def draw_example(strip: Image.Image, place: tuple[int, int], one: Judged) -> None:
    """One pair: before, after, the instruction, the edited caption and the four similarities."""
    left, top = place
    for side, file in enumerate(one.pictures or ()):
        with Image.open(file) as opened:
            strip.paste(ImageOps.fit(opened.convert("RGB"), (SIDE, SIDE)), (left + side * (SIDE + 4), top))
    top += SIDE + 6
    for line in wrap(one.prompt.edit, TEXT, CELL, 2):
        draw_line(strip, (left, top), line, size=TEXT, fill=INK, bold=True)
        top += line_height(TEXT)
    for line in wrap(f"{one.prompt.input} → {one.prompt.output}", TEXT - 2, CELL, 2):
        draw_line(strip, (left, top), line, size=TEXT - 2, fill=DIM)
        top += line_height(TEXT - 2)
    found = one.similarities
    said = (
        f"captions {found['clip_sim_0']:.3f}, {found['clip_sim_1']:.3f}"
        f" · direction {found['clip_sim_dir']:.3f} · image {found['clip_sim_image']:.3f}"
    )
    draw_line(strip, (left, top + 2), said, size=TEXT - 2, fill=INK)
