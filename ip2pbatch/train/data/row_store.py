"""Rows of one shape on disk, written when they are first needed: the cache behind latents and text embeddings.

    NAME.rows    float16, row i at i · size; a sparse file, so that what was never written takes no space
    NAME.marks   uint32, a checksum of each row; 0 where there is none yet

Several processes may write: a row is a function of its number, so whoever comes second writes the same bytes. A row
that a power cut has torn does not fit its checksum and is made again.
"""

from __future__ import annotations

import errno
import logging
import os
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

log = logging.getLogger(__name__)


class RowStore:
    """`count` float16 rows of one `shape` below `path`."""

    def __init__(self, path: Path, count: int, shape: tuple[int, ...]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.shape, self.size = shape, 2 * int(np.prod(shape))
        self.full = False  # the disk has no room for more: what is there is still read
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0)
        self._rows = os.open(path.with_suffix(".rows"), flags, 0o644)
        self._marks = os.open(path.with_suffix(".marks"), flags, 0o644)
        if os.fstat(self._marks).st_size < 4 * count:
            os.ftruncate(self._marks, 4 * count)

    def get(self, index: int) -> NDArray[np.float16] | None:
        """Row `index`, or None where it has never been written or was torn."""
        mark = int.from_bytes(os.pread(self._marks, 4, 4 * index), "little")
        if not mark:
            return None
        data = os.pread(self._rows, self.size, self.size * index)
        if len(data) < self.size or checksum(data) != mark:
            return None
        return np.frombuffer(data, np.float16).reshape(self.shape)

    def put(self, index: int, row: NDArray[np.floating]) -> None:
        """Write row `index`; on a full disk it says so once and the cache stays as it is."""
        if self.full:
            return
        data = np.ascontiguousarray(row, np.float16).tobytes()
        try:
            written = os.pwrite(self._rows, data, self.size * index)
            if written == self.size:
                os.pwrite(self._marks, checksum(data).to_bytes(4, "little"), 4 * index)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
            self.full = True
            log.warning("the cache is full (%s): the training goes on, and encodes what is not in it", error.strerror)

    def close(self) -> None:
        """Close both files."""
        os.close(self._rows)
        os.close(self._marks)


def checksum(data: bytes) -> int:
    """CRC-32, never 0."""
    return zlib.crc32(data) or 1
