"""Colours that a file names by numbers (ITU-T H.273) and by no profile: a profile of them, and HDR brought to SDR."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ip2pbatch.pictures import colour

_PRIMARIES = {
    1: ("sRGB", ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06))),
    5: ("BT.601 (625 lines)", ((0.64, 0.33), (0.29, 0.60), (0.15, 0.06))),
    6: ("BT.601 (525 lines)", ((0.63, 0.34), (0.31, 0.595), (0.155, 0.07))),
    7: ("SMPTE 240M", ((0.63, 0.34), (0.31, 0.595), (0.155, 0.07))),
    9: ("BT.2020", ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046))),
    12: ("Display P3", ((0.68, 0.32), (0.265, 0.69), (0.15, 0.06))),
}
_POWERS = {4: 2.2, 5: 2.8, 8: 1.0}
_PQ, _HLG = 16, 18
_WHITE = 203.0  # candela a square metre of diffuse white in HDR (ITU-R BT.2408)
_KNEE = 0.6  # of that white: what is darker stays as it is
_ROWS = 256


def shown(pixels: NDArray[Any], primaries: int, transfer: int) -> tuple[NDArray[Any], bytes | None, tuple[str, ...]]:
    """The pixels [h, w, 3], the profile that they are in now (None for sRGB), and what there is to say about it.

    Curves of television are taken for sRGB's, as browsers do. PQ and HLG are brought to SDR: up to 0.6 of diffuse
    white nothing changes, and what is brighter is pressed into the rest, its hue kept.
    """
    name, corners = _PRIMARIES.get(primaries, _PRIMARIES[1])
    notes: tuple[str, ...] = ()
    if transfer in (_PQ, _HLG):
        pixels = _pressed(pixels, transfer)
        notes = (f"HDR ({'PQ' if transfer == _PQ else 'HLG'}) brought to SDR: highlights are pressed together",)
    power = _POWERS.get(transfer)
    if corners is _PRIMARIES[1][1] and power is None:
        return pixels, None, notes
    return pixels, _profile(name, corners, power), notes


@lru_cache(maxsize=8)
def _profile(name: str, corners: tuple[tuple[float, float], ...], power: float | None) -> bytes:
    return colour.matrix_profile(name, corners, power)


def _pressed(pixels: NDArray[Any], transfer: int) -> NDArray[Any]:
    """HDR numbers to those of sRGB's curve, in strips and of the same type."""
    most = np.iinfo(pixels.dtype).max
    light = _light(np.linspace(0, 1, most + 1), transfer).astype(np.float32)
    codes = np.round(_srgb_code(np.linspace(0, 1, 65_536)) * most).astype(pixels.dtype)
    result = np.empty_like(pixels)
    for top in range(0, len(pixels), _ROWS):
        linear = light[pixels[top : top + _ROWS]]
        peak = linear.max(axis=2, keepdims=True)
        over = np.maximum(peak - _KNEE, 0) / (1 - _KNEE)
        pressed = np.where(peak > _KNEE, _KNEE + (1 - _KNEE) * over / (1 + over), peak)
        linear *= pressed / np.maximum(peak, 1e-6)
        result[top : top + _ROWS] = codes[np.round(np.clip(linear, 0, 1) * 65_535).astype(np.uint16)]
    return result


def _light(signal: NDArray[np.float64], transfer: int) -> NDArray[np.float64]:
    """Display light of a signal in 0 to 1, as a multiple of diffuse white (ITU-R BT.2100, tables 4 and 5)."""
    if transfer == _PQ:
        root = signal ** (1 / 78.84375)
        light = (np.maximum(root - 0.8359375, 0) / (18.8515625 - 18.6875 * root)) ** (1 / 0.1593017578125)
        return np.asarray(10_000 * light / _WHITE)
    scene = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - 0.55991073) / 0.17883277) + 0.28466892) / 12)
    return np.asarray(1000 * scene**1.2 / _WHITE)


def _srgb_code(light: NDArray[np.float64]) -> NDArray[np.float64]:
    """IEC 61966-2-1."""
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
