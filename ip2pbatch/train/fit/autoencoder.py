"""The autoencoder stage: diffusers' AutoencoderDC on crops of photos, with latents of zero mean and unit deviation.

Latents are standardised per channel while training (batch statistics) and noise is added to them, so that the decoder
forgives what a small UNet leaves behind; afterwards the statistics are folded into the encoder's last and the decoder's
first convolution, so that `scaling_factor` is 1 and a conditioning latent needs no scaling of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderDC
from pydantic import BaseModel, ConfigDict
from torch import nn

from ip2pbatch.train.data.crops import (
    centre_square,
    load_rgb,
    random_crop,
    step_rng,
    to_pixels,
    to_tensor,
    training_photos,
)
from ip2pbatch.train.estimates import Estimate
from ip2pbatch.train.fit.loop import Batch, Hooks, LoopSettings, begins_at, make_accelerator, train
from ip2pbatch.train.stage import Stage

VERSION = 2  # 2: statistics are folded in from photos and edits, not from photos alone


class Config(BaseModel):
    """What decides the autoencoder."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    loop: LoopSettings
    channels: tuple[int, int, int] = (48, 96, 192)  # at 1/2, 1/4 and 1/8 of the side
    encoder_layers: tuple[int, int, int] = (1, 2, 2)
    decoder_layers: tuple[int, int, int] = (2, 3, 2)
    latent_channels: int = 32
    batch: int = 16
    crop: int = 96
    short_side: int = 320
    zoom: tuple[float, float] = (1.0, 2.5)
    noise: float = 0.1  # the largest deviation of the noise on the latents
    augment: float = 0.5  # part of the crops that are recoloured
    edited: float = 0.0  # part of the crops that come from procedural edits
    decoder_only: bool = False  # freeze the encoder: the latents stay what they are
    start: Path | None = None  # a vae's folder to begin from, where no input `autoencoder` is
    limit: int | None = None  # only so many photos


