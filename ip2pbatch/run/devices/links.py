"""What a crew asks of whatever starts its workers, and of one that was started: processes here, or actors of Ray."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol


class End(Protocol):
    """A worker's own end: several threads may say something, one hears."""

    def say(self, message: object) -> None:
        """Raises OSError where the other end is gone."""
        ...

    def hear(self) -> Any:
        """The next message. Raises EOFError or OSError where the other end is gone."""
        ...


class Link(Protocol):
    """One worker. `place` is the machine that it is on, "" where that is this one, and None before it is anywhere."""

    place: str | None

    def say(self, word: object) -> None:
        """Tell it something. Raises OSError where it is gone, and BlockingIOError where it does not listen."""
        ...

    def hear(self) -> Any:
        """Its next word. Raises EOFError or OSError where it is gone, BlockingIOError where it never ends its word."""
        ...

    def has_more(self) -> bool:
        """Whether another word is there already."""
        ...

    def kill(self) -> None:
        """At once; one that is stopped ends too."""
        ...

    def end(self) -> str:
        """It has ended, or is made to: how, in words."""
        ...


class Launcher(Protocol):
    """Starts workers. `apart` says that they may be on other machines, which share a disk with this one; such workers
    come and go, and a crew begins with as few as `least` of them (None: with all).
    """

    apart: bool
    least: int | None

    def names(self, devices: Sequence[str]) -> list[str]:
        """How people know the workers for these devices."""
        ...

    def start(self, name: str, device: str, workers: int) -> Link:
        """One of so many workers, for a device. Raises ResourceError."""
        ...

    def heard(self, links: Sequence[Link], seconds: float) -> Sequence[Link]:
        """Those that have something to say within so many seconds, or are gone."""
        ...

    def beside(self, workers: int) -> int:
        """How many of so many share a machine at most."""
        ...
