"""The workers of a run: one a device, what each of them is, and what ends one.

with Crew(devices, opening, note) as crew:
    identity = crew.open()                   # what all of them are
    ready = crew.load(order)                 # of the first that is there
    Foreman(crew, …).work()
"""

from __future__ import annotations

import itertools
import logging
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Generic, Self, TypeVar, cast

from ip2pbatch.disk.atomic import TEMPORARY, write_atomic
from ip2pbatch.errors import ENVIRONMENT, RESOURCES, USAGE, UsageError, WorkerError
from ip2pbatch.run.devices.links import Launcher
from ip2pbatch.run.devices.member import Member
from ip2pbatch.run.devices.processes import Processes
from ip2pbatch.run.devices.wire import Begins, Close, Identity, Loaded, Open, Opened, Order, Ready, Told, Trouble, Who

ALL = "all"
LOOK = 0.2  # seconds that are listened before something else is looked at
_QUIET, _LOST = 15.0, 60.0  # seconds of silence after which a worker is named, and after which it counts as dead
_ROOM = 900.0  # seconds that a cluster may take to have room for a worker: a new node takes minutes
_WORDS = 256  # that are heard of one worker before the others have their turn
_STARTS = 3  # workers in the place of one that worked which end before they can: there is no room for them now
_DEATHS = 20  # workers of a device that end one after another, and nothing is made: it is the device's fault

log = logging.getLogger("ip2pbatch.run")


Is = TypeVar("Is", bound=Who)
Has = TypeVar("Has", bound=Loaded)


