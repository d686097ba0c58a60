"""A recipe's run over its folder that a page started: in stints, so that what a person looks at comes in between."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from ip2pbatch.plan.edits import Edit
from ip2pbatch.run.directory.lines import Record
from ip2pbatch.run.events import Quiet
from ip2pbatch.run.pace import Ahead

if TYPE_CHECKING:
    from collections.abc import Callable

    from ip2pbatch.jobs.job import Job

RunState = Literal["waiting", "running", "paused", "stopping", "stopped", "done", "failed"]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far it is: edits `done`, `left` and `failed`, `rate` of them a second, and about how many seconds it takes;
    `message` and `hint` say why it ended where it did not in order.
    """

    state: RunState = "waiting"
    done: int = 0
    left: int = 0
    failed: int = 0
    rate: float = 0.0
    seconds_left: float | None = None
    message: str = ""
    hint: str = ""


class FolderRun(Quiet):
    """One such run: the Events of its stints, and how far it is. `changed` hears of each change, `made` of Records."""

    def __init__(self, job: Job, changed: Callable[[], None], made: Callable[[Record], None]) -> None:
        self.job, self._changed, self._made = job, changed, made
        self.progress = Progress(left=len(job.plan.edits))
        self.again = False  # whether its next stint tries once more what failed

    @property
    def is_over(self) -> bool:
        return self.progress.state in ("done", "failed", "stopped")

    def now(self, state: RunState, message: str = "", hint: str = "") -> None:
        """Say where it stands."""
        self.progress = replace(self.progress, state=state, message=message, hint=hint, seconds_left=None)
        self._changed()

    def started(self, left: int, done: int) -> None:
        self.progress = replace(self.progress, left=left, done=done, failed=0)
        self._changed()

    def finished(self, edit: Edit, record: Record) -> None:
        good = record.status in ("done", "unmatched")
        now = self.progress
        self.progress = replace(now, left=max(0, now.left - 1), done=now.done + good, failed=now.failed + (not good))
        self._changed()
        self._made(record)

    def ahead(self, ahead: Ahead) -> None:
        seconds = None if ahead.seconds is None or not math.isfinite(ahead.seconds) else round(ahead.seconds, 1)
        self.progress = replace(self.progress, left=ahead.edits, rate=round(ahead.rate, 3), seconds_left=seconds)
        self._changed()
