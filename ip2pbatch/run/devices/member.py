"""A worker as its parent sees it: what links them, what it has, and when it was last heard of."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ip2pbatch.run.devices.links import Link
from ip2pbatch.run.devices.processes import PATIENCE
from ip2pbatch.run.devices.wire import Dealt, Who

_STUCK = f"was stuck for {PATIENCE:.0f} s in the middle of a message and was ended"

State = Literal["opening", "open", "loading", "idle", "busy", "gone"]


@dataclass(slots=True)
class Member:
    """`post` is what it is, of which there may be several one after another, `device` what it works on. `deals` are by
    their epoch; `made` and `worked` are Edits and seconds of the groups that are done. It is the so-manieth of `starts`
    in the place of one that had worked.
    """

    post: str
    device: str
    link: Link
    heard: float
    state: State = "opening"
    identity: Who | None = None
    ready: bool = False
    starts: int = 0
    deals: dict[int, Dealt] = field(default_factory=dict)
    doing: str = "starting"
    silent: bool = False
    why: str = ""
    slow: bool = False
    made: int = 0
    worked: float = 0.0
    begun: float = field(default=0.0)

    @property
    def name(self) -> str:
        """How people know it."""
        return f"{self.post} on {self.link.place}" if self.link.place else self.post

    def say(self, word: object) -> None:
        """One that is gone is told nothing: its line says so when it is read. One that does not listen is ended."""
        try:
            self.link.say(word)
        except BlockingIOError:
            self.why = self.why or _STUCK
            self.kill()
        except OSError:
            pass

    def hear(self) -> object:
        """What it says. Raises EOFError or OSError where it is gone, or will never end its word."""
        try:
            return self.link.hear()
        except BlockingIOError:
            self.why = self.why or _STUCK
            self.kill()
            raise

    def end(self) -> str:
        """It has ended, or is made to: how, in words. Safe to call twice."""
        how = self.link.end()
        self.state, self.doing = "gone", ""
        return self.why or how

    def kill(self) -> None:
        """At once; one that is stopped ends too."""
        self.link.kill()
