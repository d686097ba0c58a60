"""The backend on OpenVINO: torch's pictures, rows that hang on nothing, and what is said where it cannot be had."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_models import make_picture, save_model

from ip2pbatch.backends import weights
from ip2pbatch.backends.pytorch import backend as pytorch
from ip2pbatch.engine import on_openvino
from ip2pbatch.engine.editor import Editor
from ip2pbatch.errors import MissingError, UsageError
from ip2pbatch.plan.edits import Edit, Guidance, make_edit
from ip2pbatch.plan.tiling import Refinement
from ip2pbatch.run.engine import FullSize, OutOfMemory, Source
from ip2pbatch.run.machine import Machine, Precision, Provider

pytest.importorskip("onnx", reason="the openvino extra is not installed")
openvino = pytest.importorskip("openvino", reason="the openvino extra is not installed")

from ip2pbatch.backends.openvino import compiling  # noqa: E402
from ip2pbatch.backends.openvino.backend import OpenVinoBackend  # noqa: E402
from ip2pbatch.backends.openvino.compiling import Place  # noqa: E402


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> weights.ModelFolder:
    return weights.resolve(str(save_model(tmp_path_factory.mktemp("model") / "kl", "kl", safety=True)))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def backend(folder: weights.ModelFolder, cache: Path) -> OpenVinoBackend:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(cache))
        return on_openvino.load(folder, Place(threads=2), "fp32", str, checker=True)


def edit_of(seed: int, **scales: float) -> Edit:
    guidance = Guidance(scales.get("text", 5.0), scales.get("image", 1.5))
    return make_edit(f"p{seed}", f"make it {seed}", guidance, seed, steps=2, sampler="euler_a", size=(64, 48))


def test_pictures_are_those_of_torch(folder: weights.ModelFolder, backend: OpenVinoBackend) -> None:
    edits = [edit_of(1), edit_of(2, image=1.0), edit_of(3, text=0.0)]
    sources = [Source(pixels=make_picture(seed, (64, 48))) for seed in range(3)]
    ours, theirs = Editor(backend), Editor(pytorch.load(folder, "cpu", "fp32"))
    (alone,) = ours.edit(edits[:1], sources[:1])
    found, wanted = ours.edit(edits, sources), theirs.edit(edits, sources)
    for one, other in zip(found, wanted, strict=True):
        assert one.state == other.state == "done"
        assert np.abs(one.image.astype(int) - other.image).max() <= 1
    assert np.array_equal(alone.image, found[0].image)


def test_a_picture_is_refined_as_on_torch(folder: weights.ModelFolder, backend: OpenVinoBackend) -> None:
    full, everywhere = (150, 110), np.full((48, 64), 255, np.uint8)
    edit = dataclasses.replace(edit_of(1), refine=Refinement("photo", full, "all", 0.5))
    source = Source(full=FullSize(make_picture(1, full), make_picture(2, full), everywhere))
    ours, theirs = Editor(backend), Editor(pytorch.load(folder, "cpu", "fp32"))
    (found,), (wanted,) = (engine.edit([edit], [source]) for engine in (ours, theirs))
    assert (found.state, found.detail) == ("done", wanted.detail)
    assert np.abs(found.image.astype(int) - wanted.image).max() <= 2  # of two scales, each rounded to bytes
    assert np.abs(found.image[..., :3].astype(int) - source.full.lifted).max() > 5


def test_a_row_has_the_same_bits_in_every_place_and_company(backend: OpenVinoBackend) -> None:
    draw = torch.Generator().manual_seed(2)
    shape = (7, backend.latent_channels, 8, 8)
    latents, image = torch.randn(shape, generator=draw), torch.randn(shape, generator=draw)
    words, timestep = backend.encode_text(["x"]).shape[1:], torch.tensor(321.0)
    text = torch.randn((7, *words), generator=draw)
    here = backend.predict_noise(latents[:6], timestep, text[:6], image[:6])
    order = [6, 3, 1, 4, 5, 0]
    there = backend.predict_noise(latents[order], timestep, text[order], image[order])
    assert torch.equal(here[0], there[5])
    assert torch.equal(here[[3, 1, 4, 5]], there[1:5])


def test_memory_that_runs_out_is_the_condition_that_a_run_answers() -> None:
    for said in (RuntimeError("[GPU] CL_OUT_OF_RESOURCES"), RuntimeError("std::bad_alloc"), MemoryError()):
        with pytest.raises(OutOfMemory), compiling.memory():
            raise said
    with pytest.raises(RuntimeError, match="another"), compiling.memory():
        raise RuntimeError("another")


def test_a_device_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling, "devices", lambda: ("CPU", "GPU.0", "GPU.1"))
    assert compiling.choose("gpu", 1).called == "GPU"
    assert compiling.choose("gpu:1", 1).called == "GPU.1"
    for missing in ("npu", "gpu:2"):
        with pytest.raises(MissingError, match=rf"OpenVINO finds no {missing} here \(it finds CPU, GPU.0, GPU.1\)"):
            compiling.choose(missing, 1)


@pytest.mark.parametrize(
    ("machine", "said"),
    [
        (Machine("openvino", precision=Precision.FP16), "fp16 is not for a CPU"),
        (Machine("openvino", provider=Provider.CPU), "--provider is of the onnx backend"),
        (Machine("openvino", without=("text-memory",)), "--without leaves out steps of the torch backend"),
    ],
)
def test_flags_of_others_are_refused(folder: weights.ModelFolder, machine: Machine, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        on_openvino.choose(str(folder.path), machine, safety=False, edits=(), note=str)


def test_without_the_extra_one_line_says_what_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingError) as caught:
        on_openvino.place_of(Machine("openvino"))
    assert caught.value.hint == "pip install 'ip2pbatch[openvino]'"
    (found,) = on_openvino.findings()
    assert (found.value, found.state) == ("missing", "note")


def test_doctor_says_what_was_found_and_that_torch_is_taken_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling, "devices", lambda: ("CPU", "GPU"))
    (found,) = on_openvino.findings()
    assert (found.value, found.state) == ("CPU, GPU", "ok")
    assert "unasked torch is taken" in found.why
    assert found.why.endswith("gpu and npu: not run by us yet")
    assert Machine().backend == "torch"


def test_bitwise_is_the_same_from_what_was_compiled_before_and_in_other_company(
    backend: OpenVinoBackend, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    edits, sources = (
        [edit_of(1), edit_of(2, image=1.0)],
        [Source(pixels=make_picture(seed, (64, 48))) for seed in (1, 2)],
    )
    made = Editor(backend, determinism="bitwise").edit(edits, sources)
    (kept,) = (cache / "ip2pbatch" / "openvino").iterdir()
    version, _, digest = kept.name.rpartition("-")
    assert openvino.__version__.startswith(version)
    assert backend.artefact.model_digest.startswith(digest)
    before = {file: file.stat().st_mtime_ns for file in kept.rglob("*.blob")}
    assert before
    again = OpenVinoBackend(backend.artefact, Place(threads=2), "fp32", str, checker=False)
    (alone,) = Editor(again, determinism="bitwise").edit(edits[1:], sources[1:])
    assert np.array_equal(alone.image, made[1].image)
    assert before.items() <= {file: file.stat().st_mtime_ns for file in kept.rglob("*.blob")}.items()


def test_what_was_compiled_in_one_precision_is_not_taken_for_another(
    folder: weights.ModelFolder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, backend: OpenVinoBackend
) -> None:
    if not compiling.has_bf16():
        pytest.skip("this CPU has no bf16")
    place = Place(threads=2)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(on_openvino, "_exported", lambda *_: backend.artefact)
    edits, sources = [edit_of(1)], [Source(pixels=make_picture(1, (64, 48)))]

    def made(precision: str) -> list[Path]:
        engine = Editor(on_openvino.load(folder, place, precision, str, checker=False))
        assert engine.edit(edits, sources)[0].state == "done"
        return sorted(tmp_path.rglob("*.blob"))

    (first, then) = made("fp32"), made("bf16")
    assert set(first) < set(then)
    assert made("fp32") == then
