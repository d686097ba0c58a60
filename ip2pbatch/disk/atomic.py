"""Files that are whole or not there, whatever kills the process that writes them or is put in their way meanwhile."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fnmatch
import os
import secrets
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from ip2pbatch.errors import ResourceError

TEMPORARY = ".ip2p-*.tmp"
_BY_DESCRIPTOR = os.open in os.supports_dir_fd
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL

MOVE_AWAY = "move it away and run again: what is missing is made again"
_NO_FOLDER = ("{} could not be written: a file or a symbolic link is where a folder should be", "remove it")
_SAYS = {
    errno.ENOSPC: ("the disk is full: {} could not be written", "free some space and run again: nothing is lost"),
    errno.EDQUOT: ("your quota is used up: {} could not be written", "free some space and run again: nothing is lost"),
    errno.EROFS: ("the disk is read-only: {} could not be written", "choose another folder with --out"),
    errno.EACCES: ("no permission to write {}", "choose another folder with --out"),
    errno.EPERM: ("no permission to write {}", "choose another folder with --out"),
    errno.ELOOP: (
        "{} could not be written: it is a symbolic link",
        "remove it: nothing is written over or through one",
    ),
    errno.ENOTDIR: _NO_FOLDER,
    errno.EEXIST: _NO_FOLDER,
    errno.EISDIR: ("{} could not be written: a folder is where a file should be", MOVE_AWAY),
    errno.ESTALE: (
        "{} could not be written: another folder was put in the place of the one that was begun in",
        "put the output folder back where it was and run again: what was finished is kept",
    ),
}


def disk_error(error: OSError, path: Path | str) -> ResourceError:
    """`error` as the sentence and the hint that a person needs."""
    other = ("{} could not be written: " + str(error.strerror or error), "check the disk and run again")
    text, hint = _SAYS.get(error.errno or 0, other)
    return ResourceError(text.replace("{}", str(path)), hint=hint)


def unreadable(error: OSError, path: Path) -> ResourceError:
    """The same of a file that is there and cannot be read."""
    if isinstance(error, IsADirectoryError):
        return ResourceError(f"{path} cannot be read: a folder is where a file should be", hint=MOVE_AWAY)
    return ResourceError(f"{path} cannot be read: {error.strerror or error}", hint="check the disk and the permissions")


class Anchor:
    """A folder that is held open, so that `write_atomic` knows when a link or another folder was put in its place."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._held = os.open(path, os.O_RDONLY | os.O_DIRECTORY) if _BY_DESCRIPTOR else -1

    def check(self, descriptor: int) -> None:
        """Raises OSError where an open folder is not this one."""
        if self._held < 0 or not os.path.sameopenfile(descriptor, self._held):
            raise OSError(errno.ESTALE, "another folder was put in the place of the one that was begun in")

    def close(self) -> None:
        """Let go of the folder; safe to call twice."""
        if self._held >= 0:
            os.close(self._held)
            self._held = -1


def write_atomic(
    path: Path, data: bytes, *, root: Path | Anchor | None = None, modified: int | None = None, lasting: bool = True
) -> None:
    """The file appears whole or not at all, and survives a power cut: temporary file beside it, fsync, rename, fsync.
    One that is not `lasting` survives the process alone, until somebody asks the disk for it (see settling.py).

    Stray temporaries of a killed process match TEMPORARY. Never replaces a symbolic link; with `root`, an existing
    folder above `path`, it makes the folders in between and passes through no link on the way, not even through one
    that is put there meanwhile; with an Anchor the root itself may not be exchanged either. Raises ResourceError where
    the disk is full or does not take writing. `modified` is the time that the file is given, in nanoseconds, now where
    it is None.
    """
    name = TEMPORARY.replace("*", secrets.token_hex(8))
    try:
        if _BY_DESCRIPTOR:
            with _folder(path.parent, root) as folder:
                _replace(folder, name, path.name, data, modified, lasting)
        else:
            _replace_by_path(path, name, data, modified)
    except OSError as error:
        raise disk_error(error, path) from error


@dataclasses.dataclass(frozen=True, slots=True)
class Beside:
    """A file that is written under a temporary name in its folder and is to `appear` as `path`, or to be discarded."""

    path: Path
    temporary: str
    root: Path | Anchor | None = None

    @property
    def waiting(self) -> Path:
        """Where it is until then."""
        return self.path.with_name(self.temporary)

    def appear(self) -> None:
        """Give it its name, in the place of what has it. Raises ResourceError as `write_atomic` does."""
        try:
            if _BY_DESCRIPTOR:
                with _folder(self.path.parent, self.root) as folder:
                    _rename(folder, self.temporary, self.path.name)
            else:
                _rename_by_path(self.waiting, self.path)
        except OSError as error:
            raise disk_error(error, self.path) from error

    def discard(self) -> None:
        """Remove it, if it did not appear."""
        with contextlib.suppress(OSError):
            self.waiting.unlink()


