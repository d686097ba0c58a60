"""Pictures refined at their photo's size: tiles that no one sees, and what their bits hang on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tiny_models import make_picture, save_model
from torch import Tensor

from ip2pbatch.backends.pytorch import backend as pytorch
from ip2pbatch.backends.weights import ModelFolder
from ip2pbatch.engine.editor import Editor
from ip2pbatch.engine.refining import as_bright, seed_of
from ip2pbatch.engine.samplers import SAMPLERS, make_sampler
from ip2pbatch.pictures.images import resize
from ip2pbatch.plan.edits import Edit, Guidance, make_edit
from ip2pbatch.plan.limits import Limits
from ip2pbatch.plan.rows import Row, refined_rows
from ip2pbatch.plan.tiling import Refinement, count_tiles, levels
from ip2pbatch.run.engine import FullSize, OutOfMemory, Preview, Result, Source, Stopped

SIZE, FULL = (64, 48), (150, 110)
STEPS = 4
PHOTO, LIFTED = (make_picture(seed, FULL) for seed in (1, 2))
EVERYWHERE = np.full(SIZE[::-1], 255, np.uint8)
KINDS = ("kl", "dc")


@pytest.fixture(scope="module")
def backends(tmp_path_factory: pytest.TempPathFactory) -> dict[str, pytorch.TorchBackend]:
    root = tmp_path_factory.mktemp("models")
    folders = {kind: save_model(root / kind, kind, safety=kind == "kl") for kind in KINDS}
    return {kind: pytorch.load(ModelFolder(folder, kind, "", "")) for kind, folder in folders.items()}


def ask(seed: int = 7, sampler: str = "euler_a", start: float = 0.5, text: float = 7.5) -> Edit:
    how = Refinement("photo", FULL, "auto", start)
    return make_edit(
        "cell", "make it snow", Guidance(text, 1.5), seed, steps=STEPS, sampler=sampler, size=SIZE, carry="pixels",
        refine=how,
    )  # fmt: skip


def source(share: NDArray[np.uint8] = EVERYWHERE, lifted: NDArray[np.uint8] = LIFTED) -> Source:
    return Source(full=FullSize(PHOTO, lifted, share))


def picture(result: Result) -> NDArray[np.uint8]:
    assert result.state == "done", result.detail
    assert result.image is not None
    return result.image


@pytest.mark.parametrize("kind", KINDS)
def test_bits_hang_on_no_other_picture_and_rows_are_those_that_were_planned(
    backends: dict[str, pytorch.TorchBackend], kind: str
) -> None:
    editor = Editor(backends[kind])
    editor.limits = replace(editor.limits, default_rows=3, rows={})  # each call is a tile's: nothing is padding
    edits, sources = [ask(7), ask(8)], [source(), source(lifted=PHOTO)]
    together = editor.edit(edits, sources)
    assert editor.rows_asked == sum(refined_rows(edit, count_tiles(SIZE, FULL, 8)) for edit in edits)
    for edit, one, result in zip(edits, sources, together, strict=True):
        assert picture(result).shape == (*FULL[::-1], 4)
        assert np.array_equal(picture(Editor(backends[kind]).edit([edit], [one])[0]), picture(result))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_begins_at_part_of_the_noise(backends: dict[str, pytorch.TorchBackend], sampler: str) -> None:
    little, much = (
        picture(Editor(backends["dc"]).edit([ask(sampler=sampler, start=start)], [source()])[0]) for start in (0.01, 1)
    )
    assert (little != much).any()


def test_only_tiles_with_something_new_are_made_and_only_that_is_shown(
    backends: dict[str, pytorch.TorchBackend],
) -> None:
    share = np.zeros_like(EVERYWHERE)
    share[:16, :16] = 255
    editor = Editor(backends["dc"])
    patch = picture(editor.edit([ask()], [source(share)])[0])
    assert editor.rows_asked < refined_rows(ask(), count_tiles(SIZE, FULL, 8))
    assert patch[:30, :30, 3].min() > 200
    assert not patch[60:].any()
    assert not patch[:, 60:].any()
    asked = editor.rows_asked
    nothing = editor.edit([ask()], [source(np.zeros_like(share))])[0]
    assert (editor.rows_asked, nothing.state, nothing.detail[:2]) == (asked, "done", "0 ")
    assert not picture(nothing).any()


class Hear:
    def __init__(self, most: int) -> None:
        self.most, self.steps = most, list[tuple[int, int]]()

    def step(self, done: int, of: int, preview: Preview) -> bool:
        assert preview()[0].shape == (*SIZE[::-1], 3)
        self.steps.append((done, of))
        return len(self.steps) < self.most


def test_it_is_heard_of_and_stops_between_two_calls(backends: dict[str, pytorch.TorchBackend]) -> None:
    editor = Editor(backends["dc"])
    hear = Hear(1000)
    editor.begin([ask()], [source()], hear)()
    of = 2 * count_tiles(SIZE, FULL, 8)
    assert hear.steps[-1] == (of, of)
    with pytest.raises(Stopped):
        editor.begin([ask()], [source()], Hear(2))


def test_a_network_that_breaks_is_named(backends: dict[str, pytorch.TorchBackend], monkeypatch: Any) -> None:
    backend = backends["dc"]
    decode, asked = backend.decode, list[bool]()

    def broken(latents: Tensor, *, upcast: bool = False) -> Tensor:
        asked.append(upcast)
        return decode(latents, upcast=upcast) * (1 if upcast else float("nan"))

    monkeypatch.setattr(backend, "decode", broken)
    assert picture(Editor(backend).edit([ask()], [source()])[0]).any()
    assert True in asked
    monkeypatch.setattr(backend, "decode", lambda latents, upcast=False: decode(latents) * float("nan"))
    result = Editor(backend).edit([ask()], [source()])[0]
    assert (result.image, result.state) == (None, "nan")
    assert "tile" in result.detail


class Local:
    """Networks that look at one place at a time: by tiles they must make what they make of the whole."""

    limits = Limits(default_rows=3)
    device = torch.device("cpu")
    provider, precision, latent_channels, scaling_factor, vae_scale = "cpu", "fp32", 3, 0.5, 8
    steps: tuple[str, ...] = ()
    embedded = False
    scheduler_config: Mapping[str, Any] = {}

    def encode_text(self, instructions: Sequence[str]) -> Tensor:
        return torch.tensor([[[len(words) / 50]] for words in instructions])

    def words_read(self, instruction: str) -> str:
        return instruction

    def encode_image(self, pixels: Tensor, *, upcast: bool = False) -> Tensor:
        return torch.nn.functional.avg_pool2d(pixels, 8)

    def predict_noise(
        self, latents: Tensor, timestep: Tensor, text: Tensor, image: Tensor, rows: Sequence[Row] | None = None
    ) -> Tensor:
        return torch.tanh(0.7 * latents + 0.4 * image.roll(1, 1) + text[..., None])

    def decode(self, latents: Tensor, *, upcast: bool = False) -> Tensor:
        return latents.repeat_interleave(8, 2).repeat_interleave(8, 3)

    def flag(self, images: Sequence[NDArray[np.uint8]]) -> list[bool]:
        return [False for _ in images]


@pytest.mark.parametrize("sampler", ["euler_a", "ddim"])
def test_tiles_make_what_the_whole_would(sampler: str) -> None:
    """Against SDEdit on all of a scale at once, by the formula of guidance."""
    full = (112, 96)  # one scale, of whole latents
    assert levels(SIZE, full) == [full]
    photo, lifted = make_picture(3, full), make_picture(4, full)
    edit, networks = ask(sampler=sampler, text=2), Local()
    edit = replace(edit, refine=Refinement("photo", full, "all", 0.5))
    patch = picture(Editor(networks).edit([edit], [Source(full=FullSize(photo, lifted, EVERYWHERE))])[0])
    assert (patch[..., 3] == 255).all()

    pixels = (torch.tensor(one).permute(2, 0, 1)[None] / 255 * 2 - 1 for one in (photo, lifted))
    image, clean = map(networks.encode_image, pixels)
    walk = make_sampler(sampler, {}, STEPS, [seed_of(edit, 0)], torch.device("cpu"))
    walk.draw((3, 12, 14))
    latents = walk.noised(clean * 0.5, 2)
    empty, words = networks.encode_text(["", edit.instruction]).chunk(2)
    for timestep in walk.timesteps[2:]:
        seen = walk.scale(latents, timestep)
        none, photo_alone, both = (
            networks.predict_noise(seen, timestep, text, seen_photo)
            for text, seen_photo in ((empty, 0 * image), (empty, image), (words, image))
        )
        latents = walk.step(none + 1.5 * (photo_alone - none) + 2 * (both - photo_alone), timestep, latents)
    whole = networks.decode(latents / 0.5)[0].permute(1, 2, 0)
    expected = ((whole * 0.5 + 0.5).clamp(0, 1) * 255).numpy()
    made = patch[..., :3].astype(np.int16)
    assert np.abs(made - as_bright(expected, lifted, 16)).max() <= 1


class Soft(Local):
    """Whose decoder gives back a blurred picture of what it is shown, at no noise to speak of."""

    vae_scale, scaling_factor = 1, 1.0

    def encode_image(self, pixels: Tensor, *, upcast: bool = False) -> Tensor:
        return pixels

    def decode(self, latents: Tensor, *, upcast: bool = False) -> Tensor:
        return torch.nn.functional.avg_pool2d(latents, 3, 1, 1, count_include_pad=False)


def test_what_the_decoder_damps_is_made_good_in_runs_that_begin_from_now_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def made(lift: int, photo: NDArray[np.uint8]) -> NDArray[np.uint8]:
        edit = replace(ask(), refine=Refinement("photo", FULL, "all", 0.5, lift=lift))
        return picture(Editor(Soft()).edit([edit], [Source(full=FullSize(photo, LIFTED, EVERYWHERE))])[0])[..., :3]

    def fine(pixels: NDArray[np.uint8]) -> float:
        return float(np.abs(np.diff(pixels.astype(float), 2, axis=1)).mean())

    grainy = np.random.default_rng(1).integers(0, 256, PHOTO.shape).astype(np.uint8)
    flat = np.full_like(PHOTO, 128)  # nothing of it is lost, so that nothing is made good
    assert np.array_equal(made(0, grainy), made(2, grainy))  # the bits that older runs have
    now = {photo.tobytes(): made(3, photo) for photo in (grainy, flat)}
    monkeypatch.setattr(Refinement, "undamped", False)
    assert fine(now[grainy.tobytes()]) > 1.2 * fine(made(3, grainy))
    assert np.abs(now[flat.tobytes()].astype(int) - made(3, flat)).max() <= 1


def test_the_edit_seen_from_further_away_is_kept_nearer_in_runs_that_begin_from_now_on() -> None:
    def apart(lift: int) -> float:
        edit = replace(ask(), refine=Refinement("photo", FULL, "all", 0.5, lift=lift))
        made = picture(Editor(Soft()).edit([edit], [Source(full=FullSize(PHOTO, LIFTED, EVERYWHERE))])[0])[..., :3]
        small = [resize(one, (FULL[0] // 4, FULL[1] // 4)).astype(float) for one in (made, LIFTED)]
        return float(np.abs(small[0] - small[1]).mean())

    assert apart(3) < 0.7 * apart(2)


class Cramped(Local):
    """Has room for so many rows a call."""

    def __init__(self, room: int) -> None:
        self.room, self.limits = room, Limits(default_rows=12)

    def predict_noise(self, latents: Tensor, *rest: Any, **more: Any) -> Tensor:
        if len(latents) > self.room:
            raise OutOfMemory(f"{len(latents)} rows")
        return super().predict_noise(latents, *rest, **more)


def test_where_memory_runs_out_fewer_tiles_a_call_make_the_same() -> None:
    editor, wanted = Editor(Cramped(2)), Editor(Cramped(12)).edit([ask()], [source()])[0]
    shrunk = 0
    while True:
        try:
            (result,) = editor.edit([ask()], [source()])
            break
        except OutOfMemory:
            assert editor.shrink()
            shrunk += 1
    assert shrunk == 3
    assert np.array_equal(picture(result), picture(wanted))