class AutoencoderTask(nn.Module):
    """Loss of one batch: Charbonnier distance between a crop and its decoded, noised latent."""

    def __init__(self, vae: AutoencoderDC, decoder_only: bool) -> None:
        super().__init__()
        self.vae = vae
        self.decoder_only = decoder_only
        # A model to begin from has its statistics folded in already, so there is nothing left to standardise.
        self.standardise = nn.Identity() if decoder_only else nn.BatchNorm2d(vae.config.latent_channels, affine=False)
        if decoder_only:
            vae.encoder.requires_grad_(False)

    def forward(self, pixels: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """`pixels` `[n, 3, h, w]` in −1…1, `noise` `[n, c, h/8, w/8]` already scaled."""
        latents = self.standardise(self.vae.encode(pixels).latent)
        decoded = self.vae.decode(latents + noise).sample
        difference = decoded.float() - pixels
        return torch.sqrt(difference.square() + 1e-4).mean() + 0.5 * gradient_distance(decoded.float(), pixels)


def gradient_distance(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Mean absolute distance of the horizontal and vertical differences: keeps edges from going soft."""
    across = (a.diff(dim=-1) - b.diff(dim=-1)).abs().mean()
    return across + (a.diff(dim=-2) - b.diff(dim=-2)).abs().mean()


def make_autoencoder(config: Config) -> AutoencoderDC:
    """A fresh AutoencoderDC: nothing is computed at full size, the first step is the pixel-unshuffle."""
    return AutoencoderDC(
        latent_channels=config.latent_channels,
        encoder_block_out_channels=(config.channels[0] // 2, *config.channels),
        decoder_block_out_channels=(config.channels[0] // 2, *config.channels),
        encoder_layers_per_block=(0, *config.encoder_layers),
        decoder_layers_per_block=(0, *config.decoder_layers),
        encoder_qkv_multiscales=((), (), (), ()),
        decoder_qkv_multiscales=((), (), (), ()),
        scaling_factor=1.0,
    )


def recolour(pixels: torch.Tensor, part: float, rng: np.random.Generator) -> torch.Tensor:
    """Give `part` of the crops an unusual look (inverted, grey, mixed channels, gamma, flat colours, hard edges)."""
    looks = (
        lambda x: -x,
        lambda x: x.mean(0, keepdim=True).expand_as(x),
        lambda x: -x.mean(0, keepdim=True).expand_as(x),
        lambda x: x[torch.from_numpy(rng.permutation(3))],
        lambda x: ((x + 1) / 2).pow(rng.uniform(0.4, 2.5)) * 2 - 1,
        lambda x: (x * rng.uniform(1.2, 2.5)).clamp(-1, 1),
        lambda x: x * rng.uniform(0.3, 0.8) + rng.uniform(-0.4, 0.4),
        lambda x: ((x + 1) * 1.5).round() / 1.5 - 1,
        lambda x: x + torch.from_numpy(rng.uniform(-0.4, 0.4, (3, 1, 1)).astype(np.float32)),
        lambda x: torch.where(x.mean(0, keepdim=True) > rng.uniform(-0.3, 0.3), 1.0, -1.0).expand_as(x),
        lambda x: 1 - (x.diff(dim=1, append=x[:, -1:]).abs().mean(0, keepdim=True) * 6).clamp(0, 2).expand_as(x),
    )
    out = pixels.clone()
    for index in np.flatnonzero(rng.random(len(pixels)) < part):
        out[index] = looks[rng.integers(len(looks))](pixels[index]).clamp(-1, 1)
    return out


def make_batch(photos: list[np.ndarray], edited: list[np.ndarray], config: Config, step: int) -> Batch:
    """Crops of photos, some recoloured, some of procedural edits, and the noise for their latents."""
    rng = step_rng(config.loop.seed, step)
    crops = []
    for _ in range(config.batch):
        pool = edited if edited and rng.random() < config.edited else photos
        crops.append(random_crop(pool[rng.integers(len(pool))], config.crop, config.zoom, rng))
    pixels = recolour(to_tensor(crops), config.augment, rng)
    side = config.crop // 8
    noise = rng.standard_normal((config.batch, config.latent_channels, side, side), dtype=np.float32)
    level = rng.uniform(0, config.noise, (config.batch, 1, 1, 1)).astype(np.float32)
    return {"pixels": pixels, "noise": torch.from_numpy(noise * level)}


@torch.no_grad()
def fold_standardisation(vae: AutoencoderDC, pictures: torch.Tensor) -> None:
    """Make the latents of `pictures` zero-mean and unit-deviation per channel, and the decoder expect just that.

    The encoder ends in conv(h) + average(h) and the decoder begins with conv(z) + repeat(z), both linear, so a change
    of scale and offset goes into the convolutions: the shortcut is a 3×3 kernel with one row in its middle.
    """
    latents = torch.cat([vae.encode(part).latent for part in pictures.split(16)])
    mean, deviation = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    conv, channels = vae.encoder.conv_out, len(mean)
    group = conv.in_channels // channels
    shortcut = torch.zeros_like(conv.weight)
    for channel in range(channels):
        shortcut[channel, channel * group : (channel + 1) * group, 1, 1] = 1 / group
    conv.weight.copy_((conv.weight + shortcut) / deviation.view(-1, 1, 1, 1) - shortcut)
    conv.bias.copy_((conv.bias - mean) / deviation)


@torch.no_grad()
def psnr(vae: AutoencoderDC, pictures: torch.Tensor, noise: float = 0.0) -> float:
    """Mean PSNR in dB of `[n, 3, h, w]` pictures through the autoencoder, in 8 bit, picture by picture."""
    values = []
    for part in pictures.split(8):
        latents = vae.encode(part).latent
        latents = latents + noise * torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
        decoded = vae.decode(latents).sample
        error = to_pixels(decoded).astype(np.float64) - to_pixels(part).astype(np.float64)
        values.extend(10 * np.log10(255**2 / np.maximum((error**2).mean((1, 2, 3)), 1e-9)))
    return float(np.mean(values))


def photo_squares(paths: list[Path], side: int) -> torch.Tensor:
    """The middle squares of photos at short side `side`, as `[n, 3, side, side]`."""
    return to_tensor([centre_square(load_rgb(path, side), side) for path in paths])


def run(config: Config, inputs: dict[str, Path], folder: Path, photos: Path) -> dict[str, float]:
    """Train, fold the statistics in, save `vae/` below `folder`; metrics: losses and held-out PSNR at 256 px.

    Begins from the input `autoencoder` or from `start`, and mixes in the pictures of the input `pairs`. With
    `decoder_only` and no steps it hands on what it began from.
    """
    training, held = training_photos(photos)
    training = training[: config.limit]
    pool = [load_rgb(photo.path, config.short_side) for photo in training]
    edited = load_edited(inputs.get("pairs"))
    start = inputs["autoencoder"] / "vae" if "autoencoder" in inputs else config.start
    torch.manual_seed(config.loop.seed)
    vae = AutoencoderDC.from_pretrained(start, torch_dtype=torch.float32) if start else make_autoencoder(config)
    task = AutoencoderTask(vae, config.decoder_only)
    accelerator = make_accelerator(config.loop, folder)
    look = photo_squares([photo.path for photo in held[:6]], 192)

    def sample(step: int) -> None:
        # The task standardises with batch statistics, so the look uses those of the pictures themselves.
        latents = vae.encode(look).latent
        mean, std = latents.mean((0, 2, 3), keepdim=True), latents.std((0, 2, 3), keepdim=True)
        latents = latents if config.decoder_only else (latents - mean) / std
        save_grid([look, vae.decode(latents).sample], folder / "samples" / f"step-{step}.png")

    hooks = Hooks(lambda step: make_batch(pool, edited, config, step), torch.no_grad()(sample))
    metrics = train(task, config.loop, hooks, accelerator, folder)
    vae = vae.eval().to("cpu")
    if not config.decoder_only:
        # On what it was trained on: of photos alone the latents are narrower, and the decoder would not know them.
        seen = [make_batch(pool, edited, config, config.loop.steps + extra)["pixels"] for extra in range(32)]
        fold_standardisation(vae, torch.cat(seen))
    vae.save_pretrained(folder / "vae")
    figures = photo_squares([photo.path for photo in held], 256)
    return metrics | {"psnr": psnr(vae, figures), "psnr_noise_0.1": psnr(vae, figures, 0.1)}


def load_edited(folder: Path | None) -> list[np.ndarray]:
    """The pictures of the pairs stage, so that sketches and mosaics can be encoded as well as photos."""
    if folder is None:
        return []
    paths = sorted(folder.rglob("*.jpg"))
    stride = max(1, len(paths) // 6000)  # 6,000 pictures of 192 px are 0.7 GB of memory
    # The names of the families repeat from crop to crop: an odd stride sees them all.
    return [load_rgb(path) for path in paths[:: stride | 1]]


def save_grid(rows: list[torch.Tensor], path: Path) -> None:
    """Rows of `[n, 3, h, w]` pictures as one PNG."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [np.concatenate(list(to_pixels(row)), axis=1) for row in rows]
    Image.fromarray(np.concatenate(lines, axis=0)).save(path)


def estimate(settings: Config, counts: Estimate) -> Estimate:
    """Optimizer steps of a small network."""
    return replace(counts, makes=f"{settings.loop.steps:,} steps")


def goes_on_from(settings: Config, folder: Path, record: Mapping[str, Any]) -> int:
    """The step of its own newest checkpoint, or of that of a training of another length."""
    return begins_at(settings.loop, folder, record)


STAGE = Stage(Config, run, VERSION, reads_photos=True, estimate=estimate, begins_at=goes_on_from)
