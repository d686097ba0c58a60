"""What a chain will take before it runs: samples, disk, and hours on a GPU at a rate that was measured on it.

Counts pass from stage to stage: prompts, and pairs on disk. Where a stage has been made its own figures count; before
that, the releases' do: 727 GB for four pairs of each of 451,990 prompts, and 436 GB for what their thresholds kept.

A rate is of a device and of a model: what a tiny one measured says nothing of Stable Diffusion.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ip2pbatch.backends import hub
from ip2pbatch.disk.remembered import Remembered
from ip2pbatch.errors import ModelError
from ip2pbatch.train.model_names import HubSet, ModelName, commit_of, count_weights, folder_of

RELEASED_PROMPTS = 451_990
RELEASED_PAIR = 727e9 / (4 * RELEASED_PROMPTS)  # bytes of a pair at 512 px
FULL_COLOUR = 1.47  # as much again for JPEGs that keep all of the colour: measured on 60 photos at quality 100
KEPT = 4 * 436 / 727  # pairs a prompt of which a hundred samples were judged and four at most kept
LINE = 230  # bytes of a sample's line with its similarities
CAPTION = 250  # bytes of a prompt
BYTES_A_WEIGHT = 16  # of a checkpoint
VIEW = 24e3  # bytes of one view's latents at 256 px: mean and log-variance of the edit, the mode of the photo
TEXT = 2 * 77 * 768  # bytes of an instruction's embedding
TEXT_SDXL = 2 * (77 * 2048 + 1280)
COMPLETION = 30  # tokens of an instruction and an edited caption
ACCEPTED = 0.9  # of the captions that a model is asked about

PAIR_STEPS, SAMPLES, EDIT_STEPS, TOKENS = (
    "pair steps at 512 px",
    "samples at 256 px",
    "edit steps at 512 px",
    "tokens",
)


DATA = (".parquet", ".tar", ".jsonl")  # files of a set of the hub that pairs are read from
_RATES = "training rates"  # the topic under which rates are remembered


@dataclass(frozen=True)
class Rate:
    """So much work a second on a device that has a name, with which model (`model_name`), and where it is from."""

    device: str
    unit: str
    model: str
    per_second: float
    source: str


SD1, SDXL = "stable-diffusion-v1", "stable-diffusion-xl"
ALIKE = {
    "stable-diffusion-v1-4": SD1, "stable-diffusion-v1-5": SD1, "instruct-pix2pix": SD1, "sd15": SD1,
    "stable-diffusion-xl-base-1.0": SDXL, "sdxl-instructpix2pix-768": SDXL,
}  # fmt: skip
UNETS = {SD1: 859_520_964, SDXL: 2_567_463_684}  # their weights
PUBLISHED = (
    Rate("NVIDIA A100-SXM4-40GB", SAMPLES, SD1, 10_000 * 1024 / (25.5 * 3600 * 8), "arXiv 2211.09800: 25.5 h on eight"),
)


@dataclass(frozen=True)
class Estimate:
    """What one stage makes and takes: `work` is counted in `unit`; `bytes` are on disk in the end."""

    stage: str
    prompts: float = 0.0
    pairs: float = 0.0
    makes: str = ""
    bytes: float = 0.0
    work: float = 0.0
    unit: str = ""
    model: str = ""
    fetch: float = 0.0  # bytes of hub models that are not on this machine yet
    unknown: str = ""  # why nothing can be said of it: what it reads is not there

    def rates(self, known: Sequence[Rate]) -> list[Rate]:
        """Those of them that are of this work with this model."""
        return [rate for rate in known if self.work and (rate.unit, rate.model) == (self.unit, self.model)]

    def hours(self, known: Sequence[Rate]) -> dict[str, float]:
        """Hours on one of each device whose rate for this work is known."""
        return {rate.device: self.work / rate.per_second / 3600 for rate in self.rates(known)}


def estimate(chain: Sequence[Any]) -> dict[Path, Estimate]:
    """By config, the estimates of a chain's StageStatus rows, inputs first; what nothing is known of has none."""
    found: dict[Path, Estimate] = {}
    for one in chain:
        before = [found[config.path] for config in one.config.inputs.values() if config.path in found]
        counts = Estimate(
            one.config.name,
            prompts=max((other.prompts for other in before), default=0.0),
            pairs=max((other.pairs for other in before), default=0.0),
        )
        if unknown := why_unknown(one, [found[needed.path] for needed in one.config.inputs.values()]):
            found[one.config.path] = Estimate(one.config.name, makes=f"not known: {unknown}", unknown=unknown)
            continue
        made = replace(one.config.module.estimate(one.config.settings, counts), fetch=bytes_to_fetch(one.config))
        if made.unknown:
            found[one.config.path] = replace(made, makes=f"not known: {made.unknown}", work=0.0, bytes=0.0)
            continue
        known = {name: one.metrics[name] for name in ("prompts", "pairs") if name in one.metrics}
        if one.state == "fresh" and known:
            made = replace(made, **known)
        found[one.config.path] = replace(made, model=model_of(one.config) if made.work else "")
    return {path: made for path, made in found.items() if made.makes}


