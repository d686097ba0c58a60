"""SDXL-InstructPix2Pix and CosXL Edit on torch: the same Editor as InstructPix2Pix, over networks with two texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from ip2pbatch.backends.model_folder import Layout, latent_channels, read_schedule
from ip2pbatch.backends.pipeline_folder import check
from ip2pbatch.backends.pytorch import accelerators, two_texts
from ip2pbatch.backends.weights import ModelFolder
from ip2pbatch.engine import tuning
from ip2pbatch.engine.editor import Editor
from ip2pbatch.engine.samplers import refuse_unsampled
from ip2pbatch.errors import ModelError
from ip2pbatch.plan.edits import Edit
from ip2pbatch.run.machine import Machine


def precision(folder: ModelFolder, device: str) -> str:
    """fp16 on NVIDIA's GPUs, where an autoencoder that overflows in it stays in fp32; fp32 elsewhere."""
    return "fp16" if accelerators.is_nvidia(device) else "fp32"


def refuse(folder: ModelFolder, edits: Sequence[Edit]) -> None:
    """A UNet that sees no photo, and Edits whose sampler cannot follow the model's noise schedule."""
    layout = check(folder.path)
    takes, latents = int(layout.config("unet").get("in_channels", 4)), latent_channels(layout)
    if takes != 2 * latents:
        raise ModelError(
            f"{folder.path}: the UNet takes {takes} channels, and one that edits takes {2 * latents}",
            hint="use a model that edits, such as sdxl-ip2p",
        )
    refuse_unsampled({**read_schedule(folder.path), **folder.laid.schedule}, edits)


def speedups(layout: Layout, device: torch.device, dtype: torch.dtype) -> dict[str, str]:
    """None yet: they were made for Stable Diffusion's UNet."""
    return {}


def open_engine(
    folder: ModelFolder, device: str, precision: str, machine: Machine, *, safety: bool, edits: Sequence[Edit],
    note: Callable[[str], None],
) -> Editor:  # fmt: skip
    """The editor, with a measured batch where one is asked for."""
    backend = two_texts.load(folder, device, precision)
    editor = Editor(backend, determinism=machine.determinism.value, safety=safety, interval=machine.interval)
    said = tuning.tune_batch(editor, backend, edits, folder.digest) if edits and machine.batch == "auto" else []
    for text in said:
        note(text)
    return editor
