"""What can make pictures, by the name that `--backend` takes. Adding one is a module and a line here.

    module.choose(model, machine, safety=…, edits=…, note=…)   identity, and what opens the engine

A module is imported when its backend is asked for. `BackendModule` says what it has to offer.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, cast

from ip2pbatch.errors import UsageError

if TYPE_CHECKING:
    from ip2pbatch.plan.edits import Edit
    from ip2pbatch.run.directory.lines import EngineSpec
    from ip2pbatch.run.engine import EditEngine
    from ip2pbatch.run.machine import Finding, Machine

BACKENDS: dict[str, str] = {
    "torch": "ip2pbatch.engine.on_torch",
    "onnx": "ip2pbatch.engine.on_onnx",
    "openvino": "ip2pbatch.engine.on_openvino",
    "fake": "ip2pbatch.engine.on_fake",
}


class BackendModule(Protocol):
    """The functions of a backend's module."""

    def choose(
        self, model: str, machine: Machine, *, safety: bool, edits: Sequence[Edit], note: Callable[[str], None]
    ) -> tuple[EngineSpec, Callable[[], EditEngine]]:
        """The engine's identity, and what opens it. `edits` are what it will be asked for. Raises Ip2pErrors."""
        ...

    def device_name(self, machine: Machine) -> str:
        """The device behind the flags as its maker calls it, and what else its bits hang on."""
        ...

    def devices(self) -> Sequence[str]:
        """What `--devices all` means here: each GPU that it can use, or else the CPU."""
        ...

    def libraries(self) -> Mapping[str, str]:
        """The versions of what its pictures hang on, beside the libraries that all backends share."""
        ...

    def is_known_as(self, model: str, digest: str) -> bool:
        """Whether a run with this digest was made with `model`, as it is here. Fetches nothing."""
        ...

    def files(self, model: str, *, safety: bool) -> tuple[str, Mapping[str, str]]:
        """Revision, and the digest of each file of a model, of its safety checker where `safety` loads it. Fetches
        nothing; raises ModelError.
        """
        ...

    def as_made(self, spec: EngineSpec, batch: int, steps: tuple[str, ...] | None) -> Machine:
        """The flags that make pictures as they were made; ValueError where there are none."""
        ...

    def findings(self) -> Iterator[Finding]:
        """What of this machine it depends on, for `doctor`."""
        ...


def backend(name: str) -> BackendModule:
    """The module of a backend. Raises UsageError for a name that is none."""
    if name not in BACKENDS:
        raise UsageError(f"there is no backend {name}", hint=f"backends are {', '.join(BACKENDS)}")
    return cast(BackendModule, importlib.import_module(BACKENDS[name]))
