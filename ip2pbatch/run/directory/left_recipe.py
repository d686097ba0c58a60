"""The recipe that `edit` leaves in its output folder, and ours as long as nobody changed it.

Which bytes were written is a line of the session that wrote them, before the file appears: so it is known after a kill
in between, and in a folder that was moved.
"""

from __future__ import annotations

import hashlib
import itertools
from pathlib import Path
from typing import TYPE_CHECKING

from ip2pbatch.disk.atomic import write_atomic
from ip2pbatch.disk.digests import file_digest
from ip2pbatch.run.directory.layout import Layout, run_folders
from ip2pbatch.run.directory.sessions import read_sessions

if TYPE_CHECKING:
    from ip2pbatch.run.directory.ledger import Run

FIRST = "recipe.yaml"


def digests_left(root: Path) -> frozenset[str]:
    """The sha256 of every recipe that runs in the output folder `root` ever wrote."""
    sessions = (session for folder in run_folders(root) for session in read_sessions(Layout(folder)))
    return frozenset(event["sha256"] for session in sessions for event in session.events if event["event"] == "recipe")


def is_free(path: Path, left: frozenset[str]) -> bool:
    """Whether nothing lies there but what was `left` and is as it was."""
    if path.is_symlink():
        return False
    return not path.exists() or file_digest(path) in left


def free_place(root: Path, left: frozenset[str]) -> Path:
    """Where a recipe may be written in the output folder: recipe.yaml, or with a number where that is somebody's."""
    names = itertools.chain([FIRST], (f"recipe-{number}.yaml" for number in itertools.count(2)))
    return next(path for path in (root / name for name in names) if is_free(path, left))


def changed_recipe(root: Path) -> Path | None:
    """The recipe in the output folder, where it was left there and changed since."""
    path, left = root / FIRST, digests_left(root)
    return path if left and path.is_file() and not is_free(path, left) else None


def leave(run: Run, path: Path, text: str) -> None:
    """Write a recipe, known for ours from now on. Raises ResourceError."""
    data = text.encode("utf-8", "surrogateescape")
    run.note("recipe", sha256=hashlib.sha256(data).hexdigest())
    write_atomic(path, data)
