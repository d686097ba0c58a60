"""Exports to ONNX: near enough to PyTorch or not there at all, whole or not there at all, and never another model's."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from command import CommandLine
from tiny_models import save_model

from ip2pbatch.backends import artefact, model_folder, weights
from ip2pbatch.backends.onnx import parity
from ip2pbatch.backends.pytorch import backend as pytorch
from ip2pbatch.errors import ModelError, UsageError

onnx = pytest.importorskip("onnx", reason="the onnx extra is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="the onnx extra is not installed")

from ip2pbatch.backends.onnx import backend as ort  # noqa: E402
from ip2pbatch.backends.onnx import (  # noqa: E402
    export,
    external_weights,
    graphs,
    providers,
)
from ip2pbatch.backends.onnx.fp16 import to_half  # noqa: E402
from ip2pbatch.backends.onnx.providers import Place  # noqa: E402
from ip2pbatch.backends.onnx.traced import Network, networks  # noqa: E402

PLACE = Place()


def network_of(model: Path, name: str) -> Network:
    parts = pytorch.load_parts(model_folder.check(model), torch.float32, torch.float32, torch.device("cpu"))
    return next(one for one in networks(parts) if one.name == name)


def beside(patch: pytest.MonkeyPatch) -> None:
    """Have small networks written as those above 1 GB are: their weights in a file beside the graph."""
    patch.setattr(external_weights, "_LARGE", 1000)
    patch.setattr(external_weights, "_EXTERNAL", 1000)


def run(file: Path, inputs: dict[str, np.ndarray]) -> np.ndarray:
    return onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"]).run(None, inputs)[0]


@pytest.fixture(scope="module")
def sd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model of Stable Diffusion's classes, with a safety checker."""
    return save_model(tmp_path_factory.mktemp("models") / "kl", "kl", safety=True)


@pytest.fixture(scope="module")
def traced(sd: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its UNet as a plain graph."""
    file = tmp_path_factory.mktemp("traced") / "unet.onnx"
    graphs.trace(network_of(sd, "unet"), file, export.OPSET)
    return file


@pytest.fixture(scope="module")
def fused(sd: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its UNet with onnxruntime's own attention."""
    network = network_of(sd, "unet")
    before = [type(one.processor) for one in network.module.modules() if hasattr(one, "processor")]
    file = tmp_path_factory.mktemp("fused") / "unet.onnx"
    graphs.trace(network, file, export.OPSET, fused=True)
    assert [type(one.processor) for one in network.module.modules() if hasattr(one, "processor")] == before
    return file


@pytest.fixture(scope="module")
def for_cuda(fused: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, int]]:
    """Its UNet as the CUDA provider gets it, and how often each fused operator is in it."""
    file = Path(shutil.copyfile(fused, tmp_path_factory.mktemp("cuda") / "unet.onnx"))
    return file, graphs.fuse(file, "unet")


@pytest.fixture(scope="module")
def taesd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("models") / "taesd", "taesd")


@pytest.fixture(scope="module")
def half(taesd: Path, tmp_path_factory: pytest.TempPathFactory) -> artefact.Artefact:
    """An export in fp16."""
    folder = tmp_path_factory.mktemp("exports") / "half"
    return export.export(weights.resolve(str(taesd)), folder, export.Form("fp16"), providers.opener(PLACE), str)


def test_an_export_says_what_it_is_and_how_near_it_is(half: artefact.Artefact, taesd: Path) -> None:
    said = json.loads((half.path / "artefact.json").read_text())
    assert said["model_digest"] == weights.resolve(str(taesd)).digest
    assert (said["precision"], said["graph"], said["opset"], said["format"]) == ("fp16", "plain", 17, 1)
    assert said["versions"].keys() >= {"torch", "diffusers", "onnx", "onnxruntime"}
    assert set(said["networks"]) == {"text_encoder", "unet", "vae_encoder", "vae_decoder", "vae_decoder_fp32"}
    assert said["networks"]["unet"]["inputs"]["sample"] == ["rows", 8, "height", "width"]
    assert all(one["psnr"] >= parity.MIN_PSNR for one in said["networks"].values())
    assert said["networks"]["vae_decoder_fp32"]["max_relative"] <= parity.MAX_RELATIVE
    kinds = Counter(one.data_type for one in onnx.load(half.file("unet")).graph.initializer)
    assert kinds[onnx.TensorProto.FLOAT16] > 20 * kinds[onnx.TensorProto.FLOAT]


