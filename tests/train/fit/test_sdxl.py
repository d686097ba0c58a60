"""Fine-tuning an SDXL: both text encoders and the sizes, the loss, the whole stage, its resume, and what it saves."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from command import CommandLine
from diffusers import DDPMScheduler, StableDiffusionXLInstructPix2PixPipeline, UNet2DConditionModel
from PIL import Image
from runs import exit_of, in_child
from safetensors.torch import load_file, save_file
from tiny_models import make_picture
from tiny_sdxl import POOLED, make_sdxl_unet, save_sdxl
from train_pairs import make_dataset

from ip2pbatch.errors import ModelError
from ip2pbatch.train import estimates
from ip2pbatch.train.data.pair_sets import open_pairs
from ip2pbatch.train.estimates import Estimate
from ip2pbatch.train.fit import stable_diffusion
from ip2pbatch.train.fit.edit_batches import EditBatches, Place, Prepared
from ip2pbatch.train.fit.lora import Lora
from ip2pbatch.train.fit.networks import Networks
from ip2pbatch.train.fit.objective import Dropout
from ip2pbatch.train.fit.stable_diffusion import Config, estimate, make_batches, make_task
from ip2pbatch.train.stages import run

LOOP = {
    "steps": 4, "lr": 1e-3, "warm_up": 0, "lr_end": 1.0, "precision": "no", "save_every": 2, "sample_every": 4,
    "ema": 0.9, "log_every": 1, "clip": 0,
}  # fmt: skip
SMALL = {
    "maker": "stable_diffusion", "side": 32, "resize": (32, 36), "views": 1, "effective_batch": 4, "batch": 2,
    "look": {"pairs": 1, "side": 32, "steps": 2, "image": [1.0, 1.5]}, "readers": 1, "channels_last": False,
    "validation": {"pairs": 1, "every": 2}, "loop": LOOP,
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """So small networks gain nothing from several."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SDXL that draws, one that edits, and twenty prompts."""
    folder = tmp_path_factory.mktemp("sdxl")
    save_sdxl(folder / "xl")
    save_sdxl(folder / "edits", 8)
    make_dataset(folder / "pairs")
    return folder


def config(folder: Path, start: str = "xl", **changed: object) -> Config:
    return Config(**(SMALL | {"start": str(folder / start), "data": folder / "pairs"} | changed))


@pytest.fixture(scope="module")
def made(folder: Path) -> tuple[Path, dict[str, float]]:
    """The stage, run once."""
    out = folder / "made"
    return out, stable_diffusion.run(config(folder, gradient_checkpointing=True), {}, out, None)


def pipeline_of(model: Path) -> StableDiffusionXLInstructPix2PixPipeline:
    pipeline = StableDiffusionXLInstructPix2PixPipeline.from_pretrained(model, add_watermarker=False)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(dtype=torch.float32)


def test_a_steps_loss_is_that_of_diffusers_own_parts(folder: Path) -> None:
    """As examples/instruct_pix2pix/train_instruct_pix2pix_sdxl.py computes it, from pictures and words."""
    settings = config(folder, "edits", views=0, compat="original", dropout={"text": 0, "both": 0, "image": 0})
    networks, pairs = Networks.load(settings.start), open_pairs(folder / "pairs")
    batches = make_batches(settings, networks, pairs, Place(2), folder / "none", torch.device("cpu"))
    try:
        prepared = batches.prepare(0)
        batch = batches.finish(prepared)
    finally:
        batches.close()
    task = make_task(settings, networks)
    pipeline = pipeline_of(folder / "edits")
    said = [pairs.instruction(draw.prompt) for draw in prepared.draws]
    text, _, pooled, _ = pipeline.encode_prompt(said, device="cpu", do_classifier_free_guidance=False)
    pixels = torch.from_numpy(np.stack(prepared.pictures)).permute(0, 1, 4, 2, 3).float() / 127.5 - 1
    with torch.no_grad():
        image = pipeline.vae.encode(pixels[:, 0]).latent_dist.mode()
        target = pipeline.vae.encode(pixels[:, 1]).latent_dist
        assert ((batch["latents"] / 0.13025 - target.mean) / target.std).std() == pytest.approx(1, abs=0.2)
        schedule = DDPMScheduler.from_pretrained(folder / "edits", subfolder="scheduler")
        noisy = schedule.add_noise(batch["latents"], batch["noise"], batch["timesteps"])
        sizes = torch.tensor([[32, 32, 0, 0, 32, 32]] * 2)
        predicted = pipeline.unet(
            torch.cat([noisy, image], dim=1), batch["timesteps"], text,
            added_cond_kwargs={"text_embeds": pooled, "time_ids": sizes},
        ).sample  # fmt: skip
        expected = torch.nn.functional.mse_loss(predicted, batch["noise"])
        assert float(task(**batch)) == pytest.approx(float(expected), abs=1e-5)


