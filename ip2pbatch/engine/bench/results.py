"""What was measured, as a JSON file that grows pass by pass, so that a stopped benchmark goes on where it was."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ip2pbatch.disk.atomic import write_atomic
from ip2pbatch.engine.bench.contenders import Pass
from ip2pbatch.engine.bench.gate import Likeness
from ip2pbatch.engine.bench.rates import Rate
from ip2pbatch.errors import UsageError

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Checked:
    """A contender before it is timed: seconds to load and for its first call (compilation included), the likeness of
    its pictures, and whether the gate let it through."""

    load_seconds: float
    first_seconds: float
    likeness: Likeness
    floor: float
    passed: bool


@dataclass(slots=True)
class Results:
    """All figures of one suite on one machine. `identity` is what may not change between two calls that add to it.

    Figures are by contender in the order of the suite; `products` are the TFLOP/s that the device gives at its best by
    precision, and `limits` those of each product and convolution that was tried; older files know a product alone.
    """

    suite: str
    identity: dict[str, Any]
    facts: dict[str, Any] = field(default_factory=dict)
    checked: dict[str, Checked] = field(default_factory=dict)
    passes: dict[str, list[Pass]] = field(default_factory=dict)
    products: dict[str, float] = field(default_factory=dict)
    limits: dict[str, dict[str, float]] = field(default_factory=dict)
    rates: dict[str, list[Rate]] = field(default_factory=dict)
    fresh: dict[str, dict[str, float]] = field(default_factory=dict)
    start: dict[str, float] = field(default_factory=dict)
    finished: bool = False

    def save(self, file: Path) -> None:
        """As JSON, whole or not at all."""
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(file, json.dumps({"format": FORMAT, **asdict(self)}, indent=1).encode() + b"\n")


def load(file: Path) -> Results:
    """The Results in `file`; UsageError where it holds something else."""
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
        if data.pop("format") != FORMAT:
            raise ValueError("it was written by another version")
        data["checked"] = {name: _checked(one) for name, one in data["checked"].items()}
        data["passes"] = {name: [Pass(**one) for one in some] for name, some in data["passes"].items()}
        data["rates"] = {name: [Rate(**one) for one in some] for name, some in data["rates"].items()}
        return Results(**data)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{file} is no result of `ip2pbatch bench`: {error}", hint="move it away") from error


def open_results(file: Path, suite: str, identity: Mapping[str, Any]) -> Results:
    """The Results in `file` to go on with, or new ones. Raises UsageError where the file's are of something else."""
    if not file.exists():
        return Results(suite, dict(identity))
    found = load(file)
    for key, value in json.loads(json.dumps(identity)).items():
        if found.identity.get(key) != value:
            raise UsageError(
                f"{file} was measured with {key} {found.identity.get(key)}, now it is {value}",
                hint="measure it --anew, or give another --results folder",
            )
    return found


def file_of(folder: Path, suite: str, device: str, name: str) -> Path:
    """Where a suite's Results on a machine lie: each GPU, and each kind of processor, has a file of its own. `name` is
    the device's, which different processors may share.
    """
    kind = f"{name} {_kind_of_processor()}" if device == "cpu" else name
    return folder / f"{suite}-{re.sub(r'[^a-z0-9]+', '-', kind.lower()).strip('-')}.json"


def _kind_of_processor() -> str:
    """Its maker's numbers for it, where the system tells them."""
    with suppress(OSError):
        told = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        found = [re.search(rf"^{key}\s*: (\d+)$", told, re.M) for key in ("cpu family", "model")]
        return " ".join(f"{one[0].partition(':')[0].split()[-1]} {one[1]}" for one in found if one)
    return ""


def _checked(one: dict[str, Any]) -> Checked:
    return Checked(**(one | {"likeness": Likeness(**one["likeness"])}))
