"""What a run by actors of Ray costs its driver, on the fake engine: BENCHMARKS.md, "A cluster".

python tests/helpers/ray_costs.py FOLDER        # one that may be emptied; starts and ends clusters of this machine
python tests/helpers/ray_costs.py FOLDER full   # only a driver that actors which make nothing keep busy

Processor time is the driver's alone, which is dealer and clerk too: it means something on a machine that is at work.
"""

from __future__ import annotations

import os
import resource
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from crews import by_crew
from hollow_workers import HollowActor, Rate
from runs import make_photos, make_plan

from ip2pbatch.plan.edits import Edit
from ip2pbatch.run.directory.lines import Record
from ip2pbatch.run.events import Quiet
from ip2pbatch.run.on_ray import actors
from ip2pbatch.run.on_ray.capacity import Wanted
from ip2pbatch.run.on_ray.cluster import connected

CHAIN = ["make it winter", "make it night"]


def costs(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds of this process, without those that it waited for, and seconds by the clock."""
    before, begun = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    work()
    now = resource.getrusage(resource.RUSAGE_SELF)
    used = now.ru_utime + now.ru_stime - before.ru_utime - before.ru_stime
    return used, time.perf_counter() - begun


def full(folder: Path, workers: int, rate: float) -> None:
    """What it takes where so many workers say so many edits a second together, and make nothing."""
    plan = make_plan(make_photos(folder / "in", 500), CHAIN, keep=(1, 2))
    spent: list[tuple[float, float]] = []
    vars(actors)["Actor"] = HollowActor

    class Told(Quiet):
        def finished(self, edit: Edit, record: Record) -> None:
            used = resource.getrusage(resource.RUSAGE_SELF)
            spent.append((used.ru_utime + used.ru_stime, time.perf_counter()))

    with connected(Wanted((workers, workers), gpu=False, threads=1), {}) as (launcher, _):
        devices, opening = ["cpu"] * workers, Rate(rate / workers)
        by_crew(folder / "full", plan, devices, launcher=launcher, events=Told(), opening=opening)
    begin, end = spent[len(spent) // 4], spent[-1 - len(spent) // 8]  # all have begun, and none has ended
    edits = len(spent) - len(spent) // 4 - 1 - len(spent) // 8
    used, took = (later - earlier for earlier, later in zip(begin, end, strict=True))
    print(f"{workers} workers that say {rate:.0f} edits and their files a second, and make nothing: "
          f"the driver {used / edits * 1000:.2f} ms of processor time an edit, that is {edits / used:.0f} "
          f"a second of one core; {edits / took:.0f} a second by the clock")  # fmt: skip


def main(folder: Path) -> None:
    """Two workers, as processes and as actors, over one plan; what two edits cost is taken off for the start."""
    shutil.rmtree(folder, ignore_errors=True)
    whole = make_plan(make_photos(folder / "in", 300), CHAIN, keep=(1, 2))
    small = make_plan(whole.photos[:1], CHAIN)
    edits = (len(whole.edits) - len(small.edits)) / 1000
    print(f"load {os.getloadavg()[0]:.1f}")
    begun = time.perf_counter()
    with connected(Wanted((2, 2), gpu=False, threads=1), {}) as (launcher, _):
        print(f"a cluster of this machine begins in {time.perf_counter() - begun:.1f} s by the clock")
        for way, given in (("processes", None), ("actors", launcher)):
            start = costs(lambda way=way, given=given: by_crew(folder / f"{way}-small", small, launcher=given))
            used = costs(lambda way=way, given=given: by_crew(folder / way, whole, launcher=given))
            print(f"{way}: the driver {(used[0] - start[0]) / edits:.2f} ms an edit and its file, "
                  f"{(used[1] - start[1]) / edits:.1f} ms by the clock; two start in {start[1]:.1f} s")  # fmt: skip
    print(f"load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    place = Path(sys.argv[1])
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
    if sys.argv[2:] != ["full"]:
        main(place)
    for rate in (100.0, 1000.0):
        shutil.rmtree(place, ignore_errors=True)
        full(place, 4, rate)
