"""The branches for a GPU, on a machine that has none: torch answers as with one card (see faked_cuda.py).

What only a GPU can show is in test_on_gpu.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch._dynamo
from command import CommandLine
from faked_cuda import NAME, Card, faked_cuda
from test_steps import STRANGERS, THREES, TWOS, predict
from tiny_models import make_picture, save_model

from ip2pbatch.backends.pytorch import backend as pytorch
from ip2pbatch.backends.pytorch import steps
from ip2pbatch.backends.pytorch.accelerators import memory_of
from ip2pbatch.backends.pytorch.steps import compiled
from ip2pbatch.backends.pytorch.steps.cuda_graphs import CannotRecord, Graphs
from ip2pbatch.backends.weights import ModelFolder
from ip2pbatch.engine import call_cost as calls
from ip2pbatch.engine import tuning
from ip2pbatch.engine.bench import gate, rates, suites
from ip2pbatch.engine.editor import Editor
from ip2pbatch.engine.precision import choose_precision
from ip2pbatch.errors import MissingError
from ip2pbatch.plan.edits import Edit, Guidance, make_edit
from ip2pbatch.run.engine import OutOfMemory, Source

SIZE = (64, 48)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {kind: save_model(root / kind, kind, safety=kind == "kl") for kind in ("kl", "dc")}


@pytest.fixture
def card() -> Iterator[Card]:
    with faked_cuda() as one:
        yield one


def load(folder: Path, device: str = "cuda", precision: str = "fp16", wanted: object = None) -> pytorch.TorchBackend:
    return pytorch.load(ModelFolder(folder, "test", "digest", ""), device, precision, wanted)  # type: ignore[arg-type]


def ask(photo: int, steps_: int = 3) -> Edit:
    return make_edit(f"p{photo}", "make it snow", Guidance(5, 1.5), photo, steps=steps_, sampler="euler_a", size=SIZE)


def edit(backend: pytorch.TorchBackend, photos: int = 3) -> list[np.ndarray]:
    sources = [Source(pixels=make_picture(photo, SIZE)) for photo in range(photos)]
    results = Editor(backend).edit([ask(photo) for photo in range(photos)], sources)
    assert [result.state for result in results] == ["done"] * photos
    return [result.image for result in results]


def test_a_model_loads_on_cuda_whether_or_not_the_card_is_numbered(models: dict[str, Path], card: Card) -> None:
    for name in ("cuda", "cuda:0"):
        backend = load(models["kl"], name)
        assert (backend.device, backend.provider) == (torch.device("cuda:0"), "cuda")
        assert backend.parts.unet.dtype == torch.float16
        assert backend.parts.text_encoder.dtype == torch.float16
        assert backend.parts.vae.dtype == torch.float32  # as diffusers saves it, its file says force_upcast
    assert load(models["kl"], "cuda", "fp32").parts.vae.dtype == torch.float32
    with pytest.raises(MissingError, match="there is no device cuda:1 here"):
        load(models["kl"], "cuda:1")


def test_memory_is_what_this_process_may_take(card: Card) -> None:
    assert memory_of(torch.device("cuda:0")) == 80 << 30
    card.share = 0.25
    assert memory_of(torch.device("cuda:0")) == 20 << 30


def test_precision_is_half_without_a_measurement(models: dict[str, Path], card: Card) -> None:
    assert choose_precision(ModelFolder(models["kl"], "test", "digest", ""), "cuda:0")[0] == "fp16"


@pytest.mark.parametrize("kind", ["kl", "dc"])
def test_pictures_are_those_of_the_cpu_and_noise_comes_by_pinned_memory(
    models: dict[str, Path], kind: str, card: Card
) -> None:
    expected = edit(load(models[kind], "cpu", "fp32", []))
    likeness = gate.compare(expected, edit(load(models[kind])))
    assert likeness.psnr > 45
    assert card.asked.count("record thread_local") == 4  # head and tail of the UNet, the autoencoder's two ways
    assert card.asked.count("replay") == 3 + 3 + 3 * 2  # head and tail a step, and each photo's way in and out
    assert card.pinned == 3 + 1  # photos and the first noise; the sampler's is drawn where its tensors really lie


@pytest.mark.parametrize("kind", ["kl", "dc"])
def test_every_step_that_needs_no_triton_is_as_exact_as_it_says(models: dict[str, Path], kind: str, card: Card) -> None:
    plain = load(models[kind], precision="fp32", wanted=[])
    assert plain.site.applied == []
    wanted = {rows: predict(plain, rows) for rows in (THREES, TWOS, STRANGERS)}
    for step in steps.choose(None):
        backend = load(models[kind], precision="fp32", wanted=[step.name])
        for rows, expected in wanted.items():
            found = predict(backend, rows)
            assert (found - expected).abs().max() <= step.tolerance * expected.abs().max(), step.name


def test_weights_have_their_channels_innermost(models: dict[str, Path], card: Card) -> None:
    parts = load(models["kl"]).parts
    for network in (parts.unet, parts.vae):
        kernels = [one.weight for one in network.modules() if isinstance(one, torch.nn.Conv2d)]
        assert all(one.is_contiguous(memory_format=torch.channels_last) for one in kernels)


def test_two_batches_are_under_way_at_once_and_read_in_order(models: dict[str, Path], card: Card) -> None:
    backend = load(models["kl"])
    assert backend.limits.overlaps
    editor = Editor(backend)
    sources = [Source(pixels=make_picture(photo, SIZE)) for photo in range(3)]
    pending = [editor.begin([ask(photo)], [sources[photo]]) for photo in range(3)]
    found = [one()[0].image for one in pending]
    assert all((a == b).all() for a, b in zip(found, edit(backend), strict=True))


@pytest.mark.parametrize(
    "words",
    [
        "CUDA out of memory. Tried to allocate 2 GiB", "CUDA error: out of memory",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED", "GET was unable to find an engine to execute this computation",
    ],
)  # fmt: skip
def test_every_way_to_say_that_memory_ran_out_is_one_and_recordings_are_let_go(
    models: dict[str, Path], card: Card, monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    backend = load(models["kl"], precision="fp32")
    expected = predict(backend, THREES)
    kind = torch.cuda.OutOfMemoryError if "Tried" in words else RuntimeError
    with monkeypatch.context() as here:
        here.setattr(backend.site, "staged", lambda *_: (_ for _ in ()).throw(kind(words)))
        with pytest.raises(OutOfMemory):
            predict(backend, THREES)
    assert card.asked[-1] == "empty cache"
    before = card.asked.count("record thread_local")
    assert torch.equal(predict(backend, THREES), expected)
    assert card.asked.count("record thread_local") == before + 2


def test_another_fault_is_not_taken_for_it(
    models: dict[str, Path], card: Card, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = load(models["kl"])
    monkeypatch.setattr(backend.site, "staged", lambda *_: (_ for _ in ()).throw(RuntimeError("device-side assert")))
    with pytest.raises(RuntimeError, match="device-side assert"):
        predict(backend, THREES)


def test_a_stage_that_cannot_be_recorded_runs_kernel_by_kernel(
    models: dict[str, Path], card: Card, caplog: pytest.LogCaptureFixture
) -> None:
    asked: list[bool] = []

    def stage(x: torch.Tensor) -> tuple[torch.Tensor]:
        asked.append(card.recording)
        if card.recording:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return (2 * x,)

    graphs = Graphs()
    run = graphs.around(stage)
    for value in (1.0, 2.0):
        assert run(torch.full((3,), value))[0].tolist() == [2 * value] * 3
    assert asked.count(True) == 1
    assert not card.recording
    assert "is not recorded" in caplog.text
    graphs.clear()
    assert run(torch.ones(2))[0].tolist() == [2.0, 2.0]
    assert asked.count(True) == 2


def test_a_recorder_says_why_it_could_not(card: Card) -> None:
    from ip2pbatch.backends.pytorch.steps.cuda_graphs import Recorder

    def syncs(x: torch.Tensor) -> tuple[torch.Tensor]:
        if card.recording:
            raise RuntimeError("operation not permitted when stream is capturing\nmore of it")
        return (x,)

    with pytest.raises(CannotRecord, match=r"^operation not permitted when stream is capturing$"):
        Recorder()(syncs, [torch.ones(2)])


def test_row_counts_are_measured_as_a_run_works_and_leave_no_recordings(
    models: dict[str, Path], card: Card, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = load(models["kl"])
    told: list[tuple[int, int]] = []
    staged = backend.site.staged

    def noting(sample: torch.Tensor, timestep: torch.Tensor, text: torch.Tensor, rows: object) -> torch.Tensor:
        assert not timestep.is_cuda  # asked of a GPU, its number would wait for all that was asked before
        told.append((len(sample), len(set(rows))))  # type: ignore[arg-type]
        return staged(sample, timestep, text, rows)  # type: ignore[misc, arg-type]

    monkeypatch.setattr(backend.site, "staged", noting)
    monkeypatch.setattr(tuning, "_MOST", 12)
    editor = Editor(backend, safety=False)
    notes = tuning.tune_batch(editor, backend, [ask(0)], "digest")
    assert len(notes) == 1
    assert {rows for rows, _ in told} == {3, 6, 12}
    assert all(alike == rows for rows, alike in told if rows == 12)
    before = card.asked.count("record thread_local")
    edit(backend, 1)
    assert card.asked.count("record thread_local") == before + 4


def test_a_call_is_timed_between_the_ends_of_calls_on_a_full_queue(models: dict[str, Path], card: Card) -> None:
    backend = load(models["kl"])
    before = len(card.asked)
    assert calls.seconds_of_call(backend, SIZE, 6, repeats=4) > 0
    asked = [what for what in card.asked[before:] if "event" in what]
    assert asked == ["event"] * 5 + ["wait for event"]
    rate = rates.unet_rate(backend, SIZE, 6, 10**9, 100.0)
    assert rate.tflops == pytest.approx(6 * 10**9 / rate.seconds / 1e12)


def test_compiled_code_is_made_after_row_counts_were_measured(
    models: dict[str, Path], card: Card, command: CommandLine, shoot: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    tune, late = tuning.tune_batch, steps.compile_late
    monkeypatch.setattr(tuning, "tune_batch", lambda *given: order.append("tune") or tune(*given))
    monkeypatch.setattr(tuning, "_MOST", 6)
    monkeypatch.setattr(steps, "compile_late", lambda site: order.append("compile") or late(site))
    monkeypatch.setattr(compiled, "why_no_compiler", lambda _: "")
    monkeypatch.setattr(torch, "compile", lambda stage, **_: stage)
    said = command(
        "edit", shoot / "photos/one.jpg", "-i", "make it winter", "-o", shoot / "out", "-m", models["kl"],
        "--compile", "on", "--batch", "auto", "--size", "64", "--steps", "2", "--device", "cuda",
    )  # fmt: skip
    assert said.code == 0, said.err
    assert order == ["tune", "compile"]


def test_more_shapes_than_torch_s_own_limit_are_compiled(tmp_path: Path) -> None:
    limits: list[int] = []

    def compiler(stage: object, **_: object) -> object:
        def made(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
            limits.append(torch._dynamo.config.recompile_limit)
            return tensors

        return made

    own = torch._dynamo.config.recompile_limit
    run = compiled.Compiled(compiled.Artefacts(tmp_path, {}), {}, compiler).around(lambda x: (x,))  # type: ignore[arg-type]
    for size in range(1, 12):
        run(torch.zeros(size))
        run(torch.zeros(size))
    assert limits[::2] == [512] * 11
    assert limits[1::2] == [own] * 11


def test_the_bench_runs_on_a_card_and_keeps_a_file_for_it(
    command: CommandLine, card: Card, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = {
        name: replace(
            suites.SUITES[name], model="small", count=2, steps=2, long_side=64, megapixels=0.01,
            rows=(3,) if name == "gpu-rate" else (),
            contenders=("diffusers:fp16", "ours:fp16+auto-batch") if name == "gpu-folder" else ("ours:fp16",),
        )
        for name in ("gpu-folder", "gpu-rate")
    }  # fmt: skip
    monkeypatch.setattr(suites, "SUITES", {**suites.SUITES, **small})
    monkeypatch.setattr(tuning, "_MOST", 6)
    monkeypatch.setattr(rates, "device_rates", lambda device, precision: {"a product": 1e6})
    for name in small:
        said = command("bench", name, "--results", tmp_path / "results")
        assert said.code == 0, said.err
        assert NAME in said.out
    names = sorted(file.name for file in (tmp_path / "results").iterdir())
    assert names == ["gpu-folder-faked-gpu-80gb.json", "gpu-rate-faked-gpu-80gb.json"]


class Network(torch.nn.Module):
    """Notes where it is sent."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[str] = []

    def to(self, where: object) -> Network:
        self.sent.append(str(where))
        return self


