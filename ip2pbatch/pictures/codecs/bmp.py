"""BMP, read only: it says its resolution and nothing else."""

from __future__ import annotations

import struct
from typing import IO

from ip2pbatch.pictures.containers import Blocks


def read_blocks(file: IO[bytes]) -> Blocks:
    """Pixels a metre of the BITMAPINFOHEADER, or of what later versions made of it."""
    head = file.read(46)
    if len(head) < 46 or struct.unpack_from("<I", head, 14)[0] < 40:
        return Blocks()
    x, y = struct.unpack_from("<ii", head, 38)
    return Blocks(dpi=(x * 0.0254, y * 0.0254))
