"""The EditEngine of an editing pipeline that diffusers has: one call of it an Edit, in and out at the Edit's size.

A picture hangs on its Edit and its source alone: the noise is drawn on the host from the Edit's seed, and no Edit
shares a call with another. What such pipelines do to a photo unasked (crop it, stretch it, give another size back) is
kept from them: they are given a size that they take, and what comes back is brought to the frame that was asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ip2pbatch.backends.pytorch import accelerators
from ip2pbatch.backends.pytorch.backend import memory
from ip2pbatch.backends.quiet import quiet
from ip2pbatch.backends.tokens import words_read
from ip2pbatch.errors import ResourceError
from ip2pbatch.pictures.areas.composing import composed
from ip2pbatch.plan.edits import Edit
from ip2pbatch.plan.families import Call, Family
from ip2pbatch.plan.limits import Limits
from ip2pbatch.run.directory.lines import UNREAD
from ip2pbatch.run.engine import Hook, Pending, Result, Source, Stopped

Pixels = NDArray[np.uint8]


class PipelineEngine:
    """An editing pipeline behind EditEngine. `offload`, called once where memory runs out, moves parts of it off the
    device and says whether it could.
    """

    steps: tuple[str, ...] = ()

    def __init__(self, pipe: Any, family: Family, limits: Limits, offload: Callable[[], bool]) -> None:
        assert family.call is not None, "a family of pipelines"
        self.limits = limits
        self.pipe, self._family, self._call, self._offload = pipe, family, family.call, offload

    def begin(self, edits: Sequence[Edit], sources: Sequence[Source], hook: Hook | None = None) -> Pending:
        """One Result an Edit, made when this returns. Raises OutOfMemory, Stopped, and ResourceError where memory ran
        out and nothing is left to move off the device.
        """
        made = [self._edit(edit, source, hook) for edit, source in zip(edits, sources, strict=True)]
        return lambda: made

    def shrink(self) -> bool:
        """Move parts off the device after OutOfMemory; a call is of one Edit already."""
        if self._offload():
            return True
        raise ResourceError(
            f"out of memory with {self._family.called}, its parts off the device where that goes",
            hint="choose a smaller size, --memory sequential, or a smaller model; `ip2pbatch models list --known`",
        )

    def close(self) -> None:
        """Free the device."""
        self.pipe = None
        accelerators.let_go()

    def _edit(self, edit: Edit, source: Source, hook: Hook | None) -> Result:
        assert source.pixels is not None, "a pipeline starts from pixels"
        read = self._words_read(edit.instruction)
        picture = self.picture(replace(edit, instruction=read), source.pixels, hook)
        if not np.isfinite(picture).all():
            return Result(None, None, "nan", "the pipeline's picture is not finite")
        levels = (picture * 255).round().astype(np.uint8)
        notes = []
        if levels.shape[:2] != source.pixels.shape[:2]:
            notes.append(f"the model gave {levels.shape[1]} × {levels.shape[0]} pixels, brought back to the frame")
            levels = _resized(levels, edit.size)
        if source.mask is not None:
            levels = composed(levels, source.pixels, source.mask)
        if rest := edit.instruction[len(read) :].strip():
            notes.append(f"{UNREAD}{rest}")  # last: the words may hold anything
        return Result(levels, None, "done", "; ".join(notes))

    def _words_read(self, instruction: str) -> str:
        """The part that the text encoder reads: beyond it one pipeline fails, and others take no notice."""
        if self._call.reads is None:
            return instruction
        tokenizer, room = self._call.reads
        return words_read(self.pipe.components[tokenizer], instruction, room)

    @torch.inference_mode()
    def picture(self, edit: Edit, pixels: Pixels, hook: Hook | None = None) -> NDArray[np.float32]:
        """What the pipeline makes of `pixels`, float32 [h, w, 3] in 0…1, at the size that it gives. Raises OutOfMemory,
        Stopped.
        """
        arguments = arguments_of(self._call, edit, pixels)
        if hook is not None and self._call.heard:
            arguments["callback_on_step_end"] = _heard(hook, edit.steps)
        with quiet(), memory():
            made: NDArray[np.float32] = self.pipe(**arguments).images[0]
        return made


def arguments_of(call: Call, edit: Edit, pixels: Pixels) -> dict[str, Any]:
    """With what a pipeline is called for an Edit of `pixels` [h, w, 3] at its size."""
    photo = Image.fromarray(pixels)
    if call.photo_area is not None:
        photo = _within(photo, call.photo_area)
    width, height = edit.size
    found: dict[str, Any] = {
        call.photo: [photo] if call.listed else photo,
        "prompt": edit.instruction,
        "num_inference_steps": edit.steps,
        "generator": torch.Generator("cpu").manual_seed(edit.seed),
        "output_type": "np",
        **call.constants,
    }
    if call.sized:
        found |= {"width": width, "height": height}
    if call.area:
        found[call.area] = width * height
    if call.text:
        found[call.text] = edit.guidance.text
    if call.negative and (words := edit.negative or call.no_negative) is not None:
        found[call.negative] = words
    return found


def _within(photo: Image.Image, area: int) -> Image.Image:
    """A photo of at most `area` pixels whose sides are multiples of 16: the whole of it, squeezed by less than a row of
    these where it must be. A pipeline that is given more shrinks it by itself, and crops what is over.
    """
    width, height = photo.size
    if width * height <= area:
        return photo
    scale = (area / (width * height)) ** 0.5
    return photo.resize((int(width * scale) // 16 * 16, int(height * scale) // 16 * 16), Image.Resampling.LANCZOS)


def _resized(levels: Pixels, size: tuple[int, int]) -> Pixels:
    return np.asarray(Image.fromarray(levels).resize(size, Image.Resampling.LANCZOS))


def _heard(hook: Hook, steps: int) -> Callable[..., dict[str, Any]]:
    """Tells `hook` of each step, and stops between two where it says so. There are no pictures on the way."""

    def after(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if not hook.step(step + 1, steps, list):
            raise Stopped(f"after step {step + 1} of {steps}")
        return tensors

    return after
