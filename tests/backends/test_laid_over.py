"""LoRAs and another autoencoder over a model: added to its weights, known by their bytes, refused where they do not
fit.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from command import CommandLine
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from single_files import cache_vocabulary, save_folder
from tiny_models import save_model

from ip2pbatch.backends import weights
from ip2pbatch.backends.conversion import export_file
from ip2pbatch.backends.pytorch import backend as pytorch
from ip2pbatch.errors import ModelError
from ip2pbatch.plan.defaults import family_for, model_defaults
from ip2pbatch.plan.editors.composed import composed
from ip2pbatch.plan.editors.few_steps import FEW_STEPS, unlike
from ip2pbatch.plan.edits import Edit, Guidance, make_edit
from ip2pbatch.plan.families import FAMILIES
from ip2pbatch.run.directory.view import read_run

FLAGS = ("--device", "cpu", "--precision", "fp32")
RANK, ALPHA = 2, 4.0
UNET = {
    "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q": (32, 32),
    "mid_block.attentions.0.transformer_blocks.0.attn2.to_k": (64, 64),
    "up_blocks.1.attentions.0.transformer_blocks.0.attn1.to_out.0": (32, 32),
}
TEXT = {"text_model.encoder.layers.0.self_attn.q_proj": (64, 64), "text_model.encoder.layers.1.mlp.fc2": (64, 48)}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_folder(tmp_path_factory.mktemp("laid") / "model")


def factors() -> Iterator[tuple[str, str, torch.Tensor, torch.Tensor]]:
    """Network, layer, up and down of each layer that is changed."""
    drawn = torch.Generator().manual_seed(5)
    for network, layers in (("unet", UNET), ("text_encoder", TEXT)):
        for layer, (out, into) in layers.items():
            yield network, layer, torch.randn(out, RANK, generator=drawn), torch.randn(RANK, into, generator=drawn)


def kohya(file: Path) -> Path:
    tensors = {}
    for network, layer, up, down in factors():
        name = ("lora_unet_" if network == "unet" else "lora_te_") + layer.replace(".", "_")
        tensors |= {
            f"{name}.lora_up.weight": up,
            f"{name}.lora_down.weight": down,
            f"{name}.alpha": torch.tensor(ALPHA),
        }
    save_file(tensors, file)
    return file


def peft(file: Path) -> Path:
    tensors, said = {}, {}
    for network, layer, up, down in factors():
        tensors |= {f"{network}.{layer}.lora_B.weight": up, f"{network}.{layer}.lora_A.weight": down}
        said |= {f"{network}.lora_alpha": ALPHA, f"{network}.r": RANK}
    save_file(tensors, file, metadata={"lora_adapter_metadata": json.dumps(said)})
    return file


def old_diffusers(file: Path) -> Path:
    """Without an alpha, so that the factors carry it."""
    tensors = {}
    for network, layer, up, down in factors():
        name = f"{network}.{layer}.lora_linear_layer"
        if network == "unet":
            before, _, part = layer.removesuffix(".0").rpartition(".")
            name = f"unet.{before}.processor.{part}_lora"
        tensors |= {f"{name}.up.weight": up * ALPHA / RANK, f"{name}.down.weight": down}
    save_file(tensors, file)
    return file


def original_names(file: Path) -> Path:
    kohya(file)
    names = {
        "lora_unet_down_blocks_0_attentions_0": "lora_unet_input_blocks_1_1",
        "lora_unet_mid_block_attentions_0": "lora_unet_middle_block_1",
        "lora_unet_up_blocks_1_attentions_0": "lora_unet_output_blocks_2_1",
    }
    tensors = load_file(file)
    for ours, theirs in names.items():
        tensors = {key.replace(ours, theirs): value for key, value in tensors.items()}
    save_file(tensors, file)
    return file


def weights_of(model: str) -> dict[str, torch.Tensor]:
    parts = pytorch.load(weights.resolve(model), wanted=[]).parts
    return {**parts.unet.state_dict(), **parts.text_encoder.state_dict()}


@pytest.fixture(scope="module")
def plain(model: Path) -> dict[str, torch.Tensor]:
    return weights_of(str(model))


@pytest.mark.parametrize("write", [kohya, peft, old_diffusers, original_names])
def test_every_form_of_a_lora_is_added(
    model: Path, tmp_path: Path, plain: dict[str, torch.Tensor], write: Callable[[Path], Path]
) -> None:
    ours = weights_of(f"{model} + lora:{write(tmp_path / 'winter.safetensors')}@0.5")
    wanted = dict(plain)
    for _, layer, up, down in factors():
        name = f"{layer.removeprefix('text_model.')}.weight"
        wanted[name] = wanted[name] + 0.5 * ALPHA / RANK * (up @ down)
    assert ours.keys() == wanted.keys()
    assert all(torch.allclose(ours[name], wanted[name], atol=1e-5) for name in wanted)


def test_a_unets_weights_are_those_that_diffusers_fuses(model: Path, tmp_path: Path) -> None:
    """Of a text encoder's attention diffusers 0.42 leaves the changes out where transformers is of version 5."""
    pytest.importorskip("peft", reason="peft is not installed")
    file = kohya(tmp_path / "winter.safetensors")
    ours = pytorch.load(weights.resolve(f"{model} + lora:{file}@0.5"), wanted=[]).parts.unet.state_dict()
    theirs = UNet2DConditionModel.from_pretrained(model / "unet")
    theirs.load_lora_adapter({f"unet.{key}": one for key, one in load_file(peft(file)).items()}, prefix="unet.unet")
    theirs.fuse_lora(lora_scale=0.5 * ALPHA / RANK)
    theirs.unload_lora()
    assert all(torch.allclose(ours[name], one, atol=1e-5) for name, one in theirs.state_dict().items())


