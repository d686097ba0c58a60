"""Model folders that attack, given to the real command: exit 6 with the reason, and nothing of theirs is executed."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import socket
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command import CommandLine
from tiny_models import save_model

from ip2pbatch.backends import weights

UNET, VAE = "unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model"


class Payload:
    """A pickle of this touches the file `mark` when it is read."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model") / "taesd", "taesd")


@pytest.fixture
def model(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "model"))


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """A file that whatever is executed makes."""
    return tmp_path / "executed"


def as_zip(data: bytes) -> bytes:
    """As `torch.save` wraps its pickle."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", data)
    return buffer.getvalue()


def pickled(mark: Path) -> bytes:
    return pickle.dumps(Payload(mark))


def code(mark: Path) -> str:
    return f"open({str(mark)!r}, 'w').close()\nclass Mine: pass\n"


def edit_json(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def header(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Write the autoencoder's safetensors again with another header."""
    file = folder / f"{VAE}.safetensors"
    data = file.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    text = json.dumps(change(json.loads(data[8 : 8 + length]))).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])


def only_pickle(folder: Path, mark: Path) -> None:
    (folder / f"{UNET}.safetensors").unlink()
    (folder / f"{UNET}.bin").write_bytes(as_zip(pickled(mark)))


def pickle_by_safe_name(folder: Path, mark: Path) -> None:
    (folder / f"{UNET}.safetensors").write_bytes(pickled(mark))


def torch_file_by_safe_name(folder: Path, mark: Path) -> None:
    (folder / f"{UNET}.safetensors").write_bytes(as_zip(pickled(mark)))


def pickle_of_the_text_encoder(folder: Path, mark: Path) -> None:
    (folder / "text_encoder/model.safetensors").rename(folder / "text_encoder/pytorch_model.bin")
    (folder / "text_encoder/pytorch_model.bin").write_bytes(pickled(mark))


def checkpoint_beside_no_index(folder: Path, mark: Path) -> None:
    (folder / "model_index.json").unlink()
    (folder / "model.ckpt").write_bytes(pickled(mark))


def sharded_pickle(folder: Path, mark: Path) -> None:
    (folder / f"{UNET}.safetensors").unlink()
    (folder / "unet/shard.bin").write_bytes(pickled(mark))
    index = {"metadata": {}, "weight_map": {"conv_in.weight": "shard.bin"}}
    (folder / f"{UNET}.safetensors.index.json").write_text(json.dumps(index))


def shard_above(folder: Path, mark: Path) -> None:
    sharded_pickle(folder, mark)
    index = {"metadata": {}, "weight_map": {"conv_in.weight": "../../../../etc/passwd.safetensors"}}
    (folder / f"{UNET}.safetensors.index.json").write_text(json.dumps(index))


def shard_absolute(folder: Path, mark: Path) -> None:
    sharded_pickle(folder, mark)
    index = {"metadata": {}, "weight_map": {"conv_in.weight": "/etc/passwd.safetensors"}}
    (folder / f"{UNET}.safetensors.index.json").write_text(json.dumps(index))


def own_pipeline(folder: Path, mark: Path) -> None:
    (folder / "pipeline.py").write_text(code(mark))
    edit_json(folder / "model_index.json", _class_name=["pipeline", "Mine"])


def own_unet(folder: Path, mark: Path) -> None:
    (folder / "unet/mine.py").write_text(code(mark))
    edit_json(folder / "model_index.json", unet=["mine", "Mine"])


def own_module_above(folder: Path, mark: Path) -> None:
    (folder.parent / "evil.py").write_text(code(mark))
    edit_json(folder / "model_index.json", unet=["..evil", "Mine"])


def remote_code(folder: Path, mark: Path) -> None:
    (folder / "text_encoder/mine.py").write_text(code(mark))
    edit_json(
        folder / "text_encoder/config.json", auto_map={"AutoModel": "mine.Mine"}, trust_remote_code=True,
        architectures=["Mine"],
    )  # fmt: skip


def remote_code_of_a_tokenizer(folder: Path, mark: Path) -> None:
    edit_json(
        folder / "tokenizer/tokenizer_config.json", auto_map={"AutoTokenizer": ["owner/evil--mine.Mine", None]},
        trust_remote_code=True,
    )  # fmt: skip


def other_library(folder: Path, mark: Path) -> None:
    edit_json(folder / "model_index.json", unet=["os", "system"])


def length_beyond_the_file(folder: Path, mark: Path) -> None:
    file = folder / f"{VAE}.safetensors"
    file.write_bytes(struct.pack("<Q", 1 << 40) + file.read_bytes()[8:])


def header_that_is_no_json(folder: Path, mark: Path) -> None:
    file = folder / f"{VAE}.safetensors"
    file.write_bytes(struct.pack("<Q", 4) + b"\xff\xfe{[" + file.read_bytes()[8:])


def offsets_beyond_the_file(folder: Path, mark: Path) -> None:
    def change(rows: dict[str, Any]) -> dict[str, Any]:
        last = max((name for name in rows if name != "__metadata__"), key=lambda n: rows[n]["data_offsets"][1])
        rows[last]["data_offsets"] = [0, 1 << 33]
        return rows

    header(folder, change)


