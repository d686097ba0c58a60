"""The contract of each family of editing pipelines, on a tiny random model of the real classes."""

from __future__ import annotations

import inspect
import shutil
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from faked_cuda import faked_cuda
from PIL import Image
from runs import many
from safetensors.torch import load_file, save_file
from tiny_editors import EDITORS, save_editor
from tiny_models import make_picture

from ip2pbatch.backends.pytorch.pipeline import load_pictures, load_pipeline, place
from ip2pbatch.backends.weights import resolve
from ip2pbatch.engine import pipelines
from ip2pbatch.engine.pipeline_engine import PipelineEngine, arguments_of
from ip2pbatch.engine.pipelines import called, open_engine
from ip2pbatch.errors import ModelError, ResourceError
from ip2pbatch.plan.edits import Edit, Guidance, make_edit
from ip2pbatch.plan.families import FAMILIES, Call, Family
from ip2pbatch.run.directory.lines import UNREAD
from ip2pbatch.run.engine import OutOfMemory, Source, Stopped
from ip2pbatch.run.machine import Machine, Memory

SIZE = (96, 64)
PIPELINES = [key for key in EDITORS if FAMILIES[key].call is not None]
DISTINCT = [key for key in PIPELINES if key != "klein"]
"""Without one that differs from another one in nothing that is called."""


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Networks this small wait for each other's threads most of the time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module", autouse=True)
def at_home_in_less() -> Iterator[None]:
    """Two of the pipelines scale each photo to a megapixel themselves: a hundredth of it here."""
    qwen = import_module("diffusers.pipelines.qwenimage.pipeline_qwenimage_edit_plus")
    longcat = import_module("diffusers.pipelines.longcat_image.pipeline_longcat_image_edit")
    dimensions = longcat.calculate_dimensions
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(qwen, "VAE_IMAGE_SIZE", 96 * 96)
        patch.setattr(qwen, "CONDITION_IMAGE_SIZE", 64 * 64)
        patch.setattr(longcat, "calculate_dimensions", lambda area, ratio: dimensions(area // 100, ratio))
        yield


@pytest.fixture(scope="module", params=DISTINCT)
def family(request: pytest.FixtureRequest) -> Family:
    return FAMILIES[request.param]


@pytest.fixture(scope="module")
def folder(family: Family, tmp_path_factory: pytest.TempPathFactory) -> Path:
    (key,) = (key for key, one in FAMILIES.items() if one is family)
    return save_editor(tmp_path_factory.mktemp("model") / key, key)


@pytest.fixture(scope="module")
def engine(folder: Path) -> PipelineEngine:
    return open_engine(resolve(str(folder)), "cpu", "fp32", Machine(), safety=True, edits=[], note=print)


def an_edit(family: Family, size: tuple[int, int] = SIZE, **changes: Any) -> Edit:
    text, image = changes.pop("text", family.defaults.text), changes.pop("image", family.defaults.image)
    settings = {"seed": 7, "steps": 1, "sampler": family.defaults.sampler, "carry": "pixels", "size": size} | changes
    return make_edit("a photo", settings.pop("instruction", "make it winter"), Guidance(text, image), **settings)


def pixels_of(engine: PipelineEngine, edit: Edit) -> np.ndarray:
    (result,) = engine.begin([edit], [Source(pixels=make_picture(1, edit.size))])()
    assert result.state == "done"
    assert result.image is not None
    return result.image


def test_every_family_of_pipelines_has_its_contract() -> None:
    assert set(EDITORS) == {key for key, one in FAMILIES.items() if one.components}


@pytest.mark.parametrize("family", PIPELINES, indirect=True, scope="module")
def test_pixels_are_those_of_a_direct_call(family: Family, folder: Path, engine: PipelineEngine) -> None:
    edit, pixels = an_edit(family, steps=2), make_picture(1, SIZE)
    own = {name: load_pictures(folder / name) for name in called(family).parts if "processor" in name}
    pipe = diffusers.DiffusionPipeline.from_pretrained(folder, dtype=torch.float32, local_files_only=True, **own)
    pipe.set_progress_bar_config(disable=True)
    assert type(pipe).__name__ == called(family).cls
    said = arguments_of(called(family), edit, pixels) | {"generator": torch.Generator().manual_seed(7)}
    assert np.array_equal(engine.picture(edit, pixels), pipe(**said).images[0])


def test_every_argument_of_the_table_is_one_of_the_pipeline_s(family: Family) -> None:
    call = called(family)
    takes = set(inspect.signature(getattr(diffusers, call.cls).__call__).parameters)
    named = {call.text, call.negative, call.photo, call.area, *call.constants, "prompt"} - {""}
    assert named <= takes
    assert ("height" in takes) == call.sized
    assert ("callback_on_step_end" in takes) == call.heard


def test_every_setting_reaches_the_picture(family: Family, engine: PipelineEngine) -> None:
    call = called(family)
    plain = pixels_of(engine, an_edit(family))
    changes: list[dict[str, Any]] = [{"seed": 8}, {"instruction": "make it night"}, {"steps": 2}]
    changes += [{"text": family.defaults.text + 3}] if call.text else []
    changes += [{"negative": "snow everywhere", "text": 4.0}] if call.negative else []
    for change in changes:
        assert not np.array_equal(pixels_of(engine, an_edit(family, **change)), plain), change


@pytest.mark.parametrize("size", [(64, 64), (64, 128)])
def test_a_picture_has_the_edit_s_size_and_all_of_the_photo(
    family: Family, engine: PipelineEngine, size: tuple[int, int]
) -> None:
    assert pixels_of(engine, an_edit(family, size)).shape == (size[1], size[0], 3)
    seen = arguments_of(called(family), an_edit(family, size), make_picture(1, size))[called(family).photo]
    photo = seen[0] if called(family).listed else seen
    assert np.array_equal(np.asarray(photo), make_picture(1, size))


@pytest.mark.parametrize("family", ["kontext"], indirect=True, scope="module")
def test_a_picture_of_another_size_is_brought_back_and_that_is_told(
    family: Family, engine: PipelineEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "picture", lambda *_: np.full((80, 48, 3), 0.5, np.float32))
    (result,) = engine.begin([an_edit(family)], [Source(pixels=make_picture(1, SIZE))])()
    assert result.image is not None
    assert result.image.shape == (SIZE[1], SIZE[0], 3)
    assert result.detail == "the model gave 48 × 80 pixels, brought back to the frame"


def test_outside_of_a_region_a_picture_is_its_source(family: Family, engine: PipelineEngine) -> None:
    mask = np.zeros(SIZE[::-1], np.uint8)
    mask[:, :40] = 255
    source = make_picture(1, SIZE)
    (result,) = engine.begin([an_edit(family)], [Source(pixels=source, mask=mask)])()
    assert result.image is not None
    assert np.array_equal(result.image[:, 40:], source[:, 40:])
    assert not np.array_equal(result.image[:, :40], source[:, :40])


def test_a_photo_above_the_area_that_a_pipeline_would_crop_comes_whole_and_below_it() -> None:
    call = Call("Flux2KleinPipeline", {}, photo_area=128 * 128)
    edit = an_edit(FAMILIES["klein"], (320, 160))
    photo = arguments_of(call, edit, make_picture(2, (320, 160)))["image"]
    assert photo.size[0] * photo.size[1] <= 128 * 128
    assert {side % 16 for side in photo.size} == {0}
    whole = Image.fromarray(make_picture(2, (320, 160))).resize(photo.size, Image.Resampling.LANCZOS)
    assert np.array_equal(np.asarray(photo), np.asarray(whole))


@pytest.mark.parametrize("family", ["klein", "longcat"], indirect=True, scope="module")
def test_what_is_not_read_of_an_instruction_is_told(family: Family, engine: PipelineEngine) -> None:
    edit = an_edit(family, instruction="make it snow " + "and " * 480)  # a token a letter
    (result,) = engine.begin([edit], [Source(pixels=make_picture(1, SIZE))])()
    assert result.state == "done"
    rest = result.detail.partition(UNREAD)[2]
    assert rest.startswith("and and")
    assert 1400 < len(rest) < 1500


CPU, CUDA = torch.device("cpu"), torch.device("cuda:0")


@pytest.mark.parametrize("how", [Memory.OFFLOAD, Memory.SEQUENTIAL])
@pytest.mark.parametrize("family", DISTINCT if many(0, 1) else ["longcat"], indirect=True, scope="module")
def test_bits_do_not_hang_on_where_parts_lie(family: Family, engine: PipelineEngine, how: Memory) -> None:
    """By the hooks that move parts to a GPU, to a stand-in of one."""
    plain = pixels_of(engine, an_edit(family))
    with faked_cuda():
        try:
            place(engine.pipe, CUDA, how)
            assert np.array_equal(pixels_of(engine, an_edit(family)), plain)
        finally:
            place(engine.pipe, CPU, Memory.FULL)


@pytest.mark.parametrize("family", ["kontext"], indirect=True, scope="module")
def test_where_memory_runs_out_the_same_bits_are_made_a_part_at_a_time_and_then_it_is_told(
    family: Family, engine: PipelineEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    edit, said = an_edit(family), list[str]()
    plain = pixels_of(engine, edit)
    monkeypatch.setattr(engine, "_offload", pipelines.Offload(engine.pipe, CUDA, Memory.FULL, said.append))

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    def ran_out() -> None:
        hook = engine.pipe.transformer.register_forward_pre_hook(full)
        with pytest.raises(OutOfMemory):
            pixels_of(engine, edit)
        hook.remove()

    with faked_cuda():
        try:
            ran_out()
            assert engine.shrink()
            assert np.array_equal(pixels_of(engine, edit), plain)
            ran_out()
            with pytest.raises(ResourceError, match="its parts off the device") as caught:
                engine.shrink()
        finally:
            place(engine.pipe, CPU, Memory.FULL)
    assert (caught.value.exit_code, len(said)) == (7, 1)
    assert "--memory sequential" in str(caught.value.hint)


def lora_of(folder: Path, file: Path, prefix: str = "transformer.") -> tuple[str, torch.Tensor]:
    """A LoRA of one layer of a transformer, and what it adds to which weight."""
    tensors = load_file(next((folder / "transformer").glob("*.safetensors")))
    name = min(name for name, one in tensors.items() if name.endswith("to_q.weight") and one.dim() == 2)
    (out, into), drawn = tensors[name].shape, torch.Generator().manual_seed(3)
    up, down = torch.randn(out, 2, generator=drawn), torch.randn(2, into, generator=drawn)
    layer = f"{prefix}{name.removesuffix('.weight')}"
    save_file({f"{layer}.lora_A.weight": down, f"{layer}.lora_B.weight": up}, file)
    return name, up @ down


def test_a_lora_is_added_to_its_transformer(
    family: Family, folder: Path, engine: PipelineEngine, tmp_path: Path
) -> None:
    name, delta = lora_of(folder, tmp_path / "winter.safetensors")
    laid = load_pipeline(resolve(f"{folder} + lora:{tmp_path / 'winter.safetensors'}@0.5"), called(family), "fp32")
    before, after = engine.pipe.transformer.state_dict(), laid.transformer.state_dict()
    changed = [key for key, one in after.items() if not torch.equal(one, before[key])]
    assert changed == [name]
    assert torch.allclose(after[name], before[name] + 0.5 * delta, atol=1e-5)
    if hasattr(laid.transformer, "load_lora_adapter"):
        pytest.importorskip("peft", reason="peft is not installed")
        theirs = type(laid.transformer).from_pretrained(folder / "transformer")
        theirs.load_lora_adapter(load_file(tmp_path / "winter.safetensors"), prefix="transformer")
        theirs.fuse_lora(lora_scale=0.5)
        theirs.unload_lora()
        assert torch.allclose(theirs.state_dict()[name], after[name], atol=1e-5)


FLUX = {
    "kontext": {
        "lora_unet_double_blocks_0_img_attn_qkv": [f"transformer_blocks.0.attn.to_{one}" for one in "qkv"],
        "lora_unet_double_blocks_0_txt_mlp_2": ["transformer_blocks.0.ff_context.net.2"],
        "lora_unet_single_blocks_0_linear1": [
            *(f"single_transformer_blocks.0.attn.to_{one}" for one in "qkv"), "single_transformer_blocks.0.proj_mlp",
        ],
    },
    "klein_base": {
        "diffusion_model.double_blocks.0.txt_attn.qkv": [
            f"transformer_blocks.0.attn.add_{one}_proj" for one in "qkv"
        ],
        "diffusion_model.single_blocks.0.linear1": ["single_transformer_blocks.0.attn.to_qkv_mlp_proj"],
        "transformer.single_transformer_blocks.0.attn.to_out": ["single_transformer_blocks.0.attn.to_out"],
    },
}  # fmt: skip


@pytest.mark.parametrize("family", [*FLUX], indirect=True, scope="module")
def test_flux_s_layers_are_known_by_the_names_of_its_first_publication(
    family: Family, folder: Path, engine: PipelineEngine, tmp_path: Path
) -> None:
    before, wanted, tensors = engine.pipe.transformer.state_dict(), {}, {}
    for name, parts in FLUX[folder.name].items():
        weights = [before[f"{part}.weight"] for part in parts]
        up, down = torch.randn(sum(map(len, weights)), 2), torch.randn(2, weights[0].shape[1])
        tensors |= {f"{name}.lora_up.weight": up, f"{name}.lora_down.weight": down}
        deltas = (up @ down).split([*map(len, weights)])
        wanted |= {f"{p}.weight": w + d for p, w, d in zip(parts, weights, deltas, strict=True)}
    save_file(tensors, tmp_path / "winter.safetensors")
    laid = load_pipeline(resolve(f"{folder} + lora:{tmp_path / 'winter.safetensors'}"), called(family), "fp32")
    after = laid.transformer.state_dict()
    assert {name for name, one in after.items() if not torch.equal(one, before[name])} == set(wanted)
    assert all(torch.allclose(after[name], one, atol=1e-5) for name, one in wanted.items())


@pytest.mark.parametrize("family", ["kontext"], indirect=True, scope="module")
def test_weights_that_lie_there_and_are_not_loaded_are_named(family: Family, folder: Path, tmp_path: Path) -> None:
    own, said = Path(shutil.copytree(folder, tmp_path / "m")), list[str]()
    for number_format in ("text_encoder_2/model.fp16", "transformer/diffusion_pytorch_model.fp16"):
        shutil.copy(own / "text_encoder_2/model.safetensors", own / f"{number_format}.safetensors")
    resolve(str(own), note=said.append)
    assert said == []
    shutil.copy(own / "text_encoder_2/model.safetensors", own / "flux1-kontext-dev.safetensors")
    resolve(str(own), note=said.append)
    assert len(said) == 1
    assert "flux1-kontext-dev.safetensors" in said[0]


@pytest.mark.parametrize("family", ["qwen_edit"], indirect=True, scope="module")
def test_a_lora_for_few_steps_brings_its_schedule_which_is_in_the_identity(
    family: Family, folder: Path, tmp_path: Path
) -> None:
    lora_of(folder, tmp_path / "Qwen-Image-Edit-Lightning-4steps-V1.0.safetensors", prefix="")
    lora_of(folder, tmp_path / "winter.safetensors", prefix="")
    few, plain = (resolve(f"{folder} + lora:{file}") for file in sorted(tmp_path.glob("*.safetensors")))
    assert few.digest != plain.digest
    config = load_pipeline(few, called(family), "fp32").scheduler.config
    assert (config.use_dynamic_shifting, config.shift_terminal) == (True, None)
    assert config.max_shift == pytest.approx(1.0986, abs=1e-4)


@pytest.mark.parametrize(
    ("layer", "why"),
    [
        ("transformer.blocks.9.to_q", "has no layer blocks_9_to_q"),
        ("lora_unet_double_blocks_0_img_attn_qkv", r"double_blocks_0_img_attn_qkv .* is \[96, 32\], and it changes 32"),
        ("lora_unet_double_blocks_7_img_attn_qkv", "has no layer double_blocks_7_img_attn_qkv"),
        ("unet.down_blocks.0.to_q", "is for a Stable Diffusion model"),
    ],
)
@pytest.mark.parametrize("family", ["kontext"], indirect=True, scope="module")
def test_a_lora_that_is_not_for_it_is_refused_before_anything_is_loaded(
    family: Family, folder: Path, tmp_path: Path, layer: str, why: str
) -> None:
    file = tmp_path / "winter.safetensors"
    save_file({f"{layer}.lora_A.weight": torch.zeros(2, 32), f"{layer}.lora_B.weight": torch.zeros(32, 2)}, file)
    with pytest.raises(ModelError, match=why):
        resolve(f"{folder} + lora:{file}")
    with pytest.raises(ModelError, match=r"FLUX\.1 Kontext, which keeps its own autoencoder"):
        resolve(f"{folder} + vae:{folder / 'vae'}")


class Hook:
    def __init__(self, most: int) -> None:
        self.most, self.seen = most, list[tuple[int, int]]()

    def step(self, done: int, of: int, preview: Any) -> bool:
        self.seen.append((done, of))
        return done < self.most


def test_a_hook_hears_of_each_step_and_stops_between_two(family: Family, engine: PipelineEngine) -> None:
    heard = called(family).heard
    hook, edit = Hook(2), an_edit(family, steps=3)
    pixels = make_picture(1, SIZE)
    if not heard:
        engine.begin([edit], [Source(pixels=pixels)], hook)
        assert hook.seen == []
        return
    with pytest.raises(Stopped):
        engine.begin([edit], [Source(pixels=pixels)], hook)
    assert hook.seen == [(1, 3), (2, 3)]


def test_what_is_not_finite_is_no_picture(engine: PipelineEngine, family: Family) -> None:
    decoder = next(p for name, p in engine.pipe.vae.named_parameters() if name.startswith("decoder") and p.dim() == 1)
    kept = decoder.detach().clone()
    try:
        decoder.fill_(float("nan"))
        (result,) = engine.begin([an_edit(family)], [Source(pixels=make_picture(1, SIZE))])()
    finally:
        decoder.copy_(kept)
    assert (result.state, result.image) == ("nan", None)
    assert "not finite" in result.detail
