"""What the tests of runs share: real photo files, plans over them, and engines that go wrong on purpose."""

from __future__ import annotations

import gc
import hashlib
import json
import os
import re
import signal
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from originals import untouched
from PIL import Image

from ip2pbatch.engine.fake import FakeEngine
from ip2pbatch.errors import Ip2pError
from ip2pbatch.pictures.deliver import DeliverySettings
from ip2pbatch.plan.edits import Carry, Edit, Guidance, Photo, Plan, Strip, make_edit
from ip2pbatch.plan.limits import Limits
from ip2pbatch.plan.names import output_names
from ip2pbatch.plan.photo_digests import look
from ip2pbatch.plan.shard import Shard
from ip2pbatch.plan.written.outputs import Output
from ip2pbatch.run.deliveries import Deliverer
from ip2pbatch.run.directory.ledger import open_run
from ip2pbatch.run.directory.lines import EngineSpec, Invocation
from ip2pbatch.run.engine import EditEngine, Hook, OutOfMemory, Pending, Result, Source
from ip2pbatch.run.execute import Options, run_plan
from ip2pbatch.run.stop import listening

LONG = 3600 if os.environ.get("IP2P_SOAK") == "1" else 200  # seconds after which what is waited for hangs
SPEC = EngineSpec("fake", "", "fake", "cpu", "float32", "stable")
GUIDANCE = Guidance(7.5, 1.5)
SIZE = (48, 32)


def make_photos(folder: Path, count: int) -> tuple[Photo, ...]:
    """`count` small JPEGs of smooth colour, each another one, in two folders."""
    down, across = np.mgrid[0:64, 0:96].astype(np.float32)
    photos = []
    for number in range(count):
        path = folder / f"day{number % 2}" / f"{number:04d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        waves = [np.sin(down / (5 + number % 7) + c) + np.cos(across / (9 + number % 5) - c * number) for c in range(3)]
        pixels = (127 + 60 * np.stack(waves, axis=-1)).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(path, quality=90)
        seen = look(path)
        photos.append(Photo(f"{path.parent.name}/{path.name}", path, seen.digest, seen.size))
    return tuple(photos)


def make_plan(
    photos: Iterable[Photo], chain: Sequence[str] = ("make it winter",), *, carry: Carry = "latent",
    keep: tuple[int, ...] | None = None,
) -> Plan:  # fmt: skip
    """Every photo through one chain."""
    photos = tuple(photos)
    strips = []
    for photo in photos:
        links: list[Edit] = []
        for words in chain:
            source = links[-1].key if links else photo.digest
            links.append(
                make_edit(
                    source, words, GUIDANCE, 7, steps=20, sampler="euler_a", size=SIZE, carry=carry if links else None
                )
            )
        strips.append(Strip(photo, "edit", GUIDANCE, 7, tuple(links), keep or (len(chain),)))
    return Plan("test", "fake", photos, tuple(strips), tuple(e for strip in strips for e in strip.edits))


OVERLAPS = False  # whether engines made here work on by themselves, as those on a GPU do


