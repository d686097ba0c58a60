"""The whole chain at a reduced setting: the loss falls, the edits point the right way, a resume changes nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from training_photos import make_photos

from ip2pbatch.backends.pytorch.backend import load
from ip2pbatch.backends.weights import resolve
from ip2pbatch.engine.editor import Editor
from ip2pbatch.errors import ModelError
from ip2pbatch.plan.edits import Guidance
from ip2pbatch.plan.written.taught import taught_by
from ip2pbatch.train.data.pack_latents import read_shards
from ip2pbatch.train.fingerprints import UNKNOWN, digest_of_path
from ip2pbatch.train.fit.grid import edit_square, held_out_squares
from ip2pbatch.train.fit.scratch import PairBatches
from ip2pbatch.train.stages import StageStatus, run

CHAIN = {
    "words.yaml": """
it: [it]
before: [a photo]
families:
  night: {wordings: [night, at night, make it night, dark, darkness, moonlight, midnight, after dark, a dark sky],
          held_out: [nightfall, by night, make it dark], after: ["{before} at night"]}
  high_key: {wordings: [high key, white, bright, very bright, make it white, airy, light, washed out, make it bright],
          held_out: [so bright, all white, make it light], after: ["a bright {before}", "{before} in white"]}
""",
    "captions.yaml": "{stage: captions, maker: template, wordings: words.yaml, variations: 0}",
    "tokenizer.yaml": "{stage: tokenizer, inputs: {captions: captions.yaml}, size: 600, max_tokens: 8}",
    "pairs.yaml": "{stage: pairs, maker: procedural, side: 64, workers: 1, families: [night, high_key]}",
    "autoencoder.yaml": """
stage: autoencoder
inputs: {pairs: pairs.yaml}
channels: [16, 32, 64]
encoder_layers: [1, 1, 1]
decoder_layers: [1, 1, 1]
latent_channels: 16
batch: 8
crop: 32
edited: 0.5
zoom: [1.0, 2.0]
loop: {steps: 70, optimizer: muon, lr: 3e-3, warm_up: 5, save_every: 70, sample_every: 70, precision: "no", ema: 0.9}
""",
    "pack.yaml": "{stage: pack, inputs: {autoencoder: autoencoder.yaml, pairs: pairs.yaml}, crops_per_shard: 5}",
    "finetune.yaml": """
stage: finetune
inputs: {captions: captions.yaml, tokenizer: tokenizer.yaml, autoencoder: autoencoder.yaml, pack: pack.yaml}
unet: {block_out_channels: [32, 32],
       down_block_types: [DownBlock2D, DownBlock2D], up_block_types: [UpBlock2D, UpBlock2D],
       mid_block_type: UNetMidBlock2DCrossAttn, layers_per_block: 1, norm_num_groups: 8, attention_head_dim: 2,
       addition_embed_type: text, addition_embed_type_num_heads: 2, resnet_time_scale_shift: scale_shift}
text: {width: 32, layers: 1, heads: 2}
schedule: {beta_start: 0.008, beta_end: 0.008, beta_schedule: linear, prediction_type: v_prediction,
           rescale_betas_zero_snr: true, timestep_spacing: trailing}
windows: [{side: 4, batch: 24}, {side: null, batch: 8}]
late_windows: [{side: null, batch: 8}]
look: {photos: 1, side: 64, instructions: [night]}
loop: {steps: 300, optimizer: muon, lr: 3e-3, warm_up: 5, save_every: 150, sample_every: 300, precision: "no", ema: 0.9}
defaults: {text: 2.0, image: 1.0, long_side: 64}
""",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the chain's configs and photos."""
    folder = tmp_path_factory.mktemp("chain")
    make_photos(folder / "photos")
    for name, text in CHAIN.items():
        (folder / name).write_text(text)
    return folder


