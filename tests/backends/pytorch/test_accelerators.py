"""Accelerators that we have none of: torch answers as with one (see faked_cuda.py), and the CPU does the work."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from command import CommandLine
from faked_cuda import faked_accelerator, faked_cuda
from test_faked_gpu import edit, load
from tiny_models import save_model

from ip2pbatch.backends.pytorch import accelerators, steps
from ip2pbatch.backends.weights import ModelFolder
from ip2pbatch.engine import on_torch, pipelines, precision
from ip2pbatch.engine.bench import gate
from ip2pbatch.errors import MissingError, UsageError
from ip2pbatch.run.devices.processes import environment
from ip2pbatch.run.engine import OutOfMemory
from ip2pbatch.run.machine import Machine, device_of, devices_of

OTHERS = {"mps": "mps", "xpu": "xpu", "rocm": "cuda"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model") / "kl", "kl")


@pytest.mark.parametrize("kind", OTHERS)
def test_pictures_are_those_of_the_cpu_by_steps_that_are_no_maker_s_own(model: Path, kind: str) -> None:
    expected = edit(load(model, "cpu", "fp32", []), 2)
    with faked_accelerator(kind):
        backend = load(model, OTHERS[kind], "fp32")
        assert (backend.device.type, backend.provider) == (OTHERS[kind],) * 2
        assert backend.parts.vae.dtype == torch.float32
        assert gate.compare(expected, edit(backend, 2)).psnr > 60
        assert {"text-memory", "time-table", "shared-head"} <= set(backend.steps)
        of_nvidia = {"channels-last", "plain-tokens", "fused-blocks", "cudnn-attention", "cuda-graphs"}
        said = {backend.site.refused[name] for name in of_nvidia}
        assert said == {f"{accelerators.called(OTHERS[kind])} was not run by us yet"}
        assert steps.compile_late(backend.site) in said
        assert backend.limits.overlaps
        half = load(model, OTHERS[kind], "fp16").parts
        assert (half.unet.dtype, half.vae.dtype) == (torch.float16, torch.float32)


@pytest.mark.parametrize("kind", OTHERS)
def test_names_memory_and_precision_are_asked_of_the_device(
    kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    name = OTHERS[kind]
    measured: list[str] = []

    def psnr(opened: Callable[[str], object], cheaper: str) -> float:
        measured.append(cheaper)
        return 47.0

    monkeypatch.setattr(precision, "measure", psnr)
    with faked_accelerator(kind, gibibytes=16, count=1):
        every = ("mps",) if kind == "mps" else (f"{name}:0",)
        assert accelerators.available() == on_torch.devices() == every
        assert accelerators.default() == name
        device = accelerators.known(name)
        assert accelerators.memory_of(device) == 16 << 30
        if kind != "rocm":
            assert accelerators.free_memory(device) == 15 << 30
        for _ in range(2):
            assert precision.choose_precision(ModelFolder(Path(), "m", "", "d"), name)[0] == "fp16"
        assert measured == ["fp16"]
        with pytest.raises(MissingError, match=r"no device \w+:1 here \(1 found\)"):
            accelerators.known(f"{name}:1")
        with pytest.raises(MissingError, match=r"no device \w+ here \(0 found\)"):
            accelerators.known("xpu" if name == "mps" else "mps")


def test_a_mac_of_an_older_system_has_no_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = ModelFolder(Path(), "m", "", "d")
    for known in (True, False):
        monkeypatch.setattr(torch.backends.mps, "is_macos_or_newer", lambda *_, known=known: known)
        assert pipelines.precision(folder, "mps") == ("bf16" if known else "fp32")
    with faked_accelerator("xpu"):
        assert pipelines.precision(folder, "xpu:0") == "bf16"


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("mps", "MPS backend out of memory (MPS allocated: 9.05 GB, other allocations: 1 GB, max allowed: 10.1 GB)"),
        ("xpu", "level_zero backend failed with error: 39 (UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY)"),
        ("rocm", "HIP error: out of memory"),
    ],
)
def test_each_says_that_memory_ran_out_in_words_of_its_own(
    model: Path, kind: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with faked_accelerator(kind) as card:
        backend = load(model, OTHERS[kind], "fp32")
        monkeypatch.setattr(backend.site, "staged", lambda *_: (_ for _ in ()).throw(RuntimeError(words)))
        with pytest.raises(OutOfMemory):
            edit(backend, 1)
        assert card.asked[-1] == "empty cache"


def test_what_was_not_run_by_us_is_said_before_and_by_doctor(model: Path) -> None:
    with faked_accelerator("mps"):
        found = {one.topic: one for one in on_torch.findings()}
        assert (found["mps"].state, found["mps"].why) == ("note", "MPS was not run by us yet")
        assert found["device used"].value == "mps"
        notes: list[str] = []
        spec, _ = on_torch.choose(str(model), Machine.of(precision="fp32"), safety=False, edits=(), note=notes.append)
        assert (spec.provider, spec.precision) == ("mps", "fp32")
        assert any("MPS was not run by us yet" in note for note in notes)
    with faked_cuda():
        assert "not run" not in " ".join(one.why for one in on_torch.findings())


def test_devices_go_by_torch_s_names_and_a_worker_sees_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [device_of(text) for text in ("mps", "xpu", "xpu:1")] == ["mps", "xpu", "xpu:1"]
    assert devices_of("mps") == ("mps",)
    assert devices_of("xpu,xpu:1") == ("xpu:0", "xpu:1")
    for text in ("mps:1", "xpu:", "rocm"):
        with pytest.raises(UsageError, match="is not a device"):
            device_of(text)
    with pytest.raises(UsageError, match="mps is not a device"):
        device_of("mps", "onnx")
    monkeypatch.delenv("ZE_AFFINITY_MASK", raising=False)
    assert environment("xpu:1", 1) == {"ZE_AFFINITY_MASK": "1"}
    assert environment("mps", 1) == {}


def test_an_accelerator_that_is_not_here_is_missing(command: CommandLine, shoot: Path) -> None:
    flags = ("edit", shoot / "photos", "-i", "x", "--model", "tiny", "-o", shoot / "out", "--precision", "fp32")
    said = command(*flags, "--device", "mps")
    assert (said.code, "there is no device mps here" in said.err) == (6, True), said.err