class Wrapped:
    """The fake engine with something done before each call, and each Result passed through a function."""

    def __init__(
        self,
        before: Callable[[Sequence[Edit]], None] = lambda edits: None,
        after: Callable[[Edit, Result], Result] = lambda edit, result: result,
        batch: int = 8,
    ) -> None:
        self._fake = FakeEngine()
        self.limits = Limits(batch=batch, overlaps=OVERLAPS, default_rows=3 * batch if OVERLAPS else 12)
        self.calls: list[tuple[str, ...]] = []
        self._before, self._after = before, after

    @property
    def steps(self) -> tuple[str, ...]:
        return ()

    def begin(self, edits: Sequence[Edit], sources: Sequence[Source], hook: Hook | None = None) -> Pending:
        self._before(edits)
        self.calls.append(tuple(edit.key for edit in edits))
        made = self._fake.edit(edits, sources)
        return lambda: [self._after(e, r) for e, r in zip(edits, made, strict=True)]

    def shrink(self) -> bool:
        if self.limits.batch == 1:
            return False
        self.limits = replace(self.limits, batch=self.limits.batch // 2)
        return True

    def close(self) -> None:
        pass


def no_room_for(most: int) -> Callable[[Sequence[Edit]], None]:
    """Memory for `most` edits a call and no more."""

    def check(edits: Sequence[Edit]) -> None:
        if len(edits) > most:
            raise OutOfMemory(f"{len(edits)} edits")

    return check


def unsealed(journal: Path) -> str:
    """The lines of a journal without their checksums, as older versions wrote them: a test may change such a line."""
    return re.sub(r',"crc":"[0-9a-f]{8}"}$', "}", journal.read_text("utf-8"), flags=re.MULTILINE)


def fork(seconds: float) -> int:
    """`os.fork`; the child dies after `seconds`: one that hangs would hold the pipe that the suite writes to."""
    child = os.fork()
    if child == 0:
        gc.freeze()  # to collect what torch and onnxruntime left is to wait for their threads, which are not forked
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(round(seconds))
    return child


def in_child(work: Callable[[], int]) -> int:
    """Do `work` in a forked child; its process id. The child leaves with what `work` returns, 99 if it raises."""
    child = fork(many(1, 60) * 250)
    if child:
        return child
    code = 99
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup it is ignored, and a run leaves that as it is
        code = work()
    except BaseException as error:
        os.write(2, f"child: {error!r}\n".encode())
    finally:
        os._exit(code)


def exit_of(child: int, seconds: float = 240.0) -> int:
    """Wait for a child: its exit code, or minus the signal that killed it. One that hangs is killed and an error."""
    end = time.monotonic() + many(1, 60) * seconds
    while True:
        gone, status = os.waitpid(child, os.WNOHANG)
        if gone:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > end:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            raise AssertionError(f"a child hung for {seconds:.0f} seconds")
        time.sleep(0.002)


def digests(folder: Path) -> dict[str, str]:
    """Path relative to `folder` → sha256, for every file under it but for run directories."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not any(part.startswith(".ip2pbatch") for part in path.relative_to(folder).parts)
    }


def lines_of(journal: Path, field: str) -> list[str]:
    """A field of every line."""
    return [json.loads(line)[field] for line in journal.read_text("utf-8").splitlines()]


def strays(folder: Path) -> list[Path]:
    """Temp files left anywhere under `folder`."""
    return list(folder.rglob(".ip2p-*.tmp"))


def many(reduced: int, full: int) -> int:
    """A size for CI, or the full one under `make soak` (IP2P_SOAK=1)."""
    return full if os.environ.get("IP2P_SOAK") == "1" else reduced


def until_killed(after: int) -> Callable[[int], None]:
    """A pause for ever once `after` Edits are made: a run that is to be killed may not end before."""

    def wait(made: int) -> None:
        while made >= after:
            time.sleep(60)

    return wait


def until_stopped(after: int, begun: Path) -> Callable[[int], None]:
    """A pause in the call after so many Edits, told by the file `begun`, until the run is asked to stop."""

    def wait(made: int) -> None:
        if made == after:
            with listening() as stop:
                begun.touch()
                assert stop.asked.wait(LONG), "no signal came"

    return wait


def carry_out(
    out: Path, plan: Plan, engine: EditEngine, *, shard: Shard | None = None, couriers: int = 2,
    settings: DeliverySettings = DeliverySettings(),
) -> int:  # fmt: skip
    """What the command line does with a plan, as far as it matters here: open, make, deliver; the exit code.

    Fails where it touches a photo.
    """
    try:
        with untouched(photo.path for photo in plan.photos), open_run(out, SPEC, shard=shard) as run:
            mine = shard.take(plan) if shard else plan
            run.begin_session(plan, Invocation("2026-01-01T00:00:00Z", "run"))
            names = output_names(mine, Output(folder=out), numbers=run.number(plan.photos))
            options = Options(deliver=Deliverer(run, plan, names, settings, "unique"), couriers=couriers)
            return run_plan(mine, run, engine, options).exit_code
    except Ip2pError as error:
        return error.exit_code
