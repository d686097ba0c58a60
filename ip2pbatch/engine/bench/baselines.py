"""What we are compared with: short programs as a careful person would write them, each tuned as its label says.

All load photos with our own reader, because equal pictures need equal pixels, and all save the same PNG. Noise comes
from a CPU generator with the edit's seed, as diffusers' documentation recommends for reproducible pictures.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ip2pbatch.backends import model_folder
from ip2pbatch.backends.pytorch import accelerators
from ip2pbatch.backends.pytorch.backend import DTYPES
from ip2pbatch.backends.pytorch.dc_adapter import adapt
from ip2pbatch.backends.pytorch.steps.compiled import why_no_compiler
from ip2pbatch.backends.quiet import quiet
from ip2pbatch.backends.weights import ModelFolder
from ip2pbatch.errors import MissingError, UsageError
from ip2pbatch.plan.edits import Edit

Pixels = NDArray[np.uint8]
Make = Callable[[Sequence[Edit], Sequence[Pixels]], list[Pixels]]

COMPILED_BATCH = 8
"""Edits a call of the compiled pipeline: 24 rows, where an H200 is full and 24 photos leave no padding."""


@dataclass(frozen=True, slots=True)
class Baseline:
    """`make` edits up to `batch` photos a call, all of one size and guidance; three rows a step in every case."""

    make: Make
    batch: int = 1


def diffusers_loop(folder: ModelFolder, device: str, precision: str) -> Baseline:
    """(a) diffusers' pipeline, one photo a call, as its documentation shows: no safety checker, no progress bar."""
    pipeline = load_pipeline(folder, device, DTYPES[precision])
    return Baseline(lambda edits, photos: [_pipeline_edit(pipeline, edits, photos)[0]])


def diffusers_compiled(folder: ModelFolder, device: str, precision: str) -> Baseline:
    """(b) the same with channels_last, fused QKV, UNet and decoder compiled; on a GPU in batches, cuDNN's attention
    first, and its kernels tried out. Raises MissingError where there is no compiler.
    """
    if reason := why_no_compiler(torch.device(device)):
        raise MissingError(f"diffusers cannot be compiled here: {reason}", hint="name the others with --contender")
    gpu = accelerators.is_nvidia(device)
    how: dict[str, Any] = {"mode": "max-autotune-no-cudagraphs"} if gpu else {}
    return _compiled_loop(folder, device, precision, COMPILED_BATCH if gpu else 1, how)


def diffusers_traced(folder: ModelFolder, device: str, precision: str) -> Baseline:
    """The same where it is only tried: networks are traced as on a GPU, and no code is generated, which takes
    minutes."""
    return _compiled_loop(folder, device, precision, COMPILED_BATCH, {"backend": "eager"})


def _compiled_loop(folder: ModelFolder, device: str, precision: str, batch: int, how: Mapping[str, Any]) -> Baseline:
    pipeline = load_pipeline(folder, device, DTYPES[precision])
    pipeline.unet.to(memory_format=torch.channels_last)
    pipeline.vae.to(memory_format=torch.channels_last)
    pipeline.fuse_qkv_projections(unet=True, vae=hasattr(pipeline.vae, "fuse_qkv_projections"))
    pipeline.unet = torch.compile(pipeline.unet, fullgraph=True, dynamic=False, **how)
    pipeline.vae.decode = torch.compile(pipeline.vae.decode, fullgraph=True, dynamic=False, **how)

    def make(edits: Sequence[Edit], photos: Sequence[Pixels]) -> list[Pixels]:
        padding = batch - len(edits)  # one shape, or it compiles again
        with accelerators.attention_of(device):
            made = _pipeline_edit(pipeline, [*edits, *[edits[-1]] * padding], [*photos, *[photos[-1]] * padding])
        return made[: len(edits)]

    return Baseline(make, batch)


def edit_cli(folder: ModelFolder, device: str, precision: str) -> Baseline:
    """(c) the original edit_cli.py's scheme, written anew for diffusers' modules: one photo a call, k-diffusion's
    ancestral Euler over log-interpolated noise levels, three rows, einsum attention with whole score matrices,
    float32 weights under autocast, truncation to 8 bit.

    Unlike the original, which draws from CUDA's global generator, noise is the edit's own, so that pictures compare;
    and the model is loaded once, not once a photo. Raises UsageError for a model that does not predict epsilon.
    """
    from diffusers.models.attention_processor import AttnProcessor

    if _scheduler_config(folder).get("prediction_type", "epsilon") != "epsilon":
        raise UsageError("edit_cli knows epsilon-prediction alone", hint="measure it with --model sd15 or small")
    pipeline = load_pipeline(folder, device, torch.float32)
    pipeline.unet.set_attn_processor(AttnProcessor())
    pipeline.vae.set_attn_processor(AttnProcessor())
    levels = _noise_levels(pipeline.scheduler.alphas_cumprod)
    half = torch.autocast(device.partition(":")[0], DTYPES[precision]) if precision != "fp32" else nullcontext()
    null = _embed(pipeline, "")

    @torch.no_grad()
    def make(edits: Sequence[Edit], photos: Sequence[Pixels]) -> list[Pixels]:
        with half:
            return [_edit_cli_picture(pipeline, edits[0], photos[0], null, levels(edits[0].steps))]

    return Baseline(make)


