"""Carries out a suite: compare pictures, then time passes in mirrored order, then what is measured apart."""

from __future__ import annotations

import gc
import hashlib
import io
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from ip2pbatch.backends import model_folder
from ip2pbatch.backends.pytorch import accelerators
from ip2pbatch.backends.pytorch import backend as pytorch
from ip2pbatch.backends.weights import ModelFolder, resolve
from ip2pbatch.disk.atomic import write_atomic
from ip2pbatch.engine.bench import cold, gate, random_models, rates
from ip2pbatch.engine.bench.contenders import KINDS, PLAIN, Contender, Entry, Pass, Pixels, unoptimised
from ip2pbatch.engine.bench.results import Checked, Results
from ip2pbatch.engine.bench.suites import Suite
from ip2pbatch.engine.bench.timing import mirrored
from ip2pbatch.engine.bench.work import OWN, SCENARIOS, Work, make_work, photos_in
from ip2pbatch.plan.defaults import EMBEDDED

_COMPARED = 4  # edits whose pictures are compared; a contender that takes more a call makes more to warm up

Say = Callable[[str], None]


class OutOfTime(Exception):  # noqa: N818 (a condition that `measure` answers)
    """The next piece of work would not end in the time that is left."""


@dataclass(slots=True)
class Clock:
    """The time a call may take. A piece of work is begun only if the longest so far would still fit."""

    seconds: float | None
    begun: float = field(default_factory=time.monotonic)
    longest: float = 0.0

    @contextmanager
    def piece(self) -> Iterator[None]:
        now = time.monotonic()
        if self.seconds is not None and self.longest and now - self.begun + self.longest > self.seconds:
            raise OutOfTime
        yield
        self.longest = max(self.longest, time.monotonic() - now)


def find_model(name: str, cache: Path) -> ModelFolder:
    """The embedded model, an architecture with random weights (made below `cache`), or any model folder or hub id."""
    folder = random_models.build(name, cache) if name in random_models.ARCHITECTURES else name
    return replace(resolve(str(folder)), name=name)


def measure(
    suite: Suite, results: Results, file: Path, cache: Path, photos: Path | None, clock: Clock, say: Say
) -> bool:
    """Do what is not done yet of `suite`, saving `results` to `file` piece by piece; False where time ran out."""
    bench = Bench(suite, results, file, cache, photos, clock, say)
    try:
        if suite.rows:
            bench.rate()
        elif suite.contenders:
            bench.check()
            bench.race()
        if suite.fresh:
            bench.fresh()
        if suite.start:
            bench.start()
    except OutOfTime:
        return False
    results.finished = True
    results.save(file)
    return True