@pytest.mark.parametrize(
    ("gigabytes", "share", "little"),
    [(4, 1.0, True), (6, 1.0, True), (8, 1.0, False), (141, 1.0, False), (141, 4 / 141, True)],
)
def test_a_gpu_of_little_memory_holds_the_other_networks_only_while_they_work(
    gigabytes: int, share: float, little: bool, monkeypatch: pytest.MonkeyPatch, card: Card
) -> None:
    card.gibibytes, card.share = gigabytes * 1e9 / 2**30, share
    device, offload = torch.device("cuda:0"), steps.choose(["offload"])
    networks = {name: Network() for name in ("unet", "vae", "text_encoder")}
    site = steps.Site(dict(networks), device, torch.float16)
    monkeypatch.setattr(steps, "why_not_staged", lambda _: "")
    steps.apply(offload, site)
    assert steps.home_of(device, offload) == (torch.device("cpu") if little else device)
    assert steps.home_of(device, ()) == device
    assert [("wait in main memory" in note, "the pictures are the same" in note) for note in site.notes] == [
        (True, True)
    ] * little
    assert pytorch.limits_of(device, 8).row_bucket((512, 512)) == (24 if gigabytes * share > 100 else 3)

    def work() -> None:
        with site.at_work("vae") as vae:
            vae.sent.append("work")
            raise KeyError

    with pytest.raises(KeyError):
        work()
    assert networks["vae"].sent == (["cpu", "cuda:0", "work", "cpu"] if little else ["work"])
    assert networks["unet"].sent == []