class Crew(Generic[Is, Has]):
    """A worker for each of `devices`, started by `launcher`, where it opens what `opening` says; `note` hears what is
    worth knowing. All of them are what the first one is, and answer to their order as it does.

    Used from one thread. At the end of the block no worker is left.
    """

    def __init__(
        self, devices: Sequence[str], opening: Callable[[str, int], Begins], note: Callable[[str], None],
        launcher: Launcher | None = None, *,
        clock: Callable[[], float] = time.monotonic, quiet: float = _QUIET, lost: float = _LOST, room: float = _ROOM,
    ) -> None:  # fmt: skip
        self._devices, self._opening, self.note = tuple(devices), opening, note
        self._launcher: Launcher = launcher or Processes()
        self.clock, self._quiet, self._lost, self._room = clock, quiet, lost, room
        self.members: list[Member] = []
        self.fallen = 0
        self.epochs = itertools.count(1)
        self.trouble: WorkerError | None = None
        self._identity: Is | None = None
        self._load: Order | None = None
        self._ready: Has | None = None
        self._probe: Path | None = None
        self._deaths: Counter[str] = Counter()
        self._looked = self._roomy = clock()
        self._waits = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(now=kind is not None)

    def close(self, *, now: bool = False) -> None:
        """No worker is left; one that is at work may not finish it. Safe to call twice."""
        for member in self.at_work:
            member.kill() if now else member.say(Close())
        for member in self.at_work:
            member.end()
        if self._probe is not None:
            self._probe.unlink(missing_ok=True)

    @property
    def is_apart(self) -> bool:
        """Whether workers may be on other machines."""
        return self._launcher.apart

    @property
    def at_work(self) -> list[Member]:
        """Those that have not ended."""
        return [member for member in self.members if member.state != "gone"]

    def open(self) -> Is:
        """Start all workers and have each say what it is. Raises WorkerError, and UsageError where two differ."""
        if self._devices == (ALL,):
            self._start(ALL, "", 1)
            self._until_open()
            self.close()
            self._devices, self._identity = self.identity.devices, None
            self.members.clear()
        for post, device in zip(self._launcher.names(self._devices), self._devices, strict=True):
            self._start(post, device, len(self._devices))
        self._until_open()
        return self.identity

    @property
    def identity(self) -> Is:
        """What the first worker is, and all others have to be."""
        assert self._identity is not None, "the crew is opened first"
        return self._identity

    @property
    def mixed(self) -> dict[str, str]:
        """The devices by their workers' names, where they are not all the same; empty where they are."""
        found = {one.name: one.identity.device for one in self.members if one.identity is not None}
        return found if len(set(found.values())) > 1 else {}

    def load(self, order: Order, landmarks: Sequence[Path] = ()) -> Has:
        """Have all workers load what `order` says, and return when the first has. Those on other machines need to see
        the folder that they work in, and the files `landmarks`.

        Raises WorkerError where none can.
        """
        beside = self._launcher.beside(len(self.at_work))
        seen = self._landmarks(order.folder, landmarks) if self.is_apart else {}
        self._load = replace(order, workers=beside, seen=seen)
        for member in self.at_work:
            if member.state == "open":
                self._have_load(member)
        while self._ready is None:
            for member, word in self.words():
                self.hear(member, word)
            if self.trouble and not self._there:
                raise self.trouble
        return self._ready

    def _landmarks(self, folder: Path, files: Sequence[Path]) -> dict[Path, int]:
        """Files, with their sizes, that a worker sees where it sees the disk; that in `folder` is the crew's own."""
        self._probe = folder / TEMPORARY.replace("*", f"seen-{secrets.token_hex(8)}")
        there = {path: path.stat().st_size for path in files if path.is_file()}
        return {self._probe: len(_PROBE), **there}

    @property
    def _there(self) -> int:
        """How many workers have said what they are."""
        return sum(member.state not in ("opening", "gone") for member in self.members)

    def words(self, seconds: float = LOOK) -> Iterator[tuple[Member, object]]:
        """What workers say within so many seconds; the Trouble of one whose process has ended is its last word."""
        members = {id(member.link): member for member in self.at_work}
        for link in self._launcher.heard([member.link for member in members.values()], seconds):
            yield from self._words_of(members[id(link)])
        self._look_after()

    def _words_of(self, member: Member) -> Iterator[tuple[Member, object]]:
        for _ in range(_WORDS):
            try:
                word = member.hear()
            except (EOFError, OSError):
                yield member, member.end()
                return
            member.heard, member.silent = self.clock(), False
            yield member, word
            if member.state == "gone" or not member.link.has_more():
                return

    def hear(self, member: Member, word: object) -> None:
        """Answer a word that has nothing to do with groups."""
        if isinstance(word, Opened):
            self._opened(member, word)
        elif isinstance(word, Loaded):
            self._loaded(member, word)
        elif isinstance(word, Told) and word.event == "said" and member is self.members[0]:
            self.note(str(word.detail["text"]))
        elif isinstance(word, Trouble | str):
            self.fell(member, word)

    def fell(self, member: Member, word: Trouble | str) -> None:
        """A worker's process has ended, or it says why it cannot go on: it is named, and not replaced."""
        trouble = word if isinstance(word, Trouble) else Trouble(RESOURCES, word, _RUN_AGAIN)
        member.end()
        self.fallen += 1
        error = WorkerError(f"{member.name}: {trouble.message}", trouble.code, hint=trouble.hint or _LOG)
        log.warning("%s goes on without: %s", member.name, trouble.trace or trouble.message)
        self.trouble = self.trouble or error
        if (self._load is not None or self._is_elastic) and self.at_work:
            self.note(f"{error}; the others go on without it")

    def died(self, member: Member, reason: str) -> None:
        """A worker's process has ended in the middle of its work, or in that of starting in the place of another:
        another one takes its place.
        """
        starts = 0 if member.ready else member.starts
        if starts == _STARTS:
            self.fell(member, f"{reason}, as {_STARTS - 1} workers before it did that had not begun")
            return
        self._deaths[member.post] += 1
        if self._deaths[member.post] >= _DEATHS:
            self.fell(member, f"{reason}, as {_DEATHS} workers before it did that made nothing")
            return
        member.end()
        self.fallen += 1
        self.note(f"{member.name} {reason}: another worker takes its place")
        self.members.remove(member)
        self._start(member.post, member.device, len(self._devices))
        self.members[-1].starts = starts + 1

    def lives(self, member: Member) -> None:
        """A worker has made something."""
        self._deaths.pop(member.post, None)

    @property
    def _is_elastic(self) -> bool:
        return self._launcher.least is not None

    def _start(self, post: str, device: str, workers: int) -> None:
        member = Member(post, device, self._launcher.start(post, device, workers), self.clock())
        self.members.append(member)
        member.say(Open(self._opening(device, workers)))

    def _until_open(self) -> None:
        if (least := self._launcher.least) is not None:
            self._until_least(least)
            return
        while any(member.state == "opening" for member in self.members):
            for member, word in self.words():
                self.hear(member, word)
            if self.trouble:
                raise self.trouble
        self._identity = self._is(self.members[0])
        for member in self.members:
            if why := _unlike(member, self.identity):
                raise UsageError(why, hint=_FIT)

    def _until_least(self, least: int) -> None:
        """As many have opened as it begins with; what the first is, all others have to be."""
        while self._there < least:
            for member, word in self.words():
                self.hear(member, word)
            if self.trouble and len(self.at_work) < least:
                raise self.trouble
            self._look_for_room(f"{self._there} of at least {least} workers are there", len(self._placed) < least)

    def _opened(self, member: Member, word: Opened) -> None:
        member.identity, member.state, member.doing = word.identity, "open", ""
        if self._is_elastic:
            self._identity = self._identity or self._is(member)
        if self._identity is None:  # it is known when all have spoken
            return
        if why := _unlike(member, self._identity):
            self.fell(member, Trouble(USAGE, why, _FIT))
        elif self._load is not None:
            self._have_load(member)

    def _have_load(self, member: Member) -> None:
        assert self._load is not None
        assert member.identity is not None, "it has said what it is"
        if self._probe is not None and not self._probe.exists():  # it is swept away as what killed processes leave
            write_atomic(self._probe, _PROBE)
        member.state, member.doing = "loading", "loading"
        member.say(replace(self._load, device=member.identity.device if self.mixed else ""))

    def _is(self, member: Member) -> Is:
        """What it has said that it is."""
        assert member.identity is not None, "it has said what it is"
        return cast(Is, member.identity)

    def _loaded(self, member: Member, word: Loaded) -> None:
        self._ready = self._ready or cast(Has, word)
        if word != self._ready:
            why = f"{member.name} {word.differs}"
            if self.identity.is_exact:
                self.fell(member, Trouble(USAGE, why, word.fit))
                return
            self.note(why)
        member.state, member.doing, member.ready = "idle", "", True

    def _look_after(self) -> None:
        """Name who is silent, and end who is so for too long: his last word is then heard as any other's."""
        now = self.clock()
        if now - self._looked > self._quiet / 3:  # this process was held up itself, as by ^Z
            self._roomy = now
            for member in self.members:
                member.heard = now
        self._looked = now
        for member in self._placed:
            silence = now - member.heard
            if silence > self._quiet and not member.silent:
                member.silent = True
                at = f", at {member.doing}" if member.doing else ""
                self.note(f"{member.name} has said nothing for {silence:.0f} s{at}")
            if silence > self._lost and member.ready and not member.why:
                member.why = f"was silent for {silence:.0f} s and was ended"
                member.kill()
        if self._load is not None:
            self._look_for_room("no worker is left", bool(self.at_work) and not self._placed)

    @property
    def _placed(self) -> list[Member]:
        """Those that are somewhere, and do not wait for a cluster to have room for them."""
        return [member for member in self.at_work if member.link.place is not None]

    def _look_for_room(self, there: str, waits: bool) -> None:
        """Say so where a cluster has none; raises WorkerError where it has none for too long."""
        now = self.clock()
        if not waits:
            self._roomy, self._waits = now, False
        elif now - self._roomy > self._quiet and not self._waits:
            self._waits = True
            self.note(f"{there}; the cluster has no room for more, which is waited for")
        elif now - self._roomy > self._room:
            hint = "`ray status` says what the cluster has and what is asked of it"
            raise WorkerError(f"{there}, and the cluster had no room in {self._room:.0f} s", ENVIRONMENT, hint=hint)


_PROBE = b"workers of this run see this file\n"
_RUN_AGAIN = "run again to go on; with fewer workers where memory ran out"
_LOG = "the run's log says more"
_FIT = "leave it out, or give flags that fit all"


def _unlike(member: Member, first: Who) -> str:
    """In what a worker is not what the first is, "" where it is that."""
    assert member.identity is not None, "it has said what it is"
    why = member.identity.unlike(first)
    return f"{member.name} {why}" if why else ""


EditCrew = Crew[Identity, Ready]
"""Workers that make pictures."""
