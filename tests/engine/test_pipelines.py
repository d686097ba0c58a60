"""The contract of each family of editing pipelines, on a tiny random model of the real classes."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from tiny_editors import EDITORS, save_editor
from tiny_models import make_picture

from ip2pbatch.backends.pytorch.pipeline import load_pictures
from ip2pbatch.backends.weights import resolve
from ip2pbatch.engine.pipeline_engine import PipelineEngine, arguments_of
from ip2pbatch.engine.pipelines import called, open_engine
from ip2pbatch.plan.edits import Edit, Guidance, make_edit
from ip2pbatch.plan.families import FAMILIES, Call, Family
from ip2pbatch.run.directory.lines import UNREAD
from ip2pbatch.run.engine import Source, Stopped
from ip2pbatch.run.machine import Machine

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