@pytest.fixture(scope="module")
def made(folder: Path) -> dict[str, StageStatus]:
    """The chain, run once for all tests here."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        found = run(folder / "finetune.yaml", photos=folder / "photos", out=folder / "out")
    finally:
        torch.set_num_threads(threads)
    return {one.config.name: one for one in found}


def test_every_loss_falls(made: dict[str, StageStatus]) -> None:
    for name in ("autoencoder", "finetune"):
        assert made[name].metrics["loss_last"] < 0.75 * made[name].metrics["loss_first"], name
    assert made["autoencoder"].metrics["psnr"] > 15


def test_latents_are_standardised_without_a_scaling_factor(made: dict[str, StageStatus]) -> None:
    assert abs(made["pack"].metrics["mean"]) < 0.25
    assert 0.7 < made["pack"].metrics["deviation"] < 1.4
    config = json.loads((made["finetune"].folder / "model" / "vae" / "config.json").read_text())
    assert config["scaling_factor"] == 1.0


def test_edits_point_the_right_way(folder: Path, made: dict[str, StageStatus]) -> None:
    editor = Editor(load(resolve(str(made["finetune"].folder / "model"))))
    for photo in held_out_squares(folder / "photos", 2, 64):
        editor.close()  # it knows a photo by its name, and these have the same
        night, day = edit_square(editor, photo, ["by night", "so bright"], Guidance(2.0, 1.0), steps=8)
        assert day.mean() - night.mean() > 30


def test_the_model_folder_is_half_precision_and_says_its_defaults(made: dict[str, StageStatus]) -> None:
    from safetensors.torch import load_file

    model = made["finetune"].folder / "model"
    weights = load_file(model / "unet" / "diffusion_pytorch_model.safetensors")
    assert {value.dtype for value in weights.values()} == {torch.float16}
    defaults = json.loads((model / "ip2pbatch.json").read_text())["defaults"]
    assert defaults == {"text": 2.0, "image": 1.0, "long_side": 64}
    taught = taught_by(str(model))
    assert taught is not None
    assert taught.unlike("make it night") is None
    assert taught.unlike("add a cat") is not None
    scheduler = json.loads((model / "scheduler" / "scheduler_config.json").read_text())
    assert scheduler["_class_name"] == "EulerAncestralDiscreteScheduler"
    assert scheduler["prediction_type"] == "v_prediction"


def test_sample_grids_and_losses_are_there_to_look_at(made: dict[str, StageStatus]) -> None:
    folder = made["finetune"].folder
    assert (folder / "samples" / "step-000300.jpg").exists()
    assert list((folder / "logs").rglob("events.out.tfevents.*"))


def test_a_resumed_training_ends_in_the_same_weights(
    folder: Path, made: dict[str, StageStatus], tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    from ip2pbatch.train.fit import scratch as finetune

    inputs = {name: made[name].folder for name in ("captions", "tokenizer", "autoencoder", "pack")}
    settings = made["finetune"].config.settings
    loop = settings.loop.model_copy(update={"steps": 6, "save_every": 3, "sample_every": 100})
    config = settings.model_copy(update={"loop": loop})
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    finetune.run(config, inputs, whole, folder / "photos")

    class KilledError(Exception):
        pass

    batches, killed_at = PairBatches.__call__, 4

    def dies(self: PairBatches, step: int, process: int = 0) -> dict[str, torch.Tensor]:
        if step == killed_at:
            raise KilledError
        return batches(self, step, process)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PairBatches, "__call__", dies)
        with pytest.raises(KilledError):
            finetune.run(config, inputs, parted, folder / "photos")
    assert [path.name for path in (parted / "checkpoints").glob("step-*")] == ["step-3"]
    finetune.run(config, inputs, parted, folder / "photos")
    name = "model/unet/diffusion_pytorch_model.safetensors"
    one, other = load_file(whole / name), load_file(parted / name)
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_conditioning_is_dropped_as_often_as_asked(made: dict[str, StageStatus]) -> None:
    from transformers import CLIPTokenizer

    from ip2pbatch.train.captions.wordings_stage import read_captions

    settings = made["finetune"].config.settings.model_copy(update={"windows": settings_of_many(made)})
    tokenizer = CLIPTokenizer.from_pretrained(made["tokenizer"].folder / "tokenizer")
    crops, captions = read_shards(made["pack"].folder / "shards"), read_captions(made["captions"].folder)
    batch = PairBatches(crops, captions, tokenizer, settings)(0)
    null = torch.tensor(tokenizer("", padding="max_length", max_length=8).input_ids)
    text, image = (batch["tokens"] == null).all(1), (batch["image"] == 0).flatten(1).all(1)
    for dropped in (text & ~image, text & image, image & ~text):
        assert dropped.float().mean() == pytest.approx(0.05, abs=0.02)


def test_without_an_instruction_the_photo_may_stay_as_it_is(made: dict[str, StageStatus]) -> None:
    from transformers import CLIPTokenizer

    from ip2pbatch.train.captions.wordings_stage import read_captions

    settings = made["finetune"].config.settings.model_copy(update={"windows": settings_of_many(made), "unchanged": 1.0})
    tokenizer = CLIPTokenizer.from_pretrained(made["tokenizer"].folder / "tokenizer")
    crops, captions = read_shards(made["pack"].folder / "shards"), read_captions(made["captions"].folder)
    batch = PairBatches(crops, captions, tokenizer, settings)(0)
    null = torch.tensor(tokenizer("", padding="max_length", max_length=8).input_ids)
    text, image = (batch["tokens"] == null).all(1), (batch["image"] == 0).flatten(1).all(1)
    same = (batch["latents"] == batch["image"]).flatten(1).all(1)
    assert torch.equal(same, text & ~image)


def settings_of_many(made: dict[str, StageStatus]) -> tuple[object, ...]:
    """One window with so many samples that frequencies can be counted."""
    return (made["finetune"].config.settings.windows[0].model_copy(update={"side": 2, "batch": 3000}),)


def test_training_goes_on_from_a_model(folder: Path, made: dict[str, StageStatus], tmp_path: Path) -> None:
    from ip2pbatch.train.fit import scratch as finetune

    inputs = {name: made[name].folder for name in ("captions", "autoencoder", "pack")}
    settings = made["finetune"].config.settings
    loop = settings.loop.model_copy(update={"steps": 20, "save_every": 20, "sample_every": 100, "lr": 1e-4})
    begun = {"start": made["finetune"].folder / "model", "unet": {}, "loop": loop}
    metrics = finetune.run(settings.model_copy(update=begun), inputs, tmp_path, folder / "photos")
    assert metrics["loss_first"] < 0.75 * made["finetune"].metrics["loss_first"]


def test_training_does_not_go_on_from_what_does_not_fit(made: dict[str, StageStatus], tmp_path: Path) -> None:
    from ip2pbatch.train.fit.scratch import load_networks, load_tokenizer

    model, settings = made["finetune"].folder / "model", made["finetune"].config.settings
    unet, text_encoder = load_networks(model, 16)
    assert (unet.dtype, text_encoder.dtype) == (torch.float32, torch.float32)
    with pytest.raises(ModelError, match="latents have 16 channels, those of the pairs 32"):
        load_networks(model, 32)
    with pytest.raises(ModelError, match="cannot be trained from"):
        load_networks(tmp_path, 16)
    with pytest.raises(ModelError, match="cannot be trained from"):
        load_tokenizer(settings.model_copy(update={"start": tmp_path}), {})


def test_a_model_to_begin_from_counts_by_its_weights(tmp_path: Path) -> None:
    (tmp_path / "unet").mkdir(parents=True)
    (tmp_path / "model_index.json").write_text("{}")
    weights = tmp_path / "unet" / "weights.safetensors"
    weights.write_bytes(b"one")
    first = digest_of_path(tmp_path)
    weights.write_bytes(b"two")
    assert digest_of_path(tmp_path) != first
    assert digest_of_path(tmp_path / "unet") not in (UNKNOWN, "unet"), "and so does a folder of data"
    assert digest_of_path(tmp_path / "nowhere") == UNKNOWN
