"""How long a run waits for the disk: 20,000 edits of 5,000 small photos with the fake engine, made and delivered.

python tests/helpers/disk_waits.py                 20,000; some minutes
python tests/helpers/disk_waits.py 2000 DIR        so many, in DIR: the disk that is measured

Prints a row for BENCHMARKS.md: seconds by the clock and of processor time, and calls of fsync with the seconds that
all threads together waited in them. By the clock a figure means something only where nothing else is at work.
"""

from __future__ import annotations

import os
import sys
import tempfile
import threading
import time
from pathlib import Path

from runs import SPEC
from scale import INVOCATION, Field

from ip2pbatch.engine.fake import FakeEngine
from ip2pbatch.run.directory.ledger import open_run
from ip2pbatch.run.execute import Options, run_plan


class Waits:
    """Stands in for `os.fsync`, and counts."""

    def __init__(self) -> None:
        self.calls, self.seconds = 0, 0.0
        self._counting, self._sync = threading.Lock(), os.fsync
        os.fsync = self

    def __call__(self, file: int) -> None:
        begun = time.perf_counter()
        self._sync(file)
        with self._counting:
            self.calls += 1
            self.seconds += time.perf_counter() - begun


def main(edits: int = 20_000, folder: str = "") -> None:
    """Print a row."""
    with tempfile.TemporaryDirectory(dir=folder or None) as place:
        field = Field(Path(place), edits, rest=edits // 4)
        plan = field.plan()
        clock, processor, waits = time.perf_counter(), time.process_time(), Waits()
        with open_run(field.out, SPEC) as run:
            run.begin_session(plan, INVOCATION)
            summary = run_plan(plan, run, FakeEngine(), Options(deliver=field.deliverer(run, plan)))
        clock, processor = time.perf_counter() - clock, time.process_time() - processor
        assert summary.made == summary.delivered == edits
        print(
            "| edits | seconds | of processor time | calls of fsync | seconds waited in them |\n|---|---|---|---|---|"
        )
        print(f"| {edits:,} | {clock:.1f} | {processor:.1f} | {waits.calls:,} | {waits.seconds:.1f} |")


if __name__ == "__main__":
    main(*(int(text) if text.isdigit() else text for text in sys.argv[1:]))
