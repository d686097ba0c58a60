"""A power cut takes what the system had not given to the disk yet: no more than the last group of results, whatever the
disk made of it, and it is made again.
"""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from runs import SPEC, Wrapped, carry_out, digests, exit_of, in_child, make_photos, make_plan, many, strays

from ip2pbatch.disk.settling import MOST
from ip2pbatch.pictures.deliver import DeliverySettings
from ip2pbatch.plan.edits import Edit
from ip2pbatch.run.directory.healing import heal, last_group
from ip2pbatch.run.directory.ledger import open_run
from ip2pbatch.run.directory.view import read_run

pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="the test asks Linux what a descriptor is")
SPARED = (".lock", "run.json", "writer.json", "log.txt")
QUICK = DeliverySettings(full_resolution="off")


def watch_the_disk(log: Path) -> None:
    """From now on every fsync of this process is written to `log`: of a file its size, of a folder its names."""
    real, out = os.fsync, os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def noted(descriptor: int) -> None:
        found = os.fstat(descriptor)
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        names = {entry.name: entry.inode() for entry in os.scandir(path)} if path.is_dir() else None
        real(descriptor)
        os.write(out, json.dumps([found.st_ino, found.st_size, str(path), names]).encode() + b"\n")

    os.fsync = noted


def cut_the_power(out: Path, log: Path, chance: random.Random) -> None:
    """What is left of the files under `out`: of what was never asked of the disk, anything that a disk may do."""
    sizes: dict[int, int] = {}
    named: dict[str, dict[str, int]] = {}
    for line in log.read_text().splitlines():
        number, size, path, names = json.loads(line)
        if names is None:
            sizes[number] = max(size, sizes.get(number, 0))
        else:
            named[path] = names
    for path in [path for path in out.rglob("*") if path.is_file() and not path.name.endswith(SPARED)]:
        status, data = path.stat(), path.read_bytes()
        lasting = min(sizes.get(status.st_ino, 0), len(data))
        unnamed = named.get(str(path.parent), {}).get(path.name) != status.st_ino
        if path.suffix != ".jsonl" and unnamed and chance.random() < 0.3:
            path.unlink()
        elif lasting < len(data) and chance.random() < 0.8:
            kept = data[: chance.randint(lasting, len(data))]
            zeros = bytes(len(data) - len(kept)) if chance.random() < 0.5 else b""
            path.write_bytes(kept + zeros)


def after(moment: int) -> Callable[[Sequence[Edit]], None]:
    """An engine's hook that waits for the end in the call after `moment` Edits."""
    made = 0

    def wait(edits: Sequence[Edit]) -> None:
        nonlocal made
        made += len(edits)
        while made > moment:
            time.sleep(60)

    return wait


def test_a_power_cut_at_random_moments_takes_the_last_group_at_most(tmp_path: Path) -> None:
    """Full: 60 moments. Files byte-identical in the end, none stray, none under a second name."""
    plan = make_plan(make_photos(tmp_path / "in", 40), ("make it winter", "make it night"), keep=(1, 2))
    assert carry_out(tmp_path / "whole", plan, Wrapped(), settings=QUICK) == 0
    reference = digests(tmp_path / "whole")
    took, spoiled = 0, 0
    for trial in range(many(4, 60)):
        chance = random.Random(trial)
        out, log, moment = tmp_path / f"out{trial}", tmp_path / f"log{trial}", chance.randint(8, 72)

        def work(out: Path = out, log: Path = log, moment: int = moment) -> int:
            watch_the_disk(log)
            return carry_out(out, plan, Wrapped(before=after(moment), batch=4), settings=QUICK)

        child = in_child(work)
        results = out / ".ip2pbatch/results.jsonl"
        while not (results.exists() and results.read_bytes().count(b"\n") >= moment // 4 * 4 - MOST // 2):
            time.sleep(0.002)
        time.sleep(chance.uniform(0, 0.3))
        os.kill(child, signal.SIGKILL)
        assert exit_of(child) == -signal.SIGKILL
        reported = {key for key, record in read_run(out).records.items() if record.status == "done"}
        cut_the_power(out, log, chance)
        with open_run(out, SPEC) as run:
            spoiled += len(heal(run, last_group(run)))
            lost = len(reported - run.done)
            assert all(run.picture(key) is not None for key in run.done)  # read whole
        assert lost <= MOST
        took += lost
        assert carry_out(out, plan, Wrapped(), settings=QUICK) == 0
        assert digests(out) == reference
        assert strays(out) == []
    assert min(took, spoiled) > 0, "the disk had everything: nothing was tested"
