"""The named steps of the torch backend: each against the plain network, all together, and none by a global effect."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import torch
from diffusers.models.upsampling import Upsample2D
from tiny_models import TOKENS, WIDTH, save_model
from torch import Tensor

from ip2pbatch.backends.pytorch import accelerators, steps
from ip2pbatch.backends.pytorch import backend as pytorch
from ip2pbatch.backends.pytorch.steps import compiled, convolutions, residual
from ip2pbatch.backends.pytorch.steps.attention import cudnn_first
from ip2pbatch.backends.pytorch.steps.cuda_graphs import Graphs
from ip2pbatch.backends.pytorch.steps.workers import RowWorkers, parts_of
from ip2pbatch.backends.weights import ModelFolder
from ip2pbatch.errors import UsageError
from ip2pbatch.plan.rows import Row

WORDS = ("", "make it snow", "turn the sky red")
# Rows of two Edits with three rows, of three with two (s_I = 1), and of strangers to each other.
THREES = tuple(Row(e, i, t) for e in (0, 1) for i, t in ((None, None), (e, None), (e, WORDS[e + 1])))
TWOS = tuple(Row(e, e, t) for e in (0, 1, 2) for t in (None, WORDS[1 + e % 2]))
STRANGERS = tuple(Row(e, e, WORDS[e % 3] or None) for e in range(6))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {kind: save_model(root / kind, kind) for kind in ("kl", "dc")}


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def load(path: Path, wanted: Sequence[str] | None, precision: str = "fp32") -> pytorch.TorchBackend:
    return pytorch.load(ModelFolder(path, "test", "", ""), "cpu", precision, wanted)


def draw(rows: Sequence[Row], channels: int, size: tuple[int, int] = (8, 8)) -> tuple[Tensor, Tensor, Tensor]:
    """Latents, text and image of `rows`: alike where the rows say so, and the same for a row in every company."""

    def noise(seed: int, *shape: int) -> Tensor:
        return torch.randn(shape, generator=torch.Generator().manual_seed(seed))

    latents = torch.stack([noise(row.latent_of, channels, *size) for row in rows])
    text = torch.stack([noise(100 + WORDS.index(row.text or ""), TOKENS, WIDTH) for row in rows])
    images = [noise(200 + (row.image_of or 0), channels, *size) * (row.image_of is not None) for row in rows]
    return latents, text, torch.stack(images)


def predict(backend: pytorch.TorchBackend, rows: Sequence[Row], moment: float = 321.0, **how: object) -> Tensor:
    inputs = draw(rows, backend.latent_channels, how.pop("size", (8, 8)))
    latents, text, image = (tensor.to(backend.device) for tensor in inputs)
    return backend.predict_noise(latents, torch.tensor(moment), text, image, rows if how.get("told", True) else None)


@pytest.mark.parametrize("kind", ["kl", "dc"])
@pytest.mark.parametrize("size", [(8, 8), (7, 10)], ids=str)
def test_each_step_is_as_exact_as_it_says(models: dict[str, Path], kind: str, size: tuple[int, int]) -> None:
    plain = load(models[kind], [])
    assert plain.site.applied == []
    wanted = {rows: predict(plain, rows, size=size) for rows in (THREES, TWOS, STRANGERS)}
    for step in steps.choose(None):
        backend = load(models[kind], [step.name])
        for rows, expected in wanted.items():
            found = predict(backend, rows, size=size)
            assert (found - expected).abs().max() <= step.tolerance * expected.abs().max(), step.name


@pytest.mark.parametrize("kind", ["kl", "dc"])
def test_all_steps_together_are_near_the_plain_network_in_every_moment(models: dict[str, Path], kind: str) -> None:
    plain, fast = load(models[kind], []), load(models[kind], None)
    for moment in (999.0, 500.5, 1.0, 999.0):
        for rows in (THREES, TWOS):
            expected = predict(plain, rows, moment)
            for told in (True, False):
                found = predict(fast, rows, moment, told=told)
                assert (found - expected).abs().max() <= 2e-5 * expected.abs().max()


@pytest.mark.parametrize("kind", ["kl", "dc"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_row_has_the_same_bits_in_every_company_with_every_step(
    models: dict[str, Path], kind: str, precision: str, threads: int
) -> None:
    backend = load(models[kind], None, precision)
    assert ("row-workers" in backend.site.applied) == (threads > 1)
    known: dict[Row, Tensor] = {}
    for rows in (THREES, TWOS, STRANGERS, THREES[::-1], (*TWOS[3:], *THREES[:3])):
        for row, found in zip(rows, predict(backend, rows), strict=True):
            assert torch.equal(known.setdefault(row, found), found)
    assert len(known) == 13


@pytest.mark.parametrize("kind", ["kl", "dc"])
def test_the_networks_themselves_stay_what_they_were(models: dict[str, Path], kind: str) -> None:
    latents, text, image = draw(THREES, 4 if kind == "kl" else 32)
    inputs = (torch.cat([latents, image], 1), torch.tensor(3.0))
    before, after = (load(models[kind], wanted).parts.unet for wanted in (["rowwise"], None))
    assert before.state_dict().keys() == after.state_dict().keys()
    with torch.inference_mode():
        expected, found = (unet(*inputs, encoder_hidden_states=text).sample for unet in (before, after))
    assert (found - expected).abs().max() <= 2e-5 * expected.abs().max()


def test_texts_and_timesteps_are_worked_through_once_a_run(models: dict[str, Path]) -> None:
    backend = load(models["kl"], None)
    unet = backend.parts.unet
    asked = {"key": 0, "time": 0}

    def count(module: torch.nn.Module, name: str) -> None:
        module.register_forward_hook(lambda *_: asked.__setitem__(name, asked[name] + 1))

    count(unet.down_blocks[0].attentions[0].transformer_blocks[0].attn2.to_k, "key")
    count(unet.time_embedding, "time")
    for moment in (900.0, 500.0, 100.0):
        predict(backend, THREES, moment)
    predict(backend, TWOS, 500.0)
    assert asked == {"key": 3, "time": 3}


@pytest.mark.parametrize("kind", ["kl", "dc"])
def test_rows_of_one_picture_share_the_layers_before_the_text(models: dict[str, Path], kind: str) -> None:
    backend = load(models[kind], ["shared-head"])
    seen: list[int] = []
    backend.parts.unet.conv_in.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    for rows in (THREES, TWOS, STRANGERS):
        seen.clear()
        predict(backend, rows)
        assert seen == [2] * {THREES: 2, TWOS: 2, STRANGERS: 3}[rows]


def test_what_does_not_apply_on_a_cpu_says_why(models: dict[str, Path]) -> None:
    site = load(models["dc"], None).site
    assert {"text-memory", "time-table", "shared-head", "packed-convolutions", "lean-blocks"} <= set(site.applied)
    assert {"cuda-graphs", "cudnn-attention", "channels-last"} <= set(site.refused)
    assert all(site.refused.values())
    assert "float32 alone" in load(models["dc"], None, "bf16").site.refused["split-upsampling"]


def test_a_weight_laid_out_for_one_size_gives_the_bits_of_another(models: dict[str, Path]) -> None:
    sizes = [(8, 8), (16, 12)]
    fresh = {size: predict(load(models["dc"], None), THREES, size=size) for size in sizes}
    for order in (sizes, sizes[::-1]):
        backend = load(models["dc"], None)
        for size in order:
            assert torch.equal(predict(backend, THREES, size=size), fresh[size])


def test_weights_are_not_laid_out_a_second_time_where_they_fill_the_memory(
    models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sysconf", lambda name: {"SC_PHYS_PAGES": 16, "SC_PAGE_SIZE": 4096}[name])
    site = load(models["kl"], None).site
    assert "second copy of the weights" in site.refused["packed-convolutions"]
    assert "lean-blocks" in site.applied


@pytest.mark.parametrize("shape", [(3, 64, 6, 8), (1, 64, 40, 32)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_norm_by_planes_is_the_norm_with_its_channels_innermost(
    dtype: torch.dtype, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = torch.nn.GroupNorm(32, 64).to(dtype).requires_grad_(False)
    plain.weight.normal_()
    ours = torch.nn.GroupNorm(32, 64).to(dtype).requires_grad_(False)
    ours.load_state_dict(plain.state_dict())
    residual.norm_by_planes(ours)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    x = x.contiguous(memory_format=torch.channels_last)
    seen = []
    norm = torch.nn.functional.group_norm
    monkeypatch.setattr(residual.functional, "group_norm", lambda x, *rest: (seen.append(x), norm(x, *rest))[1])
    made = ours(x)
    assert made.is_contiguous(memory_format=torch.channels_last)
    small = dtype == torch.bfloat16 and shape[2] * shape[3] < 32 * 32
    assert seen[0].is_contiguous() is small  # by planes only where the other way is slow
    torch.testing.assert_close(made, plain(x), rtol=2**-7 if small else 0, atol=2**-7 if small else 0)


@pytest.mark.parametrize(("channels", "kernel"), [(96, 3), (224, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_each_shape_has_the_layout_it_asks_for_and_the_same_bits(
    dtype: torch.dtype, channels: int, kernel: int
) -> None:
    network = torch.nn.Sequential(torch.nn.Conv2d(channels, channels, kernel, padding=kernel // 2)).to(dtype)
    if convolutions.why_no_packing([network], torch.device("cpu")):
        pytest.skip("this CPU has no layouts for it")
    convolutions.pack(network)
    (conv,) = network
    # where a processor has matrix units the second asks for another layout than the first, and the last one again
    with torch.inference_mode():
        for height, width in ((32, 32), (6, 8), (16, 12), (8, 8), (6, 8)):
            x = torch.randn(6, channels, height, width, generator=torch.Generator().manual_seed(height)).to(dtype)
            wanted = torch.ops.mkldnn._reorder_convolution_weight(conv.weight, *conv._how(), list(x.shape))
            made = conv(x)
            assert convolutions._is_alike(conv._laid_out(x), wanted)
            fresh = torch.nn.Sequential(torch.nn.Conv2d(channels, channels, kernel, padding=kernel // 2)).to(dtype)
            fresh.load_state_dict(network.state_dict())
            convolutions.pack(fresh)
            assert torch.equal(made, fresh(x))
    kept = {id(one): one for one in conv.__dict__["packed"].values()}.values()
    assert not any(convolutions._is_alike(one, other) for one, other in itertools.combinations(kept, 2))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_four_small_kernels_before_a_doubling_are_the_large_one_after_it(packed: bool, bias: bool) -> None:
    doubling = Upsample2D(6, use_conv=True, out_channels=5, bias=bias).requires_grad_(False)
    x = torch.randn(2, 6, 4, 7, generator=torch.Generator().manual_seed(0))
    expected, odd = doubling(x), doubling(x, (7, 13))
    names = doubling.state_dict().keys()
    if packed:
        convolutions.pack(doubling)
    convolutions.split_upsampling(doubling)
    calls: list[tuple[int, ...]] = []
    doubling.conv.register_forward_hook(lambda _, inputs, __: calls.append(inputs[0].shape))
    assert torch.allclose(doubling(x), expected, atol=1e-6)
    assert calls == []
    assert torch.allclose(doubling(x, (7, 13)), odd, atol=1e-6)
    assert doubling.state_dict().keys() == names


def test_steps_have_names_and_an_order_and_a_stranger_is_refused() -> None:
    assert len(set(steps.names())) == len(steps.STEPS)
    assert [step.name for step in steps.choose(["time-table", "rowwise"])] == ["rowwise", "time-table"]
    assert "compiled" not in [step.name for step in steps.choose(None)]
    with pytest.raises(UsageError, match="there is no step wings") as caught:
        steps.choose(["wings"])
    assert "offload, rowwise, channels-last" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("rows", "threads", "parts"), [(6, 1, 1), (6, 2, 2), (6, 4, 3), (6, 16, 6), (5, 2, 1), (1, 8, 1)]
)
def test_rows_are_cut_into_equal_parts(rows: int, threads: int, parts: int) -> None:
    assert parts_of(rows, threads) == parts


def test_workers_share_rows_and_threads_and_leave_the_caller_s_alone(threads: int) -> None:
    seen: list[tuple[str, int, int]] = []

    def stage(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        assert torch.is_inference_mode_enabled()
        seen.append((threading.current_thread().name, torch.get_num_threads(), len(x)))
        return x + y, x - y

    x, y = torch.arange(6.0)[:, None], torch.ones(6, 1)
    with torch.inference_mode():
        total, difference = RowWorkers().around(stage)(x, y)
    assert torch.equal(total, x + y)
    assert torch.equal(difference, x - y)
    assert {count for _, count, _ in seen} == {1}
    assert [rows for *_, rows in seen] == [6 // threads] * threads
    assert torch.get_num_threads() == threads
    inherited: list[int] = []
    later = threading.Thread(target=lambda: inherited.append(torch.get_num_threads()))
    later.start()
    later.join()
    assert inherited == [threads]


def test_a_recording_is_made_for_each_of_a_few_shapes_and_gives_the_caller_its_own() -> None:
    recorded: list[torch.Size] = []

    def record(stage: Callable[..., tuple[Tensor, ...]], inputs: Sequence[Tensor]) -> Callable[[], tuple[Tensor, ...]]:
        recorded.append(inputs[0].shape)
        outputs = stage(*inputs)

        def replay() -> tuple[Tensor, ...]:  # as on a GPU: into the same memory every time
            for own, made in zip(outputs, stage(*inputs), strict=True):
                own.copy_(made)
            return outputs

        return replay

    def double(x: Tensor) -> tuple[Tensor]:
        return (2 * x,)

    run = Graphs(lambda: record).around(double)
    first, second = run(torch.ones(3)), run(torch.full((3,), 5.0))
    assert (first[0].tolist(), second[0].tolist()) == ([2.0] * 3, [10.0] * 3)
    for size in (1, 2, 3, 4, 1, 3):
        assert torch.equal(run(torch.ones(size))[0], torch.full((size,), 2.0))
    assert [tuple(shape) for shape in recorded] == [(3,), (1,), (2,), (4,)]


def test_attention_kernels_are_asked_for_in_a_call_and_not_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accelerators, "is_nvidia", lambda device: True)

    def flags() -> tuple[bool, ...]:
        cuda = torch.backends.cuda
        return (cuda.cudnn_sdp_enabled(), cuda.flash_sdp_enabled(), cuda.math_sdp_enabled())

    q = torch.randn(1, 2, 4, 8)
    before = flags(), torch._C._get_sdp_priority_order()
    inside: list[object] = []

    def stage(x: Tensor) -> tuple[Tensor]:
        inside.append(torch._C._get_sdp_priority_order()[0])
        return (torch.nn.functional.scaled_dot_product_attention(x, x, x),)

    assert torch.equal(cudnn_first(stage)(q)[0], torch.nn.functional.scaled_dot_product_attention(q, q, q))
    assert inside == [int(torch.nn.attention.SDPBackend.CUDNN_ATTENTION)]
    assert (flags(), torch._C._get_sdp_priority_order()) == before


def test_compiling_pays_for_many_rows_and_sooner_where_artefacts_lie_ready() -> None:
    price = compiled.ON_GPU
    assert not compiled.pays(60 * 20, 0.002, price)
    assert compiled.pays(10_000 * 60, 0.002, price)
    ready = compiled.Price(price.seconds, price.saved, cached=True)
    between = next(rows for rows in range(0, 300_000, 1000) if compiled.pays(rows, 0.002, ready))
    assert not compiled.pays(between, 0.002, price)


class Compiler:
    """Stands for torch.compile: counts what it is asked for and hands the stage back."""

    def __init__(self) -> None:
        self.asked: list[dict[str, object]] = []

    def __call__(self, stage: Callable[..., object], **how: object) -> Callable[..., object]:
        self.asked.append(how)
        return stage


def test_compiled_code_is_kept_for_each_shape_and_tried_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[bytes] = []
    monkeypatch.setattr(torch.compiler, "load_cache_artifacts", lambda data: loaded.append(data) or object())
    monkeypatch.setattr(torch.compiler, "save_cache_artifacts", lambda: (b"code", None))
    device = torch.device("cpu")
    for session in range(2):
        artefacts = compiled.Artefacts(tmp_path, {"torch": "2", "device": "gpu"})
        assert artefacts.price(device).cached == (session == 1)
        compiler = Compiler()
        run = compiled.Compiled(artefacts, {"epilogue_fusion": False}, compiler).around(lambda x: (x + 1,))
        for size in (3, 3, 4):
            assert run(torch.zeros(size))[0].tolist() == [1.0] * size
        assert compiler.asked == [{"dynamic": False, "options": {"epilogue_fusion": False}}]
    assert loaded == [b"code"]
    other = compiled.Artefacts(tmp_path, {"torch": "3", "device": "gpu"})
    assert other.price(device) == compiled.ON_CPU
    assert not other.load()


def test_inductor_knows_the_options_that_it_is_given() -> None:
    assert set(compiled.GPU_OPTIONS) <= set(torch._inductor.list_options())
