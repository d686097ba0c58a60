"""What a fresh process costs: seconds to the first picture, peak memory, and how soon the command line answers."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from ip2pbatch.backends.weights import resolve
from ip2pbatch.engine.bench.contenders import KINDS, Entry, Pass
from ip2pbatch.engine.bench.work import SCENARIOS, make_work, photos_in
from ip2pbatch.errors import ResourceError

_QUICK = 7  # starts of which the median is taken

# Imports what an edit needs as the command line does, says when it has, then is the command line with the arguments it
# was given.
_AFTER_IMPORTS = """
import json, sys, time
from ip2pbatch.backends.pytorch import deferred
deferred.process_is_ours()
with deferred.loading():
    deferred.defer()
    from diffusers import UNet2DConditionModel, AutoencoderKL, AutoencoderDC, EulerAncestralDiscreteScheduler
    from transformers import CLIPTextModel, CLIPTokenizer
    import ip2pbatch.engine.editor, ip2pbatch.backends.pytorch.backend
from ip2pbatch.cli.app import main
print(json.dumps({"imported": time.time()}), flush=True)
main()
"""


@dataclass(frozen=True, slots=True)
class FirstPicture:
    """Seconds from the start of the process and from the end of its imports until a delivered file is there.

    `cpu` are the processor's seconds of the whole process, which other work on the machine does not stretch.
    """

    from_start: float
    after_imports: float
    cpu: float


@dataclass(frozen=True, slots=True)
class Fresh:
    """One contender alone in a new process: seconds until it is loaded and until its first pictures are made, peak
    memory of the host and of the GPU in bytes (0 without one)."""

    loaded: float
    first: float
    host_bytes: int
    gpu_bytes: int


def first_picture(model: str, photo: Path, flags: Sequence[str] = ()) -> FirstPicture:
    """`ip2pbatch edit` on one photo in a new process, its caches of earlier runs empty. Raises ResourceError."""
    with tempfile.TemporaryDirectory(prefix="ip2pbatch-bench-") as scratch:
        out = Path(scratch) / "out"
        arguments = ["edit", str(photo), "-i", "make it winter", "-o", str(out), "-m", model, *flags]
        environment = os.environ | {"XDG_CACHE_HOME": str(Path(scratch) / "cache")}
        begun, busy = time.time(), _children_cpu()
        done = subprocess.run(
            [sys.executable, "-c", _AFTER_IMPORTS, *arguments], env=environment, capture_output=True, text=True
        )
        made = [file for file in out.glob("*") if file.is_file() and file.suffix.lower() in (".jpg", ".png")]
        if done.returncode or not made:
            said = f"`ip2pbatch {' '.join(arguments)}` made no picture: {done.stderr[-500:]}"
            raise ResourceError(said, hint="run that command by itself to see all it says")
        imported = float(json.loads(done.stdout.splitlines()[0])["imported"])
        seen = min(file.stat().st_mtime for file in made)
        return FirstPicture(seen - begun, seen - imported, _children_cpu() - busy)


def _children_cpu() -> float:
    times = os.times()
    return times.children_user + times.children_system


def start_up(photos: int = 40) -> dict[str, float]:
    """Median seconds of `--help` and of `plan` over a folder of `photos` photos, each in a new process."""
    with tempfile.TemporaryDirectory(prefix="ip2pbatch-bench-") as scratch:
        folder = Path(scratch) / "photos"
        folder.mkdir()
        for number in range(photos):
            Image.new("RGB", (640, 480), (number, 90, 120)).save(folder / f"{number:02d}.jpg")
        recipe = Path(scratch) / "recipe.yaml"
        recipe.write_text("model: tiny\nphotos: photos\nedits: [make it winter]\noutput: {folder: out}\n")
        commands = {"--help": ["--help"], f"plan of {photos} photos": ["plan", str(recipe)]}
        return {name: statistics.median(_starts(arguments)) for name, arguments in commands.items()}


def _starts(arguments: Sequence[str]) -> list[float]:
    seconds = []
    for _ in range(_QUICK):
        begun = time.perf_counter()
        subprocess.run([sys.executable, "-m", "ip2pbatch", *arguments], capture_output=True, check=True)
        seconds.append(time.perf_counter() - begun)
    return seconds[1:]  # the first one writes byte code and fills the disk's cache


@dataclass(frozen=True, slots=True)
class Task:
    """What a new process is to do: a contender, a model folder, a device, the work as `make_work` takes it.

    `photos` is a folder, "" for drawn photos in `cache`. `timed`: walk over the whole folder once warm.
    """

    entry: str
    model: str
    device: str
    scenario: str
    photos: str
    cache: str
    count: int
    megapixels: float
    steps: int
    long_side: int | None
    gpu_gigabytes: float | None = None
    timed: bool = False


def fresh(task: Task) -> Fresh:
    """One contender alone in a new process. Raises ResourceError where it fails."""
    return Fresh(**_in_new_process(task)["fresh"])


def timed(task: Task) -> Pass:
    """One warm Pass in a new process, so that nothing another contender set for its process helps or hinders it."""
    return Pass(**_in_new_process(replace(task, timed=True))["timed"])


def _in_new_process(task: Task) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "ip2pbatch.engine.bench.cold", json.dumps([asdict(task), time.time()])],
        capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        why = f"{task.entry} failed in a process of its own: {done.stderr[-500:]}"
        raise ResourceError(why, hint="run the same again: what was measured is kept")
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return said


def main() -> None:
    """The new process: edits a call's worth of photos, then all of them where that is asked; says what it took."""
    fields, begun = json.loads(sys.argv[1])
    task = Task(**fields)
    from ip2pbatch.backends.pytorch import accelerators

    on_host = accelerators.on_host(task.device)
    if task.gpu_gigabytes and not on_host:
        accelerators.take_at_most(task.gpu_gigabytes * 1e9, accelerators.known(task.device))
    entry, folder = Entry.parse(task.entry), resolve(task.model)
    photos = photos_in(Path(task.photos) if task.photos else None, task.count, Path(task.cache), task.megapixels)
    work = make_work(SCENARIOS[task.scenario], folder.path, photos, steps=task.steps, long_side=task.long_side)
    contender = KINDS[entry.kind](folder, task.device, entry)
    loaded = time.time() - begun
    with tempfile.TemporaryDirectory(prefix="ip2pbatch-bench-") as out:
        contender.run(work.head(contender.batch), Path(out))
    found = Fresh(loaded, time.time() - begun, peak_host_bytes(), 0 if on_host else accelerators.most_taken())
    answer: dict[str, Any] = {"fresh": asdict(found)}
    if task.timed:
        with tempfile.TemporaryDirectory(prefix="ip2pbatch-bench-") as out:
            answer["timed"] = asdict(contender.run(work, Path(out)))
    print(json.dumps(answer))


def peak_host_bytes() -> int:
    """The most memory this process has held. Linux says it of the process alone; getrusage also of its parent."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    main()
