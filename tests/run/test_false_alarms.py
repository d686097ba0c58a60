"""What is no picture is caught, at the UNet and at the autoencoder, and real photos pass: crops and darkenings of the
demo's, or of a folder's.

IP2P_SOAK_PHOTOS=FOLDER python tests/soak.py -s -k no_crop     # any photos; of each 14 crops, each in 10 ways
"""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from diffusers import EulerAncestralDiscreteScheduler
from PIL import Image
from runs import Wrapped, carry_out, make_plan, many
from sklearn.datasets import load_sample_image

from ip2pbatch.backends.pytorch.backend import TorchBackend, load
from ip2pbatch.backends.weights import resolve
from ip2pbatch.engine.editor import Editor, Facts, find_flaw, measure, to_uint8
from ip2pbatch.plan.edits import Guidance, Photo, make_edit
from ip2pbatch.plan.folder_walk import SUFFIXES
from ip2pbatch.plan.photo_digests import look
from ip2pbatch.run.engine import Result, Source
from ip2pbatch.run.flat import LIGHT as DARKEST
from ip2pbatch.run.flat import judge

LIGHT = (1.0, 0.5, 0.2, 0.1, DARKEST)
SIDE = 128


@dataclass(frozen=True)
class Shot:
    """A part of a photo in some light, uint8 [h, w, 3]."""

    name: str
    pixels: np.ndarray


def photos() -> Iterator[Shot]:
    """Those of the folder that was named, else the demo's."""
    if folder := os.environ.get("IP2P_SOAK_PHOTOS"):
        for path in sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in SUFFIXES):
            with Image.open(path) as image:
                image.thumbnail((4 * SIDE, 4 * SIDE))
                yield Shot(path.name, np.asarray(image.convert("RGB")))
        return
    yield from demo_photos()


def demo_photos() -> Iterator[Shot]:
    yield Shot("motorcycle", skimage.data.stereo_motorcycle()[0])
    for name in ("astronaut", "coffee", "chelsea", "rocket"):
        yield Shot(name, getattr(skimage.data, name)()[..., :3])
    for name in ("china.jpg", "flower.jpg"):
        yield Shot(name, load_sample_image(name))


