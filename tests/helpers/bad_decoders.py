"""Decoders that do in a process of their own what real ones do once in a million files."""

from __future__ import annotations

import os
import sys
import time
from typing import IO


def draw(file: IO[bytes], least: object) -> object:
    """A picture that tells which process drew it, of which file, between two lines that a library might print."""
    os.write(1, b"a library's talk\n")
    import numpy as np

    from ip2pbatch.pictures.codecs.decoded import Decoded

    pixels = np.full((2, 3, 3), len(file.read()), np.uint8)
    return Decoded(pixels, np.full((2, 3), 9, np.uint8), b"icc", (str(os.getpid()),), 10)


def refuse(file: object) -> None:
    raise ValueError("no such thing")


def crash(file: object) -> None:
    os.abort()


def crash_if_used(file: object) -> int:
    """The heap of the process is spoilt by the picture before."""
    if "spoilt" in sys.modules:
        os.abort()
    sys.modules["spoilt"] = os
    return os.getpid()


def hang(file: object) -> None:
    time.sleep(1000)


def grow(file: object) -> int:
    import numpy as np

    return np.empty(3 << 30, np.uint8).size


def grow_with_room(file: object) -> int:
    from ip2pbatch.pictures.codecs import apart

    apart.room_for(10_000, 10_000)
    return grow(file)