def test_a_scale_of_0_is_none_and_two_are_added_one_after_the_other(model: Path, tmp_path: Path) -> None:
    file = kohya(tmp_path / "winter.safetensors")
    none = weights.resolve(f"{model} + lora:{file}@0")
    assert none.digest == weights.resolve(str(model)).digest
    twice, once = weights_of(f"{model} + lora:{file}@0.25 + lora:{file}@0.25"), weights_of(f"{model} + lora:{file}@0.5")
    assert all(torch.allclose(twice[name], once[name], atol=1e-5) for name in once)


def test_file_scale_and_autoencoder_are_in_the_identity(model: Path, tmp_path: Path) -> None:
    file = kohya(tmp_path / "winter.safetensors")
    vae = Path(shutil.copytree(save_folder(tmp_path / "other", seed=1) / "vae", tmp_path / "vae"))
    asked = [str(model), f"{model} + lora:{file}@0.5", f"{model} + lora:{file}@0.6", f"{model} + vae:{vae}"]
    digests = [weights.resolve(text).digest for text in asked]
    old_diffusers(file)
    digests.append(weights.resolve(asked[1]).digest)
    assert len(set(digests)) == 5
    moved = shutil.copy(file, tmp_path / "elsewhere.safetensors")
    assert weights.resolve(f"{model} + lora:{moved}@0.5").digest == digests[-1]


@pytest.mark.parametrize("form", ["folder", "model", "file"])
def test_another_autoencoder_takes_the_models_place(model: Path, tmp_path: Path, form: str) -> None:
    other = save_folder(tmp_path / "other", seed=1)
    vae = {"folder": other / "vae", "model": other, "file": tmp_path / "vae.safetensors"}[form]
    if form == "file":
        export_file(other, "other", tmp_path / "whole.safetensors")
        tensors = load_file(tmp_path / "whole.safetensors")
        prefix = "first_stage_model."
        save_file({key.removeprefix(prefix): one for key, one in tensors.items() if key.startswith(prefix)}, vae)
    found = pytorch.load(weights.resolve(f"{model} + vae:{vae}"), wanted=[])
    wanted = AutoencoderKL.from_pretrained(other / "vae").state_dict()
    loaded = found.parts.vae.state_dict()
    assert all(torch.equal(loaded[name], wanted[name]) for name in wanted)


