"""Samples a second and peak memory of fine-tuning, against the step of diffusers' example script on the same batch.

    python training/bench_finetune.py                   # full size, random weights: needs a GPU with 40 GB or more
    python training/bench_finetune.py --tiny --steps 3  # the same code on a tiny architecture, to see that it runs

Both take the same 256 px crops of the same pictures, keep an average of the weights and clip nothing. Theirs, as in
examples/instruct_pix2pix/train_instruct_pix2pix.py: autoencoder twice and text encoder once a step, in half precision,
an eager UNet under autocast. Ours: the stage itself, from cached latents, compiled, channels last, with a fused AdamW.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from diffusers.training_utils import EMAModel
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from ip2pbatch.train.data.crops import to_tensor
from ip2pbatch.train.data.pair_sets import PairSet, open_pairs
from ip2pbatch.train.data.released import DATASET, Prompt, Sample, write_prompt, write_seeds
from ip2pbatch.train.fit.edit_batches import EditBatches, Place
from ip2pbatch.train.fit.loop import Hooks, make_accelerator, train
from ip2pbatch.train.fit.networks import Networks
from ip2pbatch.train.fit.stable_diffusion import Config, make_batches, make_task

SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=40, help="measured, after as many as it takes to warm up")
    parser.add_argument("--warm-up", type=int, default=10)
    parser.add_argument("--precision", choices=("bf16", "fp16", "no"), default="bf16")
    parser.add_argument("--tiny", action="store_true", help="a tiny architecture in float32, without compilation")
    parser.add_argument("--result", type=Path, help="where to write the figures as JSON")
    found = parser.parse_args()
    if found.tiny:
        found.batch, found.precision, found.warm_up = 2, "no", 1
    return found


def make_networks(tiny: bool) -> Networks:
    """Stable Diffusion 1.5's shapes with random weights, its UNet grown; or the smallest of these classes."""
    torch.manual_seed(0)
    width, layers, heads = (32, 1, 4) if tiny else (768, 12, 12)
    blocks = (16, 16, 32, 32) if tiny else (128, 256, 512, 512)
    groups = 8 if tiny else 32
    vae = AutoencoderKL(
        block_out_channels=blocks, down_block_types=("DownEncoderBlock2D",) * 4, norm_num_groups=groups,
        up_block_types=("UpDecoderBlock2D",) * 4, latent_channels=4, layers_per_block=1 if tiny else 2,
    )  # fmt: skip
    shape = {"block_out_channels": (16, 32, 32, 32), "layers_per_block": 1} if tiny else {}
    unet = UNet2DConditionModel(
        in_channels=8, out_channels=4, cross_attention_dim=width, norm_num_groups=groups,
        attention_head_dim=4 if tiny else 8, **shape,
    )  # fmt: skip
    letters = sorted(ByteLevel.alphabet())
    words = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(vocab={word: n for n, word in enumerate(words)}, merges=[], model_max_length=77)
    text = CLIPTextModel(CLIPTextConfig(
        vocab_size=49408, hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers,
        num_attention_heads=heads, projection_dim=width, bos_token_id=512, eos_token_id=513, pad_token_id=513,
    ))  # fmt: skip
    return Networks(unet, vae, text, tokenizer, SCHEDULE)


def make_pairs(folder: Path, count: int, side: int) -> PairSet:
    """`count` prompts with a pair of noise each: what is in the pictures costs no time."""
    rng = np.random.default_rng(0)
    for number in range(count):
        pictures = rng.integers(0, 256, (2, side, side, 3), dtype=np.uint8)
        prompt = Prompt(number, "a photo", f"make it {number}", "an edited photo")
        write_prompt(folder / DATASET, prompt, [Sample(0)], {0: (pictures[0], pictures[1])})
    write_seeds(folder / DATASET, {f"{number:07d}": [0] for number in range(count)})
    return open_pairs(folder)


