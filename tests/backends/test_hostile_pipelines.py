"""Folders of editing pipelines that attack or are torn: refused with the reason, exit 6, and nothing of theirs runs."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command import CommandLine
from tiny_editors import save_editor

from ip2pbatch.backends import weights
from ip2pbatch.errors import ModelError

TRANSFORMER = "transformer/diffusion_pytorch_model"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_editor(tmp_path_factory.mktemp("model") / "klein", "klein")


@pytest.fixture
def model(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "model"))


def edit_json(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def outside_the_list(folder: Path) -> None:
    edit_json(folder / "model_index.json", _class_name="Flux2Pipeline")


def own_pipeline(folder: Path) -> None:
    (folder / "pipeline.py").write_text("raise SystemExit")
    edit_json(folder / "model_index.json", _class_name=["pipeline", "Flux2KleinPipeline"])


def own_code(folder: Path) -> None:
    (folder / "transformer/modeling.py").write_text("raise SystemExit")


def remote_code(folder: Path) -> None:
    edit_json(folder / "text_encoder/config.json", auto_map={"AutoModel": "modeling.Mine"})


def remote_code_of_a_tokenizer(folder: Path) -> None:
    edit_json(folder / "tokenizer/tokenizer_config.json", auto_map={"AutoTokenizer": ["tokenizing.Mine", None]})


def kernel_of_the_hub(folder: Path) -> None:
    edit_json(folder / "text_encoder/config.json", text_config={"attn_implementation": "owner/evil"})


def other_library(folder: Path) -> None:
    edit_json(folder / "model_index.json", transformer=["mine", "Flux2Transformer2DModel"])


def other_class(folder: Path) -> None:
    edit_json(folder / "model_index.json", text_encoder=["transformers", "AutoModel"])


def one_more_component(folder: Path) -> None:
    edit_json(folder / "model_index.json", helper=["mine", "Helper"])


def sharded(folder: Path, shard: str) -> None:
    (folder / f"{TRANSFORMER}.safetensors").rename(folder / f"{TRANSFORMER}-00001-of-00002.safetensors")
    names = {"a": "diffusion_pytorch_model-00001-of-00002.safetensors", "b": shard}
    (folder / f"{TRANSFORMER}.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))


def half_a_download(folder: Path) -> None:
    sharded(folder, "diffusion_pytorch_model-00002-of-00002.safetensors")


def half_a_shard(folder: Path) -> None:
    half_a_download(folder)
    whole = (folder / f"{TRANSFORMER}-00001-of-00002.safetensors").read_bytes()
    (folder / f"{TRANSFORMER}-00002-of-00002.safetensors").write_bytes(whole[: len(whole) // 2])


def shard_above(folder: Path) -> None:
    sharded(folder, "../../../etc/passwd.safetensors")


def only_a_pickle(folder: Path) -> None:
    (folder / f"{TRANSFORMER}.safetensors").rename(folder / f"{TRANSFORMER}.bin")


def absurd_header(folder: Path) -> None:
    (folder / f"{TRANSFORMER}.safetensors").write_bytes(struct.pack("<Q", 1 << 62) + b"{}")


def quantised(folder: Path) -> None:
    edit_json(folder / "transformer/config.json", quantization_config={"quant_method": "bitsandbytes"})


def no_tokenizer(folder: Path) -> None:
    shutil.rmtree(folder / "tokenizer")


@pytest.mark.parametrize(
    ("attack", "reason"),
    [
        (outside_the_list, "is a Flux2Pipeline, not an InstructPix2Pix, FLUX.2 klein"),
        (own_pipeline, "brings its own code"),
        (own_code, "brings its own code"),
        (remote_code, "asks for code of its own (auto_map)"),
        (remote_code_of_a_tokenizer, "asks for code of its own (auto_map)"),
        (kernel_of_the_hub, "asks for code of its own (attn_implementation: owner/evil)"),
        (other_library, "transformer is mine.Flux2Transformer2DModel, which is not loaded"),
        (other_class, "text_encoder is transformers.AutoModel, which is not loaded"),
        (one_more_component, "helper is mine.Helper, which is not loaded"),
        (half_a_download, "damaged or incomplete"),
        (half_a_shard, "damaged or incomplete"),
        (shard_above, "out of the model's folder"),
        (only_a_pickle, "a pickle, which is never loaded"),
        (absurd_header, "damaged or incomplete"),
        (quantised, "these weights are quantised"),
        (no_tokenizer, "has no folder tokenizer"),
    ],
)
def test_an_attack_is_refused_before_anything_is_loaded(
    model: Path, attack: Callable[[Path], None], reason: str
) -> None:
    attack(model)
    with pytest.raises(ModelError) as caught:
        weights.resolve(str(model))
    assert reason in str(caught.value)
    assert caught.value.hint
    assert caught.value.exit_code == 6


@pytest.mark.parametrize("where", ["pipeline.py", "transformer/modeling.py", "tokenizer/tokenizing.py"])
def test_code_that_a_folder_brings_is_not_run(command: CommandLine, shoot: Path, model: Path, where: str) -> None:
    mark = shoot / "executed"
    (model / where).write_text(f"open({str(mark)!r}, 'w').close()")
    edit_json(model / "text_encoder/config.json", auto_map={"AutoModel": f"{Path(where).stem}.Mine"})
    said = command("edit", shoot / "photos/one.jpg", "-i", "make it snow", "-o", shoot / "out", "--model", model)
    assert said.code == 6, said.err
    assert "brings its own code" in " ".join(said.err.split())
    assert not mark.exists()
    assert not (shoot / "out").exists()


def test_a_weight_that_is_missing_ends_with_6(command: CommandLine, shoot: Path, model: Path) -> None:
    edit_json(model / "transformer/config.json", num_single_layers=2)
    said = command(
        "edit", shoot / "photos/one.jpg", "-i", "make it snow", "-o", shoot / "out", "--model", model, "--size", "64",
        "--steps", "1", "--device", "cpu", "--precision", "fp32",
    )  # fmt: skip
    assert said.code == 6, said.err
    assert "weights that its config.json asks for" in " ".join(said.err.split())
    assert not list((shoot / "out").rglob("*.jpg"))


def test_a_pipeline_s_components_are_fetched_and_nothing_else() -> None:
    from ip2pbatch.plan.families import FAMILIES

    names = ["model_index.json", "flux-2-klein-4b.safetensors", "transformer/config.json", "unet/config.json"]
    names += [f"{TRANSFORMER}-0000{part}-of-00002.safetensors" for part in (1, 2)]
    names += [f"{TRANSFORMER}.safetensors.index.json", f"{TRANSFORMER}.bin", "tokenizer/chat_template.jinja"]
    names += ["text_encoder/model.safetensors", "text_encoder/modeling.py", "README.md"]
    left = {"flux-2-klein-4b.safetensors", "unet/config.json", f"{TRANSFORMER}.bin", "README.md"}
    assert set(weights.wanted_files(names, FAMILIES["klein"])) == {*names} - left - {"text_encoder/modeling.py"}
