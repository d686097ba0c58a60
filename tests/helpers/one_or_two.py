"""Whether a CPU does more as one process or as a worker each core: BENCHMARKS.md, "Several processes".

python tests/helpers/one_or_two.py PHOTOS FOLDER [TURNS]     # photos to edit, a folder that may be emptied, and 3

24 of the photos are edited with the embedded model, by one process with all cores and by `--devices cpu:N` in turns, N
being their number. Seconds by the clock mean something only where nothing else is at work; the load is printed.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

PHOTOS = 24
RECIPE = """\
photos: in
edits: [make it winter]
size: {long_side: 256}
steps: 10
model: tiny
output: {folder: out}
"""


def cost(place: Path, flags: list[str]) -> tuple[float, float, float]:
    """Seconds by the clock, of those the run's own without start, loading and sheets, and of processor time."""
    shutil.rmtree(place / "out", ignore_errors=True)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "ip2pbatch", "run", str(place / "r.yaml"), *flags], env=env, check=True,
        capture_output=True,
    )  # fmt: skip
    clock, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    rows = map(json.loads, (place / "out/.ip2pbatch/sessions.jsonl").read_text("utf-8").splitlines())
    end = next(row for row in rows if row["event"] == "end")
    return clock, end["seconds"], after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main(photos: Path, place: Path, turns: int) -> None:
    """Print what each turn took, and a row a way: medians of turns."""
    shutil.rmtree(place, ignore_errors=True)
    (place / "in").mkdir(parents=True)
    for path in sorted(path for path in photos.rglob("*.jpg"))[:PHOTOS]:
        shutil.copy(path, place / "in")
    (place / "r.yaml").write_text(RECIPE)
    cores = len(os.sched_getaffinity(0))
    ways: dict[str, list[str]] = {"one process": [], f"cpu:{cores}": ["--devices", f"cpu:{cores}"]}
    seen: dict[str, list[tuple[float, float, float]]] = {way: [] for way in ways}
    print(f"load before: {os.getloadavg()[0]:.1f}", flush=True)
    for turn in range(turns):
        for way, flags in list(ways.items())[:: -1 if turn % 2 else 1]:
            seen[way].append(cost(place, flags))
            print(way, *(f"{seconds:.1f}" for seconds in seen[way][-1]), flush=True)
    print("| way | seconds by the clock | of them at work | of processor time |\n|---|---|---|---|")
    for way, costs in seen.items():
        print(f"| {way} | " + " | ".join(f"{statistics.median(one):.1f}" for one in zip(*costs, strict=True)) + " |")
    print(f"load after: {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int((*sys.argv[3:], "3")[0]))
