"""The fake engine: its pictures hang on their Edit and source alone, and show what was asked for."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from numpy.typing import NDArray

from ip2pbatch.engine.fake import FakeEngine
from ip2pbatch.plan.edits import Edit, Guidance, make_edit
from ip2pbatch.run.engine import Source

SIZE = (160, 96)


def photo(seed: int = 0) -> NDArray[np.uint8]:
    grid = np.linspace(0, 255, SIZE[0] * SIZE[1] * 3).reshape(SIZE[1], SIZE[0], 3)
    return ((grid + 40 * seed) % 256).astype(np.uint8)


def edit(instruction: str = "make it winter", text: float = 7.5, image: float = 1.5, seed: int = 1) -> Edit:
    return make_edit("digest", instruction, Guidance(text, image), seed, steps=20, sampler="euler_a", size=SIZE)


def picture(one: Edit, source: Source | None = None) -> NDArray[np.uint8]:
    (result,) = FakeEngine().edit([one], [source or Source(pixels=photo())])
    assert result.state == "done"
    assert result.image is not None
    return result.image


def test_a_picture_does_not_hang_on_its_neighbours() -> None:
    edits = [edit(seed=seed) for seed in range(5)]
    together = FakeEngine().edit(edits, [Source(pixels=photo(n)) for n in range(5)])
    for n, one in enumerate(edits):
        assert np.array_equal(together[n].image, picture(one, Source(pixels=photo(n))))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "other",
    [edit("make it summer"), edit(text=9.0), edit(image=1.0), edit(seed=2)],
    ids=["words", "text", "image", "seed"],
)
def test_everything_that_was_asked_for_shows(other: Edit) -> None:
    changed = picture(edit()).astype(int) - picture(other)
    assert np.abs(changed[: SIZE[1] // 2]).max() > 0  # not in the caption alone


def test_more_text_guidance_goes_further_from_the_photo_and_more_image_guidance_less_far() -> None:
    def distance(one: Edit) -> float:
        return float(np.abs(picture(one)[:40].astype(int) - photo()[:40]).mean())

    assert distance(edit(text=3)) < distance(edit(text=7.5)) < distance(edit(text=12))
    assert distance(edit(image=2)) < distance(edit(image=1.5)) < distance(edit(image=1))


def test_a_link_can_start_from_the_latent_of_the_one_before() -> None:
    (first,) = FakeEngine().edit([edit()], [Source(pixels=photo())])
    assert first.latent is not None
    assert first.latent.shape == (192, SIZE[1] // 8, SIZE[0] // 8)
    link = edit("make it night")
    from_latent = picture(link, Source(latent=first.latent))
    from_pixels = picture(link, Source(pixels=first.image))
    assert from_latent.shape == from_pixels.shape == (SIZE[1], SIZE[0], 3)
    # The latent is finer than the picture and has no caption in it: close, and not the same.
    assert 0 < np.abs(from_latent[:60].astype(int) - from_pixels[:60]).max() <= 2


@pytest.mark.parametrize("words", ["x" * 400, "été à la façon d'Ångström", "冬にする", "", "\u202etxet"])
def test_any_instruction_and_any_scale_can_be_captioned(words: str) -> None:
    for text, image in ((0.0, 0.0), (-3.0, -1.0), (1e9, 1e-9)):
        assert picture(edit(words, text, image)).shape == (SIZE[1], SIZE[0], 3)


def test_it_needs_no_torch() -> None:
    code = "import sys; import ip2pbatch.engine.fake, ip2pbatch.run.execute; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
