"""The near end: workers as actors, which are started where a cluster has room, asked what they say, and found dead."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from types import ModuleType
from typing import Any

from ip2pbatch.errors import ENVIRONMENT, USAGE
from ip2pbatch.run.devices.far_end import FarEnd
from ip2pbatch.run.devices.links import Link
from ip2pbatch.run.devices.processes import PATIENCE
from ip2pbatch.run.devices.wire import Beat, Trouble
from ip2pbatch.run.on_ray.actor import Actor, versions_of
from ip2pbatch.run.on_ray.capacity import Room

_GRACE = 5.0  # seconds that a worker may take to end once it was told to
_GROUPS = {"say": 1, "words": 1}  # a thread each, so that something can be said while somebody listens


class RayActors:
    """The Launcher of `--on ray`: each is a `worker` with what `room` says, and has the `versions` of this process.

    An actor that ends is not started again by Ray, nor is a call repeated: who is lost is the crew's to replace.
    """

    apart: bool = True

    def __init__(self, ray: ModuleType, room: Room, versions: Mapping[str, str], worker: type[FarEnd]) -> None:
        self._ray, self._room = ray, room
        self._worker = f"{worker.__module__}:{worker.__qualname__}"
        self._versions = {**versions_of(()), **versions}
        self.least: int | None = room.least
        self._actor = ray.remote(
            num_cpus=room.cpus, num_gpus=room.gpus, max_restarts=0, max_task_retries=0, concurrency_groups=_GROUPS,
            scheduling_strategy="SPREAD",
        )(Actor)  # fmt: skip

    def names(self, devices: Sequence[str]) -> list[str]:
        """By number: where one is, is known when it is there."""
        return [f"worker-{number}" for number in range(1, len(devices) + 1)]

    def start(self, name: str, device: str, workers: int) -> ActorLink:
        """It is there as soon as some node has room."""
        return ActorLink(self._ray, self._actor.remote(list(self._versions), self._worker), self._versions)

    def heard(self, links: Sequence[Link], seconds: float) -> Sequence[Link]:
        """See Launcher. What was said to them since is told them first, each in one call."""
        ours = [link for link in links if isinstance(link, ActorLink)]
        for link in ours:
            link.ask()
        there = [link for link in ours if link.is_gone or link.has_more()]
        coming = {link.coming: link for link in ours if link not in there}
        if not coming:
            time.sleep(0 if there else seconds)
            return there
        ready, rest = self._ray.wait(list(coming), num_returns=1, timeout=0 if there else seconds)
        if ready and rest:
            ready += self._ray.wait(rest, num_returns=len(rest), timeout=0)[0]
        return [*there, *(coming[one] for one in ready)]

    def beside(self, workers: int) -> int:
        """As many as fit on the largest node."""
        return min(workers, self._room.beside)


class ActorLink:
    """A Link to one actor. `coming` is the answer that is waited for, None where it was not asked, or `is_gone`.

    Each call to it costs this process about as much as what is said does, so that an answer and the next question are
    one: a worker is asked when the crew listens, and told then what was said to it since.
    """

    def __init__(self, ray: ModuleType, actor: Any, versions: Mapping[str, str]) -> None:
        self.place: str | None = None
        self.process = 0
        self.coming: Any = None
        self._ray, self._actor, self._versions = ray, actor, versions
        self._say = actor.say.options(concurrency_group="say", num_returns=0)
        self._ask = actor.words.options(concurrency_group="words")
        self._telling: list[object] = []
        self._told = 0
        self._words: deque[object] = deque()
        self.is_gone, self._how = False, "ended"
        self.ask()

    def say(self, word: object) -> None:
        """See Link. It is told when the crew listens next, and not before it has said which versions it has."""
        if self.is_gone:
            raise BrokenPipeError(self._how)
        self._telling.append(word)

    def ask(self) -> None:
        """Have it told what was said to it, and asked for what it says."""
        if self.is_gone or (self.coming is not None and not self._telling):
            return
        telling, before = (self._telling, self._told) if self.place is not None else ([], 0)
        if self.coming is None:
            self.coming = self._ask.remote(telling, before)
        elif telling:
            self._say.remote(telling, before)
        if telling:
            self._telling, self._told = [], before + len(telling)

    def hear(self) -> Any:
        """See Link."""
        if not self._words:
            self._fetch()
        return self._words.popleft()

    def has_more(self) -> bool:
        """See Link."""
        return bool(self._words)

    def _fetch(self) -> None:
        if self.is_gone:
            raise EOFError(self._how)
        self.ask()
        try:
            words = self._ray.get(self.coming, timeout=PATIENCE)
        except self._ray.exceptions.GetTimeoutError as error:
            raise BlockingIOError(str(error)) from error
        except self._ray.exceptions.RayError as error:
            self.coming, self.is_gone, self._how = None, True, how(error)
            if self.place is None and (reason := unable(error)):
                self._words.append(Trouble(ENVIRONMENT, reason, "the same ip2pbatch is to be on all nodes"))
                return
            raise EOFError(self._how) from error
        self.coming = None
        if not words:
            self.is_gone = True
            raise EOFError(self._how)
        self._words.extend(self._greeted(words) if self.place is None else words)

    def _greeted(self, words: list[Any]) -> list[Any]:
        """Its first word is who it is, and may be the only one so far: then it gives a sign of life."""
        greeting = words[0]
        self.place, self.process = greeting["place"], greeting["process"]
        if differs := unlike(greeting["versions"], self._versions):
            return [Trouble(USAGE, differs, "install the same versions on all nodes, as one image does")]
        return [Beat(""), *words[1:]]

    def kill(self) -> None:
        """See Link: what it says from now on is not heard, whether Ray finds its process or not."""
        self.coming, self.is_gone = None, True
        with suppress(self._ray.exceptions.RayError):
            self._ray.kill(self._actor, no_restart=True)

    def end(self) -> str:
        """See Link. Safe to call twice."""
        until = time.monotonic() + _GRACE
        while not self.is_gone and self.place is not None and time.monotonic() < until:
            self.ask()
            if self._ray.wait([self.coming], timeout=0.1)[0]:
                self._words.clear()
                with suppress(EOFError, BlockingIOError):
                    self._fetch()
        self.kill()
        return self._how


def unlike(theirs: Mapping[str, str], ours: Mapping[str, str]) -> str:
    """In which version a worker is not what this process is, "" where it is that."""
    for name in (*ours, *sorted(set(theirs) - set(ours))):
        there, here = theirs.get(name, "none"), ours.get(name, "none")
        if there != here:
            return f"it has {name} {there}, and this process {here}"
    return ""


def unable(error: BaseException) -> str:
    """What a node lacks of this package, "" where an actor ended for another reason."""
    lines = [line.strip() for line in str(error).splitlines()]
    return next((line for line in reversed(lines) if line.startswith(("ModuleNotFoundError", "ImportError"))), "")


def how(error: BaseException) -> str:
    """How Ray says that an actor has ended, in few words."""
    said = str(error)
    if "memory on the node" in said or "OutOfMemory" in type(error).__name__:
        return "was ended by Ray, for its node was out of memory"
    if "is unavailable" in said or "node has died" in said:
        return "is not reached any more, as where its node is lost"
    return "has ended without a word, as where it is killed or memory runs out"