def config_of(said: argparse.Namespace, precision: str, compiled: bool) -> Config:
    """The stage's settings for this measurement."""
    steps = said.warm_up + said.steps
    side = 64 if said.tiny else 256
    loop = {"steps": steps, "precision": precision, "save_every": 10**9, "sample_every": 10**9, "log_every": 10**9}
    return Config(
        maker="stable_diffusion", start="", side=side, resize=(side, side + side // 8), views=1, loop=loop,
        batch=said.batch, effective_batch=said.batch, compile=compiled,
    )  # fmt: skip


def ours(said: argparse.Namespace, pairs: PairSet, folder: Path) -> dict[str, float]:
    """The stage's own loop on cached latents."""
    config, networks = config_of(said, said.precision, not said.tiny), make_networks(said.tiny)
    accelerator = make_accelerator(config.loop, folder, cpu=not torch.cuda.is_available())
    batches = make_batches(config, networks, pairs, Place(said.batch), folder / "cache", accelerator.device)
    for part in range(-(-len(pairs) // said.batch)):  # one epoch fills the cache
        batches(part)
    networks.vae.to("cpu")
    networks.text_encoder.to("cpu")
    clock = Clock(said.warm_up)

    def batch(part: int) -> dict[str, torch.Tensor]:
        clock.tick()
        return batches(part)

    with _no_checkpoint():
        train(make_task(config, networks), config.loop, Hooks(batch, lambda step: None), accelerator, folder)
    clock.tick()
    batches.close()
    return clock.figures(said.batch)


def theirs(said: argparse.Namespace, pairs: PairSet, folder: Path) -> dict[str, float]:
    """The example script's step, on crops that are read ahead just as ours are."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    half = {"bf16": torch.bfloat16, "fp16": torch.float16, "no": torch.float32}[said.precision]
    networks = make_networks(said.tiny)
    unet = networks.unet.to(device).train()
    vae, text = networks.vae.to(device, half).eval(), networks.text_encoder.to(device, half).eval()
    vae.requires_grad_(False)
    text.requires_grad_(False)
    schedule, optimizer = DDPMScheduler(**SCHEDULE), torch.optim.AdamW(unet.parameters(), lr=1e-4)
    ema = EMAModel(unet.parameters(), decay=0.9999)
    ema.to(device)
    crops = crops_of(said, pairs, folder)
    scaler = torch.amp.GradScaler(device.type, enabled=said.precision == "fp16")
    clock = Clock(said.warm_up)
    parts = SimpleNamespace(unet=unet, vae=vae, text=text, tokenizer=networks.tokenizer, schedule=schedule)
    for step in range(said.warm_up + said.steps):
        clock.tick()
        pixels, words = crops(step)
        loss = example_loss(parts, pixels.to(device, half, non_blocking=True), words, half)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        ema.step(unet.parameters())
        loss.item()
    clock.tick()
    return clock.figures(said.batch)


def example_loss(parts: SimpleNamespace, pixels: torch.Tensor, words: list[str], half: torch.dtype) -> torch.Tensor:
    """`pixels` [2n, 3, h, w], the photos first: the loss as the example script computes it."""
    photos, edited = pixels.chunk(2)
    with torch.no_grad():
        latents = parts.vae.encode(edited).latent_dist.sample() * parts.vae.config.scaling_factor
        noise = torch.randn_like(latents)
        timesteps = torch.randint(0, 1000, (len(latents),), device=latents.device)
        ids = parts.tokenizer(
            words, padding="max_length", max_length=77, truncation=True, return_tensors="pt"
        ).input_ids
        states, null = (parts.text(one.to(latents.device))[0] for one in (ids, ids[:1]))
        image = parts.vae.encode(photos).latent_dist.mode()
        drawn = torch.rand(len(latents), device=latents.device)
        states = torch.where((drawn < 0.1).view(-1, 1, 1), null, states)
        image = image * ~((drawn >= 0.05) & (drawn < 0.15)).view(-1, 1, 1, 1)
        noisy = torch.cat([parts.schedule.add_noise(latents, noise, timesteps), image], dim=1)
    with torch.autocast(latents.device.type, half, enabled=half != torch.float32):
        predicted = parts.unet(noisy, timesteps, states).sample
    loss: torch.Tensor = (predicted.float() - noise.float()).square().mean()
    return loss


def crops_of(said: argparse.Namespace, pairs: PairSet, folder: Path) -> Callable[[int], tuple[torch.Tensor, list[str]]]:
    """Crops from the stage's own reader, which reads ahead; nothing of the cache is used."""
    config, networks = config_of(said, "no", False), make_networks(said.tiny)
    config = config.model_copy(update={"views": 0})
    reader: EditBatches = make_batches(
        config, networks, pairs, Place(said.batch), folder / "none", torch.device("cpu")
    )  # fmt: skip

    def crops(step: int) -> tuple[torch.Tensor, list[str]]:
        prepared = reader.prepared(step)
        both = np.stack([picture for picture in prepared.pictures if picture is not None])
        words = [pairs.instruction(draw.prompt) for draw in prepared.draws]
        return to_tensor(list(np.concatenate([both[:, 0], both[:, 1]]))), words

    return crops


class Clock:
    """The median time between ticks after the first `skipped`, and the most memory that was held."""

    def __init__(self, skipped: int) -> None:
        self.skipped, self.ticks = skipped, [0.0][:0]

    def tick(self) -> None:
        """A step begins, or the last one has ended."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
            if len(self.ticks) == self.skipped:
                torch.cuda.reset_peak_memory_stats()
        self.ticks.append(time.perf_counter())

    def figures(self, batch: int) -> dict[str, float]:
        """Samples a second and GiB."""
        took = statistics.median(np.diff(self.ticks[self.skipped :]).tolist())
        peak = torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else 0.0
        return {"samples_a_second": batch / took, "step_ms": 1000 * took, "peak_gib": peak}


def _no_checkpoint() -> Any:
    """The last step's checkpoint would be timed with it."""
    from unittest.mock import patch

    return patch("ip2pbatch.train.fit.checkpoints.save", lambda *_: None)


def main() -> None:
    """Measure both and print the figures with their ratio."""
    said = arguments()
    found: dict[str, Any] = {"device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"}
    found |= {"torch": torch.__version__, "batch": said.batch, "precision": said.precision, "tiny": said.tiny}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pairs = make_pairs(folder / "pairs", 4 if said.tiny else 8 * said.batch, 96 if said.tiny else 512)
        for which in (theirs, ours):
            found[which.__name__] = which(said, pairs, folder / which.__name__)
            torch.cuda.empty_cache()
    found["speed_up"] = found["ours"]["samples_a_second"] / found["theirs"]["samples_a_second"]
    print(json.dumps(found, indent=1))
    if said.result:
        said.result.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
