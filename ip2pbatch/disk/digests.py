"""Digests of files by their bytes. Those of folders: disk/contents.py; a photo's: plan/photo_digests.py."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path


def file_sha256(path: Path) -> str:
    """The sha256 of a file, which may be larger than memory. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_digest(path: Path) -> str | None:
    """The sha256 of a file; None where there is none that can be read."""
    try:
        return file_sha256(path)
    except OSError:
        return None


def digest_of(files: Mapping[str, str]) -> str:
    """One sha256 over the names and the digests of files, in their order."""
    return hashlib.sha256("".join(f"{name}\0{value}\n" for name, value in files.items()).encode()).hexdigest()
