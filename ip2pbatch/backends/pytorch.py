"""The networks on PyTorch: diffusers' and transformers' own classes, loaded part by part from a checked folder."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ip2pbatch.backends import layout, steps
from ip2pbatch.backends.base import AreaLimits, memory_of
from ip2pbatch.backends.layout import Layout
from ip2pbatch.backends.quiet import quiet
from ip2pbatch.backends.safety import flag
from ip2pbatch.backends.tokens import load_tokenizer, tokenize, words_read
from ip2pbatch.backends.weights import ModelFolder
from ip2pbatch.errors import MissingError, ModelError
from ip2pbatch.plan.rows import Row
from ip2pbatch.plan.schedule import Limits
from ip2pbatch.run.execute import OutOfMemory

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # glibc's malloc.h

# Keys of old exports that a loaded class rightly has no place for.
_HARMLESS = ("position_ids",)


def configure(threads: int | None = None, *, deterministic: bool = False, tf32: bool = False) -> None:
    """Set what a process only knows globally, once, before anything loads: CPU threads, deterministic kernels, memory.

    The one place of the package that touches such state; the command line calls it. `deterministic` makes an operation
    without a deterministic kernel an error. `tf32` lets a GPU round what convolutions in float32 are given to ten bits,
    which torch does unasked. Memory that a call frees stays with the process (see `keep_memory`).
    """
    if threads is not None:
        torch.set_num_threads(threads)
    torch.backends.cudnn.allow_tf32 = tf32
    if deterministic:
        # cuBLAS adds in an order of its own otherwise, and torch refuses to call it. This is read at its first use.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False
    keep_memory()


def keep_memory() -> bool:
    """Have the C library keep freed memory for the next call instead of giving it back; False where it cannot.

    A network call on a CPU frees and asks for the same few hundred MB again and again, and each time the system clears
    every page: 4 to 7 % of a call's CPU time in float32, up to 11 % in bf16, measured on the embedded model. For glibc.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return False
    kept = any(mallopt(_MMAP_THRESHOLD, size) for size in (1 << 30, 1 << 25))  # older versions take 32 MB at most
    return bool(kept and mallopt(_TRIM_THRESHOLD, (1 << 31) - 1))


def default_device() -> str:
    """The device that is used where none is named: the first CUDA device, else the CPU."""
    return "cuda" if torch.cuda.is_available() else "cpu"


@dataclass(frozen=True, slots=True)
class Parts:
    """The loaded components of a model; `checker` and `extractor` are None where it ships no safety checker."""

    unet: Any
    vae: Any
    text_encoder: Any
    tokenizer: Any
    checker: Any | None
    extractor: Any | None


