"""The pairs stage, `maker: prompt_to_prompt`: captions → pairs of pictures, a hundred samples a prompt, in the files of
the paper's release (train/data/released.py).

    dataset/.0000012/                 a prompt that is being made: pictures first, then the sample's line
    dataset/0000012/                  the same when every sample has its line
    model.json                        which model has made what is here

A sample's line is its only mark: what has one is never made again, by whichever shard. With `thresholds` a prompt's
pairs are judged on the GPU and only the best are ever written; every line has its similarities all the same.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor
from tqdm import tqdm

from ip2pbatch.backends import model_folder, weights
from ip2pbatch.backends.pytorch import accelerators
from ip2pbatch.backends.pytorch import backend as pytorch
from ip2pbatch.backends.pytorch.steps import choose
from ip2pbatch.disk.atomic import write_whole
from ip2pbatch.errors import ModelError, ResourceError, UsageError
from ip2pbatch.measures.clip import VIT_L_14, Clip
from ip2pbatch.measures.pretrained import load_pretrained
from ip2pbatch.plan.shard import Shard
from ip2pbatch.plan.written.yaml_source import Mistake
from ip2pbatch.run.engine import OutOfMemory
from ip2pbatch.train.data.released import (
    DATASET,
    Chroma,
    Prompt,
    Sample,
    pictured_seeds,
    prompts_of,
    read_prompts,
    write_seeds,
)
from ip2pbatch.train.estimates import (
    LINE,
    PAIR_STEPS,
    RELEASED_PROMPTS,
    Estimate,
    count_rows,
    kept_of,
    pair_bytes,
    work_of,
)
from ip2pbatch.train.model_names import ModelName
from ip2pbatch.train.pairs.filter import DROPPED, PairFilter, Thresholds
from ip2pbatch.train.pairs.prompt_to_prompt.attention_sharing import Shared
from ip2pbatch.train.pairs.prompt_to_prompt.pair_sampler import Compat, PairSampler, Settings, draw, to_bytes
from ip2pbatch.train.pairs.prompt_to_prompt.prompt_work import PromptWork
from ip2pbatch.train.row_work import Books, RowWork, make_part, there
from ip2pbatch.train.stage import Stage, misfits, one_source

VERSION = 1
STEPS = ("rowwise", "channels-last")  # of the backend's; the others stand where attention is shared
BATCHES = 8  # of samples that a worker is dealt at once, in whole prompts
STRIDE = 0x9E3779B1  # odd, so that a prompt's seeds differ; they are spread over all 32 bits


class Config(BaseModel):
    """What decides the pairs; `batch` and `compile` do not, and may change between a stop and a restart."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    maker: Literal["prompt_to_prompt"]
    model: ModelName = ModelName("stable-diffusion-v1-5/stable-diffusion-v1-5")
    autoencoder: ModelName | None = None  # a folder or hub id of another AutoencoderKL than the model's own
    captions: Path | None = None  # a JSONL file, where no captions stage is an input
    limit: int | None = Field(None, ge=1)  # only the first prompts
    samples: int = Field(100, ge=1)
    steps: int = Field(100, ge=1)
    side: int = Field(512, ge=8)
    sharing: Shared = "self"
    shared_steps: tuple[float, float] = (0.1, 0.9)
    guidance: tuple[float, float] = (7.5, 15.0)
    seed: int = 0
    thresholds: Thresholds | None = None  # judge while the pictures are on the GPU, write only what passes
    clip: ModelName = ModelName(VIT_L_14)
    precision: Literal["fp32", "fp16", "bf16"] = "fp16"
    compat: Compat = "fixed"
    chroma: Chroma = Field("full", exclude_if=lambda value: value == "full")  # half: as the original's JPEGs
    batch: int = Field(8, ge=1, exclude=True)  # pairs a call
    compile: bool = Field(False, exclude=True)

    @model_validator(mode="after")
    def _ranges(self) -> Config:
        low, high = self.shared_steps
        if not 0 <= low <= high <= 1:
            raise ValueError("shared_steps are two fractions from 0 to 1, the smaller first")
        if self.guidance[0] > self.guidance[1]:
            raise ValueError("guidance is the smaller scale, then the larger")
        return self

    def settings(self) -> Settings:
        """What the sampler needs of it."""
        return Settings(self.steps, self.side, self.sharing, self.shared_steps, self.guidance, self.compat)


