"""Ways to edit a sample that an evaluation compares: InstructPix2Pix, SDEdit, and pictures that were made elsewhere.

Every method turns samples and one value of its knob into pictures; the noise of a sample is the same for all values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from ip2pbatch.backends.pytorch import accelerators
from ip2pbatch.backends.pytorch.backend import load
from ip2pbatch.backends.weights import resolve
from ip2pbatch.engine.editor import Editor
from ip2pbatch.errors import NothingMatchedError, UsageError
from ip2pbatch.plan.edits import Guidance, make_edit
from ip2pbatch.run.engine import Source
from ip2pbatch.train.judge.sdedit import Denoising, sdedit
from ip2pbatch.train.model_names import ModelName

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


@dataclass(frozen=True)
class Sample:
    """One pair to judge: a key without spaces, the photo `[side, side, 3]`, what is asked, both captions, its seed."""

    key: str
    photo: NDArray[np.uint8]
    instruction: str
    captions: tuple[str, str]
    seed: int


class InstructCurve(BaseModel):
    """An InstructPix2Pix model; the knob is the image scale s_I."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: Literal["instruct"]
    name: str
    model: ModelName  # one of the stage's inputs, a folder, or a model of the hub
    text: float = 7.5
    values: tuple[float, ...] = (1.0, 1.2, 1.4, 1.6, 1.8, 2.0, 2.2)


class SDEditCurve(BaseModel):
    """A text-to-image model that redraws the photo from the edited caption; the knob is the strength."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: Literal["sdedit"]
    name: str
    model: ModelName
    text: float = 7.5
    values: tuple[float, ...] = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


class FolderCurve(BaseModel):
    """Pictures made elsewhere: `folder/VALUE/KEY.png` below the config's `results`; `folder/KEY.png` without values."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: Literal["folder"]
    name: str
    folder: str
    values: tuple[float, ...] = ()


Curve = Annotated[InstructCurve | SDEditCurve | FolderCurve, Field(discriminator="method")]


class Method(Protocol):
    """What a curve is drawn from."""

    def edit(self, samples: Sequence[Sample], value: float) -> list[Tensor | None]:
        """Pictures `[3, h, w]` in −1…1 as they were decoded, not clamped; None where there is none."""
        ...


@dataclass(frozen=True)
class Setting:
    """What the methods of one evaluation share. `raw` asks for pictures as decoded, not rounded to bytes."""

    steps: int = 100
    sampler: str = "euler_a"
    precision: str = "fp32"
    raw: bool = False


class Instruct:
    """InstructPix2Pix by the engine that edits folders."""

    def __init__(self, model: str, text: float, setting: Setting) -> None:
        self.backend = load(resolve(model), accelerators.default(), setting.precision)
        self.editor = Editor(self.backend, determinism="fast", safety=False)
        self.text, self.setting = text, setting

    def edit(self, samples: Sequence[Sample], value: float) -> list[Tensor | None]:
        """Each sample at the image scale `value`."""
        setting = self.setting
        edits = [
            make_edit(sample.key, sample.instruction, Guidance(self.text, value), sample.seed, steps=setting.steps,
                      sampler=setting.sampler, size=(sample.photo.shape[1], sample.photo.shape[0]))
            for sample in samples
        ]  # fmt: skip
        found: list[Tensor | None] = []
        for result in self.editor.edit(edits, [Source(pixels=sample.photo) for sample in samples]):
            if result.image is None or result.latent is None:
                found.append(None)
            elif setting.raw:
                latent = torch.from_numpy(result.latent)[None].to(self.backend.device)
                found.append(self.backend.decode(latent / self.backend.scaling_factor)[0].cpu())
            else:
                found.append(to_picture(result.image))
        return found


class Redraw:
    """SDEdit on a text-to-image model."""

    def __init__(self, model: str, text: float, setting: Setting) -> None:
        folder = resolve(model, kind="text_to_image")
        self.backend = load(folder, accelerators.default(), setting.precision)
        self.denoising = Denoising(setting.steps, text)

    def edit(self, samples: Sequence[Sample], value: float) -> list[Tensor | None]:
        """Each sample at the strength `value`."""
        photos, captions = [one.photo for one in samples], [one.captions[1] for one in samples]
        made = sdedit(self.backend, photos, captions, value, [one.seed for one in samples], self.denoising)
        return [picture.cpu() if picture.isfinite().all() else None for picture in made]


class MadeElsewhere:
    """Pictures in folders, matched by the samples' keys. NothingMatchedError where a value's folder is missing."""

    def __init__(self, results: Path | None, curve: FolderCurve) -> None:
        if results is None:
            raise UsageError(f"the curve {curve.name} reads a folder", hint="say where with `results: FOLDER`")
        self.folder, self.values = results / curve.folder, curve.values

    def edit(self, samples: Sequence[Sample], value: float) -> list[Tensor | None]:
        """The pictures that are there, at the photo's size (Lanczos)."""
        folder = self.folder / f"{value:g}" if self.values else self.folder
        if not folder.is_dir():
            raise NothingMatchedError(f"no folder {folder}", hint="results lie in FOLDER/VALUE/KEY.png")
        return [self._read(folder, sample) for sample in samples]

    def _read(self, folder: Path, sample: Sample) -> Tensor | None:
        path = next((p for s in SUFFIXES if (p := folder / f"{sample.key}{s}").is_file()), None)
        if path is None:
            return None
        size = (sample.photo.shape[1], sample.photo.shape[0])
        with Image.open(path) as opened:
            picture = opened.convert("RGB")
        if picture.size != size:
            picture = picture.resize(size, Image.Resampling.LANCZOS)
        return to_picture(np.asarray(picture))


def make_method(curve: Curve, inputs: dict[str, Path], results: Path | None, setting: Setting) -> Method:
    """The method of a curve; a model may be the name of a fine-tuning among the stage's inputs."""
    if isinstance(curve, FolderCurve):
        return MadeElsewhere(results, curve)
    model = str(inputs[curve.model] / "model") if curve.model in inputs else curve.model
    kind = Instruct if isinstance(curve, InstructCurve) else Redraw
    return kind(model, curve.text, setting)


def to_picture(pixels: NDArray[np.uint8]) -> Tensor:
    """uint8 `[h, w, 3]` → float32 `[3, h, w]` in −1…1."""
    return torch.from_numpy(np.array(pixels)).permute(2, 0, 1).float() / 127.5 - 1
