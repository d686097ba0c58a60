"""The finetune stage, `maker: stable_diffusion`: a text-to-image or editing model learns to edit (section 3.2).
A Stable Diffusion or an SDXL; what an SDXL has besides stands in `two_encoders`.

The autoencoder and the text encoder are frozen, so what they make of the data is cached (see `latents`); the UNet alone
learns, in float32 under mixed precision. One process or many: the samples of a step are the same, because
`effective_batch` and not the number of GPUs decides them.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import nn

from ip2pbatch.backends.quiet import quiet
from ip2pbatch.errors import NothingMatchedError, RecipeError
from ip2pbatch.plan.written.yaml_source import Mistake
from ip2pbatch.train.data.augment import centre
from ip2pbatch.train.data.broken import BrokenSampleError, LeftOut
from ip2pbatch.train.data.columns import ColumnsOrPreset, columns_of_data
from ip2pbatch.train.data.pair_sets import PairSet, counted, open_pairs
from ip2pbatch.train.data.row_store import RowStore
from ip2pbatch.train.estimates import (
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
from ip2pbatch.train.fit.edit_batches import Caches, EditBatches, Place, View
from ip2pbatch.train.fit.interrupts import Every, Watch
from ip2pbatch.train.fit.latents import LatentCache, digest_of_weights
from ip2pbatch.train.fit.loop import Hooks, LoopSettings, begins_at, make_accelerator, train
from ip2pbatch.train.fit.lora import Lora, add_adapters, write_adapters
from ip2pbatch.train.fit.networks import Networks
from ip2pbatch.train.fit.objective import Dropout, aim, min_snr
from ip2pbatch.train.fit.samples import HeldOut, Making, draw_samples, edit_by_pipeline, edit_held_out
from ip2pbatch.train.fit.save_model import Defaults, write_model
from ip2pbatch.train.fit.validation import HeldOutLoss, Validation
from ip2pbatch.train.model_names import DataSource, ModelName
from ip2pbatch.train.stage import Stage, one_source

VERSION = 1
MICRO_BATCHES = 4  # of a step of the original, after each of which its average moves


class Look(BaseModel):
    """Sample grids: test pairs (of what is trained on where that is all), edited with each of the image scales."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    pairs: int = 8
    side: int = 256
    steps: int = 20
    image: tuple[float, ...] = (1.2, 1.5, 1.8)


class PaperLoop(LoopSettings):
    """The paper's training: AdamW at a constant rate, no clipping, an average that is slow in the end."""

    steps: int = 10_000
    lr: float = 1e-4
    warm_up: int = 0
    lr_end: float = 1.0
    beta2: float = 0.999
    clip: float = 0.0
    ema: float = 0.9999
    ema_warm_up: Literal["power", "original"] = "original"
    log_every: int = Field(10, ge=1, exclude=True)
    save_every: int = Field(500, ge=0, exclude=True)
    keep: int = Field(2, ge=1, exclude=True)
    sample_every: int = Field(1000, ge=0, exclude=True)
    snapshot_every: int = Field(0, ge=0, exclude=True)  # the averaged model as it is then, kept in snapshots/; 0: none


