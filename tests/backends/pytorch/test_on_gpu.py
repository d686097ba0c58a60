"""What only a GPU can show, in a minute: kernels, recordings, memory, number formats, and the pictures of the CPU.

    python -m pytest tests/backends/pytorch/test_on_gpu.py -k "not compiled"

What can be shown without one is in test_faked_gpu.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from test_steps import STRANGERS, THREES, TWOS, predict
from tiny_models import make_picture, save_model
from torch import Tensor, nn
from torch.nn import functional

from ip2pbatch.backends.pytorch import backend as pytorch
from ip2pbatch.backends.pytorch import steps
from ip2pbatch.backends.pytorch.accelerators import memory_of
from ip2pbatch.backends.pytorch.steps import fused, kernels
from ip2pbatch.backends.pytorch.steps.attention import cudnn_first
from ip2pbatch.backends.weights import ModelFolder
from ip2pbatch.engine.bench import gate
from ip2pbatch.engine.call_cost import seconds_of_call
from ip2pbatch.engine.editor import Editor
from ip2pbatch.plan.edits import Guidance, make_edit
from ip2pbatch.plan.rows import Row
from ip2pbatch.run.engine import OutOfMemory, Source

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here"),
]

SIZE = (64, 48)
SD = [(320, 64), (640, 32), (1280, 16), (2560, 8), (960, 64)]  # channels and side of Stable Diffusion's norms


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {kind: save_model(root / kind, kind) for kind in ("kl", "dc")}


@pytest.fixture(autouse=True)
def whole_card() -> Iterator[None]:
    pytorch.configure()
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)
    torch.cuda.empty_cache()


def on_gpu(folder: Path, precision: str = "fp32", wanted: Sequence[str] | None = None) -> pytorch.TorchBackend:
    return pytorch.load(ModelFolder(folder, "test", "", ""), "cuda", precision, wanted)


def pictures(backend: pytorch.TorchBackend, photos: Sequence[int] = range(3)) -> list[np.ndarray]:
    edits = [
        make_edit(f"p{seed}", "make it snow", Guidance(5, 1.5), seed, steps=4, sampler="euler_a", size=SIZE)
        for seed in photos
    ]
    results = Editor(backend).edit(edits, [Source(pixels=make_picture(seed, SIZE)) for seed in photos])
    assert [result.state for result in results] == ["done"] * len(edits)
    return [result.image for result in results]


def test_a_card_is_asked_by_its_number(models: dict[str, Path]) -> None:
    backend = on_gpu(models["kl"])
    assert backend.device == torch.device("cuda:0")
    assert backend.limits.row_bucket((512, 512)) >= 3
    assert memory_of(backend.device) > 1 << 30


@pytest.mark.parametrize("kind", ["kl", "dc"])
@pytest.mark.parametrize("name", [*(one.name for one in steps.choose(None)), "all"])
def test_each_step_is_as_exact_as_it_says_and_a_row_keeps_its_bits(
    models: dict[str, Path], kind: str, name: str
) -> None:
    plain = on_gpu(models[kind], wanted=[])
    wanted = {rows: predict(plain, rows) for rows in (THREES, TWOS, STRANGERS)}
    backend = on_gpu(models[kind], wanted=None if name == "all" else [name])
    known: dict[Row, Tensor] = {}
    for _ in range(2):  # the second time from a recording
        for rows, expected in wanted.items():
            found = predict(backend, rows)
            assert (found - expected).abs().max() <= 1e-2 * expected.abs().max()
            for row, own in zip(rows, found, strict=True):
                assert torch.equal(known.setdefault(row, own), own)


def test_all_but_compilation_applies_here(models: dict[str, Path]) -> None:
    site = on_gpu(models["kl"], "fp16").site
    assert {"channels-last", "plain-tokens", "fused-blocks", "cudnn-attention", "cuda-graphs"} <= set(site.applied), (
        site.refused
    )


@pytest.mark.parametrize("kind", ["kl", "dc"])
def test_compiled_code_is_as_exact_as_it_says(models: dict[str, Path], kind: str) -> None:
    plain, backend = on_gpu(models[kind], wanted=[]), on_gpu(models[kind], wanted=steps.names())
    assert "compiled" in backend.site.applied
    for rows in (THREES, TWOS):
        expected = predict(plain, rows)
        assert (predict(backend, rows) - expected).abs().max() <= 1e-2 * expected.abs().max()


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("kind", ["kl", "dc"])
def test_pictures_are_those_of_the_cpu(models: dict[str, Path], kind: str, precision: str) -> None:
    expected = pictures(pytorch.load(ModelFolder(models[kind], "test", "", ""), "cpu", "fp32", []))
    likeness = gate.compare(expected, pictures(on_gpu(models[kind], precision)))
    assert likeness.psnr >= {"fp32": 60, "fp16": 45, "bf16": 30}[precision], likeness


def test_a_picture_is_the_same_alone_and_in_company(models: dict[str, Path]) -> None:
    backend = on_gpu(models["kl"], "fp16")
    together, alone = pictures(backend), pictures(backend, [1])
    assert (together[1] == alone[0]).all()


@pytest.mark.parametrize("width", [40, 80, 160])
def test_attention_at_the_head_sizes_of_stable_diffusion(width: int) -> None:
    q, k, v = (torch.randn(3, 8, 1024, width, device="cuda") for _ in range(3))
    expected = torch.softmax(q @ k.transpose(-1, -2) * width**-0.5, -1) @ v

    def attend(*heads: Tensor) -> tuple[Tensor]:
        return (functional.scaled_dot_product_attention(*heads),)

    (found,) = cudnn_first(attend)(q.half(), k.half(), v.half())
    assert (found.float() - expected).abs().max() <= 2e-3 * expected.abs().max() + 2e-3


@pytest.mark.parametrize(("channels", "side"), SD)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
def test_norms_are_nearer_to_the_exact_one_than_torch_s(channels: int, side: int, dtype: torch.dtype) -> None:
    norm = nn.GroupNorm(32, channels).requires_grad_(False).to("cuda", dtype)
    norm.weight.normal_(1, 0.2)
    norm.bias.normal_(0, 0.3)
    x = (torch.randn(3, channels, side, side, device="cuda") * 2 + 5).to(dtype)
    added = torch.randn(3, channels, device="cuda").to(dtype)
    exact = nn.GroupNorm(32, channels).cuda().double().requires_grad_(False)
    exact.load_state_dict({name: value.double() for name, value in norm.state_dict().items()})
    wanted = functional.silu(exact(x.double() + added.double()[:, :, None, None]))
    found = fused.normalise(norm, x.to(memory_format=torch.channels_last), silu=True, added=added)
    plain = functional.silu(norm(x + added[:, :, None, None]))
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert (found - wanted).abs().max() <= 1.5 * (plain - wanted).abs().max() + 1e-6


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
def test_sums_and_gates_are_torch_s(dtype: torch.dtype) -> None:
    x, other = (torch.randn(3, 320, 24, 40, device="cuda").to(dtype, memory_format=torch.channels_last) for _ in "ab")
    bias = torch.randn(320, device="cuda").to(dtype)
    wanted = x.double() + other.double() + bias.double()[:, None, None]
    assert (kernels.add_into(x, other, bias) - wanted).abs().max() <= torch.finfo(dtype).eps * 8
    tokens = torch.randn(2, 77, 2 * 1280, device="cuda").to(dtype)
    value, gate = tokens.double().chunk(2, -1)
    wanted = value * functional.gelu(gate)
    assert (kernels.geglu(tokens) - wanted).abs().max() <= torch.finfo(dtype).eps * wanted.abs().max()


def test_out_of_memory_is_told_and_the_next_smaller_call_works(models: dict[str, Path]) -> None:
    backend = on_gpu(models["kl"], "fp16")
    seconds_of_call(backend, (64, 64), 6)
    torch.cuda.set_per_process_memory_fraction(min(1.0, 1.5e9 / torch.cuda.get_device_properties(0).total_memory))
    with pytest.raises(OutOfMemory):
        seconds_of_call(backend, (2048, 2048), 192)
    assert seconds_of_call(backend, (64, 64), 6) > 0
    assert torch.cuda.current_stream() == torch.cuda.default_stream()


def test_letting_go_of_recordings_gives_their_memory_back(models: dict[str, Path]) -> None:
    backend = on_gpu(models["kl"], "fp16")
    for rows in (96, 192, 384):
        seconds_of_call(backend, (512, 512), rows)
    held = torch.cuda.memory_reserved()
    backend.site.release()
    torch.cuda.empty_cache()
    assert torch.cuda.memory_reserved() < 0.7 * held
