"""Checkpoints that attack, and those of training programs: read without running anything of them."""

from __future__ import annotations

import os
import pickle
import shutil
import sys
import types
import zipfile
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command import CommandLine
from safetensors.torch import load_file
from single_files import cache_vocabulary, save_folder

from ip2pbatch.backends.conversion import export_file


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("ckpt")
    export_file(save_folder(root / "model"), "model", root / "model.safetensors")
    cache_vocabulary(root / "cache")
    return root


@pytest.fixture(autouse=True)
def hub(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(made / "cache"))


@pytest.fixture
def tensors(made: Path) -> dict[str, torch.Tensor]:
    return load_file(made / "model.safetensors")


@pytest.fixture
def framework() -> Iterator[Callable[[str, type], type]]:
    """Classes as if by a package that is not installed here, for as long as a file is written."""
    before = dict(sys.modules)

    def make(name: str, base: type = object) -> type:
        module, _, called = name.rpartition(".")
        kind = type(called, (base,), {"__module__": module})
        parts = module.split(".")
        for end in range(1, len(parts) + 1):
            sys.modules.setdefault(".".join(parts[:end]), types.ModuleType(".".join(parts[:end])))
        setattr(sys.modules[module], called, kind)
        return kind

    yield make
    for name in set(sys.modules) - set(before):
        del sys.modules[name]


def test_a_checkpoint_of_lightning_is_imported_and_nothing_of_its_classes_is_needed(
    command: CommandLine, made: Path, tmp_path: Path, tensors: dict[str, torch.Tensor], framework: Any
) -> None:
    callback = framework("pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint")
    config = framework("omegaconf.dictconfig.DictConfig")()
    config.__dict__ |= {
        "_content": defaultdict(dict, a={"b": Path("c")}),
        "_metadata": framework("omegaconf.base.Metadata")(),
    }
    settings = framework("pytorch_lightning.utilities.parsing.AttributeDict", dict)(lr=1e-4)
    torch.save(
        {
            "state_dict": OrderedDict(tensors) | {"model_ema.decay": torch.ones(1)},
            "callbacks": {callback: {"best": np.float64(0.5), "kept": np.arange(3)}}, "hyper_parameters": settings,
            "config": config, "optimizer_states": [{"state": {0: torch.zeros(3)}}], "epoch": 22,
        },
        tmp_path / "old.ckpt",
    )  # fmt: skip
    for name in [name for name in sys.modules if name.startswith(("pytorch_lightning", "omegaconf"))]:
        del sys.modules[name]
    said = command("models", "import", tmp_path / "old.ckpt")
    assert said.code == 0, said.err
    assert "1 tensor that is no part" in said.out
    assert command("models", "export", tmp_path / "old", "--single-file", tmp_path / "new.safetensors").code == 0
    assert (tmp_path / "new.safetensors").read_bytes() == (made / "model.safetensors").read_bytes()


