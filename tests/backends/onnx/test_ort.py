"""The four networks on onnxruntime: torch's pictures, bits that hang on no neighbour, refusals, TensorRT."""

from __future__ import annotations

import ctypes
import dataclasses
import json
import shutil
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from command import CommandLine
from PIL import Image
from tiny_models import make_picture, save_model

from ip2pbatch.backends import weights
from ip2pbatch.backends.pytorch import backend as pytorch
from ip2pbatch.engine.editor import Editor
from ip2pbatch.errors import MissingError, UsageError
from ip2pbatch.plan.edits import Edit, Guidance, make_edit
from ip2pbatch.plan.tiling import Refinement
from ip2pbatch.run.engine import FullSize, OutOfMemory, Source

pytest.importorskip("onnx", reason="the onnx extra is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="the onnx extra is not installed")

from ip2pbatch.backends.artefact import Artefact  # noqa: E402
from ip2pbatch.backends.onnx import backend as ort  # noqa: E402
from ip2pbatch.backends.onnx import export, providers, tensorrt  # noqa: E402
from ip2pbatch.backends.onnx.providers import Place  # noqa: E402


@dataclasses.dataclass(frozen=True)
class Exports:
    """Exports in float32 by the model's name, the models, and the cache that the embedded model's lies in."""

    folders: dict[str, weights.ModelFolder]
    made: dict[str, Artefact]
    cache: Path
    said: list[str]


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Exports:
    cache, root, said = tmp_path_factory.mktemp("cache"), tmp_path_factory.mktemp("models"), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(cache))
        sd = weights.resolve(str(save_model(root / "kl", "kl", safety=True)))
        folders = {"kl": sd, "tiny": weights.resolve("tiny")}
        made = {
            "kl": export.export(sd, root / "kl-onnx", export.Form(), providers.opener(Place()), str),
            "tiny": export.cached(folders["tiny"], export.Form(), providers.opener(Place()), said.append),
        }
    return Exports(folders, made, cache, said)


@pytest.fixture(scope="module")
def backends(exports: Exports) -> dict[str, ort.OrtBackend]:
    return {name: ort.load(made, Place()) for name, made in exports.made.items()}


def edit_of(
    seed: int, *, text: float = 5.0, image: float = 1.5, size: tuple[int, int] = (64, 48), negative: str = ""
) -> Edit:
    return make_edit(
        f"p{seed}", f"make it {seed}", Guidance(text, image), seed, steps=2, sampler="euler_a", size=size,
        negative=negative,
    )  # fmt: skip


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    error = float(np.mean((a.astype(np.float64) - b) ** 2))
    return 99.0 if error == 0 else 10 * np.log10(255**2 / error)


@pytest.mark.parametrize("name", ["kl", "tiny"])
def test_the_same_edits_make_the_same_pictures_as_on_torch(
    exports: Exports, backends: dict[str, ort.OrtBackend], name: str
) -> None:
    edits = [edit_of(1), edit_of(2, image=1.0), edit_of(3, text=0.0)]
    sources = [Source(pixels=make_picture(seed, (64, 48))) for seed in range(3)]
    engines = [Editor(backend) for backend in (backends[name], pytorch.load(exports.folders[name]))]
    alone = engines[0].edit(edits[:1], sources[:1])[0]
    found, wanted = (engine.edit(edits, sources) for engine in engines)
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours.state == theirs.state == "done"
        assert psnr(ours.image, theirs.image) > 50
    assert np.array_equal(alone.image, found[0].image)


