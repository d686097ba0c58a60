"""What a run directory writes down, a line each: results, deliveries, sessions; and the header's engine.

Each class says the bounds of its fields, and `RECORD`, `DELIVERY` … read its line: a line of another shape counts for
nothing (see disk/shapes.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import AfterValidator, ConfigDict, Field

from ip2pbatch.disk.shapes import STRICT, Shape, Usual
from ip2pbatch.pictures.sizing import Sizing
from ip2pbatch.plan.families import ModelDefaults

Status = Literal["done", "failed", "nan", "flagged", "skipped", "unmatched"]
UNREAD = "not read by the text encoder: "
"""What stands in the detail of a picture before the words of its instruction that were too many."""

_LARGE = 1e12  # what no number in a run directory reaches: seconds, metrics, counts


def _below(path: str) -> str:
    if "\0" in path or path.startswith("/") or (".." in path and ".." in PurePosixPath(path).parts):
        raise ValueError("it leads outside the output folder")
    return path


Hex = Annotated[str, Field(pattern=r"^[0-9a-f]{1,64}$")]
HexOrNone = Annotated[str, Field(pattern=r"^[0-9a-f]{0,64}$")]
Number = Annotated[float, Field(ge=-_LARGE, le=_LARGE)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0, le=int(_LARGE))]
Below = Annotated[str, AfterValidator(_below)]
Address = Annotated[str, Field(pattern=r"^(?:(?:s3|gs|az)://[^\x00-\x1f]+)?$")]
Etag = Annotated[str, Field(max_length=1024)]


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """The identity of a run: reopening it with another one is refused, naming the field.

    `determinism` is fast, stable or bitwise; `approximations` are the opt-in speed-ups that change pictures. `sizing`
    is how photos come to the model's size: a run keeps what it began with, and one that does not say has bicubic.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    model: str
    model_digest: str
    backend: str
    provider: str
    precision: str
    determinism: str
    approximations: tuple[str, ...] = ()
    sizing: Sizing = "bicubic"

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> EngineSpec:
        """The identity that `asdict` wrote. Raises TypeError or KeyError where it is none."""
        return cls(**{**row, "approximations": tuple(row["approximations"])})


@dataclass(frozen=True, slots=True)
class Header:
    """What run.json holds. `registers`: its edits are registered to their photos where a recipe says nothing of it;
    `lift`: by which version of the lift they get to full size, 0 in runs from before they were counted; `files`: the
    address below which files are delivered, "" where that is the output folder.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    format: int
    engine: EngineSpec
    defaults: ModelDefaults | None = None
    registers: bool = False
    lift: Count = 0
    files: Address = ""


@dataclass(frozen=True, slots=True)
class Record:
    """One line of results.jsonl: what became of an Edit. `metrics` are the numbers beside its cell (see metrics.py).

    `bytes` is the size of the picture's file, by which an opened run knows that it is whole; `digest` is that file's
    (see kept.py), and `latent` the digest of the latent beside it. "" where there is none, or none was recorded yet.
    `device` is what made it, as its maker calls it, where a run had devices of several names; "" elsewhere.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    edit: Hex
    status: Status
    seconds: Number
    detail: str = ""
    metrics: dict[str, Number] = field(default_factory=dict)
    bytes: Count = 0
    digest: HexOrNone = ""
    latent: HexOrNone = ""
    device: str = ""

    def as_row(self) -> dict[str, Any]:
        """Its line; most name no device."""
        row = {name: getattr(self, name) for name in self.__slots__} | {"metrics": dict(self.metrics)}
        if not self.device:
            del row["device"]
        return row

    @property
    def unread(self) -> str:
        """The words of the instruction that the text encoder had no room for, "" where it read them all."""
        return self.detail.partition(UNREAD)[2] if self.status == "done" else ""