class Config(BaseModel):
    """What decides the fine-tuned model; the defaults are the paper's.

    What only decides how fast it is made (`exclude`) may change between a stop and a restart: it changes the last bits.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    maker: Literal["stable_diffusion"]
    start: ModelName  # a diffusers folder or a model of the hub
    data: DataSource | None = None  # pairs made elsewhere; else those of the one input
    columns: ColumnsOrPreset | None = Field(None, exclude_if=lambda value: value is None)  # how `data` is read
    split: Literal["train", "all"] = "train"  # all: a set whose test pairs are elsewhere
    # An epoch draws one pair of each prompt, as the original does; pair: every pair once.
    weighting: Literal["prompt", "pair"] = Field("prompt", exclude_if=lambda value: value == "prompt")
    fraction: float = Field(1.0, gt=0, le=1)  # of these prompts
    side: int = Field(256, ge=8)
    resize: tuple[int, int] = (256, 288)
    flip: float = Field(0.5, ge=0, le=1)
    views: int = Field(8, ge=0)  # augmentations of a pair that are cached; 0: a new one each time, nothing cached
    cache: Path | None = Field(None, exclude=True)  # of latents and texts; the stage's own folder where none is named
    # original: float32 outside of the UNet too, pictures squashed to squares, an average that moves four times a step.
    compat: Literal["fixed", "original"] = Field("fixed", exclude_if=lambda value: value == "fixed")
    effective_batch: int = Field(1024, ge=1)  # samples an optimizer step, over all processes
    batch: int = Field(32, ge=1, exclude=True)  # samples a process takes at once
    gradient_checkpointing: bool = Field(False, exclude=True)
    channels_last: bool = Field(True, exclude=True)
    compile: bool = Field(False, exclude=True)
    readers: int = Field(4, ge=1, exclude=True)
    broken: float = Field(0.001, ge=0, le=1, exclude=True)  # part of the pairs that may be left out as damaged
    dropout: Dropout = Dropout()
    min_snr: float | None = Field(None, gt=0, exclude_if=lambda value: value is None)  # γ; the paper's loss has none
    lora: Lora | None = Field(None, exclude_if=lambda value: value is None)  # adapters in the place of every weight
    loop: PaperLoop = PaperLoop()
    look: Look = Look()
    validation: Validation = Field(Validation(), exclude=True)
    defaults: Defaults = Defaults()
    card: Path | None = None  # a README.md that goes with the model

    @model_validator(mode="after")
    def _fits(self) -> Config:
        if not self.side <= self.resize[0] <= self.resize[1]:
            raise ValueError(f"resize is two lengths from side ({self.side}) up, the smaller first")
        if self.compat == "original" and self.views:
            raise ValueError("the original augments anew in every epoch: `compat: original` goes with `views: 0`")
        return self


class InstructTask(nn.Module):
    """Loss of one batch: squared error of the UNet's prediction, in the schedule's own prediction type; weighted by
    `min_snr` where there is one and while it learns, not where it is validated."""

    def __init__(self, unet: UNet2DConditionModel, schedule: DDPMScheduler, min_snr: float | None = None) -> None:
        super().__init__()
        self.unet, self.schedule, self.min_snr = unet, schedule, min_snr

    def forward(
        self,
        latents: torch.Tensor,
        image: torch.Tensor,
        noise: torch.Tensor,
        timesteps: torch.Tensor,
        text: torch.Tensor,
        **added: torch.Tensor,
    ) -> torch.Tensor:
        """`latents` (scaled), `image` (not scaled), `noise` `[n, c, h, w]`; `timesteps` `[n]`; `text` embeddings; what
        an SDXL is told beside them (`text_embeds`, `time_ids`)."""
        noisy = self.schedule.add_noise(latents, noise, timesteps)
        seen = torch.cat([noisy, image], dim=1)
        predicted = self.unet(seen, timesteps, text, added_cond_kwargs=added or None).sample
        error: torch.Tensor = (predicted.float() - aim(self.schedule, latents, noise, timesteps)).square()
        if self.min_snr is None or not self.training:
            return error.mean()
        return (min_snr(self.schedule, timesteps, self.min_snr) * error.mean(dim=(1, 2, 3))).mean()


def parts_a_step(config: Config, processes: int) -> int:
    """How often each process takes `batch` samples a step. RecipeError where `effective_batch` cannot be had so."""
    together = config.batch * processes
    if config.effective_batch % together:
        raise RecipeError(
            f"{config.effective_batch} samples a step are not a multiple of {config.batch} × {processes} processes",
            file="finetune",
            key="effective_batch",
            hint=f"choose a batch that divides {config.effective_batch // processes or 1}",
        )
    return config.effective_batch // together


def make_batches(
    config: Config,
    networks: Networks,
    pairs: PairSet,
    place: Place,
    cache: Path,
    device: torch.device,
    left_out: LeftOut | None = None,
) -> EditBatches:
    """The batches of one process, with caches that hang on the bytes of all pairs that these are a part of, and on the
    networks that made them with their precision: parts of one set share a cache, and no other set finds it."""
    original = config.compat == "original"
    encoder = networks.encoder(device, exact=original)
    by = f"{encoder.precision} {device.type}"
    view = View(config.side, config.resize, config.flip, config.views, config.loop.seed, original)
    vae = networks.vae.config
    side = config.side // 2 ** (len(vae.block_out_channels) - 1)
    data, count = pairs.store.digest(), 1 + max(group[-1] for group in pairs.store.groups)
    facts = [data, by, digest_of_weights(networks.vae), config.side, *config.resize, config.flip, config.loop.seed]
    latents = LatentCache(
        cache / f"latents-{digest_of(*facts, config.views)}",
        count,
        config.views,
        (vae.latent_channels, side, side),
    )
    name = f"texts-{digest_of(data, by, *encoder.text_digests())}"
    texts = RowStore(cache / name, count, encoder.text_shape) if config.views else None
    batches = EditBatches(pairs, encoder, view, Caches(latents, texts), place, config.readers, left_out)
    batches.dropout, batches.levels = config.dropout, networks.schedule.get("num_train_timesteps", 1000)
    return batches


def digest_of(*facts: object) -> str:
    """12 hex digits over a few facts: a cache's name."""
    return hashlib.sha256(json.dumps([str(fact) for fact in facts]).encode()).hexdigest()[:12]