def recipe(folder: Path, model: Path, more: str) -> Path:
    file = folder / "r.yaml"
    file.write_text(
        f"model: {model}\n{more}photos: photos/three.png\nedits: [make it snow]\nsize: 64\nsteps: 1\n"
        "output: {folder: out}\n"
    )
    return file


def test_a_recipe_with_a_lora_runs_is_locked_and_says_it(command: CommandLine, shoot: Path, model: Path) -> None:
    kohya(shoot / "winter.safetensors")
    written = recipe(shoot, model, "lora: [{path: winter.safetensors, scale: 0.5}]\n")
    assert command("run", written, *FLAGS).code == 0
    assert "winter.safetensors@0.5" in command("status", written).out
    assert command("lock", written).code == 0
    recipe(shoot, model, "lora: [{path: winter.safetensors, scale: 0.6}]\n")
    assert command("lock", written, "--check").code == 4
    recipe(shoot, model, "lora: winter.safetensors\n")
    assert command("validate", written).code == 0


def test_an_lcm_lora_without_its_settings_is_told_of_them() -> None:
    def edit(sampler: str, steps: int, text: float) -> Edit:
        return make_edit("a", "make it snow", Guidance(text, 1.5), 1, steps=steps, sampler=sampler, size=(64, 64))

    model = "tiny + lora:latent-consistency/lcm-lora-sdv1-5@1"
    paths = [one.path for one in composed(model).loras]
    (said,) = unlike(paths, family_for(model), [edit("lcm", 4, 1.5), edit("euler_a", 20, 7.5)])
    assert "lcm-lora-sdv1-5 is made for sampler lcm, 4 to 8 steps and a text scale of up to 2" in said
    assert "this asks for euler_a, 20 steps and 7.5" in said
    assert not list(unlike(paths, family_for(model), [edit("lcm", 4, 1.5)]))


@pytest.mark.parametrize(
    ("model", "counts"),
    [
        ("tiny + lora:a/lcm-lora-sdv1-5", {"steps": 4, "text": 1.5, "image": 1, "sampler": "lcm"}),
        ("tiny + lora:lcm-lora-sdv1-5/pytorch_lora_weights.safetensors", {"steps": 4, "sampler": "lcm"}),
        ("ip2p + lora:Hyper-SD15-8steps-lora.safetensors", {"steps": 8, "text": 1, "image": 1, "sampler": "ddim"}),
        ("sdxl-ip2p + lora:sdxl_lightning_4step_lora.safetensors", {"steps": 4, "text": 1, "sampler": "euler"}),
        ("kontext + lora:Hyper-FLUX.1-dev-8steps-lora.safetensors", {"steps": 8, "text": 3.5, "sampler": "model"}),
        ("qwen-edit + lora:Qwen-Image-Edit-2511-Lightning-4steps-V1.0-bf16.safetensors", {"steps": 4, "text": 1}),
        ("qwen-edit + lora:Hyper-FLUX.1-dev-8steps-lora.safetensors", {"steps": 40, "text": 4}),
        ("ip2p + lora:Hyper-SD15-8steps-lora.safetensors@0", {"steps": 20, "text": 7.5}),
        ("ip2p + lora:winter.safetensors", {"steps": 20, "text": 7.5, "sampler": "euler_a"}),
    ],
)  # fmt: skip
def test_what_a_lora_for_few_steps_is_made_for_counts_where_a_recipe_names_nothing(
    model: str, counts: dict[str, object]
) -> None:
    found = model_defaults(model)
    assert {name: getattr(found, name) for name in counts} == counts
    (lora,) = composed(model).loras
    assert lora.scale == (0 if model.endswith("@0") else 0.125 if "FLUX" in model else 1)


