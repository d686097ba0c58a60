"""How equal is equal: the levels of a verification and their numbers. Light: every command's `--help` imports it."""

from __future__ import annotations

from enum import StrEnum

# pytest-mpl's tolerance for pictures of one plot, on the 0-255 scale, and a bound on single pixels beside it.
MAX_RMS, MAX_DIFFERENCE = 2.0, 24
MIN_SSIM = 0.985


class Level(StrEnum):
    """Files to the bit, pictures within RMS 2 and 24 of 255, or pictures with SSIM 0.985."""

    BITWISE = "bitwise"
    PIXELS = "pixels"
    PERCEPTUAL = "perceptual"
