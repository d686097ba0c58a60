"""Opening what should be a file, whatever it is by now: a name in somebody's folder may become a pipe at any time."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import IO

_AT_ONCE = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)  # Windows has one of them, the others the other


def open_file(path: Path) -> IO[bytes]:
    """The file, to read. Waits for nobody, as opening a pipe would. Raises OSError, also where it is no file."""
    file = os.open(path, os.O_RDONLY | _AT_ONCE)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise OSError(errno.EINVAL, "it is a folder, a pipe or a device")
    return os.fdopen(file, "rb")
