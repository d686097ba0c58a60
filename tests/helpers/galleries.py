"""Runs of the fake engine for the tests of sheets and report: a recipe carried out on drawn photos."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from runs import Wrapped

from ip2pbatch.plan.defaults import model_defaults
from ip2pbatch.plan.edits import Edit, Plan
from ip2pbatch.plan.expand import expand
from ip2pbatch.plan.memory import Memory
from ip2pbatch.plan.photos import scan
from ip2pbatch.plan.written.recipe import load_recipe
from ip2pbatch.run.directory.ledger import open_run
from ip2pbatch.run.directory.lines import EngineSpec, Invocation
from ip2pbatch.run.directory.view import RunView, read_run
from ip2pbatch.run.engine import Result
from ip2pbatch.run.execute import Options, run_plan

RECIPE = """
name: seasons
model: tiny
photos: photos
edits:
  - make it winter
  - {id: night, instruction: make it night, text: [5, 7.5, 10], image: [1, 1.25, 1.5]}
  - {id: trip, chain: [make it rain, make it dark, make it dry], keep: [1, 3]}
size: {long_side: 64}
steps: 5
"""


def draw_photo(path: Path, size: tuple[int, int]) -> None:
    """A soft ground with a white disc in the middle, a third of the short side wide."""
    down, across = np.mgrid[0 : size[1], 0 : size[0]].astype(np.float32)
    ground = np.stack([60 + 40 * np.sin(across / 31), 70 + 30 * np.cos(down / 17), 90 + 0 * down], -1)
    image = Image.fromarray(ground.astype(np.uint8))
    radius = min(size) / 6
    centre = size[0] / 2, size[1] / 2
    disc = (centre[0] - radius, centre[1] - radius, centre[0] + radius, centre[1] + radius)
    ImageDraw.Draw(image).ellipse(disc, fill="white")
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, quality=95)


def make_run(
    folder: Path,
    recipe: str = RECIPE,
    photos: Mapping[str, tuple[int, int]] | None = None,
    after: Callable[[Edit, Result], Result] = lambda edit, result: result,
    metrics: Callable[[Edit], dict[str, float]] = lambda edit: {
        "l1": 0.2,
        "ssim": 0.5,
        "changed": 0.4,
        "structure": 0.6,
    },
) -> RunView:
    """Write photos and a recipe under `folder`, carry it out in `folder/out`, and read the run."""
    for name, size in (photos or {"a.jpg": (120, 80), "b.jpg": (80, 120)}).items():
        draw_photo(folder / "photos" / name, size)
    path = folder / "recipe.yaml"
    path.write_text(recipe, encoding="utf-8")
    with open_run(folder / "out", EngineSpec("tiny", "", "fake", "cpu", "float32", "stable")) as run:
        plan = plan_of(path)
        run.begin_session(plan, Invocation("2026-01-01T00:00:00Z", "run", recipe=recipe))
        options = Options(score=lambda edit, source, image: metrics(edit))
        run_plan(plan, run, Wrapped(after=after), options)
    return read_run(folder / "out")


def plan_of(path: Path) -> Plan:
    """What the recipe in `path` asks for."""
    recipe = load_recipe(path)
    photos = scan(recipe.photos, memory=Memory(path.parent / "looks.sqlite"))
    return expand(recipe, photos, model_defaults(recipe.model))
