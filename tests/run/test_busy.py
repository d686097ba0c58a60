"""How busy the model was: only between its first call and its last, and with what it waited for."""

from __future__ import annotations

from ip2pbatch.run.utilisation import Busy, Work


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def spend(*parts: tuple[Work | None, float]) -> dict[str, float]:
    clock = Clock()
    busy = Busy(clock)
    for work, seconds in parts:
        if work is None:
            clock.now += seconds
            continue
        with busy.at(work):
            clock.now += seconds
    return busy.shares()


def test_one_call_says_nothing_about_a_warm_model() -> None:
    assert spend() == {}
    assert spend(("photos", 3), ("model", 5), ("disk", 2)) == {}


def test_shares_are_of_the_time_between_the_first_call_and_the_last() -> None:
    shares = spend(
        ("photos", 30), ("model", 50), ("disk", 1), ("photos", 1), ("model", 14), (None, 2), ("model", 2), ("disk", 99)
    )  # fmt: skip
    assert shares == {"model": 0.8, "photos": 0.05, "disk": 0.05}


def test_a_call_that_breaks_counts_as_work() -> None:
    clock = Clock()
    busy = Busy(clock)
    for _ in range(2):
        try:
            with busy.at("model"):
                clock.now += 4
                raise ValueError
        except ValueError:
            pass
    assert busy.shares() == {"model": 1.0, "photos": 0.0, "disk": 0.0}
