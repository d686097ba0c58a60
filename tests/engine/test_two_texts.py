"""SDXL-InstructPix2Pix and CosXL Edit by InstructPix2Pix's own loop: diffusers' pixels, any scales, no neighbours."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionXLInstructPix2PixPipeline
from PIL import Image
from safetensors.torch import save_file
from tiny_editors import save_editor
from tiny_models import make_picture

from ip2pbatch.backends.pytorch import two_texts
from ip2pbatch.backends.weights import resolve
from ip2pbatch.engine.editor import Editor
from ip2pbatch.engine.instruct_xl import open_engine
from ip2pbatch.engine.samplers import make_sampler
from ip2pbatch.plan.edits import Edit, Guidance, make_edit
from ip2pbatch.plan.families import FAMILIES
from ip2pbatch.plan.tiling import Refinement
from ip2pbatch.run.engine import FullSize, Source
from ip2pbatch.run.machine import Machine

SIZE = (64, 48)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module", params=["sdxl", "cosxl"])
def key(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def folder(key: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_editor(tmp_path_factory.mktemp("model") / key, key)


@pytest.fixture(scope="module")
def editor(folder: Path) -> Editor:
    return open_engine(resolve(str(folder)), "cpu", "fp32", Machine(), safety=True, edits=[], note=print)


def an_edit(key: str, text: float = 4.0, image: float = 1.5, seed: int = 3, **changes: Any) -> Edit:
    settings = {"steps": 3, "sampler": FAMILIES[key].defaults.sampler, "size": SIZE, "negative": ""} | changes
    return make_edit("photo", settings.pop("words", "make it snow"), Guidance(text, image), seed, **settings)


def latents(editor: Editor, edits: list[Edit]) -> list[np.ndarray]:
    found = editor.edit(edits, [Source(pixels=make_picture(1, SIZE))] * len(edits))
    return [one.latent for one in found if one.latent is not None]


@pytest.mark.parametrize("negative", ["", "snow everywhere"])
def test_pixels_are_diffusers(key: str, folder: Path, editor: Editor, negative: str) -> None:
    pipe = StableDiffusionXLInstructPix2PixPipeline.from_pretrained(folder, add_watermarker=False)
    pipe.set_progress_bar_config(disable=True)
    theirs = pipe(
        "make it snow", image=Image.fromarray(make_picture(1, SIZE)), guidance_scale=4.0, image_guidance_scale=1.5,
        num_inference_steps=3, height=SIZE[1], width=SIZE[0], generator=torch.Generator().manual_seed(3),
        output_type="latent", negative_prompt=negative or None,
    ).images[0]  # fmt: skip
    (ours,) = latents(editor, [an_edit(key, negative=negative)])
    assert np.abs(ours - theirs.numpy()).max() < 1e-4 * max(1.0, float(theirs.abs().max()))
    with torch.inference_mode():
        decoded = pipe.vae.decode(theirs[None] / pipe.vae.config.scaling_factor).sample
    pixels = pipe.image_processor.postprocess(decoded, output_type="np")[0]
    (result,) = editor.edit([an_edit(key, negative=negative)], [Source(pixels=make_picture(1, SIZE))])
    assert result.image is not None
    assert np.abs(result.image.astype(float) - pixels * 255).max() <= 0.51


@pytest.mark.parametrize(("text", "image"), [(0.5, 0.8), (1.0, 1.0), (0.0, 0.0), (2.0, 1.0)])
def test_scales_that_diffusers_ignores_are_exact(key: str, editor: Editor, text: float, image: float) -> None:
    """One step by the formula of the paper, from the three answers of the UNet, each asked for alone."""
    backend, edit = editor._backend, an_edit(key, text, image, steps=1)
    sampler = make_sampler(edit.sampler, backend.scheduler_config, 1, [edit.seed], backend.device)
    start = sampler.draw((4, SIZE[1] // 8, SIZE[0] // 8))
    timestep = sampler.timesteps[0]
    pixels = torch.from_numpy(make_picture(1, SIZE)).permute(2, 0, 1)[None].float() / 255 * 2 - 1
    photo, seen = backend.encode_image(pixels), sampler.scale(start, timestep)
    empty, words = (backend.encode_text([said]) for said in ("", "make it snow"))

    def asked(said: torch.Tensor, photo: torch.Tensor) -> torch.Tensor:
        return backend.predict_noise(seen, timestep, said, photo)

    e0, ei, et = asked(empty, photo * 0), asked(empty, photo), asked(words, photo)
    guided = e0 + image * (ei - e0) + text * (et - ei)
    expected = sampler.step(guided, timestep, start)[0].numpy()
    (ours,) = latents(editor, [edit])
    assert np.abs(ours - expected).max() < 1e-4 * max(1.0, float(np.abs(expected).max()))


def test_a_picture_hangs_on_no_neighbour_and_rows_are_shared(key: str, editor: Editor) -> None:
    edits = [an_edit(key, text, image) for text in (2.0, 4.0) for image in (1.0, 1.5)]
    alone = [latents(editor, [edit])[0] for edit in edits]
    before = editor.rows_asked
    together = latents(editor, edits)
    assert all(map(np.array_equal, alone, together))
    assert editor.rows_asked - before < 3 * 3 * len(edits)


def test_outside_of_a_region_latents_are_the_photo_s(key: str, editor: Editor) -> None:
    mask = np.zeros(SIZE[::-1], np.uint8)
    mask[:, :16] = 255
    source = make_picture(1, SIZE)
    (plain,) = editor.edit([an_edit(key)], [Source(pixels=source)])
    (result,) = editor.edit([an_edit(key)], [Source(pixels=source, mask=mask)])
    backend = editor._backend
    photo = backend.encode_image(torch.from_numpy(source).permute(2, 0, 1)[None].float() / 255 * 2 - 1)[0]
    clean = photo.numpy() * backend.scaling_factor
    assert result.latent is not None
    assert plain.latent is not None
    assert np.allclose(result.latent[:, :, 4:], clean[:, :, 4:], atol=1e-5)
    assert not np.allclose(plain.latent[:, :, 4:], clean[:, :, 4:], atol=1e-2)


@pytest.mark.parametrize("key", ["sdxl"], indirect=True, scope="module")
def test_loras_and_another_autoencoder_are_laid_over_it(folder: Path, editor: Editor, tmp_path: Path) -> None:
    """kohya's names: of the UNet, and of the second text encoder."""
    named = {
        "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q": (32, 32),
        "lora_te2_text_model_encoder_layers_0_self_attn_q_proj": (64, 64),
    }
    tensors = {}
    for name, (out, into) in named.items():
        tensors |= {f"{name}.lora_up.weight": torch.ones(out, 1), f"{name}.lora_down.weight": torch.ones(1, into)}
    save_file(tensors, tmp_path / "sdxl_lightning_4step_lora.safetensors")
    other = save_editor(tmp_path / "other", "sdxl", seed=1)
    lora = tmp_path / "sdxl_lightning_4step_lora.safetensors"
    laid = two_texts.load(resolve(f"{folder} + lora:{lora}@0.5 + vae:{other}"), "cpu", "fp32")
    plain = editor._backend
    unet = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q.weight"
    text = next(
        name for name in laid._readers[1].network.state_dict() if name.endswith("layers.0.self_attn.q_proj.weight")
    )
    for ours, before, name in (
        (laid.parts.unet, plain.parts.unet, unet), (laid._readers[1].network, plain._readers[1].network, text),
    ):  # fmt: skip
        changed = ours.state_dict()[name] - before.state_dict()[name]
        assert torch.allclose(changed, torch.full_like(changed, 0.5), atol=1e-6)
    wanted = AutoencoderKL.from_pretrained(other / "vae").state_dict()
    assert all(torch.equal(one, wanted[name]) for name, one in laid.parts.vae.state_dict().items())
    assert laid.scheduler_config["timestep_spacing"] == "trailing"


def test_a_picture_is_refined_at_its_photo_s_size_whatever_is_beside_it(key: str, editor: Editor) -> None:
    full = (112, 96)
    photo, lifted, share = make_picture(1, full), make_picture(2, full), np.full(SIZE[::-1], 255, np.uint8)
    how = Refinement("photo", full, "auto", 0.5)
    edits = [an_edit(key, seed=seed, carry="pixels", refine=how) for seed in (3, 4)]
    sources = [Source(full=FullSize(photo, lifted, share))] * 2
    first, second = (one.image for one in editor.edit(edits, sources))
    (alone,) = editor.edit(edits[:1], sources[:1])
    assert first is not None
    assert first.shape == (96, 112, 4)
    assert np.array_equal(first, alone.image)
    assert not np.array_equal(first, second)
