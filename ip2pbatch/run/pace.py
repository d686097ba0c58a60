"""How long what is left of a run will take, told from what this session has measured of it, and never from a guess."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Ahead:
    """What is still to be done: edits to make, files to write (None before the run knows), and about how many seconds
    both together will take, with what follows (None before either has been measured). `then` is what that is, "sheets
    and report". `rate` is edits a second, 0 before there is one; `workers` say what each process is at, where there are
    several.
    """

    edits: int
    files: int | None
    seconds: float | None
    then: str = ""
    rate: float = field(default=0.0, compare=False)
    workers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Then:
    """What the caller of a run goes on with, and about how many seconds it takes."""

    what: str
    seconds: float


class Pace:
    """Counts edits and files as they come; `clock` gives seconds. Safe to use from several threads.

    The model and the couriers work side by side, so that the slower of them says how long it takes. The model's rate
    is edits since the start; that of delivery is the time that files took, since couriers mostly wait for the model.
    `files` are those that all Edits that are to be made will be delivered as, `promised` says how many one of them
    will, `then` what follows the run.
    """

    def __init__(
        self, clock: Callable[[], float], edits: int, files: int, promised: Callable[[str], int], couriers: int,
        then: Then | None = None,
    ) -> None:  # fmt: skip
        self._clock, self._begun, self._couriers, self._then = clock, clock(), couriers, then or Then("", 0.0)
        self._edits, self._promised, self._files = edits, promised, files
        self._made = self._carried = 0
        self._carrying = 0.0
        self._counting = threading.Lock()

    def ended(self, key: str) -> None:
        """An Edit was made, or will not be: its files wait for couriers now, or will never come."""
        with self._counting:
            self._made += 1
            self._edits = max(0, self._edits - 1)
            self._files = max(0, self._files - self._promised(key))

    def carried(self, seconds: float) -> None:
        """A file was written, or cannot be, after so many seconds."""
        with self._counting:
            self._carried += 1
            self._carrying += seconds

    def ahead(self, waiting: int | None) -> Ahead:
        """What is left, where so many files wait for couriers; None where nobody has counted them yet."""
        with self._counting:
            files = None if waiting is None else waiting + self._files
            rate = self._made / max(self._clock() - self._begun, 1e-9)
            return Ahead(self._edits, files, self._seconds(files), self._then.what, rate)

    def _seconds(self, files: int | None) -> float | None:
        if files is None or (self._edits and not self._made) or (files and not self._carried):
            return None
        making = (self._clock() - self._begun) / self._made * self._edits if self._edits else 0.0
        carrying = self._carrying / self._carried / self._couriers * files if files else 0.0
        return max(making, carrying) + self._then.seconds
