"""The finetune stage, `maker: scratch`: a small UNet and its text encoder, trained together on the latents of `pack`.

`start` goes on from the weights of a model that this stage made, with a new optimizer. The objective is the paper's
(see `objective`). Stable Diffusion is fine-tuned by `stable_diffusion`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDPMScheduler, ModelMixin, UNet2DConditionModel
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from ip2pbatch.errors import ModelError
from ip2pbatch.plan.edits import Guidance
from ip2pbatch.plan.written.yaml_source import Mistake
from ip2pbatch.train.captions.wordings_stage import Caption, read_captions
from ip2pbatch.train.data.crops import step_rng
from ip2pbatch.train.data.pack_latents import Crop, load_autoencoder, read_whole
from ip2pbatch.train.estimates import Estimate
from ip2pbatch.train.fit.grid import draw_grid, held_out_squares
from ip2pbatch.train.fit.loop import Batch, Hooks, LoopSettings, begins_at, make_accelerator, train
from ip2pbatch.train.fit.objective import Dropout, aim, dropped
from ip2pbatch.train.fit.save_model import Defaults, write_model
from ip2pbatch.train.stage import Stage, misfits

VERSION = 1


class TextShape(BaseModel):
    """A small CLIP text encoder."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    width: int = 192
    layers: int = 3
    heads: int = 4


class Look(BaseModel):
    """The sample grids: how many held-out photos, and which instructions."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    photos: int = 4
    side: int = 256
    instructions: tuple[str, ...] = ("make it winter", "pencil sketch", "make it night", "sepia", "invert the colours")


class Window(BaseModel):
    """A random window of `side` × `side` latents (all where none is given), `batch` of them a step.

    Small windows show more photos a second at the same scale; whole pictures teach what belongs to the frame.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    side: int | None
    batch: int