def write_beside(
    path: Path, data: bytes, *, root: Path | Anchor | None = None, modified: int | None = None
) -> Beside:  # fmt: skip
    """The first half of `write_atomic`, with what that says of links and folders: whoever asks the disk for several
    files at once does so before they appear. Raises ResourceError.
    """
    beside = Beside(path, TEMPORARY.replace("*", secrets.token_hex(8)), root)
    try:
        if _BY_DESCRIPTOR:
            with _folder(path.parent, root) as folder:
                _write_new(folder, beside.temporary, data, modified, lasting=False)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            _write_new_by_path(beside.waiting, data, modified)
    except OSError as error:
        raise disk_error(error, path) from error
    return beside


def _replace(folder: int, temporary: str, name: str, data: bytes, modified: int | None, lasting: bool) -> None:
    _write_new(folder, temporary, data, modified, lasting)
    try:
        _rename(folder, temporary, name)
        if lasting:
            os.fsync(folder)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=folder)


def _write_new(folder: int, temporary: str, data: bytes, modified: int | None, lasting: bool) -> None:
    try:
        with os.fdopen(os.open(temporary, _CREATE, 0o666, dir_fd=folder), "wb") as file:
            file.write(data)
            file.flush()
            if modified is not None:
                os.utime(file.fileno(), ns=(modified, modified))
            if lasting:
                os.fsync(file.fileno())
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=folder)
        raise


def _rename(folder: int, temporary: str, name: str) -> None:
    if _is_link(name, folder):
        raise OSError(errno.ELOOP, "it is a symbolic link")
    os.replace(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)


def _replace_by_path(path: Path, temporary: str, data: bytes, modified: int | None) -> None:
    """Where the system has no descriptors of folders (Windows): the same, without the guard against a race."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(temporary)
    _write_new_by_path(beside, data, modified)
    try:
        _rename_by_path(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def _write_new_by_path(beside: Path, data: bytes, modified: int | None) -> None:
    try:
        with beside.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if modified is not None:
            os.utime(beside, ns=(modified, modified))
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def _rename_by_path(beside: Path, path: Path) -> None:
    if path.is_symlink():
        raise OSError(errno.ELOOP, "it is a symbolic link")
    beside.replace(path)


@contextlib.contextmanager
def _folder(folder: Path, root: Path | Anchor | None) -> Iterator[int]:
    """A descriptor of the folder, reached from `root` one real folder at a time."""
    top = root.path if isinstance(root, Anchor) else root or folder
    descriptor = os.open(top, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if isinstance(root, Anchor):
            root.check(descriptor)
        for part in folder.relative_to(top).parts:
            with contextlib.suppress(FileExistsError):
                os.mkdir(part, dir_fd=descriptor)
            inner = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = inner
        yield descriptor
    finally:
        os.close(descriptor)


def _is_link(name: str, folder: int) -> bool:
    try:
        return stat.S_ISLNK(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


def write_whole(path: Path, data: bytes) -> None:
    """Write a file that is whole or not there, in a folder that is made for it. Raises ResourceError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise disk_error(error, path.parent) from error
    write_atomic(path, data)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write into that takes the place of `path` at the end of the block, if that ends well: for what is too
    large for memory. Raises OSError.
    """
    beside = path.with_name(TEMPORARY.replace("*", secrets.token_hex(8)))
    try:
        with beside.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def strays(folders: Iterable[Path]) -> list[Path]:
    """The temp files directly in `folders`: of killed processes, or of some that are at work."""
    found: list[Path] = []
    for folder in folders:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError), os.scandir(folder) as entries:
            found += [folder / name for name in fnmatch.filter((entry.name for entry in entries), TEMPORARY)]
    return found


def sweep(found: Iterable[Path], *, older_than: float | None = None) -> int:
    """Remove temp files that killed processes left; how many there were.

    With `older_than` (seconds since the epoch) only those last written before it: others may be at work here.
    """
    swept = 0
    for path in found:
        with contextlib.suppress(OSError):
            if older_than is None or path.stat().st_mtime < older_than:
                path.unlink()
                swept += 1
    return swept
