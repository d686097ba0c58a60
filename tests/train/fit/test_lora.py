"""LoRA of the UNet beside full weights, and min-SNR's weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers import DDPMScheduler, StableDiffusionInstructPix2PixPipeline, UNet2DConditionModel
from safetensors.torch import load_file
from tiny_models import make_unet, save_model, save_text_to_image
from train_pairs import make_dataset

from ip2pbatch.errors import ModelError, RecipeError
from ip2pbatch.jobs import edit
from ip2pbatch.train.estimates import Estimate, accumulation
from ip2pbatch.train.fit import stable_diffusion
from ip2pbatch.train.fit.lora import Lora, add_adapters
from ip2pbatch.train.fit.objective import min_snr
from ip2pbatch.train.fit.stable_diffusion import Config, InstructTask, estimate

LOOP = {
    "steps": 3, "lr": 1e-2, "warm_up": 0, "lr_end": 1.0, "precision": "no", "save_every": 2, "sample_every": 0,
    "ema": 0.5, "log_every": 1, "clip": 0,
}  # fmt: skip
SMALL = {
    "maker": "stable_diffusion", "side": 32, "resize": (32, 36), "views": 1, "effective_batch": 4, "batch": 2,
    "look": {"pairs": 0}, "readers": 1, "channels_last": False, "loop": LOOP, "lora": {"rank": 2, "alpha": 8.0},
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An editing model, a text-to-image model and twenty prompts."""
    folder = tmp_path_factory.mktemp("lora")
    save_model(folder / "ip2p")
    save_text_to_image(folder / "sd")
    make_dataset(folder / "pairs")
    return folder


def config(folder: Path, start: str = "ip2p", **changed: object) -> Config:
    return Config(**(SMALL | {"start": str(folder / start), "data": folder / "pairs"} | changed))


@pytest.fixture(scope="module")
def made(folder: Path) -> Path:
    """The stage, run once."""
    out = folder / "made"
    stable_diffusion.run(config(folder, gradient_checkpointing=True), {}, out, None)
    return out


def weights(path: Path) -> dict[str, torch.Tensor]:
    return {name: value.float() for name, value in load_file(path / "diffusion_pytorch_model.safetensors").items()}


def test_the_model_has_the_adapters_in_its_attention_and_nothing_else_is_changed(folder: Path, made: Path) -> None:
    before, after = weights(folder / "ip2p" / "unet"), weights(made / "model" / "unet")
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name].half(), after[name].half())}
    assert changed
    assert all(name.endswith(("to_q.weight", "to_k.weight", "to_v.weight", "to_out.0.weight")) for name in changed)


def test_diffusers_loads_the_adapters_onto_the_start_and_gets_the_model(folder: Path, made: Path) -> None:
    pipeline = StableDiffusionInstructPix2PixPipeline.from_pretrained(folder / "ip2p", dtype=torch.float32)
    pipeline.load_lora_weights(made / "lora", adapter_name="ours")
    whole = UNet2DConditionModel.from_pretrained(made / "model" / "unet")
    torch.manual_seed(0)
    seen, text = torch.randn(1, 8, 8, 8), torch.randn(1, 3, 32)
    with torch.no_grad():
        found, expected = pipeline.unet(seen, 5, text).sample, whole(seen, 5, text).sample
        pipeline.disable_lora()
        untouched = pipeline.unet(seen, 5, text).sample
    torch.testing.assert_close(found, expected, atol=5e-3, rtol=0)  # the model is in float16
    assert (untouched - expected).abs().max() > 5 * (found - expected).abs().max()


def test_the_model_edits(made: Path, tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (64, 64), (90, 120, 40)).save(tmp_path / "photo.png")
    done = edit([tmp_path / "photo.png"], ["invert 3"], model=str(made / "model"), steps=1, out=tmp_path / "out")
    assert done.exit_code == 0
    assert list((tmp_path / "out").glob("photo*"))


