"""GIF, read only: its comments and its XMP, which stand between the frames (GIF89a, 23 to 26)."""

from __future__ import annotations

import io
from typing import IO

from ip2pbatch.pictures.containers import Blocks

_MOST = 1 << 20
_XMP = b"XMP DataXMP"
_XMP_TAIL = 257  # bytes that lead a reader of sub-blocks out of the packet, which is not cut into such


def read_blocks(file: IO[bytes]) -> Blocks:
    """The comment and the XMP packet up to the first frame, where writers put them."""
    comment, xmp = b"", b""
    head = file.read(13)
    file.seek(_table(head[10]), io.SEEK_CUR)
    while file.read(1) == b"!":
        kind = file.read(1)
        if kind == b"\xfe":
            comment += _sub_blocks(file)
        elif kind == b"\xff" and file.read(file.read(1)[0]) == _XMP:
            xmp = _packet(file)
        else:
            _sub_blocks(file)
    return Blocks(xmp=xmp, comment=comment)


def _table(flags: int) -> int:
    """Bytes of the colour table that a block of such flags is followed by."""
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _sub_blocks(file: IO[bytes]) -> bytes:
    data = b""
    while length := file.read(1)[0]:
        data += file.read(length)
        if len(data) > _MOST:
            raise ValueError("a block without end")
    return data


def _packet(file: IO[bytes]) -> bytes:
    data = file.read(_MOST)
    end = data.index(b"\x01\xff\xfe")
    file.seek(end + _XMP_TAIL + 1 - len(data), io.SEEK_CUR)
    return data[:end]
