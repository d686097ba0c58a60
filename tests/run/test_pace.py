"""How long what is left of a run takes, by a clock that the test turns."""

from __future__ import annotations

from ip2pbatch.run.pace import Ahead, Pace, Then


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_nothing_is_said_of_time_before_model_and_delivery_are_measured() -> None:
    clock = Clock()
    pace = Pace(clock, 4, 4, dict.fromkeys("abcd", 1).__getitem__, couriers=1)
    assert pace.ahead(None) == Ahead(4, None, None)
    clock.now = 10
    pace.ended("a")
    assert pace.ahead(None) == Ahead(3, None, None), "the backlog is not counted yet"
    assert pace.ahead(1) == Ahead(3, 4, None), "no file was written yet"
    pace.carried(2)
    assert pace.ahead(0) == Ahead(3, 3, 30)


def test_a_quick_model_does_not_hide_slow_delivery() -> None:
    clock = Clock()
    keys = [f"{number}" for number in range(1400)]
    pace = Pace(clock, 1400, 1400, dict.fromkeys(keys, 1).__getitem__, couriers=2)
    for key in keys[:1300]:
        clock.now += 0.01
        pace.ended(key)
    for _ in range(20):
        pace.carried(0.75)
    assert pace.ahead(1280) == Ahead(100, 1380, 0.375 * 1380)
    for key in keys[1300:]:
        pace.ended(key)
    assert pace.ahead(1380).seconds == 0.375 * 1380, "the model is done, and most of the work is ahead"


def test_the_last_batch_of_a_slow_model_is_soon_delivered() -> None:
    clock = Clock()
    pace = Pace(clock, 64, 64, {f"{number}": 1 for number in range(64)}.__getitem__, couriers=2)
    for number in range(32):
        pace.ended(f"{number}")
        pace.carried(0.125)
    clock.now = 320
    assert pace.ahead(0).seconds == 320
    for number in range(32, 64):
        pace.ended(f"{number}")
    assert pace.ahead(32) == Ahead(0, 32, 2.0)
    for _ in range(32):
        pace.carried(0.125)
    assert pace.ahead(0) == Ahead(0, 0, 0.0)


def test_an_edit_that_fails_takes_its_files_along() -> None:
    pace = Pace(Clock(), 2, 4, {"a": 3, "b": 1}.__getitem__, couriers=1, then=Then("sheets and report", 9))
    pace.ended("a")
    assert pace.ahead(0) == Ahead(1, 1, None, "sheets and report")


def test_the_time_is_of_the_whole_with_what_follows() -> None:
    clock = Clock()
    pace = Pace(clock, 2, 2, {"a": 1, "b": 1}.__getitem__, couriers=1, then=Then("sheets and report", 540))
    clock.now = 3
    pace.ended("a")
    pace.carried(1)
    assert pace.ahead(0).seconds == 3 + 540
    pace.ended("b")
    pace.carried(1)
    assert pace.ahead(0) == Ahead(0, 0, 540, "sheets and report")