class Payload:
    """Calls a function with arguments when it is read."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


def saved(value: Any, file: Path) -> None:
    torch.save(value, file)


def by_system(mark: Path, tensors: dict[str, torch.Tensor], file: Path) -> None:
    saved({"state_dict": tensors, "callbacks": Payload(os.system, f"touch {mark}")}, file)


def by_eval(mark: Path, tensors: dict[str, torch.Tensor], file: Path) -> None:
    saved({"state_dict": tensors, "a": Payload(eval, f"open({str(mark)!r}, 'w').close()")}, file)


def by_a_path(mark: Path, tensors: dict[str, torch.Tensor], file: Path) -> None:
    saved({"state_dict": tensors, "a": [Payload(Path.touch, mark)]}, file)


def in_a_key(mark: Path, tensors: dict[str, torch.Tensor], file: Path) -> None:
    saved({"state_dict": {Payload(os.mkdir, str(mark)): 1} | tensors}, file)  # type: ignore[dict-item]


def by_getattr(mark: Path, tensors: dict[str, torch.Tensor], file: Path) -> None:
    """os.mkdir, put together of harmless names."""
    saved({"state_dict": tensors, "a": Payload(getattr, Payload(__import__, "os"), "mkdir")}, file)


def in_the_name_of_a_framework(mark: Path, tensors: dict[str, torch.Tensor], file: Path) -> None:
    """A name below an accepted one that would lead to os.system, if anybody looked it up."""
    text = b"\x80\x02cpytorch_lightning.os\nsystem\nX" + len(f"touch {mark}").to_bytes(4, "little")
    text += f"touch {mark}".encode() + b"\x85R."
    as_zip(file, {"archive/data.pkl": text, "archive/version": b"3\n", "archive/byteorder": b"little"})


def in_a_weight(mark: Path, tensors: dict[str, torch.Tensor], file: Path) -> None:
    class Weight(torch.Tensor):
        def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
            return os.mkdir, (str(mark),)

    saved({"state_dict": tensors | {"a": torch.zeros(1).as_subclass(Weight)}}, file)


def a_bare_pickle(mark: Path, tensors: dict[str, torch.Tensor], file: Path) -> None:
    file.write_bytes(pickle.dumps(Payload(Path.touch, mark)))


def of_the_newest_protocol(mark: Path, tensors: dict[str, torch.Tensor], file: Path) -> None:
    torch.save({"a": Payload(Path.touch, mark)}, file, pickle_protocol=4)


def a_network_whole(mark: Path, tensors: dict[str, torch.Tensor], file: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), file)


def as_zip(file: Path, entries: dict[str, bytes], packed: bool = False) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)


def pointing_out(mark: Path, tensors: dict[str, torch.Tensor], file: Path) -> None:
    as_zip(file, {"archive/data.pkl": pickle.dumps({}, 2), "archive/../../executed": b"a"})


def packed(mark: Path, tensors: dict[str, torch.Tensor], file: Path) -> None:
    as_zip(file, {"archive/data.pkl": pickle.dumps({}, 2) + b"\0" * (1 << 20)}, packed=True)


def half_of_it(mark: Path, tensors: dict[str, torch.Tensor], file: Path) -> None:
    saved({"state_dict": tensors}, file)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def few_that_claim_to_be_many(mark: Path, tensors: dict[str, torch.Tensor], file: Path) -> None:
    name = "model.diffusion_model.input_blocks.0.0.weight"
    saved({"state_dict": tensors | {name: torch.zeros(1).expand(1 << 20, 8, 1 << 10, 1 << 10)}}, file)


def no_weights(mark: Path, tensors: dict[str, torch.Tensor], file: Path) -> None:
    saved({"epoch": 3}, file)


@pytest.mark.parametrize(
    ("attack", "reason"),
    [
        (by_system, "system"), (by_eval, "eval"), (by_a_path, "getattr"), (in_a_key, "mkdir"),
        (by_getattr, "__import__"), (in_the_name_of_a_framework, "holds no weights"), (in_a_weight, "mkdir"),
        (a_bare_pickle, "no checkpoint of torch"), (of_the_newest_protocol, "no checkpoint of torch"),
        (a_network_whole, "torch.nn.modules.linear.Linear"), (pointing_out, "points out of it"), (packed, "packed"),
        (half_of_it, "damaged, incomplete"), (few_that_claim_to_be_many, "no plain tensor"),
        (no_weights, "holds no weights"),
    ],
)  # fmt: skip
def test_nothing_of_it_runs_and_it_ends_with_6_and_the_reason(
    command: CommandLine, tmp_path: Path, tensors: dict[str, torch.Tensor],
    attack: Callable[[Path, dict[str, torch.Tensor], Path], None], reason: str,
) -> None:  # fmt: skip
    mark, file = tmp_path / "executed", tmp_path / "model.ckpt"
    attack(mark, tensors, file)
    assert not mark.exists()
    said = command("models", "import", file)
    assert not mark.exists()
    assert said.code == 6, said.err
    assert reason in " ".join(said.err.split())
    assert "hint:" in said.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.ckpt"]


def test_a_checkpoint_as_it_stands_is_no_model_and_the_hint_is_its_import(
    command: CommandLine, shoot: Path, tensors: dict[str, torch.Tensor]
) -> None:
    by_system(shoot / "executed", tensors, shoot / "model.ckpt")
    said = command("edit", shoot / "photos", "-i", "make it snow", "-o", shoot / "out", "--model", shoot / "model.ckpt")
    assert (said.code, (shoot / "executed").exists()) == (6, False)
    assert f"models import {shoot / 'model.ckpt'}" in said.err.replace("\n", "")


def test_a_full_disk_leaves_no_half_folder(
    command: CommandLine, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(made / "model.safetensors", tmp_path / "own.safetensors")
    full = OSError(28, "No space left on device")
    monkeypatch.setattr("safetensors.torch.save_file", lambda *_, **__: (_ for _ in ()).throw(full))
    said = command("models", "import", tmp_path / "own.safetensors")
    assert (said.code, "No space left" in said.err) == (7, True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["own.safetensors"]