def test_negatives_and_regions_are_as_on_torch_and_a_whole_region_is_none(
    exports: Exports, backends: dict[str, ort.OrtBackend]
) -> None:
    plain, left = edit_of(1), np.zeros((48, 64), np.uint8)
    left[:, :32] = 255
    edits = [plain, edit_of(1, negative="fog"), plain, plain]
    sources = [Source(make_picture(1, (64, 48)), mask=mask) for mask in (None, None, left, np.full_like(left, 255))]
    ours, theirs = (Editor(one).edit(edits, sources) for one in (backends["kl"], pytorch.load(exports.folders["kl"])))
    for one, wanted in zip(ours, theirs, strict=True):
        assert psnr(one.image, wanted.image) > 50
    whole, negative, region, white = ours
    assert np.array_equal(whole.image, white.image)
    assert np.array_equal(whole.latent, white.latent)
    assert not np.array_equal(whole.image, negative.image)
    assert not np.array_equal(whole.latent[..., 5:], region.latent[..., 5:])
    pixels = torch.from_numpy(sources[0].pixels).permute(2, 0, 1)[None].float() / 255 * 2 - 1
    photo = backends["kl"].encode_image(pixels)[0].numpy() * backends["kl"].scaling_factor
    assert np.array_equal(region.latent[..., 5:], photo[..., 5:])


@pytest.mark.parametrize("name", ["kl", "tiny"])
def test_a_picture_is_refined_as_on_torch(exports: Exports, backends: dict[str, ort.OrtBackend], name: str) -> None:
    full, everywhere = (150, 110), np.full((48, 64), 255, np.uint8)
    edit = dataclasses.replace(edit_of(1), refine=Refinement("photo", full, "all", 0.5))
    source = Source(full=FullSize(make_picture(1, full), make_picture(2, full), everywhere))
    ours, theirs = Editor(backends[name]), Editor(pytorch.load(exports.folders[name]))
    (found,), (wanted,) = (engine.edit([edit], [source]) for engine in (ours, theirs))
    assert (found.state, found.detail) == ("done", wanted.detail)
    assert found.image.shape == (110, 150, 4)
    assert psnr(found.image[..., :3], wanted.image[..., :3]) > 45  # of two scales, each rounded to bytes
    assert np.abs(found.image[..., :3].astype(int) - source.full.lifted).max() > 5
    assert (found.image[..., 3] == 255).all()


@pytest.mark.parametrize("name", ["kl", "tiny"])
def test_each_network_says_what_torch_says(exports: Exports, backends: dict[str, ort.OrtBackend], name: str) -> None:
    ours, theirs = backends[name], pytorch.load(exports.folders[name])
    for fact in ("latent_channels", "scaling_factor", "vae_scale", "scheduler_config", "limits", "precision"):
        assert getattr(ours, fact) == getattr(theirs, fact)
    pixels = torch.from_numpy(make_picture(size=(72, 88))).permute(2, 0, 1)[None] / 127.5 - 1
    latent = theirs.encode_image(pixels)
    text = theirs.encode_text(["make it snow", ""])
    answers = [
        (ours.encode_text(["make it snow", ""]), text),
        (ours.encode_image(pixels), latent),
        (ours.decode(latent, upcast=True), theirs.decode(latent)),
    ]
    for found, wanted in answers:
        assert found.dtype == torch.float32
        assert (found - wanted).abs().max() < 1e-4 * (wanted.max() - wanted.min())
    long = "make it " + "very " * 200 + "cold"
    assert ours.words_read(long) == theirs.words_read(long) != long


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", ["kl", "tiny"])
def test_a_row_has_the_same_bits_in_every_place_and_company(exports: Exports, name: str, threads: int) -> None:
    backend = ort.load(exports.made[name], Place(threads=threads))
    draw = torch.Generator().manual_seed(2)
    words = backend.encode_text(["x"]).shape[1:]
    shape = (7, backend.latent_channels, 8, 8)
    latents, image = torch.randn(shape, generator=draw), torch.randn(shape, generator=draw)
    text, timestep = torch.randn((7, *words), generator=draw), torch.tensor(321.0)
    here = backend.predict_noise(latents[:6], timestep, text[:6], image[:6])
    order = [6, 3, 1, 4, 5, 0]
    there = backend.predict_noise(latents[order], timestep, text[order], image[order])
    assert torch.equal(here[0], there[5])
    assert torch.equal(here[[3, 1, 4, 5]], there[1:5])


def test_the_safety_checker_stays_on_torch(backends: dict[str, ort.OrtBackend]) -> None:
    pictures = [make_picture(1), make_picture(2)]
    assert backends["tiny"].flag(pictures) == [False, False]
    backends["kl"].checker.concept_embeds_weights.fill_(-2.0)  # every cosine is above −2
    assert backends["kl"].flag(pictures) == [True, True]


