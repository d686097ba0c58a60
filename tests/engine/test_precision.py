"""Which number format is taken unasked: the cheaper one only where it was measured to be good enough, once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_models import save_model

from ip2pbatch.backends.pytorch import backend as pytorch
from ip2pbatch.backends.weights import ModelFolder
from ip2pbatch.engine import precision


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def folder(digest: str = "digest", path: Path = Path()) -> ModelFolder:
    return ModelFolder(path, "test", "", digest)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The digests that were measured; a model's digest is its PSNR here."""
    measured: list[str] = []

    def measure(opened: Callable[[str], str], cheaper: str) -> float:
        measured.append(opened(cheaper))
        return float(opened(cheaper))

    monkeypatch.setattr(pytorch, "load", lambda folder, device, precision: folder.digest)
    monkeypatch.setattr(precision, "measure", measure)
    monkeypatch.setattr(precision, "has_bf16", lambda: True)
    return measured


def test_a_model_that_keeps_its_quality_runs_in_bf16_and_another_does_not(asked: list[str]) -> None:
    assert precision.choose_precision(folder("43.2"), "cpu")[0] == "bf16"
    chosen, why = precision.choose_precision(folder("39.9"), "cpu")
    assert chosen == "fp32"
    assert "40 dB" in why


def test_a_model_is_measured_once(asked: list[str]) -> None:
    for _ in range(3):
        precision.choose_precision(folder("43.2"), "cpu")
        precision.choose_precision(folder("20"), "cpu")
    assert asked == ["43.2", "20"]


def test_without_bf16_arithmetic_nothing_is_measured(asked: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "has_bf16", lambda: False)
    assert precision.choose_precision(folder("50"), "cpu")[0] == "fp32"
    assert precision.choose_precision(folder("50"), "cuda:1")[0] == "fp16"
    assert asked == []


def test_the_measure_sees_the_loss_and_that_it_is_small(tmp_path: Path) -> None:
    model = folder(path=save_model(tmp_path / "dc", "dc"))
    assert 30 < precision.measure(lambda number: pytorch.load(model, "cpu", number)) < 80
    assert len({precision.probe_picture(seed).tobytes() for seed in range(2)}) == 2
