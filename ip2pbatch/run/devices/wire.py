"""What the parent of a run and its workers say to each other, over a line that both read till its end.

A worker hears Open, Load, Deal, Written, Reserved, Drain and Close; it says Opened, Ready, Write, Ask, Beat, Told, Over
and, where it cannot go on, Trouble. Work of another kind has words of its own for what these say of Edits: it builds on
Order, Entry and Finished, and on what a crew asks of Who.
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
from dataclasses import dataclass, field, fields
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, ClassVar, Protocol

from ip2pbatch.errors import BUG, Ip2pError, MissingError, ResourceError
from ip2pbatch.pictures.deliver import DeliverySettings
from ip2pbatch.pictures.marks.signer import Signer
from ip2pbatch.pictures.placing import Conflict
from ip2pbatch.plan.limits import Limits
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

    @property
    def is_exact(self) -> bool:
        """Whether all workers make their calls alike, to the last bit."""
        return self.spec.determinism == "bitwise"

    def unlike(self, first: Identity) -> str:
        """In what this is not what the first worker is, "" where it is that."""
        for name in (part.name for part in fields(EngineSpec)):
            mine, theirs = getattr(self.spec, name), getattr(first.spec, name)
            if mine != theirs:
                return f"is another engine: its {name.replace('_', ' ')} is {mine}, not {theirs}"
        if self.is_exact and self.device != first.device:
            return f"is another engine: it is {self.device}, not {first.device}, and bits hang on that"
        return ""


class Who(Protocol):
    """What a crew asks of what a worker is, which `unlike` compares with what another one is."""

    @property
    def device(self) -> str: ...

    @property
    def devices(self) -> tuple[str, ...]: ...

    @property
    def is_exact(self) -> bool: ...

    def unlike(self, first: Any) -> str: ...


def unsigned() -> Signer | None:
    """What signs nothing."""
    return None


class Opening(Protocol):
    """What a worker opens its engine with: it is pickled, and knows what a model is."""

    def __call__(self, note: Callable[[str], None]) -> tuple[Identity, Callable[[], EditEngine]]:
        """The engine's identity, and what opens it; `note` hears of what was decided. Raises Ip2pErrors."""
        ...


Begins = Callable[[Callable[[str], None]], tuple[Who, Any]]
"""An Opening, or what another kind of work begins with: what the worker is, and what it works with."""


@dataclass(frozen=True, slots=True)
class Open:
    """Say who you are: the parent's first word."""

    opening: Begins


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What is to be loaded, for work in `folder`. The crew says the rest: beside how many others; `device` is noted
    with what is made, "" where all have the same; `seen` are files with their sizes that workers of other machines need
    to see as this one does, none where all are on this one.
    """

    folder: Path
    workers: int = 1
    device: str = ""
    seen: Mapping[Path, int] = field(default_factory=dict)

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Load(Order):
    """The run to work for, with its directory `folder` and files below `files`, and how. `signer` makes what signs
    files: a key is read where it is used.
    """

    root: Path
    files: Path
    spec: EngineSpec
    delivery: DeliverySettings
    on_conflict: Conflict
    queue: bool
    redo: frozenset[Status]
    score: Score | None
    signer: Callable[[], Signer | None]

    @classmethod
    def of(cls, run: Run, options: Options, signer: Callable[[], Signer | None] = unsigned) -> Load:
        deliver = options.deliver
        assert deliver is not None, "a run of several processes delivers"
        return cls(
            root=run.root, folder=run.layout.folder, files=run.files, spec=run.spec, delivery=deliver.settings,
            on_conflict=deliver.on_conflict, queue=deliver.queue, redo=options.redo, score=options.score,
            signer=signer,
        )  # fmt: skip


_SEEN_AFTER, _LOOK = 10.0, 0.2  # seconds within which it appears, and between two looks


def _is_seen(path: Path, size: int) -> bool:
    with suppress(OSError):
        return path.stat().st_size == size
    with suppress(OSError):
        any(path.parent.iterdir())  # a network disk remembers what was not there, until its folder is read
    return False


class Portion(Protocol):
    """What is dealt at once: `size` of them, called by the `name` of the first."""

    @property
    def name(self) -> str: ...

    @property
    def size(self) -> int: ...


class Dealt(Protocol):
    """A portion on its way; everything said about it names its epoch."""

    @property
    def epoch(self) -> int: ...

    @property
    def group(self) -> Portion: ...


@dataclass(frozen=True, slots=True)
class Deal:
    """A group to make, with what is known of its Edits and files."""

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

    identity: Who


class Loaded:
    """The answer to an Order."""

    __slots__ = ()
    differs: ClassVar[str]
    """What is said of a worker whose answer is another than the first one's."""
    fit: ClassVar[str]
    """What mends that."""


@dataclass(frozen=True, slots=True)
class Ready(Loaded):
    """The engine is loaded."""

    differs: ClassVar[str] = "makes its calls in another way than the others: last bits of pictures may differ"
    fit: ClassVar[str] = "leave it out, or use --determinism stable"

    limits: Limits
    steps: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Entry:
    """What is to be written; answered by Written."""

    epoch: int
    number: int

    @property
    def has_made(self) -> bool:
        """Whether it says that something was made."""
        return False

    @property
    def is_urgent(self) -> bool:
        """Whether something waits for it."""
        return True


@dataclass(frozen=True, slots=True)
class Write(Entry):
    """Records and deliveries (announced ones say so) to be written."""

    records: tuple[Record, ...] = ()
    deliveries: tuple[Delivery, ...] = ()

    @property
    def has_made(self) -> bool:
        return any(record.status == "done" for record in self.records)

    @property
    def is_urgent(self) -> bool:
        """Nothing waits for a file that is there."""
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
class Finished:
    """A group is done with, in so many seconds of work."""

    epoch: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Over(Finished):
    """The same of Edits: what the group's run's Summary says of files, back-offs and the model's time."""

    undelivered: tuple[tuple[str, str], ...]
    notes: Mapping[str, int]
    shrunk: int
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
