"""A decoder in a process of its own: one that crashes, hangs or asks for all memory ends that process and not a run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import IO, TYPE_CHECKING

from ip2pbatch.errors import PhotoError
from ip2pbatch.plan.named import named

if TYPE_CHECKING:
    from ip2pbatch.pictures.codecs.decoded import Decoded

_PATIENCE = 300.0  # seconds; a photo of 100 megapixels takes a busy core a tenth of it
_MEMORY = 6 << 30  # bytes of address space
_PROGRAM = "from ip2pbatch.pictures.codecs.apart import main; main()"


def decode(file: IO[bytes], function: str, least: tuple[int, int] | None) -> Decoded:
    """What `function` ("module:function", called with the file and `least`) finds. Raises PhotoError."""
    import numpy as np

    from ip2pbatch.pictures.codecs.decoded import Decoded

    file.seek(0)
    try:
        done = subprocess.run(
            [sys.executable, "-c", _PROGRAM, function, json.dumps(least)], stdin=file, capture_output=True,
            timeout=_PATIENCE, env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise PhotoError(f"its decoder came to no end in {_PATIENCE:.0f} seconds") from None
    if done.returncode < 0:
        raise PhotoError(f"its decoder crashed (signal {-done.returncode})")
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise PhotoError(said[-1] if said else f"its decoder ended with {done.returncode}")
    line, _, data = done.stdout.partition(b"\n")
    told = json.loads(line)
    pixels = np.frombuffer(data, told["type"]).reshape(told["shape"])
    return Decoded(pixels, notes=tuple(told["notes"]), bits=told["bits"])


def main() -> None:
    """The other process: the file is stdin; a line of JSON and the pixels go to stdout, a reason to stderr."""
    import numpy as np

    _limit()
    function, least = sys.argv[1:]
    with os.fdopen(os.dup(1), "wb") as out:
        os.dup2(2, 1)  # what libraries print must not stand among pixels
        try:
            found = named(function)(sys.stdin.buffer, json.loads(least))
        except Exception as error:
            print(" ".join(str(error).split()) or type(error).__name__, file=sys.stderr)
            sys.exit(1)
        pixels = np.ascontiguousarray(found.pixels)
        told = {"type": str(pixels.dtype), "shape": pixels.shape, "notes": found.notes, "bits": found.bits}
        out.write(json.dumps(told).encode() + b"\n")
        out.write(pixels.data)


def _limit() -> None:
    try:
        import resource
    except ImportError:  # not on every system
        return
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
