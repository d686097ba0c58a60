"""What the parent of a run and its workers say to each other, over a line that both read till its end.

A worker hears Open, Load, Deal, Written, Reserved, Drain and Close; it says Opened, Ready, Write, Ask, Beat, Told, Over
and, where it cannot go on, Trouble.
"""

from __future__ import annotations

import os
import socket
import struct
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

from ip2pbatch.errors import BUG, Ip2pError, MissingError, ResourceError
from ip2pbatch.pictures.deliver import DeliverySettings
from ip2pbatch.pictures.marks.signer import Signer
from ip2pbatch.pictures.placing import Conflict
from ip2pbatch.plan.limits import Limits
from ip2pbatch.run.deliveries import Deliverer
from ip2pbatch.run.devices.dealing import Group
from ip2pbatch.run.directory.ledger import Run
from ip2pbatch.run.directory.lines import Delivery, EngineSpec, Record, Status
from ip2pbatch.run.engine import EditEngine
from ip2pbatch.run.execute import Options, Score


@dataclass(frozen=True, slots=True)
class Identity:
    """What a worker's pictures hang on. `device` is as its maker calls it, of a CPU with its threads; `devices` are all
    that the worker's machine has.
    """

    spec: EngineSpec
    device: str
    devices: tuple[str, ...] = ()


def unsigned() -> Signer | None:
    """What signs nothing."""
    return None


class Opening(Protocol):
    """What a worker opens its engine with: it is pickled, and knows what a model is."""

    def __call__(self, note: Callable[[str], None]) -> tuple[Identity, Callable[[], EditEngine]]:
        """The engine's identity, and what opens it; `note` hears of what was decided. Raises Ip2pErrors."""
        ...


@dataclass(frozen=True, slots=True)
class Open:
    """Say who you are: the parent's first word."""

    opening: Opening


@dataclass(frozen=True, slots=True)
class Load:
    """The run to work for, with its directory `folder` and files below `files`, and how, beside how many others.
    `signer` makes what signs files: a key is read where it is used. `device` is noted with each picture, "" where all
    have the same. `seen` are files with their sizes that workers of other machines need to see as this one does; none
    where all are on this one.
    """

    root: Path
    folder: Path
    files: Path
    spec: EngineSpec
    delivery: DeliverySettings
    on_conflict: Conflict
    queue: bool
    redo: frozenset[Status]
    score: Score | None
    signer: Callable[[], Signer | None]
    workers: int
    device: str = ""
    seen: Mapping[Path, int] = field(default_factory=dict)

    @classmethod
    def of(
        cls, run: Run, deliver: Deliverer, options: Options, signer: Callable[[], Signer | None], workers: int,
        seen: Mapping[Path, int],
    ) -> Load:  # fmt: skip
        return cls(
            run.root, run.layout.folder, run.files, run.spec, deliver.settings, deliver.on_conflict, deliver.queue,
            options.redo, options.score, signer, workers, seen=seen,
        )  # fmt: skip

    def refuse_unseen(self) -> None:
        """Raises MissingError where a worker of another machine does not see what its parent sees. A network disk may
        show a new file somewhat later.
        """
        until = time.monotonic() + _SEEN_AFTER
        for path, size in self.seen.items():
            while not _is_seen(path, size):
                if time.monotonic() > until:
                    raise MissingError(
                        f"it does not see {path}, which is there on the machine of the run",
                        hint="photos and output lie on a disk that all nodes see under the same path",
                    )
                time.sleep(_LOOK)


_SEEN_AFTER, _LOOK = 10.0, 0.2  # seconds within which it appears, and between two looks


def _is_seen(path: Path, size: int) -> bool:
    with suppress(OSError):
        return path.stat().st_size == size
    with suppress(OSError):
        any(path.parent.iterdir())  # a network disk remembers what was not there, until its folder is read
    return False


@dataclass(frozen=True, slots=True)
class Deal:
    """A group to make, with what is known of its Edits and files; everything said about it names its epoch."""

    epoch: int
    group: Group
    records: Mapping[str, Record]
    deliveries: Mapping[tuple[str, str], Delivery]
    announced: Mapping[tuple[str, str], Delivery]
    earlier: Mapping[tuple[str, str], Mapping[str, str]]


@dataclass(frozen=True, slots=True)
class Written:
    """What was said under this number is on the disk, or is not, for the reason of `trouble`."""

    number: int
    trouble: ResourceError | None = None


@dataclass(frozen=True, slots=True)
class Reserved:
    """Whether the name that was asked about is one of the plan's."""

    number: int
    taken: bool


@dataclass(frozen=True, slots=True)
class Drain:
    """Finish the batch at hand, and write what is made."""


@dataclass(frozen=True, slots=True)
class Close:
    """There is nothing more to do."""


@dataclass(frozen=True, slots=True)
class Opened:
    """The answer to Open."""

    identity: Identity


@dataclass(frozen=True, slots=True)
class Ready:
    """The engine is loaded."""

    limits: Limits
    steps: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Write:
    """Records and deliveries (announced ones say so) to be written; answered by Written."""

    epoch: int
    number: int
    records: tuple[Record, ...] = ()
    deliveries: tuple[Delivery, ...] = ()

    @property
    def is_urgent(self) -> bool:
        """Whether something waits for it: nothing does for a file that is there."""
        return bool(self.records) or any(one.begun for one in self.deliveries)


@dataclass(frozen=True, slots=True)
class Ask:
    """Whether a name is one of the plan's; answered by Reserved."""

    number: int
    name: str


@dataclass(frozen=True, slots=True)
class Beat:
    """I am alive, and at work on `doing`."""

    doing: str


@dataclass(frozen=True, slots=True)
class Told:
    """Something that a run notes down or a person is told: see Run.note and Events."""

    event: str
    detail: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Over:
    """A group is done with: what its run's Summary says of files, back-offs and the model's time."""

    epoch: int
    undelivered: tuple[tuple[str, str], ...]
    notes: Mapping[str, int]
    shrunk: int
    seconds: float
    busy: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why a worker cannot go on, as the error that it met would have ended a command."""

    code: int
    message: str
    hint: str | None = None
    trace: str = field(default="", repr=False)

    @classmethod
    def of(cls, error: BaseException) -> Trouble:
        trace = "".join(traceback.format_exception(error))
        if isinstance(error, Ip2pError):
            return cls(error.exit_code, str(error), error.hint, trace)
        return cls(BUG, f"{type(error).__name__}: {error}", None, trace)


class Line:
    """One end of a line: several threads may say something, one reads. Where `patience` is given, whoever waits in the
    middle of a message for so many seconds has an OSError: a process that is stopped there would hold up this one.
    """

    def __init__(self, connection: Connection[Any, Any], patience: float | None = None) -> None:
        self.connection, self._saying = connection, threading.Lock()
        if patience is not None:
            with socket.socket(fileno=os.dup(connection.fileno())) as line:
                for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
                    line.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", *divmod(int(patience * 1e6), 10**6)))

    def say(self, message: object) -> None:
        """Raises OSError where the other end is gone."""
        with self._saying:
            self.connection.send(message)

    def hear(self) -> Any:
        """The next message. Raises EOFError or OSError where the other end is gone."""
        return self.connection.recv()

    def close(self) -> None:
        self.connection.close()