def openvino_script(folder: ModelFolder, device: str, precision: str) -> Baseline:
    """(d) diffusers' pipeline, one photo a call, whose networks are OpenVINO's in the place of torch's: the graphs that
    we export too, compiled for the one shape that a photo's calls have, with the hint for latency. The autoencoder in
    float32, as in ours. Raises MissingError without OpenVINO, UsageError for another device than a CPU.
    """
    from ip2pbatch.backends.onnx import export
    from ip2pbatch.backends.openvino import compiling

    if device != "cpu":
        raise UsageError("the openvino script is for a CPU", hint="leave it out, or add --device cpu")
    opener = compiling.opener(compiling.Place("cpu", torch.get_num_threads()))
    exported = export.cached(folder, export.Form(), opener, lambda said: None)
    pipeline = load_pipeline(folder, device, torch.float32)
    unet, text = (_compiled(exported.file(name), precision) for name in ("unet", "text_encoder"))
    encode, decode = (_compiled(exported.file(name), "fp32") for name in ("vae_encoder", "vae_decoder"))
    reads = exported.networks["text_encoder"]["inputs"]

    def read(ids: Tensor, attention_mask: Tensor | None = None, **_: Any) -> tuple[Tensor]:
        return (text({"ids": ids, "mask": attention_mask} if "mask" in reads else {"ids": ids}),)

    def predict(sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor, **_: Any) -> tuple[Tensor]:
        return (unet({"sample": sample, "timestep": timestep.float(), "text": encoder_hidden_states}),)

    pipeline.text_encoder.forward, pipeline.unet.forward = read, predict
    pipeline.vae.encode = lambda pixels, **_: SimpleNamespace(latents=encode({"pixels": pixels}))
    pipeline.vae.decode = lambda latents, **_: (decode({"latents": latents}),)
    return Baseline(lambda edits, photos: [_pipeline_edit(pipeline, edits, photos)[0]])


def _compiled(file: Path, precision: str) -> Callable[[Mapping[str, Any]], Tensor]:
    """A graph as a function, compiled for each shape that it is asked with."""
    from ip2pbatch.backends.openvino.compiling import HINTS, core

    known = dict[tuple[Any, ...], Any]()
    hints = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": HINTS[precision]}

    def ask(inputs: Mapping[str, Any]) -> Tensor:
        held = {name: value.contiguous().numpy() for name, value in inputs.items()}
        shapes = tuple((name, value.shape) for name, value in held.items())
        if shapes not in known:
            graph = core().read_model(str(file))
            graph.reshape({name: list(shape) for name, shape in shapes})
            known[shapes] = core().compile_model(graph, "CPU", hints)
        return torch.from_numpy(known[shapes](held)[0].copy())

    return ask


def load_pipeline(folder: ModelFolder, device: str, dtype: torch.dtype) -> Any:
    """diffusers' StableDiffusionInstructPix2PixPipeline over the model's folder, all of it in `dtype` on `device`."""
    import diffusers
    import transformers

    checked = model_folder.check(folder.path)
    kinds = {"unet": diffusers.UNet2DConditionModel, "vae": getattr(diffusers, checked.classes["vae"])}
    kinds["text_encoder"] = transformers.CLIPTextModel
    with quiet():
        parts = {
            name: kind.from_pretrained(folder.path / name, variant=checked.variants[name], dtype=dtype).eval()
            for name, kind in kinds.items()
        }
        if checked.classes["vae"] == "AutoencoderDC":
            parts["vae"] = adapt(parts["vae"])
        pipeline = diffusers.StableDiffusionInstructPix2PixPipeline(
            **parts,
            tokenizer=transformers.CLIPTokenizer.from_pretrained(folder.path / "tokenizer"),
            scheduler=diffusers.EulerAncestralDiscreteScheduler.from_config(_scheduler_config(folder)),
            safety_checker=None, feature_extractor=None, requires_safety_checker=False,
        ).to(device)  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _scheduler_config(folder: ModelFolder) -> dict[str, Any]:
    return model_folder.check(folder.path).config("scheduler")