def test_the_new_channels_are_zero_and_the_rest_is_kept(folder: Path) -> None:
    grown = Networks.load(str(folder / "xl")).unet
    before = UNet2DConditionModel.from_pretrained(folder / "xl" / "unet").conv_in
    assert torch.equal(grown.conv_in.weight[:, :4], before.weight)
    assert not grown.conv_in.weight[:, 4:].any()
    assert torch.equal(grown.conv_in.bias, before.bias)


def test_a_dropped_instruction_loses_its_pooled_half_too(folder: Path) -> None:
    settings = config(folder, dropout={"text": 1.0, "both": 0, "image": 0})
    networks = Networks.load(settings.start)
    batches = make_batches(
        settings, networks, open_pairs(folder / "pairs"), Place(2), folder / "none", torch.device("cpu")
    )
    try:
        dropped = batches(0)
        batches.dropout = Dropout(text=0, both=0, image=0)
        kept = batches(0)
    finally:
        batches.close()
    text, _, pooled, _ = pipeline_of(folder / "edits").encode_prompt(
        "", device="cpu", do_classifier_free_guidance=False
    )
    torch.testing.assert_close(dropped["text"][0], text[0], atol=2e-3, rtol=0)
    torch.testing.assert_close(dropped["text_embeds"][0], pooled[0], atol=2e-3, rtol=0)
    assert not torch.equal(kept["text_embeds"], dropped["text_embeds"])
    assert kept["text_embeds"].shape == (2, POOLED)


def test_what_is_made_is_diffusers_layout_and_edits_there(made: tuple[Path, dict[str, float]]) -> None:
    model = made[0] / "model"
    index = json.loads((model / "model_index.json").read_text())
    assert index["_class_name"] == "StableDiffusionXLInstructPix2PixPipeline"
    assert index["force_zeros_for_empty_prompt"] is False
    weights = load_file(model / "unet" / "diffusion_pytorch_model.safetensors")
    assert {value.dtype for value in weights.values()} == {torch.float16}
    assert weights["conv_in.weight"].shape[1] == 8
    assert weights["conv_in.weight"][:, 4:].any(), "the new channels have learned"
    pipeline = pipeline_of(model)
    photo = Image.fromarray(make_picture(3, (32, 32)))
    asked = {"image": photo, "num_inference_steps": 2, "height": 32, "width": 32, "output_type": "np"}
    edited = [
        pipeline(text, generator=torch.Generator().manual_seed(0), **asked).images[0] for text in ("invert 1", "")
    ]
    assert edited[0].shape == (32, 32, 3)
    assert all(np.isfinite(one).all() for one in edited)
    assert not np.array_equal(*edited), "it reads the instruction"


def test_sheets_losses_and_the_average_are_those_of_every_training(made: tuple[Path, dict[str, float]]) -> None:
    folder, metrics = made
    with Image.open(folder / "samples" / "step-000004.jpg") as sheet:
        assert sheet.width > 500
    assert np.isfinite(metrics["validation_loss"])
    live = load_file(folder / "checkpoints" / "step-4" / "model.safetensors")["unet.conv_in.weight"]
    saved = load_file(folder / "model" / "unet" / "diffusion_pytorch_model.safetensors")["conv_in.weight"]
    assert not torch.equal(live.half(), saved), "the model has the averaged weights"