def why_unknown(one: Any, inputs: Sequence[Estimate]) -> str:
    """Why a stage that is not fresh cannot be counted: data that are not there, or a stage before it that cannot."""
    if one.state == "fresh":
        return ""
    missing = [value for _, value in one.config.sources() if isinstance(value, Path) and not value.exists()]
    if missing:
        return f"{missing[0]} is not there"
    return next((f"{other.stage} is not" for other in inputs if other.unknown), "")


def bytes_to_fetch(config: Any) -> float:
    """Bytes of the hub models that a stage names and this machine does not have, and of its data sets' files (once;
    they are not kept), where the hub says so."""
    names = {value for _, value in config.sources() if isinstance(value, ModelName)}
    total = 0.0
    for name in (name for name in names if name.is_hub_id and commit_of(name) is None):
        with suppress(ModelError):  # told by the checks
            found = hub.look_up(*name.hub)
            total += found.bytes if found else 0
    for value in {value for _, value in config.sources() if isinstance(value, HubSet)}:
        with suppress(ModelError):
            data = hub.look_up_data(*value.hub)
            total += sum(one.bytes for one in data.files if one.name.endswith(DATA)) if data else 0
    return total


def weights_of(model: str, network: str = "unet") -> float:
    """How many weights one network of a model has by its safetensors' headers; where they are not on this machine, as
    many as SDXL's for a name that is known as one, and Stable Diffusion 1.5's for others."""
    folder = folder_of(ModelName(model))
    if folder and (counted := count_weights(folder / network)):
        return float(counted)
    return UNETS.get(model_name(model), UNETS[SD1])


def checkpoint_bytes(model: str, network: str = "unet") -> float:
    """A checkpoint of training one network of a model: 16 bytes a weight (itself, Adam's moments, the average)."""
    return BYTES_A_WEIGHT * weights_of(model, network)


def is_sdxl(model: str) -> bool:
    """Whether a model has SDXL's two text encoders; of one that is not on this machine its name says so."""
    folder = folder_of(ModelName(model))
    return (folder / "text_encoder_2").is_dir() if folder else model_name(model) == SDXL


def text_bytes(model: str) -> float:
    """One instruction's embedding in the cache: SDXL's is of two encoders, and has a pooled half."""
    return TEXT_SDXL if is_sdxl(model) else TEXT


def memory(weights: float, *, optimizer: str, frozen: bool, others: int = 0) -> str:
    """What the UNet of a training takes of a GPU, in words; nothing where it is less than a gigabyte. In float32: the
    weights, and where they learn gradient, average and Adam's two moments, which `adamw8bit` keeps in a byte each;
    `others` are as large, and do not learn."""
    learns = 10 if optimizer == "adamw8bit" else 16
    size = (4 * others + (4 if frozen else 4 + learns)) * weights
    if size < 1e9:
        return ""
    return f"; {weights / 1e9:.2f} billion weights, {size_of(size)} of a GPU beside the batch"


def accumulation(effective_batch: int, batch: int) -> str:
    """How a step comes about, in words; nothing where one batch on one GPU is all of it."""
    processes = int(os.environ.get("WORLD_SIZE", 1))
    parts = effective_batch / (batch * processes)
    if parts * processes <= 1:
        return ""
    return f"; a step is {parts:g} parts of {batch}" + (f" on {processes} GPUs" if processes > 1 else "")


