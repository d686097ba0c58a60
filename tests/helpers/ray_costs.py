"""What a run by actors of Ray costs its driver, on the fake engine: BENCHMARKS.md, "A cluster".

python tests/helpers/ray_costs.py FOLDER        # one that may be emptied; starts and ends a cluster of this machine

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
from runs import make_photos, make_plan

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


def main(folder: Path) -> None:
    """Two workers, as processes and as actors, over one plan; what two edits cost is taken off for the start."""
    shutil.rmtree(folder, ignore_errors=True)
    whole = make_plan(make_photos(folder / "in", 300), CHAIN, keep=(1, 2))
    small = make_plan(whole.photos[:1], CHAIN)
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
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
    main(Path(sys.argv[1]))