def test_fp16_leaves_the_timestep_s_angles_exact(traced: Path, tmp_path: Path) -> None:
    graph = external_weights.read(traced)
    to_half(graph)
    external_weights.write(graph, tmp_path / "half.onnx")
    draw = np.random.default_rng(0)
    shared = {"sample": draw.normal(size=(1, 8, 8, 8)), "text": draw.normal(size=(1, 16, 32))}
    for timestep in (3.0, 981.73):
        inputs = {name: value.astype(np.float32) for name, value in shared.items()}
        inputs["timestep"] = np.array(timestep, np.float32)
        assert parity.compare(run(traced, inputs), run(tmp_path / "half.onnx", inputs)).psnr > 55
    model = onnx.load(tmp_path / "half.onnx")
    makers = {name: node for node in model.graph.node for name in node.output}
    (node,) = (node for node in model.graph.node if node.op_type == "Sin")
    while node.input[0] in makers:  # back to the timestep, which is the graph's own input
        node = makers[node.input[0]]
        assert node.op_type != "Cast" or node.attribute[0].i == onnx.TensorProto.FLOAT
    assert node.input[0] == "timestep"


def test_the_graph_for_cuda_has_the_operators_that_only_cuda_has(for_cuda: tuple[Path, dict[str, int]]) -> None:
    file, found = for_cuda
    # Four transformer blocks, each with two attentions, three norms and a gated feed-forward; 21 group norms, 33
    # convolutions: every one of them fused.
    assert found["MultiHeadAttention"] == 8
    assert found["LayerNormalization"] + found["SkipLayerNormalization"] == 12
    assert found["BiasSplitGelu"] == 4
    assert found["GroupNorm"] + found["SkipGroupNorm"] == 21
    assert found["NhwcConv"] == 33
    left = Counter(node.op_type for node in onnx.load(file).graph.node)
    assert not left.keys() & {"Softmax", "InstanceNormalization", "Conv", "Erf"}


def test_onnxruntime_finds_the_types_of_a_halved_graph_for_cuda_right(
    for_cuda: tuple[Path, dict[str, int]], tmp_path: Path
) -> None:
    graph = external_weights.read(for_cuda[0])
    to_half(graph)
    external_weights.write(graph, tmp_path / "unet.onnx")
    # It looks at types before it looks for kernels, and of those a CPU has not all.
    with pytest.raises(
        onnxruntime.capi.onnxruntime_pybind11_state.NotImplemented, match=r"find kernel for com\.microsoft"
    ):
        onnxruntime.InferenceSession(str(tmp_path / "unet.onnx"), providers=["CPUExecutionProvider"])


def test_fused_attention_is_the_attention_it_replaces(traced: Path, fused: Path) -> None:
    draw = np.random.default_rng(2)
    inputs = {"sample": draw.normal(size=(2, 8, 9, 6)), "text": draw.normal(size=(2, 16, 32)), "timestep": 500.0}
    inputs = {name: np.array(value, np.float32) for name, value in inputs.items()}
    assert parity.compare(run(traced, inputs), run(fused, inputs)).max_relative < 1e-5


