"""How a photo is brought to the model's size: a name, apart from the pixels, for those who only write it down."""

from __future__ import annotations

from typing import Literal

Sizing = Literal["bicubic", "lanczos"]
"""By which kernel a photo is brought to the model's size."""

SIZING: Sizing = "lanczos"
"""That of new runs: what diffusers' pipelines do to a photo. Runs that were made before it stay with bicubic."""
