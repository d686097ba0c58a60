"""Who is measured: a contender takes a folder of photos and leaves a folder of pictures, one PNG an edit."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ip2pbatch.backends.base import Backend
from ip2pbatch.backends.pytorch import backend as pytorch
from ip2pbatch.backends.pytorch.steps import choose, compile_late
from ip2pbatch.backends.weights import ModelFolder
from ip2pbatch.engine.bench import baselines
from ip2pbatch.engine.bench.work import OWN, Work
from ip2pbatch.engine.editor import Determinism, Editor
from ip2pbatch.engine.tuning import tune_batch
from ip2pbatch.errors import MissingError, ResourceError, UsageError
from ip2pbatch.pictures import images
from ip2pbatch.plan.edits import Edit
from ip2pbatch.run.directory.layout import Layout, run_folders
from ip2pbatch.run.directory.ledger import open_run
from ip2pbatch.run.directory.lines import EngineSpec, Invocation
from ip2pbatch.run.engine import EditEngine, Hook, Pending, Result, Source
from ip2pbatch.run.execute import run_plan
from ip2pbatch.run.machine import Machine

Pixels = NDArray[np.uint8]

log = logging.getLogger("ip2pbatch.bench")

PLAIN, AUTO_BATCH = "plain", "auto-batch"
_NAME = re.compile(r"(?P<kind>[a-z-]+)(:(?P<precision>fp32|bf16|fp16))?(?P<with>(\+[a-z-]+)*)(@(?P<steps>\d+|own))?")


@dataclass(frozen=True, slots=True)
class Entry:
    """One contender as it is written down: KIND[:PRECISION][+STEP…][@STEPS or @own], such as `edit-cli:fp16@100`.

    Named optimisation steps come on top of those that are always taken; `+plain` leaves those out:
    `ours:fp16+plain+channels-last` has that one alone. `+auto-batch` is what `--batch auto` does. `steps` are the
    network's, 0 for the suite's own; one that is `own` edits at its model's own defaults.
    """

    kind: str
    precision: str = "fp32"
    named: tuple[str, ...] = ()
    steps: int = 0
    own: bool = False

    @classmethod
    def parse(cls, text: str) -> Entry:
        """Raises UsageError."""
        match = _NAME.fullmatch(text)
        if match is None or match["kind"] not in KINDS or (match["with"] and match["kind"] != "ours"):
            kinds = ", ".join(KINDS)
            raise UsageError(
                f"there is no contender {text}", hint=f"KIND[:PRECISION][+STEP][@STEPS or @own] with a KIND of {kinds}"
            )
        named = tuple(filter(None, match["with"].split("+")))
        own = match["steps"] == OWN
        return cls(match["kind"], match["precision"] or "fp32", named, 0 if own else int(match["steps"] or 0), own)

    @property
    def wanted(self) -> tuple[str, ...]:
        """The optimisation steps to ask the backend for."""
        always = () if PLAIN in self.named else tuple(step.name for step in choose(None))
        return (*always, *(name for name in self.named if name not in (PLAIN, AUTO_BATCH)))


@dataclass(frozen=True, slots=True)
class Pass:
    """One walk over a folder: seconds from files to files, of them inside the model's calls, network rows, pictures.

    A call counts from pixels in memory to pixels in memory, the device's work included. `cpu_seconds` are what all
    threads of this process took together: what a busy machine does not stretch.
    """

    seconds: float
    model_seconds: float
    cpu_seconds: float
    rows: int
    pictures: int


class Contender(Protocol):
    """Something that edits a folder."""

    batch: int

    def run(self, work: Work, out: Path) -> Pass:
        """Make every picture of `work` below the empty folder `out`."""
        ...

    def picture(self, out: Path, key: str) -> Pixels:
        """The picture of an Edit that `run` left in `out`."""
        ...


class Loop:
    """A program that loads, edits and saves, one batch after another."""

    def __init__(self, baseline: baselines.Baseline) -> None:
        self._make, self.batch = baseline.make, baseline.batch

    def run(self, work: Work, out: Path) -> Pass:
        begun, busy, inside, rows = time.perf_counter(), time.process_time(), 0.0, 0
        paths = work.paths
        for edits in self._batches(work.edits):
            photos = [images.load(paths[edit.source], edit.size).pixels for edit in edits]
            asked = time.perf_counter()
            made = self._make(edits, photos)
            inside += time.perf_counter() - asked
            rows += sum(3 * edit.steps for edit in edits)
            for edit, picture in zip(edits, made, strict=True):
                images.save_png(picture, out / f"{edit.key}.png")
        return Pass(time.perf_counter() - begun, inside, time.process_time() - busy, rows, len(work.edits))

    def picture(self, out: Path, key: str) -> Pixels:
        return np.asarray(Image.open(out / f"{key}.png"))

    def _batches(self, edits: Sequence[Edit]) -> Iterator[Sequence[Edit]]:
        """Edits of one size, guidance and step count in a row, as many as a call takes."""
        for _, alike in groupby(edits, key=lambda edit: (edit.size, edit.guidance, edit.steps)):
            together = list(alike)
            for start in range(0, len(together), self.batch):
                yield together[start : start + self.batch]


class Ours:
    """This package from files to files: `run_plan` over an Editor on any Backend, with ledger, prefetch and writers."""

    def __init__(
        self, backend: Backend, spec: EngineSpec, *, determinism: Determinism = "stable",
        prepare: Callable[[Editor, Sequence[Edit]], None] = lambda editor, edits: None,
    ) -> None:  # fmt: skip
        self._backend, self._spec, self._determinism, self._prepare = backend, spec, determinism, prepare
        self.batch = backend.limits.batch

    def run(self, work: Work, out: Path) -> Pass:
        plan = work.plan()
        begun, busy = time.perf_counter(), time.process_time()
        # A new Editor a pass, so that no text and no photo is remembered from the pass before.
        editor = Editor(self._backend, determinism=self._determinism, safety=False)
        self._prepare(editor, plan.edits)
        engine = _Timed(editor)
        with open_run(out, self._spec) as run:
            run.begin_session(plan, Invocation("", "bench"))
            summary = run_plan(plan, run, engine)
        seconds, busy = time.perf_counter() - begun, time.process_time() - busy
        if summary.exit_code:
            raise ResourceError(f"the run ended with {dict(summary.states)}", hint=f"its log is in {out}")
        return Pass(seconds, engine.seconds, busy, editor.rows_asked, len(work.edits))

    def picture(self, out: Path, key: str) -> Pixels:
        return np.asarray(Image.open(Layout(run_folders(out)[-1]).picture(key)))


class _Timed:
    """An EditEngine that adds up the seconds that it is waited for; pictures come back on the host."""

    def __init__(self, engine: EditEngine) -> None:
        self._engine, self.limits, self.seconds = engine, engine.limits, 0.0

    @property
    def steps(self) -> tuple[str, ...]:
        return self._engine.steps

    def begin(self, edits: Sequence[Edit], sources: Sequence[Source], hook: Hook | None = None) -> Pending:
        begun = time.perf_counter()
        pending = self._engine.begin(edits, sources, hook)
        self.seconds += time.perf_counter() - begun

        def wait() -> list[Result]:
            begun = time.perf_counter()
            results = pending()
            self.seconds += time.perf_counter() - begun
            return results

        return wait

    def shrink(self) -> bool:
        smaller = self._engine.shrink()
        self.limits = self._engine.limits
        return smaller

    def close(self) -> None:
        self._engine.close()


def _ours(folder: ModelFolder, device: str, entry: Entry) -> Contender:
    pytorch.configure()  # as the command line does
    wanted = [name for name in entry.wanted if name != "compiled"]
    backend = pytorch.load(folder, device, entry.precision, wanted)
    spec = EngineSpec(folder.name, folder.digest, "torch", device, entry.precision, "stable")

    def prepare(editor: Editor, edits: Sequence[Edit]) -> None:
        if AUTO_BATCH in entry.named:  # measured in the first pass, which warms up, and remembered
            tune_batch(editor, backend, edits, folder.digest)
        if "compiled" in entry.wanted and (reason := compile_late(backend.site)):
            raise MissingError(f"this network cannot be compiled: {reason}", hint="leave out +compiled")

    return Ours(backend, spec, prepare=prepare)


def unoptimised(folder: ModelFolder, device: str) -> Contender:
    """Our float32 path with no optimisation step and no padded call: what all pictures are compared with."""
    backend = pytorch.load(folder, device, "fp32", ())
    spec = EngineSpec(folder.name, folder.digest, "torch", device, "fp32", "fast")
    return Ours(backend, spec, determinism="fast")


def _onnx(folder: ModelFolder, device: str, entry: Entry) -> Contender:
    """(d) onnxruntime on the device's own provider, from an export in this user's cache, made on first use."""
    from ip2pbatch.backends.onnx import backend as ort
    from ip2pbatch.backends.onnx import export, providers

    pytorch.configure()
    provider, index = providers.choose(None, device)
    place = providers.Place(provider, index, torch.get_num_threads())
    exported = export.cached(folder, export.form_for(provider, entry.precision), providers.opener(place), log.info)
    spec = EngineSpec(folder.name, folder.digest, "onnx", provider, entry.precision, "stable")
    return Ours(ort.load(exported, place, (), log.info), spec)


def _ours_openvino(folder: ModelFolder, device: str, entry: Entry) -> Contender:
    """Ours with OpenVINO in the place of torch, from the same export."""
    from ip2pbatch.engine import on_openvino

    place = on_openvino.place_of(Machine("openvino", device))
    backend = on_openvino.load(folder, place, entry.precision, log.info, checker=False)
    return Ours(backend, EngineSpec(folder.name, folder.digest, "openvino", place.kind, entry.precision, "stable"))


def _looped(baseline: Callable[[ModelFolder, str, str], baselines.Baseline]) -> Callable[..., Contender]:
    return lambda folder, device, entry: Loop(baseline(folder, device, entry.precision))


# Name → what opens it.
KINDS: dict[str, Callable[[ModelFolder, str, Entry], Contender]] = {
    "ours": _ours,
    "ours-openvino": _ours_openvino,
    "onnx": _onnx,
    "openvino": _looped(baselines.openvino_script),
    "diffusers": _looped(baselines.diffusers_loop),
    "diffusers-compiled": _looped(baselines.diffusers_compiled),
    "diffusers-traced": _looped(baselines.diffusers_traced),
    "edit-cli": _looped(baselines.edit_cli),
}
