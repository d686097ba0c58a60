"""The backend `fake`: tinted, captioned photos, to try recipes, names, sheets and disk without a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from ip2pbatch.engine.fake import FakeEngine
from ip2pbatch.plan.edits import Edit
from ip2pbatch.run.directory.lines import EngineSpec
from ip2pbatch.run.engine import EditEngine
from ip2pbatch.run.machine import Determinism, Finding, Machine, Precision, interval_in


def choose(
    model: str, machine: Machine, *, safety: bool, edits: Sequence[Edit], note: Callable[[str], None]
) -> tuple[EngineSpec, Callable[[], EditEngine]]:
    """Any model's name will do: none is looked at."""
    return EngineSpec(model, "fake", "fake", "cpu", "uint8", str(machine.determinism)), FakeEngine


def device_name(machine: Machine) -> str:
    """It needs no device."""
    return "cpu"


def devices() -> Sequence[str]:
    """The CPU."""
    return ("cpu",)


def libraries() -> Mapping[str, str]:
    """None beside what all backends share."""
    return {}


def is_known_as(model: str, digest: str) -> bool:
    """Every model has the digest of none."""
    return digest == "fake"


def files(model: str, *, safety: bool) -> tuple[str, Mapping[str, str]]:
    """A model that is not looked at has no files."""
    return "", {}


def as_made(spec: EngineSpec, batch: int, steps: tuple[str, ...] | None) -> Machine:
    """The flags of a run that was made with it."""
    interval = interval_in(spec.approximations)
    return Machine(
        "fake", spec.provider, Precision.AUTO, Determinism(spec.determinism), batch, interval=interval
    )  # fmt: skip


def findings() -> Iterator[Finding]:
    """It depends on nothing."""
    return iter(())