def crops(photo: Shot, most: int = 4) -> Iterator[Shot]:
    """The whole, halves, thirds and quarters of each side."""
    height, width = photo.pixels.shape[:2]
    for parts in range(1, most + 1):
        for row, column in itertools.product(range(parts), repeat=2):
            down, across = height // parts, width // parts
            part = photo.pixels[row * down : (row + 1) * down, column * across : (column + 1) * across]
            small = Image.fromarray(part).resize((SIDE, SIDE * down // across // 8 * 8 or 8))
            yield Shot(f"{photo.name} {row},{column} of {parts} × {parts}", np.asarray(small))


CROPS = 1 + 4 + 9 + 16


def decoded(levels: np.ndarray) -> torch.Tensor:
    """Levels of 255 [h, w, 3] as a decoder gives them, [1, 3, h, w] in [-1, 1]: not yet rounded to eight bits."""
    return torch.from_numpy(levels.astype(np.float32) / 127.5 - 1).permute(2, 0, 1)[None]


def flaw_of(pixels: torch.Tensor, source: Source) -> str:
    """What the editor says of decoded pixels [1, 3, h, w]."""
    facts = Facts.of(measure(torch.zeros(4, 1, 1), pixels[0]).tolist())
    return find_flaw(facts, source)


def alarms(shot: Shot) -> Iterator[tuple[str, str]]:
    """Edits of a shot that is dark after or before, and what is said of each, as decoded and as the run keeps it."""
    for light in LIGHT:
        dark = decoded(shot.pixels * np.float32(light))
        kept = to_uint8(dark)
        for what, pixels in (("darkened", shot.pixels), ("dark before", kept)):
            before = Source(pixels=pixels)
            why = flaw_of(dark, before) or judge(Result(kept, None, "done"), before)[1]
            yield f"{shot.name} at {light:g}, {what}", why


def test_no_crop_and_no_darkening_of_a_real_photo_is_an_alarm() -> None:
    folder = bool(os.environ.get("IP2P_SOAK_PHOTOS"))
    count, said = 0, []
    for photo in photos():
        for shot in crops(photo, 3 if folder else 4):
            for name, why in alarms(shot):
                count += 1
                said += [f"{name}: {why}"] if why else []
    print(f"{count:,} pictures, {len(said)} alarms")
    assert folder or count == 7 * CROPS * len(LIGHT) * 2
    assert said == [], f"{len(said)} of {count}"


# What a broken decoder gives: numbers that are none, and one colour, which may be far outside the picture's range.
ENDLESS = (float("nan"), float("inf"), float("-inf"))
FLAT = {"black": -1.0, "white": 1.0, "grey": 0.0, "far below black": -40.0, "far above white": 40.0}


# So dark that an autoencoder's noise over black is nearly a twentieth of it.
DARK_CORNER = "flower.jpg 3,0 of 4 × 4"


def some(parts: int) -> Iterator[Shot]:
    """Every crop of the demo's photos; or every `parts`-th and the dark corner."""
    for place, shot in enumerate(itertools.chain.from_iterable(map(crops, demo_photos()))):
        if place % many(parts, 1) == 0 or shot.name == DARK_CORNER:
            yield shot


@pytest.mark.parametrize("value", ENDLESS)
def test_one_value_that_is_no_number_is_caught_in_every_picture(value: float) -> None:
    for shot in some(5):
        for spot in (np.s_[:], np.s_[0, 1, -1, -1]):
            pixels = decoded(shot.pixels)
            pixels[spot] = value
            assert flaw_of(pixels, Source(pixels=shot.pixels)), shot.name


@pytest.mark.parametrize("colour", FLAT)
def test_one_colour_is_caught_by_the_decoder_s_end_and_by_the_run(colour: str) -> None:
    """Also a colour with an autoencoder's noise on it."""
    noise = torch.randn((3, 400, SIDE), generator=torch.Generator().manual_seed(0)) * 0.6 / 127.5
    for shot in some(5):
        before = Source(pixels=shot.pixels)
        for uneven in (0.0, noise[:, : shot.pixels.shape[0]]):
            pixels = torch.full((1, 3, *shot.pixels.shape[:2]), FLAT[colour]) + uneven
            assert flaw_of(pixels, before), shot.name
            # What an engine does not find itself, in the eight bits that are kept.
            assert judge(Result(to_uint8(pixels), None, "done"), before)[0] == "nan", shot.name


def test_what_is_as_even_as_its_source_is_a_picture() -> None:
    wall = np.full((96, SIDE, 3), (180, 60, 40), np.uint8)
    sky = np.full((96, SIDE, 3), (150, 170, 200), np.uint8) + np.arange(96, dtype=np.uint8)[:, None, None] // 40
    for source, picture in ((wall, wall), (wall, wall // 3), (sky, sky), (sky, sky // 2), (sky // 10, sky // 10)):
        assert judge(Result(picture, None, "done"), Source(pixels=source)) == ("done", "")
    assert judge(Result(sky * 0, None, "done"), Source(pixels=sky))[0] == "nan", "blacker than any light leaves it"
    photo = next(demo_photos()).pixels
    one_red = np.zeros_like(photo)
    one_red[..., 0] = 200
    assert judge(Result(one_red, None, "done"), Source(pixels=photo))[0] == "nan", "one colour need not be grey"


def test_a_wall_may_stay_a_wall_through_a_chain_of_latents(tmp_path: Path) -> None:
    """A link that starts from a latent is told by the picture of the link before it."""
    Image.new("RGB", (96, 64), (180, 170, 160)).save(tmp_path / "wall.png")
    seen = look(tmp_path / "wall.png")
    wall = Photo("wall.png", tmp_path / "wall.png", seen.digest, seen.size)
    plan = make_plan([wall], ["make it winter", "make it night", "make it rain"])
    engine = Wrapped(after=lambda edit, result: replace(result, image=result.image * 0 + 90))
    assert carry_out(tmp_path / "out", plan, engine) == 0


class Unet:
    """A backend whose UNet answers with what leads to one latent, so that its picture is known; broken in one step."""

    def __init__(self, backend: TorchBackend) -> None:
        self._backend, self.goal, self.value, self.bad_step = backend, torch.zeros(()), 0.0, -1
        self._alphas = EulerAncestralDiscreteScheduler.from_config(backend.scheduler_config).alphas_cumprod
        self._steps = 0
        assert backend.scheduler_config["prediction_type"] == "v_prediction"

    def __getattr__(self, name: str) -> object:
        return getattr(self._backend, name)

    def leads_to(self, pixels: np.ndarray, value: float = 0.0, bad_step: int = -1) -> None:
        """From now on to the picture `pixels`, but for one number that is `value` in the step `bad_step`."""
        self.goal = self._backend.encode_image(decoded(pixels)) * self._backend.scaling_factor
        self.value, self.bad_step, self._steps = value, bad_step, 0

    def predict_noise(self, latents: torch.Tensor, timestep: torch.Tensor, *rest: object) -> torch.Tensor:
        """The velocity between the noise in `latents` and the goal: Salimans and Ho 2022, v = α ε − σ x."""
        alpha = self._alphas[int(timestep)]
        answer = (alpha.sqrt() * latents - self.goal) / (1 - alpha).sqrt()
        if self._steps == self.bad_step:
            answer[0, 0, 0, 0] = self.value
        self._steps += 1
        return answer


@pytest.fixture(scope="module")
def unet() -> Unet:
    return Unet(load(resolve("tiny"), "cpu", "fp32"))


def edited(unet: Unet, source: np.ndarray) -> Result:
    """What the editor makes of `source` with that UNet, in three steps of one call each."""
    height, width = source.shape[:2]
    wanted = make_edit(
        hashlib.sha256(source).hexdigest(), "make it night", Guidance(1.0, 1.0), 7, steps=3, sampler="euler_a",
        size=(width, height),
    )  # fmt: skip
    return Editor(unet, safety=False).edit([wanted], [Source(pixels=source)])[0]


@pytest.fixture(scope="module")
def sources() -> list[np.ndarray]:
    """Photos at a size that the embedded model takes; all crops under `make soak`."""
    return [np.asarray(Image.fromarray(shot.pixels).resize((SIDE, 96))) for shot in some(30)]


def test_a_unet_that_works_makes_pictures_of_photos_in_any_light(unet: Unet, sources: list[np.ndarray]) -> None:
    """The test's own UNet is sound, and the embedded autoencoder gives no false alarm in the dark."""
    for source in sources:
        for light in LIGHT:
            unet.leads_to(np.rint(source * np.float32(light)))
            result = edited(unet, source)
            assert (result.state, judge(result, Source(pixels=source))[0]) == ("done", "done"), light


@pytest.mark.parametrize("step", range(3))
@pytest.mark.parametrize("value", ENDLESS)
def test_one_such_number_in_the_unet_is_caught_in_any_step(
    unet: Unet, sources: list[np.ndarray], value: float, step: int
) -> None:
    for source in sources:
        unet.leads_to(source, value, step)
        result = edited(unet, source)
        assert (result.state, result.image, result.latent) == ("nan", None, None)


@pytest.mark.parametrize("level", [0, 127, 255])
def test_a_unet_that_leads_to_black_grey_or_white_is_caught(
    unet: Unet, sources: list[np.ndarray], level: int
) -> None:  # fmt: skip
    for source in sources:
        unet.leads_to(np.full_like(source, level))
        result = edited(unet, source)
        assert (result.state, result.image) == ("nan", None)
        assert "one flat colour" in result.detail
