"""A trained model's folder as an evaluation sees it: pictures and instructions in, pictures out."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ip2pbatch.backends.pytorch import accelerators
from ip2pbatch.backends.pytorch.backend import load
from ip2pbatch.backends.weights import resolve
from ip2pbatch.disk.contents import digest_of_contents
from ip2pbatch.engine.editor import Editor
from ip2pbatch.plan.defaults import model_defaults
from ip2pbatch.plan.edits import Guidance, make_edit
from ip2pbatch.plan.families import ModelDefaults
from ip2pbatch.run.engine import Source
from ip2pbatch.train.data.crops import to_pixels, to_tensor
from ip2pbatch.train.data.pack_latents import load_autoencoder

Rgb = NDArray[np.uint8]


@dataclass(frozen=True)
class TrainedModel:
    """A model folder behind the same engine that edits folders of photos, with its own steps and sampler."""

    folder: Path
    device: str
    digest: str
    defaults: ModelDefaults
    editor: Editor

    @property
    def scales(self) -> tuple[float, float]:
        """Its default scales s_T and s_I."""
        return self.defaults.text, self.defaults.image

    @classmethod
    def load(cls, folder: Path, precision: str) -> TrainedModel:
        """The model on the GPU where there is one, else on the CPU."""
        device = accelerators.default()
        editor = Editor(load(resolve(str(folder)), device, precision), determinism="fast")
        return cls(folder, device, digest_of_contents(folder), model_defaults(str(folder)), editor)

    def edit(
        self, photos: list[Rgb], instructions: list[str], text: list[float], image: list[float], seeds: list[int]
    ) -> list[Rgb]:
        """Each photo edited by its instruction, in one batch; black where no picture came out."""
        size, steps, sampler = (photos[0].shape[1], photos[0].shape[0]), self.defaults.steps, self.defaults.sampler
        edits = [
            make_edit(_name(photo), instruction, Guidance(s_t, s_i), seed, steps=steps, sampler=sampler, size=size)
            for photo, instruction, s_t, s_i, seed in zip(photos, instructions, text, image, seeds, strict=True)
        ]
        results = self.editor.edit(edits, [Source(pixels=photo) for photo in photos])
        return [np.zeros_like(p) if r.image is None else r.image for p, r in zip(photos, results, strict=True)]

    @torch.inference_mode()
    def reconstruct(self, photos: list[Rgb]) -> list[Rgb]:
        """Each photo through the autoencoder and back, by its posterior's mode."""
        autoencoder = load_autoencoder(self.folder / "vae").float().to(self.device)
        made = []
        for photo in photos:
            encoded = autoencoder.encode(to_tensor([photo]).to(self.device))
            latent = encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latent
            made += list(to_pixels(autoencoder.decode(latent).sample))
        return made


def _name(photo: Rgb) -> str:
    # the editor keeps encoded photos by name
    return hashlib.sha256(photo.tobytes()).hexdigest()[:32]
