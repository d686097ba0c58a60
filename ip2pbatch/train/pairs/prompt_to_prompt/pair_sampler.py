"""Pairs of pictures from pairs of captions: Euler ancestral steps of many pairs at once, noise and attention shared.

A pair is its captions and its seed: one CPU generator draws the fraction p of steps that share attention, the guidance
scale, and all noise, in this order. The original draws p and the scale from the same stream, so that a seed of the
released set gives the p and scale it is listed with; its noise came from a GPU and is not ours to repeat.

Formulas: k-diffusion `sampling.sample_euler_ancestral` (η = 1) and `external.CompVisDenoiser.get_sigmas`, as the
original uses them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ip2pbatch.backends.pytorch import accelerators
from ip2pbatch.backends.pytorch.backend import TorchBackend, memory
from ip2pbatch.backends.pytorch.steps.compiled import why_no_compiler
from ip2pbatch.errors import MissingError
from ip2pbatch.train.pairs.prompt_to_prompt.attention_sharing import (
    Shared,
    Sharing,
    SharingProcessor,
    WordMaps,
    sharing_attention,
)
from ip2pbatch.train.pairs.prompt_to_prompt.words import align

Compat = Literal["fixed", "original"]


@dataclass(frozen=True)
class Settings:
    """What every pair of a set has in common. `original` repeats the published script where it is known to be wrong:
    p = 1 leaves the last step unshared, and bytes are cut off instead of rounded."""

    steps: int = 100
    side: int = 512
    sharing: Shared = "self"
    shared_steps: tuple[float, float] = (0.1, 0.9)
    guidance: tuple[float, float] = (7.5, 15.0)
    compat: Compat = "fixed"


@dataclass(frozen=True)
class Knobs:
    """What a pair's seed decides: the fraction p of shared steps, and the guidance scale."""

    shared_steps: float
    guidance: float


def draw(seed: int, settings: Settings) -> tuple[Knobs, torch.Generator]:
    """The knobs of a seed, and the generator that goes on to draw its noise."""
    generator = torch.Generator("cpu").manual_seed(seed)

    def between(low: float, high: float) -> float:
        return low + torch.rand((), generator=generator).item() * (high - low)

    return Knobs(between(*settings.shared_steps), between(*settings.guidance)), generator


def is_shared(step: int, settings: Settings, fraction: float) -> bool:
    """Whether attention is shared at `step` of 0 … steps − 1 where `fraction` of the steps share."""
    whole = settings.steps if settings.compat == "fixed" else max(1, settings.steps - 1)
    return step / whole < fraction


@dataclass(frozen=True)
class NoiseSchedule:
    """The walk: `timesteps` of `steps` network calls, and `sigmas`, one more, ending at 0."""

    timesteps: tuple[float, ...]
    sigmas: tuple[float, ...]

    @classmethod
    def of(cls, scheduler_config: Any, steps: int) -> NoiseSchedule:
        """Timesteps evenly from the last to 0, fractions included; σ² = (1 − ᾱ)/ᾱ, log σ linear between timesteps."""
        alphas = training_alphas(scheduler_config)
        times = np.linspace(len(alphas) - 1, 0, steps)
        logs = np.interp(times, np.arange(len(alphas)), 0.5 * np.log((1 - alphas) / alphas))
        return cls(tuple(times.tolist()), (*np.exp(logs).tolist(), 0.0))


def training_alphas(scheduler_config: Any) -> NDArray[np.float64]:
    """ᾱ of every training timestep, from a model's scheduler configuration."""
    from diffusers import EulerAncestralDiscreteScheduler

    keys = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas")
    schedule = EulerAncestralDiscreteScheduler.from_config(
        {key: scheduler_config[key] for key in keys if key in scheduler_config}
    )
    alphas: NDArray[np.float64] = schedule.alphas_cumprod.double().numpy()
    return alphas


