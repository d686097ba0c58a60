"""What several processes cost a run, on the fake engine: BENCHMARKS.md, "Several processes".

python tests/helpers/crew_costs.py FOLDER       # an empty one; seconds are of processor time but for the idle tail
"""

from __future__ import annotations

import resource
import shutil
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from crews import Fault, by_crew
from runs import carry_out, make_photos, make_plan

from ip2pbatch.engine.fake import FakeEngine
from ip2pbatch.plan.edits import Edit, Guidance, Photo, Plan, Strip
from ip2pbatch.run.devices.crew import Crew
from ip2pbatch.run.devices.dealing import Dealer

CHAIN = ["make it winter", "make it night"]


def spent(who: int) -> float:
    used = resource.getrusage(who)
    return used.ru_utime + used.ru_stime


def costs(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds of this process, and of those that it waited for."""
    own, others = spent(resource.RUSAGE_SELF), spent(resource.RUSAGE_CHILDREN)
    work()
    return spent(resource.RUSAGE_SELF) - own, spent(resource.RUSAGE_CHILDREN) - others


def overhead(folder: Path, plan: Plan) -> None:
    """Milliseconds an edit with its file: of one process, of the clerk, of both workers."""
    small = make_plan(plan.photos[:1], CHAIN[:1])
    alone, _ = costs(lambda: carry_out(folder / "alone", plan, FakeEngine()))
    start = costs(lambda: by_crew(folder / "small", small))
    crew = costs(lambda: by_crew(folder / "crew", plan))
    edits = len(plan.edits) / 1000
    clerk, workers = (crew[0] - start[0]) / edits, (crew[1] - start[1]) / edits
    print(
        f"one process {alone / edits:.1f} ms, clerk {clerk:.1f}, workers {workers:.1f}; two start in {start[1]:.1f} s"
    )


def dealing(photos: int) -> None:
    """A plan of four edits a photo, dealt to eight workers."""
    scales, size = Guidance(7.5, 1.5), (512, 384)
    found = [Photo(f"{at:07}.jpg", Path(f"{at:07}.jpg"), f"{at:032x}", (640, 480)) for at in range(photos)]
    edits = [
        Edit(f"{at:031x}{word}", photo.digest, f"make it {word}", scales, 1, 20, "euler_a", size)
        for at, photo in enumerate(found) for word in "abcd"
    ]  # fmt: skip
    strips = tuple(Strip(found[at // 4], edit.instruction, scales, 1, (edit,), (1,)) for at, edit in enumerate(edits))
    plan = Plan("dealt", "model", tuple(found), strips, tuple(edits))
    names = {(at, 1): f"{at}.jpg" for at in range(len(strips))}
    begun, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    dealer = Dealer(plan, plan, names, {edit.key for edit in edits}, lambda strip, link, name: False)
    indexed, index = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    while group := dealer.deal(8):
        for edit in group.plan.edits:
            dealer.settle(edit.key)
    each, grown = (time.process_time() - indexed) / len(edits), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"{len(edits):,} edits: indexed in {indexed - begun:.1f} s and {(index - before) >> 10} MiB, dealt at "
          f"{each * 1e6:.1f} µs each in {(grown - index) >> 10} MiB more")  # fmt: skip


def tail(folder: Path, plan: Plan) -> None:
    """Seconds that one of two workers is idle at the end, where the other is half as fast."""
    seen: list[tuple[float, int]] = []

    def look(crew: Crew) -> None:
        def work() -> None:
            while True:
                seen.append((time.perf_counter(), sum(member.state == "busy" for member in crew.members)))
                time.sleep(0.005)

        threading.Thread(target=work, daemon=True).start()

    faults = {"cuda:0": Fault(wait=0.06), "cuda:1": Fault(wait=0.12)}
    by_crew(folder / "tail", plan, list(faults), faults=faults, watching=look)
    ends = [max(at for at, busy in seen if busy >= workers) for workers in (1, 2)]
    print(f"idle at the end for {ends[0] - ends[1]:.2f} s; an edit takes 0.06 and 0.12 s")


if __name__ == "__main__":
    place = Path(sys.argv[1])
    shutil.rmtree(place, ignore_errors=True)
    whole = make_plan(make_photos(place / "in", 150), CHAIN, keep=(1, 2))
    overhead(place, whole)
    dealing(250_000)
    tail(place, whole)
