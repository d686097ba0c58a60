"""ICC profiles: from a photo's own colours to the model's sRGB, and back."""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

Pixels = NDArray[np.uint8]

_FLAGS = ImageCms.Flags.BLACKPOINTCOMPENSATION | ImageCms.Flags.HIGHRESPRECALC
_INTENT = ImageCms.Intent.RELATIVE_COLORIMETRIC


class ProfileError(Exception):
    """A profile that cannot be used for these pixels; the message says why, in a few words."""


def space(icc: bytes) -> str:
    """The colour space of a profile: RGB, GRAY, CMYK, Lab …; ProfileError where the bytes are no profile."""
    return str(_parse(icc).profile.xcolor_space).strip()


def is_srgb(icc: bytes) -> bool:
    """Whether converting with this RGB profile would change nothing an eye or a rounding could tell (≤ 1 of 255)."""
    steps = np.linspace(0, 255, 6).astype(np.uint8)
    probe = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(6, 36, 3)
    difference = to_srgb(probe, icc).astype(int) - probe
    return bool(np.abs(difference).max() <= 1)


def reversible(icc: bytes) -> bool:
    """Whether pixels can also be converted *into* this RGB profile (a scanner's input profile often cannot)."""
    try:
        _transform(None, icc, "RGB")
    except ProfileError:
        return False
    return True


def to_srgb(pixels: Pixels, icc: bytes, mode: str = "RGB") -> Pixels:
    """Pixels [h, w, 3] (or [h, w] for L, [h, w, 4] for CMYK) in a profile → sRGB uint8 [h, w, 3].

    Relative colorimetric with black point compensation: colours that sRGB has stay themselves, others are clipped.
    """
    return _apply(_transform(icc, None, mode), pixels, mode)


def from_srgb(pixels: Pixels, icc: bytes) -> Pixels:
    """sRGB uint8 [h, w, 3] → the same colours as RGB numbers of the profile."""
    return _apply(_transform(None, icc, "RGB"), pixels, "RGB")


@lru_cache(maxsize=1)
def adobe_rgb() -> bytes:
    """A profile of Adobe RGB (1998), for photos that declare it without embedding it."""
    return matrix_profile("Adobe RGB compatible", ((0.64, 0.33), (0.21, 0.71), (0.15, 0.06)), 563 / 256)


def matrix_profile(name: str, primaries: Sequence[tuple[float, float]], gamma: float | None) -> bytes:
    """An ICC profile (version 2) of an RGB space: CIE xy of red, green and blue, white D65, a power or (None) sRGB's.

    The matrix is adapted to D50 by Bradford's transform, as ICC.1:2001-04 asks for.
    """
    bradford = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
    d65, d50 = np.array([0.95047, 1.0, 1.08883]), np.array([0.9642, 1.0, 0.8249])
    corners = np.array([[x / y, 1.0, (1 - x - y) / y] for x, y in primaries]).T
    adapt = np.linalg.inv(bradford) @ np.diag((bradford @ d50) / (bradford @ d65)) @ bradford
    matrix = adapt @ (corners * np.linalg.solve(corners, d65))
    curve = _SRGB_CURVE if gamma is None else b"curv" + bytes(4) + struct.pack(">IHxx", 1, round(gamma * 256))
    text = name.encode("ascii") + b"\0"
    description = b"desc" + bytes(4) + struct.pack(">I", len(text)) + text + bytes(78)
    tags = {b"desc": description, b"cprt": b"text" + bytes(4) + b"No copyright\0", b"wtpt": _xyz(d50)}
    tags |= {channel + b"XYZ": _xyz(column) for channel, column in zip((b"r", b"g", b"b"), matrix.T, strict=True)}
    tags |= {channel + b"TRC": curve for channel in (b"r", b"g", b"b")}
    table, body, start = b"", b"", 132 + 12 * len(tags)
    for signature, content in tags.items():
        table += signature + struct.pack(">II", start + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    header = struct.pack(">I4xI4s4s4s", start + len(body), 0x02100000, b"mntr", b"RGB ", b"XYZ ")
    header = (header + bytes(12) + b"acsp").ljust(68, b"\0") + _xyz(d50)[8:]
    return header.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


def _srgb_table() -> bytes:
    """IEC 61966-2-1 in 1,024 steps: version 2 knows no formula."""
    code = np.linspace(0, 1, 1024)
    light = np.where(code <= 0.04045, code / 12.92, ((code + 0.055) / 1.055) ** 2.4)
    return b"curv" + bytes(4) + struct.pack(">I", 1024) + np.round(light * 65_535).astype(">u2").tobytes()


_SRGB_CURVE = _srgb_table()


def _xyz(values: NDArray[np.float64]) -> bytes:
    return b"XYZ " + bytes(4) + struct.pack(">3i", *(round(value * 65536) for value in values))


def _apply(transform: ImageCms.ImageCmsTransform, pixels: Pixels, mode: str) -> Pixels:
    source = Image.frombuffer(mode, (pixels.shape[1], pixels.shape[0]), np.ascontiguousarray(pixels), "raw", mode, 0, 1)
    result = ImageCms.applyTransform(source, transform)
    if result is None:  # only with inPlace=True; says so to the type checker
        raise ProfileError("the conversion gave nothing")
    return np.array(result)


@lru_cache(maxsize=16)
def _parse(icc: bytes) -> ImageCms.ImageCmsProfile:
    try:
        return ImageCms.ImageCmsProfile(io.BytesIO(icc))
    except (OSError, ImageCms.PyCMSError) as error:
        raise ProfileError("the colour profile cannot be read") from error


@lru_cache(maxsize=16)
def _transform(source: bytes | None, target: bytes | None, mode: str) -> ImageCms.ImageCmsTransform:
    """None stands for sRGB."""
    ends = [
        _parse(icc) if icc else ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")) for icc in (source, target)
    ]
    try:
        return ImageCms.buildTransform(ends[0], ends[1], mode, "RGB", _INTENT, _FLAGS)
    except (ImageCms.PyCMSError, ValueError) as error:
        raise ProfileError("the colour profile does not fit the pixels") from error


def lab_profile() -> bytes:
    """The profile of Lab pixels, for TIFFs in Lab."""
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
