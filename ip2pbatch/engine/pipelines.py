"""The editing pipelines of diffusers as families of models: precision, what one cannot make, and its engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from ip2pbatch.backends import room
from ip2pbatch.backends.model_folder import Layout
from ip2pbatch.backends.pipeline_folder import check
from ip2pbatch.backends.pytorch import accelerators
from ip2pbatch.backends.pytorch.pipeline import bytes_of, load_pipeline, place
from ip2pbatch.backends.weights import ModelFolder
from ip2pbatch.engine.pipeline_engine import PipelineEngine
from ip2pbatch.engine.precision import has_bf16
from ip2pbatch.errors import ModelError
from ip2pbatch.plan.edits import Edit
from ip2pbatch.plan.families import Call, Family, family_of
from ip2pbatch.plan.limits import Limits, helpers_beside_gpu
from ip2pbatch.run.machine import Machine, Memory

Note = Callable[[str], None]


def precision(folder: ModelFolder, device: str) -> str:
    """bf16, in which these models were trained, wherever it is arithmetic of the device; fp16 overflows in them."""
    return "bf16" if (has_bf16() if accelerators.on_host(device) else accelerators.has_bf16(device)) else "fp32"


def refuse(folder: ModelFolder, edits: Sequence[Edit]) -> None:
    """Edits with a text scale, where the network that is to read it has no place for one. Raises ModelError."""
    family, layout = family_of(folder.path), check(folder.path)
    wanted = {edit.guidance.text for edit in edits} - {family.defaults.text}
    if called(family).embedded and wanted and not layout.config("transformer").get("guidance_embeds"):
        raise ModelError(
            f"{folder.path} has no text scale: its transformer does not read one (guidance_embeds), so that "
            f"{min(wanted):g} would do nothing",
            hint="leave out text, or use another model",
        )


def speedups(layout: Layout, device: torch.device, dtype: torch.dtype) -> dict[str, str]:
    """None: a pipeline is called as diffusers made it."""
    return {}


def open_engine(
    folder: ModelFolder, device: str, precision: str, machine: Machine, *, safety: bool, edits: Sequence[Edit],
    note: Note,
) -> PipelineEngine:  # fmt: skip
    """The engine, its parts where `--memory` has them."""
    family, where = family_of(folder.path), accelerators.known(device)
    call = called(family)
    how = _placement(folder, precision, machine, where, note)
    pipe = load_pipeline(folder, call, precision)
    place(pipe, where, how)
    return PipelineEngine(pipe, family, limits_of(family, where), Offload(pipe, where, how, note))


def called(family: Family) -> Call:
    """How a family of pipelines is called."""
    assert family.call is not None, "a family of pipelines"
    return family.call


def limits_of(family: Family, device: torch.device) -> Limits:
    """One Edit a call, so that no picture hangs on another."""
    known = family.defaults
    limits = Limits(1, known.multiple, known.min_side, known.max_side, default_rows=1)
    return limits if accelerators.on_host(device) else replace(limits, helpers=helpers_beside_gpu())


def _placement(folder: ModelFolder, precision: str, machine: Machine, device: torch.device, note: Note) -> Memory:
    """Where its parts go, by the weights' size and the device's free memory, said before anything is loaded."""
    if accelerators.on_host(device):
        return Memory.FULL
    free = accelerators.free_memory(device)
    found = room.placement(machine.memory, bytes_of(check(folder.path), precision), free)
    note(found.why)
    return found.how


class Offload:
    """Moves a pipeline's parts off a device where all of them lay on it, once."""

    def __init__(self, pipe: Any, device: torch.device, how: Memory, note: Note) -> None:
        self._pipe, self._device, self._how, self._note = pipe, device, how, note

    def __call__(self) -> bool:
        if accelerators.on_host(self._device) or self._how is not Memory.FULL:
            return False
        self._how = Memory.OFFLOAD
        place(self._pipe, self._device, self._how)
        self._note("out of memory: from here on a part at a time is on the device, as with --memory offload")
        return True