def test_a_killed_training_of_adapters_goes_on_exactly(folder: Path, made: Path, tmp_path: Path) -> None:
    shorter = config(folder, loop=LOOP | {"steps": 2})
    stable_diffusion.run(shorter, {}, tmp_path, None)
    stable_diffusion.run(config(folder), {}, tmp_path, None)
    again, whole = (torch.load(out / "checkpoints" / "step-3" / "losses.pt") for out in (tmp_path, made))
    assert again == pytest.approx(whole, rel=1e-4)  # the other one ran with gradient checkpointing


def test_a_checkpoint_has_the_adapters_alone_and_is_as_large_as_planned(folder: Path, made: Path) -> None:
    kept = load_file(made / "checkpoints" / "step-3" / "model.safetensors")
    assert kept
    assert all(".lora_" in name for name in kept)
    planned = Lora(rank=2).checkpoint_bytes(str(folder / "ip2p"))
    assert planned == 16 * sum(value.numel() for value in kept.values())
    assert Lora().checkpoint_bytes("owner/absent") == pytest.approx(51e6, rel=0.01), "of Stable Diffusion 1.5"
    rest = {"counts": Estimate("finetune", prompts=20, pairs=30)}
    adapted, whole = (estimate(config(folder, lora=lora, data=None), **rest).bytes for lora in ({"rank": 2}, None))
    assert adapted < 0.5 * whole


def test_what_a_lora_cannot_teach_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="does not see a photo yet") as caught:
        stable_diffusion.run(config(folder, "sd"), {}, tmp_path, None)
    assert "InstructPix2Pix" in str(caught.value.hint)
    assert caught.value.exit_code == 6
    with pytest.raises(RecipeError, match=r"the UNet has no layer to_x"):
        add_adapters(make_unet(8, 4), Lora(layers=("to_x",)), 0)


def test_nothing_that_was_made_is_made_anew(folder: Path) -> None:
    said = json.loads(config(folder, lora=None).model_dump_json())
    assert "lora" not in said
    assert "min_snr" not in said


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_min_snr_weights_the_clean_latents_loss_by_at_most_gamma(kind: str) -> None:
    schedule = DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, prediction_type=kind)
    timesteps = torch.tensor([0, 300, 999])
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    kept = torch.cumprod(1 - betas, 0)[timesteps]
    snr = kept / (1 - kept)
    clean = {"epsilon": 1 / snr, "v_prediction": 1 / (snr + 1), "sample": torch.ones(3)}[kind]
    torch.testing.assert_close(min_snr(schedule, timesteps, 5.0), torch.minimum(snr, torch.tensor(5.0)) * clean)


def test_the_loss_is_weighted_while_it_learns_and_not_where_it_is_validated() -> None:
    torch.manual_seed(0)
    schedule = DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    task = InstructTask(make_unet(8, 4), schedule, min_snr=5.0)
    batch = [torch.randn(2, *shape) for shape in ((4, 8, 8), (4, 8, 8), (4, 8, 8))]
    arguments = (*batch, torch.tensor([3, 990]), torch.randn(2, 3, 32))
    plain = InstructTask(task.unet, schedule)
    each = [plain(*(one[number : number + 1] for one in arguments)).item() for number in (0, 1)]
    weighted = min_snr(schedule, arguments[3], 5.0) * torch.tensor(each)
    assert task(*arguments).item() == pytest.approx(float(weighted.mean()), rel=1e-4)
    assert task.eval()(*arguments).item() == pytest.approx(sum(each) / 2, rel=1e-4)


def test_plan_says_how_a_step_comes_about(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = Estimate("finetune")
    made = estimate(config(folder, effective_batch=64, batch=4), counts)
    assert made.makes == "3 steps, 192 samples; a step is 16 parts of 4"
    assert accumulation(4, 4) == ""
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert accumulation(64, 4) == "; a step is 2 parts of 4 on 8 GPUs"