def test_every_known_lora_is_of_a_family_and_says_what_it_is_for() -> None:
    for known in FEW_STEPS:
        assert known.family in FAMILIES
        assert ("(?P<steps>" in known.files) == ("steps" not in known.defaults)
        assert known.defaults["text"] >= 1


def test_a_recipe_s_own_steps_come_before_a_lora_s(command: CommandLine, shoot: Path, model: Path) -> None:
    kohya(shoot / "lcm-lora.safetensors")
    written = recipe(shoot, model, "lora: lcm-lora.safetensors\n")
    fake = ("--backend", "fake", "-o")
    for folder, text, steps in (("six", "steps: 6\n", 6), ("none", "", 4)):
        written.write_text(written.read_text().replace("steps: 1\n", "").replace("steps: 6\n", "") + text)
        assert command("run", written, *fake, shoot / folder).code == 0
        (edit,) = read_run(shoot / folder).plan.edits
        assert (edit.steps, edit.sampler, edit.guidance.text) == (steps, "lcm", 1.5)


def test_a_lora_that_does_not_fit_is_told_by_validate_from_headers_alone(
    command: CommandLine, shoot: Path, model: Path
) -> None:
    written = recipe(shoot, model, "lora: winter.safetensors\n")
    assert command("validate", written).code == 0  # it is not here yet
    other_shape(shoot / "winter.safetensors")
    said = command("validate", written)
    assert said.code == 2
    assert "is made for another architecture: mid_block" in " ".join(said.err.split())
    kohya(shoot / "winter.safetensors")
    assert command("validate", written).code == 0


