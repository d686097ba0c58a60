"""Delivered files that bear an older name: found, told, and removed only where somebody asks for it.

A file's name changes with the template, the format, or an axis that begins to vary. The picture is then delivered under
its new name, and the earlier file stays: somebody may have linked to it or sent it on.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from ip2pbatch.disk.digests import file_digest
from ip2pbatch.pictures.sidecars import beside
from ip2pbatch.run.directory.superseded import restorable
from ip2pbatch.run.directory.view import RunView


def leftovers(view: RunView) -> list[str]:
    """The files of a run whose pictures were delivered again elsewhere, and that are still as they were written.

    Paths are relative to the output folder, with forward slashes. A file that somebody changed is theirs.
    """
    behind = view.deliveries.left_behind()
    return sorted(row.path for row in behind if file_digest(view.root / row.path) == row.sha256)


def tidy(view: RunView) -> list[str]:
    """Remove them, and the files of pictures that are no longer asked for and could be delivered again, unless somebody
    changed one; the paths that are gone. A folder that is a link by now is not entered.
    """
    unasked = (path for path, sha256 in restorable(view).items() if file_digest(view.root / path) == sha256)
    gone = []
    for name in (*leftovers(view), *sorted(unasked)):
        path = view.root / name
        if path.parent.resolve() == view.root.resolve() / Path(name).parent:
            with contextlib.suppress(OSError):
                path.unlink()
                gone.append(name)
                _tidy_sidecar(view, name)
    return gone


def _tidy_sidecar(view: RunView, name: str) -> None:
    """That of a file that is gone now goes with it, as long as it is as it was written."""
    file = view.deliveries.under(name)
    ours = file.sidecar if file is not None else ""
    for path in beside(view.root / name) if ours else ():
        if file_digest(path) == ours:
            path.unlink()
