"""A cell as its file shows it, at the model's size: what sheets and the report show is what is delivered."""

from __future__ import annotations

import io
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from ip2pbatch.errors import DamagedError, PhotoError
from ip2pbatch.pictures import mixing, registration
from ip2pbatch.pictures.areas.composing import Area, composed
from ip2pbatch.run.directory.kept import Kept, Pixels


@dataclass(frozen=True, slots=True)
class Proof:
    """A kept picture, and what a delivery does to it before it is a file: it is laid on its photo again where it
    `moved`, is the photo outside of `area`, and is mixed with it by `strength`. `source` is the photo as the model saw
    it; without one the picture is shown as it is kept.
    """

    kept: Kept
    source: Kept | None = None
    moved: bool = False
    area: Area | None = None
    strength: float = 1.0

    @property
    def whole(self) -> Proof:
        """All of the edit, not mixed with its photo."""
        return replace(self, strength=1.0)

    def open(self) -> Image.Image:
        """The picture in RGB. Raises DamagedError, ResourceError; OSError or ValueError where it is none."""
        with Image.open(io.BytesIO(self.kept.read()), formats=("PNG", "JPEG", "WEBP", "TIFF")) as opened:
            picture = opened.convert("RGB")
        if self.source is None or (not self.moved and self.area is None and self.strength == 1):
            return picture
        return Image.fromarray(self._laid(np.asarray(picture), self.source.pixels()))

    def _laid(self, edit: Pixels, photo: Pixels) -> Pixels:
        if edit.shape != photo.shape:
            return edit
        edit = registration.register(edit, photo)[0] if self.moved else edit
        if self.area is not None:
            try:
                edit = composed(edit, photo, self.area.share((edit.shape[1], edit.shape[0])))
            except (PhotoError, DamagedError):  # its mask is gone by now
                return edit
        return np.asarray(mixing.mix(photo, edit, self.strength, None), np.uint8)