def test_a_single_file_s_layers_are_those_of_its_folder(model: Path, tmp_path: Path) -> None:
    cache_vocabulary(tmp_path / "hub")
    export_file(model, "m", tmp_path / "m.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
        for write in (kohya, peft, original_names):
            weights.refuse_unfit(f"{tmp_path / 'm.safetensors'} + lora:{write(tmp_path / 'winter.safetensors')}")
        other_layers(tmp_path / "winter.safetensors")
        with pytest.raises(ModelError, match="has no layer down_blocks_7"):
            weights.refuse_unfit(f"{tmp_path / 'm.safetensors'} + lora:{tmp_path / 'winter.safetensors'}")


def sdxl(file: Path) -> None:
    save_file({"lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_up.weight": torch.zeros(1)}, file)


def of_a_transformer(file: Path) -> None:
    save_file({"transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight": torch.zeros(1, 2)}, file)


def loha(file: Path) -> None:
    save_file({"lora_unet_mid_block_attentions_0_proj_in.hada_w1_a": torch.zeros(1, 2)}, file)


def other_layers(file: Path) -> None:
    name = "lora_unet_down_blocks_7_attentions_0_proj_in"
    save_file({f"{name}.lora_up.weight": torch.zeros(64, 1), f"{name}.lora_down.weight": torch.zeros(1, 64)}, file)


def other_shape(file: Path) -> None:
    name = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k"
    save_file({f"{name}.lora_up.weight": torch.zeros(64, 1), f"{name}.lora_down.weight": torch.zeros(1, 2048)}, file)


def half_of_it(file: Path) -> None:
    save_file({"lora_unet_mid_block_attentions_0_proj_in.lora_up.weight": torch.zeros(64, 1)}, file)


def cut_short(file: Path) -> None:
    kohya(file)
    file.write_bytes(file.read_bytes()[:200])


def a_model(file: Path) -> None:
    save_file({"model.diffusion_model.out.2.bias": torch.zeros(1)}, file)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (sdxl, "SDXL"), (of_a_transformer, "diffusion transformer"), (loha, "LoHa"),
        (other_layers, "made for another architecture"), (other_shape, "made for another architecture"),
        (half_of_it, "no whole LoRA"), (cut_short, "damaged or incomplete"), (a_model, "no LoRA"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_by_name(
    command: CommandLine, shoot: Path, model: Path, fault: Callable[[Path], None], reason: str
) -> None:
    fault(shoot / "winter.safetensors")
    said = command("run", recipe(shoot, model, "lora: winter.safetensors\n"), *FLAGS)
    assert said.code == 6, said.err
    assert reason in " ".join(said.err.split())
    assert "winter.safetensors" in "".join(said.err.split())


def test_an_autoencoder_of_other_latents_is_refused_by_name(model: Path, tmp_path: Path) -> None:
    other = save_model(tmp_path / "dc", "dc")
    with pytest.raises(ModelError, match="does not fit this model: its latents have 32 channels"):
        weights.resolve(f"{model} + vae:{other}")


@pytest.mark.parametrize(
    ("more", "place"),
    [
        ("lora: [{scale: 1}]\n", "lora"), ("lora: [{path: a.safetensors, scale: much}]\n", "lora"),
        ("lora: [{path: a.safetensors, strength: 1}]\n", "strength"), ("vae: 3\n", "vae"),
    ],
)  # fmt: skip
def test_what_is_written_wrongly_is_told_with_its_line(
    command: CommandLine, shoot: Path, model: Path, more: str, place: str
) -> None:
    said = command("validate", recipe(shoot, model, more))
    assert said.code == 2
    assert "r.yaml:2:" in said.err
    assert place in said.err


def test_one_that_is_not_here_says_how_to_fetch_it(
    model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match="not in the cache") as caught:
        weights.resolve(f"{model} + lora:latent-consistency/lcm-lora-sdv1-5")
    assert "hf download latent-consistency/lcm-lora-sdv1-5 pytorch_lora_weights.safetensors" in str(caught.value.hint)
    with pytest.raises(ModelError, match=r"there is no /nowhere\.safetensors"):
        weights.resolve(f"{model} + lora:/nowhere.safetensors")


def test_weights_in_a_folder_that_are_not_loaded_are_named(model: Path, tmp_path: Path) -> None:
    own, said = Path(shutil.copytree(model, tmp_path / "m")), []
    kohya(own / "pytorch_lora_weights.safetensors")
    shutil.copy(own / "unet/diffusion_pytorch_model.safetensors", own / "unet/diffusion_pytorch_model.fp16.safetensors")
    weights.resolve(str(own), note=said.append)
    assert len(said) == 1
    assert "pytorch_lora_weights.safetensors" in said[0]
    assert "lora:" in said[0]


def test_weights_as_magicbrush_and_hq_edit_have_them_are_instruct_pix2pix_s(model: Path, tmp_path: Path) -> None:
    """One's index names the pipeline that draws from text, and the other's folder holds a checkpoint besides."""
    own, said = Path(shutil.copytree(model, tmp_path / "m")), list[str]()
    index = json.loads((own / "model_index.json").read_text()) | {"_class_name": "StableDiffusionPipeline"}
    (own / "model_index.json").write_text(json.dumps(index))
    shutil.copytree(own / "unet", own / "checkpoint-25000/unet")
    weights.resolve(str(own), note=said.append)
    assert family_for(str(own)) is family_for("ip2p")
    assert "checkpoint-25000/unet/diffusion_pytorch_model.safetensors" in said[0]


def test_bits_are_those_of_weights_that_were_changed_by_hand(model: Path, tmp_path: Path) -> None:
    """At full scale, without an alpha: W + up · down, in float32."""
    name, (out, into) = next(iter(UNET.items()))
    up, down = torch.randn(out, 1), torch.randn(1, into)
    key = f"unet.{name}"
    save_file({f"{key}.lora_B.weight": up, f"{key}.lora_A.weight": down}, tmp_path / "one.safetensors")
    plain = weights_of(str(model))[f"{name}.weight"]
    laid = weights_of(f"{model} + lora:{tmp_path / 'one.safetensors'}")[f"{name}.weight"]
    assert np.array_equal(laid.numpy(), (plain + 1.0 * (up @ down)).numpy())
