"""Digests of what a run wrote: a file by its bytes, a picture by its pixels. A photo's is in plan/photo_digests.py."""

from __future__ import annotations

import hashlib
from pathlib import Path

from ip2pbatch.pictures import images


def file_digest(path: Path) -> str | None:
    """The sha256 of a file; None where there is none that can be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def pixel_digest(path: Path) -> str:
    """The sha256 of a lossless picture's RGB bytes. Raises PhotoError where it cannot be read."""
    return hashlib.sha256(images.load(path).pixels.tobytes()).hexdigest()
