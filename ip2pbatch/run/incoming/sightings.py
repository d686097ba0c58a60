"""Every file that a watch has seen, and what became of its Edits: in a database that the system keeps on its disk for
temporary files and that ends with the process, so that memory does not grow with the folder.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass

from ip2pbatch.plan.folder_walk import shot_of

Mark = tuple[int, ...]  # inode, then the size and the times that move when a file changes

_TABLES = """
CREATE TABLE file (path BLOB PRIMARY KEY, folded TEXT, mark TEXT, since INTEGER, behind BLOB) WITHOUT ROWID;
CREATE INDEX by_name ON file (folded);
CREATE INDEX by_holder ON file (behind) WHERE behind IS NOT NULL;
CREATE TABLE edit (path BLOB, key TEXT, state TEXT, PRIMARY KEY (path, key)) WITHOUT ROWID;
CREATE INDEX undone ON edit (path) WHERE state != 'done';
"""


@dataclass(frozen=True, slots=True)
class Sighting:
    """A file as it was seen last: its mark, and the path of the one because of which it is not edited, if any."""

    mark: Mark
    behind: str | None


class Sightings:
    """Files by path. Used from one thread."""

    def __init__(self) -> None:
        self._database = sqlite3.connect("", isolation_level=None)  # the empty name: a private one on the disk
        self._database.execute("PRAGMA journal_mode = OFF")
        self._database.execute("PRAGMA synchronous = OFF")
        self._database.executescript(_TABLES)

    def close(self) -> None:
        """The database is gone."""
        self._database.close()

    def get(self, path: str) -> Sighting | None:
        """How a file was seen last."""
        row = self._database.execute("SELECT mark, behind FROM file WHERE path = ?", (os.fsencode(path),)).fetchone()
        if row is None:
            return None
        return Sighting(tuple(map(int, row[0].split())), None if row[1] is None else os.fsdecode(row[1]))

    def put(self, path: str, name: str, mark: Mark, since: int) -> None:
        """A file is seen under this `name`, there `since` (ns)."""
        folded = name.casefold().encode(errors="replace").decode()
        row = os.fsencode(path), folded, " ".join(map(str, mark)), since
        self._database.execute("INSERT OR REPLACE INTO file VALUES (?, ?, ?, ?, NULL)", row)

    def hide(self, path: str, holder: str) -> None:
        """This file is not edited as long as the other one is there."""
        row = os.fsencode(holder), os.fsencode(path)
        self._database.execute("UPDATE file SET behind = ? WHERE path = ?", row)

    def forget(self, path: str) -> None:
        """As if it had never been seen."""
        self._database.execute("DELETE FROM file WHERE path = ?", (os.fsencode(path),))

    def hidden_by(self, path: str) -> list[str]:
        """Those that are not edited because of this file."""
        rows = self._database.execute("SELECT path FROM file WHERE behind = ?", (os.fsencode(path),))
        return [os.fsdecode(row[0]) for row in rows]

    def of_name(self, name: str) -> list[tuple[int, str]]:
        """The files that some file system takes for one of this name, and that stand behind no other: (since, path)."""
        rows = self._database.execute(
            "SELECT since, path FROM file WHERE folded = ? AND behind IS NULL", (name.casefold(),)
        )
        return [(since, os.fsdecode(path)) for since, path in rows]

    def of_shot(self, name: str) -> list[tuple[str, str]]:
        """The files of the same shot as one of this name: (folded name, path)."""
        shot = shot_of(name)
        if shot is None:
            return []
        rows = self._database.execute(
            "SELECT folded, path FROM file WHERE folded > ? AND folded < ?", (f"{shot[0]}.", f"{shot[0]}/")
        )
        return [(folded, os.fsdecode(path)) for folded, path in rows]

    def became(self, path: str, states: Mapping[str, str]) -> None:
        """What became of the Edits of the photo at `path`, by key, in the place of what was known of it."""
        with closing(self._database.cursor()) as cursor:
            cursor.execute("DELETE FROM edit WHERE path = ?", (os.fsencode(path),))
            cursor.executemany(
                "INSERT INTO edit VALUES (?, ?, ?)", [(os.fsencode(path), *state) for state in states.items()]
            )

    def undone(self) -> Iterator[str]:
        """The paths of photos of which an Edit is not done."""
        for row in self._database.execute("SELECT DISTINCT path FROM edit WHERE state != 'done'"):
            yield os.fsdecode(row[0])

    def drop(self, paths: Iterable[str]) -> None:
        """Nothing is asked of these any more."""
        self._database.executemany("DELETE FROM edit WHERE path = ?", [(os.fsencode(path),) for path in paths])

    def states(self) -> dict[str, int]:
        """How many Edits are in each state; one that several photos share counts once."""
        rows = self._database.execute(
            "SELECT state, COUNT(*) FROM (SELECT MIN(state) state FROM edit GROUP BY key) GROUP BY state"
        )
        return dict(rows.fetchall())
