"""What a network call of a run costs, measured as a run makes it: what `--batch auto` and the benchmark go by."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from ip2pbatch.backends.base import Backend
from ip2pbatch.backends.pytorch import accelerators
from ip2pbatch.plan.rows import Row

WORDS = "make it snow"
_WARM_UP = 3
_MOMENT = 500.0


def network_call(backend: Backend, size: tuple[int, int], rows: int) -> Callable[[], torch.Tensor]:
    """A call of `rows` network rows at `size` (width, height) on random latents, as a step of a run makes it.

    The rows are those of Edits with three rows each, and are told to the backend, so that it remembers texts and
    shares what it can; the timestep lies on the host, as a sampler's does.
    """
    device, edits = backend.device, -(-rows // 3)
    draw = torch.Generator().manual_seed(0)
    shape = (edits, backend.latent_channels, size[1] // backend.vae_scale, size[0] // backend.vae_scale)
    latents, images = (torch.randn(shape, generator=draw).to(device) for _ in range(2))
    terms = ((False, None), (True, None), (True, WORDS))
    known = [Row(edit, edit if image else None, text) for edit in range(edits) for image, text in terms][:rows]
    texts = {text: backend.encode_text([text or ""]) for text in (None, WORDS)}
    zeros = torch.zeros_like(images[0])
    sample = torch.stack([latents[row.latent_of] for row in known])
    image = torch.stack([zeros if row.image_of is None else images[row.image_of] for row in known])
    words = torch.cat([texts[row.text] for row in known])
    return lambda: backend.predict_noise(sample, torch.tensor(_MOMENT), words, image, known)


@torch.inference_mode()
def seconds_of_call(backend: Backend, size: tuple[int, int], rows: int, repeats: int = 3) -> float:
    """Median seconds of one such call in a row of them, after a few to warm up."""
    return median_seconds(network_call(backend, size, rows), backend.device, repeats)


def median_seconds(call: Callable[[], Any], device: torch.device, repeats: int) -> float:
    """The median over `repeats` calls after a few to warm up.

    On one of NVIDIA's GPUs, whose queue is filled before the first one counts, the time from the end of a call to the
    end of the next: a run does not wait between its calls either.
    """
    return statistics.median(seconds_each(call, device, repeats))


def seconds_each(call: Callable[[], Any], device: torch.device, repeats: int) -> list[float]:
    """The same of every one of them."""
    for _ in range(_WARM_UP):
        call()
    return (_gpu_seconds if accelerators.is_nvidia(device) else _seconds)(call, device, repeats)


def _seconds(call: Callable[[], Any], device: torch.device, repeats: int) -> list[float]:
    seconds = []
    for _ in range(repeats):
        accelerators.finish(device)
        begun = time.perf_counter()
        call()
        accelerators.finish(device)
        seconds.append(time.perf_counter() - begun)
    return seconds


def _gpu_seconds(call: Callable[[], Any], device: torch.device, repeats: int) -> list[float]:
    ends = [accelerators.event(timed=True) for _ in range(repeats + 1)]
    for end in ends:
        call()
        end.record()
    ends[-1].synchronize()
    return [before.elapsed_time(after) / 1000 for before, after in itertools.pairwise(ends)]
