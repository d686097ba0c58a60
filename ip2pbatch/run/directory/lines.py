"""What a run directory writes down, a line each: results, deliveries, sessions; and the header's engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from ip2pbatch.pictures.images import Sizing

Status = Literal["done", "failed", "nan", "flagged", "skipped"]


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """The identity of a run: reopening it with another one is refused, naming the field.

    `determinism` is fast, stable or bitwise; `approximations` are the opt-in speed-ups that change pictures. `sizing`
    is how photos come to the model's size: a run keeps what it began with, and one that does not say has bicubic.
    """

    model: str
    model_digest: str
    backend: str
    provider: str
    precision: str
    determinism: str
    approximations: tuple[str, ...] = ()
    sizing: Sizing = "bicubic"


@dataclass(frozen=True, slots=True)
class Record:
    """One line of results.jsonl: what became of an Edit. `metrics` are the numbers beside its cell (see metrics.py).

    `bytes` is the size of the picture's file, by which an opened run knows that it is whole; `digest` is that file's
    (see kept.py), and `latent` the digest of the latent beside it. "" where there is none, or none was recorded yet.
    """

    edit: str
    status: Status
    seconds: float
    detail: str = ""
    metrics: dict[str, float] = field(default_factory=dict)
    bytes: int = 0
    digest: str = ""
    latent: str = ""


@dataclass(frozen=True, slots=True)
class Delivery:
    """One line of deliveries.jsonl: which file was written for which Edit, with which settings.

    `strip` is `layout.strip_key`; `path` is relative to the output folder, with forward slashes. `gate` is the share
    of the photo's own fine detail that came back at full size, 0 to 1; None where it is not known. `bytes` and `time`,
    in seconds since the epoch, are those of the file when it was written; 0 where they were not noted.
    """

    edit: str
    strip: str
    path: str
    settings: str
    sha256: str
    gate: float | None = None
    bytes: int = 0
    time: float = 0.0


@dataclass(frozen=True, slots=True)
class Invocation:
    """What a session says about itself: the command line, the recipe's text, versions, device; time is an argument.

    `started` is ISO 8601 in UTC. `partial` says that the plan is of some photos only (`--limit`, `--only`, `watch`).
    """

    started: str
    command: str
    recipe: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    device: str = ""
    partial: bool = False
