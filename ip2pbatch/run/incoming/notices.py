"""What the system tells of a folder that is watched: which names in it appeared, changed or went."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from watchfiles.main import FileChange

NOT_INSTALLED = "watchfiles is not installed"
_LIMIT = ("limit", "No space left", "os error 28")  # as the system says it where no more folders can be watched
_TOGETHER = 50  # ms within which what happens to files is told at once


class Notices:
    """Opened where `watchfiles` is installed and the system tells of changes.

    Network file systems tell of nothing that other machines do, and a queue that ran over loses things in silence: what
    is told is a help, and never all. A link is followed wherever it leads: not to be opened where one leads away.
    """

    def __init__(self) -> None:
        self._told: Generator[set[FileChange], None, None] | None = None

    def open(self, folder: Path) -> str:
        """Have the system tell of `folder` and all below it from now on; why it does not, "" where it does."""
        self.close()
        try:
            from watchfiles import watch
        except ImportError:
            return NOT_INSTALLED
        self._told = watch(
            folder, watch_filter=None, debounce=_TOGETHER, step=1, rust_timeout=1, yield_on_timeout=True,
            raise_interrupt=False, force_polling=False, ignore_permission_denied=True,
        )  # fmt: skip
        return self.hear()[1]

    @property
    def is_open(self) -> bool:
        """Whether the system tells anything."""
        return self._told is not None

    def hear(self) -> tuple[set[str], str]:
        """The paths that something happened to since one heard last, and why no more will be told, "" where it will."""
        if self._told is None:
            return set(), ""
        try:
            return {path for _, path in next(self._told, ())}, ""
        except (OSError, RuntimeError) as error:  # also a watch that could not be added for a new folder
            self.close()
            return set(), _why(str(error))

    def close(self) -> None:
        """Let go of it; it may be opened again."""
        if self._told is not None:
            with suppress(RuntimeError):
                self._told.close()
        self._told = None


def _why(error: str) -> str:
    if any(word in error for word in _LIMIT):
        return f"the system's limit of watched folders is reached (fs.inotify.max_user_watches): {error}"
    return error
