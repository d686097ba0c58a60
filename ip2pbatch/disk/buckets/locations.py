"""Where an object of a store lies: an address such as `s3://bucket/key`, carried about as a Path that no disk has.

pathlib leaves one slash of two, so that both `s3://bucket/key` and `s3:/bucket/key` are read; a person is shown the
first (`shown`).
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

SCHEMES = ("s3", "gs", "az")
"""Amazon's S3 and what speaks like it, Google Cloud Storage, Azure Blob Storage (there a bucket is a container)."""
EXAMPLE = "s3://bucket/photos"

_BEGINS = tuple(f"{scheme}:/" for scheme in SCHEMES)
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,221}")
# What a signed address has in its query, whichever of the three made it.
_SIGNED = re.compile(r"\?.*(?:signature|credential|accesskeyid|secret|token|sig=|\bse=)", re.IGNORECASE | re.DOTALL)


class LocationError(ValueError):
    """An address that is none of an object; `hint` says what to write. Neither quotes what may be a secret."""

    def __init__(self, why: str, hint: str) -> None:
        super().__init__(why)
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Location:
    """A bucket of a store, and in it an object's key or what keys begin with, "" for the whole bucket."""

    scheme: str
    bucket: str
    key: str

    def __str__(self) -> str:
        return f"{self.scheme}://{self.bucket}{'/' if self.key else ''}{self.key}"


def is_object(path: Path | str) -> bool:
    """Whether a path is an address of a store."""
    return os.fspath(path).replace("\\", "/").startswith(_BEGINS) if os.sep == "\\" else str(path).startswith(_BEGINS)


def shown(path: Path | str) -> str:
    """A path as a person writes it: with both slashes where it is an address."""
    return str(location(path)) if is_object(path) else str(path)


def absolute(path: Path) -> Path:
    """A path that does not hang on the working folder, as no address does."""
    return path if is_object(path) else path.absolute()


def location(path: Path | str) -> Location:
    """Where a path that `is_object` leads."""
    text = str(path).replace("\\", "/") if os.sep == "\\" else str(path)
    scheme, _, rest = text.partition(":")
    bucket, _, key = rest.lstrip("/").partition("/")
    return Location(scheme, bucket, key)


def read_location(text: str) -> Path:
    """An address as somebody wrote it. Raises LocationError, also where it holds a secret."""
    place = location(text)
    if "@" in place.bucket or ":" in place.bucket:
        raise _secret(place.scheme, "a name or a password")
    if _SIGNED.search(text):
        raise _secret(place.scheme, "a signature or a key")
    if not _BUCKET.fullmatch(place.bucket):
        raise LocationError("is no address of a bucket", f"write it like {EXAMPLE}")
    parts = place.key.rstrip("/").split("/")
    if place.key and any(part in ("", ".", "..") for part in parts):
        raise LocationError("has an empty part, or one of dots, in its key", f"write it like {EXAMPLE}")
    if any(ord(letter) < 32 for letter in text):
        raise LocationError("has a control character in it", f"write it like {EXAMPLE}")
    return Path(str(Location(place.scheme, place.bucket, "/".join(parts))))


def _secret(scheme: str, what: str) -> LocationError:
    return LocationError(
        f"a {scheme}:// address has {what} in it",
        "keep secrets out of recipes: the provider's own chain has them (environment, profile, role)",
    )
