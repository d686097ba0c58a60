"""What can be measured by name: each suite is data, with the floors that its figures are held to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ip2pbatch.errors import UsageError

By = Literal["folder", "model", "cpu", "busy", "tflops", "seconds", "gigabytes"]
_AT_MOST = ("seconds", "gigabytes")
_OUR_BEST, _OUR_KINDS = "our best", ("ours", "onnx", "ours-openvino")


@dataclass(frozen=True, slots=True)
class Floor:
    """What `subject` is held to. By `folder`, `model` or `cpu`: times faster than the contender `against`, the suite's
    first where that is "": from files to files, inside the model's calls, in processor time. By `busy`: the model's
    share of the wall time. By `tflops`: at `subject` rows a call and above, the best contender. By `seconds`, and by
    `gigabytes` of GPU memory: at most, not at least. A subject such as `our best:bf16` is the fastest of our backends
    in that precision. Where `units` are named (engine/bench/rates.py: `units`), other processors are held to nothing.
    """

    subject: str
    by: By
    value: float
    against: str = ""
    units: str = ""

    @property
    def subjects(self) -> tuple[str, ...]:
        """The contenders that it is about: one, or all of whom the fastest counts."""
        who, _, precision = self.subject.partition(":")
        return tuple(f"{kind}:{precision}" for kind in _OUR_KINDS) if who == _OUR_BEST else (self.subject,)

    def met(self, found: float) -> bool:
        """Whether a figure keeps to it."""
        return found <= self.value if self.by in _AT_MOST else found >= self.value

    def __str__(self) -> str:
        said = f"{'≤' if self.by in _AT_MOST else '≥'} {self.value:g}"
        said += f" × {self.against}" if self.against else ""
        return f"{said} in CPU time" if self.by == "cpu" else said


@dataclass(frozen=True, slots=True)
class Suite:
    """One measurement. The first contender is what the others are compared with.

    `count` photos of `megapixels` are edited; `rows` are row counts for the UNet's rate, `compiled_rows` those of a
    compiled contender, which takes minutes for each. `apart` has every pass in a
    process of its own, so that what a contender sets for its process helps no other. `fresh` starts every contender
    once more, in a process that may take `gpu_gigabytes` of a GPU; `start` times the command line. A `ladder` has,
    instead of the first contender, itself without its optimisation steps, then with one more each time.
    """

    says: str
    model: str = "tiny"
    device: str = "cpu"
    scenario: str = "three-rows"
    contenders: tuple[str, ...] = ()
    count: int = 24
    megapixels: float = 0.75
    steps: int = 20
    long_side: int | None = None
    rounds: int = 1
    rows: tuple[int, ...] = ()
    compiled_rows: tuple[int, ...] = ()
    ladder: bool = False
    fresh: bool = False
    apart: bool = False
    gpu_gigabytes: float | None = None
    start: bool = False
    floors: tuple[Floor, ...] = ()

    def rows_of(self, contender: str) -> tuple[int, ...]:
        """The row counts that a contender's rate is measured at."""
        return self.compiled_rows if self.compiled_rows and "+compiled" in contender else self.rows


def _gpu(says: str, contenders: tuple[str, ...] = (), **other: Any) -> Suite:
    return Suite(says, "sd15", "cuda", contenders=contenders, **other)


def _at_least(value: float, subject: str, against: str = "", *, units: str = "") -> tuple[Floor, Floor]:
    """Of a CPU's contender: by the clock and by processor time."""
    return Floor(subject, "folder", value, against, units), Floor(subject, "cpu", value, against, units)


def _on_cpu(who: str) -> tuple[Floor, ...]:
    """What a folder of the embedded model is held to against diffusers' loop in float32, at equal steps and three rows:
    known processors alone, any other one is only measured.
    """
    return (
        *_at_least(1.4, f"{who}:fp32", units="avx512-bf16"),
        *_at_least(2.4, f"{who}:bf16", units="avx512-bf16"),
        *_at_least(3.2, f"{who}:bf16", units="amx"),
    )


_OURS = "ours:fp16+auto-batch"
_COMPILED = f"{_OURS}+compiled"

