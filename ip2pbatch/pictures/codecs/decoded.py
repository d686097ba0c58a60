"""What decoders hand over where Pillow's image would not hold it: upright, 16 bits where there are more than 8."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ip2pbatch.pictures.deep import DeepPixels, Pixels

SEVERAL = "only the first of several pictures in the file is used"  # without their number: one note for all files


@dataclass(frozen=True, slots=True)
class Decoded:
    """`pixels` RGB [h, w, 3], uint8 or uint16, upright, in the colours of `icc` (sRGB where None).

    `alpha` [h, w] has eight bits, None where there is none; `bits` are those of a channel in the file; `grey`: it has
    one channel, of which there are three here. `notes` say what was left in it.
    """

    pixels: Pixels | DeepPixels
    alpha: Pixels | None = None
    icc: bytes | None = None
    notes: tuple[str, ...] = ()
    bits: int = 8
    grey: bool = False


@dataclass(frozen=True, slots=True)
class Header:
    """What a photo's digest asks of a header, as Pillow's images answer it: (width, height) as shown, and a profile."""

    size: tuple[int, int]
    info: dict[str, Any] = field(default_factory=dict)
    mode: str = "RGB"

    def __enter__(self) -> Header:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is held open."""
