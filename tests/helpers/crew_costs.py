"""What several processes cost a run, on the fake engine: BENCHMARKS.md, "Several processes".

python tests/helpers/crew_costs.py FOLDER       # one that may be emptied; three minutes where nothing else is at work

By the clock are what says so and the idle tail; the load is printed, for they mean something on an idle machine alone.
"""

from __future__ import annotations

import os
import resource
import shutil
import statistics
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from crews import Fault, by_crew
from runs import SPEC, carry_out, make_photos, make_plan
from scale import INVOCATION, Field

from ip2pbatch.engine.fake import FakeEngine
from ip2pbatch.plan.edits import Plan
from ip2pbatch.plan.large.byte_marks import Marked
from ip2pbatch.plan.names import output_names
from ip2pbatch.run.devices.clerk import Clerk
from ip2pbatch.run.devices.crew import Crew
from ip2pbatch.run.devices.dealing import Dealer
from ip2pbatch.run.devices.links import Launcher
from ip2pbatch.run.devices.wire import Write
from ip2pbatch.run.directory.layout import strip_key
from ip2pbatch.run.directory.ledger import open_run
from ip2pbatch.run.directory.lines import Delivery, Record
from ip2pbatch.run.events import Quiet

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


def by_the_clock(folder: Path, plan: Plan, launcher: Launcher | None = None) -> None:
    """Milliseconds an edit and its file that a worker with its clerk takes more than one process does, median of five
    pairs in mirrored order; starts are left out. `launcher` starts it, else it is a process.
    """
    more = []
    for turn in range(5):
        took = {}
        for way in ("alone", "crew") if turn % 2 else ("crew", "alone"):
            out = folder / f"{way}{turn}"
            begun = time.perf_counter()
            if way == "alone":
                carry_out(out, plan, FakeEngine())
                took[way] = time.perf_counter() - begun
            else:
                took[way] = by_crew(out, plan, ["cpu"], launcher=launcher).seconds
            shutil.rmtree(out)
        more.append((took["crew"] - took["alone"]) / len(plan.edits) * 1000)
    print(f"by the clock a worker takes {statistics.median(more):.1f} ms an edit more than one process "
          f"({min(more):.1f} to {max(more):.1f})")  # fmt: skip


def clerk(folder: Path, plan: Plan, words: int = 8) -> None:
    """Edits a second by the clock that a clerk writes down, with a file each, where so many are told at a time."""
    names = {(at, link): f"{at}-{link}.jpg" for at, strip in enumerate(plan.strips) for link in strip.keep}
    with open_run(folder / "clerk", SPEC) as run:
        run.begin_session(plan, INVOCATION)
        pictures = [run.layout.picture(edit.key) for edit in plan.edits]
        for path in pictures:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"a picture")
        dealer = Dealer(plan, plan, names, Marked(len(plan.edits), range(len(plan.edits))), lambda _: ())
        clerk, begun = Clerk(plan, run, dealer, Quiet(), time.monotonic), time.perf_counter()
        files = [
            (strip_key(strip), strip.edits[link - 1].key, names[at, link])
            for at, strip in enumerate(plan.strips) for link in strip.keep
        ]  # fmt: skip
        for at in range(0, len(plan.edits), words):
            done = [Write(1, 0, records=(Record(e.key, "done", 0.1, bytes=9),)) for e in plan.edits[at : at + words]]
            rows = [Delivery(key, strip, name, "ab", "cd") for strip, key, name in files[at : at + words]]
            announced = [Write(1, 0, deliveries=(replace(row, begun=True),)) for row in rows]
            for said in (done, announced, [Write(1, 0, deliveries=(row,)) for row in rows]):
                assert clerk.write(said) is None
        seconds = time.perf_counter() - begun
    print(f"by the clock a clerk writes {len(plan.edits) / seconds:.0f} edits and files a second")


def dealing(folder: Path, edits: int) -> None:
    """A plan of four edits a photo, dealt to eight workers."""
    field = Field(folder, edits)
    plan = field.plan()
    names = output_names(plan, field.recipe().output, numbers={})
    begun, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    dealer = Dealer(plan, plan, names, Marked(edits, range(edits)), lambda _: ())
    indexed, index = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    while group := dealer.deal(8):
        for edit in group.plan.edits:
            dealer.settle(edit.key)
    assert dealer.is_empty
    each, grown = (time.process_time() - indexed) / edits, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"{edits:,} edits: indexed in {indexed - begun:.1f} s and {(index - before) >> 10} MiB, dealt at "
          f"{each * 1e6:.1f} µs each in {(grown - index) >> 10} MiB more")  # fmt: skip


def tail(folder: Path, plan: Plan, launcher: Launcher | None = None) -> None:
    """Seconds that one of two workers is idle at the end, where the other is half as fast."""
    seen: list[tuple[float, int]] = []

    def look(crew: Crew) -> None:
        def work() -> None:
            while True:
                seen.append((time.perf_counter(), sum(member.state == "busy" for member in crew.members)))
                time.sleep(0.005)

        threading.Thread(target=work, daemon=True).start()

    faults = {"cuda:0": Fault(wait=0.06), "cuda:1": Fault(wait=0.12)}
    by_crew(folder / "tail", plan, list(faults), faults=faults, watching=look, launcher=launcher)
    ends = [max(at for at, busy in seen if busy >= workers) for workers in (1, 2)]
    print(f"idle at the end for {ends[0] - ends[1]:.2f} s; an edit takes 0.06 and 0.12 s")


if __name__ == "__main__":
    place = Path(sys.argv[1])
    shutil.rmtree(place, ignore_errors=True)
    whole = make_plan(make_photos(place / "in", 150), CHAIN, keep=(1, 2))
    print(f"load {os.getloadavg()[0]:.1f}")
    overhead(place, whole)
    by_the_clock(place, whole)
    clerk(place, make_plan(make_photos(place / "more", 1000), CHAIN, keep=(1, 2)))
    dealing(place / "many", 1_000_000)
    tail(place, whole)
    print(f"load {os.getloadavg()[0]:.1f}")
