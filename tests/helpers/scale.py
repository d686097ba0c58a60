"""A million edits with the fake engine: planning, ledger, resume, status and report, in time and memory.

python tests/helpers/scale.py                                   a million; a quarter of an hour, in a temporary folder
python tests/helpers/scale.py --edits 10000000 --folder DIR     so many, in DIR

Prints a table for BENCHMARKS.md. Each stage is a process of its own, as a command is, so that its seconds and its peak
memory are its own. Seconds are of processor time: on a busy machine the clock tells nothing. The pictures of a full run
would take hours to make, so the journals of all but the last thousand are written beforehand, and their pictures and
delivered files are links to a few files.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from itertools import chain, islice
from pathlib import Path
from typing import TypeVar

from PIL import Image
from runs import SPEC, fork, make_photos

from ip2pbatch.disk.journal import Journal, seal
from ip2pbatch.engine.fake import FakeEngine
from ip2pbatch.pictures.deliver import DeliverySettings
from ip2pbatch.plan.edits import Photo, Plan, held
from ip2pbatch.plan.expand import expand
from ip2pbatch.plan.families import ModelDefaults
from ip2pbatch.plan.names import output_names
from ip2pbatch.plan.photos import Scan
from ip2pbatch.plan.written.recipe import Recipe
from ip2pbatch.run.deliveries import Deliverer, shape_digest
from ip2pbatch.run.directory.layout import Layout, strip_key
from ip2pbatch.run.directory.ledger import Run, open_run
from ip2pbatch.run.directory.lines import Delivery, Invocation, Record
from ip2pbatch.run.directory.view import read_run
from ip2pbatch.run.execute import Options, run_plan

Thing = TypeVar("Thing")
EDITS = ["make it winter", "make it night", "make it rain", "as a watercolour"]
INVOCATION = Invocation("2026-01-01T00:00:00Z", "run")


@dataclass(frozen=True)
class Cost:
    """What a stage took: seconds of processor time, and the largest resident memory in bytes."""

    seconds: float
    peak: int


@dataclass(frozen=True)
class Field:
    """Where and how much: `edits` of `edits // 4` photos. The edits of the last `rest` photos are left to be made."""

    folder: Path
    edits: int
    rest: int = 250

    @property
    def left(self) -> int:
        """Edits that are left to be made."""
        return self.rest * len(EDITS)

    @property
    def out(self) -> Path:
        return self.folder / "out"

    def photos(self) -> Sequence[Photo]:
        real = make_photos(self.folder / "in", self.rest)
        made = (
            Photo(f"roll{n // 1000:04d}/{n:07d}.jpg", self.folder / "gone.jpg", _digest(n), (96, 64))
            for n in range(self.edits // len(EDITS) - self.rest)
        )
        return held(chain(made, real))

    def plan(self) -> Plan:
        plan = expand(self.recipe(), Scan(self.photos()), ModelDefaults())
        assert len(plan.edits) == self.edits
        return plan

    def recipe(self) -> Recipe:
        return Recipe.model_validate({"photos": "in", "edits": EDITS, "size": 64, "output": {"folder": self.out}})

    def deliverer(self, run: Run, plan: Plan) -> Deliverer:
        names = output_names(plan, self.recipe().output, numbers=run.number(plan.photos))
        assert len(names) == self.edits
        return Deliverer(run, plan, names, DeliverySettings(), "unique")


def measure(work: Callable[[], object], seconds: float = 7200) -> Cost:
    """Do `work` in a forked process, at most `seconds`. What this one holds is counted in, so it holds little."""
    child = fork(seconds)
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException as error:
            os.write(2, f"stage: {error!r}\n".encode())
        finally:
            os._exit(code)
    _, status, usage = os.wait4(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0, "a stage failed"
    return Cost(usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)


def planning(field: Field) -> None:
    """The plan, its names, and its copy in the run directory."""
    plan = field.plan()
    with open_run(field.out, SPEC) as run:
        run.begin_session(plan, INVOCATION)
        field.deliverer(run, plan)


def filling(field: Field) -> None:
    """All pictures and files but the last ones, as links to a few files, and what the journals say of them, as a run
    writes it but for asking the disk after each whether it has it. Lines and paths are put together by hand: a run
    would take hours for so many.
    """
    plan, layout, settings = field.plan(), Layout(field.out / ".ip2pbatch"), DeliverySettings()
    buffer = io.BytesIO()
    Image.new("RGB", (48, 32), (90, 120, 60)).save(buffer, "PNG")
    pictures, files = Links(field.folder / "picture", buffer.getvalue()), Links(field.folder / "file", b"")
    record = _pattern(Record(_BLANK, "done", 0.1, "", {"l1": 0.1, "ssim": 0.9}, len(buffer.getvalue())).as_row())
    row = asdict(Delivery(_BLANK, _BLANK, _BLANK, _BLANK, "0" * 64, 0.5, turn=1))
    del row["begun"]
    told, announced = _pattern(row), _pattern(row | {"begun": True})
    edits, out = str(layout.edits), str(field.out)
    with (
        closing(Journal(layout.results(None))) as results,
        closing(Journal(layout.deliveries(None))) as deliveries,
    ):
        for strips in batched(islice(plan.strips, field.edits - field.left), 10_000):
            records, rows = [], []
            for strip in strips:
                key, target = strip.edits[0].key, f"{strip.photo.name[:-4]}_{strip.id}.jpg"
                pictures.appear(f"{edits}/{key[:2]}/{key}.png")
                files.appear(f"{out}/{target}")
                place = key, strip_key(strip), target, shape_digest(settings, target, strip)
                records.append(seal(record % key.encode()) + b"\n")
                rows += [seal(line % tuple(part.encode() for part in place)) + b"\n" for line in (announced, told)]
            results.write(b"".join(records), lasting=False)
            deliveries.write(b"".join(rows), lasting=False)


_BLANK = "\0"


def _pattern(row: dict[str, object]) -> bytes:
    """A line with its blanks to be filled."""
    return json.dumps(row, separators=(",", ":")).replace("%", "%%").replace(json.dumps(_BLANK)[1:-1], "%b").encode()


class Links:
    """A file under very many names: no disk holds ten million small ones as easily."""

    def __init__(self, path: Path, data: bytes) -> None:
        self._path, self._data, self._links = path, data, 0

    def appear(self, path: str) -> None:
        if self._links % 50_000 == 0:  # a file may have so many names on ext4
            self._path.unlink(missing_ok=True)
            self._path.write_bytes(self._data)
        self._links += 1
        try:
            os.link(self._path, path)
        except FileNotFoundError:
            Path(path).parent.mkdir(parents=True)
            os.link(self._path, path)


def batched(things: Iterable[Thing], size: int) -> Iterator[list[Thing]]:
    """`things` in lists of at most `size`."""
    rest = iter(things)
    while some := list(islice(rest, size)):
        yield some


def opening(field: Field) -> None:
    """What there is, before anything is planned."""
    with open_run(field.out, SPEC) as run:
        assert len(run.records) == len(run.deliveries) == field.edits - field.left


def resume(field: Field) -> None:
    """What `run` does when it is started again: plan, open, and make and deliver what is left."""
    plan = field.plan()
    with open_run(field.out, SPEC) as run:
        run.begin_session(plan, INVOCATION)
        summary = run_plan(plan, run, FakeEngine(), Options(deliver=field.deliverer(run, plan)))
    assert summary.made == summary.delivered == field.rest * len(EDITS)
    assert summary.states == {"done": field.edits}


def status(field: Field) -> None:
    view = read_run(field.out)
    assert view.counts()["done"] == len(view.deliveries) == field.edits


def report(field: Field) -> None:
    from ip2pbatch.show.report import write_report

    assert write_report(read_run(field.out), field.out / "report.html").stat().st_size < 100 << 20


STAGES: dict[str, Callable[[Field], None]] = {
    "planning, with names and the plan's copy": planning,
    "filling the run directory (preparation)": filling,
    "opening the run": opening,
    "resume: plan, open, make and deliver the last thousand": resume,
    "status": status,
    "report": report,
}


def _digest(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()[:32]


def main(edits: int, folder: Path | None) -> None:
    """Print a row a stage."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        print(f"| {edits:,} edits with the fake engine | seconds of processor time | peak memory |\n|---|---|---|")
        for name, stage in STAGES.items():
            cost = measure(lambda stage=stage: stage(Field(Path(place), edits)))
            print(f"| {name} | {cost.seconds:.1f} | {cost.peak / (1 << 30):.2f} GiB |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--edits", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path)
    asked = parser.parse_args()
    main(asked.edits, asked.folder)