class PairSampler:
    """Draws pairs on a text-to-image model; every call of the network has 4 × `batch` rows, whatever is asked.

    A pair depends on the number `batch`, in its last bits, and on none of the pairs beside it. `processor` makes the
    attention of a call that shares.
    """

    processor: Callable[[Sharing], Any] = SharingProcessor

    def __init__(self, backend: TorchBackend, settings: Settings, batch: int) -> None:
        self.backend, self.settings, self.batch = backend, settings, batch
        self.compiled = False
        self._schedule = NoiseSchedule.of(backend.scheduler_config, settings.steps)
        self._predicts = str(backend.scheduler_config.get("prediction_type", "epsilon"))
        self._embed = lru_cache(maxsize=512)(lambda caption: backend.encode_text([caption]))
        self._align = lru_cache(maxsize=512)(partial(align, backend.parts.tokenizer))

    def compile(self) -> None:
        """Compile the network with its sharing: minutes once a shape, faster ever after. MissingError where that cannot
        be done here."""
        if reason := why_no_compiler(self.backend.device):
            raise MissingError(f"the network cannot be compiled: {reason}", hint="set `compile: false`")
        self.backend.parts.unet.compile(fullgraph=True, dynamic=False)
        self.compiled = True

    def make(self, captions: Sequence[tuple[str, str]], seeds: Sequence[int]) -> Tensor:
        """Pictures [n, 2, 3, side, side] in −1 … 1 of n ≤ `batch` pairs; nan where one came out broken."""
        return torch.stack([self._decode(pair) for pair in self.latents(captions, seeds)])

    @torch.inference_mode()
    def latents(self, captions: Sequence[tuple[str, str]], seeds: Sequence[int]) -> Tensor:
        """The denoised latents [n, 2, c, h, w] of n ≤ `batch` pairs, divided by the scaling factor."""
        places = [min(place, len(seeds) - 1) for place in range(self.batch)]  # the last one fills the call
        words, drawn = [captions[i] for i in places], [draw(seeds[i], self.settings) for i in places]
        noise, text = self._noise([generator for _, generator in drawn]), self._text(words)
        sharing = Sharing(self.settings.sharing, self._words(words), steady=self.compiled)
        device = self.backend.device
        scale = torch.tensor([knobs.guidance for knobs, _ in drawn], device=device).view(1, -1, 1, 1, 1)
        x = (noise[0] * self._schedule.sigmas[0]).expand(2, -1, -1, -1, -1)
        walk = zip(self._schedule.timesteps, pairwise(self._schedule.sigmas), strict=True)
        with sharing_attention(self.backend.parts.unet, self.processor(sharing)), accelerators.attention_of(device):
            for step, (time, (sigma, after)) in enumerate(walk):
                shares = [is_shared(step, self.settings, knobs.shared_steps) for knobs, _ in drawn]
                sharing.set(torch.tensor(shares), device)
                predicted = self._predict(x, sigma, time, text)
                clean = denoised(x, sigma, predicted[0] + (predicted[1] - predicted[0]) * scale, self._predicts)
                fresh = noise[step + 1] if step + 1 < len(noise) else 0.0
                x = ancestral_step(x, clean, sigma, after, fresh)
        return x.transpose(0, 1)[: len(seeds)] / self.backend.scaling_factor

    def _noise(self, generators: Sequence[torch.Generator]) -> Tensor:
        """[steps, n, c, h, w]: the initial noise and every step's but the last's, which adds none."""
        side = self.settings.side // self.backend.vae_scale
        shape = (self.settings.steps, self.backend.latent_channels, side, side)
        drawn = [torch.randn(shape, generator=generator) for generator in generators]
        return torch.stack(drawn, dim=1).to(self.backend.device)

    def _text(self, captions: Sequence[tuple[str, str]]) -> Tensor:
        """[4n, tokens, width]: ∅, ∅, the captions, the edited captions."""
        words = ["", ""] * len(captions) + [pair[0] for pair in captions] + [pair[1] for pair in captions]
        return torch.cat([self._embed(one) for one in words])

    def _words(self, captions: Sequence[tuple[str, str]]) -> WordMaps | None:
        if self.settings.sharing == "self":
            return None
        maps = [self._align(*pair) for pair in captions]
        carried, own = (torch.from_numpy(np.stack(part)) for part in zip(*maps, strict=True))
        return WordMaps(carried, own).to(self.backend.device, self.backend.parts.unet.dtype)

    def _predict(self, x: Tensor, sigma: float, time: float, text: Tensor) -> Tensor:
        """One network call over latents [2, n, c, h, w] → its predictions [2, 2, n, c, h, w], without text first."""
        unet = self.backend.parts.unet
        seen = (x / math.sqrt(sigma**2 + 1)).flatten(0, 1).repeat(2, 1, 1, 1)
        timestep = torch.tensor(time, device=x.device, dtype=torch.float32)
        with memory():
            text = text.to(unet.dtype)
            rows: Tensor = unet(seen.to(unet.dtype), timestep, encoder_hidden_states=text, return_dict=False)[0]
        return rows.float().view(2, *x.shape)

    def _decode(self, pair: Tensor) -> Tensor:
        """[2, c, h, w] → [2, 3, H, W]; an autoencoder that breaks in half precision is asked again in float32."""
        pictures = self.backend.decode(pair)
        if not bool(pictures.isfinite().all()):
            pictures = self.backend.decode(pair, upcast=True)
        return pictures.clamp(-1, 1)


def denoised(x: Tensor, sigma: float, predicted: Tensor, predicts: str) -> Tensor:
    """The latents without their noise as a prediction has it, of `epsilon` or of v = αε − σx₀ (arXiv 2202.00512)."""
    if predicts == "epsilon":
        return x - sigma * predicted
    return x / (sigma**2 + 1) - predicted * sigma / math.sqrt(sigma**2 + 1)


def ancestral_step(x: Tensor, clean: Tensor, sigma: float, after: float, fresh: Tensor | float) -> Tensor:
    """From σ to `after`: down by Euler to σ_down, then up with fresh noise (k-diffusion `get_ancestral_step`)."""
    up = min(after, math.sqrt(after**2 * (sigma**2 - after**2) / sigma**2))
    down = math.sqrt(after**2 - up**2)
    return x + (x - clean) / sigma * (down - sigma) + fresh * up


def to_bytes(pictures: Tensor, compat: Compat) -> NDArray[np.uint8]:
    """[..., 3, H, W] in −1 … 1 → uint8 [..., H, W, 3], rounded; cut off as the original does where asked."""
    scaled = (pictures.float().clamp(-1, 1) + 1) * 127.5
    whole = scaled if compat == "original" else scaled.round()
    return whole.to(torch.uint8).movedim(-3, -1).cpu().numpy()
