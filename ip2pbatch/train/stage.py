"""What a module of a training stage says of itself, as its `STAGE`. Never: how a stage is run."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from ip2pbatch.plan.written.yaml_source import Mistake, suggest

if TYPE_CHECKING:
    from ip2pbatch.train.estimates import Estimate
    from ip2pbatch.train.row_work import RowWork


def _nothing(settings: Any, counts: Estimate) -> Estimate:
    return counts


def _unmeasured(settings: Any, metrics: Mapping[str, float]) -> tuple[str, float]:
    return "", 0.0


def _fits(settings: Any, inputs: Mapping[str, str]) -> Iterable[Mistake]:
    return ()


def _none_idle(settings: Any) -> Collection[str]:
    return ()


def _at_the_beginning(settings: Any, folder: Path, record: Mapping[str, Any]) -> int:
    return 0


def _no_judges(settings: Any) -> Mapping[str, Path]:
    return {}


def misfits(inputs: Mapping[str, str], known: Iterable[str], needed: Iterable[str] = ()) -> Iterator[Mistake]:
    """Inputs that a stage does not read, and those of `needed` that it has not."""
    known = list(known)
    for name in inputs:
        if name not in known:
            hint = suggest(name, known) or f"it builds on {' or '.join(known) or 'nothing'}"
            yield Mistake(f"{name} is no input of this stage", hint=hint, at=("inputs", name))
    for name in needed:
        if name not in inputs:
            yield Mistake(f"{name} is missing among them", hint=f"inputs: {{{name}: {name}.yaml}}", at=("inputs",))


def unread(inputs: Iterable[str], read: Iterable[str | None], by: str) -> Iterator[Mistake]:
    """Inputs that these settings do not read: they and all before them would be made for nothing."""
    read = list(read)
    for name in inputs:
        if name not in read:
            hint = f"remove it, or name it {by}"
            yield Mistake(f"{name} is made for nothing: no setting reads it", hint=hint, at=("inputs", name))


def one_source(key: str, value: object, inputs: Iterable[str]) -> Iterator[Mistake]:
    """Where a stage reads one thing, a setting or an input must name it, and not both: one would win in silence."""
    named = list(inputs)
    if value is not None and named:
        said = f"stands beside the input {' and '.join(named)}, and only one of them can be read"
        yield Mistake(said, hint=f"remove `{key}` or the input", at=(key,))
    elif value is None and len(named) != 1:
        said = f"names {', '.join(named)}, of which only one can be read" if named else f"names nothing, nor does {key}"
        yield Mistake(said, hint=f"give one input, or `{key}: PATH` and none", at=("inputs",))


@dataclass(frozen=True)
class Stage:
    """`run(config, inputs, folder, photos) -> metrics` writes into `folder` and goes on where it was interrupted.

    `config` is the form of its settings; one that has a `maker` field is handed it. Who changes what comes out raises
    `version`. A stage that can be split has `rows(config, inputs, folder)`; its `run` is given a shard as well, makes
    that part and returns None while others are not made. A `distributed` one may be run by several processes at once,
    as torchrun starts them. The others see the photos through their inputs at most, unless it `reads_photos`.

    `estimate(settings, counts)` adds to the counts of its inputs what it will make and take, and `rate(settings,
    metrics)` says the unit of its work and how much of that it did a second, 0 where it measured none.

    `check(settings, inputs)` yields what does not fit together, before anything runs: `inputs` has the stage of each
    input by its name. `judges(settings)` are files that decide the result and that no setting names;
    `idle(settings)` are keys of models that are not read with these settings. `begins_at(settings, folder, record)` is
    the step of a training that it would go on from in that folder, started with what the record says.
    """

    config: type[BaseModel]
    run: Callable[..., dict[str, float] | None]
    version: int
    rows: Callable[[Any, Mapping[str, Path], Path], RowWork] | None = None
    distributed: bool = False
    reads_photos: bool = False
    estimate: Callable[[Any, Estimate], Estimate] = _nothing
    rate: Callable[[Any, Mapping[str, float]], tuple[str, float]] = _unmeasured
    check: Callable[[Any, Mapping[str, str]], Iterable[Mistake]] = _fits
    judges: Callable[[Any], Mapping[str, Path]] = _no_judges
    idle: Callable[[Any], Collection[str]] = _none_idle
    begins_at: Callable[[Any, Path, Mapping[str, Any]], int] = _at_the_beginning
