"""Which number format a model runs in where none is asked for: measured once a model and machine, then remembered.

bf16 nearly halves a row's time on a processor that has it, and costs quality that hangs on the model: it is taken where
pictures stay within 40 dB of float32, with the autoencoder in float32 either way. So is fp16 on accelerators that were
not run by us.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from ip2pbatch.backends.base import Backend
from ip2pbatch.backends.pytorch import accelerators
from ip2pbatch.backends.weights import ModelFolder
from ip2pbatch.disk.remembered import Remembered
from ip2pbatch.engine.editor import Editor
from ip2pbatch.plan.edits import Guidance, make_edit
from ip2pbatch.run.engine import Source

FLOOR = 40.0
"""Decibels of PSNR to float32 below which a cheaper format is not taken unasked."""

_SIDE, _STEPS = 128, 8
_INSTRUCTIONS = ("make it winter", "make it a painting")


def choose_precision(folder: ModelFolder, device: str) -> tuple[str, str]:
    """The precision for `folder` on `device`, and why. The first call on a CPU with bf16 measures, for seconds."""
    untried = accelerators.untried(device)
    if not untried and (accelerators.is_nvidia(device) or not has_bf16()):
        return describe(device)
    from ip2pbatch.backends.pytorch import backend as pytorch

    where = f"{device} {accelerators.name_of(device)}" if untried else device
    return cheaper_or_exact(
        f"{folder.digest} {where} torch {torch.__version__}",
        lambda precision: pytorch.load(replace(folder, checker=False), device, precision),
        "fp16" if untried else "bf16",
    )


def cheaper_or_exact(key: str, opened: Callable[[str], Backend], cheaper: str = "bf16") -> tuple[str, str]:
    """`cheaper` or fp32 for a model that is `opened` in either, and why; measured where `key` has not been before."""
    known = Remembered("precision")
    found = known.get(key)
    psnr = float(found) if isinstance(found, (int, float)) else measure(opened, cheaper)
    if found is None:
        known.keep({key: round(psnr, 2)})
    if psnr >= FLOOR:
        return cheaper, f"this device has it, and pictures are within {psnr:.0f} dB of fp32"
    return "fp32", f"in {cheaper} this model's pictures are only within {psnr:.0f} dB of fp32"


def describe(device: str) -> tuple[str, str]:
    """What is taken on `device` before a model is known, and why: for people who ask what would be used."""
    if accelerators.is_nvidia(device):
        return "fp16", "half the memory and more than twice the speed of fp32"
    if accelerators.untried(device):
        return "fp16 or fp32", f"fp16 for models whose pictures stay within {FLOOR:.0f} dB of fp32, measured once"
    if has_bf16():
        return "bf16 or fp32", f"bf16 for models whose pictures stay within {FLOOR:.0f} dB of fp32, measured once"
    return "fp32", "this processor has no bf16 arithmetic"


def has_bf16() -> bool:
    """Whether the processor multiplies bf16 in hardware; emulated, it would be slower than fp32."""
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, bool)() for name in names)


def measure(opened: Callable[[str], Backend], cheaper: str = "bf16") -> float:
    """PSNR in dB of pictures in `cheaper` against fp32 ones, the worst of a few small edits with strong guidance."""
    pictures = {}
    for precision in ("fp32", cheaper):
        editor = Editor(opened(precision), safety=False)
        edits = [
            make_edit(
                f"probe-{seed}", text, Guidance(7.5, 1.5), seed, steps=_STEPS, sampler="euler_a", size=(_SIDE,) * 2
            )
            for seed, text in enumerate(_INSTRUCTIONS)
        ]
        results = editor.edit(edits, [Source(pixels=probe_picture(seed)) for seed in range(len(edits))])
        pictures[precision] = [result.image for result in results]
    return min(_psnr(a, b) for a, b in zip(pictures["fp32"], pictures[cheaper], strict=True))


def probe_picture(seed: int) -> NDArray[np.uint8]:
    """A colour gradient with a few discs: smooth parts, edges and saturated colours, uint8 [h, w, 3]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:_SIDE, 0:_SIDE] / _SIDE
    picture = np.stack([x, y, 1 - x], axis=-1) * 0.6 + 0.2
    for _ in range(6):
        across, down, radius = rng.uniform(0.1, 0.9), rng.uniform(0.1, 0.9), rng.uniform(0.05, 0.25)
        picture[(x - across) ** 2 + (y - down) ** 2 < radius**2] = rng.random(3)
    return (picture * 255).round().astype(np.uint8)


def _psnr(a: NDArray[np.uint8] | None, b: NDArray[np.uint8] | None) -> float:
    if a is None or b is None:
        return 0.0
    error = float(np.mean((a.astype(np.float64) - b) ** 2))
    return 99.0 if error == 0 else float(10 * np.log10(255**2 / error))
