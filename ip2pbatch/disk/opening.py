"""Opening what should be a file, whatever it is by now: a name in somebody's folder may become a pipe at any time.

A path may be the address of an object in a bucket, which is read through its copy in the cache.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import IO

from ip2pbatch.disk.buckets.locations import is_object

_AT_ONCE = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)  # Windows has one of them, the others the other


def open_file(path: Path) -> IO[bytes]:
    """The file, to read. Waits for nobody, as opening a pipe would. Raises OSError, also where it is no file."""
    if is_object(path):
        from ip2pbatch.disk.buckets.objects import objects

        return objects().open(path)
    file = os.open(path, os.O_RDONLY | _AT_ONCE)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise OSError(errno.EINVAL, "it is a folder, a pipe or a device")
    return os.fdopen(file, "rb")


def status(path: Path) -> os.stat_result:
    """What a path leads to, as it is now. Raises OSError."""
    if is_object(path):
        from ip2pbatch.disk.buckets.objects import objects, status_of

        return status_of(objects().version(path))
    return path.stat()
