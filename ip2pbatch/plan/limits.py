"""What an engine can take at once, as far as it is known before anything loads: Edits a call, sizes, network rows.

Both halves read it: engines carry Limits, and `plan` reckons with those of a device that it need not ask.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

_ROW_BYTES = 512 << 20  # of a GPU's memory for a row at 512 × 512 pixels in fp16, with what lies beside it
_MOST_ROWS = 24  # at 512 × 512 pixels: on an H100 48 cost 1 % less a row, and leave twice the padding at a run's end


@dataclass(frozen=True, slots=True)
class Limits:
    """What an engine can take, known before anything loads.

    `batch` is the most Edits a call; `multiple` divides width and height; sizes are in pixels. `rows` names the row
    bucket (network rows a call is padded to) of a size, `default_rows` that of every other size. `helpers` are the
    threads that may load photos, and those that may deliver them, while the engine works; one that `overlaps` works
    on by itself, so that what it made may be read while it makes the next.
    """

    batch: int = 8
    multiple: int = 8
    min_side: int = 64
    max_side: int = 2048
    default_rows: int = 12
    rows: Mapping[tuple[int, int], int] = field(default_factory=dict)
    helpers: int = 2
    overlaps: bool = False

    def row_bucket(self, size: tuple[int, int]) -> int:
        """Network rows in one padded call at `size` (width, height)."""
        return self.rows.get(size, self.default_rows)


@dataclass(frozen=True, slots=True)
class AreaLimits(Limits):
    """Limits whose row bucket shrinks with the picture: `default_rows` up to `full_area` pixels, then in proportion."""

    full_area: int = 256 * 256

    def row_bucket(self, size: tuple[int, int]) -> int:
        """A function of the size alone, so that pictures hang on nothing else. Edits of three rows and of two fill it
        if they can.

        What `rows` name is taken as it is.
        """
        if size in self.rows:
            return self.rows[size]
        rows = max(1, min(self.default_rows, self.default_rows * self.full_area // (size[0] * size[1])))
        return rows - rows % 6 if rows >= 6 else rows - rows % 3 if rows >= 3 else rows


def cpu_limits(multiple: int = 8) -> AreaLimits:
    """What a CPU takes.

    Measured on one core: 6 rows of the embedded model at 256 px cost 12 % less a row than 3, 12 rows 3 % less again.
    Six Edits fill such calls whether each needs three rows or two; more bring the first picture late.
    """
    return AreaLimits(batch=6, multiple=multiple, default_rows=6)


def gpu_limits(memory: int, multiple: int = 8, helpers: int = 2) -> AreaLimits:
    """What a GPU of `memory` bytes takes: enough rows a call to fill it, few enough to fit beside the weights.

    A batch is the Edits of two rows that fill the largest bucket: the Schedule takes fewer where those fill whole
    calls better, as Edits of three rows do.
    """
    rows = max(3, min(_MOST_ROWS, 3 * (memory // (8 * _ROW_BYTES))))
    most = 2 * rows  # at half the area
    batch = max(6, most // 2)
    return AreaLimits(
        batch, multiple, default_rows=most, full_area=512 * 512 // 2, helpers=helpers, overlaps=True
    )  # fmt: skip


def helpers_beside_gpu() -> int:
    """Threads of each kind that keep up with a GPU: half of this process's cores, each with 8 GiB of the host's memory.

    A photo of 24 megapixels takes a core 0.6 s to load and 2.6 s to deliver at full size, and a GPU 0.1 s to edit;
    lifting a large one takes gigabytes.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        room = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 33
    except (ValueError, OSError, AttributeError):  # not told on every system
        room = 2
    return max(2, min(8, cores // 2, room))