def test_it_learns(folder: Path, tmp_path: Path) -> None:
    looped = LOOP | {"steps": 20, "lr": 1e-2, "save_every": 0, "sample_every": 0, "ema": 0.0}
    quiet = {"look": {"pairs": 0}, "validation": {"pairs": 0}}
    metrics = stable_diffusion.run(config(folder, loop=looped, **quiet), {}, tmp_path, None)
    assert metrics["loss_last"] < 0.8 * metrics["loss_first"]


def killed_at(part: int, path: Path, out: Path) -> int:
    """Run the stage, and die of SIGKILL while it makes a part's batch."""
    finish, parts = EditBatches.finish, iter(range(part))

    def finish_or_die(self: EditBatches, prepared: Prepared) -> dict[str, torch.Tensor]:
        if next(parts, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)
        return finish(self, prepared)

    EditBatches.finish = finish_or_die  # type: ignore[method-assign]
    run(path, out=out)
    return 0


def test_a_killed_training_ends_in_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    quiet = {"look": {"pairs": 0}, "validation": {"pairs": 0}, "stage": "finetune"}
    looped = LOOP | {"sample_every": 0}
    written = {**config(folder, loop=looped).model_dump(mode="json"), **SMALL, **quiet, "loop": looped}
    path = tmp_path / "finetune.yaml"
    path.write_text(json.dumps({**written, "cache": None}))
    assert exit_of(in_child(lambda: killed_at(7, path, tmp_path / "killed"))) == -signal.SIGKILL
    (stopped,) = (tmp_path / "killed").glob("finetune/*/checkpoints/step-*")
    assert stopped.name == "step-2"
    (again,), (whole,) = (run(path, out=tmp_path / name) for name in ("killed", "whole"))
    files = sorted(one.relative_to(whole.folder) for one in (whole.folder / "model").rglob("*") if one.is_file())
    assert len(files) > 12
    assert [name for name in files if (again.folder / name).read_bytes() != (whole.folder / name).read_bytes()] == []


def test_a_lora_is_loaded_by_the_pipeline_and_is_in_the_model(folder: Path, tmp_path: Path) -> None:
    looped = LOOP | {"steps": 2, "lr": 1e-2, "ema": 0.5, "sample_every": 0}
    quiet = {"look": {"pairs": 0}, "validation": {"pairs": 0}}
    adapted = config(folder, "edits", loop=looped, lora={"rank": 2, "alpha": 8.0}, **quiet)
    stable_diffusion.run(adapted, {}, tmp_path, None)
    pipeline = pipeline_of(folder / "edits")
    pipeline.load_lora_weights(tmp_path / "lora", adapter_name="ours")
    whole = UNet2DConditionModel.from_pretrained(tmp_path / "model" / "unet", torch_dtype=torch.float32)
    torch.manual_seed(0)
    told = {"text_embeds": torch.randn(1, POOLED), "time_ids": torch.tensor([[32.0, 32, 0, 0, 32, 32]])}
    seen, text = torch.randn(1, 8, 8, 8), torch.randn(1, 3, 96)
    with torch.no_grad():
        found, expected = (one(seen, 5, text, added_cond_kwargs=told).sample for one in (pipeline.unet, whole))
        pipeline.disable_lora()
        untouched = pipeline.unet(seen, 5, text, added_cond_kwargs=told).sample
    torch.testing.assert_close(found, expected, atol=5e-3, rtol=0)  # the model is in float16
    assert (untouched - expected).abs().max() > 5 * (found - expected).abs().max()