def model_of(config: Any) -> str:
    """The name of the model that a stage works with, as rates know it; an input's is what the input began with."""
    settings = config.settings
    curves = [curve.model for curve in getattr(settings, "curves", ()) if curve.method != "folder"]
    found = []
    for name in curves or [getattr(settings, "start", None) or getattr(settings, "model", None)]:
        if name is not None and name not in config.inputs:
            found.append(model_name(name))
        else:
            inputs = config.inputs.values() if name is None else [config.inputs[name]]
            found += [model for one in inputs if (model := model_of(one))]
    return " + ".join(dict.fromkeys(found))


def model_name(model: str) -> str:
    """A hub id or a folder by what tells its size: the last part without a revision, or one word for all of one size.

    What a stage has made is called `model`, like everything that stages make, and is known by its place.
    """
    path = Path(model.partition("@")[0])
    return str(path) if path.name == "model" else ALIKE.get(path.name, path.name)


def kept_of(samples: int, keep: int) -> float:
    """Pairs a prompt that pass the released thresholds and are among the best `keep`; at most those of a hundred."""
    return min(KEPT * keep / 4, KEPT * samples / 100 * 4, float(samples))


def pair_bytes(side: int, full_colour: bool = True) -> float:
    """Two JPEGs as they are written."""
    return RELEASED_PAIR * (FULL_COLOUR if full_colour else 1) * (side / 512) ** 2


def count_rows(path: Path) -> int:
    """Rows of a JSONL, CSV or parquet file, or of all such files below a folder; 0 where there are none."""
    if path.is_dir():
        return sum(count_rows(one) for one in sorted(path.rglob("*")) if one.is_file())
    if path.suffix == ".parquet":
        import pyarrow.parquet

        return int(pyarrow.parquet.read_metadata(path).num_rows)
    if path.suffix not in (".jsonl", ".csv") or not path.is_file():
        return 0
    with path.open("rb") as file:
        return sum(1 for line in file if line.strip()) - (path.suffix == ".csv")


def device_name(device: str) -> str:
    """The name of an accelerator as its driver gives it; `cpu` for a processor."""
    if device == "cpu":
        return device
    from ip2pbatch.backends.pytorch import accelerators

    return accelerators.name_of(device)


def remember(device: str, unit: str, model: str, per_second: float) -> None:
    """Keep a rate that was measured on this machine for later estimates; a newer one of the model replaces it."""
    Remembered(_RATES).keep({json.dumps([device_name(device), unit, model]): per_second})


def remembered() -> list[Rate]:
    """The rates measured on this machine."""
    rows = ((json.loads(key), value) for key, value in Remembered(_RATES).everything().items())
    source = "measured on this machine"
    return [Rate(device, unit, model, float(value), source) for (device, unit, model), value in rows]


def rates() -> list[Rate]:
    """What is known of devices: published figures, and what was measured here."""
    return [*PUBLISHED, *remembered()]


def size_of(count: float) -> str:
    """Bytes in the unit that a person would say."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:,.3g} {unit}"
    return f"{count / 1e3:,.3g} kB" if count else ""


def hours_of(found: Estimate, known: Sequence[Rate], price: float | None = None) -> str:
    """GPU hours in words, a line a device, with what they cost at a `price` an hour; where no rate is known, how to get
    one."""
    if not found.work:
        return ""
    hours = found.hours(known)
    if hours:
        costs = {name: "" if price is None else f", {value * price:,.0f} in money" for name, value in hours.items()}
        return "\n".join(f"{value:,.3g} h on {name}{costs[name]}" for name, value in hours.items())
    how = {
        PAIR_STEPS: ": `train bench-pairs` does", TOKENS: ": a run with `limit: 1000` does",
        EDIT_STEPS: ": an evaluation of 50 (`samples: 50`, `limit: 50`) does",
    }  # fmt: skip
    return "no rate measured" + how.get(found.unit, "")


def learn(config: Any, metrics: Mapping[str, float], device: str, processes: int = 1) -> None:
    """Keep the rate that a finished stage has measured, of one of its `processes`; nothing where it measured none."""
    unit, per_second = config.module.rate(config.settings, metrics)
    if per_second > 0:
        remember(device, unit, model_of(config), per_second / processes)


def work_of(steps: int, side: int) -> float:
    """What one sample or edit of so many steps at `side` pixels is of steps at 512 pixels."""
    return steps * (side / 512) ** 2
