"""How many pairs a second a pairs config makes, against the published script's scheme at the same settings.

That scheme, written anew for diffusers' modules: one pair a call, attention as whole maps that are copied where they
are shared, float32 weights under autocast. Its steps, noise and text are ours, so that only the scheme is compared, and
its pictures are compared with ours before anything is timed.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ip2pbatch.backends.pytorch import accelerators
from ip2pbatch.backends.pytorch import backend as pytorch
from ip2pbatch.backends.quiet import quiet
from ip2pbatch.disk.remembered import cache_folder
from ip2pbatch.engine.bench import random_models
from ip2pbatch.errors import UsageError
from ip2pbatch.train.configs import load_config
from ip2pbatch.train.estimates import PAIR_STEPS, model_name, remember, work_of
from ip2pbatch.train.pairs.prompt_to_prompt.attention_sharing import SELF, Sharing
from ip2pbatch.train.pairs.prompt_to_prompt.pair_sampler import PairSampler
from ip2pbatch.train.pairs.prompt_to_prompt.pair_stage import Config, load_sampler

CAPTIONS = (
    ("photograph of a girl riding a horse", "photograph of a girl riding a dragon"),
    ("a lighthouse on a cliff at noon", "a lighthouse on a cliff at noon, by Van Gogh"),
)


@dataclass(frozen=True)
class Rate:
    """One contender: pairs a call and a second, and peak memory of the GPU in bytes (0 without one)."""

    scheme: str
    batch: int
    pairs_per_second: float
    peak_bytes: int


@dataclass(frozen=True)
class Comparison:
    """Rates, the published scheme first, and how near its picture is to ours: PSNR in dB of the worst pair."""

    rates: tuple[Rate, ...]
    likeness: float

    @property
    def gain(self) -> float:
        """The best rate over the published scheme's."""
        return max(rate.pairs_per_second for rate in self.rates) / self.rates[0].pairs_per_second


class WholeMaps:
    """The published `CrossAttention.forward`: every score is written out, and scores are copied before the softmax."""

    def __init__(self, sharing: Sharing) -> None:
        self.sharing = sharing

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, **_: Any
    ) -> Tensor:
        """[4, places, width] → the same shape."""
        seen = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = (
            part.unflatten(-1, (attn.heads, -1)).transpose(1, 2).flatten(0, 1)
            for part in (attn.to_q(hidden_states), attn.to_k(seen), attn.to_v(seen))
        )
        scores = torch.einsum("bid,bjd->bij", q, k) * q.shape[-1] ** -0.5
        if encoder_hidden_states is None and self.sharing.kind in SELF and self.sharing.mask is not None:
            parts = scores.chunk(4)
            scores = torch.cat((parts[0], parts[0], parts[2], parts[2]))
        mixed = torch.einsum("bij,bjd->bid", scores.softmax(dim=-1), v)
        together: Tensor = mixed.unflatten(0, (-1, attn.heads)).transpose(1, 2).flatten(2)
        projected: Tensor = attn.to_out[1](attn.to_out[0](together))
        return projected


class PublishedSampler(PairSampler):
    """One pair a call, whole maps, and `half` around float32 weights."""

    processor = WholeMaps
    half: torch.dtype | None = None

    def make(self, captions: Sequence[tuple[str, str]], seeds: Sequence[int]) -> Tensor:
        """As PairSampler, under autocast."""
        with self._autocast():
            return super().make(captions, seeds)

    def _autocast(self) -> AbstractContextManager[Any]:
        return nullcontext() if self.half is None else torch.autocast(self.backend.device.type, self.half)


def published(config: Config, device: str) -> PublishedSampler:
    """The published scheme on a config's model, whatever its batch; with the released code's sharing."""
    loaded, _ = load_sampler(config.model_copy(update={"precision": "fp32", "compile": False}), device, ())
    sampler = PublishedSampler(loaded.backend, loaded.settings, 1)
    sampler.half = None if config.precision == "fp32" else pytorch.DTYPES[config.precision]
    return sampler


def settings_of(config: Path, model: str | None = None, steps: int | None = None) -> Config:
    """A pairs config as it is to be measured. UsageError where it is none of Prompt-to-Prompt."""
    settings = load_config(config).settings
    if not isinstance(settings, Config):
        raise UsageError(f"{config} makes no pairs by Prompt-to-Prompt", hint="give a config with that `maker`")
    changed: dict[str, Any] = {} if steps is None else {"steps": steps}
    if model in random_models.ARCHITECTURES:
        folder = random_model(model, kept_models())
        changed |= {"model": str(folder), "autoencoder": None, "side": random_models.ARCHITECTURES[model].side}
    elif model is not None:
        changed["model"] = model
    return settings.model_copy(update=changed)


