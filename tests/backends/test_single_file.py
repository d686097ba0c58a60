"""A model in one file of the original layout: the same bits as from its folder, there and back."""

from __future__ import annotations

import gzip
import json
import shutil
import sys
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
import transformers
from command import CommandLine
from runs import many
from safetensors.torch import load_file, save_file
from single_files import cache_full_vocabulary, cache_vocabulary, save_folder, save_stable_diffusion
from tiny_models import make_picture, save_model, save_text_to_image

from ip2pbatch.backends import model_folder, weights
from ip2pbatch.backends.conversion import export_file
from ip2pbatch.backends.pytorch import backend as pytorch
from ip2pbatch.backends.single_file import vocabulary
from ip2pbatch.engine.editor import Editor
from ip2pbatch.errors import ModelError
from ip2pbatch.plan.edits import Guidance, make_edit
from ip2pbatch.run.engine import Source

FLAGS = ("--device", "cpu", "--precision", "fp32")
EDIT = ("-i", "make it snow", "--size", "64", "--steps", "1", *FLAGS)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `model`, the same as `model.safetensors`, and `cache` with its vocabulary."""
    root = tmp_path_factory.mktemp("single")
    export_file(save_folder(root / "model"), "model", root / "model.safetensors")
    cache_vocabulary(root / "cache")
    return root


@pytest.fixture(autouse=True)
def hub(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(made / "cache"))


@pytest.fixture
def file(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(made / "model.safetensors", tmp_path / "own.safetensors"))


def picture(model: Path) -> np.ndarray:
    edit = make_edit("a", "make it snow", Guidance(7.5, 1.5), 1, steps=1, sampler="euler_a", size=(32, 32))
    editor = Editor(pytorch.load(weights.resolve(str(model)), wanted=[]), safety=False)
    made = editor.edit([edit], [Source(pixels=make_picture(size=(32, 32)))])[0].image
    assert made is not None
    return made


def test_a_file_a_folder_and_an_imported_folder_make_the_same_picture(
    command: CommandLine, made: Path, tmp_path: Path
) -> None:
    said = command("models", "import", made / "model.safetensors", "--to", tmp_path / "back")
    assert said.code == 0, said.err
    assert (picture(made / "model") == picture(made / "model.safetensors")).all()
    assert (picture(made / "model") == picture(tmp_path / "back")).all()
    assert json.loads((tmp_path / "back/origin.json").read_text())["file"] == "model.safetensors"


def test_there_and_back_keeps_every_bit(command: CommandLine, made: Path, tmp_path: Path) -> None:
    assert command("models", "import", made / "model.safetensors", "--to", tmp_path / "back").code == 0
    assert command("models", "export", tmp_path / "back", "--single-file", tmp_path / "again.safetensors").code == 0
    first, second = load_file(made / "model.safetensors"), load_file(tmp_path / "again.safetensors")
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.skipif(many(0, 1) == 0, reason="2 GB of weights: in the soak")
def test_all_of_stable_diffusion_1_5_is_in_one_file_what_it_is_in_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache_full_vocabulary(tmp_path / "cache")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    folder = save_stable_diffusion(tmp_path / "model", tmp_path / "cache")
    export_file(folder, "model", tmp_path / "model.safetensors")
    whole, single = (model_folder.check(path) for path in (folder, tmp_path / "model.safetensors"))
    assert single.single is not None
    count = 0
    kinds = (diffusers.UNet2DConditionModel, diffusers.AutoencoderKL, transformers.CLIPTextModel)
    for name, kind in zip(("unet", "vae", "text_encoder"), kinds, strict=True):
        ours, theirs = (pytorch.load_part(layout, name, kind, torch.float16) for layout in (single, whole))
        weights_of, wanted = ours.state_dict(), theirs.state_dict()
        assert weights_of.keys() == wanted.keys()
        assert all(torch.equal(weights_of[key], one) for key, one in wanted.items())
        count += len(wanted)
    assert count > 1100


@pytest.mark.parametrize("part", ["unet", "vae"])
def test_diffusers_reads_the_file_as_the_folder(made: Path, part: str) -> None:
    kind = {"unet": diffusers.UNet2DConditionModel, "vae": diffusers.AutoencoderKL}[part]
    theirs = kind.from_single_file(
        str(made / "model.safetensors"), config=str(made / "model"), subfolder=part, local_files_only=True
    ).state_dict()
    ours = load_file(made / "model" / part / "diffusion_pytorch_model.safetensors")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_recipe_with_a_file_is_planned_locked_and_held_to_its_lock(
    command: CommandLine, shoot: Path, file: Path
) -> None:
    (shoot / "r.yaml").write_text(
        "model: own.safetensors\nphotos: photos/three.png\nedits: [make it snow]\nsize: 64\nsteps: 1\n"
        "output: {folder: out}\n"
    )
    assert command("validate", shoot / "r.yaml").code == 0
    assert "own.safetensors" in command("plan", shoot / "r.yaml").out
    assert command("run", shoot / "r.yaml", *FLAGS).code == 0
    assert command("lock", shoot / "r.yaml").code == 0
    data = bytearray(file.read_bytes())
    data[-2] ^= 1
    file.write_bytes(bytes(data))
    assert command("run", shoot / "r.yaml", *FLAGS).code == 2
    locked = command("run", shoot / "r.yaml", *FLAGS, "--locked")
    assert (locked.code, "checkpoint" in locked.err) == (4, True)


def test_its_identity_is_the_files_wherever_it_lies_and_whatever_it_is_called(made: Path, file: Path) -> None:
    assert weights.resolve(str(file)).digest == weights.resolve(str(made / "model.safetensors")).digest


def test_without_clips_vocabulary_it_is_refused_with_what_fetches_it(
    command: CommandLine, shoot: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(shoot / "empty"))
    said = command("edit", shoot / "photos/three.png", "-o", shoot / "out", "--model", file, *EDIT)
    assert said.code == 6
    assert "hf download openai/clip-vit-large-patch14 vocab.json merges.txt" in " ".join(said.err.split())


def test_a_package_that_ships_clips_list_of_merges_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "open_clip").mkdir()
    (tmp_path / "open_clip/__init__.py").write_text("raise RuntimeError('it need not be imported')")
    lines = ['"bpe_simple_vocab_16e6.txt#version: 0.2', *(f"a{number} b{number}</w>" for number in range(50_000))]
    with gzip.open(tmp_path / "open_clip/bpe_simple_vocab_16e6.txt.gz", "wt", encoding="utf-8") as file:
        file.write("\n".join(lines))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "empty"))
    monkeypatch.syspath_prepend(tmp_path)
    found = vocabulary.find(49408, Path("any.safetensors"))
    assert "open_clip" not in sys.modules
    assert [found.words[word] for word in ("!", "~", "¡", "Ā", "!</w>", "a0b0</w>")] == [0, 93, 94, 188, 256, 512]
    assert [found.words[word] for word in ("<|startoftext|>", "<|endoftext|>")] == [49406, 49407]


def change(file: Path, **changes: torch.Tensor | None) -> None:
    """Write a safetensors again; None takes the tensors away whose names hold the word."""
    tensors = load_file(file)
    for word, value in changes.items():
        tensors = {name: one for name, one in tensors.items() if word not in name or value is not None}
        if value is not None:
            tensors[word] = value
    save_file(tensors, file)


def sdxl(file: Path) -> None:
    change(file, cond_stage_model=None)
    change(file, **{"conditioner.embedders.0.transformer.text_model.embeddings.position_ids": torch.zeros(1)})


def lora(file: Path) -> None:
    save_file({"lora_unet_mid_block_attentions_0_proj_in.lora_down.weight": torch.zeros(1, 2)}, file)


def no_autoencoder(file: Path) -> None:
    change(file, first_stage_model=None)


def a_weight_gone(file: Path) -> None:
    change(file, **{"middle_block.2.out_layers.3.bias": None})


def a_shape_wrong(file: Path) -> None:
    change(file, **{"model.diffusion_model.time_embed.0.bias": torch.zeros(3)})


def half_of_it(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def nothing_of_ours(file: Path) -> None:
    save_file({"a": torch.zeros(1)}, file)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (sdxl, "is an SDXL model"), (lora, "is a LoRA"), (no_autoencoder, "no weights of first_stage_model"),
        (a_weight_gone, "is missing"), (a_shape_wrong, "of another shape"), (half_of_it, "damaged or incomplete"),
        (nothing_of_ours, "no model in the original layout"),
    ],
)  # fmt: skip
def test_what_is_no_such_model_is_refused_by_name(
    command: CommandLine, shoot: Path, file: Path, fault: object, reason: str
) -> None:
    assert callable(fault)
    fault(file)
    for arguments in (
        ("edit", shoot / "photos/three.png", "-o", shoot / "out", "--model", file, *EDIT),
        ("models", "import", file),
    ):
        said = command(*arguments)
        assert said.code == 6, said.err
        assert reason in " ".join(said.err.split())
        assert "hint:" in said.err
    assert not file.with_suffix("").exists()


def test_a_file_that_is_not_there_is_no_hub_id(command: CommandLine, shoot: Path) -> None:
    said = command("edit", shoot / "photos/three.png", "-o", shoot / "out", "--model", "a/b.safetensors", *EDIT)
    assert (said.code, "no model file" in said.err) == (6, True)


def test_one_that_draws_from_text_is_told_as_that(tmp_path: Path) -> None:
    export_file(save_folder(tmp_path / "model", in_channels=8), "model", tmp_path / "model.safetensors")
    name = "model.diffusion_model.input_blocks.0.0.weight"
    change(tmp_path / "model.safetensors", **{name: load_file(tmp_path / "model.safetensors")[name][:, :4].clone()})
    with pytest.raises(ModelError, match="draws pictures from text"):
        model_folder.check(tmp_path / "model.safetensors")
    assert model_folder.check(tmp_path / "model.safetensors", "text_to_image").single is not None


@pytest.mark.parametrize(
    ("kind", "reason"), [("kl", "attention_head_dim"), ("dc", "AutoencoderDC"), ("text", "draws pictures from text")]
)
def test_what_no_such_file_can_say_is_not_exported(
    command: CommandLine, tmp_path: Path, kind: str, reason: str
) -> None:
    model = save_text_to_image(tmp_path / "m") if kind == "text" else save_model(tmp_path / "m", kind)
    said = command("models", "export", model, "--single-file", tmp_path / "m.safetensors")
    assert said.code == 6, said.err
    assert reason in " ".join(said.err.split())
    assert not list(tmp_path.glob("*.safetensors*"))


def test_another_noise_schedule_is_not_exported(command: CommandLine, made: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(made / "model", tmp_path / "m"))
    config = model / "scheduler/scheduler_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"prediction_type": "v_prediction"}))
    said = command("models", "export", model, "--single-file", tmp_path / "m.safetensors")
    assert (said.code, "prediction_type" in said.err) == (6, True)


def test_old_names_of_an_autoencoders_attention_are_exported_as_todays(made: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(made / "model", tmp_path / "m"))
    stored = model / "vae/diffusion_pytorch_model.safetensors"
    tensors = load_file(stored)
    for new, old in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")):
        tensors = {name.replace(f"attentions.0.{new}.", f"attentions.0.{old}."): one for name, one in tensors.items()}
    save_file(tensors, stored)
    export_file(model, "m", tmp_path / "m.safetensors")
    assert (tmp_path / "m.safetensors").read_bytes() == (made / "model.safetensors").read_bytes()


def test_onnx_asks_for_its_folder(command: CommandLine, made: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason="onnx is not installed")
    said = command("export", "onnx", made / "model.safetensors", "-o", tmp_path / "onnx")
    assert said.code == 6, said.err
    assert "models import" in said.err
    assert not (tmp_path / "onnx").exists()


def test_nothing_is_written_over(command: CommandLine, made: Path, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    assert command("models", "import", made / "model.safetensors", "--to", tmp_path / "there").code == 2
    there = tmp_path / "there.safetensors"
    there.write_bytes(b"mine")
    assert command("models", "export", made / "model", "--single-file", there).code == 2
    assert there.read_bytes() == b"mine"


def test_the_folder_of_a_hubs_cache_is_the_model_in_it(made: Path, tmp_path: Path) -> None:
    repository = tmp_path / "models--owner--name"
    for commit in ("a" * 40, "b" * 40):
        shutil.copytree(made / "model", repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text("b" * 40)
    assert weights.resolve(str(repository)).path == repository / "snapshots" / ("b" * 40)
