"""Fine-tuning Stable Diffusion: the grown input, the loss, the whole stage, its resume, and what is refused."""

from __future__ import annotations

import io
import json
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, StableDiffusionInstructPix2PixPipeline, UNet2DConditionModel
from PIL import Image
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from tiny_models import make_unet, save_model, save_text_to_image
from train_pairs import make_dataset

from ip2pbatch.errors import ModelError, NothingMatchedError, RecipeError, UsageError
from ip2pbatch.show.page import Heading
from ip2pbatch.train.data.broken import LeftOut
from ip2pbatch.train.data.pack_pictures import write_shard
from ip2pbatch.train.data.pair_sets import open_pairs
from ip2pbatch.train.fit import checkpoints, samples, stable_diffusion
from ip2pbatch.train.fit.edit_batches import EditBatches, View
from ip2pbatch.train.fit.latents import Encoder
from ip2pbatch.train.fit.networks import Networks
from ip2pbatch.train.fit.objective import grow_first_convolution
from ip2pbatch.train.fit.stable_diffusion import Config, InstructTask, parts_a_step
from ip2pbatch.train.fit.validation import HeldOutLoss
from ip2pbatch.train.stages import run, status

LOOP = {
    "steps": 4, "lr": 1e-3, "warm_up": 0, "lr_end": 1.0, "precision": "no", "save_every": 2, "sample_every": 4,
    "ema": 0.9, "ema_warm_up": "original", "log_every": 1, "clip": 0,
}  # fmt: skip
SMALL = {
    "maker": "stable_diffusion", "side": 32, "resize": (32, 36), "views": 1, "effective_batch": 4, "batch": 2,
    "look": {"pairs": 1, "side": 32, "steps": 2, "image": [1.0, 1.5]}, "readers": 1, "channels_last": False,
    "loop": LOOP,
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text-to-image model, an editing model and twenty prompts."""
    folder = tmp_path_factory.mktemp("sd")
    save_text_to_image(folder / "sd")
    save_model(folder / "ip2p")
    make_dataset(folder / "pairs")
    return folder


def config(folder: Path, start: str = "sd", **changed: object) -> Config:
    return Config(**(SMALL | {"start": str(folder / start), "data": folder / "pairs"} | changed))


@pytest.fixture(scope="module")
def made(folder: Path) -> tuple[Path, dict[str, float]]:
    """The stage, run once."""
    out = folder / "made"
    watched = {"validation": {"every": 2}, "loop": LOOP | {"snapshot_every": 2}}
    return out, stable_diffusion.run(config(folder, gradient_checkpointing=True, **watched), {}, out, None)


def losses_below(out: Path) -> list[float]:
    return torch.load(checkpoints.in_order(out)[-1] / "losses.pt")


def test_the_grown_network_begins_as_the_old_one_whatever_the_photo() -> None:
    unet = make_unet(4, 4)
    with torch.no_grad():
        unet.conv_in.bias.normal_()  # diffusers' example script forgets it
    noisy, photo, text = torch.randn(1, 4, 8, 8), torch.randn(1, 4, 8, 8), torch.randn(1, 3, 32)
    before, bias = unet(noisy, 5, text).sample, unet.conv_in.bias.clone()
    grown = grow_first_convolution(unet)
    assert grown.config.in_channels == 8
    assert torch.equal(grown.conv_in.bias, bias)
    assert (grown.conv_in.weight[:, 4:] == 0).all()
    torch.testing.assert_close(grown(torch.cat([noisy, photo], 1), 5, text).sample, before, atol=1e-5, rtol=0)
    again = grown.conv_in.weight.clone()
    assert torch.equal(grow_first_convolution(grown).conv_in.weight, again), "an editing model is left as it is"


def test_another_channel_count_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="takes 9 channels and gives 4") as caught:
        grow_first_convolution(make_unet(9, 4))
    assert "inpainting" in str(caught.value.hint)
    with pytest.raises(ModelError, match="cannot be trained from"):
        Networks.load(str(tmp_path))


def test_the_loss_is_the_error_of_the_predicted_noise() -> None:
    torch.manual_seed(0)
    unet = make_unet(8, 4).eval()
    schedule = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    latents, image, noise, text = (torch.randn(2, *shape) for shape in ((4, 8, 8), (4, 8, 8), (4, 8, 8), (3, 32)))
    timesteps = torch.tensor([10, 900])
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    kept = torch.cumprod(1 - betas, 0)[timesteps].view(-1, 1, 1, 1)
    noisy = kept.sqrt() * latents + (1 - kept).sqrt() * noise
    expected = (unet(torch.cat([noisy, image], 1), timesteps, text).sample - noise).square().mean()
    found = InstructTask(unet, schedule)(latents, image, noise, timesteps, text)
    torch.testing.assert_close(found, expected)


def test_the_stage_leaves_a_model_that_diffusers_reads(folder: Path, made: tuple[Path, dict[str, float]]) -> None:
    out, metrics = made
    assert metrics["prompts"] == 18
    assert metrics["steps"] == 4
    pipeline = StableDiffusionInstructPix2PixPipeline.from_pretrained(out / "model", dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    photo = Image.fromarray(np.full((32, 32, 3), 120, np.uint8))
    edited = pipeline("invert 3", image=photo, num_inference_steps=2).images[0]
    assert edited.size == (32, 32)
    assert pipeline.unet.config.in_channels == 8
    assert pipeline.scheduler.config.beta_schedule == "scaled_linear"
    assert json.loads((out / "model" / "ip2pbatch.json").read_text())["defaults"]["text"] == 7.5


def test_losses_and_sample_sheets_are_there_to_look_at(made: tuple[Path, dict[str, float]]) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    out, _ = made
    with Image.open(out / "samples" / "step-000004.jpg") as sheet:
        assert sheet.width > 600
    events = EventAccumulator(str(next((out / "logs").rglob("events.out.tfevents.*"))))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == [1, 2, 3, 4]
    assert [event.step for event in events.Images("samples")] == [4]
    assert [event.step for event in events.Scalars("validation_loss")] == [2, 4]
    assert events.Scalars("validation_loss")[-1].value == pytest.approx(made[1]["validation_loss"], rel=1e-6)


def test_a_snapshot_is_the_averaged_model_of_its_step(folder: Path, made: tuple[Path, dict[str, float]]) -> None:
    out, _ = made
    name = "unet/diffusion_pytorch_model.safetensors"
    half, last = (load_file(out / "snapshots" / step / name) for step in ("step-000002", "step-000004"))
    end = load_file(out / "model" / name)
    assert all(torch.equal(last[key], end[key]) for key in end)
    assert any(not torch.equal(half[key], end[key]) for key in end)


def test_validation_sees_the_same_pairs_noise_and_timesteps_whatever_the_batch(folder: Path, tmp_path: Path) -> None:
    make_dataset(tmp_path, prompts=60)
    pairs, networks = open_pairs(tmp_path), Networks.load(str(folder / "sd"))
    encoder = Encoder(networks.vae, networks.text_encoder, networks.tokenizer, torch.device("cpu"))
    task, view = InstructTask(networks.unet, DDPMScheduler()), View(32, (32, 32), 0.0)
    losses = [HeldOutLoss(pairs.part("val"), 256, view, 1000, batch) for batch in (1, 2)]
    assert losses[0].count == 3, "all of the split"
    found = [loss(task, encoder) for loss in losses]
    assert losses[0](task, encoder) == found[0] > 0
    assert found[1] == pytest.approx(found[0], rel=1e-5)
    everything = config(folder, data=tmp_path, split="all")
    assert stable_diffusion.held_out_loss(pairs, everything, SimpleNamespace(levels=1000)) is None


def test_only_the_unet_learns_and_its_new_channels_do(folder: Path, made: tuple[Path, dict[str, float]]) -> None:
    out, _ = made
    trained = UNet2DConditionModel.from_pretrained(out / "model" / "unet")
    assert trained.conv_in.weight[:, 4:].abs().max() > 0
    for name in ("vae/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"):
        one, other = load_file(folder / "sd" / name), load_file(out / "model" / name)
        assert all(torch.equal(value.half(), other[key]) for key, value in one.items())


def test_a_killed_training_goes_on_exactly_and_finds_its_latents(
    folder: Path, made: tuple[Path, dict[str, float]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class KilledError(Exception):
        pass

    def dies(self: EditBatches, part: int) -> object:
        if part == 5:
            raise KilledError
        return call(self, part)

    call = EditBatches.__call__
    with monkeypatch.context() as patch:
        patch.setattr(EditBatches, "__call__", dies)
        with pytest.raises(KilledError):
            stable_diffusion.run(config(folder, gradient_checkpointing=True), {}, tmp_path, None)
    assert [path.name for path in checkpoints.in_order(tmp_path)] == ["step-2"]
    torch.manual_seed(1234)
    stable_diffusion.run(config(folder, gradient_checkpointing=True), {}, tmp_path, None)
    assert losses_below(tmp_path) == pytest.approx(losses_below(made[0]), abs=1e-6)
    name = "model/unet/diffusion_pytorch_model.safetensors"
    one, other = load_file(made[0] / name), load_file(tmp_path / name)
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_an_editing_model_is_a_start_as_well(folder: Path, tmp_path: Path) -> None:
    quick = LOOP | {"steps": 1, "sample_every": 100}
    stable_diffusion.run(config(folder, "ip2p", loop=quick, fraction=0.2), {}, tmp_path, None)
    before = UNet2DConditionModel.from_pretrained(folder / "ip2p" / "unet").conv_in.weight
    after = UNet2DConditionModel.from_pretrained(tmp_path / "model" / "unet").conv_in.weight
    assert (after - before).abs().max() < 0.01
    assert before[:, 4:].abs().max() > 0.05


def test_as_the_original_nothing_is_rounded_or_cached_and_pictures_are_squashed(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="goes with `views: 0`"):
        config(folder, compat="original")
    settings = config(folder, compat="original", views=0)
    assert "compat" not in config(folder).model_dump()
    networks, pairs = Networks.load(settings.start), open_pairs(folder / "pairs")
    found = {}
    for kind in (settings, config(folder, views=0)):
        batches = stable_diffusion.make_batches(
            kind, networks, pairs, stable_diffusion.Place(2), tmp_path, torch.device("cpu")
        )  # fmt: skip
        assert batches.view.squash == (kind is settings)
        found[kind.compat] = batches(0)["text"]
        batches.close()
    assert torch.equal(found["original"].half().float(), found["fixed"])
    assert not torch.equal(found["original"], found["fixed"])


def test_a_step_is_as_many_samples_on_any_number_of_processes(folder: Path) -> None:
    settings = config(folder, effective_batch=1024, batch=32)
    assert parts_a_step(settings, 1) == 32
    assert parts_a_step(settings, 8) == 4
    with pytest.raises(RecipeError, match="not a multiple of 32 × 3"):
        parts_a_step(settings, 3)


def test_a_damaged_picture_is_named(folder: Path, tmp_path: Path) -> None:
    make_dataset(tmp_path / "pairs", prompts=4)
    for picture in (tmp_path / "pairs" / "dataset").rglob("*_1.jpg"):
        picture.write_bytes(b"\xff\xd8 torn")
    broken = config(folder, data=tmp_path / "pairs", look={"pairs": 0})
    with pytest.raises(RecipeError, match=r"dataset/000000\d/\d.*samples are broken, more than 1"):
        stable_diffusion.run(broken, {}, tmp_path / "out", None)


def test_two_processes_go_on_from_what_one_has_begun_as_one_would_have(folder: Path, tmp_path: Path) -> None:
    """By the command line that the documentation gives, on gloo."""
    alone = config(folder, look={"pairs": 0}, loop=LOOP | {"sample_every": 100})
    stable_diffusion.run(alone, {}, tmp_path / "alone", None)
    begun = alone.model_copy(update={"loop": alone.loop.model_copy(update={"steps": 2})})
    stable_diffusion.run(begun, {}, tmp_path / "begun", None)
    written = {**alone.model_dump(mode="json"), "stage": "finetune", "batch": 1, "readers": 1}
    (tmp_path / "both.yaml").write_text(json.dumps(written))
    (one,) = status(tmp_path / "both.yaml", out=tmp_path / "out")
    shutil.copytree(tmp_path / "begun" / "checkpoints", one.folder / "checkpoints")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = ["-m", "ip2pbatch", "train", "run", str(tmp_path / "both.yaml"), "--out", str(tmp_path / "out")]
    done = subprocess.run([*launch, *command], capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    assert losses_below(one.folder) == pytest.approx(losses_below(tmp_path / "alone"), abs=1e-5)
    assert len(list(checkpoints.in_order(one.folder)[-1].glob("random_states_*.pkl"))) == 2
    assert status(tmp_path / "both.yaml", out=tmp_path / "out")[0].state == "fresh"
    assert done.stdout.count("fresh") == 1, "one of them speaks"


def sbatch() -> str:
    """The job of docs/training.md."""
    page = (Path(__file__).parents[3] / "docs" / "training.md").read_text("utf-8")
    (text,) = (
        block for block in re.findall(r"^```sh\n(.*?)^```", page, re.MULTILINE | re.DOTALL) if "#SBATCH" in block
    )
    return text


def stand_ins(folder: Path) -> str:
    """A PATH on which one task is all that srun starts, and scontrol says what it was asked for."""
    folder.mkdir()
    scripts = {
        "srun": f'echo $$ > {folder}/pid\nexport SLURM_PROCID=0 SLURM_LOCALID=0\nexec "$@"',
        "scontrol": f"case $1 in show) echo localhost;; *) echo $* >> {folder}/asked;; esac",
        "ip2pbatch": f'exec {sys.executable} -m ip2pbatch "$@"',
    }
    for name, text in scripts.items():
        (folder / name).write_text(f"#!/bin/bash\n{text}\n")
        (folder / name).chmod(0o755)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


def test_the_slurm_job_of_the_documentation_asks_to_be_queued_again_and_goes_on(folder: Path, tmp_path: Path) -> None:
    """With the signal that Slurm sends, to the process that it sends it to."""
    looped = LOOP | {"steps": 2000, "save_every": 0, "save_minutes": 0.01, "sample_every": 0}
    written = SMALL | {"stage": "finetune", "start": str(folder / "sd"), "data": str(folder / "pairs"), "loop": looped}
    recipe = tmp_path / "training" / "paper" / "finetune.yaml"
    recipe.parent.mkdir(parents=True)
    recipe.write_text(json.dumps(written))
    slurm = {"PATH": stand_ins(tmp_path / "bin"), "SLURM_JOB_NODELIST": "n1", "SLURM_NTASKS": "1", "SLURM_JOB_ID": "7"}
    job = ["bash", "-c", sbatch()]
    with subprocess.Popen(job, cwd=tmp_path, env=os.environ | slurm, stderr=subprocess.PIPE, text=True) as running:
        deadline = time.monotonic() + 250
        while not (found := [*tmp_path.glob("work/finetune/*/checkpoints/step-*")]):
            assert running.poll() is None, running.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.02)
        os.kill(int((tmp_path / "bin" / "pid").read_text()), signal.SIGTERM)
        said = running.communicate(timeout=200)[1]
    assert running.returncode == 143, said
    assert (tmp_path / "bin" / "asked").read_text() == "requeue 7\n"
    reached = checkpoints.step_of(checkpoints.in_order(found[0].parents[1])[-1])
    assert f"interrupted: the checkpoint of step {reached:,} of 2,000 is written" in said
    recipe.write_text(json.dumps(written | {"loop": looped | {"steps": reached + 1}}))
    (done,) = run(recipe, out=tmp_path / "work")
    assert (done.state, done.metrics["steps"]) == ("fresh", reached + 1)
    assert not [path for path in checkpoints.in_order(done.folder) if checkpoints.step_of(path) < reached]


def test_stages_that_one_process_makes_are_refused_to_several(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "captions.yaml").write_text("stage: captions\nmaker: template\nwordings: words.yaml\n")
    (tmp_path / "words.yaml").write_text("families: {}\n")
    monkeypatch.setenv("WORLD_SIZE", "8")
    with pytest.raises(UsageError, match="cannot be made by 8 processes") as caught:
        run(tmp_path / "captions.yaml", out=tmp_path / "out")
    assert "with one process first" in str(caught.value.hint)
    assert not (tmp_path / "out").exists()


def test_a_shard_that_was_cut_short_is_named_before_anything_is_trained(folder: Path, tmp_path: Path) -> None:
    shard = tmp_path / "shards" / "pairs-00000.tar"
    write_shard(open_pairs(folder / "pairs"), range(20), shard, LeftOut(tmp_path, 20, 0))
    shard.write_bytes(shard.read_bytes()[:-5000])
    with pytest.raises(RecipeError, match=r"pairs-00000\.tar") as caught:
        stable_diffusion.run(config(folder, data=tmp_path), {}, tmp_path / "out", None)
    assert "shard again" in str(caught.value.hint)
    assert not (tmp_path / "out" / "checkpoints").exists()


def test_all_prompts_are_learned_from_where_asked(folder: Path) -> None:
    pairs = open_pairs(folder / "pairs")
    assert [len(stable_diffusion.training_part(pairs, config(folder, split=split))) for split in ("train", "all")] == [
        18, 20,
    ]  # fmt: skip
    assert len(stable_diffusion.training_part(pairs, config(folder, fraction=0.1))) == 2


@pytest.mark.parametrize(("split", "said"), [("train", "held-out pairs"), ("all", "pairs that are trained on")])
def test_a_sheet_says_whether_its_pairs_are_held_out(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, split: str, said: str
) -> None:
    titles: list[str] = []
    monkeypatch.setattr(samples, "Heading", lambda title, *rest: titles.append(title) or Heading(title, *rest))
    looked = {"pairs": 1, "side": 32, "steps": 1, "image": (1.5,)}
    loop = LOOP | {"steps": 1, "sample_every": 1}
    stable_diffusion.run(config(folder, split=split, look=looked, loop=loop), {}, tmp_path, None)
    assert titles == [said]


def test_what_cannot_be_cropped_or_split_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="from side"):
        config(folder, resize=(24, 36))
    make_dataset(tmp_path / "pairs", prompts=1)
    with pytest.raises(NothingMatchedError, match="1 prompts leave none"):
        stable_diffusion.run(config(folder, data=tmp_path / "pairs"), {}, tmp_path / "out", None)


def test_the_benchmark_runs_on_a_tiny_architecture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script, result = Path(__file__).parents[3] / "training" / "bench_finetune.py", tmp_path / "found.json"
    monkeypatch.setattr(sys, "argv", [str(script), "--tiny", "--steps", "2", "--result", str(result)])
    runpy.run_path(str(script), run_name="__main__")
    found = json.loads(result.read_text())
    rates = [found[which]["samples_a_second"] for which in ("ours", "theirs")]
    assert found["speed_up"] == pytest.approx(rates[0] / rates[1])
    assert min(rates) > 0


def parquet_set(path: Path, after: tuple[int, int, int], edit: str = "change the colour") -> Path:
    """Twelve rows of one instruction: red squares, and squares of another colour."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    def cell(colour: tuple[int, int, int]) -> dict[str, object]:
        stream = io.BytesIO()
        Image.new("RGB", (32, 32), colour).save(stream, "PNG")
        return {"bytes": stream.getvalue(), "path": None}

    path.parent.mkdir(parents=True, exist_ok=True)
    rows = {"input_image": [cell((255, 0, 0))] * 12, "edit_prompt": [edit] * 12, "edited_image": [cell(after)] * 12}
    pq.write_table(pa.table(rows), path)
    return path


def first_batch(folder: Path, data: Path, cache: Path, model: str = "sd") -> dict[str, torch.Tensor]:
    settings = config(folder, model, data=data)
    networks = Networks.load(settings.start)
    place = stable_diffusion.Place(4)
    batches = stable_diffusion.make_batches(
        settings, networks, open_pairs(data), place, cache, torch.device("cpu")
    )  # fmt: skip
    try:
        return batches(0)
    finally:
        batches.close()


def test_two_sets_with_one_cache_never_find_each_others_latents_or_texts(folder: Path, tmp_path: Path) -> None:
    blue = first_batch(folder, parquet_set(tmp_path / "a" / "train.parquet", (0, 0, 255)), tmp_path / "cache")
    black = first_batch(folder, parquet_set(tmp_path / "b" / "train.parquet", (0, 0, 0)), tmp_path / "cache")
    assert not torch.equal(blue["latents"], black["latents"])
    said = parquet_set(tmp_path / "c" / "train.parquet", (0, 0, 255), "paint it blue")
    assert not torch.equal(first_batch(folder, said, tmp_path / "cache")["text"], blue["text"])
    again = first_batch(folder, tmp_path / "a" / "train.parquet", tmp_path / "cache")
    assert all(torch.equal(again[name], blue[name]) for name in blue)


def test_so_do_pairs_of_the_same_captions_that_were_drawn_in_another_way(folder: Path, tmp_path: Path) -> None:
    """As `sharing: self` and `cross` do: the same prompts, seeds and file names, other pictures."""
    for name, side in (("self", 40), ("cross", 48)):
        make_dataset(tmp_path / name, prompts=10, side=side)
    found = [first_batch(folder, tmp_path / name, tmp_path / "cache") for name in ("self", "cross")]
    assert not torch.equal(found[0]["latents"], found[1]["latents"])


def test_another_encoder_or_an_older_cache_is_not_believed(folder: Path, tmp_path: Path) -> None:
    data = parquet_set(tmp_path / "a" / "train.parquet", (0, 0, 255))
    before = first_batch(folder, data, tmp_path / "cache")
    made = {path.name for path in (tmp_path / "cache").iterdir()}
    shutil.copytree(folder / "sd", tmp_path / "other")
    for name in ("vae/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"):
        weights = {key: value * 1.1 for key, value in load_file(tmp_path / "other" / name).items()}
        save_file(weights, tmp_path / "other" / name)
    other = first_batch(folder, data, tmp_path / "cache", str(tmp_path / "other"))
    assert not torch.equal(before["latents"], other["latents"])
    assert not torch.equal(before["text"], other["text"])
    assert len(list((tmp_path / "cache").iterdir())) == 2 * len(made)
    shutil.copytree(folder / "sd", tmp_path / "worded")
    words = tmp_path / "worded" / "tokenizer"
    settings = json.loads((words / "tokenizer_config.json").read_text())
    (words / "tokenizer_config.json").write_text(json.dumps(settings | {"model_max_length": 6}))
    assert first_batch(folder, data, tmp_path / "cache", str(tmp_path / "worded"))["text"].shape[1] == 6
