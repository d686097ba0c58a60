"""The four networks on PyTorch: what crosses the seam, what is refused, and that a row hangs on no neighbour."""

from __future__ import annotations

import json
import logging
import os
import platform
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderDC
from safetensors.torch import load_file, save_file
from tiny_models import KINDS, TOKENS, WIDTH, make_picture, save_model

from ip2pbatch.backends import model_folder, room
from ip2pbatch.backends.pytorch import backend as pytorch
from ip2pbatch.backends.pytorch.dc_adapter import adapt
from ip2pbatch.backends.weights import ModelFolder
from ip2pbatch.errors import MissingError, ModelError, ResourceError
from ip2pbatch.run.engine import OutOfMemory


def load(path: Path, precision: str = "fp32") -> pytorch.TorchBackend:
    return pytorch.load(ModelFolder(path, "test", "", ""), "cpu", precision)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {kind: save_model(root / kind, kind, safety=kind == "kl") for kind in KINDS}


@pytest.mark.parametrize(("kind", "channels", "scale"), [("kl", 4, 8), ("dc", 32, 8), ("taesd", 4, 8)])
def test_float32_of_the_promised_shapes_crosses_the_seam(
    models: dict[str, Path], kind: str, channels: int, scale: int
) -> None:
    backend = load(models[kind])
    pixels = torch.from_numpy(make_picture(size=(64, 48))).permute(2, 0, 1)[None] / 127.5 - 1
    latent = backend.encode_image(pixels)
    text = backend.encode_text(["make it snow", ""])
    noise = backend.predict_noise(latent.repeat(2, 1, 1, 1), torch.tensor(500.0), text, latent.repeat(2, 1, 1, 1))
    assert (backend.latent_channels, backend.vae_scale, backend.limits.multiple) == (channels, scale, scale)
    assert latent.shape == (1, channels, 48 // scale, 64 // scale)
    assert text.shape == (2, TOKENS, WIDTH)
    assert noise.shape == (2, channels, 48 // scale, 64 // scale)
    assert backend.decode(latent).shape == pixels.shape
    assert {tensor.dtype for tensor in (latent, text, noise)} == {torch.float32}


def test_the_photo_s_latent_is_the_posterior_s_mode_unscaled(models: dict[str, Path]) -> None:
    backend = load(models["kl"])
    pixels = torch.rand((1, 3, 64, 64), generator=torch.Generator().manual_seed(1)) * 2 - 1
    expected = backend.parts.vae.encode(pixels).latent_dist.mode()
    assert torch.equal(backend.encode_image(pixels), expected)
    assert backend.scaling_factor == pytest.approx(0.18215)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_row_has_the_same_bits_in_every_place_and_company(models: dict[str, Path], kind: str, precision: str) -> None:
    backend = load(models[kind], precision)
    draw = torch.Generator().manual_seed(2)
    shape = (7, backend.latent_channels, 8, 8)
    latents, image = torch.randn(shape, generator=draw), torch.randn(shape, generator=draw)
    text, timestep = torch.randn((7, TOKENS, WIDTH), generator=draw), torch.tensor(321.0)
    here = backend.predict_noise(latents[:6], timestep, text[:6], image[:6])[0]
    order = [6, 3, 1, 4, 5, 0]
    there = backend.predict_noise(latents[order], timestep, text[order], image[order])[5]
    assert torch.equal(here, there)


def test_bf16_is_near_fp32_and_keeps_the_autoencoder_exact(models: dict[str, Path]) -> None:
    exact, rough = load(models["dc"]), load(models["dc"], "bf16")
    draw = torch.Generator().manual_seed(3)
    latents, text = torch.randn((3, 32, 8, 8), generator=draw), exact.encode_text(["a", "b", ""])
    rows = (latents, torch.tensor(500.0), text, latents.flip(0))
    wanted, found = exact.predict_noise(*rows), rough.predict_noise(*rows)
    assert 0 < (wanted - found).abs().max() < 0.05 * wanted.abs().max()
    assert torch.equal(exact.decode(latents), rough.decode(latents))
    assert torch.equal(exact.encode_text(["a"]), rough.encode_text(["a"]))


def test_upcast_decodes_in_float32_and_leaves_the_weights_as_they_were(models: dict[str, Path]) -> None:
    backend = load(models["kl"])
    backend.parts.vae.to(torch.float16)
    before = {name: value.clone() for name, value in backend.parts.vae.state_dict().items()}
    latents = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(4))
    rough, exact = backend.decode(latents), backend.decode(latents, upcast=True)
    assert not torch.equal(rough, exact)
    assert torch.equal(exact, backend.parts.vae.float().decode(latents).sample)
    after = backend.parts.vae.to(torch.float16).state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_upcast_encodes_in_float32_and_leaves_the_weights_as_they_were(models: dict[str, Path]) -> None:
    backend = load(models["kl"])
    pixels = torch.rand((1, 3, 64, 64), generator=torch.Generator().manual_seed(4)) * 2 - 1
    wanted = backend.encode_image(pixels)
    backend.parts.vae.to(torch.float16).to(torch.float32)
    exact = backend.encode_image(pixels)
    backend.parts.vae.to(torch.float16)
    assert torch.equal(backend.encode_image(pixels, upcast=True), exact)
    assert backend.parts.vae.dtype == torch.float16
    assert 0 < (exact - wanted).abs().max() < 0.05 * wanted.abs().max()


def test_half_precision_works_where_the_cpu_has_no_layouts_for_it(models: dict[str, Path]) -> None:
    """As on CPUs with AVX2 alone, which oneDNN is told to take this one for."""
    code = """
import sys
import torch
from ip2pbatch.backends.pytorch.backend import load
from ip2pbatch.backends.weights import resolve
for dtype in ("bf16", "fp16"):
    backend = load(resolve(sys.argv[1]), "cpu", dtype)
    latents = torch.zeros((2, 4, 8, 8))
    tokens = backend.encode_text(["a", "b"])
    assert backend.predict_noise(latents, torch.tensor(9), tokens, latents).isfinite().all()
    assert backend.decode(latents[:1]).isfinite().all()
"""
    limited = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2"}
    done = subprocess.run([sys.executable, "-c", code, str(models["kl"])], env=limited, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_weight_that_the_configuration_asks_for_must_be_there(models: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(models["dc"], tmp_path / "model"))
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    del tensors["conv_in.bias"]
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks 1 weights .* such as conv_in\.bias"):
        load(folder)


def test_a_weight_of_another_shape_is_refused(models: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(models["dc"], tmp_path / "model"))
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    tensors["conv_in.weight"] = tensors["conv_in.weight"][:, :32].contiguous()
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(ModelError) as caught:
        load(folder)
    assert "conv_in.weight" in str(caught.value)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting is glibc's")
def test_memory_that_a_call_freed_is_used_again() -> None:
    """Without the setting nearly every page is fetched anew in most processes; where a small block happens to lie above
    all others, none is. Hence no comparison with a process without it.
    """
    code = """
import resource
import torch
from ip2pbatch.backends import model_folder, room
from ip2pbatch.backends.pytorch import backend as pytorch
pytorch.configure()
for call in range(12):
    if call == 2:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    parts = [torch.ones(2_000_000) for _ in range(8)]
    del parts
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    faults = int(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
    pages = 10 * 8 * 2_000_000 * 4 // resource.getpagesize()
    assert faults < pages / 10


@pytest.mark.parametrize(("device", "reason"), [("cuda:99", "there is no device"), ("gpu!", "is not a device")])
def test_a_device_that_is_not_there_is_said_so(models: dict[str, Path], device: str, reason: str) -> None:
    with pytest.raises(MissingError, match=reason):
        pytorch.load(ModelFolder(models["dc"], "test", "", ""), device, "fp32")


def test_loading_says_nothing_and_changes_nothing_global(
    models: dict[str, Path], capfd: pytest.CaptureFixture[str]
) -> None:
    loggers = [logging.getLogger(name) for name in ("diffusers", "transformers")]
    before = ([logger.level for logger in loggers], torch.get_num_threads(), torch.get_rng_state())
    load(models["kl"])
    after = ([logger.level for logger in loggers], torch.get_num_threads(), torch.get_rng_state())
    assert before[:2] == after[:2]
    assert torch.equal(before[2], after[2])
    assert capfd.readouterr() == ("", "")


def test_the_model_s_own_checker_decides_what_is_flagged(
    models: dict[str, Path], capfd: pytest.CaptureFixture[str]
) -> None:
    backend = load(models["kl"])
    pictures = [make_picture(1), make_picture(2)]
    backend.parts.checker.concept_embeds_weights.fill_(2.0)  # no cosine is above 2
    assert backend.flag(pictures) == [False, False]
    backend.parts.checker.concept_embeds_weights.fill_(-2.0)  # every cosine is above −2
    assert backend.flag(pictures) == [True, True]
    assert load(models["dc"]).flag(pictures) == [False, False]
    assert capfd.readouterr() == ("", "")


def test_out_of_memory_is_the_condition_that_a_run_answers(
    models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = load(models["dc"])

    def full(*_: object, **__: object) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(backend.parts.unet.conv_in, "forward", full)
    latents = torch.zeros((1, 32, 8, 8))
    with pytest.raises(OutOfMemory, match="Tried to allocate"):
        backend.predict_noise(latents, torch.tensor(1.0), torch.zeros((1, TOKENS, WIDTH)), latents)


def test_rows_shrink_with_the_picture_and_hold_whole_edits(models: dict[str, Path]) -> None:
    limits = load(models["dc"]).limits
    buckets = [limits.row_bucket((side, side)) for side in (64, 256, 512, 2048)]
    assert buckets == sorted(buckets, reverse=True)
    assert all(rows % 3 == 0 for rows in buckets if rows > 3)
    assert buckets[0] == limits.default_rows


def test_the_adapted_autoencoder_is_the_same_autoencoder(models: dict[str, Path]) -> None:
    vae = AutoencoderDC.from_pretrained(models["dc"] / "vae").eval()  # as it is, no step applied: equal to the last bit
    adapted = adapt(vae)
    pixels = torch.rand((1, 3, 32, 32), generator=torch.Generator().manual_seed(5))
    latents = vae.encode(pixels).latent
    assert torch.equal(adapted.encode(pixels).latents, latents)
    assert torch.equal(adapted.decode(latents).sample, vae.decode(latents).sample)
    assert adapted.config.block_out_channels == tuple(vae.config.encoder_block_out_channels)


def test_a_model_that_memory_does_not_hold_is_refused_before_its_weights_are_read(
    models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = sum(file.stat().st_size for file in models["kl"].glob("*/*.safetensors"))
    monkeypatch.setattr(pytorch, "load_parts", lambda *_: pytest.fail("it was loaded"))
    monkeypatch.setattr(room, "free_memory", lambda: weights * 3 // 4)
    with pytest.raises(ResourceError, match="is too large for this machine's memory: its weights take") as caught:
        load(models["kl"])
    assert (caught.value.exit_code, bool(caught.value.hint)) == (7, True)


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate")])
def test_memory_that_runs_out_while_a_model_loads_is_no_bug(
    models: dict[str, Path], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(pytorch, "load_parts", fail)
    with pytest.raises(ResourceError, match="it ran out while the model was loaded") as caught:
        load(models["kl"])
    assert caught.value.exit_code == 7


def test_what_memory_is_left_is_known_here_and_never_more_than_a_container_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "CGROUP", tmp_path)
    free = room.free_memory()
    assert free is not None
    assert free > 1 << 20
    for name, text in (("max", "3000"), ("current", "2500"), ("stat", "anon 5\ninactive_file 700\n")):
        (tmp_path / f"memory.{name}").write_text(text)
    assert room.free_memory() == 1200
    (tmp_path / "memory.max").write_text("max\n")
    assert (room.free_memory() or 0) > 1 << 20


def test_an_autoencoder_that_asks_for_float32_is_never_in_fp16(models: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(models["kl"], tmp_path / "model"))
    file = folder / "vae" / "config.json"
    config = json.loads(file.read_text())
    for asked, wanted in ((True, torch.float32), (False, torch.float16)):
        file.write_text(json.dumps(config | {"force_upcast": asked}))
        parts = pytorch.load_parts(model_folder.check(folder), torch.float16, torch.float16, torch.device("cpu"))
        assert parts.vae.dtype == wanted
        assert parts.text_encoder.dtype == parts.unet.dtype == torch.float16


@pytest.mark.parametrize(
    "changes", [{"dual_cross_attention": True}, {"norm_num_groups": 7}, {"down_block_types": ["DownBlock2D", "Mine"]}]
)
def test_a_network_that_diffusers_cannot_run_is_refused_as_it_is_opened(
    models: dict[str, Path], tmp_path: Path, changes: dict[str, object]
) -> None:
    folder = Path(shutil.copytree(models["kl"], tmp_path / "model"))
    file = folder / "unet" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    with pytest.raises(ModelError, match="diffusers cannot run this UNet") as caught:
        load(folder)
    assert (caught.value.exit_code, bool(caught.value.hint)) == (6, True)
