"""Delivered files that bear an older name: found, told, and removed only where somebody asks for it.

A file's name changes with the template, the format, or an axis that begins to vary. The picture is then delivered under
its new name, and the earlier file stays: somebody may have linked to it or sent it on.
"""

from __future__ import annotations

from pathlib import Path

from ip2pbatch.disk.files_at import digest_at, remove_at
from ip2pbatch.pictures.sidecars import beside
from ip2pbatch.run.directory.standing_files import digest_now
from ip2pbatch.run.directory.superseded import restorable
from ip2pbatch.run.directory.view import RunView


def leftovers(view: RunView) -> list[str]:
    """The files of a run whose pictures were delivered again elsewhere, and that are still as they were written.

    Paths are relative to the output folder, with forward slashes. A file that somebody changed is theirs.
    """
    behind = view.deliveries.left_behind()
    return sorted(row.path for row in behind if digest_now(view.files, row) == row.sha256)


def tidy(view: RunView) -> list[str]:
    """Remove them, and the files of pictures that are no longer asked for and could be delivered again, unless somebody
    changed one; the paths that are gone. A folder that is a link by now is not entered.
    """
    unasked = (file.path for file in restorable(view) if digest_now(view.files, file) == file.sha256)
    gone = []
    for name in (*leftovers(view), *sorted(unasked)):
        if remove_at(view.files, name):
            gone.append(name)
            _tidy_sidecar(view, name)
    return gone


def _tidy_sidecar(view: RunView, name: str) -> None:
    """That of a file that is gone now goes with it, as long as it is as it was written."""
    file = view.deliveries.under(name)
    ours = file.sidecar if file is not None else ""
    for path in beside(Path(name)) if ours else ():
        if digest_at(view.files, path.as_posix()) == ours:
            remove_at(view.files, path.as_posix())
