"""Sample sheets of a training on pairs: pictures, held out where some are, what they should become, and what the model
makes."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import DiffusionPipeline
from numpy.typing import NDArray
from PIL import Image

from ip2pbatch.backends.pytorch import accelerators
from ip2pbatch.backends.pytorch.backend import load
from ip2pbatch.backends.quiet import quiet
from ip2pbatch.backends.weights import resolve
from ip2pbatch.engine.editor import Editor
from ip2pbatch.plan.edits import Guidance, make_edit
from ip2pbatch.run.directory.kept import Kept
from ip2pbatch.run.engine import Source
from ip2pbatch.show.lettering import wrap
from ip2pbatch.show.page import PAGE, Box, Heading, Measure, Tile
from ip2pbatch.show.table import Row, Table, draw_page

Rgb = NDArray[np.uint8]


@dataclass(frozen=True)
class HeldOut:
    """A pair to look at, not trained on unless all are: uint8 `[side, side, 3]`, and the instruction between."""

    before: Rgb
    after: Rgb
    instruction: str


@dataclass(frozen=True)
class Making:
    """How samples are made: the text scale, the image scales of the columns, steps and the device; and of what."""

    text: float
    image: tuple[float, ...]
    steps: int
    device: str
    held_out: bool = True  # whether the pairs are not trained on
    sampler: str = "euler_a"


def edit_held_out(model: Path, pairs: Sequence[HeldOut], making: Making) -> list[list[Rgb]]:
    """For each pair its edits, one an image scale, all from the same noise; black where no picture came out."""
    precision = "fp16" if accelerators.is_nvidia(making.device) else "fp32"
    editor = Editor(load(resolve(str(model)), making.device, precision), determinism="fast")
    found = []
    for number, pair in enumerate(pairs):
        size = (pair.before.shape[1], pair.before.shape[0])
        edits = [
            make_edit(f"held-out-{number}", pair.instruction, Guidance(making.text, image), number, steps=making.steps,
                      sampler=making.sampler, size=size) for image in making.image
        ]  # fmt: skip
        results = editor.edit(edits, [Source(pixels=pair.before)] * len(edits))
        found.append([np.zeros_like(pair.before) if one.image is None else one.image for one in results])
    return found


def edit_by_pipeline(model: Path, pairs: Sequence[HeldOut], making: Making) -> list[list[Rgb]]:
    """The same with an SDXL, by the pipeline of diffusers that its folder names."""
    precision = torch.float16 if accelerators.is_nvidia(making.device) else torch.float32
    found = []
    with quiet():
        pipeline = DiffusionPipeline.from_pretrained(model, torch_dtype=precision, add_watermarker=False)
        pipeline.to(making.device).set_progress_bar_config(disable=True)
        for number, pair in enumerate(pairs):
            height, width = pair.before.shape[:2]
            asked = {
                "prompt": pair.instruction, "image": Image.fromarray(pair.before), "guidance_scale": making.text,
                "num_inference_steps": making.steps, "height": height, "width": width,
            }  # fmt: skip
            noises = [torch.Generator("cpu").manual_seed(number) for _ in making.image]
            found.append([np.asarray(pipeline(**asked, image_guidance_scale=image, generator=noise).images[0])
                          for image, noise in zip(making.image, noises, strict=True)])  # fmt: skip
    return found


def draw_samples(
    pairs: Sequence[HeldOut], edited: Sequence[Sequence[Rgb]], making: Making, subject: str
) -> Image.Image:
    """The sheet: a row a pair; before, after, and the model's edit with each image scale."""
    title = "held-out pairs" if making.held_out else "pairs that are trained on"
    side = pairs[0].before.shape[0]
    measure, box = Measure(max(side, 192)), Box(max(side, 192), max(side, 192), 2)
    with tempfile.TemporaryDirectory() as folder:

        def tile(pixels: Rgb, caption: str, name: str) -> Tile:
            path = Path(folder) / f"{name}.png"
            Image.fromarray(pixels).save(path)
            first, second = (*wrap(caption, measure.text, box.width - 2 * measure.pad, 2), "")[:2]
            return Tile(first, second, picture=Kept(path))

        rows = []
        for number, (pair, pictures) in enumerate(zip(pairs, edited, strict=True)):
            tiles = [tile(pair.after, "what it should become", f"{number}-after")]
            tiles += [tile(picture, f"s_I {scale:g}", f"{number}-{scale}")
                      for scale, picture in zip(making.image, pictures, strict=True)]  # fmt: skip
            rows.append(Row(tile(pair.before, pair.instruction, f"{number}-before"), tuple(tiles)))
        heads = ("target", *(f"s_T {making.text:g}, s_I {scale:g}" for scale in making.image))
        table = Table(tuple(rows), heads, box)
        return draw_page(table, Heading(title, subject, (), ""), measure, PAGE)