class Bench:
    """The state of one `measure`: opened contenders, and where figures go."""

    def __init__(
        self, suite: Suite, results: Results, file: Path, cache: Path, photos: Path | None, clock: Clock, say: Say
    ) -> None:
        self._suite, self._results, self._file, self._clock, self._say = suite, results, file, clock, say
        self._cache, self._photos = cache, photos
        self._model = find_model(suite.model, cache)
        self._open: dict[str, Contender] = {}
        self._warm: set[str] = set()
        results.facts |= {"model_digest": self._model.digest, "units": rates.units(torch.device(suite.device))}
        self._contenders = (*self._rungs(), *suite.contenders[1:]) if suite.ladder else suite.contenders

    def work(self, entry: Entry | None = None) -> Work:
        """The suite's edits, as a contender makes them."""
        suite = self._suite
        photos = photos_in(self._photos, suite.count, self._cache, suite.megapixels)
        return make_work(
            SCENARIOS[self._scenario(entry)], self._model.path, photos, steps=(entry and entry.steps) or suite.steps,
            long_side=suite.long_side,
        )  # fmt: skip

    def _scenario(self, entry: Entry | None) -> str:
        return OWN if entry and entry.own else self._suite.scenario

    def check(self) -> None:
        """Every contender's first pictures against those of our float32 path; what differs is not timed."""
        first = self.work().edits[0]
        self._results.facts |= {"size": list(first.size), "flops_per_row": self._row_flops(first.size)}
        for name in self._contenders:
            if name in self._results.checked:
                continue
            with self._clock.piece():
                entry = Entry.parse(name)
                expected = self._reference(entry)
                begun = time.perf_counter()
                contender = self._contender(name)
                load = time.perf_counter() - begun
                seconds, pictures = self._first_pictures(name, contender, entry)
                likeness = gate.compare(expected, pictures[: len(expected)])
                self._best(entry.precision)
                floor = gate.FLOORS[entry.precision]
                checked = Checked(load, seconds, likeness, floor, likeness.psnr >= floor)
                self._results.checked[name] = checked
                self._results.save(self._file)
            if self._suite.apart:  # passes are in processes of their own, and memory may hold no two models
                self._close()
            verdict = "as ours in float32" if checked.passed else "NOT the same pictures: not timed"
            self._say(f"{name}: {likeness.psnr:.1f} dB, at most {likeness.largest} levels off: {verdict}")

    def race(self) -> None:
        """Passes over the whole folder, forwards and backwards through the contenders that passed the gate."""
        names = [name for name in self._contenders if self._results.checked[name].passed]
        for turn in mirrored(names, self._suite.rounds):
            done = self._results.passes.setdefault(turn.contender, [])
            if len(done) > turn.pair:
                continue
            with self._clock.piece():
                done.append(self._pass(turn.contender))
                self._results.save(self._file)
            self._say(f"{turn.contender}: {done[-1].seconds:.2f} s for {done[-1].pictures} pictures")

    def rate(self) -> None:
        """The UNet alone at every row count, and the device's best beside it."""
        size = self.work().edits[0].size
        flops = self._row_flops(size)
        self._results.facts |= {"size": list(size), "flops_per_row": flops}
        for name in self._contenders:
            entry, found = Entry.parse(name), self._results.rates.setdefault(name, [])
            left = [rows for rows in self._suite.rows_of(name) if rows not in {one.rows for one in found}]
            if not left:
                continue
            backend = pytorch.load(self._model, self._suite.device, entry.precision, entry.wanted)
            for rows in left:
                with self._clock.piece():
                    found.append(rates.unet_rate(backend, size, rows, flops, self._best(entry.precision)))
                    self._results.save(self._file)
                self._say(
                    f"{name}: {found[-1].tflops:.3g} TFLOP/s at {rows} rows, {found[-1].share:.0%} of the device's best"
                )

    def fresh(self) -> None:
        """Each contender once more in a process of its own, for its memory and its first picture."""
        self._close()
        for name in self._contenders:
            if name in self._results.fresh or not self._results.checked[name].passed:
                continue
            with self._clock.piece():
                task = replace(self._task(name), count=min(self._suite.count, 8))
                self._results.fresh[name] = asdict(cold.fresh(task))
                self._results.save(self._file)
            self._say(f"{name}: first pictures {self._results.fresh[name]['first']:.1f} s after its process began")

    def start(self) -> None:
        """The command line in new processes: its answers, and its first picture."""
        with self._clock.piece():
            (photo,) = photos_in(self._photos, 1, self._cache, self._suite.megapixels)
            model = self._named
            steps = ["--steps", str(self._suite.steps), "--device", self._suite.device]
            for how, flags in (("", ["--precision", "fp32"]), (", precision measured first", [])):
                first = cold.first_picture(model, photo.path, [*flags, *steps])
                self._results.start |= {
                    f"from process start{how}": first.from_start, f"after imports{how}": first.after_imports,
                    f"of the processor{how}": first.cpu,
                }  # fmt: skip
            self._results.start |= cold.start_up()
            self._results.save(self._file)
        for what, seconds in self._results.start.items():
            self._say(f"{what}: {seconds:.2f} s")

    def _rungs(self) -> list[str]:
        """The first contender with none of its steps, then with one more each time; why others are not in."""
        first = self._suite.contenders[0]
        entry = Entry.parse(first)
        site = pytorch.load(self._model, self._suite.device, entry.precision, entry.wanted).site
        self._results.facts["refused"] = site.refused
        name, at, how = first.partition("@")
        plain = f"{name}+{PLAIN}"
        rungs = ["+".join([plain, *site.applied[:count]]) for count in range(len(site.applied) + 1)]
        return [f"{rung}{at}{how}" for rung in rungs]

    def _row_flops(self, size: tuple[int, int]) -> int:
        checked = model_folder.check(self._model.path)
        blocks = checked.config("vae")
        scale = 2 ** (len(blocks.get("block_out_channels") or blocks["encoder_block_out_channels"]) - 1)
        return rates.flops_per_row(checked.config("unet"), size, scale)

    def _best(self, precision: str) -> float:
        """The TFLOP/s that the device gives at its best in `precision`, measured once."""
        known = self._results.products
        if precision not in known:
            each = rates.device_rates(torch.device(self._suite.device), precision)
            self._results.limits[precision], known[precision] = each, max(each.values())
        return known[precision]

    def _contender(self, name: str) -> Contender:
        if name not in self._open:
            entry = Entry.parse(name)
            self._open[name] = KINDS[entry.kind](self._model, self._suite.device, entry)
        return self._open[name]

    def _pass(self, name: str) -> Pass:
        if self._suite.apart:
            return cold.timed(self._task(name))
        entry, contender = Entry.parse(name), self._contender(name)
        if name not in self._warm:
            self._first_pictures(name, contender, entry)
        with _scratch() as out:
            return contender.run(self.work(entry), out)

    @property
    def _named(self) -> str:
        """The model as another process is told it."""
        return self._suite.model if self._suite.model in EMBEDDED else str(self._model.path)

    def _task(self, name: str) -> cold.Task:
        suite, entry = self._suite, Entry.parse(name)
        return cold.Task(
            name, self._named, suite.device, self._scenario(entry),
            str(self._photos or ""), str(self._cache), suite.count, suite.megapixels,
            entry.steps or suite.steps, suite.long_side, suite.gpu_gigabytes,
        )  # fmt: skip

    def _first_pictures(self, name: str, contender: Contender, entry: Entry) -> tuple[float, list[Pixels]]:
        work = self.work(entry).head(max(_COMPARED, contender.batch))
        with _scratch() as out:
            seconds = contender.run(work, out).seconds
            self._warm.add(name)
            return seconds, [contender.picture(out, edit.key) for edit in work.edits]

    def _reference(self, entry: Entry) -> list[Pixels]:
        """The pictures of our float32 path without any optimisation, and without TF32 on a GPU. Made once a machine and
        kept: they take a GPU as long as hundreds of pictures in fp16.
        """
        work = self.work(entry).head(_COMPARED)
        asked = [self._model.digest, str(self._results.identity["device_name"]), torch.__version__]
        asked += [edit.key for edit in work.edits]
        known = self._cache / "references" / f"{hashlib.sha256(' '.join(asked).encode()).hexdigest()[:32]}.npz"
        if not known.is_file():
            with accelerators.whole_float32(), _scratch() as out:
                contender = unoptimised(self._model, self._suite.device)
                contender.run(work, out)
                pictures = [contender.picture(out, edit.key) for edit in work.edits]
            known.parent.mkdir(parents=True, exist_ok=True)
            packed = io.BytesIO()
            np.savez_compressed(packed, *pictures)
            write_atomic(known, packed.getvalue())
        with np.load(known) as found:
            return [found[f"arr_{number}"] for number in range(len(work.edits))]

    def _close(self) -> None:
        self._open.clear()
        self._warm.clear()
        gc.collect()
        accelerators.let_go()


@contextmanager
def _scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="ip2pbatch-bench-") as folder:
        yield Path(folder)
