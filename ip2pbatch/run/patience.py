"""How many Edits of a session may fail before it ends: `--max-failures 20`, or a share of what it is to make, `5%`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ip2pbatch.errors import UsageError
from ip2pbatch.plan.edits import Edit
from ip2pbatch.run.directory.lines import Record
from ip2pbatch.run.events import Events, OneAtATime
from ip2pbatch.run.stop import Stop


@dataclass(frozen=True, slots=True)
class Allowance:
    """So many Edits may fail, or so many of a hundred."""

    number: float
    percent: bool = False

    @classmethod
    def parse(cls, text: str) -> Allowance:
        """`20` or `2.5%`. Raises UsageError."""
        found = re.fullmatch(r"\s*(\d{1,9})\s*|\s*(\d{1,3}(?:\.\d+)?)\s*%\s*", text)
        if found is None or float(found[2] or 0) > 100:
            raise UsageError(
                f"--max-failures takes a number of edits or a percentage, not {text}", hint="write 20, or 5%"
            )
        return cls(float(found[2]), True) if found[2] else cls(float(found[1]))

    def of(self, edits: int) -> int:
        """How many of so many Edits may fail."""
        return int(self.number * edits / 100) if self.percent else int(self.number)

    def __str__(self) -> str:
        return f"{self.number:g}%" if self.percent else f"{self.number:g}"


class Patience(OneAtATime):
    """The Events of a run, passed on; where more Edits fail than are allowed, `stop` is asked, as by nobody's signal.

    What is skipped because of another one, or was left from earlier, does not count.
    """

    def __init__(self, events: Events, stop: Stop, allowed: Allowance) -> None:
        super().__init__(events)
        self._stop, self._allowed = stop, allowed
        self._most = self._failed = 0

    def started(self, left: int, done: int) -> None:
        self._most, self._failed = self._allowed.of(left), 0
        super().started(left, done)

    def finished(self, edit: Edit, record: Record) -> None:
        super().finished(edit, record)
        if record.status in ("done", "skipped", "unmatched"):
            return
        self._failed += 1
        if self._failed > self._most and not self._stop.asked.is_set():
            self._stop.asked.set()
            self.note(f"{self._failed:,} failed, more than --max-failures {self._allowed} allows: ending early")