class TorchBackend:
    """The Backend on PyTorch; see `load`. `site` says which steps are in, and why others are not."""

    def __init__(
        self, parts: Parts, folder: Layout, device: torch.device, precision: str, chosen: Collection[steps.Step] = ()
    ) -> None:
        self.parts, self.device, self.precision = parts, device, precision
        self.provider = device.type
        self.latent_channels = layout.latent_channels(folder)
        self.scaling_factor = float(parts.vae.config.scaling_factor)
        self.vae_scale = vae_scale(parts.vae)
        self.scheduler_config: Mapping[str, Any] = folder.config("scheduler")
        self.limits: Limits = limits_of(device, self.vae_scale)
        networks = {"unet": parts.unet, "vae": parts.vae, "text_encoder": parts.text_encoder}
        self.site = steps.Site(networks, device, parts.unet.dtype)
        steps.apply(chosen, self.site)

    @torch.inference_mode()
    def encode_text(self, instructions: Sequence[str]) -> Tensor:
        """Text embeddings [n, tokens, width] in float32, padded and cut as diffusers' pipeline does."""
        ids, mask = tokenize(self.parts.tokenizer, instructions)
        with memory(), self.site.at_work("text_encoder") as encoder:
            masked = getattr(encoder.config, "use_attention_mask", False)
            return encoder(ids.to(self.device), attention_mask=mask.to(self.device) if masked else None)[0].float()

    def words_read(self, instruction: str) -> str:
        """`instruction`, or its beginning where it has more tokens than the text encoder reads."""
        return words_read(self.parts.tokenizer, instruction)

    @torch.inference_mode()
    def encode_image(self, pixels: Tensor) -> Tensor:
        """Pixels [n, 3, H, W] in [-1, 1] → the posterior's mode [n, c, h, w], unscaled, in float32."""
        with memory(), self.site.at_work("vae") as vae:
            encoded = vae.encode(pixels.to(self.device, vae.dtype))
        return latents_of(encoded).float()

    @torch.inference_mode()
    def predict_noise(
        self, latents: Tensor, timestep: Tensor, text: Tensor, image: Tensor, rows: Sequence[Row] | None = None
    ) -> Tensor:
        """One UNet call over n rows → [n, c, h, w] in float32."""
        unet = self.parts.unet
        sample = torch.cat([latents, image], dim=1).to(self.device, unet.dtype)
        text = text.to(unet.dtype)
        with memory():
            if self.site.staged is None:
                return unet(sample, timestep, encoder_hidden_states=text, return_dict=False)[0].float()
            return self.site.staged(sample, timestep, text, rows).float()

    @torch.inference_mode()
    def decode(self, latents: Tensor, *, upcast: bool = False) -> Tensor:
        """Latents [n, c, h, w], divided by the scaling factor → pixels [n, 3, H, W] in float32, not clamped."""
        with memory(), self.site.at_work("vae") as vae:
            dtype = vae.dtype
            if not upcast or dtype == torch.float32:
                return vae.decode(latents.to(self.device, dtype), return_dict=False)[0].float()
            try:  # half to float and back keeps every bit of the weights
                return vae.float().decode(latents.to(self.device), return_dict=False)[0]
            finally:
                vae.to(dtype)

    @torch.inference_mode()
    def flag(self, images: Sequence[NDArray[np.uint8]]) -> list[bool]:
        """What the model's safety checker says of each picture, one at a time; all False where it ships none."""
        with memory():
            return flag(self.parts.checker, self.parts.extractor, images)


def load(
    folder: ModelFolder, device: str = "cpu", precision: str = "fp32", wanted: Collection[str] | None = None
) -> TorchBackend:
    """The model of `folder` on `device` (cpu, cuda, cuda:1) at `precision` (fp32, bf16, fp16), with those steps.

    `wanted` names steps of `steps.STEPS`; None takes all that need not be asked for. The autoencoder stays in float32
    on a CPU, where it costs little and decides most of a picture's error. Raises MissingError where there is no such
    device, ModelError where weights do not fit their configuration, UsageError where there is no such step.
    """
    where = _device(device)
    chosen = steps.choose(wanted)
    dtype = DTYPES[precision]
    vae_dtype = dtype if where.type == "cuda" else torch.float32
    checked = layout.check(folder.path, folder.kind)
    try:
        with quiet(), memory():
            home = steps.home_of(where, chosen)
            parts = load_parts(checked, dtype, vae_dtype, where, home)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        raise ModelError(f"{folder.path} cannot be loaded: {error}", hint="fetch the model again") from error
    return TorchBackend(parts, checked, where, precision, chosen)