def test_large_weights_lie_in_a_file_beside_the_graph(
    traced: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside(monkeypatch)
    external_weights.write(external_weights.read(traced), tmp_path / "unet.onnx")
    assert (tmp_path / "unet.onnx").stat().st_size < (tmp_path / "unet.onnx.data").stat().st_size
    draw = np.random.default_rng(1)
    inputs = {"sample": draw.normal(size=(1, 8, 8, 8)), "text": draw.normal(size=(1, 16, 32)), "timestep": 500.0}
    inputs = {name: np.array(value, np.float32) for name, value in inputs.items()}
    assert np.array_equal(run(traced, inputs), run(tmp_path / "unet.onnx", inputs))
    modes = {path.suffix: path.stat().st_mode for path in tmp_path.iterdir()}
    assert modes[".data"] == modes[".onnx"]  # whoever may read the graph may read its weights


@pytest.fixture(scope="module")
def apart(sd: Path, tmp_path_factory: pytest.TempPathFactory) -> artefact.Artefact:
    """An export in fp16 whose weights lie beside the graphs, as those of a network above 1 GB do."""
    folder = tmp_path_factory.mktemp("exports") / "apart"
    with pytest.MonkeyPatch.context() as patch:
        beside(patch)
        return export.export(weights.resolve(str(sd)), folder, export.Form("fp16"), providers.opener(PLACE), str)


def test_weights_beside_the_graph_belong_to_the_export(apart: artefact.Artefact, sd: Path, tmp_path: Path) -> None:
    found = {str(one["file"]) for one in apart.networks.values()}
    assert {f"{name}.data" for name in found} <= apart.files.keys()
    backend, wanted = ort.load(apart, PLACE), pytorch.load(weights.resolve(str(sd)))
    draw = torch.Generator().manual_seed(3)
    inputs = [torch.randn(shape, generator=draw) for shape in ((2, 4, 8, 8), (2, 16, 32), (2, 4, 8, 8))]
    ours, theirs = (one.predict_noise(inputs[0], torch.tensor(500.0), *inputs[1:]) for one in (backend, wanted))
    assert parity.compare(theirs.numpy(), ours.numpy()).psnr > parity.MIN_PSNR
    folder = Path(shutil.copytree(apart.path, tmp_path / "out"))
    with (folder / "unet/model.onnx.data").open("r+b") as stream:
        stream.write(b"other weights")
    with pytest.raises(ModelError, match=r"unet/model\.onnx\.data is not the file that was exported"):
        ort.load(artefact.read(folder), PLACE)


def test_a_graph_with_its_weights_beside_it_is_fused_like_any_other(
    fused: Path, for_cuda: tuple[Path, dict[str, int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, whole = tmp_path / "unet.onnx", for_cuda
    beside(monkeypatch)
    external_weights.write(external_weights.read(fused), file)
    assert graphs.fuse(file, "unet") == whole[1]
    found = [{one.name: one.raw_data for one in onnx.load(name).graph.initializer} for name in (file, whole[0])]
    assert found[0] == found[1]


def test_a_network_that_is_not_what_it_was_fails_the_export_and_leaves_nothing(
    taesd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoil(network: Network, file: Path, opset: int, *, fused: bool = False) -> None:
        trace(network, file, opset, fused=fused)
        model = onnx.load(file)
        weight = max(model.graph.initializer, key=lambda one: np.prod(one.dims))
        values = onnx.numpy_helper.to_array(weight) * np.float32(1.02)
        weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
        onnx.save(model, file)

    trace = graphs.trace
    monkeypatch.setattr(graphs, "trace", spoil)
    (tmp_path / ".out.partial").mkdir()  # what a killed export left behind
    with pytest.raises(ModelError, match=r"the exported text encoder differs from PyTorch's by .* 0\.001 is allowed"):
        export.export(weights.resolve(str(taesd)), tmp_path / "out", export.Form(), providers.opener(PLACE), str)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_export_leaves_nothing_and_an_older_one_as_it_was(
    half: artefact.Artefact, taesd: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(half.path, tmp_path / "out"))
    before = (folder / "artefact.json").read_bytes()

    def interrupt(text: str) -> None:
        if "unet" in text:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export.export(weights.resolve(str(taesd)), folder, export.Form(), providers.opener(PLACE), interrupt)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (folder / "artefact.json").read_bytes() == before


def test_a_full_disk_ends_an_export_with_a_sentence_and_leaves_nothing(
    command: CommandLine, taesd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(external_weights, "write", full)
    said = command("export", "onnx", taesd, "-o", tmp_path / "out")
    assert said.code == 7
    assert "cannot be written" in said.err
    assert "No space left on device" in said.err
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_something_else_in_it_is_not_replaced(taesd: Path, tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").write_bytes(b"a photo")
    with pytest.raises(UsageError, match="holds something that is not an export"):
        export.export(weights.resolve(str(taesd)), tmp_path, export.Form(), providers.opener(PLACE), str)
    assert (tmp_path / "holiday.jpg").read_bytes() == b"a photo"


@pytest.mark.parametrize(
    ("wish", "reason"),
    [
        ({"model_digest": "0" * 64}, "exported from other weights"),
        ({"precision": "fp32"}, "was exported in fp16, not in fp32"),
    ],
)
def test_another_model_s_export_is_refused(half: artefact.Artefact, wish: dict[str, str], reason: str) -> None:
    asked = {"model_digest": half.model_digest, "precision": "fp16", "graph": "plain"} | wish
    with pytest.raises(ModelError, match=reason) as caught:
        artefact.check(half, **asked)
    assert caught.value.exit_code == 6
    assert "ip2pbatch export onnx" in str(caught.value.hint)


def test_a_changed_file_is_refused(half: artefact.Artefact, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(half.path, tmp_path / "out"))
    shutil.copyfile(folder / "vae/encoder.onnx", folder / "unet/model.onnx")
    with pytest.raises(ModelError, match=r"unet/model\.onnx is not the file that was exported"):
        ort.load(artefact.read(folder), PLACE)


@pytest.mark.parametrize("name", ["../../secret", "/etc/passwd", "unet/other.onnx"])
def test_a_file_outside_the_export_is_never_opened(half: artefact.Artefact, tmp_path: Path, name: str) -> None:
    said = json.loads((half.path / "artefact.json").read_text())
    said["networks"]["unet"]["file"] = name
    (tmp_path / "artefact.json").write_text(json.dumps(said))
    with pytest.raises(ModelError, match="is not a file of the export"):
        artefact.read(tmp_path)


def test_an_export_is_a_model_of_its_own(
    command: CommandLine, half: artefact.Artefact, taesd: Path, tmp_path: Path, shoot: Path
) -> None:
    assert weights.resolve(str(half.path)).digest == weights.resolve(str(taesd)).digest
    arguments = ("edit", shoot / "photos", "-i", "x", "-o", shoot / "out", "--model", half.path)
    said = command(*arguments)
    assert said.code == 6
    assert "--backend onnx" in said.err
    said = command(*arguments, "--backend", "onnx", "--precision", "fp32")
    assert said.code == 6
    assert "was exported in fp16" in said.err


def test_the_safety_checker_goes_with_the_export(sd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "_export_network", lambda *_: {})
    made = export.export(weights.resolve(str(sd)), tmp_path / "out", export.Form(), providers.opener(PLACE), str)
    assert {"safety_checker/model.safetensors", "feature_extractor/preprocessor_config.json"} <= made.files.keys()
    assert not any(name.startswith("unet/") and name.endswith(".safetensors") for name in made.files)


def test_the_command_exports_and_says_how_near(
    command: CommandLine, taesd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "networks", lambda _: [network_of(taesd, "text_encoder")])
    said = command("export", "onnx", taesd, "-o", tmp_path / "out")
    assert said.code == 0, said.err
    assert "text encoder: 1" in said.out
    assert said.out.splitlines()[-1].startswith("exported ")
    assert command("export", "onnx", taesd, "-o", tmp_path / "out", "--precision", "bf16").code == 2
    assert command("export", "onnx", taesd, "-o", tmp_path / "other", "--provider", "cuda").code == 6
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(("precision", "reason"), [("fp32", r"by 0\.0011 of its range"), ("fp16", r"within 34\.9 dB")])
def test_the_thresholds_are_a_thousandth_in_fp32_and_35_db_in_fp16(precision: str, reason: str) -> None:
    good = np.linspace(-3, 5, 1000, dtype=np.float32)  # a range of 8
    wrong = np.where(np.arange(1000) % 2, 1.0, -1.0)
    most = 8e-3 if precision == "fp32" else 8 * 10 ** (-35 / 20)
    parity.require("unet", precision, parity.compare(good, (good + wrong * most * 0.99).astype(np.float32)))
    far = parity.compare(good, (good + wrong * most * (1.1 if precision == "fp32" else 1.01)).astype(np.float32))
    with pytest.raises(ModelError, match=reason) as caught:
        parity.require("unet", precision, far)
    assert caught.value.exit_code == 6


def test_parity_is_as_bad_as_it_gets_for_another_shape_or_no_number() -> None:
    good = np.linspace(-1, 1, 10, dtype=np.float32)
    assert parity.compare(good, good).max_relative == 0
    for bad in (good[:5], np.full(10, np.nan, np.float32)):
        found = parity.compare(good, bad)
        for precision in ("fp32", "fp16"):
            with pytest.raises(ModelError):
                parity.require("unet", precision, found)
