"""What a run by actors of Ray costs its driver, on the fake engine: BENCHMARKS.md, "A cluster".

python tests/helpers/ray_costs.py FOLDER            # one that may be emptied; starts and ends clusters of this machine
python tests/helpers/ray_costs.py FOLDER full tail  # these alone, of: driver clock tail full million

Processor time is the driver's alone, which is dealer and clerk too: it means something on a machine that is at work.
What is by the clock means something on an idle one alone; the load is printed.
"""

from __future__ import annotations

import os
import resource
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from crew_costs import by_the_clock, tail
from crews import by_crew
from hollow_workers import HollowActor, Rate
from runs import make_photos, make_plan
from scale import Field

from ip2pbatch.plan.edits import Edit, Plan
from ip2pbatch.run.directory.lines import Record
from ip2pbatch.run.events import Quiet
from ip2pbatch.run.on_ray import actors
from ip2pbatch.run.on_ray.actor import Actor
from ip2pbatch.run.on_ray.capacity import Wanted
from ip2pbatch.run.on_ray.cluster import connected
from ip2pbatch.run.stop import Stop

CHAIN = ["make it winter", "make it night"]
WITH_CREWS = {"clock": by_the_clock, "tail": tail}


def costs(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds of this process, without those that it waited for, and seconds by the clock."""
    before, begun = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    work()
    now = resource.getrusage(resource.RUSAGE_SELF)
    used = now.ru_utime + now.ru_stime - before.ru_utime - before.ru_stime
    return used, time.perf_counter() - begun


class Told(Quiet):
    """What this process has used when an edit is told: seconds of processor time, by the clock, and its peak in KiB.
    After `most` the run is stopped.
    """

    def __init__(self, most: int) -> None:
        self.seen: list[tuple[float, float, int]] = []
        self.stop, self._most = Stop(), most

    def finished(self, edit: Edit, record: Record) -> None:
        used = resource.getrusage(resource.RUSAGE_SELF)
        self.seen.append((used.ru_utime + used.ru_stime, time.perf_counter(), used.ru_maxrss))
        if len(self.seen) == self._most:
            self.stop.ask()


def full(out: Path, plan: Plan, rate: float, most: int) -> None:
    """What it takes where four workers say so many edits a second together, and make nothing."""
    workers, told = 4, Told(most)
    vars(actors)["Actor"] = HollowActor
    with connected(Wanted((workers, workers), gpu=False, threads=1), {}) as (launcher, _):
        devices, opening = ["cpu"] * workers, Rate(rate / workers)
        by_crew(out, plan, devices, launcher=launcher, events=told, opening=opening, stop=told.stop)
    vars(actors)["Actor"] = Actor
    seen = told.seen[len(told.seen) // 4 : -len(told.seen) // 8]  # all have begun, and none has ended
    used, took, grown = (later - earlier for earlier, later in zip(seen[0], seen[-1], strict=True))
    edits = len(seen) - 1
    print(f"{workers} workers that say {rate:.0f} edits and their files a second, of {len(plan.edits):,}: "
          f"the driver {used / edits * 1000:.2f} ms of processor time an edit, that is {edits / used:.0f} a second of "
          f"one core; {edits / took:.0f} a second by the clock; {grown >> 10} MiB more after {edits:,}")  # fmt: skip


def driver(folder: Path) -> None:
    """Two workers, as processes and as actors, over one plan; what two edits cost is taken off for the start."""
    whole = make_plan(make_photos(folder / "in", 300), CHAIN, keep=(1, 2))
    small = make_plan(whole.photos[:1], CHAIN)
    edits = (len(whole.edits) - len(small.edits)) / 1000
    begun = time.perf_counter()
    with connected(Wanted((2, 2), gpu=False, threads=1), {}) as (launcher, _):
        print(f"a cluster of this machine begins in {time.perf_counter() - begun:.1f} s by the clock")
        for way, given in (("processes", None), ("actors", launcher)):
            start = costs(lambda way=way, given=given: by_crew(folder / f"{way}-small", small, launcher=given))
            used = costs(lambda way=way, given=given: by_crew(folder / way, whole, launcher=given))
            print(f"{way}: the driver {(used[0] - start[0]) / edits:.2f} ms an edit and its file, "
                  f"{(used[1] - start[1]) / edits:.1f} ms by the clock; two start in {start[1]:.1f} s")  # fmt: skip


def main(folder: Path, asked: Sequence[str]) -> None:
    """What is asked for, one after another."""
    for what in asked:
        shutil.rmtree(folder, ignore_errors=True)
        print(f"{what}: load {os.getloadavg()[0]:.1f}")
        if what == "driver":
            driver(folder)
        elif what == "million":
            full(folder / "out", Field(folder, 1_000_000).plan(), 1000.0, 20_000)
        elif what == "full":
            plan = make_plan(make_photos(folder / "in", 500), CHAIN, keep=(1, 2))
            for rate in (100.0, 1000.0):
                full(folder / f"{rate:.0f}", plan, rate, len(plan.edits))
        else:
            plan, work = make_plan(make_photos(folder / "in", 150), CHAIN, keep=(1, 2)), WITH_CREWS[what]
            with connected(Wanted((1, 2), gpu=False, threads=1), {}) as (launcher, _):
                work(folder, plan, launcher)


if __name__ == "__main__":
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
    main(Path(sys.argv[1]), sys.argv[2:] or ["driver", "clock", "tail", "full", "million"])
