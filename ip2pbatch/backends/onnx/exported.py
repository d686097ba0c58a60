"""The four networks of an exported model, whatever runs its graphs: what hangs on the export and on nothing else."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ip2pbatch.backends import model_folder
from ip2pbatch.backends.artefact import Artefact
from ip2pbatch.backends.model_folder import Layout
from ip2pbatch.backends.pytorch.backend import limits_of, load_checker
from ip2pbatch.backends.pytorch.steps.workers import parts_of
from ip2pbatch.backends.safety import flag
from ip2pbatch.backends.tokens import load_tokenizer, tokenize, words_read
from ip2pbatch.plan.limits import Limits
from ip2pbatch.plan.rows import Row

EXACT = "vae_decoder_fp32"
_SMALL = 512 << 20  # bytes of a UNet above which its kernels are long enough to be cut among cores themselves


class ExportedBackend(ABC):
    """A Backend over an Artefact. What runs the graphs gives `_run` and `predict_noise`."""

    steps: tuple[str, ...] = ()
    embedded = False  # a model whose UNet reads scales is not exported

    def __init__(
        self, artefact: Artefact, device: torch.device, provider: str, precision: str, *, checker: bool
    ) -> None:
        self.artefact, self.device, self.provider, self.precision = artefact, device, provider, precision
        self.latent_channels, self.scaling_factor = artefact.latent_channels, artefact.scaling_factor
        self.vae_scale = artefact.vae_scale
        self.scheduler_config: Mapping[str, Any] = model_folder.read_schedule(artefact.path)
        self.limits: Limits = dataclasses.replace(limits_of(device, self.vae_scale), overlaps=False)
        self.tokenizer = load_tokenizer(artefact.path)
        layout = _checker_layout(artefact.path) if checker else Layout(artefact.path, {}, (), {})
        self.checker, self._extractor = load_checker(layout, device)

    @abstractmethod
    def _run(self, network: str, inputs: Mapping[str, Tensor], shape: tuple[int, ...]) -> Tensor:
        """The one output of `network`, float32 of `shape`, on the backend's device."""

    @abstractmethod
    def predict_noise(
        self, latents: Tensor, timestep: Tensor, text: Tensor, image: Tensor, rows: Sequence[Row] | None = None
    ) -> Tensor:
        """One UNet call over n rows → [n, c, h, w] in float32."""

    @torch.inference_mode()
    def encode_text(self, instructions: Sequence[str]) -> Tensor:
        """Text embeddings [n, tokens, width] in float32, padded and cut as diffusers' pipeline does."""
        ids, mask = tokenize(self.tokenizer, instructions)
        inputs = {"ids": ids, "mask": mask}
        known = self.artefact.networks["text_encoder"]["inputs"]
        width = int(self.artefact.networks["unet"]["inputs"]["text"][-1])
        return self._run("text_encoder", {name: inputs[name] for name in known}, (*ids.shape, width))

    def words_read(self, instruction: str) -> str:
        """`instruction`, or its beginning where it has more tokens than the text encoder reads."""
        return words_read(self.tokenizer, instruction)

    def encode_image(self, pixels: Tensor, *, upcast: bool = False) -> Tensor:
        """Pixels [n, 3, H, W] in [-1, 1] → the posterior's mode [n, c, h, w], unscaled, in float32.

        An export has one encoder, of its own precision: `upcast` changes nothing here.
        """
        rows, _, height, width = pixels.shape
        shape = (rows, self.latent_channels, height // self.vae_scale, width // self.vae_scale)
        return self._run("vae_encoder", {"pixels": pixels}, shape)

    def decode(self, latents: Tensor, *, upcast: bool = False) -> Tensor:
        """Latents [n, c, h, w], divided by the scaling factor → pixels [n, 3, H, W] in float32, not clamped."""
        rows, _, height, width = latents.shape
        exact = upcast and EXACT in self.artefact.networks
        shape = (rows, 3, height * self.vae_scale, width * self.vae_scale)
        return self._run(EXACT if exact else "vae_decoder", {"latents": latents}, shape)

    @torch.inference_mode()
    def flag(self, images: Sequence[NDArray[np.uint8]]) -> list[bool]:
        """What the model's safety checker says of each picture, on torch; all False where it ships none."""
        return flag(self.checker, self._extractor, images)

    def _is_small(self) -> bool:
        """Whether the UNet's kernels are too short to be cut among cores themselves."""
        file = self.artefact.file("unet")
        return file.stat().st_size <= _SMALL and not file.with_name(file.name + ".data").exists()

    def _parts(self, rows: int, threads: int) -> int:
        """Into how many equal parts a UNet call of `rows` is cut for a CPU's threads; large networks fill them alone.

        The parts are equal, so that a row's place does not change the shape it is computed in.
        """
        return parts_of(rows, threads) if self.device.type == "cpu" and self._is_small() else 1


def as_input(value: Tensor) -> Tensor:
    """Whole numbers stay as they are; all else is float32, in one piece."""
    return value.contiguous() if value.dtype == torch.int64 else value.float().contiguous()


def _checker_layout(path: Path) -> Layout:
    """What `load_checker` must know of the exported folder."""
    folder = path / "safety_checker"
    if not folder.is_dir():
        return Layout(path, {}, (), {})
    classes = {"safety_checker": "StableDiffusionSafetyChecker", "feature_extractor": "CLIPImageProcessor"}
    variant = model_folder.weight_variant(folder, model_folder.WEIGHTS["safety_checker"])
    return Layout(path, classes, (), {"safety_checker": variant})