def limits_of(device: torch.device, vae_scale: int) -> Limits:
    """What the device takes: enough rows a call to fill it, few enough to fit beside the weights."""
    if device.type != "cuda":
        # Measured on one core: 6 rows of the embedded model at 256 px cost 12 % less a row than 3, 12 rows 3 % less
        # again. Six Edits fill such calls whether each needs three rows or two; more bring the first picture late.
        return AreaLimits(batch=6, multiple=vae_scale, default_rows=6)
    gigabytes = memory_of(device) >> 30
    rows = max(3, min(48, 3 * (gigabytes // 4)))  # at 512 × 512; a row of Stable Diffusion takes about 0.5 GB in fp16
    return AreaLimits(batch=max(1, rows // 2), multiple=vae_scale, default_rows=2 * rows, full_area=512 * 512 // 2)


def latents_of(encoded: Any) -> Tensor:
    """The latents in what an autoencoder's `encode` returns: the posterior's mode where it has a posterior."""
    if hasattr(encoded, "latent_dist"):
        return encoded.latent_dist.mode()
    return encoded.latent if hasattr(encoded, "latent") else encoded.latents


def vae_scale(vae: nn.Module) -> int:
    """Pixels a side that one latent stands for."""
    config = vae.config
    channels = config.get("block_out_channels") or config.encoder_block_out_channels
    return int(2 ** (len(channels) - 1))


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise MissingError(f"{name} is not a device", hint="use cpu, cuda or cuda:1") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise MissingError(
            f"there is no device {name} here ({torch.cuda.device_count()} found)", hint="`ip2pbatch doctor` says why"
        )
    if device.type not in ("cpu", "cuda"):
        raise MissingError(f"{name} is not a device this backend runs on", hint="use cpu or cuda")
    return device


def load_parts(
    checked: Layout, dtype: torch.dtype, vae_dtype: torch.dtype, device: torch.device, home: torch.device | None = None
) -> Parts:
    """The components as diffusers' and transformers' classes make them, with nothing changed. Raises ModelError.

    The UNet goes to `device`, the others to `home` where that is another place.
    """
    import diffusers
    import transformers

    home = home or device

    def part(name: str, kind: Any, precision: torch.dtype) -> nn.Module:
        return _load_part(checked, name, kind, precision).to(home)

    checker, extractor = load_checker(checked, home)
    return Parts(
        unet=part("unet", diffusers.UNet2DConditionModel, dtype).to(device),
        vae=part("vae", getattr(diffusers, checked.classes["vae"]), vae_dtype),
        text_encoder=part("text_encoder", transformers.CLIPTextModel, vae_dtype),
        tokenizer=load_tokenizer(checked.path),
        checker=checker,
        extractor=extractor,
    )


def load_checker(checked: Layout, device: torch.device) -> tuple[Any | None, Any | None]:
    """The safety checker in float32 and what prepares pictures for it; None twice where the model ships none."""
    if not {"safety_checker", "feature_extractor"} <= set(checked.classes):
        return None, None
    import transformers
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker

    checker = _load_part(checked, "safety_checker", StableDiffusionSafetyChecker, torch.float32).to(device)
    return checker, transformers.CLIPImageProcessorPil.from_pretrained(checked.path / "feature_extractor")


def _load_part(checked: Layout, name: str, kind: Any, dtype: torch.dtype) -> nn.Module:
    """One network with every weight from its safetensors; ModelError where a weight is missing or of another shape."""
    module, report = kind.from_pretrained(
        checked.path / name, dtype=dtype, variant=checked.variants[name], use_safetensors=True, local_files_only=True,
        output_loading_info=True,
    )  # fmt: skip
    missing = [key for key in report["missing_keys"] if not key.endswith(_HARMLESS)]
    wrong = missing or list(report["mismatched_keys"])
    if wrong:
        raise ModelError(
            f"{checked.path / name} lacks {len(wrong)} weights that its config.json asks for, such as {wrong[0]}",
            hint="fetch the model again",
        )
    return module.eval().requires_grad_(False)


@contextmanager
def memory() -> Iterator[None]:
    """Running out of memory, on a GPU or on the host, as the condition that `execute` answers."""
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        torch.cuda.empty_cache()
        raise OutOfMemory(str(error).splitlines()[0]) from error
    except RuntimeError as error:
        if "DefaultCPUAllocator" not in str(error):
            raise
        raise OutOfMemory(str(error).splitlines()[0]) from error
