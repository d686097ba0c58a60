"""How long sheets and report take is foreseen from what they last took here."""

from __future__ import annotations

from pathlib import Path

import pytest

from ip2pbatch import jobs
from ip2pbatch.disk.remembered import Remembered
from ip2pbatch.jobs import drawing
from ip2pbatch.run.machine import Machine

KNOWN = "seconds a cell, the last times it was drawn"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_what_drawing_took_is_foreseen_the_next_time(shoot: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing, "_TELLING", 3)
    before = drawing.foreseen(10, 384)
    jobs.edit(shoot / "photos", "make it winter", shoot / "out", size=64, machine=Machine(backend="fake"))
    (rate,) = Remembered(KNOWN).get("384")
    assert 0 < rate < 60
    assert drawing.foreseen(10, 384) == pytest.approx(10 * rate) != before
    assert drawing.foreseen(10, 512) > before / 2, "of another size nothing was measured"


@pytest.mark.parametrize("value", ["fast", 0.2, None, ["fast"], [-1.0], [1e9], [3]])
def test_what_is_no_rate_is_not_believed(value: object) -> None:
    usual = drawing.foreseen(10, 384)
    Remembered(KNOWN).keep({"384": value})
    assert drawing.foreseen(10, 384) == usual


def test_one_slow_drawing_does_not_spoil_what_is_foreseen() -> None:
    Remembered(KNOWN).keep({"384": [0.02, 0.9, 0.03]})
    assert drawing.foreseen(100, 384) == pytest.approx(3)