@dataclass(frozen=True)
class Job:
    """One sample to be made, in the folder of its prompt."""

    work: PromptWork
    seed: int


def seeds_of(prompt: Prompt, config: Config) -> list[int]:
    """The 32-bit seeds of a prompt's samples: its captions' own, wherever in a file it stands."""
    text = "\n".join([str(config.seed), prompt.input, prompt.edit, prompt.output])
    first = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
    return [(first + STRIDE * number) % 2**32 for number in range(config.samples)]


def load_sampler(config: Config, device: str, steps: Sequence[str] = STEPS) -> tuple[PairSampler, str]:
    """The sampler on `device` with steps of the backend's, and a digest of the weights.

    ModelError where the model is none that draws from text, UsageError where the side does not suit it.
    """
    model = weights.resolve(config.model, kind="text_to_image")
    digest = model.digest
    backend = pytorch.load(model, device, config.precision, steps)
    multiple = backend.vae_scale * 2 ** (len(backend.parts.unet.config.block_out_channels) - 1)
    if config.side % multiple:
        near = max(multiple, round(config.side / multiple) * multiple)
        said = f"side: {config.model} draws multiples of {multiple} px, not {config.side}"
        raise UsageError(said, hint=f"side: {near} is the nearest")
    if config.autoencoder:
        vae = load_autoencoder(config.autoencoder, backend)
        parts, checked = replace(backend.parts, vae=vae), model_folder.check(model.path, model.kind)
        backend = pytorch.TorchBackend(parts, checked, backend.device, config.precision, choose(steps))
        digest = f"{digest} {digest_of(vae)}"
    sampler = PairSampler(backend, config.settings(), config.batch)
    if config.compile:
        sampler.compile()
    return sampler, digest


def load_autoencoder(name: str, backend: pytorch.TorchBackend) -> Any:
    """Another AutoencoderKL, on the model's device in its precision, from a folder or hub id with safetensors."""
    from diffusers import AutoencoderKL

    if not Path(name).is_dir() and "/" not in name:
        raise ModelError(f"there is no autoencoder {name}", hint="give a folder, or owner/name@revision")
    (vae,) = load_pretrained(name, "autoencoder", AutoencoderKL, torch_dtype=backend.parts.vae.dtype)
    if vae.config.latent_channels != backend.latent_channels or pytorch.vae_scale(vae) != backend.vae_scale:
        said = f"the autoencoder {name} does not fit the model: its latents have another shape"
        raise ModelError(said, hint="leave `autoencoder` out for the model's own, or name one made for this model")
    return vae.to(backend.device).eval().requires_grad_(False)