SUITES: Mapping[str, Suite] = {
    "cpu-folder": Suite(
        "a folder of photos, one edit a photo, three rows a step",
        contenders=("diffusers:fp32", "ours:fp32", "ours:bf16"), fresh=True, apart=True, floors=_on_cpu("ours"),
    ),
    "cpu-backends": Suite(
        "the same by every backend, and by a plain script over OpenVINO (needs the extras openvino and onnx)",
        contenders=(
            "diffusers:fp32", "diffusers-compiled:fp32", "ours:fp32", "ours:bf16", "onnx:fp32", "openvino:fp32",
            "openvino:bf16", "ours-openvino:fp32", "ours-openvino:bf16",
        ),
        count=12, apart=True,
        floors=(
            *_on_cpu("our best"), *_at_least(1.0, "our best:fp32", "openvino:fp32"),
            *_at_least(1.0, "our best:bf16", "openvino:bf16"),
        ),
    ),
    "cpu-sd15": Suite(
        "Stable Diffusion 1.5's architecture at 512 × 512 in few steps (takes 16 GB of memory)", model="sd15",
        contenders=("diffusers:fp32", "ours:fp32", "ours:bf16"), count=1, steps=2, apart=True,
    ),
    "cpu-sheet-row": Suite(
        "a row of a sheet at s_I = 1: four text scales on each photo",
        scenario="sheet-row", count=6, contenders=("diffusers:fp32", "ours:fp32", "ours:bf16"), apart=True,
        floors=(Floor("ours:fp32", "folder", 1.7),),
    ),
    "cpu-defaults": Suite(
        "the embedded model at its own defaults (`@own`) against those it had: 20 steps of euler_a, s_T 1.15, s_I 1",
        scenario="two-rows", contenders=("diffusers:fp32", "ours:bf16", "ours:fp32@own", "ours:bf16@own"), count=12,
        apart=True, floors=_at_least(10.0, "ours:bf16@own"),
    ),
    "cpu-onnx": Suite(
        "onnxruntime against torch, one edit a photo, three rows a step", contenders=("ours:fp32", "onnx:fp32"),
        apart=True,
        floors=(Floor("onnx:fp32", "folder", 1.0),),
    ),
    "cpu-start": Suite(
        "the first picture, in as many steps as the embedded model takes by itself, and the command line's answers",
        start=True, steps=4,
        floors=(Floor("from process start", "seconds", 5.0), Floor("after imports", "seconds", 3.0)),
    ),
    "cpu-rate": Suite("the UNet alone by rows a call", contenders=("ours:fp32", "ours:bf16"), rows=(3, 6, 12)),
    "cpu-ladder": Suite(
        "one optimisation more at a time", contenders=("ours:fp32", "ours:bf16"), count=8, ladder=True,
    ),
    "gpu-folder": _gpu(
        "a folder of photos, files to files: what a run of hundreds gets, without compilation",
        ("diffusers:fp16", _OURS),
        floors=(Floor(_OURS, "folder", 3.5),),
    ),
    "gpu-folder-compiled": _gpu(
        "the same compiled, as a run of thousands is", ("diffusers:fp16", _COMPILED),
        floors=(Floor(_COMPILED, "folder", 4.0),),
    ),
    "gpu-compiled": _gpu(
        "against diffusers batched, compiled, channels_last, fused QKV, cuDNN attention: time in the model",
        ("diffusers-compiled:fp16", _OURS, _COMPILED),
        floors=(Floor(_COMPILED, "model", 1.35),),
    ),
    "gpu-edit-cli": _gpu(
        "against the original's scheme in one process: its 100 steps with ours, and both with 20",
        ("edit-cli:fp16@100", f"{_OURS}@100", "edit-cli:fp16@20", f"{_OURS}@20"), count=8,
        floors=(Floor(f"{_OURS}@100", "folder", 7.0),),
    ),
    "gpu-rate": _gpu(
        "the UNet alone by rows a call", ("ours:fp16", "ours:fp16+compiled"), rows=(24, 48, 12, 6, 3, 96),
        compiled_rows=(24,),
        floors=(Floor("24", "tflops", 450.0),),
    ),
    "gpu-onnx": _gpu("onnxruntime's CUDA provider against torch", (_OURS, "onnx:fp16")),
    "gpu-grid": _gpu(
        "four instructions over a 4 × 4 grid with s_I = 1 and s_I = s_T points",
        ("diffusers:fp16", _OURS, _COMPILED), scenario="grid", count=1,
        floors=(Floor(_COMPILED, "folder", 4.6),),
    ),
    "gpu-ladder": _gpu(
        "one optimisation more at a time", ("ours:fp16", _OURS, _COMPILED),
        ladder=True,
    ),
    "gpu-busy": _gpu(
        "a folder of 24-megapixel JPEGs: the model's share of the wall time once warm", (_OURS,),
        megapixels=24.0, floors=(Floor(_OURS, "busy", 0.95),),
    ),
    "gpu-memory": _gpu(
        "one photo at 512 × 512 in a process that may take 4 GB of GPU memory", ("ours:fp16",), count=1,
        fresh=True, gpu_gigabytes=4.0, floors=(Floor("ours:fp16", "gigabytes", 4.0),),
    ),
}  # fmt: skip


def find(name: str) -> Suite:
    """The suite `name`; UsageError where there is none."""
    if name not in SUITES:
        raise UsageError(f"there is no suite {name}", hint=f"suites are {', '.join(SUITES)}")
    return SUITES[name]
