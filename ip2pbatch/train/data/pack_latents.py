"""The pack stage: pairs → WebDataset shards of float16 latents, read back through a memory map.

    shards/latents-00000.tar:  <crop>.json  {"names": ["source", "winter", …], "digest": …}
                               <crop>.npy   float16 [names, c, h, w]

A tar is not compressed, so a latent in it has an address: training maps the shard and reads what it draws. Where the
autoencoder has a posterior, c counts its mean and its log-variance; a deterministic one has only the latent. The K
seeded augmentations are the crops of the pairs stage, so every one of them is edited as seen, not mirrored afterwards.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from diffusers import AutoencoderDC, ModelMixin
from pydantic import BaseModel, ConfigDict
from tqdm import tqdm

from ip2pbatch.plan.written.yaml_source import Mistake
from ip2pbatch.train.data.crops import load_rgb, to_tensor
from ip2pbatch.train.data.pair_folder import PairFolder, find_pairs
from ip2pbatch.train.estimates import Estimate
from ip2pbatch.train.stage import Stage, misfits

VERSION = 1


class Config(BaseModel):
    """What decides the shards."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    crops_per_shard: int = 48
    precision: Literal["bf16", "no"] = "bf16"  # for the encoder's passes


@dataclass(frozen=True)
class Crop:
    """One crop's latents in a shard: `latents` maps float16 `[names, c, h, w]`, `names[0]` is the source."""

    key: str
    names: tuple[str, ...]
    latents: np.ndarray
    posterior: bool  # whether c is mean and log-variance


@torch.no_grad()
def encode(vae: ModelMixin, pixels: torch.Tensor, precision: str) -> torch.Tensor:
    """`[n, 3, H, W]` → `[n, c, h, w]`: mean and log-variance where the autoencoder has them, else the latent."""
    with torch.autocast(pixels.device.type, dtype=torch.bfloat16, enabled=precision == "bf16"):
        encoded = vae.encode(pixels)
    if hasattr(encoded, "latent_dist"):
        return torch.cat([encoded.latent_dist.mean, encoded.latent_dist.logvar], dim=1).float()
    latent: torch.Tensor = encoded.latent
    return latent.float()


def encode_crop(vae: ModelMixin, pair: PairFolder, precision: str) -> tuple[tuple[str, ...], np.ndarray]:
    """The source's and every edit's latents of one crop."""
    names = ("source", *pair.names)
    pixels = to_tensor([load_rgb(pair.picture(name)) for name in names])
    device = next(vae.parameters()).device
    at_once = 2 if device.type == "cpu" else 32  # on a CPU two pictures' activations stay in its cache: a third faster
    parts = [encode(vae, part.to(device), precision).cpu() for part in pixels.split(at_once)]
    return names, torch.cat(parts).numpy().astype(np.float16)


def write_shard(vae: ModelMixin, pairs: list[PairFolder], path: Path, precision: str) -> None:
    """One shard, renamed when whole."""
    import webdataset

    partial = path.with_suffix(".partial")
    posterior = not isinstance(vae, AutoencoderDC)
    with webdataset.TarWriter(str(partial), encoder=False) as writer:
        for pair in pairs:
            names, latents = encode_crop(vae, pair, precision)
            note = {
                "names": names,
                "posterior": posterior,
                "digest": json.loads((pair.path / "pair.json").read_text())["digest"],
            }
            stream = io.BytesIO()
            np.save(stream, latents)
            writer.write({"__key__": pair.path.name, "json": json.dumps(note).encode(), "npy": stream.getvalue()})
    partial.rename(path)


def read_shards(folder: Path) -> list[Crop]:
    """Every crop of every finished shard below `folder`, its latents mapped, not read."""
    return [crop for path in sorted(folder.glob("latents-*.tar")) for crop in read_shard(path)]


def read_shard(path: Path) -> list[Crop]:
    """The crops of one shard."""
    notes: dict[str, dict[str, Any]] = {}
    arrays: dict[str, np.ndarray] = {}
    with tarfile.open(path) as tar:
        for member in tar:
            key, _, kind = member.name.rpartition(".")
            if kind == "json" and (note := tar.extractfile(member)):
                notes[key] = json.loads(note.read())
            else:
                arrays[key] = map_array(path, member.offset_data)
    return [Crop(key, tuple(notes[key]["names"]), arrays[key], notes[key]["posterior"]) for key in sorted(arrays)]


def map_array(path: Path, offset: int) -> np.ndarray:
    """A `.npy` that begins at `offset` of a file, as a read-only map."""
    with path.open("rb") as file:
        file.seek(offset)
        version = np.lib.format.read_magic(file)
        reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = reader(file)
        begin = file.tell()
    return np.memmap(path, dtype=dtype, mode="r", offset=begin, shape=shape)


def load_autoencoder(folder: Path) -> ModelMixin:
    """The autoencoder in `folder`, whichever of diffusers' classes its config names."""
    import diffusers

    name = json.loads((folder / "config.json").read_text())["_class_name"]
    return getattr(diffusers, name).from_pretrained(folder).eval()


def run(config: Config, inputs: dict[str, Path], folder: Path, photos: Path) -> dict[str, float]:
    """Write the shards that are missing; metrics: crops, latents and their mean and deviation."""
    vae = load_autoencoder(inputs["autoencoder"] / "vae")
    if torch.cuda.is_available():
        vae = vae.to("cuda")
    pairs = find_pairs(inputs["pairs"] / "pairs")
    shards = folder / "shards"
    shards.mkdir(parents=True, exist_ok=True)
    begins = range(0, len(pairs), config.crops_per_shard)
    for number, begin in enumerate(tqdm(begins, desc="pack", mininterval=5)):
        path = shards / f"latents-{number:05d}.tar"
        if not path.exists():
            write_shard(vae, pairs[begin : begin + config.crops_per_shard], path, config.precision)
    crops = read_shards(shards)
    looked = np.stack([crop.latents[0] for crop in crops[:: max(1, len(crops) // 200)]]).astype(np.float32)
    return {
        "crops": float(len(crops)),
        "latents": float(sum(len(crop.names) for crop in crops)),
        "mean": float(looked.mean()),
        "deviation": float(looked.std()),
    }


def check(settings: Config, inputs: Mapping[str, str]) -> Iterable[Mistake]:
    """What does not fit together in a config."""
    return misfits(inputs, ("autoencoder", "pairs"), ("autoencoder", "pairs"))


def estimate(settings: Config, counts: Estimate) -> Estimate:
    """Latents of all pairs."""
    return replace(counts, makes="the latents of every pair")


STAGE = Stage(Config, run, VERSION, check=check, estimate=estimate)