def overlapping_tensors(folder: Path, mark: Path) -> None:
    def change(rows: dict[str, Any]) -> dict[str, Any]:
        names = sorted(name for name in rows if name != "__metadata__")
        rows[names[1]] = dict(rows[names[0]])
        return rows

    header(folder, change)


def a_tensor_of_another_shape(folder: Path, mark: Path) -> None:
    def change(rows: dict[str, Any]) -> dict[str, Any]:
        name = next(n for n, row in rows.items() if n != "__metadata__" and len(row["shape"]) == 4)
        rows[name]["shape"] = [*rows[name]["shape"][1:], rows[name]["shape"][0]]
        return rows

    header(folder, change)


def a_kernel_from_the_hub(folder: Path, mark: Path) -> None:
    edit_json(folder / "text_encoder/config.json", _attn_implementation="owner/evil", attn_implementation="owner/evil")


def endless_json(folder: Path, mark: Path) -> None:
    (folder / "unet/config.json").write_text('{"a":' * 100_000)


@pytest.mark.parametrize(
    ("attack", "reason"),
    [
        (only_pickle, "pickle, which is never loaded"),
        (pickle_by_safe_name, "damaged or incomplete"),
        (torch_file_by_safe_name, "damaged or incomplete"),
        (pickle_of_the_text_encoder, "pickle, which is never loaded"),
        (checkpoint_beside_no_index, "pickle, which is never loaded"),
        (sharded_pickle, "out of the model's folder"),
        (shard_above, "out of the model's folder"),
        (shard_absolute, "out of the model's folder"),
        (own_pipeline, "brings its own code"),
        (own_unet, "brings its own code"),
        (own_module_above, "which is not loaded"),
        (remote_code, "brings its own code"),
        (remote_code_of_a_tokenizer, "asks for code of its own"),
        (other_library, "which is not loaded"),
        (length_beyond_the_file, "damaged or incomplete"),
        (header_that_is_no_json, "damaged or incomplete"),
        (offsets_beyond_the_file, "damaged or incomplete"),
        (overlapping_tensors, "damaged or incomplete"),
        (a_tensor_of_another_shape, "cannot be loaded"),
        (a_kernel_from_the_hub, ""),
        (endless_json, "cannot be read"),
    ],
)
def test_an_attack_ends_with_6_and_its_reason_and_nothing_runs(
    command: CommandLine, shoot: Path, model: Path, mark: Path, monkeypatch: pytest.MonkeyPatch,
    attack: Callable[[Path, Path], None], reason: str,
) -> None:  # fmt: skip
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: pytest.fail("asked the network"))
    monkeypatch.setattr(os, "system", lambda *_: pytest.fail("ran a command"))
    attack(model, mark)
    said = command(
        "edit", shoot / "photos/one.jpg", "-i", "make it snow", "-o", shoot / "out", "--model", model, "--size", "64",
        "--steps", "1", "--device", "cpu", "--precision", "fp32",
    )  # fmt: skip
    assert not mark.exists()
    if reason:
        assert said.code == 6, said.err
        assert reason in " ".join(said.err.split())
        assert "hint:" in said.err
        assert not list((shoot / "out").rglob("*.jpg"))


def test_pickles_beside_safe_weights_are_left_alone(command: CommandLine, shoot: Path, model: Path, mark: Path) -> None:
    for name in (f"{UNET}.bin", f"{VAE}.pt", "text_encoder/pytorch_model.bin", "model.ckpt", "optimizer.pth"):
        (model / name).write_bytes(pickled(mark))
    said = command(
        "edit", shoot / "photos/one.jpg", "-i", "make it snow", "-o", shoot / "out", "--model", model, "--size", "64",
        "--steps", "1", "--device", "cpu", "--precision", "fp32",
    )  # fmt: skip
    assert said.code == 0, said.err
    assert not mark.exists()


@pytest.mark.parametrize(
    "name",
    ["../evil.json", "unet/../../evil.json", "/etc/evil.json", "unet//evil.json", "unet/a/../../evil.safetensors",
     "unet/..", "..\\evil.json", "model_index.json/../../evil.json"],
)  # fmt: skip
def test_no_file_name_of_a_repository_leads_out(name: str) -> None:
    assert name not in weights.wanted_files(["model_index.json", "unet/config.json", name])


def test_a_changed_weight_is_another_model_to_its_run_and_its_lock(
    command: CommandLine, shoot: Path, model: Path
) -> None:
    """A flipped byte of a tensor is a fine safetensors file: nobody can tell but by the digest, and that is told."""
    (shoot / "r.yaml").write_text(
        f"model: {model}\nphotos: photos\nedits: [make it snow]\nsize: 64\nsteps: 1\noutput: {{folder: out}}\n"
    )
    flags = ("--device", "cpu", "--precision", "fp32")
    assert command("run", shoot / "r.yaml", *flags).code == 0
    assert command("lock", shoot / "r.yaml").code == 0
    data = bytearray((model / f"{UNET}.safetensors").read_bytes())
    data[-2] ^= 1
    (model / f"{UNET}.safetensors").write_bytes(bytes(data))
    refused = command("run", shoot / "r.yaml", *flags)
    assert refused.code == 2
    assert "model digest" in refused.err
    locked = command("run", shoot / "r.yaml", *flags, "--locked")
    assert locked.code == 4
    assert f"{UNET}.safetensors" in " ".join(locked.err.split())
