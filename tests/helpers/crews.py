"""Crews of worker processes on the fake engine, which go wrong on purpose: what is here is imported by the workers."""

from __future__ import annotations

import errno
import itertools
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from runs import SPEC, Wrapped

from ip2pbatch.disk.atomic import disk_error, write_atomic
from ip2pbatch.errors import MissingError, ModelError, ResourceError
from ip2pbatch.pictures.deliver import DeliverySettings
from ip2pbatch.plan.edits import Edit, Plan
from ip2pbatch.plan.names import output_names
from ip2pbatch.plan.written.outputs import Output
from ip2pbatch.run.deliveries import Deliverer
from ip2pbatch.run.devices import distant
from ip2pbatch.run.devices.crew import Crew
from ip2pbatch.run.devices.foreman import share_out
from ip2pbatch.run.devices.links import Launcher
from ip2pbatch.run.devices.wire import Identity, Load, Opening
from ip2pbatch.run.directory.ledger import open_run
from ip2pbatch.run.directory.lines import Invocation
from ip2pbatch.run.engine import EditEngine
from ip2pbatch.run.events import Events, Quiet
from ip2pbatch.run.execute import Options, Summary
from ip2pbatch.run.stop import Stop


@dataclass(frozen=True)
class Fault:
    """How the worker on a device goes wrong. `kills` are Edits that end its process, `diary` is a file that notes
    each Edit before it is made, `wait` are seconds an Edit takes; `spoilt` is a file that a kill leaves, and where it
    lies a worker ends as it starts. Its disk is `full` after so many files, its clock `ahead` by so many seconds.
    """

    missing: bool = False
    unloadable: bool = False
    another: bool = False
    cramped: bool = False
    kills: frozenset[str] = frozenset()
    determinism: str = "stable"
    diary: Path | None = None
    wait: float = 0.0
    spoilt: Path | None = None
    full: int | None = None
    ahead: float = 0.0

    def set_machine(self) -> None:
        """Have this process find its machine so."""
        now, files, write = time.time, itertools.count(1), write_atomic

        def refuse(path: Path, *given: Any, **named: Any) -> None:
            if self.full is not None and next(files) > self.full:
                raise disk_error(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), path)
            write(path, *given, **named)

        vars(distant)["write_atomic"] = refuse
        vars(time)["time"] = lambda: now() + self.ahead


@dataclass(frozen=True)
class FakeOpening:
    """Opens the fake engine with the Fault of its device."""

    device: str
    fault: Fault = field(default_factory=Fault)

    def __call__(self, note: Callable[[str], None]) -> tuple[Identity, Callable[[], EditEngine]]:
        if self.fault.missing:
            raise MissingError(f"this machine has no {self.device}", hint="leave it out")
        if self.fault.full is not None or self.fault.ahead:
            self.fault.set_machine()
        spec = replace(
            SPEC, determinism=self.fault.determinism, precision="fp16" if self.fault.another else SPEC.precision
        )
        return Identity(spec, self.device, ("cuda:0", "cuda:1")), self._engine

    def _engine(self) -> EditEngine:
        if self.fault.unloadable:
            raise ModelError("the weights cannot be read", hint="fetch the model again")
        if self.fault.spoilt and self.fault.spoilt.exists():
            os.kill(os.getpid(), signal.SIGKILL)
        return Wrapped(before=self._before, batch=4)

    def _before(self, edits: Sequence[Edit]) -> None:
        if self.fault.cramped:
            raise ResourceError("out of memory at the smallest batch", hint="choose a smaller size")
        if self.fault.kills.intersection(edit.key for edit in edits):
            if self.fault.spoilt:
                self.fault.spoilt.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if self.fault.diary:
            with self.fault.diary.open("a") as file:
                file.write("".join(f"{edit.key} {os.getpid()}\n" for edit in edits))
        time.sleep(self.fault.wait * len(edits))


def by_crew(
    out: Path, plan: Plan, devices: Sequence[str] = ("cpu", "cpu"), *, fault: Fault = Fault(),
    faults: dict[str, Fault] | None = None, stop: Stop | None = None, notes: list[str] | None = None,
    events: Events | None = None, quiet: float = 15.0, lost: float = 60.0,
    watching: Callable[[Crew], None] = lambda crew: None, launcher: Launcher | None = None, room: float = 900.0,
    photos: Sequence[Path] = (), opening: Opening | None = None,
) -> Summary:  # fmt: skip
    """`runs.carry_out` by several processes, or by what `launcher` starts. Raises what ends a run."""
    said = [] if notes is None else notes

    def opens(device: str, workers: int) -> Opening:
        return opening or FakeOpening(device, (faults or {}).get(device, fault))

    with Crew(devices, opens, said.append, launcher, quiet=quiet, lost=lost, room=room) as crew:
        spec = crew.open().spec
        with open_run(out, spec) as run:
            run.begin_session(plan, Invocation("2026-01-01T00:00:00Z", "run"))
            names = output_names(plan, Output(folder=out), numbers=run.number(plan.photos))
            options = Options(deliver=Deliverer(run, plan, names, DeliverySettings(), "unique"))
            crew.load(Load.of(run, options), photos)
            watching(crew)
            return share_out(plan, plan, run, crew, options, events or Quiet(), stop or Stop())
