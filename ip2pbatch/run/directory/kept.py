"""What a run keeps of what the model made, read whole and checked before it is used: pictures, latents, sources.

A picture's and a latent's digest is recorded with its result. A source, and what was kept before there were digests, is
held to what its own format tells: the check sums in a PNG. Checking costs no second read: what is hashed is what is
decoded: 0.12 ms of processor time for a picture of 512 × 344 (213 kB), beside 4.7 ms for decoding it.
"""

from __future__ import annotations

import errno
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from ip2pbatch.disk.atomic import disk_error
from ip2pbatch.errors import DamagedError, PhotoError
from ip2pbatch.pictures import lossless

Pixels = NDArray[np.uint8]
Latent = NDArray[np.float32]

_LATENT = "latent"  # the name in the file


@dataclass(frozen=True, slots=True)
class Kept:
    """A file of a run directory, the digest that it was written with, "" where none was recorded, and what it is."""

    path: Path
    digest: str = ""
    noun: Literal["picture", "latent", "source", "mask"] = "picture"

    def read(self) -> bytes:
        """The file's bytes, as they were written. Raises DamagedError where they are not; ResourceError."""
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            raise self.damaged("is gone") from None
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
                raise disk_error(error, self.path) from error
            raise self.damaged(f"cannot be read ({error.strerror})") from None
        if self.digest and digest_of(data) != self.digest:
            raise self.damaged()
        if not self.digest and self.noun != "latent" and not lossless.is_whole(data):
            raise self.damaged()
        return data

    def pixels(self) -> Pixels:
        """The picture, uint8 [h, w, 3]. Raises DamagedError, ResourceError."""
        return self.decoded(self.read())

    def patch(self) -> Pixels:
        """What was refined, uint8 [h, w, 4] with the share of each pixel. Raises DamagedError, ResourceError."""
        return self.decoded(self.read(), "RGBA")

    def decoded(self, data: bytes, mode: Literal["RGB", "RGBA"] = "RGB") -> Pixels:
        """The picture in bytes that were read from it. Raises DamagedError."""
        try:
            return lossless.decode(data, self.path.name, mode)
        except PhotoError:
            raise self.damaged() from None

    def latent(self, data: bytes) -> Latent:
        """The latent, float32 [c, h, w], in bytes that were read from it. Raises DamagedError."""
        # Not np.load: it parses its header with `ast`, which in CPython 3.11 fails now and then where threads meet
        # in it ("recursion depth mismatch"), and sources are loaded by several threads.
        try:
            latent: Latent = safetensors.numpy.load(data)[_LATENT]
        except (safetensors.SafetensorError, KeyError, ValueError):
            raise self.damaged() from None
        return latent

    def damaged(self, how: str = "is damaged") -> DamagedError:
        """What there is to say where the file is not as it was written. A run makes again all but a source."""
        text = f"the kept {self.noun} {how}"
        if self.noun == "source":
            return DamagedError(text, path=self.path, hint="run `ip2pbatch check --repair`")
        return DamagedError(text, path=self.path)


def latent_bytes(latent: Latent) -> bytes:
    """A latent, float32 [c, h, w], as the file that is kept of it."""
    return safetensors.numpy.save({_LATENT: latent})


def digest_of(data: bytes) -> str:
    """32 hex digits of sha256, which processors compute faster than any other that the standard library has."""
    return hashlib.sha256(data).hexdigest()[:32]
