"""The networks of an SDXL that edits (arXiv 2307.01952) behind the Backend of four: it has two text encoders, and its
UNet is told the pooled text and the picture's size beside the text's embeddings.

To the Editor a text is one row, the embeddings [tokens, width] and then the pooled text in one line; the UNet's call
here takes it apart. So guidance, shared rows and samplers are InstructPix2Pix's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ip2pbatch.backends import model_folder, room
from ip2pbatch.backends.additions import Additions
from ip2pbatch.backends.model_folder import Layout, read_index
from ip2pbatch.backends.pipeline_folder import check
from ip2pbatch.backends.pytorch import accelerators
from ip2pbatch.backends.pytorch.backend import DTYPES, Parts, TorchBackend, load_part, memory
from ip2pbatch.backends.pytorch.fusing import fuse
from ip2pbatch.backends.pytorch.pipeline import bytes_of
from ip2pbatch.backends.quiet import quiet
from ip2pbatch.backends.tokens import tokenize
from ip2pbatch.backends.weights import ModelFolder
from ip2pbatch.errors import ModelError
from ip2pbatch.plan.limits import gpu_limits, helpers_beside_gpu
from ip2pbatch.plan.rows import Row
from ip2pbatch.run.engine import OutOfMemory

_HEAVIER = 3  # times the memory of a row of Stable Diffusion's UNet: its weights', of which it has three times as many


@dataclass(frozen=True, slots=True)
class Reader:
    """A text encoder and its tokenizer."""

    network: Any
    tokenizer: Any


class TwoTextBackend(TorchBackend):
    """The Backend of an SDXL. `zeroed`: the null text is nothing but zeros, and not the reading of an empty text;
    `scaled`: the UNet takes the photo's latent scaled, as CosXL's does.
    """

    def __init__(
        self, parts: Parts, second: Reader, folder: Layout, device: torch.device, precision: str, *, zeroed: bool,
        scaled: bool,
    ) -> None:  # fmt: skip
        super().__init__(parts, folder, device, precision)
        self._readers = (Reader(parts.text_encoder, parts.tokenizer), second)
        self._zeroed, self._scaled = zeroed, scaled
        if not accelerators.on_host(device):
            self.limits = gpu_limits(accelerators.memory_of(device) // _HEAVIER, self.vae_scale, helpers_beside_gpu())

    @torch.inference_mode()
    def encode_text(self, instructions: Sequence[str]) -> Tensor:
        """Rows [n, tokens · width + pooled] in float32, padded and cut as diffusers' pipeline does."""
        with memory(self.site.release):
            read = [self._read(reader, instructions) for reader in self._readers]
        states = torch.cat([states for states, _ in read], dim=-1)
        rows = torch.cat([states.flatten(1), read[1][1]], dim=1)
        if self._zeroed:
            rows[[number for number, words in enumerate(instructions) if not words]] = 0
        return rows

    def _read(self, reader: Reader, instructions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """The hidden states but one of an encoder [n, tokens, width], and what it gives first, of the second pooled."""
        ids, _ = tokenize(reader.tokenizer, instructions)
        said = reader.network(ids.to(self.device), output_hidden_states=True)
        return said.hidden_states[-2].float(), said[0].float()

    @torch.inference_mode()
    def predict_noise(
        self, latents: Tensor, timestep: Tensor, text: Tensor, image: Tensor, rows: Sequence[Row] | None = None
    ) -> Tensor:
        """One UNet call over n rows → [n, c, h, w] in float32. The picture counts as whole and of its own size."""
        unet = self.parts.unet
        pooled = int(self._readers[1].network.config.projection_dim)
        states, embeds = text.to(unet.dtype).split([text.shape[1] - pooled, pooled], dim=1)
        states = states.reshape(len(text), int(self._readers[0].tokenizer.model_max_length), -1)
        high, wide = (side * self.vae_scale for side in latents.shape[-2:])
        sizes = torch.tensor([[high, wide, 0, 0, high, wide]], dtype=unet.dtype, device=self.device)
        image = image * self.scaling_factor if self._scaled else image
        sample = torch.cat([latents, image], dim=1).to(self.device, unet.dtype)
        told = {"text_embeds": embeds, "time_ids": sizes.expand(len(text), -1)}
        with memory(self.site.release):
            noise: Tensor = unet(
                sample, timestep, encoder_hidden_states=states, added_cond_kwargs=told, return_dict=False
            )[0]
        return noise.float()


def load(folder: ModelFolder, device: str, precision: str) -> TwoTextBackend:
    """The SDXL of `folder` on `device` at `precision`. Raises MissingError where there is no such device, ModelError
    where weights do not fit, ResourceError where there is no room.
    """
    where, layout = accelerators.known(device), check(folder.path)
    if accelerators.on_host(where):
        room.refuse_too_large(folder.path, sum(bytes_of(layout, precision).values()), room.free_memory())
    try:
        with quiet(), memory():
            backend = _made(layout, where, precision, folder.laid)
    except (OutOfMemory, MemoryError) as error:
        raise room.too_large(folder.path, f"it ran out while the model was loaded ({error})") from error
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        raise ModelError(f"{folder.path} cannot be loaded: {error}", hint="fetch the model again") from error
    backend.scheduler_config = {**backend.scheduler_config, **folder.laid.schedule}
    return backend


def _made(layout: Layout, device: torch.device, precision: str, laid: Additions) -> TwoTextBackend:
    """Its autoencoder is in float32 but on NVIDIA's GPUs, and there where its configuration says that it overflows in
    half precision.
    """
    import diffusers
    import transformers

    dtype = DTYPES[precision]
    vae, called = (laid.vae.layout, laid.vae.component) if laid.vae else (layout, "vae")
    upcast = dtype == torch.float16 and model_folder.forces_upcast(vae, called)
    whole = upcast or not accelerators.is_nvidia(device)

    def part(name: str, kind: Any) -> Any:
        return load_part(layout, name, kind, dtype).to(device)

    def words(name: str) -> Any:
        return transformers.CLIPTokenizer.from_pretrained(layout.path / name, local_files_only=True)

    networks = {
        "unet": part("unet", diffusers.UNet2DConditionModel),
        "text_encoder": part("text_encoder", transformers.CLIPTextModel),
        "text_encoder_2": part("text_encoder_2", transformers.CLIPTextModelWithProjection),
    }
    for lora, scale in laid.loras:
        fuse(networks, lora, scale)
    second = Reader(networks.pop("text_encoder_2"), words("tokenizer_2"))
    decoder = load_part(vae, called, getattr(diffusers, vae.classes[called]), torch.float32 if whole else dtype)
    parts = Parts(**networks, vae=decoder.to(device), tokenizer=words("tokenizer"), checker=None, extractor=None)
    index = read_index(layout.path)
    return TwoTextBackend(
        parts, second, layout, device, precision, zeroed=bool(index.get("force_zeros_for_empty_prompt", True)),
        scaled=bool(index.get("is_cosxl_edit")),
    )  # fmt: skip