RECIPE = """
model: tiny
photos: photos
steps: 3
size: 128
edits:
  - {id: winter, instruction: make it winter, image: [1, 1.5]}
  - {id: storm, chain: [make it overcast, make it night], photos: three.png, keep: all}
seeds: 7
"""


def test_a_recipe_delivers_what_it_delivers_on_torch(
    exports: Exports, command: CommandLine, shoot: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert exports.said[0].startswith("exporting tiny to ONNX, once")
    monkeypatch.setenv("XDG_CACHE_HOME", str(exports.cache))
    (shoot / "recipe.yaml").write_text(RECIPE)
    delivered = {}
    for backend in ("onnx", "torch"):
        out = shoot / backend
        said = command("run", shoot / "recipe.yaml", "--precision", "fp32", "--backend", backend, "--out", out)
        assert said.code == 0, said.err
        assert "exporting" not in said.err  # that was done before
        files = [path for path in out.rglob("*.*g") if not {".ip2pbatch", "sheets"} & set(path.relative_to(out).parts)]
        delivered[backend] = {path.relative_to(out): np.asarray(Image.open(path)) for path in files}
    assert delivered["onnx"].keys() == delivered["torch"].keys()
    assert len(delivered["onnx"]) == 8
    for name, picture in delivered["onnx"].items():
        assert psnr(picture, delivered["torch"][name]) >= 35, name
    assert command("verify", shoot / "onnx", "--against", shoot / "torch").code == 0
    assert command("verify", shoot / "onnx").code == 0
    said = command("edit", shoot / "photos/one.jpg", "-i", "x", "--model", "tiny", "-o", shoot / "onnx")
    assert said.code == 2
    assert "onnx" in said.err


def test_another_model_s_export_in_the_cache_is_refused(
    exports: Exports, command: CommandLine, shoot: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    place = tmp_path / "cache/ip2pbatch/onnx" / exports.made["tiny"].path.name
    shutil.copytree(exports.made["kl"].path, place)
    flags = ("--model", "tiny", "--backend", "onnx", "--precision", "fp32", "--steps", "2", "--size", "64")
    said = command("edit", shoot / "photos/one.jpg", "-i", "x", "-o", shoot / "out", *flags)
    assert said.code == 6
    assert "was exported from other weights" in said.err
    assert "delete that folder" in said.err


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        (["--provider", "cpu"], 2, "--provider is of the onnx backend"),
        (["--backend", "onnx", "--precision", "bf16"], 2, "has no bf16"),
        (["--backend", "onnx", "--precision", "fp16", "--device", "cpu"], 2, "fp16 is not for a CPU"),
        (["--backend", "onnx", "--provider", "cuda", "--device", "cpu"], 2, "does not run on cpu"),
        (["--backend", "onnx", "--device", "tpu"], 2, "is not a device"),
        (["--backend", "onnx", "--batch", "auto"], 2, "measures the torch backend"),
        (["--backend", "onnx", "--compile", "on"], 2, "--compile on compiles the torch backend's network"),
        (["--backend", "onnx", "--without", "rowwise"], 2, "--without leaves out steps of the torch backend"),
    ],
)
def test_flags_that_do_not_fit_are_said_so(
    command: CommandLine, shoot: Path, flags: list[str], code: int, words: str
) -> None:
    said = command("edit", shoot / "photos", "-i", "x", "--model", "tiny", "-o", shoot / "out", *flags)
    assert said.code == code
    assert words in said.err
    assert not (shoot / "out").exists()


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_a_package_that_is_not_installed_is_named_with_its_pip_line(
    command: CommandLine, shoot: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    edit = ("edit", shoot / "photos", "-i", "x", "--model", "tiny", "-o", shoot / "out", "--backend", "onnx")
    for arguments in (edit, ("export", "onnx", "tiny", "-o", shoot / "tiny-onnx")):
        said = command(*arguments)
        assert said.code == 6
        assert package in said.err
        assert "pip install 'ip2pbatch[onnx]'" in said.err
    assert {path.name for path in shoot.iterdir()} == {"photos"}


@pytest.mark.skipif("CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="this one has CUDA")
@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_a_provider_that_is_not_built_in_is_refused_before_anything_is_made(
    command: CommandLine, shoot: Path, provider: str
) -> None:
    flags = ("--backend", "onnx", "--provider", provider)
    said = command("edit", shoot / "photos", "-i", "x", "--model", "tiny", "-o", shoot / "out", *flags)
    assert said.code == 6
    assert f"built without the {provider} provider" in said.err
    assert "ip2pbatch[onnx-gpu]" in said.err
    assert not (shoot / "out").exists()


@pytest.mark.parametrize(
    ("provider", "library", "line"),
    [
        ("tensorrt", "libnvinfer.so.10", "tensorrt-cu13>=10,<11"),
        ("cuda", "libcudnn.so.9", "onnxruntime-gpu[cuda,cudnn]"),
    ],
)
def test_a_provider_that_falls_back_to_the_cpu_is_an_error_that_names_the_library(
    exports: Exports, monkeypatch: pytest.MonkeyPatch, provider: str, library: str, line: str
) -> None:
    def missing(path: str, *_: object) -> None:
        assert f"providers_{provider}" in path
        raise OSError(f"{library}: cannot open shared object file: No such file or directory")

    # As onnxruntime-gpu behaves where a library is missing: the provider is listed, the session runs on the CPU.
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: list(providers.PROVIDERS.values()))
    monkeypatch.setattr(providers, "_gpus", lambda: 1)
    monkeypatch.setattr(ctypes, "CDLL", missing)
    with pytest.raises(MissingError, match=rf"cannot use {provider} here: {library} cannot be loaded") as caught:
        providers.open_session(exports.made["kl"].file("text_encoder"), Place(provider))
    assert line in str(caught.value.hint)
    assert caught.value.exit_code == 6
    with pytest.raises(MissingError, match="torch sees no CUDA device 1"):
        providers.open_session(exports.made["kl"].file("text_encoder"), Place(provider, device=1))


def test_the_doctor_says_which_providers_really_work(command: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: list(providers.PROVIDERS.values()))
    monkeypatch.setattr(providers, "_gpus", lambda: 0)
    rows = {row["topic"]: row for row in json.loads(command("doctor", "--json").out)}
    assert rows["onnx cpu"]["value"] == "works"
    for provider in ("cuda", "tensorrt"):
        assert rows[f"onnx {provider}"]["value"] == "does not work"
        assert "torch sees no CUDA device" in rows[f"onnx {provider}"]["why"]


def test_out_of_memory_is_the_condition_that_a_run_answers(
    backends: dict[str, ort.OrtBackend], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise RuntimeError("[ONNXRuntimeError] : 6 : bfc_arena.cc Failed to allocate memory for requested buffer")

    backend = backends["tiny"]
    monkeypatch.setattr(backend._session("vae_decoder"), "run_with_iobinding", full)
    with pytest.raises(OutOfMemory, match="Failed to allocate"):
        backend.decode(torch.zeros((1, backend.latent_channels, 8, 8)))


def test_tensorrt_profiles_are_the_plan_s_buckets(exports: Exports) -> None:
    sizes = [(512, 384), (256, 256), (512, 384)]
    wanted = tensorrt.buckets(sizes, lambda size: 12 if size == (256, 256) else 6)
    assert wanted == (tensorrt.Bucket(12, 256, 256), tensorrt.Bucket(6, 512, 384))
    shapes = tensorrt.profiles(exports.made["kl"], "unet", wanted)
    assert shapes["trt_profile_min_shapes"] == "sample:1x8x32x32,text:1x16x32,sample:1x8x48x64,text:1x16x32"
    assert shapes["trt_profile_opt_shapes"] == "sample:12x8x32x32,text:12x16x32,sample:6x8x48x64,text:6x16x32"
    assert shapes["trt_profile_max_shapes"] == shapes["trt_profile_opt_shapes"]
    encoder = tensorrt.profiles(exports.made["kl"], "vae_encoder", wanted)
    assert encoder["trt_profile_max_shapes"] == "pixels:1x3x256x256,pixels:1x3x384x512"
    assert tensorrt.profiles(exports.made["kl"], "text_encoder", wanted)["trt_profile_min_shapes"] == "ids:1x16"
    with pytest.raises(UsageError, match="there is none"):
        tensorrt.buckets([], lambda _: 6)


def test_a_tensorrt_engine_is_kept_under_all_that_it_hangs_on(
    exports: Exports, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made = exports.made["kl"]
    shapes = tensorrt.profiles(made, "unet", [tensorrt.Bucket(6, 256, 256)])
    machine = {"tensorrt": "101600", "gpu": "NVIDIA H200", "capability": "9.0", "onnxruntime": "1.31.1"}
    files = dict(made.files) | {"unet/model.onnx": "0" * 64}
    variants = [
        (made, "unet", shapes, machine),
        (made, "vae_decoder", shapes, machine),
        (dataclasses.replace(made, files=files), "unet", shapes, machine),
        (dataclasses.replace(made, model_digest="0" * 64), "unet", shapes, machine),
        (dataclasses.replace(made, precision="fp16"), "unet", shapes, machine),
        (made, "unet", tensorrt.profiles(made, "unet", [tensorrt.Bucket(3, 256, 256)]), machine),
        *((made, "unet", shapes, machine | {name: "another"}) for name in machine),
    ]
    folders = [tensorrt.cache_folder(*variant) for variant in variants]
    assert len(set(folders)) == len(variants)
    assert tensorrt.cache_folder(*variants[0]) == folders[0]
    chosen = tensorrt.options(dataclasses.replace(made, precision="fp16"), "unet", shapes, folders[0])
    assert chosen["trt_engine_cache_path"] == chosen["trt_timing_cache_path"] == str(folders[0])
    assert (chosen["trt_fp16_enable"], chosen["trt_engine_cache_enable"]) == ("1", "1")
    assert tensorrt.options(made, "unet", shapes, folders[0])["trt_fp16_enable"] == "0"
    exact = tensorrt.options(dataclasses.replace(made, precision="fp16"), "vae_decoder_fp32", shapes, folders[0])
    assert exact["trt_fp16_enable"] == "0"  # for latents whose picture came out broken in fp16


def test_an_engine_is_not_looked_for_where_tensorrt_cannot_be_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(path: str, *_: object) -> None:
        raise OSError(f"{Path(path).name}: cannot open shared object file: No such file or directory")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    with pytest.raises(MissingError, match=r"cannot use tensorrt here: \S+ cannot be loaded") as caught:
        tensorrt.machine_facts(0)
    assert "tensorrt-cu13>=10,<11" in str(caught.value.hint)


def test_building_an_engine_is_said_and_done_once(
    exports: Exports, backends: dict[str, ort.OrtBackend], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    built: list[dict[str, str]] = []

    def build(file: Path, place: Place, options: dict[str, str]) -> types.SimpleNamespace:
        built.append(options)
        (Path(options["trt_engine_cache_path"]) / f"{file.stem}.engine").touch()
        return types.SimpleNamespace()

    said: list[str] = []
    monkeypatch.setattr(providers, "refuse_missing", lambda _: None)
    monkeypatch.setattr(providers, "open_session", build)
    monkeypatch.setattr(tensorrt, "machine_facts", lambda _: {"gpu": "a", "tensorrt": "101600"})
    for _ in range(2):
        backend = backends["tiny"]
        monkeypatch.setattr(backend, "_place", Place("tensorrt"))
        monkeypatch.setattr(backend, "_sizes", ((256, 192),))
        monkeypatch.setattr(backend, "_say", said.append)
        backend._open("unet", 1)
    assert len(said) == 1
    assert "building the TensorRT engine of the unet for 1 sizes" in said[0]
    assert built[0] == built[1]
    assert built[0]["trt_profile_max_shapes"].startswith("sample:6x64x24x32")