@dataclass(frozen=True, slots=True)
class Delivery:
    """One line of deliveries.jsonl: which file was written for which Edit, with which settings.

    `strip` is `layout.strip_key`; `path` is relative to the output folder, with forward slashes. `gate` is the share
    of the photo's own fine detail that came back at full size, 0 to 1; None where it is not known. `bytes` and `time`,
    in seconds since the epoch, are those of the file when it was written; 0 where they were not noted. `turn` counts
    the openings of the run: what a later one says counts, wherever its line stands. `begun` only announces the file.
    `unsigned` is the sha256 of a signed file before it was signed, "" of others; `sidecar` that of the sidecar that was
    put beside the file, "" where none was; `strength` how much of the edit it shows. `moved` is by how far the edit was
    moved to lie on its photo, in pixels of the model, and `scaled` by how much it was made larger for it, in per cent;
    0 where it was left where it was. `etag` is what a bucket's store called the file as it was put, "" elsewhere.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    edit: Hex
    strip: Hex
    path: Below
    settings: Hex
    sha256: Hex
    gate: Share | None = None
    bytes: Count = 0
    time: Number = 0.0
    unsigned: HexOrNone = ""
    sidecar: HexOrNone = ""
    strength: Share = 1.0
    moved: Number = 0.0
    scaled: Number = 0.0
    etag: Etag = ""
    turn: Count = field(default=0, compare=False)
    begun: bool = field(default=False, compare=False)


@dataclass(frozen=True, slots=True)
class RecordedRecipe:
    """A recipe as it was asked for. `file` is where it lay, absolute, and its relative paths count from there; "" for
    that of an `edit`, whose paths are absolute.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    text: str
    file: str = ""


@dataclass(frozen=True, slots=True)
class Invocation:
    """What a session says about itself: the command line, the recipe's text, versions, device; time is an argument.

    `started` is ISO 8601 in UTC. `partial` says that the plan is of some photos only (`--limit`, `--only`, `watch`).
    `recipes` are all that the run is asked for from now on, the oldest first: by several `edit` more than one, () where
    no recipe says it.
    """

    started: str
    command: str
    recipe: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    device: str = ""
    partial: bool = False
    recipes: tuple[RecordedRecipe, ...] = ()


@dataclass(frozen=True, slots=True)
class Numbered:
    """One line of numbers.jsonl: the `{n}` of a photo."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    photo: str
    n: Annotated[int, Field(ge=1, le=10**9)]


@dataclass(frozen=True, slots=True)
class Placed:
    """Where a line of sessions.jsonl belongs: to which session of its file, as which of its lines; 0 in older runs."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    event: str
    session: Count = field(default=0, kw_only=True)
    row: Count = field(default=0, kw_only=True)


@dataclass(frozen=True, slots=True)
class Began(Placed):
    """The first line of a session. `plan` names its stored plan; `spec` to `registers`, `lift` and `files`, are the
    run's.
    """

    started: str
    command: str
    recipe: str
    versions: dict[str, str]
    device: str
    plan: Hex
    partial: bool = False
    spec: EngineSpec | None = None
    defaults: ModelDefaults | None = None
    registers: bool = False
    lift: Count = 0
    files: Address = ""
    recipes: tuple[RecordedRecipe, ...] = ()


@dataclass(frozen=True, slots=True)
class Engine(Placed):
    """Which engine a session opened: Edits a call, row buckets by size, the share of padding, device, steps.

    `devices` are those of several workers by the worker's name, where they are not the same; `device` is the first.
    """

    batch: Count
    rows: dict[str, Count]
    device: str
    safety: bool
    padding: Number | None = None
    steps: tuple[str, ...] | None = None
    devices: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Delivering(Placed):
    """With which settings a session delivers: those of DeliverySettings."""

    format: Annotated[str, Field(pattern=r"^[a-z0-9]{2,12}$")]
    quality: Annotated[int, Field(ge=1, le=100)]
    full_resolution: Literal["auto", "off", "refine"]
    gps: Literal["keep", "strip"]
    prompt: bool
    chroma: Literal["full", "source"] = "full"
    dates: Literal["now", "source"] = "now"
    raw: Literal["jpeg", "tiff16"] = "jpeg"
    sign: HexOrNone = ""
    sidecar: Literal["none", "copy"] = "none"
    strength: Share = 1.0
    register: bool = False
    lift: Count = 0


@dataclass(frozen=True, slots=True)
class LeftRecipe(Placed):
    """That a session wrote a recipe, of these bytes."""

    sha256: Hex


@dataclass(frozen=True, slots=True)
class PartOf(Placed):
    """Which comparison of models a session is a part of: the text of the recipe that compares, and where it lay, as in
    a RecordedRecipe. `turn` counts the comparisons in one output folder.
    """

    text: str
    file: str = ""
    turn: Count = 0