def _pipeline_edit(pipeline: Any, edits: Sequence[Edit], photos: Sequence[Pixels]) -> list[Pixels]:
    first = edits[0]
    with _noise_of_the_seed(pipeline):
        made = pipeline(
            [edit.instruction for edit in edits], image=[Image.fromarray(photo) for photo in photos],
            num_inference_steps=first.steps, guidance_scale=first.guidance.text,
            image_guidance_scale=first.guidance.image,
            generator=[torch.Generator("cpu").manual_seed(edit.seed) for edit in edits],
        )  # fmt: skip
    return [np.asarray(image) for image in made.images]


@contextmanager
def _noise_of_the_seed(pipeline: Any) -> Iterator[None]:
    """Have diffusers draw noise in float32 and round it: what a seed draws in half precision hangs on torch's version,
    and up to 2.11 is other noise altogether, whose pictures could not be compared.
    """
    places: list[Any] = [inspect.getmodule(type(part)) for part in (pipeline, pipeline.scheduler)]
    draw = places[0].randn_tensor

    def drawn(shape: Any, generator: Any = None, device: Any = None, dtype: Any = None, layout: Any = None) -> Tensor:
        noise: Tensor = draw(shape, generator=generator, device=device, dtype=torch.float32, layout=layout)
        return noise.to(dtype)

    try:
        for place in places:
            place.randn_tensor = drawn
        yield
    finally:
        for place in places:
            place.randn_tensor = draw


def _embed(pipeline: Any, words: str) -> Tensor:
    tokens = pipeline.tokenizer(
        words, padding="max_length", max_length=pipeline.tokenizer.model_max_length, truncation=True,
        return_tensors="pt",
    )  # fmt: skip
    with torch.no_grad():
        text: Tensor = pipeline.text_encoder(tokens.input_ids.to(pipeline.device))[0]
    return text


def _noise_levels(alphas_cumprod: Tensor) -> Callable[[int], tuple[Tensor, Tensor]]:
    """k-diffusion's `get_sigmas`: σ at n even, fractional timesteps from the last to 0, by log σ; then 0."""
    log_sigmas = ((1 - alphas_cumprod.double()) / alphas_cumprod.double()).sqrt().log()

    def levels(steps: int) -> tuple[Tensor, Tensor]:
        times = torch.linspace(len(log_sigmas) - 1, 0, steps, dtype=torch.float64)
        low, part = times.floor().long(), times.frac()
        sigmas = ((1 - part) * log_sigmas[low] + part * log_sigmas[times.ceil().long()]).exp()
        return times.float(), torch.cat([sigmas, sigmas.new_zeros(1)]).float()

    return levels


def _edit_cli_picture(pipeline: Any, edit: Edit, photo: Pixels, null: Tensor, levels: tuple[Tensor, Tensor]) -> Pixels:
    """`sample_euler_ancestral` (Karras et al. 2022, η = 1) around `CFGDenoiser`, then the original's way to 8 bit."""
    device, generator = pipeline.device, torch.Generator("cpu").manual_seed(edit.seed)
    pixels = torch.tensor(photo, device=device).permute(2, 0, 1)[None].float() / 127.5 - 1
    image = pipeline.vae.encode(pixels).latent_dist.mode()
    text = torch.cat([_embed(pipeline, edit.instruction), null, null])
    rows = torch.cat([image, image, torch.zeros_like(image)])
    times, sigmas = levels[0].to(device), levels[1].to(device)
    x = torch.randn(image.shape, generator=generator).to(device) * sigmas[0]
    for i, time in enumerate(times):
        sigma, following = sigmas[i], sigmas[i + 1]
        inputs = torch.cat([torch.cat([x] * 3) / (sigma**2 + 1) ** 0.5, rows], dim=1)
        noise = pipeline.unet(inputs, time.expand(3), encoder_hidden_states=text, return_dict=False)[0].float()
        denoised = _guide(torch.cat([x] * 3) - sigma * noise, edit)
        up = (following**2 * (sigma**2 - following**2) / sigma**2) ** 0.5
        down = (following**2 - up**2) ** 0.5
        x = x + (x - denoised) / sigma * (down - sigma)
        if i + 1 < len(times):
            x = x + torch.randn(x.shape, generator=generator).to(device) * up
    picture = pipeline.vae.decode(x / pipeline.vae.config.scaling_factor, return_dict=False)[0].float()
    made: Pixels = (255 * ((picture[0] + 1) / 2).clamp(0, 1)).permute(1, 2, 0).byte().cpu().numpy()
    return made


def _guide(denoised: Tensor, edit: Edit) -> Tensor:
    """`CFGDenoiser`: rows are (text, image), (null, image), (null, null); guidance acts on denoised latents."""
    full, image, nothing = denoised.chunk(3)
    return nothing + edit.guidance.text * (full - image) + edit.guidance.image * (image - nothing)
