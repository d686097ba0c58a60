"""Broken samples: how they are found, and how many may be left out, each named and counted, before a stage stops."""

from __future__ import annotations

import io
import json
import logging
import re
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from ip2pbatch.errors import RecipeError

FILE = "broken.jsonl"
_ZEROS = re.compile(rb"\0{512,}")  # no encoder writes as many for a picture that is not flat
_log = logging.getLogger(__name__)


class BrokenSampleError(RecipeError):
    """A pair of which a file is damaged: it may be left out. Raised with its place."""


class LeftOut:
    """The broken samples of one stage, named in `folder`/broken.jsonl once each; `share` of `count` samples may be."""

    def __init__(self, folder: Path, count: int, share: float, process: int = 0) -> None:
        self.path = folder / (FILE if not process else f"broken-{process}.jsonl")
        self.allowed = max(1, int(share * count)) if share else 0
        self.count = count
        self.elsewhere: Callable[[str, str], None] | None = None  # who is told instead, of a worker
        self._lock = threading.Lock()
        self._named: set[str] = set()

    def add(self, error: BrokenSampleError) -> None:
        """Name one that is left out. RecipeError where it is one too many: the stage stops."""
        try:
            self.note(str(error.file), str(error))
        except RecipeError as many:
            raise many from error

    def note(self, sample: str, said: str) -> None:
        """The same of a sample by its place."""
        with self._lock:
            if said in self._named:
                return
            self._named.add(said)
            if self.elsewhere is not None:
                self.elsewhere(sample, said)
                return
            _log.warning("left out: %s", said)
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"sample": sample, "reason": said}) + "\n")
            if len(self._named) > self.allowed:
                many = f"{len(self._named)} of {self.count:,} samples are broken"
                hint = f"they are named in {self.path}: make or fetch them again, or raise `broken`"
                said = f"{many}, more than {self.allowed} may be left out"
                raise RecipeError(said, file=sample, hint=hint)

    @property
    def found(self) -> int:
        """How many were left out, in this session and those before it."""
        if not self.path.exists():
            return 0
        return len({json.loads(line)["sample"] for line in self.path.read_text("utf-8").splitlines()})


def flaw(data: bytes) -> str:
    """What is wrong with a picture file that decoders pass over in silence; "" where nothing is.

    A JPEG's decoder takes zeros for coefficients. They can be right where a picture is flat: two bits a block of 8 × 8.
    """
    try:
        Image.open(io.BytesIO(data)).close()
    except (OSError, ValueError, SyntaxError):
        return "is no picture" if data else "is empty"
    if not data.startswith(b"\xff\xd8"):
        return ""
    scan = data.rfind(b"\xff\xda")
    if scan < 0 or data.rfind(b"\xff\xd9") < scan:
        return "is cut short: it has no end"
    zeros = max((len(run[0]) for run in _ZEROS.finditer(data, scan)), default=0)
    return f"has {zeros:,} bytes of zeros in its scan" if zeros and flat_blocks(data) < 2 * zeros else ""


def flat_blocks(data: bytes) -> int:
    """How many blocks of 8 × 8 pixels are of one grey."""
    with Image.open(io.BytesIO(data)) as opened:
        grey = np.asarray(opened.convert("L"))
    height, width = (side - side % 8 for side in grey.shape)
    blocks = grey[:height, :width].reshape(height // 8, 8, width // 8, 8)
    return int((np.ptp(blocks, axis=(1, 3)) <= 2).sum())