@dataclass(frozen=True, slots=True)
class Ended(Placed):
    """How a session ended: Edits of its plan in each state, files that it delivered, why where an error ended it."""

    error: str = ""
    states: dict[str, Count] = field(default_factory=dict)
    delivered: Count = 0
    seconds: Number = 0.0
    busy: dict[str, Number] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Unreadable(Placed):
    """A photo that could not be planned, and why."""

    photo: str
    reason: str


@dataclass(frozen=True, slots=True)
class Also(Placed):
    """That a session is asked for more: the plan of it."""

    plan: Hex


@dataclass(frozen=True, slots=True)
class Joined(Placed):
    """All plans of a session but its first, after some of them were joined as one."""

    plans: tuple[Hex, ...]


@dataclass(frozen=True, slots=True)
class Asked(Placed):
    """That a session is asked for these recipes too; as a `whole` they take the place of all that came till then."""

    recipes: tuple[RecordedRecipe, ...]
    whole: bool = False


HEADER, RECORD, DELIVERY, NUMBERED = Shape(Header), Shape(Record), Shape(Delivery), Shape(Numbered)
SESSION: Mapping[str, Shape[Any]] = {
    "begin": Shape(Began), "engine": Shape(Engine), "delivery": Shape(Delivering), "broken": Shape(Unreadable),
    "recipe": Shape(LeftRecipe), "end": Shape(Ended),
    "also": Shape(Also), "joined": Shape(Joined), "asked": Shape(Asked), "comparison": Shape(PartOf),
}  # fmt: skip
"""By event; what else a session notes is for people and nobody reads it again."""


# As `Record.as_row` and `asdict` of a Delivery are written: numbers below a million million, texts without escapes.
_TEXT, _COUNT = r"[ !#-\[\]-\x7e]*+", r"(?:0|[1-9][0-9]{0,11}+)"
_HEX, _HEX_OR_NONE = r"[0-9a-f]{1,64}+", r"[0-9a-f]{0,64}+"
# What may be missing is an alternative to nothing, which is tried in half the time of an optional group.
_NUMBER = r"(?:0\.0|-?+(?:0|[1-9][0-9]{0,10}+)(?:\.[0-9]{1,20}+|)(?:e-[0-9][0-9]|))"
_SHARE = r"(?:0(?:\.[0-9]{1,20}+|)|1(?:\.0|))"
_METRIC = rf'"{_TEXT}":{_NUMBER}'
_USUAL_RECORD = "".join((
    rf'\{{"edit":"({_HEX})","status":"({"|".join(get_args(Status))})","seconds":{_NUMBER}',
    rf',"detail":"({_TEXT})","metrics":\{{(?:{_METRIC}(?:,{_METRIC})*|)\}}',
    rf',"bytes":({_COUNT}),"digest":"{_HEX_OR_NONE}","latent":"{_HEX_OR_NONE}"(?:,"device":"{_TEXT}"|)',
))  # fmt: skip
_USUAL_DELIVERY = "".join((
    rf'\{{"edit":"({_HEX})","strip":"({_HEX})","path":"((?!/|[^"]*\.\.)[^"\\\x00-\x1f]*+)","settings":"{_HEX}"',
    rf',"sha256":"{_HEX}","gate":(?:null|{_SHARE}),"bytes":{_COUNT},"time":{_NUMBER}',
    rf',"unsigned":"{_HEX_OR_NONE}","sidecar":"{_HEX_OR_NONE}"(?:,"strength":{_SHARE}|)',
    rf'(?:,"moved":{_NUMBER},"scaled":{_NUMBER}|)(?:,"etag":"{_TEXT}"|),"turn":({_COUNT})(?:,"begun":(?:(true)|false)|)',
))  # fmt: skip


def _brief(one: Record) -> tuple[str, str, str, str]:
    return one.edit, one.status, one.detail, str(one.bytes)


def _delivery_brief(one: Delivery) -> tuple[str, str, str, str, str]:
    return one.edit, one.strip, one.path, str(one.turn), "true" if one.begun else ""


BRIEF, DELIVERY_BRIEF = Usual(_USUAL_RECORD, _brief, RECORD), Usual(_USUAL_DELIVERY, _delivery_brief, DELIVERY)
"""What opening a run notes of the lines of its largest journals: of a Record edit, status, detail and bytes, of a
Delivery edit, strip, path, turn, and "true" where it is begun.
"""