def held_out(pairs: PairSet, look: Look) -> list[HeldOut]:
    """The first pair of some test prompts, spread over all of them."""
    chosen = range(0, len(pairs), max(1, len(pairs) // look.pairs))[: look.pairs] if look.pairs else []
    found = []
    for prompt in chosen:
        try:
            before, after = pairs.pictures(pairs.pairs(prompt)[0])
        except BrokenSampleError:  # there are others to look at
            continue
        found.append(HeldOut(centre(before, look.side), centre(after, look.side), pairs.instruction(prompt)))
    return found


def run(config: Config, inputs: dict[str, Path], folder: Path, photos: Path | None) -> dict[str, float]:
    """Train, then write `model/`, a folder that any InstructPix2Pix loader reads; metrics: losses, prompts, seconds."""
    every = open_pairs(config.data or only_input(inputs), config.columns)
    pairs = training_part(every, config)
    watched = held_out(every.part("test"), config.look)
    accelerator = make_accelerator(config.loop, folder)
    first = accelerator.is_main_process  # after the training every process would say so
    loop = config.loop.model_copy(update={"accumulate": parts_a_step(config, accelerator.num_processes)})
    if config.compat == "original":
        loop = loop.model_copy(update={"ema_moves": MICRO_BATCHES})
    torch.manual_seed(config.loop.seed)  # of a network with dropout of its own
    networks = Networks.load(config.start)
    place = Place(config.batch, accelerator.process_index, accelerator.num_processes)
    left_out = LeftOut(folder, sum(map(len, pairs.prompts)), config.broken, accelerator.process_index)
    cache = config.cache or folder / "cache"
    batches = make_batches(config, networks, pairs, place, cache, accelerator.device, left_out)
    task = make_task(config, networks)
    card = config.card.read_text("utf-8") if config.card else ""
    validation = held_out_loss(every, config, batches)

    def write(name: str = "model") -> None:
        with quiet():  # it warns of casts that are meant
            parts = networks.parts(adapted=config.lora is not None)
            write_model(folder / name, parts, networks.schedule, config.defaults.model_dump(), card)

    def validate(step: int) -> dict[str, float]:
        return {"validation_loss": validation(task, batches.encoder, left_out)} if validation else {}

    def sample(step: int) -> Image.Image | None:
        if not watched:
            return None
        write()
        device, unseen = str(accelerator.device), config.split != "all"
        making = Making(config.defaults.text, config.look.image, config.look.steps, device, unseen)
        edits = edit_by_pipeline if networks.second else edit_held_out
        return draw_samples(watched, edits(folder / "model", watched, making), making, f"step {step:,}")

    watches = (
        Watch(Every(config.loop.snapshot_every), lambda step: write(f"snapshots/step-{step:06d}"), kept=True),
        Watch(Every(config.validation.every), validate),
    )
    try:
        metrics = train(task, loop, Hooks(batches, sample, watches), accelerator, folder)
    finally:
        batches.close()
    if first:
        write()
        if config.lora:
            write_adapters(networks.unet, folder / "lora")
        metrics |= validate(loop.steps)
    counts = {"prompts": float(len(pairs)), "broken": float(left_out.found)}
    return metrics | counts | {"samples_a_second": config.effective_batch * metrics["rate"]}


def held_out_loss(every: PairSet, config: Config, batches: EditBatches) -> HeldOutLoss | None:
    """The loss on the validation split, on whole squares as they are; None where there is no such split."""
    pairs = every.part("val")
    if not (config.validation.pairs and len(pairs)) or config.split == "all":
        return None
    view = View(config.side, (config.side, config.side), 0.0, 0, config.loop.seed, config.compat == "original")
    return HeldOutLoss(pairs, config.validation.pairs, view, batches.levels, config.batch)


def training_part(every: PairSet, config: Config) -> PairSet:
    """The prompts that are learned from. NothingMatchedError where there are none."""
    train = every.part(config.split)
    if not len(train):
        raise NothingMatchedError(
            f"{len(every)} prompts leave none to train on", hint="nine of ten are trained on: give ten or more"
        )
    part = train.fraction(config.fraction)
    return part.each_pair() if config.weighting == "pair" else part


def make_task(config: Config, networks: Networks) -> InstructTask:
    """The UNet behind its loss, as fast or as small as the config asks for."""
    unet = networks.unet.train()
    if config.lora:
        add_adapters(unet, config.lora, config.loop.seed)
    if config.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
    if config.channels_last:
        unet.to(memory_format=torch.channels_last)
    if config.compile:
        unet.compile()  # in place, so that the weights keep their names
    return InstructTask(unet, DDPMScheduler(**training_schedule(networks.schedule)), config.min_snr)


def training_schedule(schedule: dict[str, Any]) -> dict[str, Any]:
    """The part of a noise schedule that training knows of."""
    known = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "prediction_type",
             "rescale_betas_zero_snr")  # fmt: skip
    return {name: schedule[name] for name in known if name in schedule}


def only_input(inputs: dict[str, Path]) -> Path:
    """The folder of pairs that a config without `data` builds on."""
    if len(inputs) != 1:
        raise RecipeError(
            f"names {len(inputs)} inputs and no data", file="finetune", key="inputs",
            hint="give one stage that makes pairs (pairs, filter or pack), or `data: FOLDER`",
        )  # fmt: skip
    return next(iter(inputs.values()))


def estimate(settings: Config, counts: Estimate) -> Estimate:
    """Optimizer steps of the effective batch; checkpoints, and latents and texts where they are cached."""
    counts = counted(settings.data, counts, settings.columns)
    samples, larger = settings.loop.steps * settings.effective_batch, (settings.side / 256) ** 2
    pairs = (counts.pairs or RELEASED_PROMPTS * KEPT) * settings.fraction
    texts = (counts.prompts or RELEASED_PROMPTS) * settings.fraction * text_bytes(settings.start)
    cache = pairs * settings.views * VIEW * larger + texts if settings.views else 0.0
    lora = settings.lora
    checkpoint = lora.checkpoint_bytes(settings.start) if lora else checkpoint_bytes(settings.start)
    makes = f"{settings.loop.steps:,} steps, {samples:,} samples"
    makes += accumulation(settings.effective_batch, settings.batch)
    makes += memory(weights_of(settings.start), optimizer=settings.loop.optimizer, frozen=lora is not None)
    return replace(
        counts, makes=makes,
        bytes=(settings.loop.keep + 1) * checkpoint + cache, work=samples * larger, unit=SAMPLES,
    )  # fmt: skip


def rate(settings: Config, metrics: Mapping[str, float]) -> tuple[str, float]:
    """Samples at 256 pixels a second, of the last session, as its seconds are."""
    return SAMPLES, metrics.get("samples_a_second", 0.0) * (settings.side / 256) ** 2


def check(settings: Config, inputs: Mapping[str, str]) -> Iterator[Mistake]:
    """What does not fit together in a config."""
    yield from one_source("data", settings.data, inputs)
    yield from columns_of_data("data", settings.data, settings.columns)
    together = settings.batch * int(os.environ.get("WORLD_SIZE", 1))
    if settings.effective_batch % together:
        said = f"{settings.effective_batch} samples a step are not a multiple of {together} at once"
        yield Mistake(said, hint=f"choose a batch that divides {settings.effective_batch}", at=("batch",))


def goes_on_from(settings: Config, folder: Path, record: Mapping[str, Any]) -> int:
    """The step of its own newest checkpoint, or of that of a training of another length."""
    return begins_at(settings.loop, folder, record)


STAGE = Stage(Config, run, VERSION, distributed=True, estimate=estimate, rate=rate, check=check, begins_at=goes_on_from)