def test_texts_are_found_by_both_encoders_or_not_at_all(folder: Path, tmp_path: Path) -> None:
    def cached(start: Path) -> set[str]:
        networks = Networks.load(str(start))
        settings, pairs = config(folder, str(start)), open_pairs(folder / "pairs")
        batches = make_batches(settings, networks, pairs, Place(2), tmp_path / "cache", torch.device("cpu"))
        batches(0)
        batches.close()
        return {path.name for path in (tmp_path / "cache").glob("texts-*.rows")}

    first = cached(folder / "xl")
    assert cached(folder / "xl") == first
    shutil.copytree(folder / "xl", tmp_path / "other")
    weights = tmp_path / "other" / "text_encoder_2" / "model.safetensors"
    save_file({name: value * 1.1 for name, value in load_file(weights).items()}, weights, {"format": "pt"})
    assert len(cached(tmp_path / "other")) == 2


def test_an_autoencoder_that_overflows_in_half_precision_is_not_asked_in_it(folder: Path) -> None:
    networks = Networks.load(str(folder / "xl"))
    gpu = torch.device("cuda")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.Module, "to", lambda self, *args, **kwargs: self)
        assert networks.encoder(gpu).precision == "fp32"
        networks.vae.register_to_config(force_upcast=False)  # as the one that was mended for it says
        assert networks.encoder(gpu).precision == "fp16"


def test_what_does_not_fit_is_refused(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "xl", tmp_path / "refiner")
    settings = tmp_path / "refiner" / "unet" / "config.json"
    unet = make_sdxl_unet()
    unet.register_to_config(addition_time_embed_dim=6)
    settings.write_text(unet.to_json_string())
    with pytest.raises(ModelError, match="72 numbers beside the timestep, not 60") as caught:
        Networks.load(str(tmp_path / "refiner"))
    assert "not its refiner" in str(caught.value.hint)
    shutil.copytree(folder / "edits", tmp_path / "cosxl")
    noise = json.dumps({"_class_name": "EDMEulerScheduler", "sigma_data": 1.0, "prediction_type": "v_prediction"})
    (tmp_path / "cosxl" / "scheduler" / "scheduler_config.json").write_text(noise)
    with pytest.raises(ModelError, match="noise is EDM's"):
        Networks.load(str(tmp_path / "cosxl"))
    shutil.rmtree(tmp_path / "refiner" / "text_encoder")
    with pytest.raises(ModelError, match="cannot be trained from"):
        Networks.load(str(tmp_path / "refiner"))


def test_edit_edits_with_it(made: tuple[Path, dict[str, float]], command: CommandLine, tmp_path: Path) -> None:
    Image.fromarray(make_picture(0)).save(tmp_path / "photo.png")
    model = str(made[0] / "model")
    flags = ("--size", "64", "--steps", "1", "--device", "cpu", "--precision", "fp32")
    said = command("edit", tmp_path / "photo.png", "-i", "invert 3", "--model", model, "-o", tmp_path / "out", *flags)
    assert said.code == 0, said.err
    assert b"SDXL-InstructPix2Pix" in (tmp_path / "out/photo_invert-3.png").read_bytes()


def test_plan_speaks_of_its_own_size(folder: Path) -> None:
    known = Config(maker="stable_diffusion", start="stabilityai/stable-diffusion-xl-base-1.0", batch=1024)
    made = estimate(known, Estimate("finetune", prompts=1000.0, pairs=1000.0))
    assert made.makes == ("10,000 steps, 10,240,000 samples; 2.57 billion weights, 51.3 GB of a GPU beside the batch")
    assert made.bytes == 3 * 16 * 2_567_463_684 + 1000 * (8 * estimates.VIEW + 2 * (77 * 2048 + 1280))
    adapted = estimate(known.model_copy(update={"lora": Lora(), "views": 0}), Estimate("finetune"))
    assert "2.57 billion weights, 10.3 GB of a GPU" in adapted.makes
    assert adapted.bytes == 3 * 16 * 16 * 1_451_520
    eighths = known.model_copy(update={"loop": known.loop.model_copy(update={"optimizer": "adamw8bit"})})
    assert "35.9 GB of a GPU" in estimate(eighths, Estimate("finetune")).makes
    local = estimates.weights_of(str(folder / "xl"))
    assert local == sum(value.numel() for value in make_sdxl_unet().parameters())
    assert estimates.text_bytes(str(folder / "xl")) == estimates.TEXT_SDXL
