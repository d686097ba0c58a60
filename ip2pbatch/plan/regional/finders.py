"""What finds parts of photos, by kind: one table. A plan must know of a detector what its key says, and opens none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ip2pbatch.plan.named import named

if TYPE_CHECKING:
    from ip2pbatch.plan.edits import Sought, SoughtKind


@dataclass(frozen=True, slots=True)
class Finder:
    """A kind of detector. `nothing` is what is said where it finds nothing; `by` names it, its version and its weights:
    in words, or as the "module:function" that tells them of a model by its name, "" for the usual one. `open` gives the
    detector of a `Sought`, and is imported when it is first needed.
    """

    nothing: str
    by: str
    open: str


YUNET_SHA256 = "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4"
_ROOM = "ip2pbatch.detectors"
_SEGMENTER = f"{_ROOM}.cached_model:identity", f"{_ROOM}.clipseg:open_segmenter"
FINDERS: dict[SoughtKind, Finder] = {
    "faces": Finder("no face", f"yunet 2023mar {YUNET_SHA256[:16]}, heads 1", f"{_ROOM}.yunet:open_faces"),
    "subject": Finder("no subject", *_SEGMENTER),
    "background": Finder("no background", *_SEGMENTER),
    "words": Finder("nothing", *_SEGMENTER),
}


def known_as(kind: SoughtKind, model: str = "") -> str:
    """What a key says of the detector of a kind. Raises ModelError where its model is not on this machine."""
    by = FINDERS[kind].by
    return str(named(by)(model)) if ":" in by else by


def opened(sought: Sought) -> Any:
    """The detector that finds it. Raises MissingError, ModelError."""
    return named(FINDERS[sought.kind].open)(sought)
