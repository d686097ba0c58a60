"""The work that every contender is given: photos as files, and the edits of a scenario on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ip2pbatch.errors import NothingMatchedError, UsageError
from ip2pbatch.plan.defaults import model_defaults
from ip2pbatch.plan.edits import Edit, Guidance, Photo, Plan, Strip, make_edit
from ip2pbatch.plan.expand import model_size
from ip2pbatch.plan.photos import scan
from ip2pbatch.plan.written.ranges import Size
from ip2pbatch.plan.written.recipe import PhotoFolder

SEED = 1371
OWN = "own"
"""The scenario of a model's own defaults."""
_INSTRUCTIONS = ("make it winter", "make it night", "make it a sunset", "turn it into a watercolor painting")


@dataclass(frozen=True, slots=True)
class Scenario:
    """Which edits a photo gets: every instruction at every pair of scales. Same noise in all cells of one photo. One
    without `cells` asks for what the model's own defaults are: scales, steps and sampler.
    """

    says: str
    instructions: tuple[str, ...]
    cells: tuple[Guidance, ...]


def _grid(texts: Sequence[float], images: Sequence[float]) -> tuple[Guidance, ...]:
    return tuple(Guidance(text, image) for text in texts for image in images)


# Scales at which diffusers' pipeline follows the formula too (s_T > 1, s_I ≥ 1), so that everybody does equal work.
SCENARIOS = {
    "three-rows": Scenario("one edit a photo, three rows a step", _INSTRUCTIONS[:1], (Guidance(7.5, 1.5),)),
    "two-rows": Scenario("one edit a photo at s_I = 1, two rows a step", _INSTRUCTIONS[:1], (Guidance(1.15, 1.0),)),
    OWN: Scenario("one edit a photo at the model's own defaults", _INSTRUCTIONS[:1], ()),
    "sheet-row": Scenario(
        "four cells a photo at s_I = 1, the row of a sheet where one row a step falls away",
        _INSTRUCTIONS[:1], _grid((1.5, 2.5, 4.0, 7.5), (1.0,)),
    ),
    "grid": Scenario(
        "four instructions over a 4 × 4 grid with s_I = 1 and s_I = s_T points",
        _INSTRUCTIONS, _grid((1.5, 2.0, 5.0, 7.5), (1.0, 1.2, 1.5, 2.0)),
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Work:
    """Edits and the photos that they start from; `strips` is each photo with the edits that are its own."""

    model: str
    photos: tuple[Photo, ...]
    strips: tuple[Strip, ...]

    @property
    def edits(self) -> tuple[Edit, ...]:
        return tuple(edit for strip in self.strips for edit in strip.edits)

    @property
    def paths(self) -> dict[str, Path]:
        """A photo's file by its digest."""
        return {photo.digest: photo.path for photo in self.photos}

    def head(self, edits: int) -> Work:
        """The first `edits` edits, at least one: enough to warm up, and to compare pictures."""
        strips = self.strips[: max(1, edits)]
        photos = tuple(dict.fromkeys(strip.photo for strip in strips))
        return Work(self.model, photos, strips)

    def plan(self) -> Plan:
        """The same as the plan of a run."""
        return Plan("bench", self.model, self.photos, self.strips, self.edits)


def make_work(
    scenario: Scenario, folder: Path, photos: Sequence[Photo], *, steps: int, long_side: int | None = None
) -> Work:
    """The edits of `scenario` on `photos` with the model in `folder`, at its own size or `long_side`: of euler_a with
    `steps`, or as the model's own defaults say.
    """
    defaults, sampler = model_defaults(str(folder)), "euler_a"
    cells = scenario.cells or (Guidance(defaults.text, defaults.image),)
    if not scenario.cells:
        steps, sampler = defaults.steps, defaults.sampler
    size = None if long_side is None else Size(long_side=long_side)
    strips = []
    for number, photo in enumerate(photos):
        for words in scenario.instructions:
            for cell in cells:
                edit = make_edit(
                    photo.digest, words, cell, SEED + number, steps=steps, sampler=sampler,
                    size=model_size(photo, size, defaults),
                )  # fmt: skip
                strips.append(Strip(photo, "bench", cell, SEED + number, (edit,), (1,)))
    if not strips:
        raise NothingMatchedError("there is no photo to edit", hint="give a folder with photos to --photos")
    return Work(str(folder), tuple(photos), tuple(strips))


def photos_in(folder: Path | None, count: int, cache: Path, megapixels: float = 0.75) -> tuple[Photo, ...]:
    """The first `count` photos of `folder`; without a folder, drawn ones of `megapixels`, square, kept in `cache`.

    Raises UsageError where the folder has fewer: the same photo twice would be one edit.
    """
    if folder is None:
        folder = cache / f"photos-{megapixels:g}"
        for number in range(count):
            _draw(folder / f"{number:03d}.jpg", number, megapixels)
    found = tuple(scan([PhotoFolder.model_validate(folder, context=Path.cwd())]).limit(count).photos)
    if len(found) < count:
        raise UsageError(f"{folder} has {len(found)} photos, {count} are needed", hint="give another folder or --count")
    return tuple(found)


def _draw(file: Path, seed: int, megapixels: float) -> None:
    """A JPEG of waves, discs and grain, about as costly to decode as a photograph; left alone where it is there."""
    if file.exists():
        return
    rng = np.random.default_rng(seed)
    side = round((megapixels * 1e6) ** 0.5)
    down, across = np.mgrid[0:512, 0:512].astype(np.float32) / 512
    waves = [np.sin(2 * np.pi * (a * across + b * down) + c) for a, b, c in rng.uniform(-3, 3, (3, 3))]
    picture = 0.5 + 0.3 * np.stack(waves, axis=-1)
    for _ in range(8):
        x, y, radius = *rng.uniform(0, 1, 2), rng.uniform(0.03, 0.2)
        picture[(across - x) ** 2 + (down - y) ** 2 < radius**2] = rng.uniform(0.05, 0.95, 3)
    large = np.asarray(Image.fromarray((picture.clip(0, 1) * 255).astype(np.uint8)).resize((side, side)), np.int16)
    repeats = -(-side // 512)
    grain = np.tile(rng.normal(0, 5, (512, 512, 1)).astype(np.int16), (repeats, repeats, 1))[:side, :side]
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((large + grain).clip(0, 255).astype(np.uint8)).save(file, quality=92)