class Config(BaseModel):
    """What decides the fine-tuned model."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    loop: LoopSettings
    start: Path | None = None  # a model made by this stage, to go on from; it brings `unet`, `text` and the tokenizer
    unet: dict[str, Any] = Field(default_factory=dict)  # diffusers' own words
    text: TextShape = TextShape()
    train_text: bool = True
    schedule: dict[str, Any] = Field(default_factory=dict)  # diffusers' scheduler words
    dropout: Dropout = Dropout()
    # Part of the samples without an instruction whose picture is the photo itself. Where most edits change all of a
    # photo, the mean edit is no photo, and both guidance scales would lead away from a grey in between.
    unchanged: float = Field(0.0, ge=0, le=1)
    windows: tuple[Window, ...] = (Window(side=None, batch=16),)
    late_windows: tuple[Window, ...] = ()  # instead of `windows` once `late` of the steps are done
    late: float = 0.7
    high_noise: float = 1.0  # timesteps are 1 − u^high_noise: above 1 trains the noisy end more often
    channel_weights: bool = False  # weigh each latent channel's error by what it does to pixels
    family_weights: dict[str, float] = Field(default_factory=dict)  # 1 where a family is not named
    channels_last: bool = True
    broken: float = Field(0.001, ge=0, le=1, exclude=True)  # part of the crops that may be left out as damaged
    look: Look = Look()
    defaults: Defaults = Defaults(text=3.0, image=1.2, long_side=256)
    card: Path | None = None  # a README.md that goes with the model; relative to the config that names it


class EditTask(nn.Module):
    """Loss of one batch: squared error of the network's prediction, in the schedule's own prediction type."""

    def __init__(
        self, unet: UNet2DConditionModel, text_encoder: CLIPTextModel, schedule: DDPMScheduler, weights: torch.Tensor
    ) -> None:
        super().__init__()
        self.unet, self.text_encoder, self.schedule = unet, text_encoder, schedule
        self.register_buffer("weights", weights.view(1, -1, 1, 1), persistent=False)

    def forward(
        self,
        latents: torch.Tensor,
        image: torch.Tensor,
        noise: torch.Tensor,
        timesteps: torch.Tensor,
        tokens: torch.Tensor,
    ) -> torch.Tensor:
        """`latents`, `image`, `noise` `[n, c, h, w]`; `timesteps` `[n]`; `tokens` `[n, length]`."""
        text = self.text_encoder(tokens).last_hidden_state
        noisy = self.schedule.add_noise(latents, noise, timesteps)
        predicted = self.unet(torch.cat([noisy, image], dim=1), timesteps, text).sample
        error = (predicted.float() - aim(self.schedule, latents, noise, timesteps)).square()
        loss: torch.Tensor = (error * self.weights).mean()
        return loss


class PairBatches:
    """Batches of (edited latent, source latent, instruction) as a function of the step."""

    def __init__(self, crops: list[Crop], captions: list[Caption], tokenizer: CLIPTokenizer, config: Config) -> None:
        self.crops, self.config = crops, config
        wordings: dict[str, list[str]] = {}
        for caption in captions:
            if caption.split == "train":
                wordings.setdefault(caption.family, []).append(caption.instruction)
        self.families = [name for name in crops[0].names[1:] if name in wordings]
        self.taught = {name: wordings[name] for name in self.families}
        length = tokenizer.model_max_length
        ids = {name: tokenizer(wordings[name], padding="max_length", max_length=length, truncation=True).input_ids
               for name in self.families}  # fmt: skip
        self.tokens = {name: np.array(rows) for name, rows in ids.items()}
        self.null = np.array(tokenizer("", padding="max_length", max_length=length).input_ids)
        weights = np.array([config.family_weights.get(name, 1.0) for name in self.families])
        self.odds = weights / weights.sum()

    def __call__(self, step: int, process: int = 0) -> Batch:
        """The batch of one step of one process."""
        rng = step_rng(self.config.loop.seed, step, process)
        window = self.window(step, rng)
        n = window.batch
        crops = rng.integers(len(self.crops), size=n)
        families = [self.families[index] for index in rng.choice(len(self.families), size=n, p=self.odds)]
        image = np.stack([draw(self.crops[crop], "source", None) for crop in crops])
        latents = np.stack([draw(self.crops[c], f, rng) for c, f in zip(crops, families, strict=True)])
        image, latents = same_windows(image, latents, window.side, rng)
        tokens = np.stack([self.tokens[name][rng.integers(len(self.tokens[name]))] for name in families])
        no_text, no_image = dropped(rng.random(n), self.config.dropout)
        tokens[no_text] = self.null
        if self.config.unchanged:
            unchanged = no_text & (rng.random(n) < self.config.unchanged)
            latents[unchanged] = image[unchanged]
        image[no_image] = 0
        # Stratified over the batch: every step sees the whole range of noise.
        uniform = (np.arange(n) + rng.random(n)) / n
        levels = self.config.schedule.get("num_train_timesteps", 1000)
        timesteps = np.minimum((levels * (1 - uniform**self.config.high_noise)).astype(np.int64), levels - 1)
        noise = rng.standard_normal(latents.shape, dtype=np.float32)
        arrays = {"latents": latents, "image": image, "noise": noise, "timesteps": timesteps, "tokens": tokens}
        return {name: torch.from_numpy(value) for name, value in arrays.items()}

    def window(self, step: int, rng: np.random.Generator) -> Window:
        """One of the windows of this part of the training, all as likely."""
        late = self.config.late_windows and step >= self.config.late * self.config.loop.steps
        choices = self.config.late_windows if late else self.config.windows
        return choices[rng.integers(len(choices))]


def draw(crop: Crop, name: str, rng: np.random.Generator | None) -> np.ndarray:
    """One latent, float32 `[c, h, w]`: a draw from the posterior where it has one and `rng` is given, else its mode."""
    packed = np.asarray(crop.latents[crop.names.index(name)], dtype=np.float32)
    if not crop.posterior:
        return packed
    mean, log_variance = np.split(packed, 2)
    if rng is None:
        return mean
    drawn: np.ndarray = mean + np.exp(0.5 * log_variance) * rng.standard_normal(mean.shape, dtype=np.float32)
    return drawn


def same_windows(
    image: np.ndarray, latents: np.ndarray, side: int | None, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """The same random `side` × `side` window of both, each sample its own: more photos a second at the same scale."""
    height, width = latents.shape[-2:]
    if side is None or side >= min(height, width):
        return image, latents
    tops = rng.integers(0, height - side + 1, len(latents))
    lefts = rng.integers(0, width - side + 1, len(latents))
    cuts = [(slice(None), slice(t, t + side), slice(left, left + side)) for t, left in zip(tops, lefts, strict=True)]
    return np.stack([x[c] for x, c in zip(image, cuts, strict=True)]), np.stack(
        [x[c] for x, c in zip(latents, cuts, strict=True)]
    )


def make_networks(
    config: Config, tokenizer: CLIPTokenizer, channels: int
) -> tuple[UNet2DConditionModel, CLIPTextModel]:
    """The UNet of `2 · channels` inputs and its text encoder: new ones, or those of `start`."""
    if config.start:
        return load_networks(config.start, channels)
    return new_networks(config, tokenizer, channels)


def load_networks(start: Path, channels: int) -> tuple[UNet2DConditionModel, CLIPTextModel]:
    """Those of a model folder, in float32. ModelError where it is none, or its latents are others."""
    try:
        unet = UNet2DConditionModel.from_pretrained(start / "unet", torch_dtype=torch.float32)
        text_encoder = CLIPTextModel.from_pretrained(start / "text_encoder", dtype=torch.float32)
    except (OSError, ValueError, RuntimeError) as error:
        raise cannot_start(start, error) from error
    if unet.config.out_channels != channels:
        raise ModelError(
            f"{start}: its latents have {unet.config.out_channels} channels, those of the pairs {channels}",
            hint="pack the pairs with that model's own autoencoder: `start: MODEL/vae` in an autoencoder stage",
        )
    return unet, text_encoder


def load_tokenizer(config: Config, inputs: dict[str, Path]) -> CLIPTokenizer:
    """The one that the text encoder knows: the model's that training goes on from, else the input's."""
    try:
        return CLIPTokenizer.from_pretrained((config.start or inputs["tokenizer"]) / "tokenizer")
    except (OSError, ValueError) as error:
        raise cannot_start(config.start or inputs["tokenizer"], error) from error


def cannot_start(start: Path, error: Exception) -> ModelError:
    """What stands in the way, in its first line."""
    said = f"{start} cannot be trained from: {str(error).splitlines()[0]}"
    return ModelError(said, hint="give the folder of a model that this stage made")


def new_networks(config: Config, tokenizer: CLIPTokenizer, channels: int) -> tuple[UNet2DConditionModel, CLIPTextModel]:
    """Untrained ones; the UNet predicts nothing at first."""
    shape = config.text
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=shape.width,
            intermediate_size=4 * shape.width,
            projection_dim=shape.width,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            max_position_embeddings=tokenizer.model_max_length,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            initializer_factor=1.0,
        )
    )
    unet = UNet2DConditionModel(
        in_channels=2 * channels, out_channels=channels, cross_attention_dim=shape.width, **config.unet
    )
    nn.init.zeros_(unet.conv_out.weight)
    return unet, text_encoder


@torch.no_grad()
def channel_weights(vae: ModelMixin, latents: torch.Tensor) -> torch.Tensor:
    """How much a small error in each latent channel changes the picture, as weights `[c]` of mean 1.

    The decoder is asked: each channel in turn gets noise of deviation 0.3, and the squared change of the pixels counts.
    The root is taken, so that no channel is forgotten.
    """
    clean = vae.decode(latents).sample
    noise = 0.3 * torch.randn(latents[:, 0].shape, generator=torch.Generator().manual_seed(0))
    changes = []
    for channel in range(latents.shape[1]):
        moved = latents.clone()
        moved[:, channel] += noise
        changes.append((vae.decode(moved).sample - clean).square().mean())
    weights = torch.stack(changes).sqrt()
    return weights / weights.mean()


def run(config: Config, inputs: dict[str, Path], folder: Path, photos: Path) -> dict[str, float]:
    """Train, then write `model/`, a folder that any InstructPix2Pix loader reads; metrics: losses, samples, seconds."""
    tokenizer = load_tokenizer(config, inputs)
    vae = load_autoencoder(inputs["autoencoder"] / "vae")
    crops, broken = read_whole(inputs["pack"] / "shards", folder, config.broken)
    batches = PairBatches(crops, read_captions(inputs["captions"]), tokenizer, config)
    schedule = DDPMScheduler(**config.schedule)
    torch.manual_seed(config.loop.seed)
    channels = batches(0)["latents"].shape[1]
    unet, text_encoder = make_networks(config, tokenizer, channels)
    if not config.train_text:
        text_encoder.requires_grad_(False)
    weights = torch.ones(channels)
    if config.channel_weights:
        weights = channel_weights(
            vae, torch.stack([torch.from_numpy(draw(crop, "source", None)) for crop in crops[:8]])
        )
    task = EditTask(unet, text_encoder, schedule, weights)
    if config.channels_last:
        task = task.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's overloads lack it
    accelerator = make_accelerator(config.loop, folder)
    parts = {"unet": unet, "text_encoder": text_encoder, "vae": vae, "tokenizer": tokenizer}
    card = config.card.read_text("utf-8") if config.card else ""
    squares = held_out_squares(photos, config.look.photos, config.look.side)

    def sample(step: int) -> Image.Image:
        write_model(folder / "model", parts, config.schedule, config.defaults.model_dump(), card, batches.taught)
        guidance = Guidance(config.defaults.text, config.defaults.image)
        return draw_grid(folder / "model", squares, config.look.instructions, guidance)

    hooks = Hooks(lambda step: batches(step, accelerator.process_index), sample, paced=bool(config.late_windows))
    metrics = train(task, config.loop, hooks, accelerator, folder)
    write_model(folder / "model", parts, config.schedule, config.defaults.model_dump(), card, batches.taught)
    return metrics | {"crops": float(len(crops)), "broken": float(broken)}


def check(settings: Config, inputs: Mapping[str, str]) -> Iterable[Mistake]:
    """What does not fit together in a config."""
    networks = () if settings.start else ("tokenizer",)
    return misfits(inputs, needed := ("captions", *networks, "autoencoder", "pack"), needed)


def estimate(settings: Config, counts: Estimate) -> Estimate:
    """Optimizer steps of a small network; its checkpoints are some hundred megabytes."""
    return replace(counts, makes=f"{settings.loop.steps:,} steps")


def goes_on_from(settings: Config, folder: Path, record: Mapping[str, Any]) -> int:
    """The step of its own newest checkpoint, or of that of a training of another length."""
    return begins_at(settings.loop, folder, record, paced=bool(settings.late_windows))


STAGE = Stage(Config, run, VERSION, check=check, estimate=estimate, begins_at=goes_on_from)