def compare(config: Config, device: str, batches: Sequence[int], rounds: int = 2) -> Comparison:
    """The published scheme and ours at each of `batches`, in mirrored order, after a look at their pictures.

    Of `rounds` calls of each contender the fastest counts: the first one also warms it up. The best rate is kept for
    the estimates of `train plan`.
    """
    config = config.model_copy(update={"sharing": "self"})
    ours, _ = load_sampler(config, device)
    samplers: list[PairSampler] = [
        published(config, device),
        *(of_batch(ours, batch) for batch in batches),
    ]
    likeness = min(likenesses(samplers[0], samplers[-1]))
    seconds: list[list[float]] = [[] for _ in samplers]
    peaks = [0] * len(samplers)
    for turn in range(rounds):
        order = list(range(len(samplers)))
        for place in order if turn % 2 == 0 else order[::-1]:
            took, peak = timed(samplers[place])
            seconds[place].append(took)
            peaks[place] = max(peaks[place], peak)
    names = ["published", *("ours" for _ in batches)]
    rates = (
        Rate(name, sampler.batch, round(sampler.batch / min(took), 4), peak)
        for name, sampler, took, peak in zip(names, samplers, seconds, peaks, strict=True)
    )
    found = Comparison(tuple(rates), round(likeness, 1))
    best = max(rate.pairs_per_second for rate in found.rates)
    remember(device, PAIR_STEPS, measured_name(config.model), best * work_of(config.steps, config.side))
    return found


def measured_name(model: str) -> str:
    """The name under which a rate of `model` is kept: random weights cost what trained ones of that architecture do."""
    path = Path(model)
    return model_name(path.name.partition("-")[0] if path.parent == kept_models() else model)


def of_batch(sampler: PairSampler, batch: int) -> PairSampler:
    """The same networks with another number of pairs a call."""
    other = PairSampler(sampler.backend, sampler.settings, batch)
    other.compiled = sampler.compiled
    return other


def likenesses(one: PairSampler, other: PairSampler) -> list[float]:
    """PSNR in dB of the pictures of two pairs by two samplers."""
    found = []
    for seed, captions in enumerate(CAPTIONS):
        pictures = [sampler.make([captions], [seed])[0].float() for sampler in (one, other)]
        error = float((pictures[0] - pictures[1]).square().mean()) / 4  # of a range of 2
        found.append(99.0 if error < 1e-9 else -10 * float(torch.tensor(error).log10()))
    return found


def timed(sampler: PairSampler) -> tuple[float, int]:
    """Seconds of one full call, up to pictures on the host, and the GPU's peak bytes."""
    captions = [CAPTIONS[place % len(CAPTIONS)] for place in range(sampler.batch)]
    accelerators.forget_most()
    began = time.perf_counter()
    sampler.make(captions, list(range(sampler.batch))).cpu()
    took = time.perf_counter() - began
    return took, accelerators.most_held()


def kept_models() -> Path:
    """Where models with random weights are kept."""
    return cache_folder() / "bench-models"


def random_model(name: str, root: Path) -> Path:
    """A text-to-image model of a real architecture (`sd15`, `small`) with random weights, made below `root` once."""
    edits = random_models.build(name, root)
    folder, partial = edits.with_name(f"{edits.name}-text"), edits.with_name(f".{edits.name}-text")
    if folder.is_dir():
        return folder
    from diffusers import UNet2DConditionModel

    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(edits, partial, ignore=lambda path, names: names if Path(path).name == "unet" else [])
    unet = UNet2DConditionModel(**{**random_models.ARCHITECTURES[name].unet, "in_channels": 4})
    random_models.fill(unet, torch.Generator().manual_seed(0))
    with quiet():
        unet.half().save_pretrained(partial / "unet")
    partial.rename(folder)
    return folder


def to_json(found: Comparison) -> str:
    """The comparison as one JSON object."""
    return json.dumps(asdict(found) | {"gain": round(found.gain, 2)}, indent=2)


def to_text(found: Comparison) -> str:
    """The comparison for a terminal or a page: a line a contender."""
    lines = [
        f"{rate.scheme}, {rate.batch} a call: {rate.pairs_per_second:.3g} pairs/s"
        + (f", {rate.peak_bytes / 1e9:.1f} GB" if rate.peak_bytes else "")
        for rate in found.rates
    ]
    return "\n".join([*lines, f"{found.gain:.1f} times as many; pictures alike to {found.likeness:.0f} dB"])