def digest_of(network: Any) -> str:
    """sha256 over the names and bytes of a network's weights."""
    total = hashlib.sha256()
    for name, weight in sorted(network.state_dict().items()):
        total.update(name.encode())
        total.update(weight.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return total.hexdigest()


def same_model(folder: Path, digest: str, config: Config) -> None:
    """Note which weights make the pairs of this folder. UsageError where others began it: a name is no promise."""
    note = folder / "model.json"
    if not note.exists():
        write_whole(note, (json.dumps({"model": config.model, "digest": digest}) + "\n").encode())
    known = json.loads(note.read_bytes())
    if known["digest"] != digest:
        raise UsageError(
            f"{config.model} has other weights than the ones that {folder} was begun with",
            hint="give the model that it was begun with, pinned as owner/name@revision, or another --out",
        )


def jobs(
    prompts: Sequence[Prompt], dataset: Path, config: Config, judge: PairFilter | None, bar: Any, books: Books
) -> Iterator[Job]:
    """Every sample that has no line yet, prompt by prompt; `bar` hears of those that have."""
    for prompt in prompts:
        work = PromptWork(dataset, prompt, seeds_of(prompt, config), judge, config.chroma)
        missing = work.missing()
        bar.total -= config.samples - len(missing)
        if not missing:
            books.wait()
            work.finish()
        yield from (Job(work, seed) for seed in missing)


def make_all(
    prompts: Sequence[Prompt], dataset: Path, config: Config, sampler: PairSampler, judge: PairFilter | None,
    books: Books,
) -> int:  # fmt: skip
    """Make every missing sample, the files of a batch while the next one is drawn; how many it were."""
    made, pending, total = 0, None, len(prompts) * config.samples
    bar = tqdm(total=total, desc="pairs", unit="pair", mininterval=5, smoothing=0.05, disable=books.quiet)
    with bar, ThreadPoolExecutor(1) as writer:
        todo = jobs(prompts, dataset, config, judge, bar, books)
        while batch := list(islice(todo, config.batch)):
            pictures = draw_batch(sampler, batch)
            samples = [sample_of(job, pair, sampler, judge) for job, pair in zip(batch, pictures, strict=True)]
            written(pending)
            pending = writer.submit(store, batch, samples, to_bytes(pictures, config.compat), books)
            made += len(batch)
            bar.update(len(batch))
        written(pending)
    return made


def draw_batch(sampler: PairSampler, batch: Sequence[Job]) -> Tensor:
    """The batch's pictures [n, 2, 3, H, W]. ResourceError where memory is short, ModelError where all are broken."""
    try:
        pictures = sampler.make([job.work.prompt.captions for job in batch], [job.seed for job in batch])
    except OutOfMemory as error:
        hint = f"set `batch` below {sampler.batch}: what is finished is kept, and the same pairs are made"
        raise ResourceError(f"not enough memory for {sampler.batch} pairs a call: {error}", hint=hint) from error
    if not bool(pictures.isfinite().flatten(1).all(1).any()):
        raise ModelError(f"all {len(batch)} pairs of a batch came out as nan", hint="use `precision: bf16` or fp32")
    return pictures


def sample_of(job: Job, pair: Tensor, sampler: PairSampler, judge: PairFilter | None) -> Sample:
    """The line of a sample [2, 3, H, W], judged by itself so that its figures tell nothing of its neighbours."""
    knobs, _ = draw(job.seed, sampler.settings)
    sample = Sample(job.seed, knobs.shared_steps, knobs.guidance)
    if not bool(pair.isfinite().all()):
        return replace(sample, extra={"broken": True})
    if judge is None:
        return sample
    before, after = ((pair + 1) / 2).split(1)
    return replace(sample, similarities=judge.score(before, after, [job.work.prompt])[0])


def store(batch: Sequence[Job], samples: Sequence[Sample], pictures: Any, books: Books) -> None:
    """Write a batch: pictures, lines, and the prompts that are whole with it."""
    books.wait()
    for job, sample, pair in zip(batch, samples, pictures, strict=True):
        job.work.add(sample, pair)


def written(pending: Future[None] | None) -> None:
    """Wait for the files of the batch before, and hear what went wrong with them."""
    if pending is not None:
        pending.result()


class PairRows(RowWork):
    """The prompts, by their numbers: a prompt's folder is there when all of its samples are."""

    def __init__(self, config: Config, inputs: Mapping[str, Path], folder: Path) -> None:
        super().__init__(folder)
        self.config, self.dataset = config, folder / DATASET
        self.most = max(1, BATCHES * config.batch // config.samples)
        self.prompts = {one.number: one for one in prompts_to_make(config, dict(inputs))}

    def names(self) -> Iterator[str]:
        return (f"{one.number} {json.dumps(one.row())}" for one in self.prompts.values())

    def left(self) -> list[int]:
        made = there(self.dataset)
        return [number for number, one in self.prompts.items() if one.folder not in made]

    def open(self) -> str:
        self.sampler, digest = load_sampler(self.config, accelerators.default())
        self.judge = None
        if self.config.thresholds is not None:
            clip = Clip.load(self.config.clip, str(self.sampler.backend.device))
            self.judge = PairFilter(clip, self.config.thresholds, self.folder / DROPPED)
        return digest

    def begin(self, digest: str) -> None:
        same_model(self.folder, digest, self.config)

    def make(self, rows: Sequence[int], books: Books) -> float:
        """In samples."""
        finished = there(self.dataset)
        prompts = [one for one in map(self.prompts.__getitem__, rows) if one.folder not in finished]
        made = make_all(prompts, self.dataset, self.config, self.sampler, self.judge, books)
        books.settle(rows)
        return made

    def finish(self, rate: float) -> dict[str, float]:
        return finish(self.dataset, list(self.prompts.values()), self.config, rate)


def run(
    config: Config, inputs: dict[str, Path], folder: Path, photos: Path | None, shard: Shard | None = None
) -> dict[str, float] | None:
    """Make what is missing of a shard's prompts; None while other shards' are missing.

    Metrics: prompts, prompts without a picture, samples, pairs on disk, broken samples, and pairs made a second.
    """
    return make_part(PairRows(config, inputs, folder), shard)


def prompts_to_make(config: Config, inputs: dict[str, Path]) -> list[Prompt]:
    """The prompts of the captions stage or file. UsageError where the config names neither."""
    source = prompts_of(inputs["captions"]) if "captions" in inputs else config.captions
    if source is None:
        raise UsageError(
            "the pairs have no captions", hint="inputs: {captions: captions.yaml}, or captions: FILE.jsonl"
        )
    return read_prompts(source)[: config.limit]


def finish(dataset: Path, prompts: Sequence[Prompt], config: Config, rate: float) -> dict[str, float]:
    """`seeds.json` and the metrics, every prompt being whole."""
    seeds = {one.folder: sorted(pictured_seeds(dataset / one.folder)) for one in prompts}
    write_seeds(dataset, seeds)
    return {
        "prompts": float(len(prompts)),
        "prompts_without_a_pair": float(sum(not found for found in seeds.values())),
        "samples": float(len(prompts) * config.samples),
        "pairs": float(sum(len(found) for found in seeds.values())),
        "pairs/s": round(rate, 3),
    }


def estimate(settings: Config, counts: Estimate) -> Estimate:
    """Samples by Prompt-to-Prompt, and of them what is written."""
    prompts = (count_rows(settings.captions) if settings.captions else counts.prompts) or RELEASED_PROMPTS
    prompts = min(prompts, settings.limit or prompts)
    samples = prompts * settings.samples
    kept = samples if settings.thresholds is None else prompts * kept_of(settings.samples, settings.thresholds.keep)
    work = samples * work_of(settings.steps, settings.side)
    return replace(
        counts, prompts=prompts, pairs=kept, makes=f"{samples:,.0f} samples, {kept:,.0f} pairs written",
        bytes=kept * pair_bytes(settings.side, settings.chroma == "full") + samples * LINE, work=work, unit=PAIR_STEPS,
    )  # fmt: skip


def rate(settings: Config, metrics: Mapping[str, float]) -> tuple[str, float]:
    """Steps of samples at 512 pixels a second."""
    return PAIR_STEPS, metrics.get("pairs/s", 0.0) * work_of(settings.steps, settings.side)


def check(settings: Config, inputs: Mapping[str, str]) -> Iterator[Mistake]:
    """What does not fit together in a config."""
    yield from misfits(inputs, ("captions",))
    yield from one_source("captions", settings.captions, inputs)


def idle(settings: Config) -> tuple[str, ...]:
    """Without thresholds nothing is judged."""
    return () if settings.thresholds else ("clip",)


STAGE = Stage(Config, run, VERSION, rows=PairRows, estimate=estimate, rate=rate, check=check, idle=idle)
