"""The pack stage: pairs → WebDataset shards of float16 latents, read back through a memory map.

    shards/latents-00000.tar:  <crop>.json  {"names": ["source", "winter", …], "digest": …, "crc": CRC-32 of the npy}
                               <crop>.npy   float16 [names, c, h, w]

A tar is not compressed, so a latent in it has an address: training maps the shard and reads what it draws. Where the
autoencoder has a posterior, c counts its mean and its log-variance; a deterministic one has only the latent. The K
seeded augmentations are the crops of the pairs stage, so every one of them is edited as seen, not mirrored afterwards.
Shards of older versions have no checksums, and are taken as they are.
"""

from __future__ import annotations

import io
import json
import tarfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from diffusers import AutoencoderDC, ModelMixin
from pydantic import BaseModel, ConfigDict
from tqdm import tqdm

from ip2pbatch.backends.pytorch import accelerators
from ip2pbatch.errors import RecipeError
from ip2pbatch.plan.written.yaml_source import Mistake
from ip2pbatch.train.data.broken import BrokenSampleError, LeftOut
from ip2pbatch.train.data.crops import load_rgb, to_tensor
from ip2pbatch.train.data.pair_folder import PairFolder, find_pairs
from ip2pbatch.train.estimates import Estimate
from ip2pbatch.train.stage import Stage, misfits

VERSION = 1
AGAIN = "delete the shard, and its stage's done.json, and run `train run` for the pack stage: it is made again"


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
            stream = io.BytesIO()
            np.save(stream, latents)
            note = {
                "names": names,
                "posterior": posterior,
                "digest": json.loads((pair.path / "pair.json").read_text())["digest"],
                "crc": zlib.crc32(stream.getvalue()),
            }
            writer.write({"__key__": pair.path.name, "json": json.dumps(note).encode(), "npy": stream.getvalue()})
    partial.rename(path)


def read_shards(folder: Path) -> list[Crop]:
    """Every crop of every finished shard below `folder`, its latents mapped once they were held to their checksum.

    BrokenSampleError where some are damaged.
    """
    return [place.read() for place in places_below(folder)]


def read_whole(shards: Path, folder: Path, share: float) -> tuple[list[Crop], int]:
    """The same for a stage that may leave a `share` of them out, and how many it did: they are named in `folder`.

    In the place of a damaged crop stands one that is whole, so that all others stay where they were. RecipeError where
    more are damaged.
    """
    places, crops, gaps = places_below(shards), [], []
    left_out = LeftOut(folder, len(places), share)
    for number, place in enumerate(places):
        try:
            crops.append(place.read())
        except BrokenSampleError as error:
            left_out.add(error)
            gaps.append(number)
    if not crops:
        raise RecipeError("has no crop that is whole", file=shards, hint=AGAIN)
    for number in gaps:
        crops.insert(number, crops[number % len(crops)])
    return crops, len(gaps)


def places_below(folder: Path) -> list[CropPlace]:
    """The crops of all finished shards."""
    return [place for path in sorted(folder.glob("latents-*.tar")) for place in places_in(path)]


@dataclass(frozen=True)
class CropPlace:
    """Where one crop's latents lie in a shard, and what its JSON says of them."""

    path: Path
    key: str
    begin: int
    length: int
    note: Mapping[str, Any]

    def read(self) -> Crop:
        """The latents, mapped. BrokenSampleError where they are other than their checksum says."""
        if "crc" in self.note:
            with self.path.open("rb") as file:
                file.seek(self.begin)
                if zlib.crc32(file.read(self.length)) != self.note["crc"]:
                    said = "its latents do not fit their checksum"
                    raise BrokenSampleError(said, file=f"{self.path} crop {self.key}", hint=AGAIN)
        latents = map_array(self.path, self.begin)
        return Crop(self.key, tuple(self.note["names"]), latents, self.note["posterior"])


def places_in(path: Path) -> list[CropPlace]:
    """The crops of one shard by their keys. RecipeError where it is no whole tar."""
    notes: dict[str, dict[str, Any]] = {}
    arrays: dict[str, tuple[int, int]] = {}
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                key, _, kind = member.name.rpartition(".")
                if kind == "json" and (note := tar.extractfile(member)):
                    notes[key] = json.loads(note.read())
                else:
                    arrays[key] = (member.offset_data, member.size)
    except (tarfile.TarError, OSError, ValueError) as error:
        raise RecipeError(f"is no whole tar ({error})", file=path, hint=AGAIN) from error
    return [CropPlace(path, key, *arrays[key], notes[key]) for key in sorted(arrays)]


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
    vae = vae.to(accelerators.default())
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
