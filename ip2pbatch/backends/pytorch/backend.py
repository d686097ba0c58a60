"""The networks on PyTorch: diffusers' and transformers' own classes, loaded part by part from a checked folder."""

from __future__ import annotations

import ctypes
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ip2pbatch.backends import model_folder, room
from ip2pbatch.backends.additions import NOTHING, Additions
from ip2pbatch.backends.model_folder import Layout
from ip2pbatch.backends.pytorch import accelerators, from_file, steps
from ip2pbatch.backends.pytorch.dry import unet_without_weights
from ip2pbatch.backends.pytorch.fusing import fuse
from ip2pbatch.backends.pytorch.guidance_embedding import is_embedded, told_of
from ip2pbatch.backends.quiet import quiet
from ip2pbatch.backends.safety import flag
from ip2pbatch.backends.tokens import load_tokenizer, tokenize, words_read
from ip2pbatch.backends.weights import ModelFolder
from ip2pbatch.errors import ModelError
from ip2pbatch.plan.limits import Limits, cpu_limits, gpu_limits, helpers_beside_gpu
from ip2pbatch.plan.rows import Row
from ip2pbatch.run.engine import OutOfMemory

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
    accelerators.round_to_tf32(tf32)
    if deterministic:
        accelerators.pin_bits()
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
        self.latent_channels = model_folder.latent_channels(folder)
        self.scaling_factor = float(parts.vae.config.scaling_factor)
        self.vae_scale = vae_scale(parts.vae)
        self.scheduler_config: Mapping[str, Any] = folder.config("scheduler")
        self.limits: Limits = limits_of(device, self.vae_scale)
        self.embedded = is_embedded(parts.unet.config)
        networks = {"unet": parts.unet, "vae": parts.vae, "text_encoder": parts.text_encoder}
        self.site = steps.Site(networks, device, parts.unet.dtype)
        steps.apply(chosen, self.site)
        self._encode = self.site.recorded(lambda pixels: (latents_of(parts.vae.encode(pixels)),))
        self._decode = self.site.recorded(lambda latents: (parts.vae.decode(latents, return_dict=False)[0],))

    @property
    def steps(self) -> tuple[str, ...]:
        """The names of the steps that are in; compiling may come later."""
        return tuple(self.site.applied)

    @torch.inference_mode()
    def encode_text(self, instructions: Sequence[str]) -> Tensor:
        """Text embeddings [n, tokens, width] in float32, padded and cut as diffusers' pipeline does."""
        ids, mask = tokenize(self.parts.tokenizer, instructions)
        with memory(self.site.release), self.site.at_work("text_encoder") as encoder:
            masked = getattr(encoder.config, "use_attention_mask", False)
            text: Tensor = encoder(ids.to(self.device), attention_mask=mask.to(self.device) if masked else None)[0]
            return text.float()

    def words_read(self, instruction: str) -> str:
        """`instruction`, or its beginning where it has more tokens than the text encoder reads."""
        return words_read(self.parts.tokenizer, instruction)

    @torch.inference_mode()
    def encode_image(self, pixels: Tensor, *, upcast: bool = False) -> Tensor:
        """Pixels [n, 3, H, W] in [-1, 1] → the posterior's mode [n, c, h, w], unscaled, in float32."""
        with memory(self.site.release), self.site.at_work("vae") as vae:
            if upcast and vae.dtype != torch.float32:
                with self._upcast(vae):
                    return latents_of(vae.encode(pixels.to(self.device)))
            return self._encode(pixels.to(self.device, vae.dtype))[0].float()

    @torch.inference_mode()
    def predict_noise(
        self, latents: Tensor, timestep: Tensor, text: Tensor, image: Tensor, rows: Sequence[Row] | None = None
    ) -> Tensor:
        """One UNet call over n rows → [n, c, h, w] in float32."""
        unet = self.parts.unet
        sample = torch.cat([latents, image], dim=1).to(self.device, unet.dtype)
        text = text.to(unet.dtype)
        with memory(self.site.release):
            if self.site.staged is None:
                told = told_of(rows, self.device, unet.dtype) if self.embedded else {}
                noise: Tensor = unet(sample, timestep, encoder_hidden_states=text, return_dict=False, **told)[0]
                return noise.float()
            return self.site.staged(sample, timestep, text, rows).float()

    @torch.inference_mode()
    def decode(self, latents: Tensor, *, upcast: bool = False) -> Tensor:
        """Latents [n, c, h, w], divided by the scaling factor → pixels [n, 3, H, W] in float32, not clamped."""
        with memory(self.site.release), self.site.at_work("vae") as vae:
            if upcast and vae.dtype != torch.float32:
                with self._upcast(vae):
                    pixels: Tensor = vae.decode(latents.to(self.device), return_dict=False)[0]
                    return pixels
            return self._decode(latents.to(self.device, vae.dtype))[0].float()

    @contextmanager
    def _upcast(self, vae: Any) -> Iterator[None]:
        """The autoencoder in float32 for a while: half to float and back keeps every bit of its weights."""
        dtype = vae.dtype
        try:
            vae.float()
            yield
        finally:
            vae.to(dtype)
            self.site.release()  # recordings know where the weights were

    @torch.inference_mode()
    def flag(self, images: Sequence[NDArray[np.uint8]]) -> list[bool]:
        """What the model's safety checker says of each picture, one at a time; all False where it ships none.

        On a GPU it works beside the other networks, which may be at the next pictures by then.
        """
        with memory(self.site.release), accelerators.beside(device_of(self.parts.checker)):
            return flag(self.parts.checker, self.parts.extractor, images)


