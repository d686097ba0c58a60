"""What a module of a training stage says of itself, as its `STAGE`. Never: how a stage is run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from ip2pbatch.plan.written.yaml_source import Mistake

if TYPE_CHECKING:
    from ip2pbatch.train.estimates import Estimate


def _nothing(settings: Any, counts: Estimate) -> Estimate:
    return counts


def _unmeasured(settings: Any, metrics: Mapping[str, float]) -> tuple[str, float]:
    return "", 0.0


def _fits(settings: Any, inputs: Mapping[str, str]) -> Iterable[Mistake]:
    return ()


def _no_judges(settings: Any) -> Mapping[str, Path]:
    return {}


@dataclass(frozen=True)
class Stage:
    """`run(config, inputs, folder, photos) -> metrics` writes into `folder` and goes on where it was interrupted.

    `config` is the form of its settings; one that has a `maker` field is handed it. Who changes what comes out raises
    `version`. A `sharded` stage is given a shard as well, makes its part and returns None while other parts are not
    made; a `distributed` one may be run by several processes at once, as torchrun starts them. The others see the
    photos through their inputs at most, unless it `reads_photos`.

    `estimate(settings, counts)` adds to the counts of its inputs what it will make and take, and `rate(settings,
    metrics)` says the unit of its work and how much of that it did a second, 0 where it measured none.

    `check(settings, inputs)` yields what does not fit together, before anything runs: `inputs` has the stage of each
    input by its name. `judges(settings)` are files that decide the result and that no setting names.
    """

    config: type[BaseModel]
    run: Callable[..., dict[str, float] | None]
    version: int
    sharded: bool = False
    distributed: bool = False
    reads_photos: bool = False
    estimate: Callable[[Any, Estimate], Estimate] = _nothing
    rate: Callable[[Any, Mapping[str, float]], tuple[str, float]] = _unmeasured
    check: Callable[[Any, Mapping[str, str]], Iterable[Mistake]] = _fits
    judges: Callable[[Any], Mapping[str, Path]] = _no_judges
