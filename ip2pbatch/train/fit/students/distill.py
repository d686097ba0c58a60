"""The finetune stage, `maker: distill`: a student of an InstructPix2Pix model that reads both guidance scales.

One row a step for any pair of the scales it was taught, and few steps (see `distillation`). It learns from what its
teacher says of the pairs of a pack stage, of latents (with the captions that name their families) or of pictures, and
is a model's folder as any other.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from diffusers import DDPMScheduler, EulerAncestralDiscreteScheduler
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import nn

from ip2pbatch.backends.pytorch.guidance_embedding import with_scales
from ip2pbatch.errors import ModelError
from ip2pbatch.plan.edits import Guidance
from ip2pbatch.plan.written.choices import Sampler
from ip2pbatch.plan.written.yaml_source import Mistake
from ip2pbatch.train.captions.wordings_stage import read_captions
from ip2pbatch.train.data.broken import LeftOut
from ip2pbatch.train.data.columns import ColumnsOrPreset
from ip2pbatch.train.data.pack_latents import load_autoencoder, read_whole
from ip2pbatch.train.data.pair_sets import open_pairs
from ip2pbatch.train.estimates import (
    BYTES_A_WEIGHT,
    KEPT,
    RELEASED_PROMPTS,
    SAMPLES,
    VIEW,
    Estimate,
    accumulation,
    checkpoint_bytes,
    memory,
    text_bytes,
    weights_of,
)
from ip2pbatch.train.fit import scratch, stable_diffusion
from ip2pbatch.train.fit.edit_batches import Place
from ip2pbatch.train.fit.grid import draw_grid, held_out_squares
from ip2pbatch.train.fit.loop import Batch, Hooks, LoopSettings, begins_at, make_accelerator, train
from ip2pbatch.train.fit.networks import Networks
from ip2pbatch.train.fit.objective import Dropout
from ip2pbatch.train.fit.samples import Making, draw_samples, edit_held_out
from ip2pbatch.train.fit.save_model import Defaults, write_model
from ip2pbatch.train.fit.students.distillation import Distillation, Forerunner, Objective
from ip2pbatch.train.model_names import DataSource, ModelName, folder_of
from ip2pbatch.train.stage import Stage, misfits, one_source

VERSION = 1
LEARNING = 3  # what a sample that is learned from costs, in passes forward: backward costs two
SPACING = "trailing"  # of a student's few steps: the first is pure noise


class Scales(BaseModel):
    """Which scales are taught: low + (high − low) · u^`lean` for even u in 0…1. A `lean` above 1 prefers low ones."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    text: tuple[float, float] = (1.0, 14.0)
    image: tuple[float, float] = (1.0, 2.5)
    lean: float = Field(1.0, gt=0)

    @model_validator(mode="after")
    def _in_order(self) -> Scales:
        if self.text[0] >= self.text[1] or self.image[0] >= self.image[1]:
            raise ValueError("a range is two scales, the lower one first")
        return self

    def draw(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """float32 [count, 2] of (s_T, s_I)."""
        low, high = np.array([self.text, self.image], np.float32).T
        drawn: np.ndarray = low + (high - low) * rng.random((count, 2), dtype=np.float32) ** np.float32(self.lean)
        return drawn


class Look(BaseModel):
    """Sample sheets: held-out pairs or photos, at the student's own steps; `instructions` are for photos."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    pairs: int = Field(4, ge=0)
    side: int = 256
    instructions: tuple[str, ...] = scratch.Look().instructions


class Config(BaseModel):
    """What decides the student. What only decides how fast it is made (`exclude`) changes the last bits."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    maker: Literal["distill"]
    start: ModelName  # the teacher: an InstructPix2Pix folder, or one of the hub
    objective: Objective = "progressive"
    scales: Scales = Scales()
    grid: int = Field(50, ge=2)  # consistency: the steps that a path is cut into
    guided: float = Field(0.4, gt=0, lt=1)  # progressive: part of the steps before the first halving
    halvings: tuple[int, ...] = (16, 8, 4)  # progressive: of as many steps each; () of a teacher of few steps itself
    schedule: dict[str, Any] = Field(default_factory=dict)  # diffusers' words that differ from the teacher's folder
    dropout: float = Field(0.05, ge=0, lt=1)  # part of the samples without an instruction

    windows: tuple[scratch.Window, ...] = ()  # of packed latents, which `captions` go with; what follows is of pictures
    family_weights: dict[str, float] = Field(default_factory=dict)

    data: DataSource | None = None  # pairs made elsewhere; else those of the inputs
    columns: ColumnsOrPreset | None = Field(None, exclude_if=lambda value: value is None)
    side: int = Field(256, ge=8)
    resize: tuple[int, int] = (256, 288)
    flip: float = Field(0.5, ge=0, le=1)
    views: int = Field(8, ge=0)
    cache: Path | None = Field(None, exclude=True)
    effective_batch: int = Field(256, ge=1)  # samples a step over all processes; of latents `windows` say it
    batch: int = Field(16, ge=1, exclude=True)
    gradient_checkpointing: bool = Field(False, exclude=True)
    channels_last: bool = Field(True, exclude=True)
    readers: int = Field(4, ge=1, exclude=True)
    broken: float = Field(0.001, ge=0, le=1, exclude=True)

    loop: LoopSettings
    look: Look = Field(Look(), exclude=True)
    steps: int = Field(4, ge=1)  # the student's own default, as are the next
    sampler: Sampler | None = Field(None, exclude_if=lambda value: value is None)  # lcm of consistency, else ddim
    defaults: Defaults = Defaults()
    card: Path | None = None

    @model_validator(mode="after")
    def _fits(self) -> Config:
        if any(late * 2 != early for early, late in zip(self.halvings, self.halvings[1:], strict=False)):
            raise ValueError("each of the halvings has half the steps of the one before it")
        return self

    @property
    def sampled(self) -> str:
        """The student's sampler where nobody names one."""
        return self.sampler or ("lcm" if self.objective == "consistency" else "ddim")

    @property
    def cost(self) -> float:
        """A sample's, in samples of a fine-tuning: three rows of the teacher, or two of the forerunner, besides."""
        if self.objective == "consistency":
            return (LEARNING + 3 + 1) / LEARNING
        guided = self.guided if self.halvings else 1
        return guided * (LEARNING + 3) / LEARNING + (1 - guided) * (LEARNING + 2) / LEARNING

    @property
    def begins(self) -> tuple[int, ...]:
        """The step at which each halving begins."""
        if self.objective == "consistency":
            return ()
        first, count = self.guided * self.loop.steps, len(self.halvings)
        return tuple(round(first + (self.loop.steps - first) * number / count) for number in range(count))


@dataclass(frozen=True)
class Lesson:
    """What a student learns from: its teacher's parts by their folder's names, how batches come, and the null text."""

    parts: dict[str, Any]
    schedule: dict[str, Any]
    batch: Callable[[int], Batch]
    null: torch.Tensor
    text_encoder: nn.Module | None
    taught: Mapping[str, Any] | None
    close: Callable[[], None]
    sheet: Callable[[Path, int], Image.Image | None]
    counts: Mapping[str, float]
    parts_a_step: int = 1


def with_drawn(batch: Batch, scales: Scales, seed: int, begin: int) -> Batch:
    """The batch with a pair of scales for each sample, drawn by its place in the walk, which begins at `begin`: any
    number of processes draw the same.
    """
    places = range(begin, begin + len(batch["timesteps"]))
    drawn = [scales.draw(np.random.default_rng([seed, 4, place]), 1) for place in places]
    return batch | {"scales": torch.from_numpy(np.concatenate(drawn))}


def of_latents(config: Config, inputs: dict[str, Path], folder: Path, photos: Path | None, process: int) -> Lesson:
    """From shards of latents, with the model's own tokenizer and text encoder."""
    start = folder_of(config.start)
    if start is None:
        raise ModelError(f"{config.start} is not on this machine", hint="give the folder of a model")
    taught = scratch.Config(
        loop=config.loop, start=start, dropout=Dropout(text=config.dropout, both=0, image=0), windows=config.windows,
        family_weights=config.family_weights,
    )  # fmt: skip
    tokenizer = scratch.load_tokenizer(taught, inputs)
    crops, broken = read_whole(inputs["pack"] / "shards", folder, config.broken)
    batches = scratch.PairBatches(crops, read_captions(inputs["captions"]), tokenizer, taught)
    unet, text_encoder = scratch.load_networks(start, batches(0)["latents"].shape[1])
    with torch.no_grad():
        null = text_encoder(torch.from_numpy(batches.null)[None]).last_hidden_state
    parts = {"unet": unet, "text_encoder": text_encoder, "vae": load_autoencoder(start / "vae"), "tokenizer": tokenizer}
    squares = held_out_squares(photos, config.look.pairs, config.look.side) if photos and config.look.pairs else []

    def sheet(model: Path, step: int) -> Image.Image | None:
        guidance, words = Guidance(config.defaults.text, config.defaults.image), config.look.instructions
        how = {"steps": config.steps, "sampler": config.sampled}
        return draw_grid(model, squares, words, guidance, **how) if squares else None  # type: ignore[arg-type]

    return Lesson(
        parts, schedule_of(start), lambda part: batches(part, process), null, text_encoder, batches.taught,
        lambda: None, sheet, {"crops": float(len(crops)), "broken": float(broken)},
    )  # fmt: skip


def schedule_of(start: Path) -> dict[str, Any]:
    """A model's noise schedule, in the words that a model's folder is written with."""
    import inspect

    known = set(inspect.signature(EulerAncestralDiscreteScheduler.__init__).parameters)
    return {name: value for name, value in DDPMScheduler.load_config(start / "scheduler").items() if name in known}


def of_pictures(
    config: Config, inputs: dict[str, Path], folder: Path, process: int, processes: int, device: torch.device
) -> Lesson:
    """From pairs of pictures, whose latents and texts are cached."""
    as_finetune = stable_diffusion.Config(
        maker="stable_diffusion", start=config.start, data=config.data, columns=config.columns, side=config.side,
        resize=config.resize, flip=config.flip, views=config.views, cache=config.cache,
        effective_batch=config.effective_batch, batch=config.batch, readers=config.readers, broken=config.broken,
        dropout=Dropout(text=config.dropout, both=0, image=0), loop=stable_diffusion.PaperLoop(seed=config.loop.seed),
    )  # fmt: skip
    every = open_pairs(config.data or stable_diffusion.only_input(inputs), config.columns)
    pairs = stable_diffusion.training_part(every, as_finetune)
    watched = stable_diffusion.held_out(
        every.part("test"), stable_diffusion.Look(pairs=config.look.pairs, side=config.look.side)
    )
    networks = Networks.load(config.start)
    if networks.second:
        raise ModelError(
            f"{config.start} is an SDXL, of which no student can be made", hint="distill a model of one text encoder"
        )
    left_out = LeftOut(folder, sum(map(len, pairs.prompts)), config.broken, process)
    place = Place(config.batch, process, processes)
    cache = config.cache or folder / "cache"
    batches = stable_diffusion.make_batches(as_finetune, networks, pairs, place, cache, device, left_out)
    null = torch.from_numpy(batches.encoder.texts([""]))

    def sheet(model: Path, step: int) -> Image.Image | None:
        shown = sorted({*config.scales.image, config.defaults.image})
        making = Making(config.defaults.text, tuple(shown), config.steps, str(device), sampler=config.sampled)
        edited = edit_held_out(model, watched, making) if watched else []
        return draw_samples(watched, edited, making, f"step {step:,}") if watched else None

    return Lesson(
        networks.parts(), networks.schedule, batches, null, None, None, batches.close, sheet,
        {"prompts": float(len(pairs))}, stable_diffusion.parts_a_step(as_finetune, processes),
    )  # fmt: skip


def run(config: Config, inputs: dict[str, Path], folder: Path, photos: Path | None) -> dict[str, float]:
    """Train, then write `model/`; metrics: losses, samples a second, seconds."""
    accelerator = make_accelerator(config.loop, folder)
    process, processes = accelerator.process_index, accelerator.num_processes
    loop = config.loop
    if config.windows:
        lesson = of_latents(config, inputs, folder, photos, process)
    else:
        lesson = of_pictures(config, inputs, folder, process, processes, accelerator.device)
        loop = loop.model_copy(update={"accumulate": lesson.parts_a_step})
    schedule = {**lesson.schedule, **config.schedule, "timestep_spacing": SPACING}
    torch.manual_seed(config.loop.seed)
    teacher = lesson.parts["unet"]
    student = with_scales(teacher).train()
    if config.gradient_checkpointing:
        student.enable_gradient_checkpointing()
    noise = DDPMScheduler(**stable_diffusion.training_schedule(schedule))
    forerunner = Forerunner(student, config.begins)
    task = Distillation(
        student, teacher, lesson.text_encoder, noise, lesson.null, config.objective, config.grid, config.halvings,
        forerunner,
    )  # fmt: skip
    if config.channels_last:
        task = task.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's overloads lack it
    card = config.card.read_text("utf-8") if config.card else ""

    def batch(part: int) -> Batch:
        made, place = lesson.batch(part), part * processes + process
        return with_drawn(made, config.scales, config.loop.seed, place * len(made["timesteps"]))

    def write() -> None:
        defaults = config.defaults.model_dump() | {"steps": config.steps, "sampler": config.sampled}
        taught = {"text": config.scales.text, "image": config.scales.image}
        parts = lesson.parts | {"unet": student}
        write_model(folder / "model", parts, schedule, defaults, card, lesson.taught, embedded=taught)

    def sample(step: int) -> Image.Image | None:
        write()
        return lesson.sheet(folder / "model", step)

    hooks = Hooks(batch, sample, paced=bool(config.begins), turn=forerunner)
    try:
        metrics = train(task, loop, hooks, accelerator, folder)
    finally:
        lesson.close()
    if accelerator.is_main_process:
        write()
    samples = 0 if config.windows else config.effective_batch
    return metrics | dict(lesson.counts) | {"samples_a_second": samples * metrics["rate"]}


def check(settings: Config, inputs: Mapping[str, str]) -> Iterable[Mistake]:
    """What does not fit together in a config."""
    if settings.windows:
        yield from misfits(inputs, needed := ("captions", "pack"), needed)
        return
    if "captions" in inputs:
        said, hint = "goes with packed latents, whose windows are not given", "windows: [{side: null, batch: 16}]"
        yield Mistake(said, hint=hint, at=("inputs", "captions"))
        return
    yield from one_source("data", settings.data, inputs)
    together = settings.batch * int(os.environ.get("WORLD_SIZE", 1))
    if settings.effective_batch % together:
        said = f"{settings.effective_batch} samples a step are not a multiple of {together} at once"
        yield Mistake(said, hint=f"choose a batch that divides {settings.effective_batch}", at=("batch",))


def estimate(settings: Config, counts: Estimate) -> Estimate:
    """Optimizer steps of the effective batch, in samples of a fine-tuning; of packed latents the steps alone."""
    if settings.windows:
        return replace(counts, makes=f"{settings.loop.steps:,} steps")
    samples, larger = settings.loop.steps * settings.effective_batch, (settings.side / 256) ** 2
    makes = f"{settings.loop.steps:,} steps, {samples:,} samples, each as {settings.cost:.2g} of a fine-tuning"
    makes += accumulation(settings.effective_batch, settings.batch)
    others = 1 + bool(settings.begins)
    makes += memory(weights_of(settings.start), optimizer=settings.loop.optimizer, frozen=False, others=others)
    views = (counts.pairs or RELEASED_PROMPTS * KEPT) * settings.views * VIEW * larger
    texts = (counts.prompts or RELEASED_PROMPTS) * text_bytes(settings.start) if settings.views else 0.0
    kept = checkpoint_bytes(settings.start) * (BYTES_A_WEIGHT + 4 * (others - 1)) / BYTES_A_WEIGHT
    return replace(
        counts, makes=makes, bytes=(settings.loop.keep + 1) * kept + views + texts,
        work=samples * larger * settings.cost, unit=SAMPLES,
    )  # fmt: skip


def rate(settings: Config, metrics: Mapping[str, float]) -> tuple[str, float]:
    """Samples of a fine-tuning at 256 pixels a second, of the last session; 0 of packed latents."""
    return SAMPLES, metrics.get("samples_a_second", 0.0) * settings.cost * (settings.side / 256) ** 2


def goes_on_from(settings: Config, folder: Path, record: Mapping[str, Any]) -> int:
    """The step of its own newest checkpoint, or of that of a training of another length."""
    return begins_at(settings.loop, folder, record, paced=bool(settings.begins))


STAGE = Stage(Config, run, VERSION, distributed=True, estimate=estimate, rate=rate, check=check, begins_at=goes_on_from)