def load(
    folder: ModelFolder, device: str = "cpu", precision: str = "fp32", wanted: Collection[str] | None = None
) -> TorchBackend:
    """The model of `folder` on `device` (cpu, cuda:1, mps, xpu) at `precision` (fp32, bf16, fp16), with those steps.

    `wanted` names steps of `steps.STEPS`; None takes all that need not be asked for. The autoencoder stays in float32
    on a CPU, where it costs little and decides most of a picture's error, and on accelerators where it was not run by
    us in less. Raises MissingError where there is no such
    device, ModelError where weights do not fit their configuration or diffusers cannot run it, UsageError where there
    is no such step, ResourceError where memory does not hold the model.
    """
    where = accelerators.known(device)
    chosen = steps.choose(wanted)
    dtype = DTYPES[precision]
    vae_dtype = dtype if accelerators.is_nvidia(where) else torch.float32
    checked = model_folder.check(folder.path, folder.kind, checker=folder.checker)
    unet_without_weights(checked)
    if accelerators.on_host(where):
        room.refuse_too_large(folder.path, _bytes_of(checked, dtype), room.free_memory())
    home = steps.home_of(where, chosen)
    try:
        with quiet(), memory():
            parts = load_parts(checked, dtype, vae_dtype, where, home, folder.laid)
    except (OutOfMemory, MemoryError) as error:
        raise room.too_large(folder.path, f"it ran out while the model was loaded ({error})") from error
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        raise ModelError(f"{folder.path} cannot be loaded: {error}", hint="fetch the model again") from error
    backend = TorchBackend(parts, checked, where, precision, chosen)
    backend.scheduler_config = {**backend.scheduler_config, **folder.laid.schedule}
    return backend


def _bytes_of(checked: Layout, dtype: torch.dtype) -> int:
    """What the weights take on a CPU: the UNet's in `dtype`, the others' in float32."""
    total = 0
    for name in model_folder.WEIGHTS:
        size = dtype.itemsize if name == "unet" else torch.float32.itemsize
        if checked.single is not None:
            total += size * (checked.single.elements(name) if name in checked.classes else 0)
            continue
        files = [file for file in checked.files if file.startswith(f"{name}/") and file.endswith(".safetensors")]
        total += size * room.elements(checked.path / file for file in files)
    return total


def limits_of(device: torch.device, vae_scale: int) -> Limits:
    """What the device takes at once."""
    if accelerators.on_host(device):
        return cpu_limits(vae_scale)
    return gpu_limits(accelerators.memory_of(device), vae_scale, helpers_beside_gpu())


def latents_of(encoded: Any) -> Tensor:
    """The latents in what an autoencoder's `encode` returns: the posterior's mode where it has a posterior."""
    if hasattr(encoded, "latent_dist"):
        mode: Tensor = encoded.latent_dist.mode()
        return mode
    latents: Tensor = encoded.latent if hasattr(encoded, "latent") else encoded.latents
    return latents


def vae_scale(vae: Any) -> int:
    """Pixels a side that one latent stands for."""
    config = vae.config
    channels = config.get("block_out_channels") or config.encoder_block_out_channels
    return int(2 ** (len(channels) - 1))


def load_parts(
    checked: Layout, dtype: torch.dtype, vae_dtype: torch.dtype, device: torch.device,
    home: torch.device | None = None, laid: Additions = NOTHING,
) -> Parts:  # fmt: skip
    """The components as diffusers' and transformers' classes make them, with nothing changed but what is laid over
    them. Raises ModelError.

    The UNet goes to `device`, the others to `home` where that is another place. An autoencoder whose configuration
    says force_upcast overflows in fp16, and is in float32 there.
    """
    import diffusers
    import transformers

    home = home or device
    vae, called = (laid.vae.layout, laid.vae.component) if laid.vae else (checked, "vae")
    upcast = vae_dtype == torch.float16 and model_folder.forces_upcast(vae, called)

    def part(layout: Layout, name: str, kind: Any, precision: torch.dtype) -> nn.Module:
        return load_part(layout, name, kind, precision).to(home)

    checker, extractor = load_checker(checked, home)
    networks = {
        "unet": part(checked, "unet", diffusers.UNet2DConditionModel, dtype).to(device),
        "text_encoder": part(checked, "text_encoder", transformers.CLIPTextModel, vae_dtype),
    }
    for lora, scale in laid.loras:
        fuse(networks, lora, scale)
    return Parts(
        **networks,
        vae=part(vae, called, getattr(diffusers, vae.classes[called]), torch.float32 if upcast else vae_dtype),
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

    checker = load_part(checked, "safety_checker", StableDiffusionSafetyChecker, torch.float32).to(device)
    return checker, transformers.CLIPImageProcessorPil.from_pretrained(checked.path / "feature_extractor")


def load_part(checked: Layout, name: str, kind: Any, dtype: torch.dtype) -> nn.Module:
    """One network with every weight from its safetensors; ModelError where a weight is missing or of another shape."""
    if checked.single is not None:
        return from_file.load(checked.single, name, dtype).eval().requires_grad_(False)
    module: nn.Module
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


def device_of(network: Any | None) -> torch.device:
    """Where a network lies; the CPU where there is none."""
    return torch.device("cpu") if network is None else network.device


@contextmanager
def memory(release: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Running out of memory, on a GPU or on the host, as the condition that `execute` answers.

    `release` lets go of what is held on the device for speed alone, before another call is tried there.
    """
    try:
        yield
    except RuntimeError as error:
        if not accelerators.is_full(error):
            raise
        release()
        traceback.clear_frames(error.__traceback__)  # what the call that failed had made is not free before that
        accelerators.let_go()
        raise OutOfMemory(str(error).splitlines()[0]) from error
