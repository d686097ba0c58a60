"""What a job of this size is worth: the row count that a device works best at, and whether compiling pays.

Measured on the loaded model for seconds, and remembered, so that a run's pictures do not hang on a measurement's
noise: a size keeps the row bucket that it was once given on this machine, with this model and these versions.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from functools import partial

import torch

from ip2pbatch.backends.pytorch import accelerators, steps
from ip2pbatch.backends.pytorch.backend import TorchBackend
from ip2pbatch.backends.pytorch.steps import compiled
from ip2pbatch.disk.remembered import Remembered
from ip2pbatch.engine.call_cost import WORDS, seconds_of_call
from ip2pbatch.engine.editor import Editor
from ip2pbatch.plan.edits import Edit, Guidance, make_edit
from ip2pbatch.plan.rows import count_rows
from ip2pbatch.run.engine import OutOfMemory

_NEAR = 1.03  # a smaller bucket is taken where it is within this of the best: less padding, an earlier first picture
_LARGE = 2000  # network rows below which no compiling was ever worth measuring for
_MOST_ON_CPU, _MOST = 12, 96  # rows a call that are tried
_STEPS, _WALKS = 4, 3  # of a measurement; the first walk warms up


def tune_batch(editor: Editor, backend: TorchBackend, edits: Sequence[Edit], name: str) -> list[str]:
    """Give `editor` the row bucket that suits each size of `edits`; says what it chose. `name` is the model's digest.

    A size that does not fit into memory at a row count is not tried at a larger one.
    """
    known = Remembered("rows a call")
    most = _MOST_ON_CPU if accelerators.on_host(backend.device) else _MOST
    notes, rows = [], dict(editor.limits.rows)
    for size in sorted({edit.size for edit in edits}):
        key = f"{name} {_where(backend)} {backend.precision} {size[0]}x{size[1]}"
        found = known.get(key)
        if not isinstance(found, int):
            found = best_rows(partial(seconds_of_step, editor, backend, size), most)
            backend.site.release()  # what was recorded of the other row counts
            known.keep({key: found})
        rows[size] = found
        notes.append(f"{found} network rows a call at {size[0]} × {size[1]}")
    edits_a_call = max(6, max(rows.values(), default=0) // 2)
    editor.limits = dataclasses.replace(editor.limits, rows=rows, batch=edits_a_call)
    return notes


@torch.inference_mode()
def seconds_of_step(editor: Editor, backend: TorchBackend, size: tuple[int, int], rows: int) -> float:
    """Seconds that a step of one call of `rows` rows takes a run at `size` (width, height): the network, and what is
    about it on the host, which few rows a call pay for more often.
    """
    edits = [
        make_edit(f"probe-{number}", WORDS, Guidance(7.5, 1.5), number, steps=_STEPS, sampler="euler_a", size=size)
        for number in range(max(1, rows // 3))
    ]
    shape = (len(edits), backend.latent_channels, size[1] // backend.vae_scale, size[0] // backend.vae_scale)
    images = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(backend.device)
    limits, editor.limits = editor.limits, dataclasses.replace(editor.limits, rows={size: rows})
    try:
        seconds = []
        for _ in range(_WALKS):
            begun = time.perf_counter()
            editor.denoise(edits, images).cpu()
            seconds.append((time.perf_counter() - begun) / _STEPS)
    finally:
        editor.limits = limits
    return min(seconds)


def best_rows(seconds: Callable[[int], float], most: int) -> int:
    """The smallest of 3, 6, 12 … `most` rows whose time a row is near the best. `seconds` raises OutOfMemory."""
    costs: dict[int, float] = {}
    rows = 3
    while rows <= most:
        try:
            costs[rows] = seconds(rows) / rows
        except OutOfMemory:
            break
        rows *= 2
    best = min(costs.values(), default=0.0)
    return next((count for count, cost in costs.items() if cost <= _NEAR * best), 1)


def compile_if_it_pays(editor: Editor, backend: TorchBackend, edits: Sequence[Edit]) -> list[str]:
    """Compile where the job is over sooner for it, from its rows and what a call takes here; says so where it does."""
    rows = count_rows(edits)
    if rows < _LARGE or compiled.why_no_compiler(backend.device):
        return []
    size = edits[0].size
    bucket = editor.limits.row_bucket(size)
    price = steps.artefacts_of(backend.site).price(backend.device)
    if not compiled.pays(rows, seconds_of_call(backend, size, bucket) / bucket, price):
        return []
    reason = steps.compile_late(backend.site)
    return [] if reason else [f"compiling the network, for {rows:,} rows (--compile off leaves it)"]


def _where(backend: TorchBackend) -> str:
    device = backend.device
    on_host = accelerators.on_host(device)
    where = f"{torch.get_num_threads()} threads" if on_host else accelerators.name_of(device)
    return f"{where} torch {torch.__version__}"
