"""InstructPix2Pix on torch: the precision a model of it runs in, and the Editor over its four networks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from ip2pbatch.backends.model_folder import Layout, check, read_schedule
from ip2pbatch.backends.pytorch import backend as pytorch
from ip2pbatch.backends.pytorch import dry, steps
from ip2pbatch.backends.pytorch.guidance_embedding import is_embedded
from ip2pbatch.backends.weights import ModelFolder
from ip2pbatch.engine import tuning
from ip2pbatch.engine.editor import Editor
from ip2pbatch.engine.precision import choose_precision
from ip2pbatch.engine.samplers import refuse_unsampled
from ip2pbatch.errors import ModelError, UsageError
from ip2pbatch.plan.defaults import SETTINGS_FILE, taught_scales
from ip2pbatch.plan.edits import Edit
from ip2pbatch.run.machine import Compile, Determinism, Machine

Note = Callable[[str], None]


def precision(folder: ModelFolder, device: str) -> str:
    """Where none is asked for: measured once a model and machine."""
    return choose_precision(folder, device)[0]


def refuse(folder: ModelFolder, edits: Sequence[Edit]) -> None:
    """Edits whose sampler cannot follow the model's noise schedule, or that a distilled one was not taught."""
    _refuse_untaught(folder, edits)
    refuse_unsampled({**read_schedule(folder.path), **folder.laid.schedule}, edits)


def _refuse_untaught(folder: ModelFolder, edits: Sequence[Edit]) -> None:
    """What a plan refuses of a folder; one of the hub may not have been here then. ModelError where UNet and folder do
    not say the same of the scales.
    """
    taught = taught_scales(str(folder.path))
    if (taught is not None) != is_embedded(check(folder.path, checker=False).config("unet")):
        which = "reads guidance scales" if taught is None else "reads no guidance scales"
        why = f"its UNet {which}, and its {SETTINGS_FILE} says {taught or 'of none that they were taught'}"
        raise ModelError(f"{folder.path}: {why}", hint="copy the folder once more from where it was trained")
    if taught is None:
        return
    for edit in edits:
        if edit.negative or not taught.hold(edit.guidance.text, edit.guidance.image):
            asked = f"a negative or text {edit.guidance.text:g}, image {edit.guidance.image:g}"
            why = f"{folder.name} is distilled: it was taught {taught} without a null text, and is asked for {asked}"
            raise UsageError(why, hint="ask for scales that it was taught, or use the model that it was made from")


def speedups(layout: Layout, device: torch.device, dtype: torch.dtype) -> dict[str, str]:
    """Each step that need not be asked for, and why it is left out. Raises ModelError."""
    return dry.steps_of(layout, device, dtype)


def open_engine(
    folder: ModelFolder, device: str, precision: str, machine: Machine, *, safety: bool, edits: Sequence[Edit],
    note: Note,
) -> Editor:  # fmt: skip
    """The editor, with what was left to be decided by the job decided. Raises UsageError for a step that is none."""
    backend = pytorch.load(folder, device, precision, steps_of(machine))
    for text in backend.site.notes:
        note(text)
    editor = Editor(backend, determinism=machine.determinism.value, safety=safety, interval=machine.interval)
    _tune(editor, backend, machine, edits, folder.digest, note)
    return editor


def steps_of(machine: Machine) -> list[str]:
    """The names of the steps that the flags leave in; compiling is decided on later. Raises UsageError for a name that
    is none.
    """
    steps.choose(machine.without)
    return [step.name for step in steps.STEPS if not step.asked_for and step.name not in machine.without]


def _tune(
    editor: Editor, backend: pytorch.TorchBackend, machine: Machine, edits: Sequence[Edit], digest: str, note: Note
) -> None:
    """Decide what was left to be decided by the job, and say what was decided. Bitwise leaves nothing to that.

    Row counts are tried before anything is compiled: each would be a compilation of its own.
    """
    said = tuning.tune_batch(editor, backend, edits, digest) if edits and machine.batch == "auto" else []
    if machine.compile is Compile.ON and "compiled" not in machine.without:
        reason = steps.compile_late(backend.site)
        said += [f"not compiled: {reason}"] if reason else []
    elif edits and machine.compile is Compile.AUTO and machine.determinism is not Determinism.BITWISE:
        said += tuning.compile_if_it_pays(editor, backend, edits)
    for text in said:
        note(text)
