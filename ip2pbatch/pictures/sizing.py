"""How a photo is brought to the model's size and back: names, apart from the pixels, for those who write them down."""

from __future__ import annotations

from typing import Literal

Sizing = Literal["bicubic", "lanczos"]
"""By which kernel a photo is brought to the model's size."""

SIZING: Sizing = "lanczos"
"""That of new runs: what diffusers' pipelines do to a photo. Runs that were made before it stay with bicubic."""

LIFT = 3
"""The version of the lift in new runs: 2 gives what an edit adds contours and detail, 3 makes good what an autoencoder
took of what is refined. Older runs have 0."""
